"""An inference on the wire: the JSON head that goes out, and what comes back, malformed at every place."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import pickle
import struct
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonhttp import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonhttp._protocol.inference import Inference, body_of
from tritonhttp._wire import inference
from tritonhttp._wire.dtypes import triton_to_np_dtype
from tritonhttp._wire.inference import RESERVED_PARAMETERS, decode_response, error_message
from tritonhttp._wire.responses import Response, ResponseHead
from tritonhttp.errors import InferenceServerException, InvalidRequest, ProtocolError, ServerError

INPUT = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}


def request(**options: Any) -> Any:
    tensor = InferInput("x", [1], "FP32").set_data_from_numpy(np.ones(1, np.float32), binary_data=False)
    return json.loads(body_of(Inference("m", [tensor], **options))[0][0])


# -- requests ---------------------------------------------------------------------------------------


def test_a_plain_request_asks_for_binary_outputs() -> None:
    assert request() == {"inputs": [INPUT], "parameters": {"binary_data_output": True}}


def test_named_outputs_say_themselves_whether_they_are_binary() -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    found = request(outputs=[InferRequestedOutput("y", binary_data=False)])
    assert found == {"inputs": [INPUT], "outputs": outputs}


def test_all_outputs_come_as_json_where_the_server_speaks_nothing_else() -> None:
    assert request(binary=False) == {"inputs": [INPUT]}
    assert request(binary=False, priority=1)["parameters"] == {"priority": 1}


@pytest.mark.parametrize("outputs", [None, [], ()])
def test_no_outputs_are_all_outputs(outputs: Any) -> None:
    assert request(outputs=outputs)["parameters"] == {"binary_data_output": True}


@pytest.mark.parametrize("sequence_id", [7, "a sequence", np.int64(7), 2**64 - 1])
def test_a_sequence_brings_its_flags(sequence_id: Any) -> None:
    found = request(sequence_id=sequence_id, sequence_start=True)
    assert found["parameters"] == {
        "binary_data_output": True,
        "sequence_id": sequence_id,
        "sequence_start": True,
        "sequence_end": False,
    }


@pytest.mark.parametrize(
    "text", ['"', "\\", '\\"', "a\r\n\0b", '","id":"7', "x\u2028\u2029</script>", "\x7f"]
)
def test_text_of_users_stays_within_its_string(text: str) -> None:
    """The body is another JSON document if one of them is not encoded."""
    given = InferInput(text, [1], "BYTES")
    given.set_data_from_numpy(np.array([text], object), binary_data=False)
    given.set_parameters({text: text})
    inference = Inference(
        "m",
        [given],
        outputs=[InferRequestedOutput(text, binary_data=False)],
        request_id=text,
        sequence_id=text,
        parameters={text: text},
    )
    flags = {"sequence_id": text, "sequence_start": False, "sequence_end": False}
    sent = {"name": text, "shape": [1], "datatype": "BYTES", "parameters": {text: text}, "data": [text]}
    assert json.loads(body_of(inference)[0][0]) == {
        "id": text,
        "parameters": {**flags, text: text},
        "inputs": [sent],
        "outputs": [{"name": text, "parameters": {"binary_data": False}}],
    }


@pytest.mark.parametrize(
    ("given", "read"), [(1, True), (0, False), (np.int8(1), True), (np.bool_(True), True)]
)
def test_a_flag_may_be_a_number(given: Any, read: bool) -> None:
    found = request(sequence_id=7, sequence_end=given)
    assert found["parameters"]["sequence_end"] is read
    with pytest.raises(InvalidRequest, match="sequence_end must be True or False, got 2"):
        request(sequence_id=7, sequence_end=2)


@pytest.mark.parametrize("sequence_id", [0, ""])
def test_flags_mean_nothing_without_a_sequence(sequence_id: Any) -> None:
    found = request(sequence_id=sequence_id, sequence_start=True, sequence_end=True)
    assert found["parameters"] == {"binary_data_output": True}


def test_priority_timeout_and_id() -> None:
    found = request(priority=3, timeout=0, request_id="r-1")
    assert found["id"] == "r-1"
    assert found["parameters"] == {"binary_data_output": True, "priority": 3, "timeout": 0}
    assert "id" not in request(request_id="")


@pytest.mark.parametrize("name", ["priority", "timeout", "sequence_id"])
def test_whole_numbers_of_any_type_are_plain_in_json(name: str) -> None:
    assert request(**{name: np.uint16(3)})["parameters"][name] == 3
    for wrong in (True, 3.0, np.array(3), -3):
        with pytest.raises(InvalidRequest, match=f"{name} must be a whole number"):
            request(**{name: wrong})


def test_parameters_of_the_caller_go_along() -> None:
    given = {"text": "ü", "number": 1.5, "flag": False, "large": 2**70, "nan": float("inf")}
    found = request(parameters=given)["parameters"]
    assert found == {"binary_data_output": True, **given}


@pytest.mark.parametrize("key", [*RESERVED_PARAMETERS, "triton_", "triton_enable_empty_final_response"])
def test_reserved_parameters_are_refused(key: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f'^Parameter "{key}" is a reserved parameter and cannot be specified.$'
    ):
        request(parameters={key: 1})


@pytest.mark.parametrize("key", ["Triton_x", "tritonx", "sequence", "Timeout"])
def test_similar_names_are_free(key: str) -> None:
    assert request(parameters={key: 1})["parameters"][key] == 1


@pytest.mark.parametrize("parameters", [{"a": b"\xff"}, {"a": object()}, {5: 1}, {"a": "\ud800"}])
def test_parameters_without_a_form_are_refused(parameters: Any) -> None:
    with pytest.raises(InvalidRequest):
        request(parameters=parameters)


def test_parameters_may_be_text_given_as_bytes() -> None:
    assert request(parameters={"a": "é".encode(), "b": [b"x"]})["parameters"]["a"] == "é"


# -- responses --------------------------------------------------------------------------------------


def response(*outputs: Any, tail: bytes = b"", **more: Any) -> tuple[bytearray, int]:
    head = json.dumps({"model_name": "m", "model_version": "1", "outputs": list(outputs), **more}).encode()
    return bytearray(head + tail), len(head)


def output(datatype: Any, shape: Any, size: Any = None, name: str = "y", **more: Any) -> dict[str, Any]:
    described = {"name": name, "datatype": datatype, "shape": shape, **more}
    if size is not None:
        described["parameters"] = {"binary_data_size": size}
    return described


def tensor(body: Any, head: int | None, name: str = "y") -> Any:
    return InferResult.from_response_body(body, header_length=head).as_numpy(name)


ARRAYS = [
    np.array([True, False]),
    np.arange(6, dtype=np.int8).reshape(2, 3),
    np.arange(6, dtype=np.uint64).reshape(1, 6, 1),
    np.array([1.5, -2], np.float16),
    np.array([np.nan, np.inf], np.float32),
    np.array([0.1], np.float64),
    np.array(3, np.int32),
    np.zeros((0,), np.float32),
    np.zeros((2, 0, 3), np.uint8),
]
NAMES = {"b1": "BOOL", "i1": "INT8", "u8": "UINT64", "f2": "FP16", "f4": "FP32", "f8": "FP64", "i4": "INT32"}
NAMES["u1"] = "UINT8"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{list(array.shape)}")
def test_a_binary_tensor_comes_back(array: np.ndarray, kind: Any) -> None:
    raw = array.tobytes()
    body, head = response(output(NAMES[array.dtype.str[1:]], list(array.shape), len(raw)), tail=raw)
    found = tensor(kind(body), head)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.flags.writeable
    assert found.flags.aligned
    assert found.flags.c_contiguous


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{list(array.shape)}")
@pytest.mark.parametrize("flat", [True, False])
def test_json_data_come_back_flat_or_nested(array: np.ndarray, flat: bool) -> None:
    data = (array.ravel() if flat or array.ndim == 0 else array).tolist()
    body, _ = response(output(NAMES[array.dtype.str[1:]], list(array.shape), data=data))
    found = tensor(body, None)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.flags.writeable


def test_tensors_lie_one_behind_the_other() -> None:
    arrays = {"a": np.arange(3, dtype=np.int8), "b": np.arange(4.0), "c": np.arange(2, dtype=np.int16)}
    described = [
        output({"a": "INT8", "b": "FP64", "c": "INT16"}[name], list(array.shape), array.nbytes, name)
        for name, array in arrays.items()
    ]
    described.insert(1, output("INT32", [1], name="j", data=[5]))
    described.insert(1, output("INT32", [1], name="in shared memory"))
    body, head = response(*described, tail=b"".join(array.tobytes() for array in arrays.values()))
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensor(body, head, name), array)
    np.testing.assert_array_equal(tensor(body, head, "j"), [5])
    assert tensor(body, head, "in shared memory") is None
    assert tensor(body, head, "unknown") is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("shape", [[], [2], [2, 1], [0], [1] * 32, [300]])
@pytest.mark.parametrize(
    "odd",
    [
        None,
        output("INT16", [4], 8, "odd"),
        output("UINT32", [2], 8, "odd"),
        output("INT32", [1, 2], 8, "odd"),
        output("BYTES", [1], 8, "odd"),
        output("INT32", [1], 4, "odd"),
        output("INT32", [2], name="odd", data=[0, 0]),
        output("INT32", [2], name="odd"),
    ],
    ids=str,
)
def test_several_small_tensors_come_back(odd: dict[str, Any] | None, shape: list[int], kind: Any) -> None:
    """The second response of a form may be read at once, where all of its tensors are alike."""
    size = 4 * math.prod(shape)
    names = [f"y{index}" for index in range(5)]
    described = [output("INT32", shape, size, name) for name in names]
    odd_size = (odd or {}).get("parameters", {}).get("binary_data_size", 0)
    body, head = response(*described[:3], *([odd] if odd else []), *described[3:])
    odd_data = (struct.pack("<I", 4) + bytes(4))[:odd_size]
    for turn in range(3):
        values = [np.full(shape, 10 * turn + index, "<i4") for index in range(5)]
        raw = [value.tobytes() for value in values]
        result = InferResult.from_response_body(
            kind(body + b"".join((*raw[:3], odd_data, *raw[3:]))), header_length=head
        )
        assert result.as_numpy("unknown") is None
        for name, value in [*zip(names, values, strict=True)][::-1]:
            found = result.as_numpy(name)
            np.testing.assert_array_equal(found, value, strict=True)
            assert found.flags.writeable
            assert found.flags.aligned
            found += 1
            assert result.as_numpy(name) is found
        assert [result[name].tolist() for name in names] == [(value + 1).tolist() for value in values]
        assert (result.as_numpy("odd") is not None) == (odd is not None and bool(odd_size or "data" in odd))


def test_a_malformed_output_among_others_is_refused_each_time() -> None:
    described = [output("INT32", [1], 4, name) for name in "abcd"]
    body, head = response(*described, output("INT32", [2], 4, "wrong"), tail=bytes(20))
    for _ in range(2):
        result = InferResult.from_response_body(body, header_length=head)
        assert result["a"].tolist() == [0]
        with pytest.raises(ProtocolError, match="'wrong'"):
            result.as_numpy("wrong")


def framed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def test_bytes_are_an_object_array_of_bytes() -> None:
    raw = framed(b"a", b"", b"\xff\0", b"d")
    body, head = response(output("BYTES", [2, 2], len(raw)), tail=raw)
    found = tensor(body, head)
    assert found.dtype == np.object_
    assert found.tolist() == [[b"a", b""], [b"\xff\0", b"d"]]


def test_bytes_of_json_are_str() -> None:
    body, _ = response(output("BYTES", [1, 2], data=["ü", ""]))
    assert tensor(body, None).tolist() == [["ü", ""]]


@pytest.mark.parametrize("shape", [[0], [3, 0]])
def test_bytes_without_elements_keep_their_shape(shape: list[int]) -> None:
    body, head = response(output("BYTES", shape, 0))
    found = tensor(body, head)
    assert found.dtype == np.object_
    assert found.shape == tuple(shape)


def test_bf16_is_that_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.0, -2.5, 0.0], ml_dtypes.bfloat16)
    for shape, raw in (([3], array.tobytes()), ([0], b"")):
        body, head = response(output("BF16", shape, len(raw)), tail=raw)
        found = tensor(body, head)
        assert found.dtype == ml_dtypes.bfloat16
        assert found.tobytes() == raw


def aligned(data: bytes, first: int) -> memoryview:
    """Return the data in memory in which the byte at `first` stands on a 64-byte boundary."""
    memory = np.empty(len(data) + 64, np.uint8)
    start = -(memory.__array_interface__["data"][0] + first) % 64
    memory[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return memory[start : start + len(data)].data


def test_an_aligned_tensor_is_a_view_of_the_body() -> None:
    array = np.arange(1000, dtype=np.float32)
    body, head = response(output("FP32", [1000], 4000), tail=array.tobytes())
    memory = aligned(bytes(body), head)
    found = tensor(memory, head)
    assert np.shares_memory(found, np.asarray(memory))
    found[0] = 5
    assert memory[head : head + 4].tobytes() == struct.pack("<f", 5)


def test_a_misaligned_tensor_is_a_copy() -> None:
    array = np.arange(1000, dtype=np.float64)
    body, head = response(output("FP64", [1000], 8000), tail=array.tobytes())
    memory = aligned(bytes(body), head + 1)
    found = tensor(memory, head)
    assert found.flags.aligned
    assert not np.shares_memory(found, np.asarray(memory))
    np.testing.assert_array_equal(found, array)


def test_a_tensor_in_read_only_memory_is_a_copy() -> None:
    body, head = response(output("INT8", [1000], 1000), tail=bytes(1000))
    found = tensor(bytes(body), head)
    found[0] = 1
    assert tensor(bytes(body), head)[0] == 0


def test_a_small_tensor_does_not_keep_a_large_body_alive() -> None:
    tail = bytes(100_000) + b"\1\0\0\0"
    body, head = response(
        output("UINT8", [100_000], 100_000, "large"), output("INT32", [1], 4, "small"), tail=tail
    )
    memory = np.frombuffer(bytes(body), np.uint8).copy()
    gone = weakref.ref(memory)
    small = tensor(memory.data, head, "small")
    del memory
    gc.collect()
    assert gone() is None
    assert small.tolist() == [1]


def placed(described: dict[str, Any], memory: bytearray, offset: int, limit: int) -> Any:
    layout, _ = decode_response(*response(described))
    return layout.placed_tensor("y", memory, offset, limit)


def test_an_output_in_shared_memory_is_a_view_of_it() -> None:
    for start in (0, 64):  # the second answer of a form finds what was remembered of the first
        memory = bytearray(128)
        struct.pack_into("<3i", memory, start, 1, 2, 3)
        found = placed(output("INT32", [3]), memory, start, 64)
        assert found.tolist() == [1, 2, 3]
        found[0] = 9
        assert memory[start] == 9


def test_an_output_in_shared_memory_is_not_in_the_response() -> None:
    described = output("INT32", [3], placed="elsewhere")
    assert placed(described, bytearray(64), 0, 64) is not None
    assert tensor(response(described)[0], None) is None


def test_an_output_in_the_response_is_not_in_shared_memory() -> None:
    body, head = response(output("INT32", [1], 4), tail=bytes(4))
    layout, _ = decode_response(body, head)
    assert layout.placed_tensor("y", bytearray(64), 0, 64) is None
    assert layout.placed_tensor("absent", bytearray(64), 0, 64) is None
    assert placed(output("INT32", [1], data=[1]), bytearray(64), 0, 64) is None


@pytest.mark.parametrize("described", [output("INT32", [17]), output("BYTES", [1]), output("INT32", [-1])])
def test_an_output_that_does_not_fit_its_place_is_refused(described: dict[str, Any]) -> None:
    for _ in range(2):
        with pytest.raises(ProtocolError, match="'y'"):
            placed(described, bytearray(128), 0, 64)


@pytest.mark.parametrize("padding", [0, 10_000])
def test_responses_with_the_same_head_do_not_share_data(padding: int) -> None:
    described = output("INT32", [2], 8, padding="p" * padding)
    first, head = response(described, tail=struct.pack("<2i", 1, 2))
    second, _ = response(described, tail=struct.pack("<2i", 3, 4))
    one, two = (InferResult.from_response_body(body, header_length=head) for body in (first, second))
    assert one.as_numpy("y").tolist() == [1, 2]
    one.get_response()["outputs"][0]["shape"] = "changed by a caller"
    one.get_response()["outputs"].clear()
    assert two.get_response()["outputs"] == [described]
    assert two.as_numpy("y").tolist() == [3, 4]
    again = InferResult.from_response_body(second, header_length=head)
    assert again.get_response()["outputs"] == [described]
    assert again.as_numpy("y").tolist() == [3, 4]


def test_json_data_with_the_same_head_do_not_share_memory() -> None:
    body, _ = response(output("INT32", [2], data=[1, 2]))
    tensor(body, None)[0] = 9
    assert tensor(body, None).tolist() == [1, 2]


def test_the_same_head_before_another_size_is_refused() -> None:
    body, head = response(output("INT32", [2], 8), tail=bytes(8))
    decode_response(body, head)
    for other in (body[:-1], body + b"\0", body[:head]):
        with pytest.raises(ProtocolError):
            decode_response(other, head)


def test_heads_that_are_remembered_have_a_bound() -> None:
    for padding in (*range(300), *range(50_000, 50_050), *range(200_000, 200_003)):
        decode_response(*response(output("INT32", [1], 4, padding="p" * padding), tail=bytes(4)))
        assert len(inference._layouts) <= 256
        assert sum(map(len, inference._layouts)) <= 1 << 20
        assert max(map(len, inference._layouts)) <= 1 << 17


def test_json_data_are_remembered_where_they_are_few() -> None:
    for number in (10, 10_000):
        body, _ = response(output("INT32", [number], data=[1] * number))
        decode_response(body, None)
        assert (bytes(body) in inference._layouts) == (number == 10)


def with_id(request_id: str, value: int, where: str = "first") -> tuple[bytes, int]:
    """Return a response with an id where Triton puts it, or behind the model's name as MLServer does."""
    own, name = f'"id":{request_id},', '"model_name":"m",'
    described = json.dumps(
        [output("INT32", [1], 4), output("BYTES", [1], 5, "s"), output("INT32", [1], 4, "z")]
    )
    start = own + name if where == "first" else name + own
    head = f'{{{start}"outputs":{described}}}'.encode()
    return head + struct.pack("<iI1si", value, 1, b"a", -value), len(head)


@pytest.mark.parametrize("where", ["first", "later"])
def test_responses_that_differ_in_their_id_are_read_alike(where: str) -> None:
    layouts = []
    for number, request_id in enumerate(('"a"', '"longer, 2"', r'"\u00e4\""', '"a"')):
        body, head = with_id(request_id, number, where)
        response = Response(ResponseHead(200, {"inference-header-content-length": str(head)}), body)
        result = InferResult(response, False, _request_id=request_id.encode())
        for each in (result, pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            assert each.as_numpy("y").tolist() == [number]
            assert each.as_numpy("s").tolist() == [b"a"]
            assert each.as_numpy("z").tolist() == [-number]
            assert each.get_response() == json.loads(body[:head])
            assert each.get_response()["id"] == json.loads(request_id)
        layouts.append(result._layout)
    assert set(layouts) == {layouts[0]}


@pytest.mark.parametrize("request_id", [b"", b'"a', b'"b"', b'a"', b'"a","model_name":"m"'])
def test_a_response_with_another_id_is_read_too(request_id: bytes) -> None:
    body, head = with_id('"a"', 7)
    layout, _ = decode_response(body, head, request_id)
    found = layout.tensor("z", body, head)
    assert found is not None
    assert found.tolist() == [-7]


def test_an_id_does_not_hide_what_is_no_json() -> None:
    with pytest.raises(ProtocolError):
        decode_response(b'{"id":"a",}', None, b'"a"')
    with pytest.raises(ServerError) as caught:
        decode_response(b'{"id":"a","error":"e"}', None, b'"a"')
    assert caught.value.debug_details() == '{"id":"a","error":"e"}'


def test_a_result_is_alike_behind_a_head_of_another_size() -> None:
    body, head = with_id('"a"', 1)
    result = InferResult.from_response_body(body, header_length=head)
    for request_id in ('"b"', '"longer"', '""'):
        other, size = with_id(request_id, 5)
        alike = result.alike(other, size) if size != head else result.alike(other)
        assert [alike.as_numpy(name).tolist() for name in "ysz"] == [[5], [b"a"], [-5]]
        assert alike.get_response() == json.loads(other[:size])
        assert pickle.loads(pickle.dumps(alike)).as_numpy("z").tolist() == [-5]


@pytest.mark.parametrize("padding", [0, 10_000])
def test_the_json_is_told_as_it_came(padding: int) -> None:
    body, head = response(
        output("INT32", [2], 8), tail=bytes(8), id="7", parameters={"pad": " " * padding, "nan": None}
    )
    for _ in range(2):
        result = InferResult.from_response_body(body, header_length=head)
        assert result.get_response() == json.loads(body[:head])
        assert result.get_response() is result.get_response()


def test_a_response_without_outputs() -> None:
    for head in (b'{"model_name":"m"}', b'{"model_name":"m","outputs":null}', b'{"outputs":[]}'):
        assert tensor(head, None) is None
        assert tensor(head, len(head)) is None


def test_fields_of_other_servers_are_let_through() -> None:
    body, _ = response(
        output("INT32", [1], data=[1], parameters=None), parameters=None, model_version=None, extra={"a": 1}
    )
    assert tensor(body, None).tolist() == [1]


HEADS = {
    "nothing": b"",
    "no JSON": b"<html>",
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "an unfinished object": b'{"outputs":[',
    "an object of something else": b'{"status":"maintenance"}',
    "outputs that are no list": b'{"outputs":{}}',
    "outputs of text": b'{"outputs":"y"}',
    "an output that is no object": b'{"outputs":[1]}',
    "an output of null": b'{"outputs":[null]}',
    "an output without a name": b'{"outputs":[{"datatype":"FP32"}]}',
    "an output with a number for a name": b'{"outputs":[{"name":5}]}',
    "parameters that are no object": b'{"outputs":[{"name":"y","parameters":[]}]}',
    "not UTF-8": b'{"outputs":[{"name":"\xff"}]}',
}


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("head", list(HEADS.values()), ids=list(HEADS))
def test_a_malformed_head_is_refused(head: bytes, explicit: bool) -> None:
    for _ in range(2):  # nor is it remembered as good
        with pytest.raises(ProtocolError):
            decode_response(head, len(head) if explicit else None)


def test_sizes_whose_sum_has_more_digits_than_python_shows_are_refused() -> None:
    many = b",".join(
        b'{"name":"%d","parameters":{"binary_data_size":%s}}' % (n, b"9" * 4300) for n in range(20)
    )
    with pytest.raises(ProtocolError, match="binary_data_size as a size"):
        decode_response(b'{"outputs":[%b],"x":NaN}' % many, None)


@pytest.mark.parametrize("length", [-1, 10**6, 10**30])
def test_a_head_longer_than_the_body_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match="Inference-Header-Content-Length"):
        decode_response(b"{}", length)


@pytest.mark.parametrize("size", [7, 9, 0, -8, 10**9, 2**63, 10**30, 8.0, True, "8", [8], {}])
def test_a_binary_size_that_does_not_add_up_is_refused(size: Any) -> None:
    body, head = response(output("INT32", [2], size), tail=bytes(8))
    with pytest.raises(ProtocolError):
        tensor(body, head)


def test_bytes_that_belong_to_no_tensor_are_refused() -> None:
    body, head = response(output("INT32", [1], data=[1]), tail=b"more")
    with pytest.raises(ProtocolError, match=f"{len(body)} bytes"):
        decode_response(body, head)


def test_binary_data_without_a_head_size_are_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_response(response(output("INT32", [1], 4))[0], None)


SHAPES = [None, 5, "2", {}, [-1], [2.0], [True], ["2"], [None], [2**63], [10**30, 0], [[2]]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["INT32", "BYTES"])
def test_a_malformed_shape_is_refused_with_the_outputs_name(shape: Any, binary: bool, datatype: str) -> None:
    data = framed(b"a", b"b") if datatype == "BYTES" else bytes(8)
    if binary:
        body, head = response(output(datatype, shape, len(data)), tail=data)
    else:
        body, head = response(output(datatype, shape, data=[1, 2]))
    with pytest.raises(ProtocolError, match="'y'"):
        tensor(body, head)


@pytest.mark.parametrize(
    "shape", [[1] * 65, [2**62, 2**62, 0], [2**31, 2**31, 2**31, 0], [10**18] * 300], ids=len
)
@pytest.mark.parametrize("datatype", ["INT32", "BYTES"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_shape_that_no_array_has_is_refused(shape: list[int], binary: bool, datatype: str) -> None:
    """The number of elements may have more digits than Python shows (4,300)."""
    data = b"" if 0 in shape else bytes(4)
    if binary:
        body, head = response(output(datatype, shape, len(data)), tail=data)
    else:
        body, head = response(output(datatype, shape, data=[1] if data else []))
    for _ in range(2):
        with pytest.raises(ProtocolError, match=r"'y'.*shape"):
            tensor(body, head)


@pytest.mark.parametrize("datatype", [None, 5, "", "FP8", "int32", ["INT32"], {}])
def test_an_unknown_datatype_is_refused(datatype: Any) -> None:
    for described, tail in ((output(datatype, [1], 4), bytes(4)), (output(datatype, [1], data=[1]), b"")):
        body, head = response(described, tail=tail)
        with pytest.raises(ProtocolError, match="'y': unknown datatype"):
            tensor(body, head)


@pytest.mark.parametrize(("shape", "size"), [([3], 8), ([1], 8), ([], 8), ([0], 8), ([2], 0), ([2, 2], 8)])
def test_a_shape_that_does_not_fit_the_size_is_refused(shape: list[int], size: int) -> None:
    body, head = response(output("INT32", shape, size), tail=bytes(size))
    with pytest.raises(ProtocolError, match=rf"'y': INT32 of shape .* takes .* bytes, got {size}"):
        tensor(body, head)


@pytest.mark.parametrize(
    ("shape", "raw"),
    [
        ([1], b""),
        ([2], framed(b"a")),
        ([1], framed(b"a", b"b")),
        ([0], framed(b"")),
        ([1], b"\1\0\0\0"),
        ([1], b"\xff\xff\xff\xff"),
        ([1], framed(b"a") + b"\0"),
        ([10**9], framed(b"a")),
    ],
)
def test_malformed_bytes_are_refused_with_the_outputs_name(shape: list[int], raw: bytes) -> None:
    body, head = response(output("BYTES", shape, len(raw)), tail=raw)
    with pytest.raises(ProtocolError, match=r"^output 'y': BYTES"):
        tensor(body, head)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT32", None),
        ("INT32", 5),
        ("INT32", "12"),
        ("INT32", {"0": 1}),
        ("INT32", [1]),
        ("INT32", [1, 2, 3]),
        ("INT32", ["a", "b"]),
        ("INT32", [1, None]),
        ("INT32", [1, {}]),
        ("INT32", [1, 1.5]),
        ("INT32", [1, "2.5"]),
        ("INT32", [True, "x"]),
        ("UINT8", ["1", "300"]),
        ("UINT8", ["1", "-1"]),
        ("INT32", [[1], [2, 3]]),
        ("INT64", [1, 2**70]),
        ("FP32", ["a", 1]),
        ("FP32", ["1.5", "x"]),
        ("FP32", ["1.5", ""]),
        ("BOOL", ["true", "false"]),
        ("BOOL", [True, "x"]),
        ("BOOL", [True, 2]),
        ("BYTES", ["a"]),
        ("BYTES", ["a", 7]),
        ("BYTES", ["a", None]),
        ("BYTES", [["a", "b"], ["c", "d"]]),
    ],
)
def test_json_data_that_do_not_fit_are_refused(datatype: str, data: Any) -> None:
    body, _ = response(output(datatype, [2], data=data))
    with pytest.raises(ProtocolError, match="'y'"):
        tensor(body, None)


@pytest.mark.parametrize(
    ("datatype", "data", "values"),
    [
        ("INT64", ["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)]),
        ("UINT64", ["18446744073709551615", 2], [2**64 - 1, 2]),
        ("INT32", [1, "2"], [1, 2]),
        ("FP32", ["1.5", 1], [1.5, 1.0]),
        ("FP64", ["-Infinity", "Infinity"], [-np.inf, np.inf]),
        ("FP32", ["2e3", None], [2000.0, np.nan]),
    ],
)
def test_numbers_may_come_as_strings(datatype: str, data: Any, values: list[Any]) -> None:
    """JSON made of protobuf has them so."""
    expected = np.array(values, triton_to_np_dtype(datatype))
    for shape, nested in (([2], data), ([2, 1], [[each] for each in data]), ([1, 1, 2], [[data]])):
        body, _ = response(output(datatype, shape, data=nested))
        np.testing.assert_array_equal(tensor(body, None), expected.reshape(shape))


@pytest.mark.parametrize(
    "data", [[["1", "x"]], [["1", "1.5"]], [["1", 1.5]], [[["300"]], [[1]]], [[1, "-1"]]]
)
def test_nested_strings_that_are_no_numbers_are_refused(data: Any) -> None:
    body, _ = response(output("UINT8", [np.array(data).size], data=data))
    with pytest.raises(ProtocolError, match="its data are not UINT8"):
        tensor(body, None)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16", "INT32", "BOOL", "BYTES"])
def test_a_long_text_among_short_ones_takes_no_memory_for_each(datatype: str) -> None:
    """An array of texts has as much room for each as for the longest."""
    data = ["0" * 4000, *["1"] * 4000]
    body, head = response(output(datatype, [len(data)], data=data))
    tracemalloc.start()
    try:
        with contextlib.suppress(ProtocolError):
            tensor(body, head)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_bf16_as_json_is_rounded_as_other_floats_are() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    body, _ = response(output("BF16", [2], data=[1.1, 2]))
    found = tensor(body, None)
    assert found.dtype == ml_dtypes.bfloat16
    assert found.astype(np.float32).tolist() == [1.1015625, 2.0]
    for wrong in (["x"], ["1.5"]):
        body, _ = response(output("BF16", [1], data=wrong))
        with pytest.raises(ProtocolError, match="its data are not BF16"):
            tensor(body, None)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP16", [70_000]),
        ("FP16", [2**80]),
        ("FP16", [["1e9"]]),
        ("FP32", [1e39]),
        ("FP32", ["-1e99"]),
        ("BF16", [1e39]),
        ("BF16", [-1e300]),
    ],
)
def test_a_number_that_is_too_large_for_its_datatype_is_not_taken_as_infinite(
    datatype: str, data: Any
) -> None:
    pytest.importorskip("ml_dtypes")
    body, _ = response(output(datatype, [1], data=data))
    with pytest.raises(ProtocolError, match=f"its data are not {datatype}"):
        tensor(body, None)


@pytest.mark.parametrize("datatype", ["FP16", "FP32"])
def test_infinities_come_as_strings(datatype: str) -> None:
    body, _ = response(output(datatype, [2], data=["Infinity", "-inf"]))
    assert tensor(body, None).tolist() == [np.inf, -np.inf]


def test_null_is_what_some_servers_write_for_nan() -> None:
    body, _ = response(output("FP32", [2], data=[None, 1]))
    assert np.isnan(tensor(body, None)).tolist() == [True, False]


def test_an_error_behind_a_status_of_success_is_raised() -> None:
    body = b'{"error":"expects exactly 1 response"}'
    for _ in range(2):
        with pytest.raises(ServerError) as caught:
            decode_response(body, None)
        assert caught.value.message() == "expects exactly 1 response"
        assert caught.value.status() == "200"
        assert caught.value.debug_details() == body.decode()


def test_an_error_beside_outputs_is_data() -> None:
    body, head = response(output("INT32", [1], data=[1]), error="a field of the model")
    assert tensor(body, head).tolist() == [1]


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300)))
def test_any_bytes_are_decoded_or_refused(body: bytes, head: int | None) -> None:
    with contextlib.suppress(InferenceServerException):
        decode_response(body, head)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(JSON, JSON, JSON, JSON, st.sampled_from(["datatype", "shape", "parameters", "data", "name"]))
def test_any_json_in_any_place_is_decoded_or_refused(a: Any, b: Any, c: Any, d: Any, which: str) -> None:
    described = {"name": "y", "datatype": "INT32", "shape": [2], "data": [1, 2]}
    described.update(dict(zip(["shape", "datatype", "parameters", "data"], (a, b, c, d), strict=True)))
    for broken in ({**described}, {**output("INT32", [2], data=[1, 2]), which: d}):
        body, head = response(broken, tail=b"")
        with contextlib.suppress(InferenceServerException):
            tensor(body, head)


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": "gone"}, "gone"),
        ({"error": ""}, ""),
        ({"error": {"message": "gone"}}, "gone"),
        ({"error": {"error": "gone"}}, "gone"),
        ({"error": [{"msg": "too short", "loc": ["body", 0, "x"]}]}, "body.0.x: too short"),
        ({"error": [{"msg": "a"}, {"msg": "b", "loc": []}, "c"]}, "a; b; c"),
        ({"error": [{"msg": "a", "loc": None}]}, "a"),
        ({"error": [{"msg": "a", "loc": 5}]}, "a"),
        ({"error": [{"msg": "a", "loc": "body"}]}, "a"),
        ({"error": 5}, "5"),
        ({"error": []}, "[]"),
        ({"error": {"code": 7}}, '{"code":7}'),
        ({"error": {"msg": {"deep": 1}}}, '{"msg":{"deep":1}}'),
        ({"error": None}, None),
        ({}, None),
        ({"error": "field", "outputs": []}, None),
        ({"error": "field", "model_name": "m"}, None),
        ([{"error": "gone"}], None),
        ("error", None),
        (None, None),
    ],
)
def test_error_message(answer: Any, message: str | None) -> None:
    assert error_message(answer) == message


def test_an_error_nested_beyond_all_measure_is_still_one() -> None:
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    message = error_message({"error": nested})
    assert message
    assert len(message) < 5000


@given(JSON)
def test_any_json_as_an_error_has_a_message(error: Any) -> None:
    message = error_message({"error": error})
    assert message is None if error is None else isinstance(message, str)


def test_an_error_in_a_success_has_the_status_that_came() -> None:
    answer = Response(ResponseHead(202, {}), b'{"error":"bad"}')
    with pytest.raises(ServerError, match=r"^\[202\] bad$"):
        Inference("m", []).decode(answer)


# -- bodies that were received by other means --------------------------------------------------------


@pytest.mark.parametrize("with_length", [True, False])
def test_a_body_may_be_text(with_length: bool) -> None:
    text = json.dumps(
        {"model_name": "é", "outputs": [output("BYTES", [2], data=["é", "x"])]}, ensure_ascii=False
    )
    for read in (InferResult.from_response_body, InferenceServerClient.parse_response_body):
        result = read(text, header_length=len(text) if with_length else None)
        assert result["y"].tolist() == ["é", "x"]
        assert result.get_response()["model_name"] == "é"
