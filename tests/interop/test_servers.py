"""What every server of the protocol does, and what each does its own way, over both clients."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferRequestedOutput

from ..clients import tensor, wait_until
from .cases import ERRORS, SIXTEEN, VALUES, as_json, both, raw
from .conftest import interpreter
from .servers import MODELS


def test_the_server_is_there(client, server):
    assert client.is_server_live() is True
    assert client.is_server_ready() is True
    metadata = client.get_server_metadata()
    assert metadata["name"] == server.kind.name
    assert re.match(r"\d+\.\d+", metadata["version"])
    assert isinstance(metadata["extensions"], list)


def test_models_are_ready_and_unknown_ones_are_not(client):
    assert all(map(client.is_model_ready, MODELS))
    assert client.is_model_ready("no_such_model") is False
    assert client.is_model_ready("no such/model") is False
    assert client.is_model_ready("add_sub", "77") is False


def test_metadata_describes_the_tensors(client):
    metadata = client.get_model_metadata("add_sub")
    assert metadata["name"] == "add_sub"
    for way in ("INPUT", "OUTPUT"):
        expected = [{"name": f"{way}{n}", "datatype": "INT32", "shape": [-1, 16]} for n in (0, 1)]
        assert metadata[f"{way.lower()}s"] == expected


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("way_out", ["unnamed", "binary", "json"])
@pytest.mark.parametrize("way_in", ["binary", "json"])
def test_each_datatype_comes_back(client, server, datatype, way_in, way_out):
    kind, values = server.kind, VALUES[datatype]
    if way_in == "json" and datatype == "BF16":
        with pytest.raises(tritonhttp.InvalidRequest, match="binary"):
            tensor("INPUT0", values, binary_data=False)
        return
    inputs = [tensor("INPUT0", values, binary_data=way_in == "binary")]
    outputs = None if way_out == "unnamed" else [InferRequestedOutput("OUTPUT0", way_out == "binary")]
    # A server without binary tensors sends JSON whatever it is asked for.
    sent = kind.binary if way_in == "binary" else kind.json
    got = kind.json if way_out == "json" or not kind.binary else kind.binary
    if datatype not in sent & got:
        with pytest.raises(tritonhttp.ServerError) as caught:
            client.infer(f"identity_{datatype.lower()}", inputs, outputs=outputs)
        assert int(caught.value.status()) >= 400
        return
    array = client.infer(f"identity_{datatype.lower()}", inputs, outputs=outputs).as_numpy("OUTPUT0")
    assert array.dtype == values.dtype
    assert array.flags.writeable
    if datatype == "BYTES":
        texts = [each.encode() if isinstance(each, str) else each for each in array.ravel().tolist()]
        assert texts == values.tolist()
        assert {type(each) for each in array.ravel()} == {bytes if got is kind.binary else str}
    else:
        assert array.shape == kind.three
        assert array.ravel().tolist() == values.tolist()


@pytest.mark.parametrize("datatype", ["INT32", "FP32", "BOOL", "BYTES"])
@pytest.mark.parametrize("way", ["binary", "json"])
def test_an_empty_tensor_keeps_its_dtype(client, server, datatype, way):
    if datatype not in getattr(server.kind, way):
        pytest.skip(f"{server.kind.name} has no {way} {datatype}")
    given = tensor("INPUT0", VALUES[datatype][:0], binary_data=way == "binary")
    outputs = [InferRequestedOutput("OUTPUT0", binary_data=way == "binary")]
    array = client.infer(f"identity_{datatype.lower()}", [given], outputs=outputs).as_numpy("OUTPUT0")
    assert array.size == 0
    assert array.shape[0] == 0
    assert array.dtype == VALUES[datatype].dtype


@pytest.mark.parametrize("way", ["binary", "json"])
def test_large_tensors_come_back_whole(client, server, way):
    if "FP32" not in getattr(server.kind, way):
        pytest.skip(f"{server.kind.name} has no {way} tensors")
    values = np.random.default_rng(5).standard_normal(4_000_000 if way == "binary" else 400_000, np.float32)
    outputs = [InferRequestedOutput("OUTPUT0", binary_data=way == "binary")]
    given = tensor("INPUT0", values, binary_data=way == "binary")
    array = client.infer("identity_fp32", [given], outputs=outputs).as_numpy("OUTPUT0")
    np.testing.assert_array_equal(array.ravel(), values)


def test_an_infinity_that_json_has_no_form_for_is_nan(client, server):
    given = raw("INPUT0", [2], "FP32", b"[1e39, 1.5]")  # beyond FP32
    array = client.infer("identity_fp32", [given], outputs=as_json("OUTPUT0")).as_numpy("OUTPUT0")
    infinity = np.inf if server.kind.name == "triton" else np.nan
    np.testing.assert_array_equal(array.ravel(), np.array([infinity, 1.5], np.float32))


@pytest.mark.parametrize("names", [("OUTPUT0",), ("OUTPUT1",), ("OUTPUT1", "OUTPUT0")])
def test_only_requested_outputs_come(client, names):
    result = client.infer("add_sub", both(binary_data=False), outputs=as_json(*names))
    assert {each["name"] for each in result.get_response()["outputs"]} == set(names)
    for name, expected in (("OUTPUT0", SIXTEEN * 2), ("OUTPUT1", SIXTEEN * 0)):
        if name in names:
            np.testing.assert_array_equal(result.as_numpy(name), expected)
        else:
            assert result.as_numpy(name) is None


def test_the_request_id_comes_back(client):
    result = client.infer("add_sub", both(binary_data=False), request_id="mine-1", outputs=as_json("OUTPUT0"))
    assert result.get_response()["id"] == "mine-1"


def test_fields_that_are_null_or_missing_do_no_harm(client):
    result = client.infer("add_sub", both(binary_data=False), outputs=as_json("OUTPUT0"))
    response = result.get_response()
    assert response["model_name"] == "add_sub"
    assert response.get("model_version") in (None, "1")
    assert not response.get("parameters")
    assert "add_sub" in repr(result)


def test_parameters_reach_the_model(client):
    message = [tensor("MESSAGE", np.array([b"gone"], object), binary_data=False)]
    for parameters, status in (({"code": "UNAVAILABLE"}, "503"), (None, "500")):
        with pytest.raises(tritonhttp.ServerError) as caught:
            client.infer("fail", message, parameters=parameters)
        assert caught.value.status() == status


def test_parameters_of_tensors_are_taken(client):
    inputs = [each.set_parameters({"content_type": "np", "own": 1}) for each in both(binary_data=False)]
    outputs = [each.set_parameters({"content_type": "np"}) for each in as_json("OUTPUT0")]
    result = client.infer("add_sub", inputs, outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), SIXTEEN * 2)


def numbers(*values):
    return [tensor("IN", np.array(values, np.int32), binary_data=False)]


def test_results_come_as_a_stream(client, server):
    if server.kind.name != "mlserver":
        with pytest.raises(tritonhttp.ServerError, match="Not Found") as caught:
            next(client.infer_stream("add_sub", both(binary_data=False)))
        assert caught.value.status() == "404"
        return
    with client.infer_stream("count", numbers(5, 6, 7), request_id="mine") as stream:
        results = list(stream)
    assert [each["OUT"].tolist() for each in results] == [[[5]], [[6]], [[7]]]
    assert [each.parameters["index"] for each in results] == [0, 1, 2]
    assert {each.get_response()["id"] for each in results} == {"mine"}
    assert results[0].headers["content-type"].startswith("text/event-stream")
    assert stream.times[-1] - stream.times[0] > 0.03, "each is sent when it is made"


def test_a_stream_of_results_that_fails(client, server):
    if server.kind.name != "mlserver":
        pytest.skip(f"{server.kind.name} has no streams of results")
    seen, failing = [], client.infer_stream("count", numbers(5, 6, 7), parameters={"fail_at": 1})
    with pytest.raises(tritonhttp.ConnectionLost, match="incomplete body"):
        seen.extend(each["OUT"].item() for each in failing)
    assert seen == [5]
    with pytest.raises(tritonhttp.ServerError, match="Internal Server Error"):
        next(client.infer_stream("count", numbers(5), parameters={"fail_at": 0}))
    with pytest.raises(tritonhttp.ServerError, match="JSON only") as caught:
        next(client.infer_stream("count", [tensor("IN", np.array([5], np.int32))]))
    assert caught.value.status() == "422"
    assert [each["OUT"].item() for each in client.infer_stream("count", numbers(8))] == [8]


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_readable(client, case):
    model, inputs, match = ERRORS[case]
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.infer(model, inputs, outputs=as_json("OUTPUT0") if model == "add_sub" else None)
    error = caught.value
    assert re.search(match, error.message())
    assert not re.match(r'\s*([{<]|\[[{"])', error.message()), "neither JSON nor HTML"
    assert error.status() in ("400", "404", "422", "500")
    assert error.debug_details()
    # Whatever it was, the client goes on.
    result = client.infer("add_sub", both(binary_data=False), outputs=as_json("OUTPUT0"))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), SIXTEEN * 2)


def test_a_misunderstood_request_is_a_readable_error(client, server):
    if server.kind.binary:
        pytest.skip(f"{server.kind.name} understands binary tensors")
    # What is valid as UTF-8 is answered by 422; what is not breaks the answer, which is then 500.
    with pytest.raises(tritonhttp.ServerError, match=r"JSON only: .*binary_data=False") as caught:
        client.infer("add_sub", both())
    assert caught.value.status() == "422"
    with pytest.raises(tritonhttp.ServerError, match="Internal Server Error") as caught:
        client.infer("identity_int32", [tensor("INPUT0", VALUES["INT32"])])
    assert caught.value.status() == "500"


def test_no_request_is_lost_behind_an_error(client, server):
    """Servers under uvicorn close behind an error of the application, and do not say so."""
    wrong = raw("INPUT0", [2, 16], "INT32", b"[1]")
    for _ in range(50):
        with pytest.raises(tritonhttp.ServerError) as caught:
            client.infer("add_sub", [wrong, tensor("INPUT1", SIXTEEN, binary_data=False)])
        assert caught.value.status() == "500"
        client.infer("add_sub", both(binary_data=False), outputs=as_json("OUTPUT0"))


def test_the_repository_index_lists_the_models(client, server):
    if server.kind.name == "kserve":
        with pytest.raises(tritonhttp.ServerError, match="Not Found") as caught:
            client.get_model_repository_index()
        assert caught.value.status() == "404"
        return
    states = {each["name"]: each["state"] for each in client.get_model_repository_index() if "state" in each}
    assert set(MODELS) <= {name for name, state in states.items() if state == "READY"}
    assert set(MODELS) <= {each["name"] for each in client.get_model_repository_index(ready=True)}


def test_models_are_unloaded_and_loaded(client):
    client.unload_model("identity_uint16")
    try:
        wait_until(lambda: not client.is_model_ready("identity_uint16"))
    finally:
        client.load_model("identity_uint16")
    assert client.is_model_ready("identity_uint16")
    with pytest.raises(tritonhttp.ServerError, match="no_such_model"):
        client.load_model("no_such_model")


@pytest.mark.parametrize(
    "ask", ["get_model_config", "get_inference_statistics", "get_trace_settings", "get_log_settings"]
)
def test_missing_endpoints_are_not_found(client, server, ask):
    arguments = ("add_sub",) if ask == "get_model_config" else ()
    if server.kind.name == "triton":
        assert getattr(client, ask)(*arguments)
        return
    with pytest.raises(tritonhttp.ServerError) as caught:
        getattr(client, ask)(*arguments)
    assert caught.value.status() == "404"


@pytest.mark.parametrize("way", ["binary", "json"])
def test_many_at_once_get_each_their_own(make_client, server, way):
    if "INT32" not in getattr(server.kind, way):
        pytest.skip(f"{server.kind.name} has no {way} tensors")
    client = make_client(concurrency=8)
    start = threading.Barrier(8)

    def work(thread):
        start.wait(30)
        for turn in range(25):
            values = np.full((1, 16), thread * 1000 + turn, np.int32)
            inputs = both(values, binary_data=way == "binary")
            outputs = [InferRequestedOutput("OUTPUT0", binary_data=way == "binary")]
            result = client.infer("add_sub", inputs, request_id=f"{thread}-{turn}", outputs=outputs)
            assert result.get_response()["id"] == f"{thread}-{turn}"
            np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), values * 2)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, thread) for thread in range(8)]:
            future.result(60)


def test_a_compressed_response_is_read(client, server):
    array = np.zeros((4, 16), np.int32)
    result = client.infer(
        "add_sub",
        both(array, binary_data=False),
        outputs=as_json("OUTPUT0", "OUTPUT1"),
        response_compression_algorithm="gzip",
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)
    assert result.headers.get("content-encoding") == (None if server.kind.name == "kserve" else "gzip")


OWNER = """
import sys, time
from pathlib import Path
from tests.interop.servers import started
with started(sys.argv[1], sys.argv[2], Path(sys.argv[3])) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["mlserver", "kserve"])
def test_no_server_outlives_its_owner(name, tmp_path, request):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, name, interpreter(name), str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=request.config.rootpath,
        env={**os.environ, "PYTHONPATH": str(request.config.rootpath)},
    )
    assert owner.stdout is not None
    try:
        url = owner.stdout.readline().decode().strip()
        with tritonhttp.InferenceServerClient(url) as client:
            assert client.is_server_live()
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)

            def gone():
                try:
                    return not client.is_server_live()
                except tritonhttp.ConnectRefused:
                    return True
                except tritonhttp.TransportError:
                    return False

            wait_until(gone)
    finally:
        owner.kill()
        owner.communicate()
