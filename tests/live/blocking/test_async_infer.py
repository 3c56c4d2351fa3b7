"""`async_infer`: it starts at once, results come in any order to any thread, errors surface in get_result."""

import asyncio
import queue
import random
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferAsyncRequest, InferRequestedOutput

from ...clients import run_in_threads, tensor, wait_until

MANY = 200


def slow(seconds):
    return [tensor("DELAY", np.array([seconds], np.float32))]


def test_two_hundred_results_come_in_any_order(make_client):
    client = make_client(concurrency=4)
    handles = [
        client.async_infer("identity_int64", [tensor("INPUT0", np.full(4, n))], request_id=str(n))
        for n in range(MANY)
    ]
    order = list(range(MANY))
    random.Random(7).shuffle(order)
    for n in order:
        result = handles[n].get_result()
        assert result.as_numpy("OUTPUT0").tolist() == [n] * 4
        assert result.get_response()["id"] == str(n)


def test_results_come_to_other_threads_and_more_than_once(make_client):
    client = make_client(concurrency=2)
    handles = queue.SimpleQueue()
    found = {}

    def collect():
        while (item := handles.get()) is not None:
            n, handle = item
            assert handle.get_result() is handle.get_result()
            found[n] = handle.get_result().as_numpy("OUTPUT0").tolist()

    threads = [threading.Thread(target=collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(60):
        handles.put((n, client.async_infer("identity_int32", [tensor("INPUT0", np.full(1, n, np.int32))])))
    for _ in threads:
        handles.put(None)
    for thread in threads:
        thread.join()
    assert found == {n: [n] for n in range(60)}


def test_requests_can_be_started_from_many_threads(make_client):
    client = make_client(concurrency=4)
    handles = {}

    def start(first):
        for n in range(first, first + 20):
            handles[n] = client.async_infer("identity_int32", [tensor("INPUT0", np.full(1, n, np.int32))])

    run_in_threads(start, range(0, 160, 20))
    for n, handle in handles.items():
        assert handle.get_result().as_numpy("OUTPUT0").tolist() == [n]
    assert len(handles) == 160


def test_it_returns_at_once_and_runs_without_anybody_asking(make_client):
    client, other = make_client(), make_client()

    def answered():
        (stats,) = other.get_inference_statistics("slow")["model_stats"]
        return stats["inference_stats"]["success"]["count"]

    before = answered()
    handle = client.async_infer("slow", slow(0.4))
    assert answered() == before
    wait_until(lambda: answered() == before + 1)
    assert handle.get_result().as_numpy("OUTPUT") == [np.float32(0.4)]


@pytest.mark.parametrize(
    "wait", [{"block": False}, {"timeout": 0.05}, {"block": True, "timeout": 0.0}], ids=repr
)
def test_a_result_that_is_not_there_yet_is_the_references_exception_and_comes_later(client, wait):
    handle = client.async_infer("slow", slow(1.0))
    for _ in range(2):
        with pytest.raises(
            tritonhttp.InferenceServerException, match=r"^failed to obtain inference response$"
        ):
            handle.get_result(**wait)
    assert not handle.done()
    assert handle.get_result(timeout=10).as_numpy("OUTPUT") == [1.0]
    assert handle.get_result(block=False).as_numpy("OUTPUT") == [1.0]


def test_an_error_surfaces_in_get_result_each_time_and_the_next_request_is_fine(client):
    handle = client.async_infer("fail", [tensor("MESSAGE", np.array([b"as asked"], object))])
    for wait in ({}, {"block": False}, {"timeout": 1}):
        with pytest.raises(tritonhttp.ServerError, match="as asked"):
            handle.get_result(**wait)
    fine = client.async_infer("identity_int32", [tensor("INPUT0", np.ones(1, np.int32))])
    assert fine.get_result().as_numpy("OUTPUT0").tolist() == [1]


def test_arguments_that_cannot_be_sent_are_refused_at_once(client):
    with pytest.raises(tritonhttp.InvalidRequest, match="has no data"):
        client.async_infer("identity_int32", [tritonhttp.InferInput("INPUT0", [1], "INT32")])
    with pytest.raises(tritonhttp.InvalidRequest, match="reserved"):
        client.async_infer("identity_int32", [], parameters={"priority": 1})


def test_the_arrays_may_be_changed_as_soon_as_it_returns(make_client):
    client = make_client(concurrency=1)
    client.async_infer("slow", slow(0.2))  # the only connection is busy: what follows waits with its data
    for make in (lambda a: a, lambda a: a[::1], lambda a: a.astype(">i4"), lambda a: a[::2]):
        array = make(np.arange(1000, dtype=np.int32))
        expected = array.tolist()
        handle = client.async_infer("identity_int32", [tensor("INPUT0", array)])
        array[:] = 0
        assert handle.get_result().as_numpy("OUTPUT0").tolist() == expected


def test_without_a_copy_the_array_is_read_when_it_is_sent(make_client):
    client = make_client(concurrency=1)
    blocker = client.async_infer("slow", slow(0.4))
    array = np.arange(100_000, dtype=np.int32)
    kept = client.async_infer("identity_int32", [tensor("INPUT0", array)])
    viewed = client.async_infer("identity_int32", [tensor("INPUT0", array)], copy=False)
    array[:] = -1
    blocker.get_result()
    assert kept.get_result().as_numpy("OUTPUT0").tolist() == list(range(100_000))
    # A small array may be copied nevertheless, a large one never.
    assert (viewed.get_result().as_numpy("OUTPUT0") == -1).all()


def test_dicts_of_the_caller_may_be_changed_as_soon_as_it_returns(make_client):
    client = make_client(concurrency=1)
    blocker = client.async_infer("slow", slow(0.2))
    headers, query, parameters = {"X-A": "1"}, {"a": "1"}, {"code": "NOT_FOUND"}
    message = [tensor("MESSAGE", np.array([b"as asked"], object))]
    handle = client.async_infer("fail", message, headers=headers, query_params=query, parameters=parameters)
    headers["X-A"] = "a\nb"
    query["a"] = "a\nb"
    parameters["code"] = "UNAVAILABLE"
    message.clear()
    with pytest.raises(tritonhttp.ServerError, match="as asked") as caught:
        handle.get_result()
    assert caught.value.status() == "404"
    blocker.get_result()


def test_it_takes_what_infer_takes(client):
    handle = client.async_infer(
        "summary",
        [tensor("VALUES", np.array([2, 1], np.float32))],
        "1",
        [InferRequestedOutput("SORTED", binary_data=False)],
        "the id",
        0,
        False,
        False,
        0,
        None,
        {"X-Own": "1"},
        {"a": "b"},
        "gzip",
        "deflate",
        {"own": 1},
    )
    result = handle.get_result()
    assert result.get_response()["id"] == "the id"
    assert result.as_numpy("SORTED").tolist() == [1, 2]


def test_concurrency_bounds_what_is_under_way(make_client):
    for concurrency, greenlets, at_once in ((3, None, 3), (3, 1, 1), (1, 8, 1)):
        client = make_client(concurrency=concurrency, max_greenlets=greenlets)
        before = time.monotonic()
        handles = [client.async_infer("slow", slow(0.2)) for _ in range(3)]
        for handle in handles:
            handle.get_result()
        if at_once == 1:
            assert time.monotonic() - before >= 0.6
        assert (client.stats().connections_opened > 1) is (at_once > 1)


def test_close_waits_for_what_is_under_way_and_in_line(make_client):
    client = make_client(concurrency=1)
    handles = [client.async_infer("slow", slow(0.2)) for _ in range(3)]
    client.close()
    assert [handle.get_result(block=False).as_numpy("OUTPUT")[0] for handle in handles] == [
        np.float32(0.2)
    ] * 3
    with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
        client.async_infer("slow", slow(0))


def test_a_sequence_keeps_its_order(client):
    given = tensor("INPUT", np.array([[3]], np.int32))
    handles = [
        client.async_infer(
            "sequence_accumulate", [given], sequence_id="ordered", sequence_start=n == 0, sequence_end=n == 9
        )
        for n in range(10)
    ]
    sums = [int(handle.get_result().as_numpy("OUTPUT")[0, 0]) for handle in handles]
    assert sums == [3 * n for n in range(1, 11)]


def test_dropping_a_handle_drops_nothing_else(client):
    count = statistics(client)
    for n in range(5):
        client.async_infer("identity_uint64", [tensor("INPUT0", np.full(1, n, np.uint64))])
    wait_until(lambda: statistics(client) == count + 5)


def test_a_cancelled_inference_makes_room_at_once_and_others_are_not_disturbed(make_client):
    client = make_client(concurrency=2)
    long = [client.async_infer("slow", slow(3)) for _ in range(2)]
    in_line = [client.async_infer("slow", slow(0.01 * n)) for n in range(4)]
    wait_until(lambda: all(handle.running() for handle in long))
    before = time.monotonic()
    for handle in (*long, in_line[2]):
        assert handle.cancel()
        with pytest.raises(CancelledError):
            handle.get_result()
    done, pending = wait_for([in_line[0], in_line[1], in_line[3]], timeout=10)
    assert len(done) == 3
    assert not pending
    assert [in_line[n].result().as_numpy("OUTPUT")[0] for n in (0, 1, 3)] == [
        np.float32(0.01 * n) for n in (0, 1, 3)
    ]
    assert time.monotonic() - before < 2.8
    assert client.is_server_live()


def test_handles_are_awaited_on_an_event_loop(make_client):
    client = make_client(concurrency=4)

    async def run():
        handles = [client.async_infer("slow", slow(0.01 * n)) for n in range(8)]
        return await asyncio.gather(*map(asyncio.wrap_future, handles))

    found = [result.as_numpy("OUTPUT")[0] for result in asyncio.run(run())]
    assert found == [np.float32(0.01 * n) for n in range(8)]


def test_leaving_a_map_frees_its_connections(make_client):
    client = make_client(concurrency=2)
    before = time.monotonic()
    for outputs in client.model("slow").map({"DELAY": [delay]} for delay in [0.0, 0.0] + [3.0] * 20):
        assert outputs["OUTPUT"] == 0
        break
    client.close()
    assert time.monotonic() - before < 2.8


def statistics(client):
    (stats,) = client.get_inference_statistics("identity_uint64")["model_stats"]
    return stats["inference_stats"]["success"]["count"]


class Greenlet:
    """An object with `get`, as a program may hand to InferAsyncRequest."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.asked = []

    def get(self, block=True, timeout=None):
        self.asked.append((block, timeout))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def test_a_handle_can_be_made_of_anything_with_get(client):
    response = client._post(
        "v2/models/identity_int32/infer",
        client.generate_request_body([tensor("INPUT0", np.ones(1, np.int32), binary_data=False)])[0],
        {"Content-Type": "application/json"},
        None,
    )
    greenlet = Greenlet(response)
    handle = InferAsyncRequest(greenlet, verbose=False)
    assert handle.get_result(block=True, timeout=3).as_numpy("OUTPUT0").tolist() == [1]
    assert greenlet.asked == [(True, 3)]


@pytest.mark.parametrize("error", [queue.Empty(), TimeoutError()], ids=repr)
def test_a_getter_that_runs_out_of_time_is_the_references_exception(error):
    with pytest.raises(tritonhttp.InferenceServerException, match="failed to obtain inference response"):
        InferAsyncRequest(Greenlet(error)).get_result(timeout=1)


def test_a_getter_that_fails_otherwise_says_what_it_says():
    with pytest.raises(tritonhttp.InferenceServerException, match="as is"):
        InferAsyncRequest(Greenlet(tritonhttp.InferenceServerException("as is"))).get_result()


def test_a_queue_will_do():
    results = queue.Queue()
    handle = InferAsyncRequest(results)
    with pytest.raises(tritonhttp.InferenceServerException, match="failed to obtain inference response"):
        handle.get_result(block=False)


def test_a_deadline_of_the_network_is_no_missing_result(make_client):
    client = make_client(network_timeout=0.2)
    handle = client.async_infer("slow", slow(1.0))
    with pytest.raises(tritonhttp.DeadlineExceeded, match="timed out"):
        handle.get_result()
