"""Streams of answers that go wrong, and consumers that are slow, on both clients."""

import gzip
import time
import tracemalloc
import zlib

import pytest

from tritonhttp import ConnectionLost, DeadlineExceeded, ProtocolError, Retry, ServerError
from tritonhttp._protocol import generation

from ..clients import tensor, wait_until
from ..framing import chunks
from ..processes import needs_fork, run_program
from . import faults
from .servers import HEALTHY, Sends, Server, Trickles, answer, behind_a_good_answer, over_tls

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVENTS = [b'data: {"OUT": %d}\n\n' % number for number in range(3)]
WHOLE = b"".join(EVENTS)
SEEN = [{"OUT": number} for number in range(3)]


def event(text):
    return b"data: " + text + b"\n\n"


def take(stream):
    """Return what came, and the error behind it."""
    seen = []
    try:
        for each in stream:
            seen.append(each)
    except Exception as error:
        assert list(stream) == []
        return seen, error
    return seen, None


def pool(client):
    return getattr(client, "_client", client)._transport.pool


def framed(body, framing):
    """Return the whole answer, and whether the connection lives on."""
    if framing == "length":
        return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "to the end":
        return HEAD + b"\r\n" + body
    if framing == "small chunks":
        return CHUNKED + chunks(*(body[start : start + 7] for start in range(0, len(body), 7)))
    return CHUNKED + chunks(*EVENTS) if body == WHOLE else CHUNKED + chunks(body)


BODIES = (
    WHOLE,
    WHOLE.replace(b"\n", b"\r\n"),
    WHOLE.replace(b"\n", b"\r"),
    b": hello\n\n" + b": beat\n\n".join(EVENTS) + b":\n\n",
    b'data: {"OUT":\ndata: 0}\n\n' + b"".join(EVENTS[1:]),
    b"\xef\xbb\xbfid: 1\nretry: 10\n" + WHOLE,
)


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize("framing", ["chunks", "small chunks", "length", "to the end"])
def test_a_stream_is_read_in_every_framing(serve, open_client, framing, step):
    answers = [framed(body, framing) for body in BODIES]
    ends = framing == "to the end"

    def script(peer):
        for _ in answers[:1] if ends else answers[:]:
            then = Sends(answers.pop(0)) if step is None else Trickles(answers.pop(0), "close", 0, step)
            then(peer)
        if not ends:
            peer.end("go on")

    server = serve(*[script] * (len(answers) if ends else 1))
    client = open_client(server.url)
    for _ in BODIES:
        assert take(client.generate_stream("m", {})) == (SEEN, None)
    assert client.get_server_metadata() == HEALTHY
    assert server.connections == (len(BODIES) + 1 if ends else 1)


@pytest.mark.parametrize(("end", "step"), [("close", None), ("close", 5), ("reset", None)])
@pytest.mark.parametrize(
    ("data", "seen", "says"),
    [
        (CHUNKED + chunks(*EVENTS, end=b""), 3, "an incomplete body"),
        (CHUNKED + chunks(*EVENTS, b'data: {"OUT"', end=b""), 3, "an incomplete body"),
        (CHUNKED + chunks(*EVENTS, end=b"") + b"20\r\ndata: ", 3, "an incomplete body"),
        (CHUNKED + chunks(*EVENTS, end=b"0\r\n"), 3, "an incomplete body"),
        (HEAD + b"Content-Length: 1000\r\n\r\n" + WHOLE, 3, f"{len(WHOLE)} of 1000 bytes"),
        (CHUNKED, 0, "an incomplete body"),
        (HEAD, 0, "bytes of the response's head"),
        (b"", 0, "no byte of a response"),
    ],
    ids=[
        "between chunks",
        "within an event",
        "within a chunk",
        "within the last chunk",
        "short of its length",
        "before the body",
        "within the head",
        "before the head",
    ],
)
def test_a_stream_that_is_cut_is_an_error_after_its_answers(serve, open_client, data, seen, says, end, step):
    server = serve(Sends(data, end) if step is None else Trickles(data, end, pause=0, step=step))
    client = open_client(server.url)
    came, error = take(client.generate_stream("m", {}))
    assert isinstance(error, ConnectionLost)
    if end == "close":
        assert came == SEEN[:seen]
        assert says in str(error)
    assert came == SEEN[: len(came)]
    assert str(error).startswith(f"POST http://{server.url}/v2/models/m/generate_stream: ")
    assert client.get_server_metadata() == HEALTHY
    assert server.connections == 2
    assert pool(client).taken == 1


BAD = {
    "no size": (CHUNKED + chunks(*EVENTS, end=b"zz\r\n"), "chunk size"),
    "a negative size": (CHUNKED + chunks(*EVENTS, end=b"-5\r\n"), "chunk size"),
    "a huge size": (CHUNKED + chunks(*EVENTS, end=b"f" * 17 + b"\r\n"), "Chunk size overflow"),
    "a chunk without its end": (CHUNKED + b"12\r\n" + EVENTS[0] + EVENTS[1], "chunk"),
    "not JSON": (CHUNKED + chunks(WHOLE, event(b"nope")), "expected JSON, got 4 bytes"),
    "cut JSON": (CHUNKED + chunks(WHOLE, event(b'{"a":')), "expected JSON, got 5 bytes"),
    "a list": (CHUNKED + chunks(WHOLE, event(b"[1]")), "expected a JSON object, got list"),
    "a number": (CHUNKED + chunks(WHOLE, event(b"1")), "expected a JSON object, got int"),
    "an end without an end": (CHUNKED + chunks(WHOLE, b"data: {}\n"), "in the middle of an event"),
    "a long line": (CHUNKED + chunks(WHOLE, b"data: " + b"x" * 70_000), "more than 65536 bytes"),
    "long trailers": (CHUNKED + chunks(WHOLE, end=b"0\r\nX: " + b"x" * 200_000), "trailers"),
    "an unknown coding": (HEAD + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nabcde", "'br'"),
    "not gzip": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde", "not valid gzip"),
    "HTML": (answer(b"<html>log in", headers="Content-Type: text/html\r\n"), "begin with '<html>log in'"),
    "nothing of another type": (answer(b""), "got 0 bytes"),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", "expected an HTTP/1.1 response"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_comes_after_the_answers_before_it(serve, open_client, monkeypatch, name):
    monkeypatch.setattr(generation, "_LIMIT", 1 << 16)
    data, says = BAD[name]
    client = open_client(serve(Sends(data, "go on")).url, network_timeout=5)
    seen, error = take(client.generate_stream("m", {}))
    assert isinstance(error, ProtocolError)
    assert says in str(error)
    if name == "a chunk without its end":
        assert seen == SEEN[: len(seen)]
    else:
        assert seen == (SEEN if WHOLE in data or EVENTS[2] in data else [])
    assert client.get_server_metadata(deadline=5) == HEALTHY


@pytest.mark.parametrize(
    ("data", "seen", "says"),
    [
        (answer({"error": "broken"}), 0, "broken"),
        (answer({"error": "broken"}, headers="Content-Type: application/json\r\n"), 0, "broken"),
        (answer({"error": "broken"}, headers="Content-Type: text/event-stream\r\n"), 0, "broken"),
        (framed(WHOLE + event(b'{"error": "broken"}') + WHOLE, "chunks"), 3, "broken"),
        (framed(WHOLE + b"event: error\n" + event(b"broken"), "length"), 3, "broken"),
    ],
)
def test_errors_of_the_server_with_status_200(serve, open_client, data, seen, says):
    client = open_client(serve(Sends(data, "go on")).url)
    came, error = take(client.generate_stream("m", {}))
    assert came == SEEN[:seen]
    assert isinstance(error, ServerError)
    assert (error.status(), error.message()) == ("200", says)
    assert client.get_server_metadata() == HEALTHY


def test_one_answer_may_come_as_plain_json(serve, open_client):
    data = answer({"OUT": 0}, headers="Content-Type: application/json\r\n")
    server = serve(Sends(data, "go on"))
    client = open_client(server.url)
    stream = client.generate_stream("m", {})
    assert take(stream) == (SEEN[:1], None)
    assert stream.time_to_first > 0
    assert client.get_server_metadata() == HEALTHY
    assert server.connections == 1


def test_a_stream_of_results_fails_as_any_other(serve, open_client):
    results = [
        event(b'{"outputs": [{"name": "y", "datatype": "INT32", "shape": [1], "data": [%d]}]}' % n)
        for n in (1, 2)
    ]
    cut = CHUNKED + chunks(*results, end=b"")
    server = serve(
        Sends(framed(b"".join(results), "length"), "go on"), Sends(cut), Sends(CHUNKED + chunks(*EVENTS))
    )
    client = open_client(server.url)

    def ask():
        seen, error = take(client.infer_stream("m", [tensor("x", [1], binary_data=False)], deadline=5))
        return [each["y"].item() for each in seen], error

    assert ask() == ([1, 2], None)
    assert b"POST /v2/models/m/infer_stream HTTP/1.1" in server.requests[0]
    assert b"Accept: text/event-stream" in server.requests[0]
    client.close()
    client = open_client(server.url)
    seen, error = ask()
    assert seen == [1, 2]
    assert type(error) is ConnectionLost
    seen, error = ask()
    assert seen == []
    assert type(error) is ProtocolError
    assert "expected outputs" in str(error)
    assert client.get_server_metadata()


@pytest.mark.parametrize("status", ["404 Not Found", "502 Bad Gateway", "302 Found"])
def test_another_status_is_an_error(serve, open_client, status):
    client = open_client(serve(Sends(answer({"error": "no"}, status), "go on")).url)
    _, error = take(client.generate_stream("m", {}))
    assert isinstance(error, ServerError)
    assert error.status() == status[:3]
    assert client.get_server_metadata() == HEALTHY


FOLDED = {
    "gzip": ("gzip", gzip.compress(WHOLE)),
    "a member for each event": ("gzip", b"".join(map(gzip.compress, EVENTS))),
    "empty members and padding": ("gzip", gzip.compress(b"") + gzip.compress(WHOLE) + bytes(100)),
    "zlib": ("deflate", zlib.compress(WHOLE)),
    "raw": ("deflate", zlib.compress(WHOLE)[2:-4]),
    "two codings": ("GZIP, identity, deflate", zlib.compress(gzip.compress(WHOLE))),
    "none": ("identity", WHOLE),
}


@pytest.mark.parametrize("kind", sorted(FOLDED))
@pytest.mark.parametrize("step", [None, 10])
def test_a_compressed_stream_is_read(serve, open_client, kind, step):
    coding, folded = FOLDED[kind]
    data = HEAD + f"Content-Encoding: {coding}\r\nContent-Length: {len(folded)}\r\n\r\n".encode() + folded
    server = serve(Sends(data, "go on") if step is None else Trickles(data, "go on", pause=0, step=step))
    client = open_client(server.url)
    assert take(client.generate_stream("m", {})) == (SEEN, None)
    assert b"accept-encoding" not in server.requests[0].lower()
    assert client.get_server_metadata() == HEALTHY
    assert server.connections == 1


def test_what_follows_the_members_is_an_error_behind_the_answers(serve, open_client):
    folded = gzip.compress(WHOLE) + b"garbage"
    head = HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(folded)}\r\n\r\n".encode()
    client = open_client(serve(Sends(head + folded, "go on")).url)
    seen, error = take(client.generate_stream("m", {}))
    assert seen == SEEN
    assert isinstance(error, ProtocolError)
    assert "not valid gzip" in str(error)


def test_the_limit_of_a_response_holds_for_a_decompressed_stream(serve, open_client):
    folded = gzip.compress(b": beat\n" * 100_000)
    head = HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(folded)}\r\n\r\n".encode()
    client = open_client(serve(Sends(head + folded, "go on")).url, max_response_bytes=100_000)
    seen, error = take(client.generate_stream("m", {}))
    assert seen == []
    assert isinstance(error, ProtocolError)
    assert "the limit of 100000 bytes" in str(error)


def test_an_event_without_end_takes_no_more_memory_than_its_limit(serve, open_client, monkeypatch):
    monkeypatch.setattr(generation, "_LIMIT", 4 << 20)
    limit = 4 << 20

    def script(peer):
        peer.read_request()
        peer.send(HEAD + b"\r\n" + WHOLE + b"data: ")
        while True:
            peer.send(b"x" * (1 << 20))

    client = open_client(serve(script).url)
    tracemalloc.start()
    try:
        seen, error = take(client.generate_stream("m", {}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == SEEN
    assert isinstance(error, ProtocolError)
    assert peak < 4 * limit
    assert client.get_server_metadata() == HEALTHY


@pytest.mark.parametrize("client_kind", ["blocking"])  # both leave it to the same `AnswerReader`
def test_300_megabytes_in_an_event_are_refused(serve, open_client):
    def script(peer):
        peer.read_request()
        peer.send(HEAD + b"Content-Length: 300000006\r\n\r\ndata: ")
        for _ in range(300):
            peer.send(b"x" * 1_000_000)

    client = open_client(serve(script).url)
    seen, error = take(client.generate_stream("m", {}))
    assert seen == []
    assert isinstance(error, ProtocolError)
    assert "more than 268435456 bytes" in str(error)


def test_the_clients_limit_of_bodies_holds_for_all_of_a_stream(serve, open_client):
    client = open_client(serve(Sends(framed(WHOLE * 100, "chunks"), "hold")).url, max_response_bytes=1000)
    _, error = take(client.generate_stream("m", {}))
    assert isinstance(error, ProtocolError)
    assert "the limit is 1000" in str(error)
    assert client.get_server_metadata() == HEALTHY


# -- time


@pytest.mark.parametrize("data", [b"", HEAD, CHUNKED, CHUNKED + chunks(*EVENTS, end=b"")])
@pytest.mark.parametrize("option", ["idle_timeout", "deadline"])
def test_a_stream_that_stalls_is_a_deadline(serve, open_client, within, data, option):
    client = open_client(serve(Sends(data, "hold")).url)
    with within(0.1):
        seen, error = take(client.generate_stream("m", {}, **{option: 0.15}))
    assert seen == (SEEN if WHOLE[:10] in data else [])
    assert isinstance(error, DeadlineExceeded)
    assert error.phase == "receive"
    assert "0.15 s" in str(error)
    assert client.get_server_metadata(deadline=5) == HEALTHY


def test_comments_keep_a_stream_alive_until_its_deadline(serve, open_client, within):
    def beats(peer):
        peer.read_request()
        peer.send(CHUNKED)
        for number in range(40):
            peer.send(chunks(b": beat\n\n" if number != 10 else EVENTS[0], end=b""))
            time.sleep(0.05)

    server = serve(beats, beats)
    client = open_client(server.url)
    stream = client.generate_stream("m", {}, idle_timeout=0.3)
    with within(0.4):
        assert next(stream) == SEEN[0]
    stream.close()
    with within(1.3):
        seen, error = take(client.generate_stream("m", {}, idle_timeout=0.3, deadline=1.4))
    assert seen == SEEN[:1]
    assert "the call's 1.4 s are over" in str(error)


# -- tries


def test_a_stream_that_has_begun_is_never_sent_again(serve, open_client):
    server = serve(Sends(CHUNKED + chunks(*EVENTS, end=b"")))
    client = open_client(server.url, retry=Retry(attempts=3, backoff=0.01))
    seen, error = take(client.generate_stream("m", {}, idempotent=True))
    assert seen == SEEN
    assert isinstance(error, ConnectionLost)
    assert len(server.requests) == 1


@pytest.mark.parametrize("idempotent", [None, True])
def test_before_the_first_byte_it_is_sent_again_if_the_caller_allows_it(serve, open_client, idempotent):
    server = serve(Sends(b""), Sends(framed(WHOLE, "chunks"), "go on"))
    client = open_client(server.url, retry=Retry(attempts=3, backoff=0.01))
    stream = client.generate_stream("m", {}, idempotent=idempotent)
    seen, error = take(stream)
    if idempotent:
        assert (seen, error, stream.attempts) == (SEEN, None, 2)
    else:
        assert seen == []
        assert isinstance(error, ConnectionLost)  # and aiohttp's, where that is imported
        assert len(server.requests) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_replaced(serve, open_client):
    closes = behind_a_good_answer(lambda peer: None)
    server = serve(closes, Sends(framed(WHOLE, "chunks"), "go on"))
    client = open_client(server.url)
    assert client.get_server_metadata() == HEALTHY
    time.sleep(0.05)
    assert take(client.generate_stream("m", {})) == (SEEN, None)


# -- TLS


@pytest.mark.parametrize("step", [None, 20])
@pytest.mark.parametrize("framing", ["chunks", "length", "to the end"])
def test_a_tls_stream_that_is_cut_is_no_whole_one(open_client, framing, step):
    data = framed(WHOLE, framing)
    if framing == "chunks":
        data = data[:-5]
    elif framing == "length":
        data = data.replace(b"Content-Length: ", b"Content-Length: 1")
    script = Sends(data) if step is None else Trickles(data, "close", pause=0, step=step)
    with Server((over_tls(faults.identity(), script),)) as server:
        client = open_client(server.url, ssl=True, ssl_context_factory=faults.trusting)
        for late in (False, False, True):
            stream = client.generate_stream("m", {})
            first = next(stream)
            if late:
                time.sleep(0.1)
            seen, error = take(stream)
            assert [first, *seen] == SEEN
            assert isinstance(error, ConnectionLost)


def test_a_whole_tls_stream_to_the_end(open_client):
    def script(peer):
        peer.read_request()
        peer.send(framed(WHOLE, "to the end"))
        peer.sock.settimeout(1)
        peer.sock.unwrap()

    with Server((over_tls(faults.identity(), script),)) as server:
        client = open_client(server.url, ssl=True, ssl_context_factory=faults.trusting)
        assert take(client.generate_stream("m", {})) == (SEEN, None)


# -- consumers that are slow, or gone


@pytest.mark.parametrize("tls", [False, True])
def test_a_slow_consumer_holds_the_server_back(open_client, tls):
    """What nobody takes stays with the server, whatever it would like to send."""
    sent, large, count = [0], event(b'{"OUT": "' + b"x" * 10_000 + b'"}'), 2000

    def floods(peer):
        peer.read_request()
        peer.send(HEAD + b"\r\n")
        for _ in range(count):
            peer.send(large)
            sent[0] += 1
        if tls:
            peer.sock.unwrap()

    with Server((over_tls(faults.identity(), floods) if tls else floods,)) as server:
        options = {"ssl": True, "ssl_context_factory": faults.trusting} if tls else {}
        client = open_client(server.url, **options)
        tracemalloc.start()
        try:
            with client.generate_stream("repeat", {}) as stream:
                next(stream)
                before = -1
                while before != sent[0]:
                    before = sent[0]
                    time.sleep(0.1)
                # 20 MB want to come; the kernel takes some of them on either side.
                assert before < count * 0.75
                assert sum(1 for _ in stream) == count - 1
            # Ours and the server's together.
            assert tracemalloc.get_traced_memory()[1] < 6 << 20
        finally:
            tracemalloc.stop()


def test_a_late_consumer_gets_all_answers_before_the_end(serve, open_client):
    for data, lost in ((framed(WHOLE, "to the end"), False), (CHUNKED + chunks(*EVENTS, end=b""), True)):
        client = open_client(serve(Sends(data)).url)
        stream = client.generate_stream("m", {}, idle_timeout=0.1)
        assert next(stream) == SEEN[0]
        time.sleep(0.3)
        seen, error = take(stream)
        assert seen == SEEN[1:]
        assert isinstance(error, ConnectionLost) == lost


def test_the_server_sees_at_once_that_a_stream_is_left(serve, open_client):
    gone = []

    def script(peer):
        peer.read_request()
        peer.send(CHUNKED + chunks(*EVENTS, end=b""))
        try:
            peer.hold()
        finally:
            gone.append(time.monotonic())

    client = open_client(serve(script).url)
    with client.generate_stream("m", {}) as stream:
        next(stream)
        time.sleep(0.1)
        assert not gone
    wait_until(lambda: bool(gone))


def test_a_stream_whose_end_has_come_keeps_its_connection_when_it_is_left(serve, open_client):
    server = serve(Sends(framed(WHOLE, "length"), "go on"))
    client = open_client(server.url)
    with client.generate_stream("m", {}) as stream:
        next(stream)
    assert client.get_server_metadata() == HEALTHY
    assert server.connections == 1


FORKING = """
import asyncio, gc, sys
import tritonhttp, tritonhttp.aio
from tests.adversity.servers import HEALTHY, Server, healthy
from tests.adversity.test_streams import CHUNKED, EVENTS, SEEN, chunks
from tests.processes import exit_status, in_child

def held(peer):
    import time
    peer.read_request()
    peer.send(CHUNKED + chunks(EVENTS[0], end=b""))
    time.sleep(0.4)
    peer.send(chunks(*EVENTS[1:]))
    healthy(peer)

with Server((held, healthy)) as server:
    client = tritonhttp.InferenceServerClient(server.url)
    holder = [client.generate_stream("m", {})]
    assert next(holder[0]) == SEEN[0]
    def work():
        holder[0].close()
        holder.clear()
        gc.collect()
        pool = client._transport.pool
        assert pool.taken == 0, pool.taken
        for _ in range(3):
            assert client.get_server_metadata() == HEALTHY
        assert pool.taken == 1, pool.taken
        client.close()
    assert exit_status(in_child(work)) == 0
    assert list(holder[0]) == SEEN[1:]
    client.close()

async def main(url):
    client = tritonhttp.aio.InferenceServerClient(url)
    holder = [client.generate_stream("m", {})]
    assert await anext(holder[0]) == SEEN[0]
    def work():
        holder.clear()
        gc.collect()
        assert client._transport.pool.taken == 0
    assert exit_status(in_child(work)) == 0
    assert [each async for each in holder[0]] == SEEN[1:]
    await client.close()

with Server((held, healthy)) as server:
    asyncio.run(main(server.url))
print("fine")
"""


@needs_fork
def test_a_forked_child_leaves_a_stream_to_its_parent():
    done = run_program(FORKING)
    assert (done.stdout, done.stderr) == ("fine\n", "")
