"""The blocking transport against a loopback server that does what the test wants."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import trustme

from tritonhttp import (
    ConnectError,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DeadlineExceeded,
    InferenceServerClient,
    InferenceServerException,
    InferInput,
    ProtocolError,
)
from tritonhttp._transport.address import Address
from tritonhttp._transport.blocking import BlockingTransport
from tritonhttp._transport.blocking_connect import Making
from tritonhttp._transport.policy import Timeouts
from tritonhttp._transport.pool import Place
from tritonhttp._wire.requests import COALESCE, encode_head
from tritonhttp._wire.responses import Response
from tritonhttp.errors import RequestCancelled, TLSError

Serve = Callable[..., Any]


class Opened:
    """A transport, and the short way to use it."""

    def __init__(self, transport: BlockingTransport) -> None:
        self.transport = transport

    def __call__(self, *body: Any, method: str = "POST", **options: Any) -> Response:
        head = encode_head(method, "/v2", "Host: h\r\n", sum(map(len, body)))
        return self.transport.exchange(method, "/v2", [head, *body], **options)


@pytest.fixture
def connect() -> Iterator[Callable[..., Opened]]:
    """Open transports to a port; all of them are closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def connect(
            port: int,
            *,
            limit: int = 1,
            host: str = "127.0.0.1",
            context: ssl.SSLContext | None = None,
            connection: float | None = 10.0,
            network: float | None = 10.0,
        ) -> Opened:
            timeouts = Timeouts(connection=connection, network=network)
            address = Address(host, port, context is not None, "")
            transport = BlockingTransport(address, limit, timeouts, context)
            stack.callback(transport.close)
            return Opened(transport)

        yield connect


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def settle() -> None:
    """Let what the peer did last arrive here."""
    time.sleep(0.05)


# -- one request after the other --------------------------------------------------------------------


def test_the_request_goes_out_as_it_is_and_the_answer_comes_back(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        peer.reply(b"answer", status="404 Not Found", headers="X-One: a")

    server = serve(handler)
    response = connect(server.port)(b"abc", memoryview(b"de"), b"", bytearray(b"f"))
    assert server.requests == [(b"POST /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n", b"abcdef")]
    assert (response.status_code, response.reason, bytes(response.body)) == (404, "Not Found", b"answer")
    assert response.get("X-One") == "a"


ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True),
    "length zero": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
    "100 first": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True),
    "an error": (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", False),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", False),
    "more than was asked for": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n", False),
}


@pytest.mark.parametrize(("answer", "reused"), list(ANSWERS.values()), ids=list(ANSWERS))
def test_a_connection_is_used_again_where_the_answer_allows_it(
    serve: Serve, connect: Any, answer: bytes, reused: bool
) -> None:
    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.send(answer)

    server = serve(handler)
    exchange = connect(server.port)
    for _ in range(3):
        exchange()
    assert server.accepted == (1 if reused else 3)


def test_an_answer_that_ends_with_the_connection(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        for _ in range(20):
            peer.send(b"x" * 10_000)

    def headed(peer: Any) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        handler(peer)

    server = serve(headed)
    exchange = connect(server.port)
    assert bytes(exchange().body) == b"x" * 200_000
    assert bytes(exchange().body) == b"x" * 200_000
    assert server.accepted == 2


@pytest.mark.parametrize("size", [1, 65_000, 65_536, 5_000_000])
def test_an_answer_of_any_size_arrives(serve: Serve, connect: Any, size: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.reply(data)

    exchange = connect(serve(handler).port)
    for _ in range(2):
        assert bytes(exchange().body) == data


# -- connections that break -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "goodbye", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"\r\n"]
)
@pytest.mark.parametrize("repeatable", [True, False])
def test_an_idle_connection_that_the_server_closed_is_not_used(
    serve: Serve, connect: Any, repeatable: bool, goodbye: bytes
) -> None:
    left = threading.Event()

    def handler(peer: Any) -> None:
        peer.receive()
        peer.reply()
        if peer.number == 1:
            settle()
            peer.send(goodbye)
            peer.sock.close()
            left.set()
        else:
            peer.receive()

    server = serve(handler)
    exchange = connect(server.port)
    exchange()
    assert left.wait(5)
    settle()
    assert exchange(repeatable=repeatable).status_code == 200
    assert server.accepted == 2


def test_a_call_that_ends_at_the_look_at_its_connection_gives_the_place_back(
    serve: Serve, connect: Any
) -> None:
    class Killed(BaseException):
        """As gevent's GreenletExit, or a KeyboardInterrupt."""

    def kill(_: int) -> None:
        raise Killed

    server = serve()
    exchange = connect(server.port)
    exchange.transport.repeats = False  # the extension looks by itself
    exchange()
    (connection,) = exchange.transport._connections
    connection.is_stale = kill
    with pytest.raises(Killed):
        exchange()
    assert exchange(deadline=time.monotonic() + 5).status_code == 200
    assert server.accepted == 2


def test_bytes_that_nobody_asked_for_are_no_answer(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.reply(b"right")
            settle()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    exchange = connect(serve(handler).port)
    for _ in range(3):
        assert bytes(exchange().body) == b"right"
        time.sleep(0.15)


def dies_on_its_second_request(answer: bytes) -> Callable[[Any], None]:
    def handler(peer: Any) -> None:
        peer.receive()
        peer.reply()
        if peer.number == 1:
            peer.receive()
            if answer:
                peer.send(answer)
        else:
            while peer.receive() is not None:
                peer.reply()

    return handler


def test_a_request_that_may_be_repeated_goes_out_again(serve: Serve, connect: Any) -> None:
    server = serve(dies_on_its_second_request(b""))
    exchange = connect(server.port)
    exchange(repeatable=True)
    assert exchange(repeatable=True).status_code == 200
    assert server.accepted == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("repeatable", "answer"), [(False, b""), (True, b"H"), (True, b"HTTP/1.1 200 OK\r\n")]
)
def test_a_request_that_must_not_be_repeated_does_not_go_out_again(
    serve: Serve, connect: Any, repeatable: bool, answer: bytes
) -> None:
    server = serve(dies_on_its_second_request(answer))
    exchange = connect(server.port)
    exchange()
    with pytest.raises(ConnectionLost) as caught:
        exchange(repeatable=repeatable)
    assert caught.value.phase == "receive"
    assert caught.value.url == f"http://127.0.0.1:{server.port}/v2"
    assert caught.value.method == "POST"
    assert str(caught.value).startswith(f"POST http://127.0.0.1:{server.port}/v2: the server closed")
    assert exchange().status_code == 200, "the place is free again"
    assert len(server.requests) == 3


def test_a_fresh_connection_that_breaks_is_not_tried_again(serve: Serve, connect: Any) -> None:
    server = serve(lambda peer: peer.receive())
    with pytest.raises(ConnectionLost, match="after no byte of a response"):
        connect(server.port)(repeatable=True)
    assert server.accepted == 1


@pytest.mark.parametrize(
    ("answer", "progress"),
    [
        (b"HTTP/1.1 200", "12 bytes of the response's head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234", "4 of 9 bytes of the response's body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "an incomplete body"),
    ],
)
def test_a_loss_says_how_far_the_answer_came(
    serve: Serve, connect: Any, answer: bytes, progress: str
) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        peer.send(answer)

    with pytest.raises(ConnectionLost, match=progress):
        connect(serve(handler).port)()


def test_what_is_no_http_closes_the_connection(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        peer.send(b"SSH-2.0-OpenSSH_9.6\r\n" if peer.number == 1 else b"HTTP/1.1 204 Fine\r\n\r\n")
        peer.receive()

    server = serve(handler)
    exchange = connect(server.port)
    with pytest.raises(ProtocolError, match=rf"^POST http://127.0.0.1:{server.port}/v2: .*SSH-2\.0"):
        exchange()
    assert exchange().status_code == 204


def test_an_answer_that_comes_before_the_whole_request_is_read(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.sock.recv(1000)
        peer.reply(b"too large", status="413 Payload Too Large", headers="Connection: close")
        settle()  # and closes with data unread: the client's send breaks

    response = connect(serve(handler).port)(bytes(50_000_000))
    assert response.status_code == 413
    assert bytes(response.body) == b"too large"


# -- connecting -------------------------------------------------------------------------------------


def test_nobody_listens(connect: Any, unused_port: int) -> None:
    exchange = connect(unused_port)
    for _ in range(2):
        with pytest.raises(ConnectRefused) as caught:
            exchange(repeatable=True)
    error = caught.value
    assert isinstance(error, ConnectionRefusedError)
    assert error.phase == "connect"
    assert f"cannot connect to 127.0.0.1 port {unused_port}" in str(error)
    assert error.url == f"http://127.0.0.1:{unused_port}/v2"


def addresses(*ports: int) -> Callable[..., list[Any]]:
    def getaddrinfo(*_: Any, flags: int = 0, **__: Any) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    return getaddrinfo


def test_the_next_address_is_tried(
    serve: Serve, connect: Any, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(socket, "getaddrinfo", addresses(unused_port, server.port))
    assert connect(80, host="name")().status_code == 200


def test_no_address_answers(connect: Any, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", addresses(unused_port, unused_port + 0))
    with pytest.raises(ConnectRefused, match="cannot connect to name port 80: 127"):
        connect(80, host="name")()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6(connect: Any) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(b"HTTP/1.1 204 Fine\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert connect(listener.getsockname()[1], host="::1")().status_code == 204
        thread.join(5)


# -- bodies -----------------------------------------------------------------------------------------


def digest(*buffers: Any) -> str:
    found = hashlib.sha256()
    for buffer in buffers:
        found.update(buffer)
    return found.hexdigest()


def test_more_buffers_than_one_call_of_the_kernel_takes(serve: Serve, connect: Any) -> None:
    server = serve()
    tensor = memoryview(np.random.default_rng(2).integers(0, 256, COALESCE + 1, np.uint8))
    buffers = [tensor, b"between"] * 1100
    assert connect(server.port)(*buffers).status_code == 200
    ((_, body),) = server.requests
    assert digest(body) == digest(*buffers)


def test_two_thousand_inputs_in_one_call(serve: Serve) -> None:
    arrays = [np.full(3, index, np.int16) for index in range(2000)]
    inputs = [
        InferInput(f"x{index}", [3], "INT16").set_data_from_numpy(array) for index, array in enumerate(arrays)
    ]

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.reply(b'{"model_name":"m","outputs":[]}')

    server = serve(handler)
    with InferenceServerClient(server.url) as client:
        client.infer("m", inputs)
    ((head, body),) = server.requests
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
    size = int(head.split(b"Inference-Header-Content-Length: ")[1].split(b"\r\n")[0])
    described = json.loads(body[:size])["inputs"]
    assert [each["name"] for each in described] == [f"x{index}" for index in range(2000)]
    assert body[size:] == b"".join(array.tobytes() for array in arrays)


@pytest.mark.parametrize("sizes", [[6_000_000], [1_000_000, 3, 70_000, 2_000_000, 65_536, 65_537] * 2])
def test_a_slow_reader_gets_everything(serve: Serve, connect: Any, sizes: list[int]) -> None:
    generator = np.random.default_rng(3)
    buffers = [generator.integers(0, 256, size, np.uint8).data for size in sizes]
    found: list[str] = []

    def handler(peer: Any) -> None:
        received = hashlib.sha256()
        left = sum(sizes)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += peer.sock.recv(1)
        while left:
            piece = peer.sock.recv(min(left, 100_000))
            received.update(piece)
            left -= len(piece)
            time.sleep(0.002)
        found.append(received.hexdigest())
        peer.reply()

    assert connect(serve(handler).port)(*buffers).status_code == 200
    assert found == [digest(*buffers)]


def test_a_transfer_may_take_longer_than_the_network_timeout(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        left = 16_000_000
        while left > 0:
            left -= len(peer.sock.recv(1_000_000))
            time.sleep(0.03)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            time.sleep(0.03)
            peer.send(b"x")

    began = time.monotonic()
    response = connect(serve(handler).port, network=0.4)(bytes(16_000_000))
    assert bytes(response.body) == b"x" * 20
    assert time.monotonic() - began > 0.4


# -- threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_threads_share_at_most_limit_connections(serve: Serve, connect: Any, limit: int) -> None:
    lock = threading.Lock()
    busy = most = 0

    def handler(peer: Any) -> None:
        nonlocal busy, most
        while (request := peer.receive()) is not None:
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.002)
            with lock:
                busy -= 1
            peer.reply(request[1])

    server = serve(handler)
    exchange = connect(server.port, limit=limit)

    def work(number: int) -> bool:
        return all(bytes(exchange(b"%d" % number).body) == b"%d" % number for _ in range(15))

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(work, range(12)))
    assert server.accepted <= limit
    assert most <= limit


@pytest.fixture
def busy(serve: Serve, connect: Any) -> Iterator[tuple[Opened, threading.Event, Any]]:
    """A transport whose only connection waits for its answer until the event is set."""
    go, arrived = threading.Event(), threading.Event()

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            arrived.set()
            assert go.wait(20)
            peer.reply()

    exchange = connect(serve(handler).port)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(exchange)
        assert arrived.wait(5)
        try:
            yield exchange, go, threads
        finally:
            go.set()
            with contextlib.suppress(InferenceServerException):
                first.result(20)


def test_who_waits_is_served_when_the_connection_is_free(busy: Any) -> None:
    exchange, go, threads = busy
    waiting = [threads.submit(exchange) for _ in range(4)]
    settle()
    assert not any(each.done() for each in waiting)
    go.set()
    assert {each.result(10).status_code for each in waiting} == {200}


def test_who_waits_gives_up_at_the_deadline(busy: Any) -> None:
    exchange, go, threads = busy
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="timed out while waiting for one of 1 connections") as caught:
        exchange(deadline=began + 0.1)
    assert 0.1 <= time.monotonic() - began < 5
    assert caught.value.phase == "wait for a connection"
    patient = threads.submit(exchange)
    go.set()
    assert patient.result(10).status_code == 200, "who left the line must not get the place"


def test_closing_turns_away_who_waits_and_lets_the_others_end(busy: Any) -> None:
    exchange, go, threads = busy
    waiting = [threads.submit(exchange) for _ in range(3)]
    settle()
    exchange.transport.close()
    for each in waiting:
        with pytest.raises(InferenceServerException, match="the client is closed"):
            each.result(5)
    go.set()
    with pytest.raises(InferenceServerException, match="the client is closed"):
        exchange()


def test_a_request_under_way_survives_the_close(serve: Serve, connect: Any) -> None:
    arrived, go, gone = threading.Event(), threading.Event(), threading.Event()

    def handler(peer: Any) -> None:
        peer.receive()
        arrived.set()
        go.wait(20)
        peer.reply()
        assert peer.receive() is None
        gone.set()

    exchange = connect(serve(handler).port)
    with ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(exchange)
        assert arrived.wait(5)
        exchange.transport.close()
        exchange.transport.close()
        go.set()
        assert under_way.result(5).status_code == 200
    assert gone.wait(5), "its connection is closed behind it"


def test_closing_closes_idle_connections(serve: Serve, connect: Any) -> None:
    gone = threading.Event()

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.reply()
        gone.set()

    exchange = connect(serve(handler).port)
    exchange()
    assert not gone.wait(0.05)
    exchange.transport.close()
    assert gone.wait(5)


def test_a_failure_hands_the_place_on(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        if peer.number % 2:
            peer.reply()

    server = serve(handler)
    exchange = connect(server.port)

    def attempt(_: int) -> str:
        try:
            return str(exchange().status_code)
        except ConnectionLost:
            return "lost"

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(attempt, range(30))) == {"200", "lost"}


# -- deadlines --------------------------------------------------------------------------------------


@pytest.fixture(params=["timeout", "deadline"])
def bounded(request: pytest.FixtureRequest) -> Callable[[float], tuple[dict[str, Any], dict[str, Any]]]:
    """Options for the transport and for the call, under which either of them sets the limit."""

    def options(seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        if request.param == "timeout":
            return {"connection": seconds, "network": seconds}, {}
        return {"connection": None, "network": None}, {"deadline": time.monotonic() + seconds}

    return options


@contextlib.contextmanager
def in_time(phase: str, kind: type[DeadlineExceeded] = DeadlineExceeded) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(kind, match="timed out") as caught:
        yield
    assert 0.05 <= time.monotonic() - began < 5  # a deadline may have begun a while before
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.phase == phase
    assert caught.value.method == "POST"
    assert caught.value.url.endswith("/v2")


LIMIT = 0.2


def test_limit_of_resolving(connect: Any, bounded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def getaddrinfo(*_: Any, flags: int = 0, **__: Any) -> list[Any]:
        if not flags & socket.AI_NUMERICHOST:
            go.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    transport, call = bounded(LIMIT)
    with in_time("resolve"):
        connect(80, host="name", **transport)(**call)
    go.set()
    for thread in threading.enumerate():
        if thread.name == "tritonhttp-resolve":
            thread.join(5)


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog swallows connections on Linux")
def test_limit_of_connecting(connect: Any, bounded: Any) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        settle()
        transport, call = bounded(LIMIT)
        with in_time("connect", ConnectTimeout):
            connect(listener.getsockname()[1], **transport)(**call)


def silent(peer: Any) -> None:
    while peer.sock.recv(1 << 16):
        pass


def test_limit_of_the_tls_handshake(serve: Serve, connect: Any, bounded: Any) -> None:
    transport, call = bounded(LIMIT)
    with in_time("tls", ConnectTimeout):
        connect(serve(silent).port, context=ssl.create_default_context(), **transport)(**call)


def test_limit_of_sending(serve: Serve, connect: Any, bounded: Any) -> None:
    go = threading.Event()
    server = serve(lambda _: go.wait(20))
    transport, call = bounded(LIMIT)
    with in_time("send"):
        connect(server.port, **transport)(bytes(100_000_000), **call)
    go.set()


def test_limit_of_receiving(serve: Serve, connect: Any, bounded: Any) -> None:
    server = serve(silent)
    transport, call = bounded(LIMIT)
    exchange = connect(server.port, **transport)
    with in_time("receive"):
        exchange(**call)


def test_a_trickle_does_not_stretch_the_deadline(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            peer.send(b"x")
            time.sleep(0.02)

    exchange = connect(serve(handler).port, network=5)
    with in_time("receive"):
        exchange(deadline=time.monotonic() + LIMIT)


@pytest.fixture
def ticking() -> Iterator[None]:
    """Let a signal that the program handles come every 0.1 s."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_a_timer_of_the_programs_does_not_stretch_the_limits(
    serve: Serve, connect: Any, ticking: None
) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        time.sleep(3)

    exchange = connect(serve(handler).port, network=0.5)
    began = time.monotonic()
    for options in ({}, {"deadline": began + 1.2}):
        with pytest.raises(DeadlineExceeded):
            exchange(**options)
    assert time.monotonic() - began < 3


def test_a_deadline_that_has_passed_sends_nothing(serve: Serve, connect: Any) -> None:
    server = serve()
    exchange = connect(server.port)
    exchange()
    with pytest.raises(DeadlineExceeded, match="timed out"):
        exchange(deadline=time.monotonic() - 1)
    assert len(server.requests) == 1
    assert exchange().status_code == 200


def test_a_limit_of_one_call_is_not_that_of_the_next(serve: Serve, connect: Any) -> None:
    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            time.sleep(0.3)
            peer.reply()

    server = serve(handler)
    exchange = connect(server.port, network=None)
    exchange(deadline=time.monotonic() + 5)
    with in_time("receive"):
        exchange(deadline=time.monotonic() + LIMIT)
    exchange(deadline=time.monotonic() + 5)
    assert exchange().status_code == 200


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(serve: Serve, authority: trustme.CA) -> Callable[..., Any]:
    def start(name: str = "127.0.0.1", **options: Any) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return serve(context=context, **options)

    return start


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_many_buffers_under_tls(tls_server: Any, connect: Any, trusting: ssl.SSLContext) -> None:
    server = tls_server()
    exchange = connect(server.port, context=trusting)
    large = np.random.default_rng(4).integers(0, 256, 3_000_000, np.uint8).data
    buffers = [b"small", large, *[b"%d" % index for index in range(2000)], large[:70_000]]
    for _ in range(2):
        assert exchange(*buffers).status_code == 200
    assert server.accepted == 1
    assert [digest(body) for _, body in server.requests] == [digest(*buffers)] * 2


def test_a_certificate_of_another_name(tls_server: Any, connect: Any, trusting: ssl.SSLContext) -> None:
    with pytest.raises(TLSError, match=r"the TLS handshake with 127\.0\.0\.1 failed") as caught:
        connect(tls_server("example.org").port, context=trusting)()
    assert isinstance(caught.value, ssl.SSLError)
    assert caught.value.phase == "tls"


def test_a_certificate_of_an_unknown_authority(tls_server: Any, connect: Any) -> None:
    with pytest.raises(TLSError, match="certificate"):
        connect(tls_server().port, context=ssl.create_default_context())()


def test_a_server_without_tls(serve: Serve, connect: Any, trusting: ssl.SSLContext) -> None:
    def handler(peer: Any) -> None:
        peer.sock.recv(1000)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with pytest.raises(ConnectError):
        connect(serve(handler).port, context=trusting)()


def test_an_idle_tls_connection_that_the_server_closed(
    tls_server: Any, connect: Any, trusting: ssl.SSLContext
) -> None:
    def handler(peer: Any) -> None:
        peer.receive()
        peer.reply()

    server = tls_server(handler=handler)
    exchange = connect(server.port, context=trusting)
    for _ in range(3):
        assert exchange().status_code == 200
        settle()
    assert server.accepted == 3


# -- forks ------------------------------------------------------------------------------------------


def test_a_reset_drops_every_connection(serve: Serve, connect: Any) -> None:
    server = serve()
    exchange = connect(server.port)
    exchange()
    exchange.transport.reset()
    assert exchange().status_code == 200
    assert server.accepted == 2


FORKING = """
import os, select, socket, sys
from tritonhttp import InferenceServerClient

listener = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:  # the server: tells each request the number of its connection
    numbers = {}
    while True:
        ready, _, _ = select.select([listener, *numbers], [], [], 20)
        for sock in ready or sys.exit("nothing came"):
            if sock is listener:
                accepted = listener.accept()[0]
                numbers[accepted] = len(numbers)
            elif sock.recv(65536):
                body = b'{"connection":%d}' % numbers[sock]
                sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
            elif numbers.pop(sock) == 0:
                os._exit(0)  # the parent closed its connection: the end

client = InferenceServerClient("127.0.0.1:%d" % listener.getsockname()[1])
listener.close()
seen = [client.get_server_metadata()["connection"]]
read, write = os.pipe()
child = os.fork()
if child == 0:
    mine = [client.get_server_metadata()["connection"] for _ in range(2)]
    os.write(write, bytes(mine))
    client.close()
    os._exit(0)
seen.append(client.get_server_metadata()["connection"])
os.waitpid(child, 0)
seen += os.read(read, 2)
seen.append(client.get_server_metadata()["connection"])
client.close()
os.wait()
sys.stdout.write(str(seen))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_opens_its_own_connections() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "[0, 0, 1, 1, 0]"


def test_a_place_is_reserved_while_an_interrupted_thread_holds_the_lock(
    connect: Any, unused_port: int
) -> None:
    """The handler that interrupted it may wait for the lock under which that happens."""
    transport = connect(unused_port).transport
    place: Place[Any] = Place()
    thread = threading.Thread(target=transport.reserve, args=(place,), daemon=True)
    with transport.pool.lock:
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert list(transport.pool.line) == [place]
    transport.give_back(place)


def test_only_a_cancellation_ends_the_making_of_a_connection() -> None:
    """The pool may wake a place once more that it served a moment ago."""
    place: Place[Any] = Place()
    making, woken = Making(place), list[int]()
    making.watch(lambda: woken.append(1))
    making()
    assert not woken
    place.cancelled = True
    making()
    assert woken == [1]
    with pytest.raises(RequestCancelled):
        making.check()
