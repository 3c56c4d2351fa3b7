"""A client's life: closing, using it afterwards, leaving it to the collector, a server that restarts."""

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferenceServerClient
from tritonhttp.testing import TritonServer

from ...clients import tensor


def floats():
    return [tensor("INPUT0", np.ones(3, np.float32))]


def test_close_is_idempotent_and_later_calls_say_so(triton_server):
    client = InferenceServerClient(triton_server.url)
    assert client.is_server_live()
    client.close()
    client.close()
    for call in (
        client.is_server_live,
        client.get_model_repository_index,
        lambda: client.infer("identity_fp32", floats()),
        lambda: client.async_infer("identity_fp32", floats()).get_result(),
    ):
        with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
            call()


def test_a_client_that_was_never_used_closes(triton_server):
    InferenceServerClient(triton_server.url).close()


def test_the_context_manager_closes_also_behind_an_error(triton_server):
    client = InferenceServerClient(triton_server.url)

    def block():
        with client as entered:
            assert entered is client
            assert client.is_server_live()
            raise RuntimeError("of the block")

    with pytest.raises(RuntimeError, match="of the block"):
        block()
    with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
        client.is_server_live()


def test_a_client_that_is_dropped_leaves_no_descriptor(triton_server, open_descriptors):
    before = open_descriptors()
    for _ in range(3):
        client = InferenceServerClient(triton_server.url)
        client.async_infer("identity_fp32", floats()).get_result()
        del client
        gc.collect()
    assert open_descriptors() == before


def test_a_closed_client_leaves_no_descriptor_and_no_thread(triton_server, open_descriptors):
    before, threads = open_descriptors(), set(threading.enumerate())
    with InferenceServerClient(triton_server.url, concurrency=4) as client:
        handles = [client.async_infer("identity_fp32", floats()) for _ in range(20)]
        for handle in handles:
            handle.get_result()
        assert len(open_descriptors()) > len(before)
    assert open_descriptors() == before
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("end", ["", "client.close()", "handle.get_result()", "del client"])
def test_a_program_that_just_ends_ends_well(triton_server, end):
    program = f"""
import numpy as np, tritonhttp
client = tritonhttp.InferenceServerClient({triton_server.url!r}, concurrency=2)
given = tritonhttp.InferInput("DELAY", [1], "FP32").set_data_from_numpy(np.array([0.3], np.float32))
handle = client.async_infer("slow", [given])
{end}
"""
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"concurrency": 0}, "concurrency.*0"),
        ({"concurrency": 1.5}, "concurrency.*1.5"),
        ({"max_greenlets": 0}, "max_greenlets.*0"),
        ({"connection_timeout": 0}, "connection_timeout.*0"),
        ({"network_timeout": -1}, "network_timeout.*-1"),
        ({"network_timeout": float("nan")}, "network_timeout.*nan"),
        ({"network_timeout": "1"}, "network_timeout.*'1'"),
    ],
    ids=repr,
)
def test_constructor_arguments_that_cannot_be_used_are_named(triton_server, options, match):
    with pytest.raises(tritonhttp.InvalidRequest, match=match):
        InferenceServerClient(triton_server.url, **options)


@pytest.mark.parametrize("timeout", [None, 5, 1e9, float("inf")])
def test_every_sensible_timeout_is_taken(triton_server, timeout):
    with InferenceServerClient(
        triton_server.url, connection_timeout=timeout, network_timeout=timeout
    ) as client:
        assert client.is_server_live()
        assert client.infer("identity_fp32", floats()).as_numpy("OUTPUT0").tolist() == [1, 1, 1]


@pytest.mark.parametrize("timeout", [0.3, 1])
def test_a_slow_answer_is_a_deadline_in_about_network_timeout(make_client, timeout):
    client = make_client(network_timeout=timeout)
    before = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out") as caught:
        client.infer("slow", [tensor("DELAY", np.array([timeout + 1.5], np.float32))])
    assert timeout * 0.9 <= time.monotonic() - before < timeout + 1.4
    assert isinstance(caught.value, tritonhttp.DeadlineExceeded)
    assert isinstance(caught.value, tritonhttp.InferenceServerException)
    assert caught.value.phase == "receive"
    assert "/v2/models/slow/infer" in caught.value.message()
    assert client.infer("identity_fp32", floats()).as_numpy("OUTPUT0").tolist() == [1, 1, 1]


def test_a_server_that_restarts_is_found_again_and_one_that_is_gone_is_named(triton_server):
    _ = triton_server.running  # skips where the server is not ours: then no other can be started either
    with TritonServer(models=["identity_fp32"]) as server, InferenceServerClient(server.url) as client:
        for _ in range(2):
            assert client.infer("identity_fp32", floats()).as_numpy("OUTPUT0").tolist() == [1, 1, 1]
            server.restart()
        assert client.is_server_live()
        server.kill()
        for call in (client.is_server_live, lambda: client.infer("identity_fp32", floats())):
            before = time.monotonic()
            with pytest.raises(ConnectionRefusedError) as caught:
                call()
            assert time.monotonic() - before < 8
            assert isinstance(caught.value, tritonhttp.ConnectRefused)
            assert server.url in caught.value.message()
        server.start()
        assert client.is_server_live()


def test_a_server_that_dies_during_an_inference_is_a_lost_connection(triton_server):
    _ = triton_server.running
    with TritonServer(models=["slow"]) as server, InferenceServerClient(server.url) as client:
        handle = client.async_infer("slow", [tensor("DELAY", np.array([5], np.float32))])
        time.sleep(1)  # it has arrived
        server.kill()
        with pytest.raises(tritonhttp.ConnectionLost) as caught:
            handle.get_result(timeout=10)
        assert isinstance(caught.value, ConnectionError)
        assert "/v2/models/slow/infer" in caught.value.message()
