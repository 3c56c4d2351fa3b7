"""One client between threads, and across a fork."""

import contextlib
import os
import socket
import sys
import threading
import time

import numpy as np
import pytest

import tritonhttp

from ...clients import run_in_threads, tensor, wait_until
from ...processes import exit_status, in_child, needs_fork


def test_threads_overlap_up_to_concurrency(make_client):
    # The model has four instances.
    for concurrency, at_least in ((8, 0.4), (4, 0.4), (1, 1.6)):
        client = make_client(concurrency=concurrency)
        before = time.monotonic()
        delay = [tensor("DELAY", np.array([0.2], np.float32))]
        run_in_threads(lambda n, client=client, delay=delay: client.infer("slow", delay), range(8))
        assert at_least <= time.monotonic() - before
        assert (client.stats().connections_opened > 1) is (concurrency > 1)


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_results_never_mix(make_client, concurrency):
    client = make_client(concurrency=concurrency)

    def work(n):
        for i in range(25):
            array = np.full(n * 500 + i + 1, n * 1000 + i, np.int64)
            result = client.infer("identity_int64", [tensor("INPUT0", array)], request_id=f"{n}-{i}")
            assert result.get_response()["id"] == f"{n}-{i}"
            np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)
            if i % 5 == 0:
                assert client.get_model_metadata("add_sub")["name"] == "add_sub"
                with pytest.raises(tritonhttp.ServerError, match=f"no_{n}_{i}'"):
                    client.get_model_metadata(f"no_{n}_{i}")

    run_in_threads(work, range(8))


def test_an_input_may_be_shared_between_threads(make_client):
    client = make_client(concurrency=4)
    shared = [tensor(name, np.full((1, 16), 5, np.int32)) for name in ("INPUT0", "INPUT1")]

    def work(n):
        for _ in range(20):
            assert client.infer("add_sub", shared).as_numpy("OUTPUT0").tolist() == [[10] * 16]

    run_in_threads(work, range(6))


def test_close_from_another_thread_ends_waiting_calls_with_a_clear_error(make_client):
    client = make_client(concurrency=1)
    outcomes = []

    def work(n):
        try:
            client.infer("slow", [tensor("DELAY", np.array([0.5], np.float32))])
            outcomes.append("done")
        except tritonhttp.InferenceServerException as error:
            outcomes.append(error.message())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(client._transport.pool.line) == 2)
    client.close()
    for thread in threads:
        thread.join(10)
    assert sorted(outcome == "done" for outcome in outcomes) == [False, False, True]
    assert [each for each in outcomes if each != "done"] == [client_closed(outcomes)] * 2


def client_closed(outcomes):
    (text,) = {each for each in outcomes if each != "done"}
    assert "closed" in text
    return text


# -- fork


@needs_fork
def test_a_forked_child_opens_its_own_connection_and_the_parents_goes_on(make_client):
    client = make_client()
    assert client.is_server_live()
    (mine,) = client._transport._connections
    number = mine.sock.fileno()
    identity = os.readlink(f"/proc/self/fd/{number}") if sys.platform == "linux" else None
    array = np.arange(50_000, dtype=np.float32)

    def child():
        if identity is not None:
            inherited = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if exists(n)]
            assert identity not in inherited
        for _ in range(20):
            result = client.infer("identity_fp32", [tensor("INPUT0", array + 1)])
            np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array + 1)
        client.close()

    pid = in_child(child)
    for _ in range(20):
        result = client.infer("identity_fp32", [tensor("INPUT0", array)])
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)
    assert exit_status(pid) == 0
    assert set(client._transport._connections) == {mine}
    assert client.is_server_live()


def exists(number):
    with contextlib.suppress(OSError):
        os.readlink(f"/proc/self/fd/{number}")
        return True
    return False


@needs_fork
def test_a_fork_while_other_threads_hold_locks_and_connections(make_client):
    client = make_client(concurrency=2)
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            client.infer("identity_fp32", [tensor("INPUT0", np.zeros(1000, np.float32))])

    threads = [threading.Thread(target=keep_busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert exit_status(in_child(lambda: check(client))) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    check(client)


def check(client):
    handle = client.async_infer("identity_fp32", [tensor("INPUT0", np.full(3, 7, np.float32))])
    assert handle.get_result().as_numpy("OUTPUT0").tolist() == [7, 7, 7]
    assert client.is_server_live()


@needs_fork
def test_a_fork_with_async_inferences_under_way_leaves_them_to_the_parent(make_client):
    client = make_client()
    handle = client.async_infer("slow", [tensor("DELAY", np.array([0.5], np.float32))])

    def child():
        check(client)
        client.close()

    pid = in_child(child)
    assert handle.get_result().as_numpy("OUTPUT") == [0.5]
    assert exit_status(pid) == 0


@needs_fork
def test_a_closed_client_stays_closed_in_the_child(make_client):
    client = make_client()
    client.close()

    def child():
        with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
            client.is_server_live()

    assert exit_status(in_child(child)) == 0


def test_no_thread_is_started_for_calls_that_need_none(client):
    before = set(threading.enumerate())
    client.infer("identity_fp32", [tensor("INPUT0", np.zeros(3, np.float32))])
    assert set(threading.enumerate()) <= before


def test_gethostbyname_is_not_in_the_way(triton_server):
    port = triton_server.url.split(":")[1]
    try:
        socket.getaddrinfo("localhost", port)
    except OSError:
        pytest.skip("this machine does not know localhost")
    with tritonhttp.InferenceServerClient(f"localhost:{port}") as client:
        assert client.is_server_live()
