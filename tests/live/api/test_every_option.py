"""Each option of `infer`, by itself, arrives at the server on every way that an inference can take."""

import gzip
import inspect
import json
import zlib

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferRequestedOutput, Retry

from ...clients import tensor

WAYS = {
    "plain": {},
    "watched": {"on_request": lambda call: None},
    "retried": {"retry": Retry(attempts=2, backoff=0)},
    "shared memory": {"shared_memory": "auto", "shared_memory_threshold": 1},
}


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture(params=["asyncio infer", "blocking infer", "blocking async_infer"])
def method(request):
    return request.param.split()


@pytest.fixture
def client_kind(method):
    return method[0]


@pytest.fixture
def infer(method, way, gateway, open_client):
    """Run an inference in that way, and return the request that the gateway saw."""
    client = open_client(gateway.url, **WAYS[way])

    def infer(model="identity_fp32", **options):
        name, array = "INPUT0", np.ones(4, np.float32)
        if model == "sequence_accumulate":
            name, array = "INPUT", np.ones((1, 1), np.int32)
        found = getattr(client, method[1])(model, [tensor(name, array)], **options)
        result = found.get_result() if method[1] == "async_infer" else found
        return result, [seen for seen in gateway.seen if seen.path.endswith("/infer")][-1]

    return infer


def head(seen):
    """Return the JSON of a request's body."""
    body, coding = seen.body, seen.get("Content-Encoding")
    if coding is not None:
        body = {"gzip": gzip.decompress, "deflate": zlib.decompress}[coding](body)
    return json.loads(body[: int(seen.get("Inference-Header-Content-Length") or len(body))])


#: Options that show in the request: the arguments, and a function that finds them there.
VISIBLE = {
    "nothing": ({}, lambda seen: ({"id", "parameters"} & set(head(seen)) <= {"parameters"}, seen.target)),
    "model_version": ({"model_version": "1"}, lambda seen: seen.path),
    "outputs": (
        {"outputs": [InferRequestedOutput("OUTPUT0", binary_data=False)]},
        lambda seen: [output["name"] for output in head(seen)["outputs"]],
    ),
    "request_id": ({"request_id": "call 7"}, lambda seen: head(seen)["id"]),
    "sequence_id": (
        {"sequence_id": "s", "sequence_start": True, "sequence_end": True},
        lambda seen: [head(seen)["parameters"][f"sequence_{name}"] for name in ("id", "start", "end")],
    ),
    "priority": ({"priority": 2}, lambda seen: head(seen)["parameters"]["priority"]),
    "timeout": ({"timeout": 5_000_000}, lambda seen: head(seen)["parameters"]["timeout"]),
    "no time at all": ({"timeout": 0}, lambda seen: head(seen)["parameters"]["timeout"]),
    "headers": ({"headers": {"X-Own": "1"}}, lambda seen: seen.get("x-own")),
    "query_params": ({"query_params": {"a": [1, 2]}}, lambda seen: seen.query),
    "request_compression_algorithm": (
        {"request_compression_algorithm": "gzip"},
        lambda seen: (seen.get("Content-Encoding"), head(seen)["inputs"][0]["name"]),
    ),
    "response_compression_algorithm": (
        {"response_compression_algorithm": "deflate"},
        lambda seen: seen.get("Accept-Encoding"),
    ),
    "parameters": ({"parameters": {"own": "x"}}, lambda seen: head(seen)["parameters"]["own"]),
}
EXPECTED = {
    "nothing": (True, "/v2/models/identity_fp32/infer"),
    "model_version": "/v2/models/identity_fp32/versions/1/infer",
    "outputs": ["OUTPUT0"],
    "request_id": "call 7",
    "sequence_id": ["s", True, True],
    "priority": 2,
    "timeout": 5_000_000,
    "no time at all": 0,
    "headers": "1",
    "query_params": [("a", "1"), ("a", "2")],
    "request_compression_algorithm": ("gzip", "INPUT0"),
    "response_compression_algorithm": "deflate",
    "parameters": "x",
}
#: Options that only change what the client does.
INVISIBLE = {"idempotent", "deadline"}


def test_every_option_of_infer_has_a_case():
    options = inspect.signature(tritonhttp.InferenceServerClient.infer).parameters
    tested = {name for arguments, _ in VISIBLE.values() for name in arguments} | INVISIBLE
    assert set(options) - {"self", "model_name", "inputs"} == tested


@pytest.mark.parametrize("option", VISIBLE)
def test_each_option_reaches_the_server(infer, option):
    arguments, look = VISIBLE[option]
    model = "sequence_accumulate" if option == "sequence_id" else "identity_fp32"
    for _ in range(2):  # the second time from what the first one left remembered
        result, seen = infer(model, **arguments)
        assert look(seen) == EXPECTED[option]
        assert np.all(result.as_numpy(result.get_response()["outputs"][0]["name"]) == 1)


def test_the_deadline_holds(infer, gateway):
    infer()
    gateway.delay = 0.3
    with pytest.raises(tritonhttp.DeadlineExceeded, match="timed out"):
        infer(deadline=0.15)
    gateway.delay = 0.0
    infer(deadline=20)


def test_an_idempotent_inference_is_sent_again_and_another_is_not(infer, way, gateway):
    infer()
    gateway.refusals = [503]
    if way == "retried":
        result, _ = infer(idempotent=True)
        assert result.attempts == 2
        gateway.refusals = [503]
    with pytest.raises(tritonhttp.ServerError) as caught:
        infer(idempotent=way != "retried")
    assert caught.value.status() == "503"
    assert gateway.refusals == []
