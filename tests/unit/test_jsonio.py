"""JSON as Triton writes and reads it, in both directions."""

from __future__ import annotations

import enum
import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonhttp._wire.jsonio import dump_array, dumps, loads, plain
from tritonhttp.errors import InvalidRequest, ProtocolError


def sent(value: Any) -> str:
    return dumps(plain(value, "x")).decode()


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ('ü"\n\u2028', '"ü\\"\\n\u2028"'),
        (0, "0"),
        (-(2**63), "-9223372036854775808"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        (10**40, "1" + "0" * 40),
        (Colour.RED, "1"),
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (np.float32(0.5), "0.5"),
        (np.float64("nan"), "NaN"),
        (np.float16(1.5), "1.5"),
        (np.int8(-3), "-3"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.bool_(True), "true"),
        (np.str_("s"), '"s"'),
        (np.array([[1, 2], [3, 4]]), "[[1,2],[3,4]]"),
        (np.array([1.0, np.inf]), "[1.0,Infinity]"),
        ((1, "a", [None]), '[1,"a",[null]]'),
        ({"a": {"b": [math.nan, 2**70]}, 1: 2}, '{"a":{"b":[NaN,1180591620717411303424]},"1":2}'),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_a_callers_value_goes_out_as_triton_reads_it(value: Any, text: str) -> None:
    assert sent(value) == text


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"abc", "bytes"),
        (bytearray(b"abc"), "bytearray"),
        ({1, 2}, "set"),
        (1j, "complex"),
        (object(), "object"),
        (np.datetime64("2020-01-01"), "date"),
        ([1, {"deep": b"x"}], "bytes"),
    ],
)
def test_a_value_without_a_form_is_refused_by_its_place(value: Any, kind: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"parameter 'p'.* is a {kind}"):
        plain(value, "parameter 'p'")


def test_a_value_is_refused_by_the_key_that_leads_to_it() -> None:
    with pytest.raises(InvalidRequest, match=r"settings\['a'\]\['b'\] is a bytes"):
        plain({"a": {"b": b"x"}}, "settings")


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, ["a\udfff"]])
def test_a_lone_surrogate_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        sent(value)


@pytest.mark.parametrize("value", ["\ud800", ["a", "\udfff"], {"key": {"deep": "\ud800"}}, np.str_("\ud800")])
def test_a_lone_surrogate_is_refused_where_it_stands(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"the place.* is not valid text"):
        plain(value, "the place")


def test_a_callers_containers_are_not_changed() -> None:
    value = {"a": [1, math.nan], "b": (2,)}
    sent(value)
    assert value["b"] == (2,)
    assert value["a"][0] == 1  # type: ignore[index]


FINITE = np.dtype("f4"), np.dtype("f8"), np.dtype("f2")


@pytest.mark.parametrize(
    "array",
    [
        np.array([True, False]),
        np.array([-128, 127], np.int8),
        np.array([0, 255], np.uint8),
        np.array([-32768, 32767], np.int16),
        np.array([0, 65535], np.uint16),
        np.array([-(2**31), 2**31 - 1], np.int32),
        np.array([0, 2**32 - 1], np.uint32),
        np.array([-(2**63), 2**63 - 1], np.int64),
        np.array([0, 2**64 - 1], np.uint64),
        np.array([1.5, -0.25, 65504], np.float16),
        np.array([0.1, 3.4028235e38, 1e-45], np.float32),
        np.array([0.1, 1.7976931348623157e308, 5e-324], np.float64),
        np.array([], np.float32),
        np.zeros((2, 0, 3), np.int64),
        np.array(7, np.int32),
        np.array(0.5, np.float16),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        np.arange(12, dtype=np.float64).reshape(3, 4)[::-1, ::2],
        np.arange(4, dtype=">i4"),
        np.array([0.1, 2.5], ">f4"),
        np.array([0.1, 2.5], ">f2"),
        np.array([1.0, np.nan, np.inf, -np.inf], np.float32),
        np.array([np.nan], np.float16),
        np.array([1.0, np.inf], ">f8"),
        np.array(np.nan),
    ],
    ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
)
def test_an_array_is_a_flat_list_in_c_order(array: np.ndarray) -> None:
    array.setflags(write=False)
    found = json.loads(dump_array(array))
    assert isinstance(found, list)
    back = np.array(found, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    np.testing.assert_array_equal(back, array)


def test_floats_are_as_short_as_their_type_allows() -> None:
    assert dump_array(np.array([0.1], np.float32)) == b"[0.1]"
    assert dump_array(np.array([True])) == b"[true]"


@given(st.lists(st.floats(width=32), max_size=20))
def test_any_floats_come_back_bit_for_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    back = np.array(loads(dump_array(array), "x"), np.float32)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_loads_takes_any_buffer(kind: Any) -> None:
    assert loads(kind(b'{"a": [1, 2.5, null, true, "\xc3\xbc"]}'), "x") == {"a": [1, 2.5, None, True, "ü"]}
    assert loads(kind(b'{"a": NaN}'), "x")["a"] != loads(kind(b'{"a": 1}'), "x")["a"]


def test_bare_nan_and_infinities_are_read() -> None:
    found = loads(b'{"data": [NaN, Infinity, -Infinity, 1]}', "x")["data"]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf, 1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b"[1,]",
        b"{'a': 1}",
        b'{"a": nan}',
        b"1 2",
        b"<html></html>",
        b"[" * 100_000,
    ],
)
def test_what_is_no_json_is_refused_with_its_beginning(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^the answer: expected JSON") as caught:
        loads(data, "the answer")
    message = caught.value.message() or ""
    assert f"{len(data)} bytes" in message
    assert data[:20].decode() in message
    assert caught.value.debug_details() == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(("start", "end"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[1,{"[":', b"},NaN]")])
def test_json_has_at_most_256_levels(kind: Any, start: bytes, end: bytes) -> None:
    """Deeper ones could be read, but not shown in a message, copied or pickled."""
    levels = 256 // (end.count(b"]") + end.count(b"}"))
    assert repr(loads(kind(start * levels + b"1" + end * levels), "x"))
    with pytest.raises(ProtocolError, match="at most 256 levels"):
        loads(kind(start * levels + b"[1]" + end * levels), "x")


def test_json_of_many_values_is_not_deep() -> None:
    wide = b"[" + b",".join([b'{"a": [[1]]}'] * 1000) + b', "' + b"[" * 300 + b'"]'
    assert len(loads(wide, "x")) == 1001


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_raw_bytes_in_a_string_give_the_references_advice(kind: Any) -> None:
    data = b'{"outputs": ["\xff\xfe"]}'
    with pytest.raises(ProtocolError, match="Please use binary_data=True") as caught:
        loads(kind(data), "the answer")
    assert "Failed to encode using UTF-8" in str(caught.value)
    assert caught.value.debug_details() == data


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_goes_out_is_what_the_standard_module_reads(value: Any) -> None:
    assert json.loads(dumps(plain(value, "x"))) == value


def test_fragments_stand_where_orjson_would_write_null() -> None:
    assert isinstance(plain(math.nan, "x"), orjson.Fragment)
    assert orjson.dumps(math.nan) == b"null", "if this ever changes, the fragments can go"
