"""BYTES framing: the C extension and its Python twin keep one contract."""

from __future__ import annotations

import gc
import pickle
import struct
import sys
import tracemalloc
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritonhttp._wire import bytes_tensor
from tritonhttp._wire.bytes_tensor import decode, encode
from tritonhttp.errors import InvalidRequest, ProtocolError

_BUILT = bytes_tensor._speedups
_IMPLEMENTATIONS = ["python"] if _BUILT is None else ["c", "python"]


@pytest.fixture(params=_IMPLEMENTATIONS, autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(bytes_tensor, "_speedups", None)
    return request.param


# The fixture holds for all examples of one test, as it should.
examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def objects(*items: Any) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def framed(*items: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


class Loud(bytes):
    """Bytes whose conversions all return something else."""

    def __bytes__(self) -> bytes:
        return b"wrong"

    def __str__(self) -> str:
        return "wrong"

    def __len__(self) -> int:
        return 3


class Colour(str, Enum):
    RED = "r"

    def __str__(self) -> str:
        return "red"


class Named:
    def __str__(self) -> str:
        return "näme"


def test_the_framing_is_length_and_bytes() -> None:
    data = b"\x02\x00\x00\x00ab" + b"\x00\x00\x00\x00" + b"\x01\x00\x00\x00\x00" + b"\x02\x00\x00\x00\xc3\xa4"
    assert bytes(encode(objects(b"ab", b"", b"\0", "ä"))) == data
    decoded = decode(data)
    assert decoded.dtype == object
    assert decoded.shape == (4,)
    assert decoded.tolist() == [b"ab", b"", b"\0", "ä".encode()]
    assert {type(item) for item in decoded} == {bytes}


def test_a_length_takes_all_four_bytes() -> None:
    item = b"x" * 0x01020304
    encoded = encode(objects(item))
    assert encoded[:4] == b"\x04\x03\x02\x01"
    assert decode(encoded, 1)[0] == item


@pytest.mark.parametrize(
    ("item", "sent"),
    [
        (b"a\0", b"a\0"),
        (np.bytes_(b"a\0"), b"a\0"),
        (Loud(b"right"), b"right"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abcdef")[::2], b"ace"),
        (memoryview(np.array([[1, 2]], "<i2")), b"\1\0\2\0"),
        ("plain", b"plain"),
        ("", b""),
        ("a\0", b"a\0"),
        ("ä€😀", "ä€😀".encode()),
        (np.str_("ä\0"), "ä".encode()),  # numpy's own str() takes the NUL away
        (Colour.RED, b"red"),
        (1, b"1"),
        (2**70, b"1180591620717411303424"),
        (1.5, b"1.5"),
        (np.float32(0.1), b"0.1"),
        (True, b"True"),
        (None, b"None"),
        ([1, "x"], b"[1, 'x']"),
        ((), b"()"),
        (np.arange(3), b"[0 1 2]"),
        (Named(), "näme".encode()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_element_goes_out_as_its_bytes_or_text(item: Any, sent: bytes) -> None:
    assert bytes(encode(objects(item))) == framed(sent)
    # Among others, and twice: each path has a short way when all elements are alike.
    assert bytes(encode(objects(b"first", item, "last", item))) == framed(b"first", sent, b"last", sent)


def test_a_pickled_subclass_is_still_bytes() -> None:
    restored = pickle.loads(pickle.dumps(objects(Loud(b"right"), b"x")))
    assert type(restored[0]) is Loud
    assert bytes(encode(restored)) == framed(b"right", b"x")


def test_fixed_width_bytes_lose_the_nuls_at_their_end() -> None:
    array = np.array([b"a\0b\0\0", b"", b"abcde"], dtype="S5")
    assert bytes(encode(array)) == framed(b"a\0b", b"", b"abcde")
    assert bytes(encode(array)) == bytes(encode(objects(*array.tolist())))


def test_fixed_width_bytes_that_fill_their_width_go_out_whole() -> None:
    assert bytes(encode(np.array([b"abc", b"\0\0d", b"efg"]))) == framed(b"abc", b"\0\0d", b"efg")


def test_elements_of_width_0_are_empty() -> None:
    assert bytes(encode(np.zeros(3, dtype="S0"))) == framed(b"", b"", b"")


@pytest.mark.parametrize("dtype", ["<U4", ">U4"])
def test_fixed_width_text_goes_out_as_utf8(dtype: str) -> None:
    assert bytes(encode(np.array(["a\0b\0", "", "ä€😀x"], dtype=dtype))) == framed(
        b"a\0b", b"", "ä€😀x".encode()
    )


class Stripping(np.ndarray):
    """As numpy.char.chararray, which newer versions of numpy warn about."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key).rstrip()

    def ravel(self, order: Any = "C") -> Any:
        raise NotImplementedError

    def tolist(self) -> Any:
        return [item.rstrip() for item in super().tolist()]


@pytest.mark.parametrize("dtype", ["S3", object])
def test_a_subclass_of_ndarray_has_no_say(dtype: Any) -> None:
    array = np.array([b"a  ", b"b\0 "], dtype=dtype).view(Stripping)
    assert array[0] == b"a"
    assert bytes(encode(array)) == framed(b"a  ", b"b\0 ")


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy 1 has no StringDType")
class TestStringDType:
    def test_string_dtype_goes_out_as_utf8(self) -> None:
        array = np.array([["a\0", "ä" * 50], ["", "x"]], dtype=np.dtypes.StringDType())
        assert bytes(encode(array.T)) == framed(b"a\0", b"", ("ä" * 50).encode(), b"x")

    @pytest.mark.parametrize("missing", [None, float("nan")])
    def test_a_missing_value_is_refused(self, missing: Any) -> None:
        array = np.array(["a", missing], dtype=np.dtypes.StringDType(na_object=missing))
        with pytest.raises(InvalidRequest, match=r"element 1 .* is missing \((None|nan)\)"):
            encode(array)

    def test_a_string_can_stand_for_missing_values(self) -> None:
        array = np.array(["a", "N/A"], dtype=np.dtypes.StringDType(na_object="N/A"))
        assert bytes(encode(array)) == framed(b"a", b"N/A")

    def test_missing_values_may_be_possible_and_absent(self) -> None:
        array = np.array(["a", "b"], dtype=np.dtypes.StringDType(na_object=None))
        assert bytes(encode(array)) == framed(b"a", b"b")


@pytest.mark.parametrize("dtype", [object, "S3", "U3"])
def test_elements_go_out_in_c_order(dtype: Any) -> None:
    flat = np.array([f"e{number}" for number in range(24)]).astype(dtype)
    cube = flat.reshape(2, 3, 4)
    read_only = cube.copy()
    read_only.flags.writeable = False
    for array in (
        cube,
        cube.T,
        np.asfortranarray(cube),
        cube[::-1, :, ::2],
        cube[:, 1],
        np.broadcast_to(cube[:, :1], cube.shape),
        read_only,
        cube[1, 1, 1:2].reshape(()),
    ):
        expected = [f"{element.decode() if dtype == 'S3' else element}".encode() for element in array.flat]
        assert bytes(encode(array)) == framed(*expected)


@pytest.mark.parametrize("dtype", [object, "S4", "U4", "f4"])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 5)])
def test_an_empty_array_is_no_bytes(dtype: Any, shape: tuple[int, ...]) -> None:
    assert bytes(encode(np.empty(shape, dtype=dtype))) == b""


@pytest.mark.parametrize("dtype", ["i4", "f8", "?", "V3", "M8[s]", "c16", [("a", "S2")]])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot serialize bytes tensor: invalid datatype"):
        encode(np.zeros(2, dtype=dtype))


@pytest.mark.parametrize(
    "array",
    [
        objects("a", "b", "x\ud800"),
        objects(b"a", "b", "x\udfff"),
        objects(1, 2, np.str_("x\ud800")),
        np.array(["a", "b", "x\ud800"]),
    ],
)
def test_a_lone_surrogate_is_refused_by_its_index(array: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match=r"element 2 of a BYTES tensor has no UTF-8 form.*at 1"):
        encode(array)


def test_an_element_of_4_gib_is_refused() -> None:
    try:
        too_long = bytes(2**32)  # zeroed memory that is never touched
    except MemoryError:  # pragma: no cover
        pytest.skip("no 4 GiB of address space")
    with pytest.raises(InvalidRequest, match="element 1 of a BYTES tensor has 4294967296 bytes"):
        encode(objects(b"a", too_long))
    with pytest.raises(InvalidRequest, match="element 0 of a BYTES tensor has 4294967296 bytes"):
        encode(objects(too_long, 1))


def test_an_error_of_str_comes_through() -> None:
    class Broken:
        def __str__(self) -> str:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        encode(objects(b"a", Broken(), b"b"))


def test_str_may_change_the_array() -> None:
    class Vandal:
        def __str__(self) -> str:
            array[:] = None
            gc.collect()
            return "vandal"

    array = objects(*[bytes([65 + index]) * 50 for index in range(20)])
    array[10] = Vandal()
    expected = [bytes([65 + index]) * 50 for index in range(20)]
    expected[10] = b"vandal"
    assert bytes(encode(array)) == framed(*expected)


# Decoding


@pytest.mark.parametrize(
    "buffer", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, dtype=np.uint8)]
)
def test_any_buffer_is_decoded(buffer: Any) -> None:
    items = [b"abc", b"", b"\xff" * 300]
    data = buffer(framed(*items))
    assert decode(data, 3).tolist() == items
    assert decode(buffer(b""), 0).tolist() == []
    assert decode(buffer(b"")).shape == (0,)


def test_a_view_with_larger_items_is_its_bytes() -> None:
    assert decode(np.array([4, 7], "<i4"), 1).tolist() == [b"\7\0\0\0"]
    assert decode(np.array([[2**32 - 1 - 2**32, 7]], "<i4")[:, :0]).tolist() == []


def test_an_unaligned_view_is_decoded() -> None:
    data = b"..." + framed(b"abc", b"de") + b"..."
    assert decode(memoryview(data)[3:-3], 2).tolist() == [b"abc", b"de"]


def test_a_strided_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        decode(np.zeros(16, np.uint8)[::2])


def test_elements_do_not_share_memory_with_the_data() -> None:
    data = bytearray(framed(b"abc"))
    decoded = decode(data)
    data[:] = bytes(len(data))
    assert decoded[0] == b"abc"
    data.clear()  # a buffer still held would forbid it


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"\1", None, "element 0 at offset 0: expected a length of 4 bytes, got 1"),
        (framed(b"ab") + b"\0", None, "element 1 at offset 6: expected a length of 4 bytes, got 1"),
        (framed(b"ab") + b"\0\0\0", 1, "element 1 at offset 6: expected a length of 4 bytes, got 3"),
        (framed(b"ab", b"cd")[:-1], None, "element 1 at offset 6: expected 2 bytes, got 1"),
        (framed(b"ab", b"cd")[:-2], 2, "element 1 at offset 6: expected 2 bytes, got 0"),
        (b"\xff\xff\xff\xff", None, "element 0 at offset 0: expected 4294967295 bytes, got 0"),
        (b"\xff\xff\xff\xff", 1, "element 0 at offset 0: expected 4294967295 bytes, got 0"),
        (b"\xff\xff\xff\x7fabcd", 2, "element 0 at offset 0: expected 2147483647 bytes, got 4"),
        (b"\xfc\xff\xff\xff" * 2, 2, "element 0 at offset 0: expected 4294967292 bytes, got 4"),
        (framed(b"abcd"), 2, "expected 2 elements, got 1"),
        (framed(b"", b"", b""), 2, "expected 2 elements, got 3"),
        (framed(b""), 0, "expected 0 elements, got 1"),
        (b"", 1, "expected 1 elements of at least 4 bytes each, got 0 bytes"),
        (framed(b"abc"), 2, "expected 2 elements of at least 4 bytes each, got 7 bytes"),
        (framed(b"abc"), 2**62, "got 7 bytes"),
        (framed(b"abc"), 2**80, "got 7 bytes"),
        (b"", -1, "expected -1 elements"),
    ],
)
def test_malformed_data_is_refused(data: bytes, count: int | None, message: str) -> None:
    for buffer in (data, memoryview(bytearray(data))):
        with pytest.raises(ProtocolError) as caught:
            decode(buffer, count)
        assert message in str(caught.value)


def test_false_lengths_and_counts_cost_no_memory() -> None:
    data = b"\xff\xff\xff\xff" + bytes(100)
    tracemalloc.start()
    try:
        for count in (None, 10, 10**9, 10**18):
            with pytest.raises(ProtocolError):
                decode(data, count)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_false_count_stops_before_the_elements_are_made() -> None:
    data = bytes(400_000)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="expected 3 elements, got 100000"):
            decode(data, 3)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# Ownership


def test_no_reference_is_lost_or_kept() -> None:
    class Text:
        def __str__(self) -> str:
            return "ä"

    class Broken:
        def __str__(self) -> str:
            raise KeyError

    items = [
        b"ten bytes.",
        "ten chars.",
        "ten chärs.",
        Text(),
        Loud(b"loud"),
        bytearray(b"abc"),
        "\ud800",
        Broken(),
    ]
    counts = [sys.getrefcount(item) for item in items]
    good, surrogate, broken = objects(*items[:6]), objects(*items[:7]), objects(*items[:6], items[7])
    for _ in range(50):
        encode(good)
        with pytest.raises(InvalidRequest):
            encode(surrogate)
        with pytest.raises(KeyError):
            encode(broken)
    del good, surrogate, broken
    gc.collect()
    assert [sys.getrefcount(item) for item in items] == counts


def test_repeated_use_keeps_no_memory() -> None:
    texts = [f"text ä {number}" for number in range(50)]
    good = framed(*(b"element %d" % number for number in range(50)))
    mixed = objects(*texts, *range(1000, 1050), b"abc")
    bad = objects(*texts, "\ud800")
    fixed = np.array([b"abc", b"abcdefg"] * 20)

    def work() -> None:
        for _ in range(100):
            encode(mixed)
            encode(fixed)
            assert len(decode(good, 50)) == 50
            with pytest.raises(InvalidRequest):
                encode(bad)
            with pytest.raises(ProtocolError):
                decode(good[:-1])

    tracemalloc.start()
    try:
        work()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def test_a_decoded_element_has_one_owner() -> None:
    decoded = decode(framed(b"some element", b"another one"))
    first = decoded[0]
    del decoded
    alone = b" ".join([b"some", b"element"])
    assert first == alone
    counts = sys.getrefcount(first), sys.getrefcount(alone)
    assert counts[0] == counts[1]


# Random input

texts = st.text(max_size=20)
elements = st.one_of(
    st.binary(max_size=40),
    texts,
    st.binary(max_size=10).map(np.bytes_),
    texts.map(np.str_),
    st.binary(max_size=10).map(bytearray),
    st.binary(max_size=10).map(Loud),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
)


def sent(item: Any) -> bytes:
    if isinstance(item, Loud):
        return b"".join([item])
    if isinstance(item, bytes | bytearray):
        return bytes(item)
    return str(item).encode()


@examples
@given(st.one_of(st.lists(elements), st.lists(st.binary()), st.lists(texts)))
def test_random_elements_go_out_and_come_back(items: list[Any]) -> None:
    array = objects(*items)
    expected = [sent(item) for item in items]
    encoded = encode(array)
    assert bytes(encoded) == framed(*expected)
    assert decode(encoded, len(items)).tolist() == expected
    assert decode(encoded).tolist() == expected


@examples
@given(st.lists(st.binary(max_size=12), min_size=1), st.booleans())
def test_random_fixed_widths_go_out(items: list[bytes], reverse: bool) -> None:
    array = np.array(items)
    if reverse:
        array = array[::-1]
    assert bytes(encode(array)) == framed(*array.tolist())


def outcome(data: bytes, count: int | None) -> Any:
    try:
        return decode(data, count).tolist()
    except ProtocolError as error:
        return str(error)


lengths = st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)).map(
    lambda length: struct.pack("<I", length)
)
noise = st.lists(st.one_of(st.binary(max_size=9), lengths, st.binary(max_size=9).map(framed))).map(b"".join)


# The extension by itself


@pytest.mark.parametrize("implementation", ["c"], indirect=True)
class TestExtension:
    __test__ = _BUILT is not None

    def test_str_may_even_change_the_list_in_between(self) -> None:
        class Vandal:
            def __init__(self, change: Any) -> None:
                self.change = change

            def __str__(self) -> str:
                self.change()
                return "vandal"

        def run(change: Any) -> bytes:
            items: list[Any] = [b"a" * 40, Vandal(lambda: change(items)), "b" * 40]
            return _BUILT.encode(items, bytes_tensor._as_bytes)

        def shrink_behind(items: list[Any]) -> None:
            items[:1] = [b""]

        def unconvert(items: list[Any]) -> None:
            items[0] = 7

        for change in (shrink_behind, unconvert):
            with pytest.raises(RuntimeError, match="changed while they were encoded"):
                run(change)
        with pytest.raises(IndexError):
            run(list.clear)

        tracemalloc.start()
        try:
            for _ in range(2000):  # the bytes written so far are freed
                with pytest.raises(RuntimeError):
                    run(unconvert)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 100_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("converted", [None, "text", bytearray(b"x"), Loud(b"x")])
    def test_the_converter_must_return_bytes(self, converted: Any) -> None:
        with pytest.raises(TypeError, match="did not return bytes"):
            _BUILT.encode([b"a", 1], lambda item, index: converted)

    def test_the_extension_refuses_what_it_was_not_made_for(self) -> None:
        for arguments in ((), ([],), ((), bytes), ([], bytes, 1)):
            with pytest.raises(TypeError):
                _BUILT.encode(*arguments)
        for width in (0, -1, 3, 2**32):
            with pytest.raises(ValueError, match="whole number"):
                _BUILT.encode_fixed(b"abcd", width)
        with pytest.raises(TypeError):
            _BUILT.scan("text")
        for array in (np.zeros(1), objects(1, 2)[::-1], b"abc", None):
            with pytest.raises((TypeError, ValueError, BufferError)):
                _BUILT.fill(framed(b"a"), array)
        read_only = objects(1)
        read_only.flags.writeable = False
        with pytest.raises((ValueError, BufferError)):
            _BUILT.fill(framed(b"a"), read_only)
        assert _BUILT.fill(framed(b"a", b"b"), objects(1)) == 1
        assert _BUILT.fill(framed(b"a")[:-1], objects(1)) == 0

    def test_filling_an_array_releases_its_old_elements(self) -> None:
        old = Named()
        count = sys.getrefcount(old)
        array = objects(old)
        assert _BUILT.fill(framed(b"new"), array) == 1
        assert array[0] == b"new"
        assert sys.getrefcount(old) == count

    @examples
    @given(noise, st.one_of(st.none(), st.integers(-1, 9)))
    def test_c_and_python_agree_on_noise(self, data: bytes, count: int | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bytes_tensor, "_speedups", _BUILT)
            in_c = outcome(data, count)
            patch.setattr(bytes_tensor, "_speedups", None)
            in_python = outcome(data, count)
        assert in_c == in_python
        if isinstance(in_c, list):
            assert framed(*in_c) == data
