"""JSON of the wrong type at every place of an answer: each value is replaced by one of every other type."""

import copy
import json
import re

import pytest

from tritonhttp import InferenceServerException, ProtocolError, ServerError

from ..clients import tensor
from ..framing import inference_answer
from .conftest import SMALL
from .servers import HEALTHY, answer

OTHERS = [None, True, 7, -1, 1.5, 2**70, "x", "1", [], [[]], [None], {}, {"x": None}]

AS_JSON = {
    "model_name": "m",
    "model_version": "1",
    "id": "7",
    "parameters": {"p": 1},
    "outputs": [
        {"name": "I", "datatype": "INT32", "shape": [2], "parameters": {"p": 1}, "data": [3, 4]},
        {"name": "F", "datatype": "FP32", "shape": [2], "data": [0.5, 2]},
        {"name": "T", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        {"name": "S", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
    ],
}
AS_BINARY = {
    "model_name": "m",
    "outputs": [
        {"name": "I", "datatype": "INT32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "S", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
    ],
}
TENSORS = b"\3\0\0\0\4\0\0\0" + b"\1\0\0\0a\1\0\0\0b"

#: Other values that a place may hold: this library does not use it, or the value means that it is absent.
FREE = re.compile(r"model_name|model_version|id|parameters/?.*|outputs/\d/parameters/p")
ACCEPTED = {
    r"outputs": [None, []],
    r"outputs/\d/name": ["x", "1"],
    r"outputs/\d/parameters": [None, {}, {"x": None}],
    r"outputs/0/data/\d": [True, 7, -1, "1"],
    r"outputs/1/data/\d": [None, True, 7, -1, 1.5, 2**70, "1"],
    r"outputs/2/data/\d": [True],
    r"outputs/3/data/\d": ["x", "1"],
}


def places(value, path=()):
    """Yield the path of every value inside of a JSON value, its own first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(value, path, other):
    if not path:
        return other
    changed = copy.deepcopy(value)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = other
    return changed


def is_accepted(place, other, right):
    if FREE.fullmatch(place):
        return True
    allowed = [values for pattern, values in ACCEPTED.items() if re.fullmatch(pattern, place)]
    # The binary data of a tensor that the head does not mention are too many bytes.
    if right is AS_BINARY and (place == "outputs" or place.endswith("parameters")):
        return False
    return any(other == value and type(other) is type(value) for values in allowed for value in values)


@pytest.fixture
def answers(serve, open_client):
    """Return a client, and a list that takes the answers of its server to the next requests."""
    due = []

    def script(peer):
        while peer.read_request():
            peer.send(due.pop() if due else answer(HEALTHY))

    server = serve(script)
    yield open_client(server.url), due
    assert server.connections == 1  # a whole answer leaves its connection usable, however wrong its content


@pytest.mark.parametrize(
    ("right", "binary", "path"),
    [
        pytest.param(right, binary, path, id=f"{kind}-{'/'.join(map(str, path))}")
        for kind, right, binary in (("json", AS_JSON, b""), ("binary", AS_BINARY, TENSORS))
        for path in places(right)
    ],
)
def test_an_inference_with_json_of_the_wrong_type(answers, right, binary, path):
    client, due = answers
    place = "/".join(map(str, path))
    for other in OTHERS:
        due.append(inference_answer(replaced(right, path, other), binary))
        if is_accepted(place, other, right):
            read(client)
        else:
            with pytest.raises(ProtocolError) as caught:
                read(client)
            message = caught.value.message()
            assert len(message) < 1000, (place, other)
            assert re.search(r"expected|unknown|takes?|are not", message), (place, other, message)
            if path[:1] == ("outputs",) and len(path) > 2:
                name = repr(right["outputs"][path[1]]["name"])
                named = path[2] == "name" or name in message or "the response's body has" in message
                assert named, (place, other, message)
    read(client)


def read(client):
    result = client.infer("m", [tensor("INPUT0", SMALL)])
    assert repr(result)
    for output in result.get_response().get("outputs") or ():
        result.as_numpy(output["name"])
        assert result.get_output(output["name"])


def test_the_unchanged_answers_are_accepted(answers):
    client, due = answers
    for right, binary in ((AS_JSON, b""), (AS_BINARY, TENSORS)):
        due.append(inference_answer(right, binary))
        result = client.infer("m", [tensor("INPUT0", SMALL)])
        assert result.as_numpy("I").tolist() == [3, 4]
        assert len(result.as_numpy("S"))


OBJECTS = [
    ("get_server_metadata",),
    ("get_model_metadata", "m"),
    ("get_model_config", "m"),
    ("get_inference_statistics", "m"),
    ("get_trace_settings",),
    ("update_trace_settings", "m", {}),
    ("get_log_settings",),
    ("update_log_settings", {}),
]
LISTS = [
    ("get_model_repository_index",),
    ("get_system_shared_memory_status",),
    ("get_cuda_shared_memory_status",),
]


@pytest.mark.parametrize("call", OBJECTS + LISTS, ids=lambda call: call[0])
def test_an_answer_of_the_wrong_json_type_is_refused(answers, call):
    client, due = answers
    name, *arguments = call
    wanted = list if call in LISTS else dict
    for other in [*OTHERS, {"name": "m"}]:
        due.append(answer(other))
        if isinstance(other, wanted):
            assert getattr(client, name)(*arguments) == other
        else:
            word = "list" if wanted is list else "object"
            came = type(json.loads(json.dumps(other))).__name__ if other != 2**70 else "(int|float)"
            with pytest.raises(ProtocolError, match=f"expected a JSON {word}, got {came}"):
                getattr(client, name)(*arguments)


@pytest.mark.parametrize("status", ["200 OK", "500 No"])
def test_an_error_of_any_type_is_an_error(answers, status):
    client, due = answers
    for key in ("error", "detail", "message"):
        for other in OTHERS:
            if status == "200 OK" and (key != "error" or other is None):
                continue
            due.append(answer({key: other}, status))
            with pytest.raises(ServerError) as caught:
                client.get_server_metadata()
            assert caught.value.status() == status[:3]
            assert caught.value.message()
    assert issubclass(ServerError, InferenceServerException)
