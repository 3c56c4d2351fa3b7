"""Models as functions, over a client with given answers: which requests they make, and when."""

from __future__ import annotations

import html.parser
import inspect
import json
import sys
import time
import types
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tritonhttp
import tritonhttp._clients.awaited.model
import tritonhttp._clients.blocking.model
from tritonhttp import (
    ConnectRefused,
    InferAsyncRequest,
    InferenceServerException,
    InferResult,
    InvalidRequest,
    MissingDependency,
    ServerError,
)
from tritonhttp._basics import table
from tritonhttp._calls.turns import Turn, Turns
from tritonhttp._clients import model_base
from tritonhttp._clients.blocking.drive import drive
from tritonhttp._clients.blocking.model import Model, Outputs
from tritonhttp._clients.given import Options
from tritonhttp._protocol.inference import Inference
from tritonhttp._protocol.operations import Operation
from tritonhttp._transport.blocking_pool import BlockingPool
from tritonhttp._transport.policy import UNSET, moment

METADATA: dict[str, Any] = {
    "name": "m",
    "versions": ["1"],
    "platform": "p",
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1]}],
    "outputs": [{"name": "Y", "datatype": "FP32", "shape": [-1]}],
}
SERVER = {"name": "s", "version": "0", "extensions": ["binary_tensor_data"]}
PATHS = {"v2/models/m": METADATA, "v2/models/m/config": {"max_batch_size": 0}, "v2": SERVER}


def result(version: str = "1", **outputs: Any) -> InferResult:
    found = [
        {"name": name, "datatype": "FP32", "shape": [len(data)], "data": data}
        for name, data in (outputs or {"Y": [1.0]}).items()
    ]
    head = {"model_name": "m", "model_version": version, "outputs": found}
    return InferResult.from_response_body(json.dumps(head).encode())


def refusal(status: int, words: str = "no") -> ServerError:
    return ServerError(words, str(status))


class Client:
    """A client with given answers, which records its requests."""

    _workers = 2
    _verbose = False

    def __init__(self, binary: bool | None = None, **paths: Any) -> None:
        self._binary = binary
        self.paths: dict[str, Any] = {**PATHS, **paths}
        self.asked: list[str] = []
        self.inferred: list[dict[str, Any]] = []
        #: The answers to inferences: a result, an error, or a function of the arguments.
        self.answers: list[Any] = []
        self.under_way = self.most = 0
        self._models: Any = table.Table()
        self._turns: Turns[Any] = Turns(BlockingPool)

    def _drive_in_turn(self, turn: Turn[Any], flow: Any, *about: Any) -> Any:
        with turn, turn:
            assert turn.begin()
            return drive(flow, lambda operation: self._run(operation, *about))

    def _until(self, deadline: Any) -> Any:
        return None if deadline is UNSET else moment(100.0, deadline)

    def _run(self, operation: Operation[Any], headers: Any, query_params: Any, until: Any) -> Any:
        if isinstance(operation, Inference):
            return self.infer(arguments_of(operation, headers, query_params, until))
        self.asked.append(operation.path)
        self.seen = headers, query_params, until
        found = self.paths[operation.path]
        if isinstance(found, Exception):
            raise found
        return found

    def infer(self, arguments: dict[str, Any]) -> Any:
        self.inferred.append(arguments)
        found = self.answers.pop(0) if self.answers else result()
        if callable(found):
            found = found(arguments)
        if isinstance(found, BaseException):
            raise found
        return found

    def _start(self, inference: Inference, headers: Any, query_params: Any, until: Any, *, copy: bool) -> Any:
        assert copy is False
        client, arguments = self, arguments_of(inference, headers, query_params, until)
        client.under_way += 1
        client.most = max(client.most, client.under_way)

        class Greenlet:
            def ready(self) -> bool:
                return False

            def get(self, block: bool = True, timeout: float | None = None) -> Any:
                client.under_way -= 1
                return client.infer(arguments)

        return InferAsyncRequest(Greenlet())

    def binary_of(self, index: int) -> tuple[bool, Any]:
        """Return how inputs went out, and outputs were asked for."""
        arguments = self.inferred[index]
        (tensor,) = arguments["inputs"]
        outputs = arguments["outputs"]
        return tensor._json is None, outputs and [output._form[:3] for output in outputs]


def arguments_of(inference: Inference, headers: Any, query_params: Any, until: Any) -> dict[str, Any]:
    """Return what an inference asks for, as the arguments of `infer`."""
    plain = Inference("", ())
    given = {each.name: getattr(inference, each.name) for each in fields(inference)}
    always = ["model_name", "model_version", "inputs", "outputs"]
    if inference.sequence_id:
        always += ["sequence_start", "sequence_end"]
    asked = {name: value for name, value in given.items() if name in always or value != getattr(plain, name)}
    about = {"headers": headers, "query_params": query_params, "deadline": until}
    return asked | {name: value for name, value in about.items() if value is not None}


def model_of(client: Any, name: str = "m", version: str = "") -> Model:
    return Model(client, name, version)


def array_of(arguments: dict[str, Any]) -> list[float]:
    return arguments["inputs"][0]._binary.tolist()  # type: ignore[no-any-return]


def test_nothing_is_asked_before_the_first_call_and_the_model_is_read_once() -> None:
    client = Client()
    model = model_of(client)
    assert (model.signature, client.asked) == (None, [])
    assert repr(model) == "<Model 'm': not read yet>"
    outputs = model(X=[1])
    assert client.asked == ["v2/models/m", "v2/models/m/config", "v2"]
    model(X=[2])
    assert len(client.asked) == 3
    assert [array_of(each) for each in client.inferred] == [[1], [2]]
    assert outputs["Y"].tolist() == [1]
    assert repr(model) == "<Model 'm': X FP32[-1] -> Y FP32[-1]>"
    assert model.refresh() is model
    assert len(client.asked) == 5  # whether it speaks binary is known


def test_a_name_that_cannot_be_one_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest):
        model_of(Client(), "")
    with pytest.raises(InvalidRequest):
        model_of(Client(), "m", True)  # type: ignore[arg-type]
    assert model_of(Client(), "m", 1).version == "1"  # type: ignore[arg-type]


def test_outputs_are_a_mapping_that_cannot_be_written() -> None:
    found = Outputs(result(Y=[1.0], Z=[2.0]))
    assert (list(found), len(found), "Y" in found, "Q" in found) == (["Y", "Z"], 2, True, False)
    assert {name: array.tolist() for name, array in found.items()} == {"Y": [1], "Z": [2]}
    assert found["Y"] is found.result.as_numpy("Y")
    assert repr(found) == "<Outputs Y FP32[1], Z FP32[1]>"
    assert found.get("Q") is None
    with pytest.raises(KeyError, match="no output 'Q'; there are: 'Y', 'Z'"):
        found["Q"]
    with pytest.raises(TypeError):
        found["Y"] = 1  # type: ignore[index]


# -- inputs and options


def test_options_go_to_infer() -> None:
    client = Client()
    options: dict[str, Any] = {
        "request_id": "7",
        "priority": 1,
        "timeout": 5,
        "headers": {"a": "b"},
        "query_params": {"c": "d"},
        "request_compression_algorithm": "gzip",
        "response_compression_algorithm": "deflate",
        "parameters": {"e": 1},
        "idempotent": True,
    }
    model_of(client)({"X": [1]}, deadline=4.0, outputs=["Y"], classes=2, **options)
    (sent,) = client.inferred
    assert {name: sent[name] for name in options} == options
    assert (sent["model_name"], sent["model_version"], float(sent["deadline"])) == ("m", "", 104.0)
    assert [output._form[:3] for output in sent["outputs"]] == [("Y", True, 2)]
    assert client.seen == ({"a": "b"}, {"c": "d"}, 104.0)


def test_inputs_are_keywords_or_a_mapping() -> None:
    names = ["self", "inputs", "cast", "end"]
    infos = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in names]
    client = Client(**{"v2/models/m": {**METADATA, "inputs": infos}})
    model = model_of(client)
    given = {name: [1.0] for name in names}
    model(given, cast=True)
    assert [tensor.name() for tensor in client.inferred[0]["inputs"]] == names
    assert given == {name: [1.0] for name in names}
    with pytest.raises(
        InvalidRequest, match="input 'cast' has the name of an option; give the inputs as a mapping"
    ):
        model(**given)
    with pytest.raises(
        InvalidRequest,
        match=r"'X', 'Z': no such option, and there are inputs by position too; .*outputs, classes",
    ):
        model({"self": [1]}, X=[1], Z=[2])


@pytest.mark.parametrize("classes", [-1, "3", 1.5, True, np.array(3)])
def test_classes_are_a_number(classes: Any) -> None:
    with pytest.raises(InvalidRequest, match="classes must be a whole number"):
        model_of(Client())({"X": [1]}, classes=classes)


def test_classes_of_outputs_that_nobody_knows() -> None:
    client = Client(**{"v2/models/m": {"name": "m"}})
    with pytest.raises(InvalidRequest, match="classes need the names of their outputs"):
        model_of(client)({"X": [1]}, classes=2)


def test_classes_are_requested_of_the_outputs_that_have_any() -> None:
    outputs = [
        {"name": "Y", "datatype": "FP32", "shape": [-1]},
        {"name": "NAMES", "datatype": "BYTES", "shape": [-1]},
        {"name": "MASK", "datatype": "BOOL", "shape": [-1]},
    ]
    client = Client(True, **{"v2/models/m": {**METADATA, "outputs": outputs}})
    model = model_of(client)
    model({"X": [1]}, classes=2)
    assert client.binary_of(0)[1] == [("Y", True, 2), ("NAMES", True, 0), ("MASK", True, 0)]
    for call in (
        model,
        model.batched,
        lambda *given, **options: list(model.map(given, **options)),
        model.sequence(3),
    ):
        with pytest.raises(InvalidRequest, match="output 'NAMES' is BYTES; output 'MASK' is BOOL"):
            call(
                {"X": [1]},
                classes=2,
                outputs=["NAMES", "Y", "MASK"],
                **({"max_batch": 1} if call == model.batched else {}),
            )
    assert len(client.inferred) == 1


def test_a_changed_datatype_is_seen_before_classes_are_refused() -> None:
    client = Client(
        True, **{"v2/models/m": {**METADATA, "outputs": [{**METADATA["outputs"][0], "datatype": "FP16"}]}}
    )
    model = model_of(client).refresh()
    client.paths["v2/models/m"] = METADATA
    model({"X": [1]}, classes=2)
    assert client.binary_of(0)[1] == [("Y", True, 2)]


# -- reading again


def test_a_misfit_is_refused_after_a_second_look() -> None:
    client = Client()
    model = model_of(client)
    for call in range(1, 3):
        with pytest.raises(InvalidRequest, match="input 'X' is missing"):
            model({})
        assert client.asked.count("v2/models/m") == call
    assert client.inferred == []


def test_a_model_that_has_changed_is_taken_as_it_is_now() -> None:
    client = Client()
    model = model_of(client)
    model(X=[1])
    client.paths["v2/models/m"] = {**METADATA, "inputs": [{"name": "V", "datatype": "FP32", "shape": [-1]}]}
    model(V=[1])
    assert [each["inputs"][0].name() for each in client.inferred] == ["X", "V"]
    client.paths["v2/models/m"] = refusal(503)
    with pytest.raises(InvalidRequest, match="it has no input 'X'; input 'V' is missing"):
        model(X=[1])


@pytest.mark.parametrize(("status", "again"), [(400, 1), (404, 1), (500, 0), (429, 0)])
def test_after_a_refusal_the_model_is_looked_at_again(status: int, again: int) -> None:
    client = Client()
    client.answers = [result(), refusal(status), result()]
    model = model_of(client)
    model(X=[1])
    with pytest.raises(ServerError):
        model(X=[1])
    assert len(client.inferred) == 2
    model(X=[1])
    assert client.asked.count("v2/models/m") == 1 + again


@pytest.mark.parametrize(("version", "again"), [("", 1), ("1", 0)])
def test_after_an_answer_of_another_version_the_model_is_looked_at_again(version: str, again: int) -> None:
    client = Client(**{"v2/models/m/versions/1": METADATA, "v2/models/m/versions/1/config": {}})
    client.answers = [result("1"), result("1"), result("2"), result("2"), result("2")]
    model = model_of(client, version=version)
    for _ in range(5):
        model(X=[1])
    assert sum(METADATA is client.paths[path] for path in client.asked) == 1 + again


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_server_may_have_no_configurations(status: int) -> None:
    client = Client(**{"v2/models/m/config": refusal(status)})
    assert model_of(client)(X=[1])["Y"].tolist() == [1]


@pytest.mark.parametrize("path", ["v2/models/m", "v2/models/m/config"])
def test_other_errors_of_reading_are_the_calls(path: str) -> None:
    client = Client(**{path: refusal(503)})
    model = model_of(client)
    with pytest.raises(ServerError, match="503"):
        model(X=[1])
    assert client.inferred == []
    client.paths[path] = PATHS[path]
    model(X=[1])


# -- servers that speak JSON only

JSON_ONLY = {"v2": {"name": "s", "extensions": []}}
AS_JSON = (False, [("Y", False, 0)])


def test_a_server_that_lists_the_extension_is_sent_binary() -> None:
    client = Client()
    client.answers = [refusal(400)]
    with pytest.raises(ServerError):
        model_of(client)(X=[1])
    assert client._binary is True
    assert [client.binary_of(index) for index in range(len(client.inferred))] == [(True, None)]


@pytest.mark.parametrize("status", [400, 415, 422])
@pytest.mark.parametrize("server", [JSON_ONLY["v2"], {"name": "s"}, refusal(404)])
def test_a_server_that_refuses_binary_is_sent_json_from_then_on(status: int, server: Any) -> None:
    client = Client(v2=server)
    client.answers = [refusal(status)]
    model = model_of(client)
    assert model(X=[1])["Y"].tolist() == [1]
    assert client._binary is False
    model(X=[1])
    assert [client.binary_of(index) for index in range(3)] == [(True, None), AS_JSON, AS_JSON]
    assert client.asked.count("v2") == 1


def test_a_server_that_breaks_on_binary_is_sent_json() -> None:
    client = Client(**JSON_ONLY)
    client.answers = [refusal(500, "Internal Server Error")]
    assert model_of(client)(X=[1])["Y"].tolist() == [1]
    assert client._binary is False
    assert [client.binary_of(index) for index in range(2)] == [(True, None), AS_JSON]


def test_a_server_that_takes_binary_without_saying_so_is_sent_binary() -> None:
    client = Client(**JSON_ONLY)
    model = model_of(client)
    model(X=[1])
    assert client._binary is True
    model.refresh()
    assert client.asked.count("v2") == 1


def test_where_json_is_refused_too_that_is_the_error_and_nothing_is_known() -> None:
    client = Client(**JSON_ONLY)
    client.answers = [refusal(422, "what is this?"), refusal(400, "a bad value")]
    with pytest.raises(ServerError, match="a bad value"):
        model_of(client)(X=[1])
    assert client._binary is None


def test_inputs_without_a_json_form_leave_the_first_error() -> None:
    info = {"name": "X", "datatype": "BF16", "shape": [-1]}
    client = Client(**JSON_ONLY, **{"v2/models/m": {**METADATA, "inputs": [info]}})
    client.answers = [refusal(422, "what is this?")]
    with pytest.raises(ServerError, match="what is this") as caught:
        model_of(client)(X=np.zeros(1, ml_dtypes.bfloat16))
    assert isinstance(caught.value.__cause__, InvalidRequest)
    assert client._binary is None


def test_other_errors_are_not_tried_again() -> None:
    client = Client(**JSON_ONLY)
    client.answers = [refusal(500)]
    with pytest.raises(ServerError):
        model_of(client)(X=[1])
    assert (len(client.inferred), client._binary) == (1, None)


def test_inferences_that_must_not_run_twice_go_as_json_to_unknown_servers() -> None:
    client = Client(**JSON_ONLY)
    model = model_of(client)
    model({"X": [1]}, idempotent=False)
    with model.sequence(7) as sequence:
        sequence({"X": [1]}, end=True)
    assert [client.binary_of(index) for index in range(2)] == [AS_JSON, AS_JSON]
    assert client._binary is None


@pytest.mark.parametrize(("binary", "expected"), [(True, (True, None)), (False, AS_JSON)])
def test_binary_data_may_be_given(binary: bool, expected: Any) -> None:
    client = Client(binary, **JSON_ONLY)
    client.answers = [refusal(422)]
    with pytest.raises(ServerError):
        model_of(client)(X=[1])
    assert [client.binary_of(index) for index in range(len(client.inferred))] == [expected]
    assert "v2" not in client.asked
    assert client._binary is binary


# -- batches


def doubled(arguments: dict[str, Any]) -> InferResult:
    return result(Y=[2 * value for value in array_of(arguments)])


def test_a_batch_is_split_and_joined_with_calls_in_flight() -> None:
    client = Client(True)
    client.answers = [doubled] * 6
    values = np.arange(11, dtype=np.float32)
    found = model_of(client).batched({"X": values}, max_batch=2, request_id="r", deadline=5.0)
    assert type(found) is dict
    assert found["Y"].tolist() == (2 * values).tolist()
    assert [len(array_of(each)) for each in client.inferred] == [2, 2, 2, 2, 2, 1]
    assert all(np.shares_memory(each["inputs"][0]._binary, values) for each in client.inferred)
    assert {(each["request_id"], float(each["deadline"])) for each in client.inferred} == {("r", 105.0)}
    assert (client.most, client.under_way) == (4, 0)


def test_the_first_part_finds_out_what_the_server_speaks() -> None:
    client = Client(**JSON_ONLY)
    client.answers = [refusal(422)]
    found = model_of(client).batched({"X": [1, 2, 3]}, max_batch=1)
    assert found["Y"].tolist() == [1, 1, 1]
    assert [client.binary_of(index) for index in range(4)] == [(True, None), AS_JSON, AS_JSON, AS_JSON]


def test_a_part_that_fails_is_the_calls_error_when_all_others_have_ended() -> None:
    client = Client(True)
    client.answers = [doubled, refusal(500, "the second"), refusal(500, "the third"), doubled, doubled]
    with pytest.raises(ServerError, match="the second"):
        model_of(client).batched({"X": list(range(100))}, max_batch=1)
    assert client.under_way == 0
    assert len(client.inferred) == 5, "what was in flight was waited for, and no more was begun"


@pytest.mark.parametrize("max_batch", [None, 0, 1.5])
def test_a_batch_needs_a_size(max_batch: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_batch"):
        model_of(Client(True)).batched({"X": [1]}, max_batch=max_batch)


class Dlpack:
    """As a tensor of torch that numpy cannot read by itself."""

    def __init__(self, values: list[float]) -> None:
        self.array = np.array(values, np.float32)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("not this way")

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


WAYS: dict[str, Any] = {
    "call": lambda model, given, **options: model(given, **options),
    "keywords": lambda model, given, **options: model(**given, **options),
    "batched": lambda model, given, **options: model.batched(given, max_batch=8, **options),
    "batched, keywords": lambda model, given, **options: model.batched(max_batch=8, **given, **options),
    "map": lambda model, given, **options: list(model.map([given], **options)),
    "sequence": lambda model, given, **options: model.sequence(3)(given, **options),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("value", "options"),
    [
        (np.array([1, 2], np.float32), {}),
        ([1, 2], {}),
        ((1.0, np.float32(2)), {}),
        (3, {}),
        (Dlpack([1, 2]), {}),
        (np.array([1, 2]), {"cast": True}),
    ],
    ids=["array", "list", "tuple", "number", "DLPack", "cast"],
)
def test_every_way_takes_the_same_inputs(way: str, value: Any, options: dict[str, Any]) -> None:
    optional = {"name": "W", "datatype": "FP32", "shape": [-1]}
    paths = {
        "v2/models/m": {**METADATA, "inputs": [*METADATA["inputs"], optional]},
        "v2/models/m/config": {"input": [{"name": "W", "optional": True}]},
    }
    client = Client(True, **paths)
    client.answers = [doubled]
    WAYS[way](model_of(client), {"X": value, "W": None}, **options)
    (sent,) = client.inferred
    (tensor,) = sent["inputs"]
    assert (tensor.name(), tensor.datatype(), tensor._binary.dtype) == ("X", "FP32", np.float32)
    assert tensor._binary.tolist() == (
        [3] if value is not None and np.ndim(getattr(value, "array", value)) == 0 else [1, 2]
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "input 'X' is None, and not optional"),
        (np.array([1, 2]), "expected FP32, got INT64; cast=True"),
        ({"a": 1}, "no array can be made|expected numbers"),
    ],
    ids=["None", "datatype", "dict"],
)
def test_every_way_refuses_the_same_inputs(way: str, value: Any, words: str) -> None:
    client = Client(True)
    with pytest.raises(InvalidRequest, match=words):
        WAYS[way](model_of(client), {"X": value})
    assert client.inferred == []


def batch_of(rows: int, row_bytes: int) -> Any:
    """Return rows that take no memory."""
    return np.broadcast_to(np.zeros(1, np.float32), (rows, row_bytes // 4))


@pytest.mark.parametrize(
    ("options", "row_bytes", "rows", "parts"),
    [
        ({}, 1 << 28, 20, [4] * 5),  # 256 MiB each: eight rows are 2 GiB
        ({}, 1 << 27, 20, [8, 8, 4]),
        ({}, (1 << 31) - (1 << 17), 3, [1, 1, 1]),
        (
            {"request_compression_algorithm": "gzip"},
            1 << 23,
            20,
            [4] * 5,
        ),  # 8 MiB each: eight rows are 64 MiB
        ({"request_compression_algorithm": "deflate"}, 1 << 22, 20, [8, 8, 4]),
        ({"response_compression_algorithm": "gzip"}, 1 << 23, 20, [8, 8, 4]),
        ({"request_compression_algorithm": "gzip"}, 1 << 27, 3, [1, 1, 1]),
    ],
)
@pytest.mark.parametrize("binary", [True, None])
def test_parts_stay_below_tritons_limits(
    binary: Any, options: Any, row_bytes: int, rows: int, parts: list[int]
) -> None:
    infos = [{"name": "X", "datatype": "FP32", "shape": [-1, -1]}]
    client = Client(binary, **{"v2/models/m": {**METADATA, "inputs": infos}})
    client.answers = [lambda sent: result(Y=[0] * sent["inputs"][0].shape()[0])] * len(parts)
    found = model_of(client).batched({"X": batch_of(rows, row_bytes)}, max_batch=8, **options)
    assert [sent["inputs"][0].shape()[0] for sent in client.inferred] == parts
    assert len(found["Y"]) == rows


def test_parts_of_json_and_of_text_stay_below_the_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonhttp._protocol.inference._MOST_TEXT", (1 << 16) + 300)
    monkeypatch.setattr("tritonhttp._protocol.inference._MOST", (1 << 16) + 600)
    answers = [lambda sent: result(Y=[0] * sent["inputs"][0].shape()[0])] * 100
    client = Client(False)
    client.answers = list(answers)
    model_of(client).batched(X=np.full(200, 0.25), max_batch=200, cast=True)  # each takes five bytes
    assert {sent["inputs"][0].shape()[0] for sent in client.inferred} == {50}
    infos = [{"name": "X", "datatype": "BYTES", "shape": [-1]}]
    client = Client(True, **{"v2/models/m": {**METADATA, "inputs": infos}})
    client.answers = list(answers)
    model_of(client).batched(X=["x" * 96] * 20, max_batch=20)
    assert [sent["inputs"][0].shape()[0] for sent in client.inferred] == [5] * 4


# -- many items


class Line(Client):
    """A client whose inferences end when the test says so."""

    def _start(
        self, inference: Inference, headers: Any, query_params: Any, until: Any, *, copy: bool
    ) -> InferAsyncRequest:
        assert copy is False
        client, arguments = self, arguments_of(inference, headers, query_params, until)

        class Greenlet:
            def ready(self) -> bool:
                return bool(client.ended)

            def get(self, block: bool = True, timeout: float | None = None) -> InferResult:
                client.under_way -= 1
                return client.infer(arguments)  # type: ignore[no-any-return]

        client.under_way += 1
        client.most = max(client.most, client.under_way)
        return InferAsyncRequest(Greenlet())

    #: Whether those under way have ended.
    ended = False


def numbers(read: list[int], count: int = 100) -> Iterator[dict[str, Any]]:
    for number in range(count):
        read.append(number)
        yield {"X": [number]}


def values_of(found: Iterable[Any]) -> list[Any]:
    return [each["Y"].tolist() if isinstance(each, Outputs) else str(each) for each in found]


def test_a_map_keeps_the_order_and_reads_no_further_than_asked_for() -> None:
    client, read = Line(True), list[int]()
    client.answers = [doubled] * 100
    found = model_of(client).map(numbers(read), in_flight=3, request_id="r", deadline=5.0)
    assert (read, client.asked) == ([], []), "nothing is done before the first outputs are asked for"
    assert next(found)["Y"].tolist() == [0]
    assert read == [0, 1, 2]
    assert values_of(found) == [[2 * number] for number in range(1, 100)]
    assert (client.most, client.under_way) == (3, 0)
    assert {(each["request_id"], float(each["deadline"])) for each in client.inferred} == {("r", 105.0)}


def test_outputs_that_are_there_come_before_the_next_item_is_read() -> None:
    client, read = Line(True), list[int]()
    client.ended = True
    found = model_of(client).map(numbers(read), in_flight=9)
    next(found)
    assert read == [0]
    next(found)
    assert read == [0, 1]


@pytest.mark.parametrize(("workers", "expected"), [(1, 2), (3, 6), (100, 32)])
def test_a_map_keeps_all_connections_busy(workers: int, expected: int) -> None:
    client, read = Line(True), list[int]()
    client._workers = workers
    next(model_of(client).map(numbers(read)))
    assert len(read) == expected


def test_a_map_of_nothing_gives_nothing_and_asks_nothing() -> None:
    client = Line(True)
    assert list(model_of(client).map([])) == []
    assert client.asked == []


def test_an_items_arrays_may_change_when_the_next_is_read() -> None:
    client = Line(True)
    client.answers = [doubled] * 6
    buffer = np.zeros(1, np.float32)

    def refilled() -> Iterator[dict[str, Any]]:
        for number in range(3):
            buffer[0] = number
            yield {"X": buffer}

    assert values_of(model_of(client).map(refilled(), in_flight=3)) == [[0], [2], [4]]
    assert values_of(model_of(client).map(refilled(), in_flight=3, copy=False)) == [[4], [4], [4]]


def test_an_error_comes_in_its_place_when_all_others_have_ended() -> None:
    client, read = Line(True), list[int]()
    client.answers = [doubled, doubled, refusal(500, "the third"), doubled, refusal(500, "later")]
    found = model_of(client).map(numbers(read), in_flight=3)
    assert [next(found)["Y"].tolist() for _ in range(2)] == [[0], [2]]
    with pytest.raises(ServerError, match="the third"):
        next(found)
    assert (read, client.under_way, len(client.inferred)) == ([0, 1, 2, 3, 4], 0, 5)
    assert list(found) == []


@pytest.mark.parametrize(
    ("item", "words"),
    [({"X": ["a"]}, "input 'X'"), ({"Q": [1]}, "'Q'"), (["a"], "input 'X'"), (None, "'X' is missing")],
)
def test_an_item_that_does_not_fit_comes_in_its_place(item: Any, words: str) -> None:
    client = Line(True)
    items = iter([{"X": [1]}, {"X": [2]}, item, {"X": [3]}])
    found = model_of(client).map(items, in_flight=4)
    assert [next(found)["Y"].tolist() for _ in range(2)] == [[1], [1]]
    with pytest.raises(InvalidRequest, match=words):
        next(found)
    assert list(items) == [{"X": [3]}], "nothing is read behind it"


def test_errors_are_returned_where_they_are_wanted() -> None:
    client = Line(True)
    client.answers = [doubled, refusal(500, "the second"), doubled]
    items = [{"X": [1]}, {"X": [2]}, {"X": ["no number"]}, {"X": [4]}]
    first, second, third, fourth = model_of(client).map(items, return_exceptions=True)
    assert values_of([first, fourth]) == [[2], [8]]
    assert isinstance(second, ServerError)
    assert isinstance(third, InvalidRequest)


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_an_exception_of_the_iterable_comes_in_its_place(return_exceptions: bool) -> None:
    client = Line(True)

    def broken() -> Iterator[dict[str, Any]]:
        yield {"X": [1]}
        yield {"X": [2]}
        raise OSError("the file ends here")

    found = model_of(client).map(broken(), in_flight=8, return_exceptions=return_exceptions)
    assert values_of([next(found), next(found)]) == [[1], [1]]
    with pytest.raises(OSError, match="the file ends here"):
        next(found)
    assert client.under_way == 0


def test_a_map_that_is_left_waits_for_nothing() -> None:
    client = Line(True)
    found = model_of(client).map(numbers([]), in_flight=3)
    next(found)
    found.close()
    assert client.under_way == 2


def test_the_first_item_finds_out_what_the_server_speaks() -> None:
    client = Line(**JSON_ONLY)
    client.answers = [refusal(422)]
    assert values_of(model_of(client).map(numbers([], 3))) == [[1], [1], [1]]
    assert [client.binary_of(index) for index in range(4)] == [(True, None), AS_JSON, AS_JSON, AS_JSON]


def test_a_map_looks_at_the_model_again_after_a_refusal() -> None:
    client = Line(True)
    client.answers = [refusal(404)]
    found = list(model_of(client).map(numbers([], 3), in_flight=1, return_exceptions=True))
    assert isinstance(found[0], ServerError)
    assert client.asked == ["v2/models/m", "v2/models/m/config"] * 2


@pytest.mark.parametrize("in_flight", [0, -1, 1.5, "4", True])
def test_a_map_refuses_what_is_no_number_of_items(in_flight: Any) -> None:
    with pytest.raises(InvalidRequest, match="in_flight must be a whole number above 0"):
        model_of(Line(True)).map([], in_flight=in_flight)


@pytest.mark.parametrize(
    "kind", [tritonhttp._clients.blocking.model.Model, tritonhttp._clients.awaited.model.Model]
)
@pytest.mark.parametrize(
    ("items", "options", "words"),
    [
        (7, {}, "expected an iterable of mappings of input names to arrays, or of arrays; got int"),
        ([], {"deadline": "5"}, "deadline"),
    ],
)
def test_a_map_refuses_at_once_what_it_cannot_do(kind: Any, items: Any, options: Any, words: str) -> None:
    client = Line(True)
    with pytest.raises(InvalidRequest, match=words):
        kind(client, "m").map(items, **options)


# -- sequences


def flags(client: Client) -> list[tuple[Any, bool, bool, list[float]]]:
    return [
        (each["sequence_id"], each["sequence_start"], each["sequence_end"], array_of(each))
        for each in client.inferred
    ]


def test_a_sequence_is_started_and_ended() -> None:
    client = Client(True)
    model = model_of(client)
    with model.sequence(7) as sequence:
        assert sequence.id == 7
        assert sequence(X=[1, 2])["Y"].tolist() == [1]
        sequence({"X": [3, 4]}, headers={"a": "b"}, request_id="r")
    assert flags(client) == [
        (7, True, False, [1, 2]),
        (7, False, False, [3, 4]),
        (7, False, True, [0, 0]),
    ]
    assert client.inferred[-1]["headers"] == {"a": "b"}
    assert "request_id" not in client.inferred[-1]
    with pytest.raises(InvalidRequest, match="sequence 7 of model 'm' has ended"):
        sequence(X=[1])


def test_a_call_may_be_the_last_one() -> None:
    client = Client(True)
    with model_of(client).sequence("a text") as sequence:
        sequence(X=[1])
        sequence(X=[2], end=True)
        with pytest.raises(InvalidRequest, match="has ended"):
            sequence(X=[3])
    assert flags(client) == [("a text", True, False, [1]), ("a text", False, True, [2])]


def test_ids_are_numbers_that_no_other_has() -> None:
    model = model_of(Client())
    ids = [model.sequence().id for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(isinstance(each, int) and 0 < each < 2**63 for each in ids)


def test_an_id_of_numpy_is_a_plain_number() -> None:
    id: Any = model_of(Client()).sequence(np.uint64(7)).id  # type: ignore[arg-type]
    assert (id, type(id)) == (7, int)


@pytest.mark.parametrize("id", [0, -1, 2**64, "", 1.5, b"x", True, np.array(7)])
def test_impossible_sequence_ids_are_refused(id: Any) -> None:
    with pytest.raises(InvalidRequest, match="a sequence's id must be"):
        model_of(Client()).sequence(id)


@pytest.mark.parametrize(
    ("inputs", "refused"), [(None, None), ({"Q": 1}, InvalidRequest), ({"X": [1]}, ConnectRefused)]
)
def test_a_sequence_that_no_server_has_seen_is_not_ended(inputs: Any, refused: Any) -> None:
    client = Client(True)
    client.answers = [ConnectRefused("nobody there")]
    with model_of(client).sequence() as sequence:
        if inputs:
            with pytest.raises(refused):
                sequence(inputs)
    assert len(client.inferred) == (refused is ConnectRefused)


def test_a_start_that_failed_is_tried_again_by_the_next_call() -> None:
    client = Client(True)
    client.answers = [refusal(500)]
    with model_of(client).sequence(7) as sequence:
        with pytest.raises(ServerError):
            sequence(X=[1])
        sequence(X=[2])
    assert [each[1:3] for each in flags(client)] == [(True, False), (True, False), (False, True)]


def test_a_start_that_failed_is_ended_since_it_may_have_run() -> None:
    client = Client(True)
    client.answers = [refusal(500)]
    with model_of(client).sequence(7) as sequence, pytest.raises(ServerError):
        sequence(X=[1])
    assert flags(client) == [(7, True, False, [1]), (7, True, True, [0])]


@pytest.mark.parametrize("answer", [result(), refusal(500), ConnectRefused("gone"), KeyError("a bug")])
def test_an_exception_of_the_block_stays_whatever_becomes_of_the_end(answer: Any) -> None:
    client = Client(True)
    client.answers = [result(), answer]
    with pytest.raises(ZeroDivisionError), model_of(client).sequence(7) as sequence:
        1 / len(sequence(X=[1])["Y"][1:])
    assert [each[1:3] for each in flags(client)] == [(True, False), (False, True)]
    assert float(client.inferred[-1]["deadline"]) == 102.0


def test_an_end_that_fails_is_said_where_nothing_else_went_wrong() -> None:
    client = Client(True)
    client.answers = [result(), refusal(500, "cannot end")]
    with pytest.raises(ServerError, match="cannot end"), model_of(client).sequence(7) as sequence:
        sequence(X=[1])


def test_a_sequence_that_the_server_has_forgotten_has_ended() -> None:
    client = Client(True)
    words = "inference request for sequence 7 to model 'm' must specify the START flag on the first request"
    client.answers = [result(), refusal(400, words)]
    with model_of(client).sequence(7) as sequence:
        sequence(X=[1])
    assert len(client.inferred) == 2


def test_the_end_of_text_is_empty_text() -> None:
    info = {"name": "T", "datatype": "BYTES", "shape": [-1]}
    client = Client(True, **{"v2/models/m": {**METADATA, "inputs": [info]}})
    with model_of(client).sequence() as sequence:
        sequence(T=np.array(["a", "bc"]))
    assert client.inferred[-1]["inputs"][0]._binary == b"\0" * 8


# -- in a notebook


class Table(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_a_notebook_shows_a_table_and_nothing_that_the_server_made_up() -> None:
    evil = "<script>alert(1)</script>"
    inputs = [{"name": evil, "datatype": evil, "shape": [-1, 2]}]
    client = Client(
        True, **{"v2/models/m": {**METADATA, "platform": evil, "inputs": inputs, "versions": [evil]}}
    )
    model = model_of(client)
    assert Table(model._repr_html_()).cells == ["<Model 'm': not read yet>"]
    shown = Table(model.refresh()._repr_html_())
    assert set(shown.tags) == {"table", "caption", "tbody", "tr", "td"}
    assert shown.cells == [
        f"m {evil} ({evil})",
        "input",
        evil,
        evil,
        "[-1, 2]",
        "output",
        "Y",
        "FP32",
        "[-1]",
    ]


# -- the twins


@pytest.mark.parametrize("kind", ["Model", "Sequence"])
def test_the_asyncio_model_reads_the_same(kind: str) -> None:
    blocking, aio = (
        getattr(tritonhttp._clients.blocking.model, kind),
        getattr(tritonhttp._clients.awaited.model, kind),
    )
    names = {name for name in vars(blocking) if not name.startswith("_") or name == "__call__"}
    assert names == {name for name in vars(aio) if not name.startswith("_") or name == "__call__"}
    for name in names:
        theirs, ours = getattr(blocking, name), getattr(aio, name)
        parameters = [
            [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
            for method in (theirs, ours)
        ]
        assert parameters[0] == parameters[1]
        assert inspect.iscoroutinefunction(ours) == (name not in ("map", "sequence"))
        assert ours.__doc__
        assert ours.__doc__.replace("async for", "for") == theirs.__doc__


def test_errors_are_of_the_tree() -> None:
    with pytest.raises(InferenceServerException):
        model_of(Client())(Q=1)


# -- a model's only input, options, empty batches, progress


SEVERAL = {
    **METADATA,
    "inputs": [*METADATA["inputs"], {"name": "timeout", "datatype": "FP32", "shape": [-1]}],
}


def test_a_value_without_a_name_is_the_only_input_that_is_needed() -> None:
    client = Client(True)
    model_of(client)([1, 2])
    model_of(client).batched(np.ones(1, np.float32), max_batch=2)
    assert [array_of(each) for each in client.inferred] == [[1, 2], [1]]
    client = Client(True, **{"v2/models/m": SEVERAL})
    with pytest.raises(InvalidRequest, match=r"got a list without a name, and the model has 'X', 'timeout'"):
        model_of(client)([1])
    config = {"max_batch_size": 0, "input": [{"name": "timeout", "optional": True}]}
    client = Client(True, **{"v2/models/m": SEVERAL, "v2/models/m/config": config})
    model_of(client)([1])
    assert [tensor.name() for tensor in client.inferred[0]["inputs"]] == ["X"]
    client = Client(True, **{"v2/models/m": {**METADATA, "inputs": []}})
    with pytest.raises(InvalidRequest, match="does not name"):
        model_of(client)([1])


def test_an_input_with_the_name_of_an_option_needs_a_mapping() -> None:
    client = Client(True, **{"v2/models/m": SEVERAL})
    with pytest.raises(
        InvalidRequest, match="input 'timeout' has the name of an option; give the inputs as a"
    ):
        model_of(client)(X=[1], timeout=[2])  # type: ignore[arg-type]
    model_of(client)({"X": [1], "timeout": [2]}, timeout=7)
    assert client.inferred[0]["timeout"] == 7


@pytest.mark.parametrize("module", [tritonhttp._clients.blocking.model, tritonhttp._clients.awaited.model])
def test_options_can_be_seen(module: Any) -> None:
    wanted = list(module.CallOptions.__annotations__)
    assert list(Options._fields) == wanted
    for function in (module.Model.__call__, module.Model.batched, module.Model.map, module.Sequence.__call__):
        parameters = inspect.signature(function).parameters
        found = [name for name in parameters if name in wanted]
        assert found == wanted
        for name in found:
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters[name].default == Options._field_defaults[name]


EMPTY = {
    **METADATA,
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [
        {"name": "Y", "datatype": "INT8", "shape": [-1, 3]},
        {"name": "S", "datatype": "BYTES", "shape": [-1, -1]},
    ],
}


def test_a_batch_without_rows_gives_outputs_without_rows_and_no_request() -> None:
    client = Line(True, **{"v2/models/m": EMPTY, "v2/models/m/config": {"max_batch_size": 4}})
    model, nothing = model_of(client), np.zeros((0, 2), np.float32)
    outputs = [model(nothing), model.batched(X=nothing), *model.map([nothing])]
    for found in outputs:
        assert [(name, array.dtype, array.shape) for name, array in found.items()] == [
            ("Y", np.int8, (0, 3)),
            ("S", object, (0, 0)),
        ]
    assert model(nothing, outputs=["Y"], classes=2)["Y"].shape == (0, 2)
    with pytest.raises(InvalidRequest, match="an inference of a sequence needs rows, got 0"):
        model.sequence()(nothing)
    assert client.inferred == []


def test_progress_is_told_with_what_there_is() -> None:
    told: list[tuple[int, int | None]] = []
    client = Line(True, **{"v2/models/m/config": {"max_batch_size": 2}})
    client.answers = [doubled] * 3
    model_of(client).batched(X=[1, 2, 3, 4, 5], progress=lambda *seen: told.append(seen))
    assert told == [(2, 5), (4, 5), (5, 5)]
    for items, total in (([{"X": [1]}] * 2, 2), (iter([{"X": [1]}] * 2), None)):
        told.clear()
        list(model_of(Line(True)).map(items, progress=lambda *seen: told.append(seen)))
        assert told == [(1, total), (2, total)]
    with pytest.raises(ZeroDivisionError):
        model_of(Line(True)).batched(X=[1], max_batch=1, progress=lambda *_: 1 / 0)
    with pytest.raises(InvalidRequest, match="progress must be True, False or a callable, got 5"):
        model_of(Line(True)).batched(X=[1], max_batch=1, progress=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [[], ["tqdm"], ["tqdm", "rich"]])
def test_a_bar_is_of_what_is_installed(
    missing: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bars: list[Any] = []

    class Bar:
        n, total = 0, None

        def __init__(self, **_: Any) -> None:
            bars.append(self)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, more: int) -> None:
            self.n += more

    tqdm = types.ModuleType("tqdm.auto")
    tqdm.tqdm = Bar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm.auto", None if "tqdm" in missing else tqdm)
    if "rich" in missing:
        monkeypatch.setitem(sys.modules, "rich", None)
    elif missing:
        pytest.importorskip("rich", reason="a dependency of the tests only")
    items = [{"X": [1]}] * 3
    if "rich" in missing:
        with pytest.raises(MissingDependency, match="pip install tqdm"):
            list(model_of(Line(True)).map(items, progress=True))
        return
    assert len(list(model_of(Line(True)).map(items, progress=True))) == 3
    if not missing:
        assert [(bar.n, bar.total) for bar in bars] == [(3, 3)]
    else:
        assert "3/3" in capsys.readouterr().out


# -- what the objects of one model share


def test_all_objects_of_a_model_share_what_is_known() -> None:
    client = Client(True)
    model_of(client)(X=[1])
    other = model_of(client)
    assert repr(other) == "<Model 'm': X FP32[-1] -> Y FP32[-1]>"
    other(X=[1])
    assert client.asked == ["v2/models/m", "v2/models/m/config"]
    assert model_of(client, "m", "1").signature is None


def test_inputs_that_do_not_fit_read_the_model_no_more_than_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(model_base.time, "monotonic", lambda: now)
    client = Client(True)
    model = model_of(client)
    model(X=[1])
    for _ in range(50):
        with pytest.raises(InvalidRequest):
            model(X=["a"])
    assert len(client.asked) == 4
    client.paths["v2/models/m"] = {**METADATA, "inputs": [{"name": "X", "datatype": "BYTES", "shape": [-1]}]}
    with pytest.raises(InvalidRequest):
        model(X=["a"])
    now += 1
    model(X=["a"])
    assert len(client.asked) == 6
    model._known.doubtful = True  # the server has refused a call
    model(X=["a"])
    assert len(client.asked) == 6
    now += 1
    model(X=["a"])
    model(X=["a"])
    assert len(client.asked) == 8


@pytest.mark.parametrize("change", ["load_model", "unload_model"])
def test_what_this_client_loads_is_read_again_at_once(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tritonhttp.InferenceServerClient("127.0.0.1:1") as client:
        model = client.model("m")
        model._known.looked = time.monotonic()
        with pytest.raises(ConnectRefused):  # the server may have done it
            getattr(client, change)("other")
        assert model._known.doubtful
        assert model._known.may_look()
