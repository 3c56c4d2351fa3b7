"""InferInput, InferRequestedOutput and InferResult without a server."""

from __future__ import annotations

import array
import copy
import gc
import gzip
import json
import pickle
import re
import unittest.mock
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tritonhttp import (
    InferenceServerClient,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
    InferResult,
    InvalidRequest,
    ProtocolError,
    ServerError,
    np_to_triton_dtype,
)
from tritonhttp._wire.inference import RESERVED_TENSOR_PARAMETERS
from tritonhttp.as_tritonclient import infer_input as as_tritonclient

DUPLICATES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "pickle 2": lambda value: pickle.loads(pickle.dumps(value, 2)),
    "deepcopy": copy.deepcopy,
}
duplicates = pytest.mark.parametrize("duplicate", list(DUPLICATES.values()), ids=list(DUPLICATES))


def input_of(array: np.ndarray, name: str = "x", **options: Any) -> InferInput:
    datatype = np_to_triton_dtype(array.dtype)
    assert datatype is not None
    return InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, **options)


def body_of(*inputs: InferInput, **options: Any) -> tuple[Any, bytes]:
    """Return a request's body: the head as a dict, and the binary data."""
    body, size = InferenceServerClient.generate_request_body(list(inputs), **options)
    return json.loads(body[:size]), b"" if size is None else body[size:]


# -- InferInput -------------------------------------------------------------------------------------


def test_an_input_tells_what_it_was_given() -> None:
    tensor = InferInput("x", (2, 3), "FP32")
    assert (tensor.name(), tensor.shape(), tensor.datatype()) == ("x", [2, 3], "FP32")
    assert tensor.set_shape([6]) is tensor
    assert tensor.shape() == [6]
    assert repr(tensor) == "InferInput('x', [6], 'FP32')"


def test_the_callers_shape_is_not_kept() -> None:
    shape = [1, 2]
    tensor = InferInput("x", shape, "FP32")
    shape.append(3)
    assert tensor.shape() == [1, 2]


@pytest.mark.parametrize("shape", [None, 5])
def test_a_shape_that_is_no_sequence_is_refused(shape: Any) -> None:
    with pytest.raises(InvalidRequest, match="shape must be a sequence"):
        InferInput("x", shape, "FP32")
    with pytest.raises(InvalidRequest, match="shape must be a sequence"):
        InferInput("x", [1], "FP32").set_shape(shape)


ARRAY = np.arange(6, dtype=np.int32).reshape(2, 3)


def test_a_binary_input_is_described_by_its_size() -> None:
    tensor = input_of(ARRAY)
    assert tensor._get_tensor() == {
        "name": "x",
        "shape": [2, 3],
        "datatype": "INT32",
        "parameters": {"binary_data_size": 24},
    }
    assert tensor._get_binary_data() == ARRAY.tobytes()


def test_a_json_input_holds_its_data() -> None:
    tensor = input_of(ARRAY, binary_data=False)
    assert tensor._get_tensor() == {
        "name": "x",
        "shape": [2, 3],
        "datatype": "INT32",
        "data": [0, 1, 2, 3, 4, 5],
    }
    assert tensor._get_binary_data() is None


@pytest.mark.parametrize(("offset", "more"), [(0, {}), (8, {"shared_memory_offset": 8})])
def test_an_input_in_shared_memory_is_described_by_its_region(offset: int, more: dict[str, int]) -> None:
    tensor = InferInput("x", [2, 3], "INT32")
    assert tensor.set_shared_memory("region", 24, offset) is tensor
    parameters = {"shared_memory_region": "region", "shared_memory_byte_size": 24, **more}
    assert tensor._get_tensor() == {
        "name": "x",
        "shape": [2, 3],
        "datatype": "INT32",
        "parameters": parameters,
    }
    assert tensor._get_binary_data() is None


@pytest.mark.parametrize("number", [24.0, "24", None])
def test_a_region_is_described_by_whole_numbers(number: Any) -> None:
    for described in (InferInput("x", [2, 3], "INT32"), InferRequestedOutput("y")):
        with pytest.raises(
            InvalidRequest, match=f"byte_size must be a whole number, 0 or more; got {number!r}"
        ):
            described.set_shared_memory("region", number)
        if number is not None:
            with pytest.raises(
                InvalidRequest, match=f"offset must be a whole number, 0 or more; got {number!r}"
            ):
                described.set_shared_memory("region", 24, number)
        described.set_shared_memory("region", np.int64(24), np.int8(8))
        parameters = {"shared_memory_byte_size": 24, "shared_memory_offset": 8}
        assert parameters.items() <= described._get_tensor()["parameters"].items()


def test_a_shape_that_the_server_refuses_is_not_remembered_for_one_that_it_takes() -> None:
    for shape in ([2.0, 3.0], [2, 3], [2.0, 3.0]):
        tensor = InferInput("x", shape, "INT32").set_shared_memory("equal shapes", 24)  # type: ignore[arg-type]
        assert repr(body_of(tensor)[0]["inputs"][0]["shape"]) == repr(shape)


WAYS: dict[str, Callable[[InferInput], Any]] = {
    "binary": lambda tensor: tensor.set_data_from_numpy(ARRAY),
    "json": lambda tensor: tensor.set_data_from_numpy(ARRAY, binary_data=False),
    "region": lambda tensor: tensor.set_shared_memory("region", 24),
    "region with offset": lambda tensor: tensor.set_shared_memory("region", 24, 8),
}


@pytest.mark.parametrize("last", WAYS)
@pytest.mark.parametrize("before", WAYS)
def test_setting_data_another_way_leaves_nothing_of_the_first(before: str, last: str) -> None:
    fresh, switched = InferInput("x", [2, 3], "INT32"), InferInput("x", [2, 3], "INT32")
    WAYS[last](fresh)
    WAYS[before](switched)
    body_of(switched)
    WAYS[last](switched)
    assert body_of(switched) == body_of(fresh)
    assert switched._get_tensor() == fresh._get_tensor()


def test_a_refused_array_leaves_what_was_set() -> None:
    tensor = input_of(ARRAY)
    before = body_of(tensor)
    for wrong in (ARRAY.astype(np.int64), ARRAY.ravel()):
        with pytest.raises(InvalidRequest):
            tensor.set_data_from_numpy(wrong)
    assert body_of(tensor) == before


@pytest.mark.parametrize("as_binary", [True, False])
@pytest.mark.parametrize("before", ["binary", "json", "region"])
def test_refused_elements_leave_what_was_set(before: str, as_binary: bool) -> None:
    tensor = InferInput("x", [1], "BYTES")
    if before == "region":
        tensor.set_shared_memory("region", 24)
    else:
        tensor.set_data_from_numpy(np.array(["good"], object), before == "binary")
    sent = body_of(tensor)
    with pytest.raises(InvalidRequest):
        tensor.set_data_from_numpy(np.array(["\ud800"], object), as_binary)
    assert body_of(tensor) == sent
    assert InferenceServerClient.generate_request_body([tensor, tensor])[0].count(b"good") == (
        0 if before == "region" else 2
    )


@pytest.mark.parametrize("value", [[1, 2], 5, None, b"abc", memoryview(b"abc")])
def test_data_that_are_no_array_are_refused(value: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=rf"^input_tensor must be a numpy array, got {type(value).__name__}"
    ):
        InferInput("x", [2], "INT32").set_data_from_numpy(value)


@pytest.mark.parametrize(
    ("dtype", "declared", "found"),
    [
        (np.int64, "INT32", "INT64"),
        (np.float64, "FP32", "FP64"),
        (np.float32, "BF16", "FP32"),
        (object, "INT8", "BYTES"),
        (np.complex64, "FP32", "None"),
        (np.int32, "int32", "INT32"),
    ],
)
def test_another_dtype_is_refused_in_the_references_words(dtype: Any, declared: str, found: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        InferInput("x", [2], declared).set_data_from_numpy(np.zeros(2, dtype))
    message = caught.value.message() or ""
    assert message.startswith(f"got unexpected datatype {found} from numpy array, expected {declared}.")
    assert "'x'" in message
    assert str(np.dtype(dtype)) in message
    advice = (
        " Since r26.06, BF16 inputs must use ml_dtypes.bfloat16 instead of np.float32 truncation; create a numpy"
        " array with `np.array(data, dtype=ml_dtypes.bfloat16)`."
    )
    assert (advice in message) == (declared == "BF16")


@pytest.mark.parametrize(
    ("shape", "declared", "words"),
    [
        ((2, 3), [3, 2], "got unexpected numpy array shape [2, 3], expected [3, 2]"),
        ((6,), [2, 3], "got unexpected numpy array shape [6,], expected [2, 3]"),
        ((), [1], "got unexpected numpy array shape [], expected [1]"),
        ((2, 3), [2, -1], "got unexpected numpy array shape [2, 3], expected [2, -1]"),
    ],
)
def test_another_shape_is_refused_in_the_references_words(
    shape: Any, declared: list[int], words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        InferInput("x", declared, "FP32").set_data_from_numpy(np.zeros(shape, np.float32))
    assert caught.value.message() == f"{words} for input 'x'"


LAYOUTS = {
    "contiguous": ARRAY,
    "fortran": np.asfortranarray(ARRAY),
    "transposed": ARRAY.T,
    "reversed": ARRAY[::-1, ::-1],
    "strided": np.arange(24, dtype=np.float64).reshape(4, 6)[::2, ::3],
    "big-endian": ARRAY.astype(">i4"),
    "big-endian strided": np.arange(8, dtype=">f8")[::2],
    "broadcast": np.broadcast_to(np.float32(2), (3, 2)),
    "scalar": np.array(7, np.uint16),
    "big-endian scalar": np.array(7, ">u2"),
    "zero-size": np.zeros((0,), np.float32),
    "zero-size, more dimensions": np.zeros((2, 0, 3), np.int64),
    "zero-size strided": np.zeros((4, 0), np.int64)[::2],
    "zero-size big-endian": np.zeros((0, 2), ">i4"),
    "bool": np.array([True, False]),
    "half": np.array([0.5, np.nan], np.float16),
    "masked": np.ma.masked_array(np.arange(3.0)),
    "record": np.arange(3.0).view(np.recarray),
}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("array", list(LAYOUTS.values()), ids=list(LAYOUTS))
def test_every_layout_arrives(array: np.ndarray, copied: bool, binary: bool) -> None:
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    array = array.view()
    array.setflags(write=False)
    tensor = input_of(array, binary_data=binary, copy=copied)
    head, data = body_of(tensor)
    (described,) = head["inputs"]
    assert described["shape"] == list(array.shape)
    assert described["datatype"] == np_to_triton_dtype(array.dtype)
    if binary:
        assert described["parameters"] == {"binary_data_size": plain.nbytes}
        assert data == plain.tobytes()
    else:
        assert "parameters" not in described
        np.testing.assert_array_equal(np.array(described["data"], plain.dtype).reshape(plain.shape), plain)


def test_bf16_goes_out_as_binary_only() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for shape in ((3,), (0,), (2, 0), ()):
        array = np.ones(shape, ml_dtypes.bfloat16)
        head, data = body_of(input_of(array))
        assert head["inputs"][0]["datatype"] == "BF16"
        assert data == array.tobytes()
    assert body_of(input_of(np.ones((4, 2), ml_dtypes.bfloat16)[::2].T))[1] == b"\x80\x3f" * 4
    words = "BF16 inputs must be sent as binary data over HTTP. Please set binary_data=True"
    with pytest.raises(InvalidRequest, match=words):
        input_of(np.ones(3, ml_dtypes.bfloat16), binary_data=False)


def test_a_numeric_array_is_read_when_the_body_is_made() -> None:
    array = np.zeros(3, np.int8)
    tensor = input_of(array)
    array[:] = 5
    assert body_of(tensor)[1] == b"\5\5\5"
    copied = input_of(array, copy=True)
    as_json = input_of(array, binary_data=False)
    array[:] = 7
    assert body_of(copied)[1] == b"\5\5\5"
    assert body_of(as_json)[0]["inputs"][0]["data"] == [5, 5, 5]


def test_bytes_are_encoded_when_they_are_set() -> None:
    array = np.array([b"a", "ü", 5, None], object)
    tensor = input_of(array)
    array[:] = b"changed"
    head, data = body_of(tensor)
    assert data == b"\1\0\0\0a\2\0\0\0\xc3\xbc\1\0\0\x005\4\0\0\0None"
    assert head["inputs"][0]["parameters"] == {"binary_data_size": len(data)}


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (np.array([b"a", "ü", 5, None], object), ["a", "ü", "5", "None"]),
        (np.array([b"ab", b"c"]), ["ab", "c"]),
        (np.array(["ü", "c"]), ["ü", "c"]),
        (np.array([["a", "b"], ["c", "d"]], object).T, ["a", "c", "b", "d"]),
        (np.array([], object), []),
        (np.array("one", object), ["one"]),
    ],
)
def test_bytes_in_json_are_text(array: np.ndarray, texts: list[str]) -> None:
    head, data = body_of(input_of(array, binary_data=False))
    assert head["inputs"][0]["data"] == texts
    assert data == b""


@pytest.mark.parametrize("array", [np.array([b"ok", b"\xff"], object), np.array([b"ok", b"\xff"])])
def test_bytes_that_are_no_text_are_refused_for_json(array: np.ndarray) -> None:
    with pytest.raises(InvalidRequest) as caught:
        input_of(array, binary_data=False)
    message = caught.value.message() or ""
    assert message.startswith("Failed to encode \"b'\\xff'\" using UTF-8. Please use binary_data=True")
    assert "'x'" in message


def test_nan_and_infinity_go_out_bare() -> None:
    body, _ = InferenceServerClient.generate_request_body(
        [input_of(np.array([np.nan, np.inf, -np.inf], np.float32), binary_data=False)]
    )
    assert b'"data":[NaN, Infinity, -Infinity]' in body.replace(b", ", b",").replace(b",", b", ")


def test_zero_size_bytes_keep_their_shape() -> None:
    head, data = body_of(input_of(np.zeros((2, 0), object)))
    assert head["inputs"][0] == {
        "name": "x",
        "shape": [2, 0],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": 0},
    }
    assert data == b""


def test_an_input_without_data_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidRequest, match="'x' has no data"):
        InferenceServerClient.generate_request_body([InferInput("x", [1], "FP32")])


def test_binary_and_json_inputs_stand_side_by_side() -> None:
    head, data = body_of(
        input_of(np.array([1], np.int8), "a"),
        input_of(np.array([2], np.int8), "b", binary_data=False),
        InferInput("c", [1], "INT8").set_shared_memory("region", 1),
        input_of(np.array([3, 4], np.int8), "d"),
    )
    assert [each["name"] for each in head["inputs"]] == ["a", "b", "c", "d"]
    assert data == b"\1\3\4"


def test_a_body_of_json_alone_has_no_json_size() -> None:
    body, size = InferenceServerClient.generate_request_body([input_of(ARRAY, binary_data=False)])
    assert size is None
    assert type(body) is bytes
    assert json.loads(body)


@duplicates
@pytest.mark.parametrize("way", [*WAYS, "nothing"])
def test_an_input_survives_being_copied(way: str, duplicate: Callable[[Any], Any]) -> None:
    tensor = InferInput("x", [2, 3], "INT32")
    if way in WAYS:
        WAYS[way](tensor)
    other = duplicate(tensor)
    assert other._get_tensor() == tensor._get_tensor()
    assert other._get_binary_data() == tensor._get_binary_data()
    assert other.set_shape([1]).shape() != tensor.shape()


@duplicates
@pytest.mark.parametrize("name", ["reversed", "big-endian", "zero-size", "broadcast"])
def test_a_copied_input_has_data_of_its_own(name: str, duplicate: Callable[[Any], Any]) -> None:
    array = LAYOUTS[name].copy()
    tensor = input_of(array)
    other, before = duplicate(tensor), body_of(tensor)
    array[...] = 9
    assert body_of(other) == before


# -- InferRequestedOutput ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "parameters"),
    [
        (InferRequestedOutput("y"), {"binary_data": True}),
        (InferRequestedOutput("y", binary_data=False), {"binary_data": False}),
        (InferRequestedOutput("y", True, 3), {"binary_data": True, "classification": 3}),
        (InferRequestedOutput("y", 0, None), {"binary_data": False}),  # type: ignore[arg-type]
        (InferRequestedOutput("y", np.True_, np.int8(3)), {"binary_data": True, "classification": 3}),  # type: ignore[arg-type]
    ],
)
def test_an_output_says_how_it_is_wanted(output: InferRequestedOutput, parameters: dict[str, Any]) -> None:
    assert output.name() == "y"
    # As JSON, where 0 is not False.
    wanted = {"name": "y", "parameters": parameters}
    assert json.dumps(output._get_tensor(), sort_keys=True) == json.dumps(wanted, sort_keys=True)


@pytest.mark.parametrize("count", [2.0, "2", True])
def test_a_number_of_classes_that_is_not_whole_is_refused(count: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"class_count must be a whole number, 0 or more; got {count!r}"):
        InferRequestedOutput("y", class_count=count)


@pytest.mark.parametrize("binary", [True, False])
def test_an_output_is_placed_in_a_region_and_taken_back(binary: bool) -> None:
    output = InferRequestedOutput("y", binary_data=binary)
    before = output._get_tensor()
    assert output.set_shared_memory("region", 24, offset=8) is None  # type: ignore[func-returns-value]
    region = {"shared_memory_region": "region", "shared_memory_byte_size": 24}
    assert output._get_tensor()["parameters"] == {"binary_data": False, **region, "shared_memory_offset": 8}
    output.set_shared_memory("region", 24)
    assert output._get_tensor()["parameters"] == {"binary_data": False, **region}
    output.unset_shared_memory()
    assert output._get_tensor() == before


def test_classes_cannot_go_to_shared_memory() -> None:
    output = InferRequestedOutput("y", class_count=2)
    with pytest.raises(InferenceServerException) as caught:
        output.set_shared_memory("region", 24)
    assert caught.value.message() == "shared memory can't be set on classification output"
    assert "shared_memory_region" not in output._get_tensor()["parameters"]


@duplicates
def test_an_output_survives_being_copied(duplicate: Callable[[Any], Any]) -> None:
    output = InferRequestedOutput("y", class_count=2)
    assert duplicate(output)._get_tensor() == output._get_tensor()


# -- parameters of one tensor -----------------------------------------------------------------------

GIVEN = {"content_type": "np", "count": 1, "share": 1.5, "flag": True}

#: Ways to give an input its data, and what stands beside its own parameters.
FILLED: dict[str, tuple[Callable[[InferInput], Any], dict[str, Any]]] = {
    "binary": (lambda x: x.set_data_from_numpy(np.zeros(2, np.float32)), {"binary_data_size": 8}),
    "bytes": (lambda x: x.set_data_from_numpy(np.array([b"a", b""], object)), {"binary_data_size": 9}),
    "json": (lambda x: x.set_data_from_numpy(np.zeros(2, np.float32), False), {}),
    "region": (
        lambda x: x.set_shared_memory("r", 8),
        {"shared_memory_region": "r", "shared_memory_byte_size": 8},
    ),
}


def filled(way: str, kind: type[InferInput] = InferInput) -> InferInput:
    tensor = kind("x", [2], "BYTES" if way == "bytes" else "FP32")
    FILLED[way][0](tensor)
    return tensor


def sent(tensor: InferInput) -> dict[str, Any]:
    """Return the parameters of an input as they are sent."""
    (described,) = body_of(tensor)[0]["inputs"]
    found: dict[str, Any] = described.get("parameters", {})
    return found


@pytest.mark.parametrize("kind", [InferInput, as_tritonclient.InferInput])
@pytest.mark.parametrize("way", FILLED)
def test_an_inputs_own_parameters_stand_beside_those_of_its_data(way: str, kind: type[InferInput]) -> None:
    fill, others = FILLED[way]
    tensor = filled(way, kind)
    plain = tensor._form
    assert sent(tensor) == others
    assert tensor.set_parameters(GIVEN) is tensor
    assert sent(tensor) == {**others, **GIVEN}
    assert tensor.parameters() == GIVEN
    assert tensor._get_tensor()["parameters"] == {**others, **GIVEN}
    before = tensor._form
    fill(tensor)  # again: they stay
    assert sent(tensor) == {**others, **GIVEN}
    assert tensor._form == before
    assert (before == plain) == (way == "json"), "a form without them would stand for another request"
    assert sent(tensor.set_parameters({"other": 2})) == {**others, "other": 2}
    assert sent(tensor.set_parameters({})) == others
    assert tensor._form == plain
    assert tensor.parameters() == {}


@pytest.mark.parametrize("way", FILLED)
@pytest.mark.parametrize("duplicate", [*DUPLICATES.values(), copy.copy], ids=[*DUPLICATES, "copy"])
def test_parameters_survive_being_copied(way: str, duplicate: Callable[[Any], Any]) -> None:
    tensor = filled(way).set_parameters(GIVEN)
    other = duplicate(tensor)
    assert sent(other) == sent(tensor) == {**FILLED[way][1], **GIVEN}
    other.set_parameters({"other": 2})
    assert tensor.parameters() == GIVEN
    output = InferRequestedOutput("y").set_parameters(GIVEN)
    assert duplicate(output).parameters() == GIVEN


@pytest.mark.parametrize(
    "name",
    ["binary_data", "binary_data_size", "classification", "shared_memory_region", "shared_memory_offset"],
)
def test_a_parameter_that_is_an_argument_in_disguise_is_refused(name: str) -> None:
    for each in (filled("binary"), filled("json"), InferRequestedOutput("y")):
        with pytest.raises(InvalidRequest, match="is reserved"):
            each.set_parameters({name: 1})


def test_the_callers_parameters_are_not_kept() -> None:
    given = dict(GIVEN)
    tensor = filled("binary").set_parameters(given)
    given["more"] = 1
    tensor.parameters()["more"] = 1
    assert tensor.parameters() == GIVEN


def test_parameters_before_the_data_and_a_shape_of_the_callers() -> None:
    shape = [2]
    tensor = as_tritonclient.InferInput("x", shape, "FP32").set_parameters({"a": 1})
    assert tensor._get_tensor() == {"name": "x", "shape": [2], "datatype": "FP32"}
    with pytest.raises(InvalidRequest, match="has no data"):
        body_of(tensor)
    tensor.set_data_from_numpy(np.zeros(2, np.float32))
    shape[0] = 1
    tensor.set_parameters({"b": 2})
    shape[0] = 2
    assert sent(tensor) == {"binary_data_size": 8, "b": 2}
    assert tensor._form is None or b"b" in tensor._form[-1]


def test_an_outputs_own_parameters_stand_beside_what_is_asked_for() -> None:
    output = InferRequestedOutput("y", class_count=2)
    assert output.set_parameters(GIVEN) is output
    assert output._get_tensor()["parameters"] == {"classification": 2, "binary_data": True, **GIVEN}
    assert output.parameters() == GIVEN
    placed = InferRequestedOutput("y").set_parameters(GIVEN)
    placed.set_shared_memory("r", 8)
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    assert placed._get_tensor()["parameters"] == {"binary_data": False, **region, **GIVEN}
    placed.unset_shared_memory()
    assert placed._get_tensor()["parameters"] == {"binary_data": True, **GIVEN}
    assert placed.set_parameters({})._form == InferRequestedOutput("y")._form


@pytest.mark.parametrize("make", [lambda: filled("binary"), lambda: InferRequestedOutput("x")])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([("a", 1)], "must be a mapping, got list"),
        (None, "must be a mapping, got NoneType"),
        ({1: 1}, "name of a parameter must be a str, got 1"),
        ({"a": None}, "'a' must be a str, a bool, an int"),
        ({"a": [1]}, "'a' must be a str, a bool, an int"),
        ({"a": {"b": 1}}, "'a' must be a str, a bool, an int"),
        ({"a": float("nan")}, "'a' must be a str, a bool, an int"),
        ({"a": float("-inf")}, "'a' must be a str, a bool, an int"),
        ({"a": 2**64}, "'a' must be a str, a bool, an int"),
        ({"a": b"x"}, "'a' is a bytes"),
        ({"a": "\ud800"}, "is not valid text"),
        *(({name: 1}, f"{name!r} is reserved") for name in RESERVED_TENSOR_PARAMETERS),
    ],
)
def test_other_parameters_are_refused_and_change_nothing(make: Any, wrong: Any, words: str) -> None:
    tensor = make().set_parameters(GIVEN)
    form = tensor._form
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        tensor.set_parameters(wrong)
    assert tensor.parameters() == GIVEN
    assert tensor._form == form


def test_numbers_of_numpys_are_parameters() -> None:
    given = {"a": np.int8(-3), "b": np.float32(0.5), "c": np.bool_(True), "d": np.str_("x"), "e": 2**64 - 1}
    tensor = filled("binary").set_parameters(given)
    assert tensor.parameters() == {"a": -3, "b": 0.5, "c": True, "d": "x", "e": 2**64 - 1}
    assert tensor.parameters()["c"] is True


# -- InferResult ------------------------------------------------------------------------------------

HEAD = json.dumps(
    {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
            {"name": "s", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}},
            {"name": "j", "datatype": "INT64", "shape": [2], "data": [3, 4]},
            {"name": "e", "datatype": "FP16", "shape": [0, 5], "parameters": {"binary_data_size": 0}},
            {
                "name": "m",
                "datatype": "FP32",
                "shape": [2],
                "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8},
            },
        ],
    }
).encode()
VALUES = np.array([[1, 2], [3, 4]], np.float32)
BODY = HEAD + VALUES.tobytes() + b"\1\0\0\0a\2\0\0\0bc"


class Theirs:
    """A response as the reference's transport gives it: a body that is read in pieces."""

    def __init__(self, body: Any, headers: dict[str, Any]) -> None:
        self.body, self.headers, self.position = body, headers, 0

    def get(self, key: str) -> Any:
        return self.headers.get(key)

    def read(self, length: int = -1) -> Any:
        end = len(self.body) if length == -1 else self.position + length
        found = self.body[self.position : end]
        self.position = end
        return found


def results() -> dict[str, Callable[[], InferResult]]:
    size = len(HEAD)
    json_size = "Inference-Header-Content-Length"
    return {
        "from_response_body": lambda: InferResult.from_response_body(BODY, header_length=size),
        "by position": lambda: InferResult.from_response_body(BODY, False, size, None),
        "bytearray": lambda: InferResult.from_response_body(bytearray(BODY), header_length=size),
        "memoryview": lambda: InferResult.from_response_body(memoryview(bytearray(BODY)), header_length=size),
        "header_length of text": lambda: InferResult.from_response_body(BODY, header_length=str(size)),  # type: ignore[arg-type]
        "gzip": lambda: InferResult.from_response_body(gzip.compress(BODY), False, size, "gzip"),
        "deflate": lambda: InferResult.from_response_body(zlib.compress(BODY), False, size, "deflate"),
        "identity": lambda: InferResult.from_response_body(BODY, False, size, "identity"),
        "parse_response_body": lambda: InferenceServerClient.parse_response_body(BODY, header_length=size),
        "theirs": lambda: InferResult(Theirs(BODY, {json_size: str(size)}), False),
        "theirs, a number": lambda: InferResult(Theirs(bytearray(BODY), {json_size: size}), False),
        "theirs, gzip": lambda: InferResult(
            Theirs(gzip.compress(BODY), {json_size: size, "Content-Encoding": "gzip"}), False
        ),
    }


@pytest.mark.parametrize("make", list(results().values()), ids=list(results()))
def test_a_result_gives_its_outputs(make: Callable[[], InferResult]) -> None:
    result = make()
    np.testing.assert_array_equal(result.as_numpy("y"), VALUES)
    assert result.as_numpy("s").tolist() == [b"a", b"bc"]
    assert result.as_numpy("j").tolist() == [3, 4]
    assert result.as_numpy("j").dtype == np.int64
    empty = result.as_numpy("e")
    assert (empty.dtype, empty.shape) == (np.float16, (0, 5))
    assert result.as_numpy("m") is None
    assert result.as_numpy("unknown") is None
    assert result.get_output("unknown") is None
    assert result.get_output("j") == {"name": "j", "datatype": "INT64", "shape": [2], "data": [3, 4]}
    assert result.get_output("y")["parameters"] == {"binary_data_size": 16}
    assert result.get_response() == json.loads(HEAD)
    for name in ("y", "s", "j", "e"):
        array = result.as_numpy(name)
        assert array.flags.writeable
        assert array.flags.aligned
        assert result.as_numpy(name) is array


class Given:
    """Another library's response, with what it gives."""

    def __init__(self, body: Any, **headers: Any) -> None:
        self.body, self.headers = body, headers

    def get(self, name: str) -> Any:
        return self.headers.get(name.replace("-", "_"))

    def read(self) -> Any:
        return self.body


SIZE = "Inference_Header_Content_Length"
PLAIN = '{"outputs":[{"name":"y","datatype":"BYTES","shape":[1],"data":["ü"]}]}'


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        PLAIN.encode(),
        bytearray(PLAIN.encode()),
        memoryview(PLAIN.encode()),
        memoryview(np.frombuffer(PLAIN.encode() + b" ", np.int8)),
        memoryview(b"".join(bytes((0, each)) for each in PLAIN.encode()))[1::2],
        np.frombuffer(PLAIN.encode().ljust(200), np.uint16),
        array.array("B", PLAIN.encode()),
    ],
    ids=lambda body: type(body).__name__,
)
def test_a_result_takes_bytes_in_any_form_and_text_of_json(body: Any) -> None:
    for result in (InferResult(Given(body), False), InferResult.from_response_body(body)):
        assert result.as_numpy("y").tolist() == ["ü"]
        assert copy.deepcopy(pickle.loads(pickle.dumps(result))).as_numpy("y").tolist() == ["ü"]


@pytest.mark.parametrize("coding", ["", "identity", "Identity, identity", " , "])
def test_text_that_is_not_coded_may_say_so(coding: str) -> None:
    given = Given(PLAIN, Content_Encoding=coding)
    for result in (
        InferResult(given, False),
        InferResult.from_response_body(PLAIN, content_encoding=coding),
    ):
        assert result.as_numpy("y").tolist() == ["ü"]


def test_headers_of_other_objects_may_be_bytes_and_numbers() -> None:
    for size in (len(HEAD), np.int64(len(HEAD)), str(len(HEAD)), str(len(HEAD)).encode()):
        given = Given(gzip.compress(BODY), Content_Encoding=b"gzip", **{SIZE: size})
        np.testing.assert_array_equal(InferResult(given, False).as_numpy("y"), VALUES)


async def later() -> bytes:
    return PLAIN.encode()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Given(None), r"Given\.read\(\): expected bytes, got NoneType"),
        (Given(5), "expected bytes, got int"),
        (Given([1]), "expected bytes, got list"),
        (Given({}), "expected bytes, got dict"),
        (Given(later), "expected bytes, got function"),
        (Given("ü" + chr(0xD800)), "UTF-8"),
        (Given(PLAIN, **{SIZE: 5}), "got str: a body with tensors behind its JSON is not text"),
        (Given(PLAIN, Content_Encoding="gzip"), "got str: a body with a content coding is not text"),
        (
            Given(PLAIN, Content_Encoding=5),
            "get.'Content-Encoding'.: expected the header as text, .* got int",
        ),
        (Given(PLAIN, **{SIZE: 1.5}), "get.'Inference-Header-Content-Length'.: expected .* got float"),
        (Given(PLAIN, **{SIZE: "x"}), "got str"),
        (Given(b"{}", **{SIZE: "x"}), "Inference-Header-Content-Length: expected a number"),
        (None, r"a response with get\(name\) and read\(\), got NoneType"),
        (PLAIN, "got str"),
        ({"outputs": []}, "got dict .*InferResult.from_response_body"),
        (unittest.mock.MagicMock(), "got MagicMock"),
    ],
)
def test_what_is_no_response_is_one_error(given: Any, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        InferResult(given, False)


@pytest.mark.parametrize("body", [None, 5, [1], {}, object()])
def test_what_is_no_body_is_one_error(body: Any) -> None:
    with pytest.raises(ProtocolError, match=f"response_body: expected bytes, got {type(body).__name__}"):
        InferResult.from_response_body(body)


@pytest.mark.filterwarnings("error")
def test_a_body_to_be_awaited_is_one_error() -> None:
    for given in (Given(later()), unittest.mock.AsyncMock()):
        with pytest.raises(ProtocolError, match="coroutine"):
            InferResult(given, False)
    with pytest.raises(ProtocolError, match="expected bytes, got coroutine: await it"):
        InferResult(Given(later()), False)
    gc.collect()


def test_a_subclass_of_a_result_makes_its_own_kind() -> None:
    class Mine(InferResult):
        pass

    assert type(Mine.from_response_body(b'{"outputs":[]}')) is Mine


def test_a_result_of_json_alone() -> None:
    body = b'{"model_name":"m","outputs":[{"name":"y","datatype":"BYTES","shape":[1],"data":["\xc3\xbc"]}]}'
    assert InferResult.from_response_body(body).as_numpy("y").tolist() == ["ü"]


def test_a_result_without_outputs_has_none() -> None:
    result = InferResult.from_response_body(b'{"model_name":"m"}')
    assert result.as_numpy("y") is None
    assert result.get_output("y") is None
    assert result.get_response() == {"model_name": "m"}


def test_a_result_shows_its_outputs_not_their_data() -> None:
    shown = repr(InferResult.from_response_body(BODY, header_length=len(HEAD)))
    assert shown.startswith("<InferResult of 'm': y: FP32 [2, 2], s: BYTES [2],")
    assert repr(InferResult.from_response_body(b'{"outputs":[]}')) == "<InferResult of '?': >"


@duplicates
@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("make", list(results().values()), ids=list(results()))
def test_a_result_survives_being_copied(
    make: Callable[[], InferResult], used: bool, duplicate: Callable[[Any], Any]
) -> None:
    result = make()
    if used:
        result.as_numpy("y")
    other = duplicate(result)
    assert other.get_response() == result.get_response()
    np.testing.assert_array_equal(other.as_numpy("y"), VALUES)
    assert other.as_numpy("s").tolist() == [b"a", b"bc"]
    other.as_numpy("y")[0, 0] = 9
    assert result.as_numpy("y")[0, 0] == 1


def test_a_verbose_result_shows_its_json(capsys: pytest.CaptureFixture[str]) -> None:
    InferResult.from_response_body(BODY, verbose=True, header_length=len(HEAD))
    assert capsys.readouterr().out == f"{HEAD!r}\n"
    InferResult.from_response_body(BODY, header_length=len(HEAD))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("length", ["x", "", -1, len(BODY) + 1, "9" * 5000, b"x", 1.5])
def test_a_senseless_header_length_is_refused(length: Any) -> None:
    with pytest.raises(ProtocolError, match="Inference-Header-Content-Length"):
        InferResult.from_response_body(BODY, header_length=length)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_body_that_is_not_in_its_coding_is_refused(encoding: str) -> None:
    with pytest.raises(ProtocolError):
        InferResult.from_response_body(BODY, header_length=len(HEAD), content_encoding=encoding)


def test_raw_bytes_in_json_give_the_references_advice() -> None:
    with pytest.raises(
        InferenceServerException, match=r"Failed to encode using UTF-8\. Please use binary_data=True"
    ):
        InferResult.from_response_body(b'{"outputs":[{"name":"y","data":["\xff"]}]}')


def test_an_error_in_the_body_is_raised() -> None:
    with pytest.raises(ServerError, match=r"^\[200\] out of order$"):
        InferResult.from_response_body(b'{"error":"out of order"}')


@pytest.mark.parametrize("size", [0, 1, len(HEAD) - 1, len(HEAD), len(HEAD) + 16, len(BODY) - 1])
def test_a_body_cut_short_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        InferResult.from_response_body(BODY[:size], header_length=len(HEAD))


def test_masked_elements_go_out_as_the_fill_value() -> None:
    array = np.ma.masked_array(np.array([1, 2, 3], np.int8), [False, True, False], fill_value=9)
    for binary in (True, False):
        head, data = body_of(input_of(array, binary_data=binary))
        assert (list(data) or head["inputs"][0]["data"]) == [1, 9, 3]


# -- arrays of other kinds, results by name ---------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shape", "datatype", "data"),
    [
        ([[1, 2]], [1, 2], "INT64", np.array([1, 2], "<i8").tobytes()),
        (2.5, [], "FP64", np.array(2.5).tobytes()),
        ("ä", [], "BYTES", b"\2\0\0\0\xc3\xa4"),
        ([b"a\0"], [1], "BYTES", b"\2\0\0\0a\0"),
        (np.array([b"ab", b"c"]), [2], "BYTES", b"\2\0\0\0ab\1\0\0\0c"),
        (np.array([1.5], ">f2"), [1], "FP16", np.array([1.5], "<f2").tobytes()),
        (np.zeros((0, 3), bool), [0, 3], "BOOL", b""),
    ],
)
def test_an_input_takes_shape_and_datatype_from_its_array(
    given: Any, shape: list[int], datatype: str, data: bytes
) -> None:
    tensor = InferInput.from_numpy("x", given)
    assert (tensor.name(), tensor.shape(), tensor.datatype()) == ("x", shape, datatype)
    assert body_of(tensor)[1] == data


def test_from_numpy_takes_binary_data_and_copy() -> None:
    array = np.array([1, 2], np.int32)
    assert InferInput.from_numpy("x", array)._binary is array
    assert InferInput.from_numpy("x", array, copy=True)._binary is not array
    assert body_of(InferInput.from_numpy("x", array, binary_data=False))[0]["inputs"][0]["data"] == [1, 2]


@pytest.mark.parametrize("given", [np.array([1j]), np.array(["2020"], "M8[D]"), np.zeros(1, [("a", "i4")])])
def test_a_dtype_without_a_datatype_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="input 'x': expected one of the protocol's datatypes, BOOL, "):
        InferInput.from_numpy("x", given)


def test_a_result_is_read_by_name() -> None:
    result = InferResult.from_response_body(BODY, header_length=len(HEAD))
    names = [output["name"] for output in result.get_response()["outputs"]]
    assert list(result) == names == [info.name for info in result.outputs] == list(result.keys())
    assert len(result) == len(names)
    assert "y" in result
    assert "nothing" not in result
    assert result["y"] is result.as_numpy("y")
    info = next(info for info in result.outputs if info.name == "y")
    assert (info.datatype, info.shape) == ("FP32", VALUES.shape)
    with pytest.raises(KeyError, match=f"no output 'nothing'; there are: '{names[0]}', "):
        result["nothing"]
    alone = b'{"model_name":"m","outputs":[{"name":"a","datatype":"INT32","shape":[1],"data":[7]}]}'
    assert dict(InferResult.from_response_body(alone)) == {"a": [7]}


def test_a_result_without_outputs_is_a_result() -> None:
    result = InferResult.from_response_body(b'{"model_name":"m","outputs":[]}')
    assert (bool(result), len(result), result.outputs) == (True, 0, ())
    with pytest.raises(KeyError, match="no output 'y'; there are: none"):
        result["y"]


def test_an_output_in_shared_memory_has_no_data_in_the_result() -> None:
    head = b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":'
    result = InferResult.from_response_body(head + b'{"shared_memory_region":"r"}}]}')
    assert result.as_numpy("y", copy=True, dtype=int) is None
    with pytest.raises(KeyError, match="output 'y' came without data: it is in shared memory"):
        result["y"]


def test_arrays_are_copied_and_converted_when_asked_for() -> None:
    result = InferResult.from_response_body(BODY, header_length=len(HEAD))
    own, array = result.as_numpy("y", copy=True), result["y"]
    assert own is not None
    assert not np.shares_memory(own, array)
    assert result.as_numpy("y", dtype=array.dtype) is array
    assert result.as_numpy("y", copy=True, dtype=array.dtype) is not array
    converted = result.as_numpy("y", dtype=np.float64)
    assert converted is not None
    assert (converted.dtype, converted.tolist()) == (np.float64, array.tolist())
    texts = result.as_numpy("s", dtype=str)
    assert texts is not None
    assert (texts.dtype.kind, texts.tolist()) == ("U", ["a", "bc"])
    assert result["s"].tolist() == [b"a", b"bc"]
    with pytest.raises(InvalidRequest, match="output 's' is no array of float64"):
        result.as_numpy("s", dtype=np.float64)


@pytest.mark.parametrize(
    ("member", "expected"),
    [("", {}), (', "parameters": null', {}), (', "parameters": {"a": [1]}', {"a": [1]})],
)
def test_the_parameters_of_a_result(member: str, expected: dict[str, Any]) -> None:
    result = InferResult.from_response_body(f'{{"outputs": []{member}}}'.encode())
    assert result.parameters == expected
    result.parameters["more"] = 1
    assert result.parameters == expected


def test_parameters_that_are_no_object_are_refused() -> None:
    result = InferResult.from_response_body(b'{"outputs": [], "parameters": [1]}')
    with pytest.raises(ProtocolError, match="parameters to be an object, got list"):
        _ = result.parameters
