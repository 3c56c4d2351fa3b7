"""However a stream ends, it ends once: who watches is told, and its server and its place are given back."""

import asyncio
import contextlib
import gc
import threading
import time

import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import (
    ConnectionLost,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    ProtocolError,
    ServerError,
)

from ..clients import run_in_threads, wait_until
from ..processes import needs_fork, run_program
from . import faults
from .servers import HEALTHY, Sends, Server, answer, healthy, over_tls
from .test_streams import CHUNKED, EVENTS, HEAD, SEEN, WHOLE, chunks, event, framed, pool, take

BEGUN = CHUNKED + chunks(*EVENTS, end=b"")
BROKEN = event(b'{"error": "broken"}')
NOPE = event(b"nope")


def held(go_on, then=healthy):
    """Stream one answer, and the others when `go_on` is set."""

    def script(peer):
        peer.read_request()
        peer.send(CHUNKED + chunks(EVENTS[0], end=b""))
        go_on.wait(10)
        peer.send(chunks(*EVENTS[1:]))
        then(peer)

    return script


class Told(list):
    """A hook that remembers when it was called, and on which thread."""

    def __call__(self, call):
        self.thread = threading.current_thread()
        self.at = time.monotonic()
        self.append(call)

    @property
    def call(self):
        (call,) = self
        return call


def read(client, **options):
    return take(client.generate_stream("m", {}, **options))


def leave(client, **options):
    with client.generate_stream("m", {}, **options) as stream:
        assert next(stream) == SEEN[0]
    return SEEN[:1], None


def close(client, **options):
    stream = client.generate_stream("m", {}, **options)
    assert next(stream) == SEEN[0]
    stream.close()
    stream.close()
    assert list(stream) == []
    return SEEN[:1], None


def drop(client, **options):
    assert next(client.generate_stream("m", {}, **options)) == SEEN[0]
    return SEEN[:1], None


def drop_in_a_circle(client, **options):
    stream = client.generate_stream("m", {}, **options)
    assert next(stream) == SEEN[0]
    stream.itself = stream
    del stream
    gc.collect()
    return SEEN[:1], None


#: What the server sends, how it goes on, what the caller does, how many of the three answers it gets, the error
#: and the bytes of the body that were received.
ENDS = {
    "whole": (framed(WHOLE, "chunks"), "go on", read, 3, None, len(WHOLE)),
    "with a length": (framed(WHOLE, "length"), "go on", read, 3, None, len(WHOLE)),
    "to the end": (framed(WHOLE, "to the end"), "close", read, 3, None, len(WHOLE)),
    "as JSON": (answer(b'{"OUT": 0}'), "go on", read, 1, None, 10),
    "cut": (BEGUN, "close", read, 3, ConnectionLost, len(WHOLE)),
    "cut in an event": (CHUNKED + chunks(WHOLE, b"da", end=b""), "close", read, 3, ConnectionLost, None),
    "no event's end": (CHUNKED + chunks(WHOLE, b"da"), "go on", read, 3, ProtocolError, len(WHOLE) + 2),
    "a bad chunk": (BEGUN + b"zz\r\n", "hold", read, 3, ProtocolError, len(WHOLE)),
    "no JSON": (CHUNKED + chunks(WHOLE, NOPE, end=b""), "hold", read, 3, ProtocolError, None),
    "no JSON at its end": (framed(WHOLE + NOPE, "length"), "go on", read, 3, ProtocolError, None),
    "an error": (CHUNKED + chunks(WHOLE, BROKEN, end=b""), "hold", read, 3, ServerError, None),
    "an error at its end": (framed(WHOLE + BROKEN, "length"), "go on", read, 3, ServerError, None),
    "a stall": (BEGUN, "hold", read, 3, DeadlineExceeded, len(WHOLE)),
    "no body": (CHUNKED, "hold", read, 0, DeadlineExceeded, 0),
    "left": (BEGUN, "hold", leave, 1, None, None),
    "closed": (BEGUN, "hold", close, 1, None, None),
    "dropped": (BEGUN, "hold", drop, 1, None, None),
    "collected": (BEGUN, "hold", drop_in_a_circle, 1, None, None),
    "no success": (answer({"error": "no"}, "404 Not Found"), "go on", read, 0, None, 15),
    "no head": (HEAD, "close", read, 0, ConnectionLost, 0),
    "nothing": (b"", "hold", read, 0, DeadlineExceeded, 0),
}


@pytest.mark.parametrize("name", ENDS)
def test_hooks_hear_once_of_a_streams_end(serve, open_client, caplog, name):
    data, then, act, seen, error, size = ENDS[name]
    begun, ended = Told(), Told()
    client = open_client(serve(Sends(data, then)).url, on_request=begun, on_response=ended)
    timed = error is DeadlineExceeded
    with caplog.at_level("DEBUG", "tritonhttp"):
        before = time.monotonic()
        came, raised = act(client, idle_timeout=0.15 if timed else 5)
        after = time.monotonic()
        assert came == SEEN[:seen]
        wait_until(lambda: bool(ended), 5)
        call = ended.call
        lines = []
        wait_until(lambda: lines.extend(each for each in caplog.records if hasattr(each, "call")) or lines, 5)
    assert call is begun.call
    assert type(call.error) is (error or type(None))
    assert error is None or call.error is raised
    assert call.status == (None if name in ("no head", "nothing") else 404 if name == "no success" else 200)
    assert call.response_bytes == size if size is not None else call.response_bytes >= len(EVENTS[0])
    assert (0.14 if timed else 0) < call.seconds <= max(after, ended.at) - before
    if call.status == 200:
        assert sum(call.phases.values()) <= call.seconds * 1e3 + 1
        assert sum(call.phases.values()) > (100 if timed else 0)
    assert [line.call for line in lines] == [call]
    assert f"{call.response_bytes} received" in lines[0].message
    assert ("status" in lines[0].message) == (error is None)
    assert client.get_server_metadata(deadline=5) == HEALTHY
    assert pool(client).taken == 1
    assert len(ended) == 2


def test_a_stream_does_not_end_with_its_head(serve, open_client):
    go_on = threading.Event()

    ended = Told()
    client = open_client(serve(held(go_on)).url, on_response=ended)
    stream = client.generate_stream("m", {})
    assert next(stream) == SEEN[0]
    time.sleep(0.2)
    assert not ended
    go_on.set()
    assert list(stream) == SEEN[1:]
    assert ended.call.seconds >= 0.2
    assert ended.call.phases["receive"] >= 200


def test_a_hook_that_is_told_may_use_the_client(serve, open_client):
    """The stream's place is free by then, also where the collector ends it."""
    said, streams = [], [framed(WHOLE, "chunks"), BEGUN]

    def script(peer):
        while head := peer.read_head():
            peer.read_body(head)
            peer.send(streams.pop(0) if b"generate_stream" in head else answer(HEALTHY))

    def hook(call):
        if call.action == "generate_stream":
            if hasattr(client, "_client"):
                task = client._loop.create_task(client._client.get_server_metadata(deadline=5))
                task.add_done_callback(lambda task: said.append(task.result()))
            else:
                said.append(client.get_server_metadata(deadline=5))

    client = open_client(serve(script).url, on_response=hook)
    assert read(client) == (SEEN, None)
    drop(client)
    wait_until(lambda: len(said) == 2, 5)
    assert said == [HEALTHY] * 2


def test_a_dropped_stream_is_reported_where_a_hook_may_take_any_lock(serve, open_client):
    """Not from the collector: the thread that it runs on may hold the lock."""
    lock, ended = threading.Lock(), Told()

    def hook(call):
        with lock:
            ended(call)

    client = open_client(serve(Sends(BEGUN, "hold")).url, on_response=hook)
    stream = client.generate_stream("m", {})
    next(stream)
    with lock:
        del stream
        gc.collect()
    wait_until(lambda: bool(ended), 5)
    assert ended.thread is not threading.current_thread()
    if hasattr(client, "_loop"):
        assert ended.thread is client._thread
    assert ended.call.error is None


# -- which of several servers


def outstanding(client):
    balancer = getattr(client, "_client", client)._dispatch._balancer
    return [len(entry.tickets) for entry in balancer._ring]


def in_rotation(client):
    balancer = getattr(client, "_client", client)._dispatch._balancer
    return sum(entry.due is None for entry in balancer._ring)


def streams_once(data, then):
    """Answer every stream like that, and all else as it should be."""

    def script(peer):
        while head := peer.read_head():
            peer.read_body(head)
            if b"generate_stream" in head:
                peer.send(data)
                peer.end(then)
                return
            peer.send(answer(HEALTHY))

    return script


def test_a_stream_counts_as_outstanding_until_it_has_ended(serve, open_client):
    script = streams_once(BEGUN, "hold")
    servers = [serve(script, script, script) for _ in range(2)]
    client = open_client([each.url for each in servers], concurrency=4)
    with client.generate_stream("m", {}) as stream:
        next(stream)
        busy = next(each for each in servers if each.requests)
        (free,) = (each for each in servers if each is not busy)
        assert sorted(outstanding(client)) == [0, 1]
        for _ in range(6):
            assert client.get_server_metadata() == HEALTHY
        assert (len(busy.requests), len(free.requests)) == (1, 6)
    assert outstanding(client) == [0, 0]
    for _ in range(6):
        client.get_server_metadata()
    assert len(busy.requests) == 4
    assert in_rotation(client) == 2


@pytest.mark.parametrize("name", ENDS)
def test_a_streams_end_sets_a_failed_server_aside(serve, open_client, name):
    data, then, act, _, error, _ = ENDS[name]
    servers = [serve(streams_once(data, "close" if then == "go on" else then)) for _ in range(2)]
    client = open_client([each.url for each in servers])
    # On asyncio the time for the head is a deadline, also in plain calls.
    early = name == "nothing" and hasattr(client, "_client")
    act(client, idle_timeout=0.15 if error is DeadlineExceeded else 5)
    wait_until(lambda: outstanding(client) == [0, 0], 5)
    bad = error in (ConnectionLost, DeadlineExceeded) and not early
    assert in_rotation(client) == (1 if bad else 2)


def test_a_streams_own_deadline_does_not_set_its_server_aside(serve, open_client):
    client = open_client([serve(Sends(BEGUN, "hold")).url for _ in range(2)])
    seen, error = read(client, deadline=0.15, idle_timeout=5)
    assert (seen, type(error)) == (SEEN, DeadlineExceeded)
    assert "the call's 0.15 s are over" in str(error)
    assert error.attempts == 1
    assert (outstanding(client), in_rotation(client)) == ([0, 0], 2)


# -- several that use one stream


def waiting(stream):
    """Return a thread that waits for an answer of the stream, and what came of it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(take(stream)))
    thread.start()
    stream_of_ours = getattr(stream, "_stream", stream) if hasattr(stream, "_loop") else stream
    wait_until(lambda: stream_of_ours._askers, 5)
    return thread, found


@pytest.mark.parametrize("answers", [0, 1])
def test_one_of_two_readers_at_once_is_refused(serve, open_client, answers):
    """One of them is refused, be it before the head or behind it; the other gets all answers."""
    go_on = threading.Event()

    def script(peer):
        peer.read_request()
        if answers:
            peer.send(CHUNKED + chunks(EVENTS[0], end=b""))
        go_on.wait(10)
        peer.send((b"" if answers else CHUNKED) + chunks(*EVENTS[answers:]))
        healthy(peer)

    ended = Told()
    client = open_client(serve(script).url, on_response=ended)
    stream = client.generate_stream("m", {})
    first = [next(stream)] if answers else []
    thread, found = waiting(stream)
    for _ in range(2):
        with pytest.raises(
            InvalidRequest, match="two threads or tasks ask for this stream's next answer at once"
        ):
            next(stream)
    with pytest.raises(InvalidRequest, match="at once"):
        stream.__enter__()
    assert not ended
    go_on.set()
    thread.join(5)
    assert [*first, *found[0][0]] == SEEN
    assert found[0][1] is None
    assert ended.call.error is None
    assert client.get_server_metadata() == HEALTHY


def test_eight_threads_get_each_answer_once_and_in_order(serve, open_client):
    events = [event(b'{"OUT": %d}' % number) for number in range(2000)]
    data = CHUNKED + b"".join(chunks(each, end=b"") for each in events) + b"0\r\n\r\n"
    client = open_client(serve(Sends(data, "go on")).url)
    stream = client.generate_stream("m", {})
    found = [[] for _ in range(8)]

    def ask(mine):
        while True:
            try:
                mine.append(next(stream)["OUT"])
            except InvalidRequest:
                time.sleep(0)
            except StopIteration:
                return

    run_in_threads(ask, found)
    assert sorted(each for mine in found for each in mine) == list(range(2000))
    assert all(mine == sorted(mine) for mine in found)


@pytest.mark.parametrize("how", ["plain", "tls", "to the end"])
@pytest.mark.parametrize("answers", [0, 1])
def test_a_stream_may_be_closed_while_another_thread_reads_it(open_client, how, answers):
    """Then it ends for who waits, at once where it has begun; and for the server."""
    gone, go_on, ended = [], threading.Event(), Told()

    def script(peer):
        peer.read_request()
        if not answers:
            go_on.wait(10)
        head = HEAD + b"\r\n" + EVENTS[0] if how == "to the end" else CHUNKED + chunks(EVENTS[0], end=b"")
        peer.send(head)
        with contextlib.suppress(OSError):
            peer.hold()
        gone.append(time.monotonic())

    options = {"ssl": True, "ssl_context_factory": faults.trusting} if how == "tls" else {}
    with Server((over_tls(faults.identity(), script) if how == "tls" else script, healthy)) as server:
        client = open_client(server.url, on_response=ended, **options)
        stream = client.generate_stream("m", {})
        if answers:
            assert next(stream) == SEEN[0]
        thread, found = waiting(stream)
        time.sleep(0.05)
        stream.close()
        go_on.set()
        thread.join(5)
        assert not thread.is_alive()
        assert found == [([], None)]
        wait_until(lambda: bool(gone))
        assert ended.call.error is None
        assert list(stream) == []
        assert pool(client).taken == 0
        client.close()


def test_a_close_that_comes_as_an_answer_is_given_is_carried_out(serve):
    """By who gives its turn back, when it was closed since it had looked for the last time."""

    class Askers(list):
        def remove(self, asker):
            if not stream._left:
                stream.close()
            super().remove(asker)

    ended = Told()
    client = tritonhttp.InferenceServerClient(serve(Sends(BEGUN, "hold")).url, on_response=ended)
    stream = client.generate_stream("m", {})
    stream._askers = Askers()
    assert next(stream) == SEEN[0]
    assert ended.call.error is None
    assert client.stats().connections_open == 0
    assert list(stream) == []
    client.close()


def test_a_task_that_is_cancelled_ends_its_stream_once(serve):
    ended = Told()
    url = serve(Sends(BEGUN, "hold"), Sends(BEGUN, "hold")).url

    async def main(at):
        async with tritonhttp.aio.InferenceServerClient([url, "127.0.0.1:9"], on_response=ended) as client:
            client._dispatch._balancer._next = 0

            reached = asyncio.Event()

            async def use():
                async with client.generate_stream("m", {}) as stream:
                    async for each in stream:
                        if each == SEEN[2]:
                            reached.set()
                            await asyncio.sleep(60 if at == "between" else 0)

            task = asyncio.create_task(use())
            await asyncio.wait_for(reached.wait(), 10)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert outstanding(client) == [0, 0]
            assert in_rotation(client) == 2
            assert client.stats().connections_open == 0

    asyncio.run(main("within"))
    assert type(ended.call.error) is asyncio.CancelledError
    assert ended.call.response_bytes == len(WHOLE)
    ended.clear()
    asyncio.run(main("between"))
    assert ended.call.error is None


# -- the client's end, a fork, the end of the program


def test_a_stream_outlives_the_end_of_its_client(serve, open_client):
    go_on = threading.Event()

    ended = Told()
    with Server((held(go_on, lambda peer: peer.end("hold")),)) as server:
        client = open_client(server.url, on_response=ended)
        stream = client.generate_stream("m", {})
        assert next(stream) == SEEN[0]
        if hasattr(client, "_client"):
            asyncio.run_coroutine_threadsafe(client._client.close(), client._loop).result(5)
        else:
            client.close()
        assert not ended
        go_on.set()
        assert take(stream) == (SEEN[1:], None)
        assert ended.call.error is None
        assert client.stats().connections_open == 0


FORKING = """
import asyncio, gc, threading
import tritonhttp, tritonhttp.aio
from tests.adversity.servers import Server, healthy
from tests.adversity.test_streams import SEEN
from tests.adversity.test_stream_ends import held, outstanding
from tests.processes import exit_status, in_child

go_on = threading.Event()
told = []

def check(how, holder, client, read):
    assert outstanding(client) == [0, 0], outstanding(client)
    if how == "read":
        try:
            read(holder[0])
        except tritonhttp.InferenceServerException as error:
            assert isinstance(error, (tritonhttp.InvalidRequest, tritonhttp.ConnectionLost)), error
        else:
            raise AssertionError("it could be read")
    elif how == "close":
        if client is blocking[0]:
            holder[0].close()
    holder.clear()
    gc.collect()
    assert outstanding(client) == [0, 0]
    assert told == [], told
    assert client.stats().connections_open == 0

blocking = [None]
for how in ("read", "close", "drop"):
    with Server((held(go_on), healthy)) as one, Server((held(go_on), healthy)) as other:
        client = tritonhttp.InferenceServerClient([one.url, other.url], on_response=told.append)
        blocking[0] = client
        holder = [client.generate_stream("m", {})]
        assert next(holder[0]) == SEEN[0]
        assert exit_status(in_child(lambda: check(how, holder, client, next))) == 0
        assert sum(outstanding(client)) == 1
        go_on.set()
        assert list(holder[0]) == SEEN[1:]
        assert (len(told), told[0].error, told[0].attempts) == (1, None, 1)
        assert sum(outstanding(client)) == 0
        told.clear()
        go_on.clear()
        client.close()

    async def main(urls):
        client = tritonhttp.aio.InferenceServerClient(urls, on_response=told.append)
        holder = [client.generate_stream("m", {})]
        assert await anext(holder[0]) == SEEN[0]
        def read(stream):
            asyncio.events._set_running_loop(None)
            async def step():
                await anext(stream)
            asyncio.new_event_loop().run_until_complete(step())
        assert exit_status(in_child(lambda: check(how, holder, client, read))) == 0
        assert sum(outstanding(client)) == 1
        go_on.set()
        assert [each async for each in holder[0]] == SEEN[1:]
        assert (len(told), told[0].error) == (1, None)
        told.clear()
        go_on.clear()
        await client.close()

    with Server((held(go_on), healthy)) as one, Server((held(go_on), healthy)) as other:
        asyncio.run(main([one.url, other.url]))
print("fine")
"""

#: A stream that is open when the program ends, in a global, a circle, or a task.
EXITING = """
import asyncio, sys
import tritonhttp, tritonhttp.aio
from tests.adversity.servers import Server
from tests.adversity.test_streams import SEEN
url, how = sys.argv[1:]
def hook(call):
    print(call.action, call.error)
if how == "asyncio":
    async def main():
        client = tritonhttp.aio.InferenceServerClient(url, on_response=hook)
        stream = client.generate_stream("m", {})
        assert await anext(stream) == SEEN[0]
        await client.close()
    asyncio.run(main())
else:
    client = tritonhttp.InferenceServerClient(url, on_response=hook)
    stream = client.generate_stream("m", {})
    assert next(stream) == SEEN[0]
    if how == "circle":
        stream.itself = stream
        hook.stream = stream
    elif how == "dropped":
        del stream
"""


@needs_fork
def test_a_forked_child_leaves_streams_and_their_ends_to_the_parent():
    done = run_program(FORKING)
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.parametrize("how", ["global", "circle", "dropped", "asyncio"])
def test_a_program_ends_with_an_open_stream(serve, how):
    before = time.monotonic()
    done = run_program(EXITING, serve(Sends(BEGUN, "hold")).url, how)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("generate_stream None\n" if how in ("dropped", "asyncio") else "")
    assert time.monotonic() - before < 20


def test_nothing_is_kept_of_streams(serve, open_client):
    """Whatever way a hundred of them end: no connection, no count, and nothing that knows them."""
    ways = [read, leave, close, drop, drop_in_a_circle]
    scripts = [streams_once(BEGUN, "close")] * 60
    client = open_client([serve(*scripts).url, serve(*scripts).url], on_response=lambda call: None)
    for number in range(50):
        with contextlib.suppress(InferenceServerException):
            ways[number % 5](client)
    gc.collect()
    wait_until(lambda: outstanding(client) == [0, 0], 5)
    wait_until(lambda: client.stats().connections_open == 0, 5)
    known = {"GenerateStream", "Ending", "StreamedResponse", "Stream"}
    # The thread that told of the last end may still be about to drop it.
    wait_until(lambda: not [each for each in gc.get_objects() if type(each).__name__ in known], 5)
