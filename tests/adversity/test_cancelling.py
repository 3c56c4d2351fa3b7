"""Handles of `async_infer` as futures: wherever an inference is cancelled, it ends at once and nothing is lost."""

import asyncio
import concurrent.futures
import contextlib
import copy
import gc
import logging
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait

import numpy as np
import pytest

import tritonhttp
from tritonhttp import DeadlineExceeded, InferenceServerException, InvalidRequest, Retry
from tritonhttp.errors import RequestCancelled, ResultNotReady

from ..clients import run_in_threads, tensor, wait_until
from ..processes import exit_status, in_child, needs_fork
from .faults import authority, identity, trusting
from .servers import Answers, answer, over_tls
from .test_order import GIVEN, STUCK, Line, finish, inputs
from .test_repeating import GOOD

#: A wait that takes so many seconds was not ended by a cancellation.
SOON = 8.0
LARGE = np.zeros(8_000_000, np.float32)


@pytest.fixture
def client_kind():
    return "blocking"  # on asyncio a call is a task


class Silent:
    """Read requests, answer the first few of them, and then none; note when the client closes the connection."""

    def __init__(self, answers=0, start=b""):
        self.answers, self.start = answers, start
        self.asked, self.closed = threading.Event(), threading.Event()

    def __call__(self, peer):
        for _ in range(self.answers):
            if not peer.read_request():
                return
            peer.send(GOOD)
        if peer.read_request():
            self.asked.set()
            peer.send(self.start)
            try:
                peer.hold()
            finally:
                self.closed.set()


class Reads:
    """Read the first byte, some bytes or the head of what comes, and nothing more."""

    def __init__(self, *, reads):
        self.reads = reads
        self.asked, self.over = threading.Event(), threading.Event()

    def __call__(self, peer):
        if self.reads == "head":
            peer.read_head()
        else:
            peer.sock.recv(1 if self.reads == "byte" else 1 << 16)
        self.asked.set()
        self.over.wait(STUCK)


def begun(client, **options):
    return client.async_infer("m", inputs(), **options)


def cancels(handle):
    """Cancel a handle; check what it says, and that a thread that waits for its result is told at once."""
    told = []

    def ask():
        try:
            handle.get_result(timeout=STUCK)
        except InferenceServerException as error:
            told.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert not handle.done()
    assert handle.cancel() is True
    thread.join(SOON)
    assert not thread.is_alive()
    assert [type(error) for error in told] == [RequestCancelled]
    assert str(told[0]) == "the inference was cancelled"
    assert (handle.cancelled(), handle.done(), handle.running()) == (True, True, False)
    for ask_again in (handle.result, handle.exception):
        with pytest.raises(CancelledError):
            ask_again()
    assert handle.cancel() is True, "as in concurrent.futures"
    assert repr(handle).endswith(": cancelled>")


def is_free(client):
    """Check that every place of the pool can be had, and that all threads are idle."""
    wait_until(lambda: not client._transport.pool.holders and not client._transport.pool.line)
    finish([begun(client, deadline=STUCK).get_result for _ in range(2 * client._limit)])
    wait_until(lambda: not client._transport.pool.holders)
    assert client._transport.pool.taken <= client._limit


# -- an inference that was sent

GZIP = {"request_compression_algorithm": "gzip"}
HOOKS = {"on_request": lambda call: None, "on_response": lambda call: None}
#: Options of a call, options of the client, and how many requests the connection has carried before.
WAYS = {
    "first": ({}, {}, 0),
    "repeated": ({}, {}, 5),
    "deadline": ({"deadline": STUCK}, {}, 5),
    "headers": ({"headers": {"X-A": "1"}}, {}, 3),
    "compressed": (GZIP, {}, 0),
    "sequence": ({"sequence_id": "s"}, {}, 3),
    "retry": ({"idempotent": True}, {"retry": Retry(on=("lost", "timeout", "connect"), backoff=0)}, 3),
    "resent": ({"idempotent": True}, {}, 3),
    "hooks": ({"idempotent": True}, {**HOOKS, "retry": Retry()}, 3),
    "no limit": ({}, {"network_timeout": None}, 3),
    "looked up": ({}, {"resolve_every": 60.0}, 0),
}


@pytest.mark.parametrize(
    "start", [b"", GOOD[:40], GOOD[:-3]], ids=["no answer", "half a head", "half a body"]
)
@pytest.mark.parametrize("way", WAYS)
def test_an_inference_that_was_sent_ends_at_once_and_its_connection_is_closed(serve, open_client, way, start):
    options, of_client, answers = WAYS[way]
    silent = Silent(answers, start)
    server = serve(silent, Answers(GOOD))
    client = open_client(server.url, **of_client)
    finish([begun(client, **options).get_result for _ in range(answers)])
    handle = begun(client, **options)
    assert silent.asked.wait(STUCK)
    assert handle.running()
    cancels(handle)
    assert silent.closed.wait(SOON), "the server sees the end of the connection"
    assert server.connections == 1, "nothing was sent again"
    finish([lambda: client.infer("m", inputs(), **{"deadline": SOON, **options})])
    assert len(server.requests) == answers + 2
    is_free_of(client)


def is_free_of(client):
    """Check that nothing is in use, on clients with a transport for each server too."""
    transports = [client._transport, *(each._transport for each in client._servers.values())]
    wait_until(lambda: not any(each.pool.holders or each.pool.line for each in transports))


def test_under_tls(serve, open_client):
    silent = Silent(2)
    good = over_tls(identity(), Answers(GOOD))
    server = serve(over_tls(identity(), silent), good, good)
    client = open_client(server.url, ssl=True, ssl_context_factory=trusting)
    finish([begun(client).get_result for _ in range(2)])
    handle = begun(client)
    assert silent.asked.wait(STUCK)
    cancels(handle)
    assert silent.closed.wait(SOON)
    is_free(client)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_while_a_large_request_is_sent(serve, open_client, encrypted):
    reads = Reads(reads="head")
    scripts = [over_tls(identity(), script) if encrypted else script for script in (reads, Answers(GOOD))]
    options = {"ssl": True, "ssl_context_factory": trusting} if encrypted else {}
    client = open_client(serve(*scripts, scripts[1]).url, **options)
    handle = client.async_infer("m", [tensor("INPUT0", LARGE)])
    assert reads.asked.wait(STUCK)
    cancels(handle)
    is_free(client)
    reads.over.set()


def test_while_the_server_does_not_answer_a_connect(serve, open_client):
    server = serve(Answers(GOOD), answers_connects=None)
    client = open_client(server.url)
    handle = begun(client)
    wait_until(lambda: any(place.wake for place in client._transport.pool.holders))
    time.sleep(0.05)  # let it come to the connect itself
    cancels(handle)
    is_free_of(client)
    server.mend()
    is_free(client)


def test_while_one_of_several_addresses_does_not_answer(serve, open_client, monkeypatch):
    server = serve(Answers(GOOD), answers_connects=None)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", server.port)) for n in (1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    client = open_client(f"localhost:{server.port}")
    # Nobody listens at the second address, so it is refused, and the first alone is waited for.
    handle = begun(client)
    wait_until(lambda: any(place.wake for place in client._transport.pool.holders))
    time.sleep(0.05)
    cancels(handle)
    is_free_of(client)


def test_in_a_tls_handshake(serve, open_client):
    reads = Reads(reads="byte")
    client = open_client(
        serve(reads, over_tls(identity(), Answers(GOOD))).url, ssl=True, ssl_context_factory=trusting
    )
    handle = begun(client)
    assert reads.asked.wait(STUCK)
    cancels(handle)
    is_free_of(client)
    reads.over.set()
    finish([begun(client, deadline=SOON).get_result])


def test_while_a_name_is_looked_up(serve, open_client, monkeypatch):
    server, go_on, found = serve(Answers(GOOD)), threading.Event(), socket.getaddrinfo
    asked = threading.Event()

    def stalls(host, *arguments, **options):
        if host == "a.test" and not options["flags"] & socket.AI_NUMERICHOST:
            asked.set()
            go_on.wait(STUCK)
            host = "127.0.0.1"
        return found(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", stalls)
    client = open_client(f"a.test:{server.port}")
    handle = begun(client)
    assert asked.wait(STUCK)
    cancels(handle)
    is_free_of(client)
    go_on.set()


def test_while_a_proxy_does_not_answer(serve, open_client):
    reads = Reads(reads="bytes")
    proxy = serve(reads)
    client = open_client("127.0.0.1:1", proxy=f"http://{proxy.url}", ssl=True, ssl_context_factory=trusting)
    handle = begun(client)
    assert reads.asked.wait(STUCK)
    cancels(handle)
    is_free_of(client)
    reads.over.set()


def test_in_the_pause_before_another_try(serve, open_client):
    busy = answer({"error": "busy"}, "503 Service Unavailable", "Retry-After: 600\r\n")
    server = serve(Answers(busy))
    paused = threading.Event()
    client = open_client(server.url, retry=Retry(), on_retry=lambda call, reason, pause: paused.set())
    handle = begun(client, idempotent=True)
    assert paused.wait(STUCK)
    cancels(handle)
    assert len(server.requests) == 1
    before = time.monotonic()
    client.close()
    assert time.monotonic() - before < SOON, "the thread does not sleep on"


# -- what else is told


@pytest.mark.parametrize("several", [False, True])
def test_hooks_see_a_cancelled_call_and_no_server_is_blamed(serve, open_client, several):
    silents = [Silent(), Silent()]
    servers = [serve(silent, Answers(GOOD)) for silent in silents[: 1 + several]]
    seen = []
    client = open_client([server.url for server in servers], retry=Retry(backoff=0), on_response=seen.append)
    for count in range(1, 4):
        for each in silents:
            each.asked.clear()
        handle = begun(client, idempotent=True)
        if count > len(servers):
            finish([handle.get_result])
            break
        wait_until(lambda: any(each.asked.is_set() for each in silents))
        cancels(handle)
        wait_until(lambda count=count: len(seen) == count)
        assert isinstance(seen[-1].error, RequestCancelled)
        assert (seen[-1].attempts, seen[-1].status) == (1, None)
    assert client.stats().retries == client.stats().resent == 0
    if several:
        assert not any(client._dispatch._balancer._known[server.url].failures for server in servers), (
            "a cancelled call says nothing of its server"
        )
    is_free_of(client)


def test_what_a_plugin_still_does_is_dropped(serve, open_client):
    server, go_on, asked = serve(Answers(GOOD)), threading.Event(), threading.Event()
    client = open_client(server.url)

    class Slow(tritonhttp.InferenceServerClientPlugin):
        def __call__(self, request):
            asked.set()
            go_on.wait(STUCK)

    client.register_plugin(Slow())
    handle = begun(client)
    assert asked.wait(STUCK)
    cancels(handle)
    go_on.set()
    is_free(client)
    assert len(server.requests) == 2, "the cancelled one was not sent"


# -- in line


@pytest.mark.parametrize("limits", [{}, {"concurrency": 2, "max_greenlets": 1}], ids=repr)
@pytest.mark.parametrize("options", [{}, {"headers": {"X-A": "1"}}, {"deadline": STUCK}], ids=repr)
def test_an_inference_in_line_is_never_sent(serve, open_client, limits, options):
    line = Line()
    go_on = line.hold("0")
    client = open_client(serve(*[line] * 20).url, **limits)
    handles = [begun(client, request_id=str(n), **options) for n in range(6)]
    wait_until(lambda: line.arrived)
    assert handles[0].running()
    assert not handles[1].running()
    for n in (3, 1, 5):
        cancels(handles[n])
    go_on.set()
    finish(handles[n].get_result for n in (0, 2, 4))
    assert line.arrived == ["0", "2", "4"]
    is_free(client)


def test_a_cancelled_inference_keeps_no_data(serve, open_client):
    line = Line()
    go_on = line.hold("0")
    client = open_client(serve(line).url)
    first = begun(client, request_id="0")
    wait_until(lambda: line.arrived)
    handle = client.async_infer("m", [tensor("INPUT0", LARGE)])
    assert handle.cancel()
    assert handle._greenlet._task is None
    go_on.set()
    finish([first.get_result])


@pytest.mark.parametrize("several", [False, True], ids=["one server", "two servers"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_cancelled_inference_gives_its_turn_in_the_sequence_back(serve, open_client, concurrency, several):
    line = Line()
    names = [str(n) for n in range(6)]
    go_on = line.hold(*names[:3])
    urls = [serve(*[line] * 20).url for _ in range(1 + several)]
    client = open_client(urls if several else urls[0], concurrency=concurrency)
    handles = [
        client.async_infer("m", inputs(), request_id=name, sequence_id="s", sequence_start=name in "02")
        for name in names
    ]
    wait_until(lambda: line.arrived)
    for position in (1, 4, 0):  # two in the line, and the one that is under way
        cancels(handles[position])
    wait_until(lambda: line.arrived == ["0", "2"])
    go_on.set()
    finish(handles[position].get_result for position in (2, 3, 5))
    assert line.arrived == ["0", "2", "3", "5"]
    wait_until(lambda: not client._turns._pools)
    is_free_of(client)


def test_all_of_a_line_may_be_cancelled_and_the_client_closed(serve, open_client):
    silent = Silent()
    client = open_client(serve(*[silent] * 31).url)
    handles = [begun(client, sequence_id=n % 3) for n in range(30)]
    assert silent.asked.wait(STUCK)
    run_in_threads(lambda handle: handle.cancel(), handles)
    before = time.monotonic()
    client.close()
    assert time.monotonic() - before < SOON
    assert all(handle.cancelled() for handle in handles)


@pytest.mark.parametrize("way", ["plain", "headers", "sequence"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_storm_of_cancellations_disturbs_nobody(serve, open_client, concurrency, way):
    """Each inference has its own answer or was cancelled, and every place is free in the end."""

    def echo(peer):
        while head := peer.read_head():
            body = peer.read_body(head)
            if body is None:
                return
            peer.send(GOOD.replace(GIVEN.tobytes(), body[-GIVEN.nbytes :]))

    server = serve(*[echo] * 5000)
    client = open_client(server.url, concurrency=concurrency)
    options = {"plain": {}, "headers": {"headers": {"X-A": "1"}}, "sequence": {"sequence_id": "s"}}[way]
    outcomes = []

    def work(seed):
        chance = random.Random(seed)
        for n in range(60):
            sent = np.full(3, 1000 * seed + n, np.float32)
            handle = client.async_infer("m", [tensor("INPUT0", sent)], **options)
            time.sleep(chance.choice([0, 0, 1e-4, 5e-4, 2e-3]))
            cancelled = chance.random() < 0.7 and handle.cancel()
            try:
                assert handle.get_result(timeout=STUCK).as_numpy("OUTPUT0").tolist() == sent.tolist()
                assert not cancelled
            except RequestCancelled:
                assert cancelled
            outcomes.append(cancelled)

    run_in_threads(work, range(1, 5))
    assert set(outcomes) == {True, False}
    wait_until(lambda: not client._transport.pool.holders and not client._transport.pool.line)
    assert client._transport.pool.taken <= concurrency
    wait_until(lambda: not client._turns._pools)  # a turn ends behind its call


# -- as a future


def test_handles_work_in_concurrent_futures(serve, open_client):
    line = Line(fails={"2": "500"})
    go_on = line.hold("1", "3")
    client = open_client(serve(*[line] * 9).url, concurrency=4)
    handles = [begun(client, request_id=str(n)) for n in range(4)]
    assert all(isinstance(handle, concurrent.futures.Future) for handle in handles)
    done, _ = wait(handles, timeout=STUCK, return_when="FIRST_COMPLETED")
    assert done
    assert done <= {handles[0], handles[2]}
    wait_until(lambda: handles[0].done() and handles[2].done())
    assert wait(handles, timeout=0).not_done == {handles[1], handles[3]}
    assert wait(handles, timeout=STUCK, return_when="FIRST_EXCEPTION").not_done == {handles[1], handles[3]}
    with pytest.raises(concurrent.futures.TimeoutError):
        list(as_completed(handles, timeout=0.05))
    threading.Timer(0.05, handles[3].cancel).start()
    threading.Timer(0.1, go_on.set).start()
    assert set(as_completed(handles, timeout=STUCK)) == set(handles)
    assert wait(handles).not_done == set()
    assert type(handles[2].exception()) is tritonhttp.ServerError
    assert handles[0].exception() is None
    assert handles[3].cancelled()
    assert handles[1].result(timeout=1).as_numpy("OUTPUT0").tolist() == GIVEN.tolist()


@pytest.mark.parametrize("kind", [TimeoutError, concurrent.futures.TimeoutError, ResultNotReady])
def test_a_result_that_is_not_there_in_time_is_a_timeout(serve, open_client, kind):
    silent = Silent()
    handle = begun(open_client(serve(silent).url))
    for ask in (handle.result, handle.exception, handle.get_result):
        with pytest.raises(kind, match="failed to obtain inference response"):
            ask(timeout=0.01)
    assert not handle.done()
    handle.cancel()


def test_a_handle_may_be_awaited_and_cancelled_on_an_event_loop(serve, open_client):
    line = Line(fails={"bad": "500"})
    go_on = line.hold("held")
    client = open_client(serve(*[line] * 9).url, concurrency=4)

    async def run():
        good, bad, held, other = (begun(client, request_id=name) for name in ("good", "bad", "held", "held"))
        result = await asyncio.wrap_future(good)
        assert result.as_numpy("OUTPUT0").tolist() == GIVEN.tolist()
        with pytest.raises(tritonhttp.ServerError, match="as asked"):
            await asyncio.wrap_future(bad)
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(asyncio.wrap_future(held), 0.1)
        assert held.cancelled(), "the loop's cancellation is the inference's"
        asyncio.get_running_loop().call_later(0.05, other.cancel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wrap_future(other)

    asyncio.run(run())
    is_free_of(client)
    go_on.set()


@pytest.mark.parametrize("how", ["callback", "wait", "asyncio"])
def test_a_deadline_in_line_is_told_to_those_who_do_not_wait_for_the_result(serve, open_client, within, how):
    silent = Silent()
    client = open_client(serve(silent).url)
    first = begun(client)
    assert silent.asked.wait(STUCK)
    late = [begun(client, deadline=limit) for limit in (STUCK, 0.4, 0.2)]
    told = []
    with within(0.15):
        if how == "callback":
            for each in late:
                each.add_done_callback(told.append)
            wait_until(lambda: len(told) == 2)
            assert told == [late[2], late[1]]
        elif how == "wait":
            assert wait(late, timeout=1).not_done == {late[0]}
        else:
            results = asyncio.run(asyncio.wait_for(gathered(late[1:]), STUCK))
            assert [type(each) for each in results] == [DeadlineExceeded] * 2
    for each in late[1:]:
        assert type(each.exception()) is DeadlineExceeded
    assert late[0].cancel()
    assert first.cancel()
    is_free_of(client)


async def gathered(handles):
    return await asyncio.gather(*map(asyncio.wrap_future, handles), return_exceptions=True)


def test_callbacks_run_once_in_the_thread_that_ends_the_inference(serve, open_client, caplog):
    line = Line()
    go_on = line.hold("0")
    client = open_client(serve(line).url)
    told = []

    def note(name):
        return lambda handle: told.append((name, handle, threading.current_thread().name))

    def fails(handle):
        raise ValueError("as asked")

    first, second = begun(client, request_id="0"), begun(client, request_id="1")
    for handle in (first, second):
        for name in ("a", fails, "b"):
            handle.add_done_callback(name if callable(name) else note(name))
    here = threading.current_thread().name
    with caplog.at_level(logging.ERROR, "tritonhttp"):
        assert second.cancel()
        assert told == [("a", second, here), ("b", second, here)]
        told.clear()
        go_on.set()
        wait_until(lambda: len(told) == 2)
        assert [(name, handle) for name, handle, _ in told] == [("a", first), ("b", first)]
        assert {thread for *_, thread in told} == {"tritonhttp_0"}
        told.clear()
        first.add_done_callback(note("late"))
        first.add_done_callback(fails)
        assert told == [("late", first, here)]
    assert [record.exc_info[0] for record in caplog.records] == [ValueError] * 3
    assert "a callback of <tritonhttp.InferAsyncRequest" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_may_use_and_close_the_client_and_end_no_thread(serve, open_client):
    line = Line()
    go_on = line.hold("0")
    client = open_client(serve(line).url)
    done, others = threading.Event(), []

    def exits(handle):
        raise SystemExit

    def closes(handle):
        others.append(begun(client))
        client.close()
        done.set()

    begun(client, request_id="0").add_done_callback(exits)
    go_on.set()
    finish([begun(client).get_result])
    begun(client).add_done_callback(closes)
    assert done.wait(STUCK)
    assert wait(others, timeout=STUCK).not_done == set()


def test_what_ends_by_itself_cannot_be_cancelled(serve, open_client):
    client = open_client(serve(Answers(GOOD)).url)
    handle = begun(client)
    finish([handle.get_result])
    assert handle.cancel() is False
    assert (handle.cancelled(), handle.running(), handle.exception()) == (False, False, None)
    assert repr(handle).endswith(": done>")
    for refused in (
        lambda: handle.set_result(None),
        lambda: handle.set_exception(ValueError()),
        handle.set_running_or_notify_cancel,
    ):
        with pytest.raises(InvalidRequest):
            refused()
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle or copy the handle"):
            copied(handle)


def test_a_dropped_handle_does_not_cancel(serve, open_client):
    line = Line(pause=0.05)
    client = open_client(serve(line).url)
    begun(client, request_id="0")
    gc.collect()
    wait_until(lambda: line.arrived == ["0"])
    is_free(client)


@needs_fork
def test_a_forked_child_is_told_that_the_inference_is_its_parents(serve, open_client):
    silent = Silent()
    client = open_client(serve(silent).url)
    under_way, in_line = begun(client), begun(client, sequence_id="s")
    assert silent.asked.wait(STUCK)

    def in_the_child():
        for handle in (under_way, in_line):
            assert wait([handle], timeout=5).not_done == set()
            assert handle.cancel() is False
            with pytest.raises(InferenceServerException, match="belongs to the parent"):
                handle.get_result()

    assert exit_status(in_child(in_the_child)) == 0
    assert not under_way.done()
    assert not silent.closed.wait(0.05), "the child leaves the parent's connection alone"
    cancels(in_line)
    cancels(under_way)


# -- a model's inferences


METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "p",
    "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [-1]}],
    "outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": [-1]}],
}
#: The value of the first item.
FIRST = 10
FAILING = answer({"error": "as asked"}, "500 Oops")


class Model(Silent):
    """Describe a model, and run it with these answers, by the first value of the input; be silent about others.

    The first answer comes at once, and the others when one of the silent inferences has come. An input of other
    tests gets a good answer.
    """

    def __init__(self, *answers, max_batch=0):
        super().__init__()
        self.answers, self.config = answers, {"max_batch_size": max_batch}

    def __call__(self, peer):
        while head := peer.read_head():
            path, body = head.split()[1], peer.read_body(head)
            if body is None:
                return
            if path.endswith(b"/infer"):
                value = int(np.frombuffer(body[-GIVEN.nbytes :], np.float32)[0]) - FIRST
                if value >= len(self.answers):
                    self.asked.set()
                    with contextlib.suppress(OSError):
                        peer.hold()
                    self.closed.set()
                    return
                if value > 0:
                    self.asked.wait(STUCK)
                peer.send(self.answers[value] if value >= 0 else GOOD)
            else:
                peer.send(answer(self.config if path.endswith(b"config") else METADATA))


def items(count):
    for number in range(count):
        yield {"INPUT0": np.full(3, FIRST + number, np.float32)}


@pytest.mark.parametrize("way", ["close", "exception", "drop"])
def test_leaving_a_map_cancels_what_is_in_flight(serve, open_client, way):
    model = Model(GOOD, GOOD)
    server = serve(model, model, *[Answers(GOOD)] * 4)
    client = open_client(server.url, concurrency=2)
    found = client.model("m").map(items(50), in_flight=4)
    next(found)
    next(found)
    assert model.asked.is_set()
    if way == "close":
        found.close()
    elif way == "exception":
        with pytest.raises(ValueError, match="of the loop"):
            found.throw(ValueError("of the loop"))
    else:
        del found
        gc.collect()
    assert model.closed.wait(SOON)
    is_free(client)
    # The map had two answers, and two inferences under way; the others were not sent.
    assert len([head for head in server.requests if b"/infer " in head]) <= 4 + 4


def test_an_error_of_a_map_cancels_the_others(serve, open_client):
    model = Model(GOOD, FAILING)
    client = open_client(serve(model, model, *[Answers(GOOD)] * 4).url, concurrency=2)
    found = client.model("m").map(items(9), in_flight=3)
    next(found)
    with pytest.raises(tritonhttp.ServerError, match="as asked"):
        next(found)
    assert list(found) == []
    is_free(client)


@pytest.mark.parametrize("way", ["error", "interrupt"])
def test_a_batch_that_fails_cancels_its_other_parts(serve, open_client, within, way):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    model = Model(GOOD, *[FAILING] * (way == "error"), max_batch=3)
    client = open_client(serve(model, model, *[Answers(GOOD)] * 4).url, concurrency=2)
    kind = tritonhttp.ServerError if way == "error" else KeyboardInterrupt

    def interrupt():
        main = threading.main_thread()

        def waits():  # for one of the parts, or carries it out itself
            frame = sys._current_frames()[main.ident]
            while frame is not None and frame.f_code.co_name != "get_result":
                frame = frame.f_back
            return frame is not None

        wait_until(lambda: model.asked.is_set() and waits())
        signal.pthread_kill(main.ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    if way == "interrupt":
        thread.start()
    with within(0, SOON), pytest.raises(kind):
        client.model("m").batched({"INPUT0": FIRST + np.arange(9, dtype=np.float32) // 3})
    if way == "interrupt":
        thread.join()
    is_free(client)


# -- greenlets

#: How an answer of several begins.
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

GREEN = """
import sys, time
import numpy as np
import tritonhttp
from tritonhttp.errors import RequestCancelled
from concurrent.futures import wait
url, *ca_certs = sys.argv[1:]
secure = {"ssl": True, "ssl_options": {"ca_certs": ca_certs[0]}} if ca_certs else {}

def begin(client, **options):
    tensor = tritonhttp.InferInput("INPUT0", [3], "FP32").set_data_from_numpy(np.ones(3, np.float32))
    return client.async_infer("m", [tensor], **options)

with tritonhttp.InferenceServerClient(url, **secure) as client:
    begun = time.monotonic()
    first, second = begin(client), begin(client)
    told = []
    first.add_done_callback(told.append)
    spawn(first.get_result)
    sleep(0.05)
    assert first.running() and not second.running()
    assert second.cancel() and first.cancel()
    assert told == [first]
    for each in (first, second):
        try:
            each.get_result(timeout=5)
        except RequestCancelled:
            pass
        else:
            raise AssertionError
    third = begin(client)
    assert wait([third], timeout=5).done == {third}
    third.get_result()
    stream = client.generate_stream("m", {})
    reading = spawn(list, stream)
    sleep(0.05)
    stream.close()  # while another one waits for its answer
    sleep(0.05)
    assert not client._transport.pool.holders
assert time.monotonic() - begun < 20, time.monotonic() - begun
sys.stdout.write("fine")
"""


@pytest.mark.parametrize(
    ("package", "prologue"),
    [
        ("gevent", "import gevent.monkey\ngevent.monkey.patch_all()\nfrom gevent import spawn, sleep\n"),
        ("eventlet", "import eventlet\neventlet.monkey_patch()\nfrom eventlet import spawn, sleep\n"),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_greenlets_cancel(serve, tmp_path, package, prologue, encrypted):
    pytest.importorskip(package, reason="a dependency of the tests only")
    silent, streaming = Silent(), Silent(answers=1, start=STREAM)
    scripts = [over_tls(identity(), each) if encrypted else each for each in (silent, streaming)]
    command = [sys.executable, "-W", "ignore", "-c", prologue + GREEN, serve(*scripts, scripts[1]).url]
    if encrypted:
        authority().cert_pem.write_to_path(tmp_path / "ca.pem")
        command.append(str(tmp_path / "ca.pem"))
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "fine"), ran.stderr
    assert silent.closed.wait(SOON)
