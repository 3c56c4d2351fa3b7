"""Inferences that the extension repeats, and how that ends: the caller must see no difference."""

import contextlib
import copy
import gc
import gzip
import json
import logging
import pickle
import random
import re
import signal
import socket
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tritonhttp import (
    ConnectionLost,
    DeadlineExceeded,
    InferenceServerClientPlugin,
    InferenceServerException,
    InferRequestedOutput,
    Retry,
    ServerError,
    TransportError,
)
from tritonhttp._repetition.repeater import REPEATS
from tritonhttp.errors import ConnectRefused

from ..clients import tensor, wait_until
from ..framing import JSON_SIZE, chunks, inference_answer, number_in
from ..processes import exit_status, in_child, needs_fork
from .faults import CHUNKED, SHORT
from .servers import Answers, Sends, Server, answer, behind_equal_answers

pytestmark = [
    pytest.mark.skipif(not REPEATS, reason="no extension was built"),
    pytest.mark.parametrize("client_kind", ["blocking"]),
]

VALUES = [1.0, 2.0, 3.0]


def infer(client, values=VALUES, model="m", **options):
    return client.infer(model, [tensor("INPUT0", np.array(values, np.float32))], **options)


def values_of(result):
    return result.as_numpy("OUTPUT0").tolist()


def repeated(client):
    """Return how many inferences the extension began."""
    return client._transport.repeater.calls


def binary(values, status="200 OK", headers="", **differs):
    """Return an answer with a tensor of these values, or bytes."""
    data = values if isinstance(values, bytes) else np.array(values, "<f4").tobytes()
    output = {"datatype": "FP32", "shape": [len(data) // 4], **differs}
    output = {"name": "OUTPUT0", **output, "parameters": {"binary_data_size": len(data)}}
    return inference_answer({"model_name": "m", "outputs": [output], "z": 1}, data, status, headers)


GOOD = binary(VALUES)


def padded(data):
    """Return an answer made as long as the one that is expected, by a header."""
    head, _, rest = data.partition(b"\r\n\r\n")
    left = len(GOOD) - len(data) - len(b"\r\nX: ")
    assert left >= 0
    return head + b"\r\nX: " + b"x" * left + b"\r\n\r\n" + rest


def swapped(old, new):
    assert len(old) == len(new)
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.fixture
def warm(serve, open_client):
    """Start a server that answers three equal inferences, and then runs a script; return it, and their client."""

    def warm(then, data=GOOD, times=3, **options):
        server = serve(behind_equal_answers(data, then, times), Answers(data))
        client = open_client(server.url, **options)
        for _ in range(times):
            infer(client)
        assert repeated(client) == times - 1
        return server, client

    return warm


# -- answers that differ from the one that is expected

SIZED = binary(bytes(12)).partition(b"\r\n\r\n")[2]
DIFFERENT = {
    "the same": GOOD,
    "other data": binary([4, 5, 6]),
    "fewer data": binary([4]),
    "no data": binary([]),
    "a few bytes more": binary(VALUES * 2),
    "another shape": binary(VALUES, shape=[1, 3]),
    "an equal head, and another name": swapped(b"OUTPUT0", b"OUTPUT7"),
    "an equal head, and another end of the JSON": swapped(b'"z": 1}', b'"z": 2}'),
    "an equal head, and JSON that is none": swapped(b'"z": 1}', b'"z": 1]'),
    "an equal head, and another datatype": swapped(b"FP32", b"FP16"),
    "an equal head, and a size that does not add up": swapped(b'_size": 12', b'_size": 13'),
    "a head of the same length": swapped(b"Content-Length: 1", b"cONTENT-lENGTH: 1"),
    "another size of the JSON": re.sub(rb"(?<=Header-Content-Length: )\d+", b"100", GOOD),
    "more than 64 KiB": binary(np.arange(40_000)),
    **{f"{65_536 + more} bytes in all": binary(bytes(65_536 - 212 + more)) for more in range(-4, 8, 4)},
    **{
        f"an error {status} of the same size": padded(answer({"error": "out of memory"}, status))
        for status in ("400 Bad Request", "500 Internal Server Error", "503 Service Unavailable")
    },
    "an error of a server that closes": padded(
        answer(b"Oops", "500 Internal Server Error", "Server: uvicorn\r\n")
    ),
    "200 with an error inside": padded(answer({"error": "out of memory"})),
    "nothing": padded(answer(b"")),
    "204": padded(answer(b"", "204 No Content")),
    "JSON alone": padded(
        answer(
            {"model_name": "m", "outputs": [{"name": "O", "datatype": "INT32", "shape": [1], "data": [7]}]}
        )
    ),
    "chunks": CHUNKED + f"{JSON_SIZE}: {len(SIZED) - 12}\r\n\r\n".encode() + chunks(SIZED[:50], SIZED[50:]),
    "gzip": answer(
        gzip.compress(SIZED),
        headers=f"{JSON_SIZE}: {len(SIZED) - 12}\r\nContent-Encoding: gzip\r\n",
    ),
    "Connection: close": binary(VALUES, headers="Connection: close\r\n"),
    "HTTP/1.0": GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an interim answer first": b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD,
    "two answers": GOOD + binary([4, 5, 6]),
    "two equal answers": 2 * GOOD,
    "a byte more": GOOD + b"x",
    "no HTTP": b"x" * len(GOOD),
    "zeros": bytes(len(GOOD)),
}


def in_pieces(pieces, pause=0.01):
    """Answer a request in pieces, and those behind it as is expected."""

    def script(peer):
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if peer.read_request():
            for piece in pieces:
                peer.send(piece)
                time.sleep(pause if len(pieces) > 1 else 0)
            Answers(GOOD)(peer)

    return script


def outcome(client):
    """Return all that an inference comes to, as what can be compared."""
    try:
        return seen(infer(client, deadline=5))
    except InferenceServerException as error:
        parts = type(error), error.message(), error.status(), error.debug_details(), error.attempts
        parts = *parts, getattr(error, "headers", None), getattr(error, "phase", None)
        # The message quotes the bytes of the first piece.
        return [re.sub(r"127\.0\.0\.1:\d+|got bytes that begin with .*", "…", str(part)) for part in parts]


def seen(result):
    arrays = [(name, array.dtype, array.shape, array.tolist()) for name, array in dict(result).items()]
    return (
        arrays,
        result.get_response(),
        [result.get_output(name) for name in result],
        result.outputs,
        result.headers,
        result.attempts,
        len(result),
        repr(result),
    )


@pytest.mark.parametrize("name", DIFFERENT)
def test_an_unexpected_answer_has_the_outcome_of_a_first_one(serve, open_client, warm, name):
    data = DIFFERENT[name]
    ways = [[data]]
    if len(data) < 2 * len(GOOD) and not data.startswith(GOOD + b"x"):
        end = data.find(b"\r\n\r\n") + 4
        ways += [[data[:at], data[at:]] for at in {1, end - 2, end, end + 30, len(data) - 1}]
    server = serve(in_pieces([data]), Answers(GOOD))
    client = open_client(server.url)
    expected = outcome(client), values_of(infer(client, deadline=5)), server.connections
    client.close()
    for pieces in ways:
        server, client = warm(in_pieces(pieces))
        assert (outcome(client), values_of(infer(client, deadline=5)), server.connections) == expected
        assert repeated(client) == 3 + (server.connections == 1)
        assert len(server.requests) == 5
        client.close()


@pytest.mark.parametrize("name", DIFFERENT)
def test_equal_answers_have_equal_outcomes(serve, open_client, name):
    client = open_client(serve(*[Answers(DIFFERENT[name])] * 5).url)
    first = outcome(client)
    for _ in range(4):
        assert outcome(client) == first


def test_answers_that_end_their_connections_are_read(serve, open_client):
    """Each of them does, also where that was expected, and the server leaves it open."""
    together = threading.Barrier(2)

    def script(peer):
        if peer.server.connections <= 2:
            peer.read_request()
            together.wait(10)
            peer.send(GOOD)
        Answers(binary(VALUES, headers="Connection: close\r\n"))(peer)

    server = serve(*[script] * 6)
    client = open_client(server.url, concurrency=2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: infer(client), range(2)))
    for n in range(5):
        assert values_of(infer(client)) == VALUES
        assert server.connections == max(2, n + 1)


def test_bytes_after_the_expected_answer_are_dropped(warm):
    def script(peer):
        peer.read_request()
        peer.send(GOOD)
        time.sleep(0.02)
        peer.send(binary([4, 5, 6]))
        peer.hold()

    server, client = warm(script)
    infer(client)
    time.sleep(0.1)
    assert values_of(infer(client)) == VALUES
    assert server.connections == 2


def test_the_last_answer_is_expected_next(serve, open_client):
    answers = [binary([n] * 3, headers=f"X-Version: {n // 4}\r\n") for n in range(16)]

    def script(peer):
        for data in answers:
            peer.read_request()
            peer.send(data)

    client = open_client(serve(script).url)
    for n in range(16):
        result = infer(client)
        assert values_of(result) == [n] * 3
        assert result.headers["x-version"] == str(n // 4)
    assert repeated(client) == 15


@pytest.mark.parametrize("values", [[], VALUES, range(16_000)], ids=len)
def test_answers_of_any_size_are_repeated(serve, open_client, values):
    client = open_client(serve(Answers(binary(values))).url)
    for _ in range(4):
        assert values_of(infer(client)) == list(values)


def test_requests_of_any_size_are_repeated(serve, open_client):
    """With the head, or without it, some of them have 64 KiB: below that a request is one piece."""
    client = open_client(serve(Answers(GOOD)).url)
    for size in range(65_536 - 600, 65_536 + 100, 7):
        inputs = [tensor("INPUT0", np.zeros(size, np.uint8))]
        for _ in range(2):
            assert values_of(client.infer("m", inputs)) == VALUES


# -- time


def test_a_deadline_while_the_answer_is_waited_for(warm, within):
    _, client = warm(lambda peer: peer.end("hold"))
    with within(0.9 * SHORT), pytest.raises(DeadlineExceeded) as caught:
        infer(client, deadline=SHORT)
    assert repeated(client) == 3
    assert caught.value.phase == "receive"
    text = caught.value.message()
    assert text.endswith(
        f"timed out while receiving: the call's {SHORT} s are over, after no byte of a response"
    )
    assert values_of(infer(client)) == VALUES


def test_the_clients_deadline_ends_a_repeated_inference(warm, within):
    server, client = warm(lambda peer: peer.end("hold"), deadline=2 * SHORT)
    assert repeated(client) == 2
    with within(1.8 * SHORT), pytest.raises(DeadlineExceeded, match=r"the call's 0\.4 s are over"):
        infer(client)
    assert repeated(client) == 3
    assert values_of(infer(client)) == VALUES
    assert server.connections == 2


@pytest.mark.parametrize("before", [{}, {"deadline": 1}], ids=["without one before", "with one before"])
@pytest.mark.parametrize("network", [None, 5, 2 * SHORT])
def test_a_deadline_comes_before_other_limits(warm, within, network, before):
    def script(peer):
        peer.read_request()
        peer.send(GOOD)
        peer.hold()

    _, client = warm(script, network_timeout=network)
    infer(client, **before)
    with within(0.9 * SHORT), pytest.raises(DeadlineExceeded, match=r"the call's 0\.2 s are over"):
        infer(client, deadline=SHORT)
    assert repeated(client) == 4


def test_a_deadline_ends_a_trickling_answer(warm, within):
    def trickles(peer):
        peer.read_request()
        for byte in GOOD:
            peer.send(bytes([byte]))
            time.sleep(SHORT / 10)

    _, client = warm(trickles)
    with within(0.9 * SHORT), pytest.raises(DeadlineExceeded, match=r"after \d+ bytes of the response"):
        infer(client, deadline=SHORT)
    assert values_of(infer(client)) == VALUES


@pytest.mark.parametrize("limits", [{}, {"deadline": 5}], ids=["alone", "before the deadline"])
def test_the_network_timeout_ends_a_repeated_inference(warm, within, limits):
    server, client = warm(lambda peer: peer.end("hold"), network_timeout=1.5)
    with within(1.4, 2.9), pytest.raises(DeadlineExceeded) as caught:
        infer(client, **limits)
    assert repeated(client) == 3
    assert caught.value.phase == "receive"
    assert caught.value.message().endswith("no progress for 1.5 s, after no byte of a response")
    assert values_of(infer(client)) == VALUES
    assert server.connections == 2


def test_the_network_timeout_begins_anew_with_each_step(warm, within):
    _, client = warm(in_pieces([GOOD[:20], GOOD[20:50], GOOD[50:]], pause=0.6 * SHORT), network_timeout=SHORT)
    with within(1.1 * SHORT):
        assert values_of(infer(client)) == VALUES


def test_the_network_timeout_holds_behind_a_call_with_a_deadline(warm, within):
    def script(peer):
        for _ in range(2):
            peer.read_request()
            peer.send(GOOD)
        peer.hold()

    _, client = warm(script, network_timeout=2 * SHORT)
    infer(client, deadline=SHORT)
    infer(client)
    with within(1.8 * SHORT), pytest.raises(DeadlineExceeded, match=r"no progress for 0\.4 s"):
        infer(client)


def test_a_calls_deadline_does_not_limit_the_next_call(serve, open_client):
    def script(peer):
        for _ in range(3):
            peer.read_request()
            peer.send(GOOD)
        peer.read_request()
        peer.send(GOOD[:50])
        time.sleep(0.02)
        peer.send(GOOD[50:])  # the first call that goes on in Python, which arms the connection
        peer.read_request()
        time.sleep(2 * SHORT)
        peer.send(GOOD)

    client = open_client(serve(script).url)
    for _ in range(3):
        infer(client)
    assert values_of(infer(client, deadline=SHORT)) == VALUES
    assert values_of(infer(client)) == VALUES


def test_a_call_without_time_left_is_not_sent(warm):
    server, client = warm(Answers(GOOD))
    with pytest.raises(DeadlineExceeded, match="timed out while sending") as caught:
        infer(client, deadline=1e-9)
    assert caught.value.phase == "send"
    assert values_of(infer(client)) == VALUES
    assert len(server.requests) == 4
    assert repeated(client) == 2


def test_a_call_whose_time_ends_in_the_line_is_not_sent(warm):
    def slow(peer):
        peer.read_request()
        time.sleep(2 * SHORT)
        peer.send(GOOD)
        Answers(GOOD)(peer)

    server, client = warm(slow)
    inputs = [tensor("INPUT0", np.array(VALUES, np.float32))]
    first, second = client.async_infer("m", inputs), client.async_infer("m", inputs, deadline=SHORT)
    assert values_of(first.get_result()) == VALUES
    with pytest.raises(DeadlineExceeded) as caught:
        second.get_result()
    assert caught.value.phase == "send"
    assert values_of(infer(client)) == VALUES
    assert len(server.requests) == 5


# -- connections


def test_a_reset_is_told_in_the_systems_words(warm):
    server, client = warm(lambda peer: peer.end("reset") if peer.read_request() else None)
    with pytest.raises(ConnectionLost, match=r"after no byte of a response: .*reset by peer"):
        infer(client)
    assert repeated(client) == 3
    assert values_of(infer(client)) == VALUES
    assert len(server.requests) == 5


@pytest.mark.parametrize("ending", ["close", "reset", "half-close"])
def test_a_connection_closed_while_idle_is_replaced(serve, open_client, ending):
    def script(peer):
        for _ in range(3):
            peer.read_request()
            peer.send(GOOD)
        time.sleep(0.03)
        peer.end(ending)

    server = serve(script, Answers(GOOD))
    client = open_client(server.url)
    for _ in range(3):
        infer(client)
    time.sleep(0.12)
    assert values_of(infer(client)) == VALUES
    assert values_of(infer(client)) == VALUES
    assert (server.connections, len(server.requests), repeated(client)) == (2, 5, 3)


def test_a_restarted_server_is_found_again(open_client):
    with Server((Answers(GOOD),)) as server:
        client = open_client(server.url)
        for _ in range(3):
            infer(client)
    with pytest.raises(ConnectRefused):
        infer(client)
    with Server((Answers(binary([4, 5, 6])),), at=("127.0.0.1", server.port)):
        for _ in range(3):
            assert values_of(infer(client)) == [4, 5, 6]
        client.close()


def test_connections_past_max_idle_or_max_age_are_replaced(serve, open_client):
    for options in ({"max_idle": 0.2}, {"max_age": 0.2}):
        server = serve(Answers(GOOD), Answers(GOOD))
        client = open_client(server.url, **options)
        for _ in range(3):
            infer(client)
        assert server.connections == 1
        time.sleep(0.3)
        for _ in range(3):
            infer(client)
        assert (server.connections, repeated(client)) == (2, 4)


def test_a_busy_connection_past_max_age_is_replaced(serve, open_client):
    server = serve(*[Answers(GOOD)] * 20)
    client = open_client(server.url, max_age=0.2)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        infer(client)
    assert 2 <= server.connections <= 4
    assert client.stats().connections_opened == server.connections
    assert repeated(client) == len(server.requests) - server.connections


def test_idle_connections_below_the_busy_one_are_closed(serve, open_client):
    together = threading.Barrier(3)

    def script(peer):
        peer.read_request()
        together.wait(10)
        peer.send(GOOD)
        Answers(GOOD)(peer)

    client = open_client(serve(*[script] * 3).url, concurrency=3, max_idle=0.3)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: infer(client), range(3)))
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        infer(client)
        time.sleep(0.02)
    stats = client.stats()
    assert (stats.connections_opened, stats.connections_closed) == (3, 2)
    assert repeated(client) > 3


def test_without_keep_alive_nothing_is_repeated(serve, open_client):
    server = serve(*[Answers(GOOD)] * 3)
    client = open_client(server.url, keep_alive=False)
    for _ in range(3):
        assert values_of(infer(client)) == VALUES
    assert (server.connections, repeated(client)) == (3, 0)


def test_inferences_are_repeated_over_a_unix_domain_socket(serve, open_client, tmp_path):
    client = open_client(serve(Answers(GOOD), path=str(tmp_path / "s")).url)
    for _ in range(3):
        assert values_of(infer(client)) == VALUES
    assert repeated(client) == 2


def test_a_request_that_the_kernel_takes_in_parts_arrives_whole(serve, open_client):
    received = []

    def reads(peer):
        while head := peer.read_head():
            time.sleep(0.05)
            received.append(peer.read_body(head))
            peer.send(GOOD)

    server = serve(reads)
    client = open_client(server.url, network_timeout=5)
    transport = client._transport
    take, parts = transport._take, []
    transport._take = lambda place, *given: (
        parts.append(place.connection and place.connection.ahead) or take(place, *given)
    )
    large = [tensor("INPUT0", np.arange(60_000).astype(np.uint8))]
    for times in range(4):
        assert values_of(client.infer("m", large)) == VALUES
        if not times:
            (connection,) = transport._connections
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    assert repeated(client) == 3
    assert 0 < parts[1] < 60_000
    assert received == [received[0]] * 4
    client.close()
    assert client.stats().bytes_sent == sum(map(len, [*server.requests, *received]))


def test_a_request_that_broke_off_goes_out_again(serve, open_client, tmp_path):
    """The model cannot have run: a part of it had not left."""

    def breaks(peer):
        peer.read_head()
        peer.sock.recv(100)

    script = behind_equal_answers(GOOD, breaks)
    server = serve(script, Answers(GOOD), path=str(tmp_path / "s"))
    client = open_client(server.url)
    large = [tensor("INPUT0", np.arange(60_000).astype(np.uint8))]
    for _ in range(3):
        client.infer("m", large)
    (connection,) = client._transport._connections
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    assert values_of(client.infer("m", large)) == VALUES
    assert repeated(client) == 3
    stats = client.stats()
    assert (stats.requests, stats.resent, server.connections, len(server.requests)) == (4, 1, 2, 5)


# -- threads, signals and forks


def echoes(peer):
    """Answer with the values that were sent, and for some of them in another way, or not at all."""
    chance = random.Random(peer.server.connections)
    while head := peer.read_head():
        sent = peer.read_body(head)[number_in(head, JSON_SIZE) :]
        model = re.search(rb"/models/(\w+)/", head)[1]
        came = binary(sent, headers=f"X-Model: {model.decode()}\r\n")
        fate = chance.random() if model == b"moody" else 1
        if fate < 0.02:
            return
        if fate < 0.04:
            peer.send(came[:-5])
            return
        if fate < 0.06:
            came += binary(bytes(12))
        elif fate < 0.08:
            came = binary(sent, headers="Connection: close\r\n")
        elif fate < 0.1:
            came = answer({"error": "in a mood"}, "503 Service Unavailable")
        elif fate < 0.2:
            peer.send(came[:100])
            came = came[100:]
        peer.send(came)


@pytest.mark.parametrize(("concurrency", "count"), [(1, 8), (3, 3), (8, 8)])
@pytest.mark.parametrize("model", ["steady", "moody"])
def test_threads_get_their_own_answers(serve, open_client, concurrency, count, model):
    client = open_client(serve(*[echoes] * 1000).url, concurrency=concurrency)
    failures = []

    def work(thread):
        failed = 0
        for n in range(30):
            values = [thread, n, thread * n]
            try:
                result = infer(client, values, model, deadline=20 if n % 3 else 70)
                assert values_of(result) == values
                assert result.headers.get("x-model", model) == model
            except (ConnectionLost, ServerError):
                failed += 1
        failures.append(failed)

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(work, range(count)))
    # A call that waited for a connection is carried on in Python.
    assert repeated(client) > 50 or count > concurrency
    assert (sum(failures) > 0) == (model == "moody")
    pool = client._transport.pool
    assert pool.taken == len(pool.idle) == len(client._transport._connections) <= concurrency
    assert not pool.line


def test_inferences_in_turn_over_one_connection(serve, open_client):
    server = serve(echoes)
    client = open_client(server.url)
    inputs = {size: np.arange(size, dtype=np.float32) for size in (1, 2, 300)}
    for n in range(10):
        for model in ("a", "b"):
            for size, array in inputs.items():
                result = infer(client, array + n, model)
                assert values_of(result) == (array + n).tolist()
                assert result.headers["x-model"] == model
                assert result.outputs[0].shape == (size,)
    assert server.connections == 1
    assert repeated(client) == 9 * 6


def test_a_waiting_call_gets_the_repeated_ones_connection(warm):
    """The place goes to who waits for it, with its connection."""
    go_on = threading.Event()

    def slow(peer):
        peer.read_request()
        go_on.wait(10)
        peer.send(GOOD)
        Answers(GOOD)(peer)

    server, client = warm(slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(infer, client)
        wait_until(lambda: len(server.requests) == 4)
        second = threads.submit(infer, client, deadline=5)
        wait_until(lambda: client._transport.pool.line)
        go_on.set()
        assert values_of(first.result()) == values_of(second.result()) == VALUES
    assert server.connections == 1


def test_closing_ends_the_wait_of_another_thread(warm):
    go_on = threading.Event()

    def slow(peer):
        peer.read_request()
        go_on.wait(10)
        peer.send(GOOD)
        peer.hold()

    server, client = warm(slow)
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(infer, client)
        wait_until(lambda: len(server.requests) == 4)
        client.close()
        with pytest.raises(InferenceServerException, match="closed"):
            infer(client)
        go_on.set()
        assert values_of(waits.result()) == VALUES
    assert repeated(client) == 3
    assert not client._transport._connections
    with pytest.raises(InferenceServerException, match="closed"):
        infer(client)


class Interrupted(BaseException):
    """Raised by a signal's handler."""


@pytest.fixture
def signals():
    """Have SIGUSR1 come to the main thread, whose handler runs what the test says, after 0.1 s."""
    handlers = []
    before = signal.signal(signal.SIGUSR1, lambda *_: handlers.pop()())
    main = threading.main_thread().ident

    def later(handler, seconds=0.1):
        handlers.append(handler)
        timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGUSR1))
        timer.start()
        timers.append(timer)

    timers = []
    yield later
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGUSR1, before)
    assert not handlers


def interrupt():
    raise Interrupted


LIMITS = pytest.mark.parametrize("limits", [{}, {"deadline": 5}], ids=["no deadline", "a deadline"])


@LIMITS
def test_a_handler_that_raises_ends_the_call(warm, signals, limits):
    """Its connection is closed, since the answer is still to come, and its place is free."""
    server, client = warm(in_pieces([b"", GOOD], pause=0.3))
    signals(interrupt)
    with pytest.raises(Interrupted):
        infer(client, **limits)
    assert repeated(client) == 3
    transport = client._transport
    assert transport.pool.taken == len(transport._connections) == 0
    assert values_of(infer(client, deadline=5)) == VALUES
    assert server.connections == 2


@LIMITS
def test_a_handler_that_returns_does_not_end_the_call(warm, signals, limits):
    server, client = warm(in_pieces([b"", GOOD], pause=0.3))
    ran = []
    signals(lambda: ran.append(True))
    assert values_of(infer(client, **limits)) == VALUES
    assert ran
    assert values_of(infer(client, **limits)) == VALUES
    assert (server.connections, repeated(client), len(server.requests)) == (1, 4, 5)


def test_a_signal_does_not_stretch_the_deadline(warm, signals, within):
    _, client = warm(lambda peer: peer.end("hold"))
    signals(lambda: None)
    with within(1.8 * SHORT), pytest.raises(DeadlineExceeded, match=r"the call's 0\.4 s are over"):
        infer(client, deadline=2 * SHORT)


def test_a_signal_handler_may_make_a_call(warm, signals):
    """While the answer is waited for, the handler infers with the same client, over another connection."""
    server, client = warm(in_pieces([b"", GOOD], pause=0.3), concurrency=2)
    inner = []
    signals(lambda: inner.append(values_of(infer(client))))
    assert values_of(infer(client)) == VALUES
    assert inner == [VALUES]
    assert server.connections == 2


@needs_fork
def test_a_child_forked_between_inferences_makes_its_own_connection(warm):
    server, client = warm(Answers(GOOD))

    def in_the_child():
        assert repeated(client) == 0
        for _ in range(3):
            assert values_of(infer(client, deadline=5)) == VALUES
        assert repeated(client) == 2

    assert exit_status(in_child(in_the_child)) == 0
    assert values_of(infer(client)) == VALUES
    assert (server.connections, repeated(client)) == (2, 3)


@needs_fork
def test_a_child_forked_while_a_thread_waits_makes_its_own_connection(warm):
    go_on = threading.Event()

    def slow(peer):
        peer.read_request()
        go_on.wait(20)
        peer.send(GOOD)
        Answers(GOOD)(peer)

    server, client = warm(slow)

    def in_the_child():
        for _ in range(3):
            assert values_of(infer(client, deadline=5)) == VALUES
        client.close()

    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(infer, client)
        wait_until(lambda: len(server.requests) == 4)
        try:
            assert exit_status(in_child(in_the_child)) == 0
            assert not waits.done()
        finally:
            go_on.set()
        assert values_of(waits.result()) == VALUES
    assert values_of(infer(client)) == VALUES
    assert server.connections == 2
    assert repeated(client) == 4


def test_async_infer_repeats_and_keeps_results_apart(serve, open_client):
    client = open_client(serve(*[echoes] * 4).url, concurrency=4)
    infer(client, [0.0] * 3)
    pending = []
    for n in range(200):
        array = np.full(3, n, np.float32)
        pending.append(client.async_infer("m", [tensor("INPUT0", array)]))
        array[:] = -1  # the data were taken
    for n, request in enumerate(pending):
        assert values_of(request.get_result()) == [n] * 3
    assert repeated(client) > 150


def test_async_infer_fails_as_infer_does(warm):
    _, client = warm(Sends(GOOD[:-1]))
    request = client.async_infer("m", [tensor("INPUT0", np.array(VALUES, np.float32))])
    with pytest.raises(ConnectionLost, match="the server closed the connection after 1"):
        request.get_result()
    assert repeated(client) == 3
    request = client.async_infer("m", [tensor("INPUT0", np.array(VALUES, np.float32))])
    assert values_of(request.get_result()) == VALUES


# -- observers see every inference


class Plugin(InferenceServerClientPlugin):
    def __call__(self, request):
        request.headers["X-Plugin"] = "was here"


def test_a_plugin_registered_later_is_called(warm):
    server, client = warm(Answers(GOOD))
    client.register_plugin(Plugin())
    infer(client)
    client.unregister_plugin()
    infer(client)
    seen = [b"x-plugin: was here" in head.lower() for head in server.requests]
    assert seen == [False, False, False, True, False]
    assert repeated(client) == 4


def test_a_log_switched_on_later_is_written(warm, caplog):
    _, client = warm(Answers(GOOD))
    with caplog.at_level(logging.DEBUG, "tritonhttp"):
        infer(client)
        assert "/v2/models/m/infer" in caplog.text
    assert repeated(client) == 3
    infer(client)
    assert (repeated(client), len(caplog.records)) == (4, 1)


def test_hooks_added_later_are_called(warm):
    _, client = warm(Answers(GOOD))
    told = []
    client.hooks.add(on_response=told.append)
    infer(client)
    (call,) = told
    assert (call.model_name, call.status, call.attempts) == ("m", 200, 1)
    assert call.response_headers["content-length"] == str(call.response_bytes)
    assert list(call.phases) == ["wait", "send", "first_byte", "receive"]
    assert all(spent >= 0 for spent in call.phases.values())
    assert sum(call.phases.values()) <= call.seconds * 1e3
    assert repeated(client) == 3


def test_a_post_replaced_later_is_called(warm):
    server, client = warm(Answers(GOOD))
    ours, seen = client._post, []

    def post(request_uri, request_body, headers, query_params):
        seen.append(request_uri)
        return ours(request_uri, request_body, headers, query_params)

    client._post = post
    assert values_of(infer(client)) == VALUES
    del client._post
    infer(client)
    assert len(seen) == 1
    assert (len(server.requests), repeated(client)) == (5, 3)


def test_options_of_a_single_call_are_sent(warm):
    server, client = warm(Answers(GOOD))
    for options in (
        {"headers": {"X-Mine": "1"}},
        {"query_params": {"q": "mine"}},
        {"request_id": "mine"},
        {"timeout": 5},
        {"parameters": {"mine": 1}},
        {"request_compression_algorithm": "gzip"},
        {"response_compression_algorithm": "gzip"},
    ):
        assert values_of(infer(client, **options)) == VALUES
    # Not with an id of this length, whose answer is another one, nor with compression.
    assert repeated(client) == 6
    assert b"x-mine: 1" in server.requests[3].lower()
    assert b"?q=mine " in server.requests[4]
    # Other outputs are another request; its answer is learned by itself.
    for n in range(2):
        infer(client, outputs=[InferRequestedOutput("OUTPUT0")])
        assert repeated(client) == 6 + n


def test_ids_come_back_in_repeated_answers(serve, open_client):
    def with_ids(peer):
        while head := peer.read_head():
            sizes = dict(re.findall(rb"([\w-]+)-Length: (\d+)\r\n", head))
            data = b""
            while len(data) < int(sizes[b"Content"]):
                data += peer.sock.recv(65536)
            sent = json.loads(data[: int(sizes[b"Inference-Header-Content"])])
            own = {"id": sent["id"]} if "id" in sent else {}
            described = {"name": "OUTPUT0", "datatype": "FP32", "shape": [3]}
            described["parameters"] = {"binary_data_size": 12}
            text = json.dumps(
                {**own, "model_name": "m", "outputs": [described]}, ensure_ascii=False, separators=(",", ":")
            )
            peer.send(inference_answer(text.encode(), np.array(VALUES, np.float32).tobytes()))

    client = open_client(serve(with_ids).url)
    for request_id in ["a", "b", "", "c", "longer", "längst", 'q"uote', "longer", "d"]:
        result = infer(client, request_id=request_id)
        assert values_of(result) == VALUES
        assert result.get_response().get("id", "") == request_id
    # All had an answer before to an id of as many bytes but a, none, the first "longer" and "längst".
    assert repeated(client) == 5


def test_hooks_and_verbose_see_repeated_calls(serve, open_client, capsys):
    told = []
    watched = {
        "on_request": {"on_request": told.append},
        "on_response": {"on_response": lambda *given: told.append(given)},
        "verbose": {"verbose": True},
    }
    for options in watched.values():
        client = open_client(serve(Answers(GOOD)).url, **options)
        for _ in range(3):
            infer(client)
        assert repeated(client) == 2
    assert len(told) == 6
    assert capsys.readouterr().out.count('"model_name": "m"') == 3


def test_a_client_with_retries_tries_again_behind_equal_inferences(serve, open_client):
    def busy(peer):
        peer.read_request()
        peer.send(answer({"error": "busy"}, "503 Service Unavailable"))
        Answers(GOOD)(peer)

    server = serve(behind_equal_answers(GOOD, busy), Answers(GOOD))
    client = open_client(server.url, retry=Retry(backoff=0.001))
    for _ in range(3):
        infer(client)
    result = infer(client, idempotent=True)
    assert (values_of(result), result.attempts, len(server.requests)) == (VALUES, 2, 5)
    assert repeated(client) == 4


def test_stats_are_those_of_a_client_that_repeats_nothing(serve, open_client):
    def counted(repeats):
        def breaks(peer):
            peer.read_request()
            peer.send(GOOD[:50])

        client = open_client(serve(behind_equal_answers(GOOD, breaks, 7), Answers(GOOD)).url)
        client._transport.repeats = repeats
        for n in range(10):
            with contextlib.suppress(TransportError):
                infer(client, deadline=20 if n % 2 else None)
        client.close()
        assert (repeated(client) > 0) == repeats
        return client.stats()

    assert counted(True) == counted(False)


# -- results


def test_a_repeated_result_is_like_a_first_one(warm):
    _, client = warm(Answers(GOOD))
    later = infer(client)
    client._encoder.templates.clear()
    first = infer(client)
    assert repeated(client) == 3
    for change in (lambda result: result, copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))):
        assert seen(change(later)) == seen(change(first))
        assert vars(change(later)).keys() == vars(change(first)).keys()
    for result in (first, later):
        result.get_response()["outputs"][0]["shape"] = "mine"
        result.headers["mine"] = "mine"
        array = result.as_numpy("OUTPUT0")
        assert array is result.as_numpy("OUTPUT0") is result["OUTPUT0"]
        assert array.flags.carray  # aligned, writable, in one piece
        array[:] = -1
        assert values_of(result) == [-1] * 3
    fresh = infer(client)
    assert repeated(client) == 4
    assert values_of(fresh) == VALUES
    assert "mine" not in repr(seen(fresh))


def test_results_do_not_share_what_a_caller_may_change(serve, open_client):
    """Nor where the JSON is too long for the table of layouts."""
    outputs = [
        {"name": f"O{n}", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
        for n in range(100)
    ]
    text = json.dumps({"model_name": "m", "outputs": outputs}).encode()
    assert len(text) > 5000
    data = np.arange(100, dtype="<f4").tobytes()
    client = open_client(serve(Answers(inference_answer(text, data))).url)
    for _ in range(4):
        result = infer(client)
        assert [result[f"O{n}"].tolist() for n in (0, 50, 99)] == [[0], [50], [99]]
        assert {output.datatype for output in result.outputs} == {"FP32"}
        for output in result.get_response()["outputs"]:
            output["shape"], output["datatype"] = [7], "mine"


def test_strings_are_repeated(serve, open_client):
    framed = b"".join(len(text).to_bytes(4, "little") + text for text in (b"a", b"", "é".encode()))
    client = open_client(serve(Answers(binary(framed, datatype="BYTES", shape=[3]))).url)
    results = [infer(client) for _ in range(3)]
    results[0].as_numpy("OUTPUT0")[0] = b"mine"
    for result in results[1:]:
        assert values_of(result) == [b"a", b"", "é".encode()]
    assert repeated(client) == 2


def test_the_request_holds_what_the_arrays_hold(serve, open_client):
    client = open_client(serve(echoes).url)
    array = np.zeros(3, np.float32)
    inputs = [tensor("INPUT0", array)]
    for n in range(5):
        array[:] = n
        assert values_of(client.infer("m", inputs)) == [n] * 3
    inputs[0].set_data_from_numpy(np.array(VALUES, np.float32))
    assert values_of(client.infer("m", inputs)) == VALUES
    assert repeated(client) == 5


def test_a_client_keeps_neither_results_nor_data(serve, open_client):
    large = np.zeros(15_000, np.float32)
    client = open_client(serve(echoes).url)
    for model in ("a", "b"):  # what is made once is there
        for _ in range(3):
            infer(client, large, model)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(30):
            for _ in range(3):
                result = infer(client, large, f"model{n}")
                alive = weakref.ref(result)
                del result
                assert alive() is None
        gc.collect()
        # An answer that is expected again: its head, and its JSON.
        assert tracemalloc.get_traced_memory()[0] - before < 30 * 15_000
        assert repeated(client) > 50
    finally:
        tracemalloc.stop()
