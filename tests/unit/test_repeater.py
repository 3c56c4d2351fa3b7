"""The exchange in C: alone over sockets, and under a transport, which must not show whether it is there."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tritonhttp import InferenceServerClient, InferInput
from tritonhttp._basics import implementation as _implementation
from tritonhttp._repetition import repeater
from tritonhttp._repetition.answer import Answer
from tritonhttp._transport.address import Address
from tritonhttp._transport.blocking import BlockingTransport
from tritonhttp._transport.policy import Connections, Timeouts, moment
from tritonhttp._transport.pool import Pool
from tritonhttp._wire.requests import COALESCE, encode_head
from tritonhttp._wire.responses import Response, ResponseHead
from tritonhttp.errors import ConnectionLost, DeadlineExceeded, InferenceServerException

pytestmark = pytest.mark.skipif(not repeater.REPEATS, reason="the extension is not built")

Place: Any = repeater.Place
Repeater: Any = repeater.Repeater
NETWORK = 10.0
MAX_IDLE = 30.0
REQUEST = b"request"
#: What an answer begins with, its head the first four bytes; data of eight bytes follow.
START = b"HEAD{json}"
DATA = b"12345678"
SIZE = len(START) + len(DATA)


class Line(repeater.Track):
    """A connection to a peer of the test's."""

    __slots__ = ("__weakref__", "peer", "room", "sock")

    def __init__(self, sock: socket.socket, peer: socket.socket, attached: bool = True) -> None:
        super().__init__()
        self.sock, self.peer = sock, peer
        for each in (sock, peer):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(NETWORK), 0))
        self.room = bytearray(4096)
        if attached:
            self.attach(sock.fileno(), self.room)
        self.armed = NETWORK

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


class Bench:
    """A repeater with all around it; connections are taken off the pool's end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pool: Pool[Any] = Pool(8)
        self.repeater = Repeater(self.pool, NETWORK, MAX_IDLE)
        self.lines: list[Line] = []
        #: Of the last call.
        self.place: Any = None

    def line(self, **options: Any) -> Line:
        if self.kind == "pair":
            sock, peer = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                sock = socket.create_connection(listener.getsockname())
                peer, _ = listener.accept()
        self.lines.append(line := Line(sock, peer, **options))
        self.pool.idle.append(line)
        return line

    def repeat(self, until: Any = None, request: Any = REQUEST) -> Any:
        self.place = place = Place()
        return self.repeater.repeat(place, request, START, 4, SIZE, until)

    def left(self) -> Any:
        """Return the connection that the last call left in its place, which is in use then, or None."""
        connection = self.place.connection
        assert self.pool.holders == ({self.place} if connection is not None else set())
        assert connection is None or connection not in self.pool.idle
        return connection

    def recover(self) -> None:
        """Put the connection that was left back."""
        self.pool.give_back(self.place, reusable=True)


@pytest.fixture(params=["pair", "tcp"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    yield bench
    for line in bench.lines:
        line.close()


@contextlib.contextmanager
def answering(line: Line, answer: bytes | Callable[[socket.socket], None], times: int = 1) -> Iterator[None]:
    """Read requests in a thread, and answer each."""

    def talk() -> None:
        for _ in range(times):
            assert line.peer.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
            if callable(answer):
                answer(line.peer)
            else:
                line.peer.sendall(answer)

    with ThreadPoolExecutor(1) as executor:
        talking = executor.submit(talk)
        yield
        talking.result(10)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def alarmed(handler: Callable[[], object], seconds: float = 0.05) -> Iterator[None]:
    """Have a signal arrive every so many seconds."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- the answer that is expected --------------------------------------------------------------------


def test_the_body_comes_back_and_the_connection_is_idle_again(bench: Bench) -> None:
    first, line = bench.line(), bench.line()
    for number in range(1, 4):
        began = time.monotonic()
        with answering(line, START + bytes(8)):
            assert bench.repeat() == b"{json}" + bytes(8)
        assert bench.pool.idle == [first, line]
        assert began + MAX_IDLE <= line.expires <= time.monotonic() + MAX_IDLE
        assert (line.requests, line.sent, line.received) == (number, number * len(REQUEST), number * SIZE)
        assert (line.ahead, line.came, line.problem) == (0, -1, 0)
        assert bench.repeater.calls == bench.repeater.ended == number
        assert bench.left() is None
        assert bench.place.served
        assert bench.place.owner == threading.get_ident()
    assert (first.requests, first.sent) == (0, 0)


def test_a_connection_that_will_be_too_old_expires_by_its_age(bench: Bench) -> None:
    line = bench.line()
    line.dies = time.monotonic() + 5
    with answering(line, START + DATA):
        assert bench.repeat() == b"{json}" + DATA
    assert line.expires == line.dies


def test_an_answer_may_be_a_head_alone_and_fill_the_room(bench: Bench) -> None:
    line = bench.line()
    for start, head, size in ((START, len(START), len(START)), (START, 0, len(START)), (b"H", 1, 4096)):
        answer = start.ljust(size, b".")
        with answering(line, answer):
            body = bench.repeater.repeat(Place(), REQUEST, start, head, size, None)
        assert body == answer[head:]
    bench.place = Place()
    with answering(line, b"H".ljust(4097, b".")):
        assert bench.repeater.repeat(bench.place, REQUEST, b"H", 1, 4097, None) is None
    assert bench.left() is line
    assert line.came == 4096


@pytest.mark.parametrize("left", [1.0, NETWORK, 1e5, 1e9, 1e300, math.inf, None])
def test_an_answer_in_time(bench: Bench, left: float | None) -> None:
    line = bench.line()
    until = left if left is None else moment(time.monotonic(), left)
    with answering(line, START + DATA):
        assert bench.repeat(until) == b"{json}" + DATA


def test_an_answer_in_time_where_the_kernel_waits_for_ever(bench: Bench) -> None:
    bench.repeater = Repeater(bench.pool, math.inf, MAX_IDLE)
    line = bench.line()
    line.armed = math.inf
    for left in (5.0, 1e7, math.inf):
        with answering(line, START + DATA):
            assert bench.repeat(time.monotonic() + left) == b"{json}" + DATA


# -- every other course -----------------------------------------------------------------------------

OTHERS: dict[str, tuple[Any, int]] = {
    "shorter": (START + DATA[:-1], SIZE - 1),
    "longer": (START + DATA + b"9", SIZE + 1),
    "other first byte": (b"h" + START[1:] + DATA, SIZE),
    "other last byte of the start": (START[:-1] + b"]" + DATA, SIZE),
    "one byte": (b"H", 1),
    "nothing but the end": (lambda peer: peer.shutdown(socket.SHUT_WR), 0),
    "a part, then the end": (lambda peer: (peer.sendall(START), peer.shutdown(socket.SHUT_WR)), len(START)),
}


@pytest.mark.parametrize("course", OTHERS)
def test_another_answer(bench: Bench, course: str) -> None:
    answer, came = OTHERS[course]
    first, line = bench.line(), bench.line()
    with answering(line, answer):
        assert bench.repeat() is None
    assert bench.left() is line
    assert (line.came, line.problem, line.ahead) == (came, 0, len(REQUEST))
    assert (line.requests, line.sent, line.received) == (0, len(REQUEST), 0)
    assert isinstance(answer, bytes) is (line.room[:came] == (answer if callable(answer) else answer[:came]))
    assert bench.pool.idle == [first]
    assert (bench.repeater.calls, bench.repeater.ended) == (1, 0)


@pytest.mark.parametrize("bench", ["tcp"], indirect=True)
def test_a_reset(bench: Bench) -> None:
    line = bench.line()
    with answering(line, reset):
        assert bench.repeat() is None
    assert bench.left() is line
    assert (line.came, line.problem, line.ahead) == (-1, errno.ECONNRESET, len(REQUEST))


def test_the_kernel_s_time_limit(bench: Bench) -> None:
    line = bench.line()
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
    for until in (None, time.monotonic() + 1e3):
        began = time.monotonic()
        assert bench.repeat(until) is None
        assert 0.03 < time.monotonic() - began < 5
        assert bench.left() is line
        assert (line.came, line.problem, line.ahead) == (-1, errno.EAGAIN, len(REQUEST))
        bench.recover()


@pytest.mark.parametrize("left", [0.001, 0.05])
def test_no_answer_in_time(bench: Bench, left: float) -> None:
    line = bench.line()
    began = time.monotonic()
    assert bench.repeat(began + left) is None
    assert left <= time.monotonic() - began < 5
    assert bench.left() is line
    assert (line.came, line.problem, line.ahead) == (-1, errno.EAGAIN, len(REQUEST))


def test_a_part_of_the_request_goes_out(bench: Bench) -> None:
    line = bench.line()
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    request = os.urandom(1 << 24)
    assert bench.repeat(request=request) is None
    assert bench.left() is line
    assert 0 < line.ahead == line.sent < len(request)
    assert (line.came, line.problem) == (-1, 0)
    assert line.peer.recv(line.ahead, socket.MSG_WAITALL) == request[: line.ahead]


def test_nothing_of_the_request_goes_out(bench: Bench) -> None:
    line = bench.line()
    with contextlib.suppress(BlockingIOError):
        while True:
            line.sock.send(bytes(1 << 16), socket.MSG_DONTWAIT)
    assert bench.repeat(request=bytes(1 << 16)) is None
    assert bench.left() is line
    assert (line.ahead, line.sent, line.came, line.problem) == (0, 0, -1, 0)


# -- connections that are left alone ---------------------------------------------------------------


def untouched(bench: Bench, *lines: Line, until: float | None = None) -> None:
    """A call sends nothing and leaves all as it was."""
    idle = list(bench.pool.idle)
    assert bench.repeat(until) is None
    assert bench.pool.idle == idle
    assert bench.left() is None
    assert not bench.place.served
    assert bench.repeater.calls == 0
    for line in lines:
        assert (line.requests, line.sent, line.ahead) == (0, 0, 0)
        with pytest.raises(BlockingIOError):
            line.peer.recv(1, socket.MSG_DONTWAIT)


def closed(line: Line) -> None:
    line.peer.shutdown(socket.SHUT_WR)


def spoken(line: Line) -> None:
    line.peer.sendall(START + DATA)


def expired(line: Line) -> None:
    line.expires = time.monotonic() - 0.001


def armed_otherwise(line: Line) -> None:
    line.armed = NETWORK / 2


def never_armed(line: Line) -> None:
    line.armed = -1.0


def detached(line: Line) -> None:
    line.detach()


@pytest.mark.parametrize("flaw", [detached, closed, spoken, expired, armed_otherwise, never_armed])
def test_a_connection_that_is_not_fit_is_left_alone(bench: Bench, flaw: Callable[[Line], None]) -> None:
    good, line = bench.line(), bench.line()
    flaw(line)
    time.sleep(0.01)
    untouched(bench, good, line)


@pytest.mark.parametrize("left", [-math.inf, -1.0, 0.0, math.nan])
def test_nothing_is_sent_when_the_time_is_over(bench: Bench, left: float) -> None:
    untouched(bench, bench.line(), until=time.monotonic() + left)


def test_an_unattached_connection_is_left_alone(bench: Bench) -> None:
    untouched(bench, bench.line(attached=False))


def test_what_is_no_track_is_left_alone(bench: Bench) -> None:
    line = bench.line()
    bench.pool.idle.append(SimpleNamespace(expires=math.inf))
    untouched(bench, line)


def test_an_empty_and_a_closed_pool_are_left_alone(bench: Bench) -> None:
    untouched(bench)
    line = bench.line()
    bench.pool.close()
    untouched(bench, line)


def test_other_containers_are_left_alone(bench: Bench) -> None:
    line = bench.line()
    bench.pool.idle = (line,)  # type: ignore[assignment]
    assert bench.repeat() is None


def test_a_pool_with_a_line_is_left_alone(bench: Bench) -> None:
    line = bench.line()
    waiting: Any = Place()
    bench.pool.join(waiting)
    untouched(bench, line)
    bench.pool.leave_line(waiting)
    with answering(line, START + DATA):
        assert bench.repeat() == b"{json}" + DATA


# -- places that have a connection -----------------------------------------------------------------


def test_a_place_s_own_connection_is_used(bench: Bench) -> None:
    line, idle = bench.line(), bench.line()
    place: Any = Place()
    bench.pool.idle.remove(line)
    for in_line in (False, True):
        place.connection = line
        bench.pool.holders.add(place)
        waiting: Any = Place()
        if in_line:  # who has its turn does not wait for others
            waiting.wake = print
            bench.pool.join(waiting)
        with answering(line, START + DATA):
            assert bench.repeater.repeat(place, REQUEST, START, 4, SIZE, None) == b"{json}" + DATA
        assert idle.sent == 0
        if not in_line:
            assert (place.connection, bench.pool.holders) == (None, set())
            assert bench.pool.idle == [idle, line]
            bench.pool.idle.remove(line)
    assert place.connection is line
    assert bench.pool.holders == {place}


@pytest.mark.parametrize("ahead", [0, 2, 8])
def test_a_place_in_the_line_takes_a_connection_where_there_is_room_for_all_before_it(
    bench: Bench, ahead: int
) -> None:
    line, others = bench.line(), [Place() for _ in range(ahead)]
    place: Any = Place()
    for each in (*others, place, Place()):
        bench.pool.join(each)
    waiting = list(bench.pool.line)
    if ahead == bench.pool.limit:
        assert bench.repeater.repeat(place, REQUEST, START, 4, SIZE, None) is None
        assert (list(bench.pool.line), bench.pool.holders, place.connection) == (waiting, set(), None)
        return
    with answering(line, START + DATA):
        assert bench.repeater.repeat(place, REQUEST, START, 4, SIZE, None) == b"{json}" + DATA
    waiting.remove(place)
    assert list(bench.pool.line) == waiting
    # Nobody of these is ready: the connection is idle until somebody is.
    assert (bench.pool.idle, bench.pool.holders, place.connection) == ([line], set(), None)


@pytest.mark.parametrize("flaw", [detached, closed, spoken, expired, armed_otherwise, never_armed])
def test_a_place_s_own_connection_stays_where_it_is_not_fit(
    bench: Bench, flaw: Callable[[Line], None]
) -> None:
    line, idle = bench.line(), bench.line()
    bench.pool.idle.remove(line)
    flaw(line)
    time.sleep(0.01)
    bench.place = Place()
    bench.place.connection = line
    bench.pool.holders.add(bench.place)
    assert bench.repeater.repeat(bench.place, REQUEST, START, 4, SIZE, None) is None
    assert bench.left() is line
    assert bench.pool.idle == [idle]
    assert line.sent == idle.sent == 0


def test_a_place_s_own_connection_that_is_no_track_is_left_alone(bench: Bench) -> None:
    bench.place = Place()
    bench.place.connection = connection = SimpleNamespace(expires=math.inf)
    bench.pool.holders.add(bench.place)
    assert bench.repeater.repeat(bench.place, REQUEST, START, 4, SIZE, None) is None
    assert bench.left() is connection


# -- connections that the transport has to see to --------------------------------------------------


def waiters_in_line(bench: Bench) -> None:
    waiting: Any = Place()
    waiting.wake = print
    bench.pool.join(waiting)


def closed_meanwhile(bench: Bench) -> None:
    bench.pool.close()


def limit_exceeded(bench: Bench) -> None:
    bench.pool.limit = 1


def no_limit(bench: Bench) -> None:
    bench.pool.limit = "8"  # type: ignore[assignment]


def oldest_expired(bench: Bench) -> None:
    bench.lines[0].expires = time.monotonic() - 0.001


def oldest_no_track(bench: Bench) -> None:
    bench.pool.idle.insert(0, 1e300)  # whose memory would pass for a time


def too_old_itself(bench: Bench) -> None:
    bench.pool.idle.clear()
    bench.lines[-1].dies = 0.0


def other_pool(bench: Bench) -> None:
    del bench.pool.ready


def other_holders(bench: Bench) -> None:
    bench.pool.holders = list(bench.pool.holders)  # type: ignore[assignment]


def no_holder(bench: Bench) -> None:
    bench.pool.holders.clear()


CASES = [
    waiters_in_line,
    closed_meanwhile,
    limit_exceeded,
    no_limit,
    oldest_expired,
    oldest_no_track,
    too_old_itself,
    other_pool,
    other_holders,
    no_holder,
]


@pytest.mark.parametrize("case", CASES)
def test_the_body_comes_back_and_the_place_keeps_the_connection(
    bench: Bench, case: Callable[[Bench], None]
) -> None:
    _, line = bench.line(), bench.line()

    def answer(peer: socket.socket) -> None:
        case(bench)
        peer.sendall(START + DATA)

    with answering(line, answer):
        assert bench.repeat() == b"{json}" + DATA
    assert bench.place.connection is line
    assert line not in bench.pool.idle
    assert (bench.place in bench.pool.holders) is (case is not no_holder)
    assert (line.requests, line.received, line.ahead, line.came) == (1, SIZE, 0, -1)
    assert (bench.repeater.calls, bench.repeater.ended) == (1, 0)


def test_the_limit_counts_the_place_itself(bench: Bench) -> None:
    _, line = bench.line(), bench.line()
    bench.pool.limit = 2
    with answering(line, START + DATA):
        assert bench.repeat() == b"{json}" + DATA
    assert bench.left() is None
    assert len(bench.pool.idle) == 2


# -- signals and threads ----------------------------------------------------------------------------


@pytest.mark.parametrize("left", [None, 5.0])
def test_it_goes_on_behind_a_signal_with_its_place_among_those_in_use(
    bench: Bench, left: float | None
) -> None:
    idle, line = bench.line(), bench.line()
    seen: list[tuple[Any, ...]] = []
    go_on = threading.Event()

    def handler() -> None:
        seen.append((set(bench.pool.holders), list(bench.pool.idle), bench.place.connection))
        go_on.set()

    def answer(peer: socket.socket) -> None:
        assert go_on.wait(10)
        peer.sendall(START + DATA)

    with answering(line, answer), alarmed(handler):
        assert bench.repeat(None if left is None else time.monotonic() + left) == b"{json}" + DATA
    assert seen[0] == ({bench.place}, [idle], line)
    assert bench.left() is None
    assert bench.pool.idle == [idle, line]
    assert (bench.repeater.calls, bench.repeater.ended) == (1, 1)


@pytest.mark.parametrize("left", [None, 5.0, 0.3])
def test_another_answer_behind_a_signal(bench: Bench, left: float | None) -> None:
    line = bench.line()
    go_on = threading.Event()

    def answer(peer: socket.socket) -> None:
        assert go_on.wait(10)
        if left != 0.3:
            peer.sendall(START)

    with answering(line, answer), alarmed(go_on.set, 0.02):
        assert bench.repeat(None if left is None else time.monotonic() + left) is None
    assert bench.left() is line
    expected = (-1, errno.EAGAIN) if left == 0.3 else (len(START), 0)
    assert (line.came, line.problem, line.ahead) == (*expected, len(REQUEST))


@pytest.mark.parametrize("left", [None, 5.0])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_handler_that_raises_leaves_the_connection_in_the_place(
    bench: Bench, error: type[BaseException], left: float | None
) -> None:
    line = bench.line()

    def handler() -> None:
        raise error("in the handler")

    began = time.monotonic()
    with pytest.raises(error, match="in the handler"), alarmed(handler):
        bench.repeat(None if left is None else began + left)
    assert time.monotonic() - began < 4.5
    assert bench.left() is line
    assert bench.pool.idle == []
    assert (line.requests, line.sent, line.received) == (1, len(REQUEST), 0)
    assert bench.pool.give_back(bench.place, reusable=False) is line


def test_a_handler_that_raises_behind_the_answer_loses_no_place(bench: Bench) -> None:
    """The signal came to another thread, so that the waiting went on."""
    line = bench.line()

    def answer(peer: socket.socket) -> None:
        signal.raise_signal(signal.SIGALRM)
        peer.sendall(START + DATA)

    with answering(line, answer), alarmed(raising(KeyboardInterrupt), 100), pytest.raises(KeyboardInterrupt):
        bench.repeat()
    assert [bench.left(), *bench.pool.idle].count(line) == 1


def test_a_handler_may_close_the_pool(bench: Bench) -> None:
    idle, line = bench.line(), bench.line()
    closed: list[Any] = []
    go_on = threading.Event()

    def handler() -> None:
        closed.extend(bench.pool.close())
        go_on.set()

    def answer(peer: socket.socket) -> None:
        assert go_on.wait(10)
        peer.sendall(START + DATA)

    with answering(line, answer), alarmed(handler):
        assert bench.repeat() == b"{json}" + DATA
    assert closed == [idle]
    assert bench.left() is line
    assert bench.pool.give_back(bench.place, reusable=True) is line


@pytest.mark.parametrize("answered", [False, True])
def test_a_handler_may_give_the_place_back(bench: Bench, answered: bool) -> None:
    line = bench.line()
    go_on = threading.Event()
    spent: list[Any] = []

    def handler() -> None:
        spent.append(bench.pool.give_back(bench.place, reusable=False))
        go_on.set()

    def answer(peer: socket.socket) -> None:
        assert go_on.wait(10)
        if answered:
            peer.sendall(START + DATA)

    with answering(line, answer), alarmed(handler):
        body = bench.repeat(time.monotonic() + (5 if answered else 0.3))
    assert body == (b"{json}" + DATA if answered else None)
    assert spent[0] is line
    assert bench.left() is None
    assert bench.pool.idle == [], "the handler has it"


def test_a_handler_may_make_another_call(bench: Bench) -> None:
    other, line = bench.line(), bench.line()
    go_on = threading.Event()
    bodies: list[Any] = []

    def handler() -> None:
        if not bodies:
            with answering(other, START + DATA[::-1]):
                bodies.append(bench.repeater.repeat(Place(), REQUEST, START, 4, SIZE, None))
            go_on.set()

    def answer(peer: socket.socket) -> None:
        assert go_on.wait(10)
        peer.sendall(START + DATA)

    with answering(line, answer), alarmed(handler):
        assert bench.repeat() == b"{json}" + DATA
    assert bodies == [b"{json}" + DATA[::-1]]
    assert bench.pool.idle == [other, line]
    assert bench.pool.holders == set()


def test_others_run_while_it_waits(bench: Bench) -> None:
    line = bench.line()
    turns = []

    def answer(peer: socket.socket) -> None:
        for turn in range(1000):
            turns.append(turn)
            time.sleep(0)
        peer.sendall(START + DATA)

    with answering(line, answer):
        assert bench.repeat(time.monotonic() + 5) == b"{json}" + DATA
    assert len(turns) == 1000


def test_many_threads_on_one_pool(bench: Bench) -> None:
    lines = [bench.line() for _ in range(4)]
    calls, threads = 300, 8

    def serve(line: Line) -> None:
        while (request := line.peer.recv(8, socket.MSG_WAITALL)) != bytes(8):
            line.peer.sendall(START + request)

    def call(number: int) -> int:
        done = 0
        for turn in range(calls):
            request = struct.pack("<II", number + 1, turn)
            until = None if turn % 2 else time.monotonic() + 60
            body = bench.repeater.repeat(Place(), request, START, 4, SIZE, until)
            if body is None:
                time.sleep(0)
                continue
            assert body == b"{json}" + request
            done += 1
        return done

    with ThreadPoolExecutor(len(lines)) as servers, ThreadPoolExecutor(threads) as callers:
        serving = [servers.submit(serve, line) for line in lines]
        try:
            done = sum(callers.map(call, range(threads)))
        finally:
            for line in lines:
                line.sock.sendall(bytes(8))
        for each in serving:
            each.result(10)
    assert set(bench.pool.idle) == set(lines)
    assert len(bench.pool.idle) == len(lines)
    assert bench.pool.holders == set()
    assert bench.repeater.calls == bench.repeater.ended == done == sum(line.requests for line in lines)
    assert done > 0


# -- what it holds, and what it refuses ------------------------------------------------------------


COURSES = ["expected", "other", "late", "left alone", "kept", "own", "interrupted", "handled", "refused"]


@pytest.mark.parametrize("bench", ["pair"], indirect=True)
@pytest.mark.parametrize("course", COURSES)
def test_a_repetition_holds_nothing_afterwards(bench: Bench, course: str) -> None:
    oldest, line = bench.line(), bench.line()
    request, start = bytes(bytearray(REQUEST)), bytes(bytearray(START))
    until = time.monotonic() + 1e6
    pool, place = bench.pool, Place()
    if course == "left alone":
        pool.idle.append(SimpleNamespace())
    objects: list[Any] = [request, start, until, place, line, oldest, line.room]
    objects += [pool, pool.idle, pool.holders, pool.line, bench.repeater, Line, Place, Repeater]

    def call() -> None:
        if course == "kept":
            oldest.expires = 0.0
        if course == "own" and place not in pool.holders:
            assert pool.take(place)
        times = 0 if course in ("late", "left alone", "refused") else 1
        answer = START + (DATA[:-1] if course == "other" else DATA)
        head, end = 99 if course == "refused" else 4, 0.0 if course == "late" else until
        with answering(line, answer, times), contextlib.suppress(ValueError):
            bench.repeater.repeat(place, request, start, head, SIZE, end)
        assert (place.connection is line) is (course in ("other", "kept"))
        assert pool.give_back(place, reusable=True) is None
        if times == 0:
            with contextlib.suppress(BlockingIOError):
                line.peer.recv(4096, socket.MSG_DONTWAIT)

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt), alarmed(raising(KeyboardInterrupt), 0.01):
            bench.repeater.repeat(place, request, start, 4, SIZE, None)
        assert pool.give_back(place, reusable=True) is None
        line.peer.recv(4096)

    def handled() -> None:
        with alarmed(lambda: None, 0.01):
            bench.repeater.repeat(place, request, start, 4, SIZE, time.monotonic() + 0.05)
        assert pool.give_back(place, reusable=True) is None
        line.peer.recv(4096)

    run = {"interrupted": interrupted, "handled": handled}.get(course, call)
    run()
    gc.collect()
    counts = [sys.getrefcount(each) for each in objects]
    for _ in range(50 if run is call else 10):
        run()
    gc.collect()
    assert [sys.getrefcount(each) for each in objects] == counts


def raising(error: type[BaseException]) -> Callable[..., None]:
    def act(*arguments: object) -> None:
        raise error

    return act


def test_a_connection_lets_go_of_its_room(bench: Bench) -> None:
    line = bench.line()
    with answering(line, START + DATA):
        bench.repeat()
    room, gone = line.room, weakref.ref(line)
    bench.place = None
    with pytest.raises(BufferError):
        room.append(1)
    line.close()
    bench.lines.remove(line)
    bench.pool.idle.clear()
    del line
    assert gone() is None
    room.append(1)


def test_a_connection_in_a_cycle_is_collected(bench: Bench) -> None:
    class Looping(Line):
        itself: Any

    for _ in range(100):
        sock, peer = socket.socketpair()
        line = Looping(sock, peer)
        line.itself = line, Repeater(SimpleNamespace(idle=[line]), NETWORK, MAX_IDLE)
        room, gone = line.room, weakref.ref(line)
        line.close()
        del line
        gc.collect()
        assert gone() is None
        room.append(1)


def test_connections_come_and_go(bench: Bench) -> None:
    kinds = sys.getrefcount(Line), sys.getrefcount(repeater.Track), sys.getrefcount(Repeater)
    for _ in range(100):
        line = Line(*socket.socketpair())
        line.close()
        repeater.Track()
        Repeater(bench.pool, 1.0, 1.0)
    del line
    assert kinds == (sys.getrefcount(Line), sys.getrefcount(repeater.Track), sys.getrefcount(Repeater))


def test_what_is_not_whole_does_no_harm(bench: Bench) -> None:
    bench.pool.idle.append(repeater.Track.__new__(repeater.Track))
    untouched(bench)
    bench.pool.idle.append(repeater.Track())
    untouched(bench)
    for arguments in ((), (bench.pool,), (bench.pool, "1", 1.0), (bench.pool, 1.0, None)):
        for make in (Repeater, lambda *given: Repeater.__new__(Repeater, *given)):
            with pytest.raises(TypeError):
                make(*arguments)
    with pytest.raises(TypeError):
        Repeater(pool=bench.pool, network=1.0, max_idle=1.0)
    place: Any = Place()
    with pytest.raises(AttributeError):
        Repeater(None, NETWORK, 1.0).repeat(place, REQUEST, START, 4, SIZE, None)
    for missing in ("idle", "holders", "line", "frozen"):
        pool = {"idle": [], "holders": set(), "line": (), "frozen": False}
        del pool[missing]
        with pytest.raises(AttributeError, match=missing):
            Repeater(SimpleNamespace(**pool), NETWORK, 1.0).repeat(place, REQUEST, START, 4, SIZE, None)
    assert place.connection is None


def test_wrong_calls_are_refused(bench: Bench) -> None:
    line = bench.line()
    good: tuple[Any, ...] = (Place(), REQUEST, START, 4, SIZE, None)
    wrong: list[tuple[int, Any, Any]] = [
        *(
            (place, value, TypeError)
            for place in (1, 2)
            for value in (bytearray(REQUEST), "text", None, memoryview(b"a"))
        ),
        *((place, value, TypeError) for place in (3, 4) for value in (1.0, "1", None)),
        *((place, 2**80, OverflowError) for place in (3, 4)),
        *((place, value, ValueError) for place, value in ((3, -1), (3, 11), (4, -1), (4, 9), (3, -(2**63)))),
        (5, "soon", TypeError),
        (5, b"", TypeError),
        *((0, value, TypeError) for value in (None, Place, bench.pool, SimpleNamespace(connection=None))),
    ]
    for place, value, error in wrong:
        with pytest.raises(error):
            bench.repeater.repeat(*good[:place], value, *good[place + 1 :])
    with pytest.raises(ValueError, match="sizes of one answer"):
        bench.repeater.repeat(Place(), REQUEST, b"", 1, 0, None)
    for arguments in ((), good[:-1], (*good, None)):
        with pytest.raises(TypeError, match="takes a place"):
            bench.repeater.repeat(*arguments)
    with pytest.raises(TypeError):
        bench.repeater.repeat(*good[:-1], until=None)
    with pytest.raises((AttributeError, TypeError)):
        bench.repeater.calls = 1
    assert (bench.pool.idle, bench.repeater.calls, line.sent) == ([line], 0, 0)


def test_wrong_attachments_are_refused() -> None:
    track: Any = repeater.Track()
    for arguments in ((), (1,), ("1", bytearray(1)), (1, b"read-only"), (1, None), (1, bytearray(1), 1)):
        with pytest.raises(TypeError):
            track.attach(*arguments)
    with pytest.raises((TypeError, BufferError)):
        track.attach(1, memoryview(bytearray(8))[::2])
    room = bytearray(1)
    track.attach(1, room)
    with pytest.raises(ValueError, match="once"):
        track.attach(1, room)
    with pytest.raises(TypeError, match="no arguments"):
        repeater.Track(1)
    with pytest.raises(TypeError, match="no arguments"):
        repeater.Track(fd=1)


# -- receiving ---------------------------------------------------------------------------------------


@pytest.fixture(params=["pair", "tcp"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    bench = Bench(request.param)
    yield bench.line()
    bench.lines[0].close()


def test_what_comes_is_received(line: Line) -> None:
    buffer = bytearray(16)
    line.peer.sendall(b"abcdef")
    assert line.receive(memoryview(buffer)[:4], math.inf) == 4
    assert line.receive(memoryview(buffer)[4:], time.monotonic() + 5) == 2
    assert buffer == b"abcdef".ljust(16, b"\0")
    line.peer.shutdown(socket.SHUT_WR)
    assert line.receive(buffer, math.inf) == 0


@pytest.mark.parametrize("armed", [0.0, -1.0, 0.15, 5.0, math.inf])
@pytest.mark.parametrize("signals", [False, True])
@pytest.mark.parametrize("left", [0.15, 0.1505])
def test_it_stops_waiting_in_time(line: Line, armed: float, signals: bool, left: float) -> None:
    """Whether the kernel's limit ends it or a poll, and whatever signals are handled meanwhile."""
    if 0 < armed < math.inf:
        seconds, fraction = divmod(armed, 1.0)
        line.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(fraction * 1e6))
        )
    line.armed = armed
    for _ in range(8):  # a busy machine may delay one
        seen: list[int] = []
        quiet: Any = alarmed(partial(seen.append, 1), 0.02) if signals else contextlib.nullcontext()
        with quiet:
            began, used = time.monotonic(), time.process_time()
            with pytest.raises(TimeoutError):
                line.receive(bytearray(8), began + left)
            took = time.monotonic() - began
        assert left - 0.002 <= took
        assert time.process_time() - used < 0.1, "it does not spin"
        if took < left + 0.1:
            break
    else:
        pytest.fail(f"{took:g} s in place of {left:g} s, each time")
    assert bool(seen) is signals


@pytest.mark.parametrize("armed", [0.1, math.inf])
def test_what_comes_between_signals_is_received(line: Line, armed: float) -> None:
    line.armed = armed
    seen: list[int] = []

    def handler() -> None:
        seen.append(1)
        if len(seen) == 4:
            line.peer.sendall(b"late")

    buffer = bytearray(8)
    with alarmed(handler, 0.02):
        assert line.receive(buffer, time.monotonic() + 5) == 4
    assert buffer[:4] == b"late"


@pytest.mark.parametrize("armed", [NETWORK, 5.0])
def test_a_handler_s_error_ends_the_waiting(line: Line, armed: float) -> None:
    line.armed = armed
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), alarmed(raising(ZeroDivisionError)):
        line.receive(bytearray(8), began + NETWORK)
    assert time.monotonic() - began < 4.5


@pytest.mark.parametrize("left", [0.0, -1.0, -math.inf])
def test_where_the_time_is_over_what_has_come_is_received(line: Line, left: float) -> None:
    with pytest.raises(TimeoutError):
        line.receive(bytearray(8), time.monotonic() + left)
    line.peer.sendall(b"here")
    assert line.receive(bytearray(8), time.monotonic() + left) == 4


@pytest.mark.parametrize("line", ["tcp"], indirect=True)
@pytest.mark.parametrize("armed", [NETWORK, -1.0])
def test_a_reset_is_its_error(line: Line, armed: float) -> None:
    line.armed = armed
    line.sock.sendall(b"unread")
    reset(line.peer)
    with pytest.raises(ConnectionResetError) as caught:
        line.receive(bytearray(8), time.monotonic() + NETWORK)
    assert caught.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("until", [0.0, math.inf])
@pytest.mark.parametrize("armed", [-1.0, NETWORK, math.inf])
def test_a_detached_connection_receives_nothing(line: Line, armed: float, until: float) -> None:
    line.peer.sendall(b"abc")
    for _ in range(2):
        line.detach()
        line.armed = armed
        with pytest.raises(OSError, match="descriptor") as caught:
            line.receive(bytearray(8), until)
        assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="descriptor"):
        repeater.Track().receive(bytearray(8), until)
    assert line.sock.recv(8) == b"abc"


def test_a_handler_may_detach_the_connection_that_waits(line: Line) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match="descriptor"), alarmed(line.detach):
        line.receive(bytearray(8), began + 5)
    assert time.monotonic() - began < 4.5


def test_wrong_receptions_are_refused(line: Line) -> None:
    receive: Any = line.receive
    line.peer.sendall(b"abc")
    for arguments in ((), (bytearray(8),), (bytearray(8), 1.0, 1)):
        with pytest.raises(TypeError, match="a buffer and a time"):
            receive(*arguments)
    for buffer in (b"read-only", memoryview(b"read-only"), memoryview(bytearray(8))[::2]):
        with pytest.raises((BufferError, TypeError)):
            receive(buffer, math.inf)
    for buffer, until in ((None, 1.0), ("text", 1.0), (bytearray(8), None), (bytearray(8), "soon")):
        with pytest.raises(TypeError):
            receive(buffer, until)
    with pytest.raises(TypeError):
        receive(buffer=bytearray(8), until=1.0)
    assert line.sock.recv(8) == b"abc"


def test_receiving_holds_nothing_afterwards(line: Line) -> None:
    buffer, until = bytearray(8), time.monotonic() + 0.01

    def run() -> None:
        line.peer.sendall(b"abc")
        assert line.receive(buffer, until) == 3
        with pytest.raises(TimeoutError):
            line.receive(buffer, until)
        with pytest.raises(TypeError):
            line.receive(buffer, "soon")  # type: ignore[arg-type]

    run()
    gc.collect()
    objects: list[Any] = [buffer, until, line, Line, TimeoutError]
    counts = [sys.getrefcount(each) for each in objects]
    for _ in range(50):
        run()
    gc.collect()
    assert [sys.getrefcount(each) for each in objects] == counts
    buffer.append(1)


# -- places ------------------------------------------------------------------------------------------


def without_the_extension() -> Any:
    """Return the module as it is where the extension is not used."""
    spec = importlib.util.spec_from_file_location("tritonhttp._repetition.repeater", repeater.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_implementation, "_wanted", "python")
        patch.setattr(_implementation, "in_python", {})
        spec.loader.exec_module(module)
    assert not module.REPEATS
    return module


PYTHON = without_the_extension()


@pytest.mark.parametrize("kind", [repeater.Place, PYTHON.Place])
def test_a_place_begins_empty_and_takes_what_it_is_given(kind: Any) -> None:
    place = kind()
    names = ("connection", "transport", "wake", "sent", "owner", "served")
    assert [getattr(place, name) for name in names] == [None, None, None, None, 0, False]
    assert place.served is False
    values = [object(), object(), print, print, 2**64 - 1, True]
    for name, value in zip(names, values, strict=True):
        setattr(place, name, value)
    assert [getattr(place, name) for name in names] == values
    assert place.served is True
    place.connection = None
    assert place.connection is None
    with pytest.raises(AttributeError):
        place.other = 1
    assert len({place, kind(), kind()}) == 3
    assert place != kind()
    assert weakref.ref(place)() is place
    for arguments, options in (((1,), {}), ((), {"connection": 1})):
        with pytest.raises(TypeError):
            kind(*arguments, **options)


@pytest.mark.parametrize("kind", [repeater.Place, PYTHON.Place])
def test_a_place_in_a_cycle_is_collected(kind: Any) -> None:
    class Held:
        pass

    for name in ("connection", "transport", "wake", "sent"):
        place, held = kind(), Held()
        held.place = place  # type: ignore[attr-defined]
        setattr(place, name, held)
        gone = weakref.ref(place), weakref.ref(held)
        del place, held
        gc.collect()
        assert [each() for each in gone] == [None, None]


def test_places_come_and_go() -> None:
    held: Any = Line(*socket.socketpair())
    counts = sys.getrefcount(Place), sys.getrefcount(held)
    for _ in range(100):
        place = Place()
        for _ in range(2):
            place.connection = place.transport = place.wake = place.sent = held
        Place.__new__(Place).connection = held
    del place
    assert counts == (sys.getrefcount(Place), sys.getrefcount(held))
    held.close()


def test_both_kinds_of_track_begin_alike() -> None:
    tracks: list[Any] = [repeater.Track(), PYTHON.Track()]
    names = ("dies", "expires", "armed", "requests", "sent", "received", "ahead", "came", "problem")
    first, second = ([getattr(track, name) for name in names] for track in tracks)
    assert first == second
    for track in tracks:
        track.attach(-1, bytearray(1))
        track.detach()
    with pytest.raises(NotImplementedError):
        PYTHON.Track().receive(bytearray(1), 0.0)


def test_without_the_extension_nothing_is_sent() -> None:
    pool: Pool[Any] = Pool(1)
    place = PYTHON.Place()
    assert PYTHON.Repeater(pool, NETWORK, MAX_IDLE).repeat(place, REQUEST, START, 4, SIZE, None) is None
    assert PYTHON.Repeater(pool, NETWORK, MAX_IDLE).calls == 0
    assert (place.connection, pool.holders) == (None, set())


# -- under a transport ------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 6\r\nContent-Length: 14\r\n\r\n"
ANSWER = HEAD + b"{json}"
BODY = b"{json}" + DATA


class Off:
    """In the extension's place: nothing is ever sent."""

    calls = ended = 0

    def repeat(self, *arguments: object) -> None:
        return None


@pytest.fixture
def connect() -> Iterator[Callable[..., BlockingTransport]]:
    with contextlib.ExitStack() as stack:

        def connect(
            port: int,
            *,
            limit: int = 1,
            network: float | None = NETWORK,
            extension: bool = True,
            **options: Any,
        ) -> BlockingTransport:
            transport = BlockingTransport(
                Address("127.0.0.1", port, False, ""),
                limit,
                Timeouts(connection=10.0, network=network),
                None,
                Connections(**options),
            )
            if not extension:
                transport.repeater = Off()  # type: ignore[assignment]
            stack.callback(transport.close)
            return transport

        yield connect


def ask(transport: BlockingTransport, data: bytes = b"data", deadline: float | None = None) -> Response:
    request = encode_head("POST", "/v2", "Host: h\r\n", len(data)) + data
    size = len(HEAD) + len(BODY)
    expected = Answer(ANSWER, ResponseHead(200, {}, "OK", raw=HEAD), size, -1)
    return transport.exchange("POST", "/v2", [request], deadline=deadline, answer=expected)


def outcome(transport: BlockingTransport, *arguments: Any) -> Any:
    """Return what became of a call, alike with and without the extension."""
    try:
        answer = ask(transport, *arguments)
    except InferenceServerException as error:
        return type(error), getattr(error, "phase", None)
    return answer.status_code, bytes(answer.body)


def books(transport: BlockingTransport) -> tuple[int, ...]:
    counts = transport.counts
    pool = transport.pool
    assert pool.holders == set()
    assert not pool.line
    assert set(pool.idle) == set(transport._connections)
    assert counts.opened - counts.closed == len(transport._connections)
    return (
        counts.calls,
        counts.resent,
        counts.opened,
        counts.reused,
        counts.closed,
        counts.sent,
        counts.received,
    )


def good(peer: Any) -> None:
    peer.send(ANSWER + DATA)


def in_pieces(peer: Any) -> None:
    for piece in (HEAD[:9], HEAD[9:] + b"{js", b"on}", DATA):
        peer.send(piece)
        time.sleep(0.01)


def other_data(peer: Any) -> None:
    peer.send(ANSWER + b"87654321")


def other_json(peer: Any) -> None:
    peer.send(HEAD + b"[json]" + DATA)


def other_header(peer: Any) -> None:
    peer.reply(BODY, headers="Inference-Header-Content-Length: 6\r\nX-Other: 1")


def more(peer: Any) -> None:
    peer.send(ANSWER + DATA + b"HTTP/1.1 ")


def interim(peer: Any) -> None:
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER + DATA)


def failing(peer: Any) -> None:
    peer.reply(b"{}", status="500 Oops")


def chunked(peer: Any) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


def large(peer: Any) -> None:
    peer.reply(bytes(1 << 20))


def to_the_end(peer: Any) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
    peer.sock.close()


def good_and_closed(peer: Any) -> None:
    good(peer)
    peer.sock.close()


def good_and_more_later(peer: Any) -> None:
    good(peer)
    time.sleep(0.02)
    peer.send(b"unasked")


def closing(peer: Any) -> None:
    peer.sock.close()


def closing_in_the_head(peer: Any) -> None:
    peer.send(HEAD[:20])
    peer.sock.close()


def closing_in_the_body(peer: Any) -> None:
    peer.send(ANSWER)
    peer.sock.close()


def resetting(peer: Any) -> None:
    reset(peer.sock)


def no_http(peer: Any) -> None:
    peer.send(b"SMTP ".ljust(len(HEAD) + len(BODY), b"."))


def silent(peer: Any) -> None:
    peer.receive()


def trickling(peer: Any) -> None:
    for octet in ANSWER[:-1]:
        peer.send(bytes([octet]))
        time.sleep(0.002)
    time.sleep(0.02)
    peer.send(b"}" + DATA)


COURSES_OF_PEERS = [
    *(
        good,
        in_pieces,
        other_data,
        other_json,
        other_header,
        more,
        interim,
        failing,
        chunked,
        large,
        to_the_end,
    ),
    *(
        good_and_closed,
        good_and_more_later,
        closing,
        closing_in_the_head,
        closing_in_the_body,
        resetting,
        no_http,
    ),
    *(silent, trickling),
]


@pytest.mark.parametrize(
    ("course", "left"),
    [*((course, left) for course in COURSES_OF_PEERS for left in (None, 20.0)), (silent, 0.3)],
)
def test_the_extension_does_not_show(
    serve: Any, connect: Any, course: Callable[[Any], None], left: float | None
) -> None:
    """Calls of all kinds have one outcome, and the books are the same afterwards."""
    network = 0.3 if course is silent and left != 0.3 else NETWORK

    def handler(peer: Any) -> None:
        for does in (good, good, course, good):
            if peer.receive() is None:
                return
            does(peer)
            if peer.sock.fileno() < 0:
                return
        peer.receive()

    seen = []
    for extension in (True, False):
        server = serve(handler)
        transport = connect(server.port, extension=extension, network=network)
        outcomes = []
        for number in range(5):
            outcomes.append(
                outcome(transport, b"data", moment(time.monotonic(), left) if left and number > 1 else None)
            )
            if number == 2:
                time.sleep(0.1)  # let what the peer did last arrive
        seen.append((outcomes, books(transport)))
        if extension:
            assert transport.repeater.calls >= (3 if course is good else 2)
    assert seen[0] == seen[1]
    assert seen[0][0][:2] == [(200, BODY)] * 2


def test_a_large_request_that_waits_for_room(serve: Any, connect: Any) -> None:
    data = os.urandom(1 << 24)

    def handler(peer: Any) -> None:
        for _ in range(3):
            _, body = peer.receive()
            peer.send(ANSWER + struct.pack("<Q", sum(body[::4096])))

    server = serve(handler)
    transport = connect(server.port)
    expected = b"{json}" + struct.pack("<Q", sum(data[::4096]))
    ask(transport)
    for _ in range(2):
        assert outcome(transport, data) == (200, expected)
    assert transport.repeater.calls == 2
    assert books(transport)[:2] == (3, 0)


def test_a_server_that_stops_reading(serve: Any, connect: Any) -> None:
    done = threading.Event()

    def handler(peer: Any) -> None:
        peer.receive()
        good(peer)
        done.wait(10)

    seen = []
    for extension in (True, False):
        done.clear()
        transport = connect(serve(handler).port, extension=extension, network=0.3)
        assert outcome(transport) == (200, BODY)
        seen.append(outcome(transport, bytes(1 << 24)))
        done.set()
        assert books(transport)[2:5] == (1, 1, 1)
    assert seen == [(DeadlineExceeded, "send")] * 2


@pytest.mark.parametrize("left", [None, 8.0])
def test_an_interrupt_frees_the_place(serve: Any, connect: Any, left: float | None) -> None:
    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            if peer.number > 1 or len(peer.server.requests) < 3:
                good(peer)

    transport = connect(serve(handler).port)
    for _ in range(2):
        assert outcome(transport) == (200, BODY)
    with pytest.raises(KeyboardInterrupt), alarmed(raising(KeyboardInterrupt)):
        ask(transport, b"data", moment(time.monotonic(), left))
    assert books(transport)[2:5] == (1, 2, 1)
    assert outcome(transport, b"data", time.monotonic() + 5) == (200, BODY)
    assert books(transport)[2:5] == (2, 2, 1)


def test_a_call_goes_on_behind_signals(serve: Any, connect: Any) -> None:
    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            if len(peer.server.requests) > 1:
                time.sleep(0.3)
            good(peer)

    transport = connect(serve(handler).port)
    outcome(transport)
    seen: list[int] = []
    with alarmed(lambda: seen.append(1), 0.02):
        assert outcome(transport) == (200, BODY)
        assert len(seen) > 3
        assert outcome(transport, b"data", time.monotonic() + 5) == (200, BODY)
    assert books(transport)[:5] == (3, 0, 1, 2, 0)


def test_idle_connections_expire_one_after_the_other(serve: Any, connect: Any) -> None:
    barrier = threading.Barrier(3)

    def handler(peer: Any) -> None:
        while (request := peer.receive()) is not None:
            if request[1] == b"meet":
                barrier.wait(10)
            good(peer)

    transport = connect(serve(handler).port, limit=3, max_idle=0.5)
    with ThreadPoolExecutor(3) as executor:
        list(executor.map(lambda _: ask(transport, b"meet"), range(3)))
    assert len(transport.pool.idle) == 3
    end = time.monotonic() + 5
    while len(transport._connections) > 1 and time.monotonic() < end:
        ask(transport)
        time.sleep(0.01)
    assert books(transport)[2:5:2] == (3, 2)


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_many_threads_on_one_transport(serve: Any, connect: Any, limit: int) -> None:
    def handler(peer: Any) -> None:
        while (request := peer.receive()) is not None:
            number = struct.unpack("<Q", request[1][:8])[0]
            if number % 50 == 7:
                in_pieces_of(peer, ANSWER + request[1][:8])
            elif number % 50 == 8:
                peer.reply(request[1][:8], status="500 Oops")
            else:
                peer.send(ANSWER + request[1][:8])
            if number % 50 == 9:
                return

    def in_pieces_of(peer: Any, answer: bytes) -> None:
        peer.send(answer[:30])
        time.sleep(0.001)
        peer.send(answer[30:])

    transport = connect(serve(handler).port, limit=limit)
    threads, calls = 8, 150

    def call(number: int) -> int:
        lost = 0
        for turn in range(calls):
            data = struct.pack("<Q", turn * threads + number)
            deadline = time.monotonic() + 60 if number < 2 else None
            if turn % 5 == 0:
                request = encode_head("POST", "/v2", "", 8) + data
                status, body = 200, bytes(transport.exchange("POST", "/v2", [request], repeatable=True).body)
                assert body in (b"{json}" + data, data)
                continue
            came = outcome(transport, data, deadline)
            if came[0] is ConnectionLost:
                lost += 1  # the peer closed when the request was on its way
                continue
            status, body = came
            assert body == (data if status == 500 else b"{json}" + data)
        return lost

    with ThreadPoolExecutor(threads) as executor:
        lost = sum(executor.map(call, range(threads)))
    assert lost < threads * calls / 10
    assert books(transport)[0] == threads * calls
    assert limit < threads or transport.repeater.calls > 0  # who waits in line is handed a connection
    transport.close()
    assert not [*transport.pool.holders, *transport.pool.idle]


def test_a_client_is_closed_under_many_threads(serve: Any, connect: Any) -> None:
    def handler(peer: Any) -> None:
        while (request := peer.receive()) is not None:
            peer.send(ANSWER + request[1])

    server = serve(handler)
    for turn in range(10):
        transport = connect(server.port, limit=3)

        def call(number: int, transport: BlockingTransport = transport) -> int:
            for done in range(100_000):
                data = struct.pack("<Q", number * 100_000 + done)
                came = outcome(transport, data)
                if came[0] is InferenceServerException:  # the client is closed
                    return done
                assert came == (200, b"{json}" + data)
            raise AssertionError("the client was not closed")

        with ThreadPoolExecutor(6) as executor:
            calling = [executor.submit(call, number) for number in range(6)]
            time.sleep(0.02 + 0.001 * turn)
            transport.close()
            done = sum(each.result(10) for each in calling)
        assert not [*transport.pool.holders, *transport.pool.idle, *transport.pool.line]
        assert books(transport)[0] >= done
        assert not transport._connections


# -- under a client ---------------------------------------------------------------------------------


def doubling(peer: Any) -> None:
    """Answer with the bytes that came in, up to eight, and a JSON that says so."""
    while (request := peer.receive()) is not None:
        head, body = request
        size = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Inference-Header")
        )
        data = body[size:][:8]
        json = (
            b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"UINT8","shape":[%d],'
            % len(data)
        )
        json += b'"parameters":{"binary_data_size":%d}}]}' % len(data)
        peer.reply(json + data, headers=f"Inference-Header-Content-Length: {len(json)}")


def test_a_client_s_results(serve: Any) -> None:
    with InferenceServerClient(serve(doubling).url) as client:
        held = []
        for number in range(20):
            array = np.full(8, number, np.uint8)
            result = client.infer("m", [InferInput.from_numpy("x", array)])
            held.append((array, result))
        for array, result in held:
            assert result.as_numpy("y").tolist() == array.tolist()
            assert result.get_response()["outputs"][0]["shape"] == [8]
        assert client._transport.repeater.calls == 19
        assert client.stats().requests == 20


@pytest.mark.parametrize("over", [*range(-2, 3), 50, 200, 300])
def test_a_client_s_requests_around_the_size_of_one_piece(serve: Any, over: int) -> None:
    with InferenceServerClient(serve(doubling).url) as client:
        array = np.arange(COALESCE + over, dtype=np.uint8)
        for number in range(4):
            array[:8] = number
            result = client.infer("m", [InferInput.from_numpy("x", array)])
            assert result.as_numpy("y").tolist() == [number] * 8
