"""Values that callers may give for a tensor, refusals, and handing results to other libraries."""

from __future__ import annotations

import array as array_module
import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonhttp import InvalidRequest
from tritonhttp._protocol.arrays import as_array, as_dlpack, as_torch, cast, decoded, is_typed
from tritonhttp.utils import _dlpack

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
BF16 = np.array([1.5, -2.0, np.inf], ml_dtypes.bfloat16)


class Series:
    """As of pandas and pyarrow: ``__array__`` alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class Tensor:
    """As of torch and CuPy: DLPack, and an ``__array__`` that may refuse."""

    def __init__(
        self, array: Any, device: tuple[int, int] = (1, 0), refusal: str = "use .cpu() first"
    ) -> None:
        self.array, self.device, self.refusal = array, device, refusal

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(self.refusal)

    def __dlpack__(self, **options: Any) -> Any:
        assert self.device == (1, 0), "the memory of a GPU is not to be read"
        if "max_version" in options:
            raise TypeError("an older library")
        return as_dlpack(self.array, "it").__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class Capsule:
    """One that is handed out as it is."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def check(found: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, np.int64(7)),
        (2.5, np.float64(2.5)),
        (True, np.bool_(True)),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], np.int64)),
        ((1, 2.5), np.array([1, 2.5])),
        (range(3), np.arange(3, dtype=np.int64)),
        ([], np.array([])),
        ("text", np.array("text", object)),
        (b"a\0", np.array(b"a\0", object)),
        (["a", "b\0"], np.array(["a", "b\0"], object)),
        (["ä", b"\xff"], np.array(["ä", b"\xff"], object)),
        ([[b"a\0"], [b""]], np.array([[b"a\0"], [b""]], object)),
        (array_module.array("f", [1.5]), np.array([1.5], np.float32)),
        (bytearray(b"\1\2"), np.array([1, 2], np.uint8)),
        (Series(np.array([1, 2], np.int16)), np.array([1, 2], np.int16)),
        (Series(np.array(["a", "b"], object)), np.array(["a", "b"], object)),
        (Series(np.array([1, 2], object)), np.array([1, 2], np.int64)),
        (np.array([[1.0], [2.5]], object), np.array([[1.0], [2.5]])),
    ],
)
def test_values_become_arrays(value: Any, expected: Any) -> None:
    if sys.platform == "win32" and getattr(expected, "dtype", None) == np.int64:
        pytest.skip("numpy 1 has other whole numbers there")
    check(as_array(value, "it"), expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "got a NoneType: None"),
        ({"a": 1}, "got a dict"),
        ([1, None], "row 1 is missing, and the protocol has no missing values"),
        ([[1], [2, 3]], "row 0 has [1], row 1 has [2]"),
        (Series(np.array(["a", float("nan")], object)), "row 1 is missing (nan)"),
        (Series(np.array([1, None], object)), "row 1 is missing"),
        (object(), "got an object"),
        (iter([1]), "list(…) makes a list of it"),
        ({1, 2}, "list(…) makes a list of it"),
        ([{"a": [1]}], "inputs by name are one mapping"),
        (Tensor(FLOATS, (2, 0)), "got one on device 0 of kind 2: copy it to the host first"),
        (
            SimpleNamespace(__array__=lambda *_, **__: 1 / 0),
            "no array can be made of this types.SimpleNamespace",
        ),
    ],
)
def test_values_that_make_no_array_are_refused(value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^it: ") as caught:
        as_array(value, "it")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "given", [FLOATS, FLOATS[:, ::2], FLOATS.T, FLOATS[::-1, 1:], FLOATS[:0], np.float32(3)[...]]
)
def test_tensors_of_other_libraries_are_borrowed(given: Any) -> None:
    given = np.asarray(given)
    found = as_array(Tensor(given), "it")
    check(found, given)
    assert found.size == 0 or np.shares_memory(found, given)


@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "u8", "f2", "f8", "?"])
def test_elements_of_every_kind_are_borrowed(dtype: str) -> None:
    given = np.array([0, 1, 1], dtype)
    check(as_array(Tensor(given), "it"), given)


def test_bfloat16_is_borrowed_though_numpy_does_not_know_it() -> None:
    found = as_array(Tensor(BF16), "it")
    assert found.dtype == BF16.dtype
    assert found.tobytes() == BF16.tobytes()
    assert np.shares_memory(found.view(np.uint16), BF16.view(np.uint16))


def test_borrowed_memory_lives_as_long_as_its_array() -> None:
    given = FLOATS.copy()
    gone = weakref.ref(given)
    found = as_array(Tensor(given), "it")[1:]
    del given
    gc.collect()
    assert gone() is not None
    check(found, FLOATS[1:])
    del found
    gc.collect()
    assert gone() is None


def test_values_with_a_dtype_are_told_from_those_without() -> None:
    assert all(map(is_typed, [FLOATS, np.float32(1), Series(FLOATS), Tensor(FLOATS)]))
    assert not any(map(is_typed, [1, 1.5, "a", b"a", [1], [FLOATS], None]))


WHOLE = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1) | st.lists(st.integers(-130, 260), min_size=1),
    st.sampled_from(WHOLE),
)
def test_whole_numbers_are_cast_where_all_fit(values: list[int], datatype: str) -> None:
    limits = np.iinfo(datatype.lower())
    fits = limits.min <= min(values) and max(values) <= limits.max
    given = np.array(values, np.int64)
    if fits:
        found = cast(given, datatype, "it")
        assert found.dtype == datatype.lower()
        assert found.tolist() == values
    else:
        with pytest.raises(InvalidRequest, match="do not fit into"):
            cast(given, datatype, "it")


@pytest.mark.parametrize(
    ("given", "datatype", "expected"),
    [
        (np.array([1.1, np.nan, -np.inf]), "FP32", np.array([1.1, np.nan, -np.inf], np.float32)),
        (np.array([1.1, 65504]), "FP16", np.array([1.1, 65504], np.float16)),
        (np.array([1, 2], np.uint8), "FP64", np.array([1.0, 2.0])),
        (np.array([True, False]), "INT32", np.array([1, 0], np.int32)),
        (np.array([True, False]), "FP16", np.array([1, 0], np.float16)),
        (np.array([1.5, 1e30]), "BF16", np.array([1.5, 1e30], ml_dtypes.bfloat16)),
        (BF16, "FP32", np.array([1.5, -2, np.inf], np.float32)),
        (np.array([1, 2], ">i4"), "INT16", np.array([1, 2], np.int16)),
        (np.zeros((0, 2), np.int64), "INT8", np.zeros((0, 2), np.int8)),
    ],
)
def test_other_casts_that_keep_the_values(given: Any, datatype: str, expected: Any) -> None:
    found = cast(given, datatype, "it")
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def test_a_cast_to_the_same_is_no_copy() -> None:
    assert cast(FLOATS, "FP32", "it") is FLOATS


@pytest.mark.parametrize(
    ("given", "datatype", "words"),
    [
        (np.array([1.0]), "INT32", "expected INT32, got FP64"),
        (np.array([1]), "BOOL", "expected BOOL, got INT64"),
        (np.array([1.0]), "BOOL", "expected BOOL"),
        (np.array([1e39]), "FP32", "beyond the largest finite FP32"),
        (np.array([100_000], np.int32), "FP16", "beyond the largest finite FP16"),
        (np.array([b"1"], object), "INT32", "expected INT32, got BYTES"),
        (np.array([1]), "BYTES", "expected BYTES, got INT64"),
        (np.array([1j]), "FP64", "got complex128"),
        (np.array(["2020-01-01"], "M8[D]"), "INT64", "got datetime64[D]"),
    ],
)
def test_casts_that_would_lose_something_are_refused(given: Any, datatype: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        cast(given, datatype, "it")
    assert words in str(caught.value)


def test_byte_strings_are_read_as_utf8() -> None:
    check(decoded(np.array([["ä".encode(), "b"]], object), "it"), np.array([["ä", "b"]], object))
    with pytest.raises(InvalidRequest, match="it: not all elements are UTF-8"):
        decoded(np.array([b"\xff"], object), "it")


@pytest.mark.parametrize("newest", [None, (1, 0), (1, 1)])
def test_bfloat16_is_handed_on(newest: Any) -> None:
    producer = as_dlpack(BF16, "it")
    assert producer.__dlpack_device__() == (1, 0)
    found, code = _dlpack.as_array(Capsule(producer.__dlpack__(max_version=newest)))
    assert code == _dlpack.BFLOAT16
    assert np.shares_memory(found, BF16.view(np.uint16))
    own, _ = _dlpack.as_array(Capsule(producer.__dlpack__(copy=True)))
    assert own.tobytes() == BF16.tobytes()
    assert not np.shares_memory(own, found)
    with pytest.raises(BufferError):
        producer.__dlpack__(stream=1)
    with pytest.raises(BufferError):
        producer.__dlpack__(dl_device=(2, 0))


def test_numbers_are_handed_on_as_they_are() -> None:
    assert np.shares_memory(np.from_dlpack(as_dlpack(FLOATS, "it")), FLOATS)
    with pytest.raises(InvalidRequest, match="it is BYTES"):
        as_dlpack(np.array([b"a"], object), "it")


def test_torch_is_asked_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_dlpack=np.from_dlpack))
    assert np.shares_memory(as_torch(FLOATS, "it"), FLOATS)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError):
        as_torch(FLOATS, "it")
