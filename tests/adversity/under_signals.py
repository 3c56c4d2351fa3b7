"""A program that makes calls which must end by a time limit, while signals with handlers come.

``python -m tests.adversity.under_signals PLACE MODE WHEN [CASE ...]`` runs cases and writes a line of JSON for
each; `test_signals.py` judges them. A PLACE is where calls are made and signals arrive: the main thread, other
threads, or an event loop. WHEN the handler was installed: before the clients and their connections were made, or
after.
"""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tritonhttp
import tritonhttp.aio
from tritonhttp import InferenceServerException, Retry

from ..clients import tensor
from .faults import identity, trusting
from .servers import HEALTHY, Peer, Server, answer, healthy
from .test_repeating import GOOD

__all__ = ["CASES", "LIMIT", "MODES"]

#: The limit of every call, in seconds; when the only signal comes; and when a server ends what the client did not.
LIMIT, MIDWAY, PATIENCE = 0.6, 0.35, 2.5
#: The second is more than what the two ends of a connection hold.
SMALL, LARGE = np.zeros(3, np.float32), np.zeros(2_000_000, np.float32)

#: Which signal comes, and every how many seconds; None: once, after `MIDWAY`.
MODES = {
    "one SIGCHLD": (signal.SIGCHLD, None),
    "SIGUSR1 every 0.3 s": (signal.SIGUSR1, 0.3),
    "SIGALRM every 0.3 s": (signal.SIGALRM, 0.3),
    "SIGUSR1 every 0.02 s": (signal.SIGUSR1, 0.02),
    "SIGALRM every 0.02 s": (signal.SIGALRM, 0.02),
    "a handler that raises": (signal.SIGUSR1, None),
}


class Raised(BaseException):
    """What a handler raises."""


def gone(peer: Peer, release: threading.Event) -> bool:
    """Wait for the client to go, or for the release; without reading."""
    poller = select.poll()
    poller.register(peer.sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    end = time.monotonic() + PATIENCE
    while not poller.poll(20) and time.monotonic() < end:
        if release.is_set():
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call, and what keeps it from ending."""

    #: "infer", "large", "stream", "ready", "metadata", "async_infer".
    call: str = "infer"
    options: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    #: What the server does with the request: "silent", "half", "trickles", "begun", "unread", "busy".
    server: str = "silent"
    #: How many good answers go before, over the same connection.
    warm: int = 0
    tls: bool = False
    #: Another call has the only connection.
    busy: bool = False
    connects: bool | None = True
    host: str = "127.0.0.1"
    #: The server is a proxy before another one.
    proxy: bool = False
    #: How early and how late it may end, in seconds.
    early: float = 0.05
    late: float = 0.3


DEADLINE = {"deadline": LIMIT}
NETWORK = {"client": {"network_timeout": LIMIT}}
CONNECTION = {"client": {"connection_timeout": LIMIT}}
BUSY = answer({"error": "not now"}, "503 Service Unavailable")
EVENT = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n"

CASES = {
    "head, deadline": Case(options=DEADLINE),
    "head, network": Case(**NETWORK),
    "head on a used connection, deadline": Case(options=DEADLINE, warm=1),
    "head on a used connection, network": Case(**NETWORK, warm=1),
    "body, deadline": Case(options=DEADLINE, server="half"),
    "body, network": Case(**NETWORK, server="half"),
    "trickling body, deadline": Case(options=DEADLINE, server="trickles"),
    "repeated head, deadline": Case(options=DEADLINE, warm=3),
    "repeated head, network": Case(**NETWORK, warm=3),
    "repeated body, deadline": Case(options=DEADLINE, warm=3, server="half"),
    "repeated body, network": Case(**NETWORK, warm=3, server="half"),
    # The kernel may have room for a little more at a time, behind each signal: that is progress.
    "send, deadline": Case(call="large", options=DEADLINE, server="unread"),
    "send, network": Case(call="large", **NETWORK, server="unread", late=1.6),
    "line, deadline": Case(options=DEADLINE, busy=True),
    "connect, deadline": Case(options=DEADLINE, connects=None),
    "connect, connection": Case(**CONNECTION, connects=None),
    "name, deadline": Case(options=DEADLINE, host="stalls.test"),
    "name, connection": Case(**CONNECTION, host="stalls.test"),
    "tunnel, deadline": Case(options=DEADLINE, tls=True, proxy=True),
    "handshake, deadline": Case(options=DEADLINE, tls=True),
    "handshake, connection": Case(**CONNECTION, tls=True),
    "head under TLS, deadline": Case(options=DEADLINE, tls=True, warm=1),
    "head under TLS, network": Case(**NETWORK, tls=True, warm=1),
    "send under TLS, deadline": Case(call="large", options=DEADLINE, tls=True, warm=1, server="unread"),
    "send under TLS, network": Case(call="large", **NETWORK, tls=True, warm=1, server="unread", late=0.6),
    "stream's head, idle": Case(call="stream", options={"idle_timeout": LIMIT}),
    "stream's head, deadline": Case(call="stream", options=DEADLINE),
    "stream, idle": Case(call="stream", options={"idle_timeout": LIMIT}, server="begun"),
    "stream, deadline": Case(call="stream", options=DEADLINE, server="begun"),
    # A pause that would not be over in time is not waited for.
    "retries, deadline": Case(
        call="metadata",
        options=DEADLINE,
        client={"retry": Retry(attempts=99, backoff=0.15, jitter=0, max_backoff=0.15)},
        server="busy",
        early=0.4,
    ),
    "readiness, timeout": Case(call="ready", options={"timeout": LIMIT}, server="busy", early=0.4),
    "async_infer, deadline": Case(call="async_infer", options=DEADLINE),
    "async_infer, network": Case(call="async_infer", **NETWORK),
    "get_result, timeout": Case(call="get_result", options={"timeout": LIMIT}),
}

#: What the asyncio client has; its conn_timeout is a limit for the whole call.
OF_ASYNCIO = [
    name for name, case in CASES.items() if not case.client.keys() & {"network_timeout", "connection_timeout"}
]
OF_ASYNCIO = [name for name in OF_ASYNCIO if CASES[name].call not in ("async_infer", "get_result")]


async def maybe(found: Any) -> Any:
    """Return what the blocking client returned, or what a coroutine of the other one does."""
    return await found if inspect.isawaitable(found) else found


async def step(stream: Any) -> Any:
    return await anext(stream, None) if hasattr(stream, "__anext__") else next(stream, None)


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Carry a coroutine out that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a coroutine of the blocking client waits")


class Running:
    """One case under way, on one kind of client."""

    def __init__(self, name: str, on_asyncio: bool) -> None:
        self.name, self.case = name, CASES[name]
        self.on_asyncio = on_asyncio
        self.release = threading.Event()
        case = self.case
        encrypted = case.tls and case.warm > 0
        # A server that says nothing to a handshake needs no TLS of its own.
        context = identity() if encrypted else None
        self.server = Server((self.script, healthy), context, answers_connects=case.connects)
        self.server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.server.__enter__()
        url = f"{case.host}:{self.server.port}"
        options = dict(case.client)
        if case.proxy:
            url, options["proxy"] = "127.0.0.1:1", f"http://{url}"
        if self.on_asyncio:
            if case.tls:
                options |= {"ssl": True, "ssl_context": trusting()}
            self.client: Any = tritonhttp.aio.InferenceServerClient(url, conn_limit=1, **options)
        else:
            if case.tls:
                options |= {"ssl": True, "ssl_context_factory": trusting}
            self.client = tritonhttp.InferenceServerClient(url, **options)
        self.stream: Any = None
        self.began = 0.0
        self.occupant: Any = None

    def script(self, peer: Peer) -> None:
        case = self.case
        for _ in range(case.warm):
            if not peer.read_request():
                return
            peer.send(GOOD)
        if case.server == "unread":
            peer.read_head()
        elif case.server == "busy":
            while peer.read_request():
                peer.send(answer(HEALTHY) if self.release.is_set() else BUSY)
            return
        elif case.tls and not case.warm:  # a hello, or CONNECT
            pass
        elif not peer.read_request():
            return
        elif case.server in ("half", "begun"):
            peer.send(GOOD[:-3] if case.server == "half" else EVENT)
        elif case.server == "trickles":
            for position in range(len(GOOD) - 1):
                peer.send(GOOD[position : position + 1])
                time.sleep(0.05)
        if not gone(peer, self.release) and case.server == "silent":
            peer.send(answer(HEALTHY))
            healthy(peer)

    def infer(self, given: Any = SMALL, **options: Any) -> Any:
        return self.client.infer("m", [tensor("INPUT0", given)], **options)

    async def prepare(self) -> None:
        """Do what comes before the call in question."""
        case = self.case
        for _ in range(case.warm):
            await maybe(self.infer(deadline=PATIENCE))
        if case.busy:
            if self.on_asyncio:
                self.occupant = asyncio.ensure_future(self.infer())
            else:
                self.occupant = threading.Thread(target=self._occupy, daemon=True)
                self.occupant.start()
            while not self.server.requests:
                await asyncio.sleep(0.01) if self.on_asyncio else time.sleep(0.01)
        if case.call == "stream":
            self.began = time.monotonic()
            self.stream = self.client.generate_stream("m", {}, **case.options)
            if case.server != "silent":
                await step(self.stream)

    def _occupy(self) -> None:
        with suppress(InferenceServerException):
            self.infer()

    async def act(self) -> dict[str, Any]:
        """Make the call; return how it ended, and after how long."""
        case, outcome = self.case, "a result"
        began = time.monotonic()
        if case.call == "stream" and "deadline" in case.options and case.server != "silent":
            began = self.began  # the deadline is that of the whole stream
        try:
            if case.call == "infer":
                await maybe(self.infer(**case.options))
            elif case.call == "large":
                await maybe(self.infer(LARGE, **case.options))
            elif case.call == "stream":
                await step(self.stream)
            elif case.call == "ready":
                await maybe(self.client.wait_until_ready(**case.options))
            elif case.call == "metadata":
                await maybe(self.client.get_server_metadata(**case.options))
            else:
                waits = case.options if case.call == "get_result" else {}
                options = {} if waits else case.options
                self.client.async_infer("m", [tensor("INPUT0", SMALL)], **options).get_result(**waits)
        except BaseException as error:
            kinds = [each.__name__ for each in type(error).__mro__]
            outcome = "DeadlineExceeded" if "DeadlineExceeded" in kinds else f"{kinds[0]}: {error}"
        return {"case": self.name, "took": time.monotonic() - began, "outcome": outcome}

    async def recover(self) -> float | str:
        """Let the server be well; return how long the next call takes, or what goes wrong with it."""
        self.release.set()
        stalled.set()
        self.server.mend()
        if self.case.call in ("async_infer", "get_result", "ready", "metadata") or self.case.busy:
            time.sleep(0.1)  # what was begun ends
        began = time.monotonic()
        try:
            if self.case.proxy or (self.case.tls and not self.case.warm):
                # There is nothing behind that place that speaks TLS: it must be tried, at once.
                self.server.connections = 0
                await maybe(self.client.is_server_live(deadline=0.2))
            else:
                await maybe(self.client.get_server_metadata(deadline=PATIENCE))
        except tritonhttp.ServerError:
            pass
        except InferenceServerException as error:
            if not (self.case.proxy or self.case.tls) or "timed out while waiting for one of" in str(error):
                return f"{type(error).__name__}: {error}"
        return time.monotonic() - began

    def close(self) -> None:
        self.server.__exit__(None, None, None)
        if not self.on_asyncio:
            if self.stream is not None:
                self.stream.close()
            if self.occupant is not None:
                self.occupant.join()
            self.client.close()


stalled = threading.Event()
_getaddrinfo = socket.getaddrinfo


def _stalling(host: Any, port: Any, *args: Any, **options: Any) -> Any:
    if host == "stalls.test":
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no literal")
        stalled.wait(PATIENCE)
        host = "127.0.0.1"
    return _getaddrinfo(host, port, *args, **options)


@contextmanager
def signals(mode: str, targets: Callable[[], list[int]]) -> Iterator[None]:
    """Let signals come to threads."""
    number, period = MODES[mode]
    over = threading.Event()

    def send() -> None:
        while not over.wait(period or MIDWAY):
            for ident in targets():
                signal.pthread_kill(ident, number)
            if period is None:
                break

    sender = threading.Thread(target=send)
    if number == signal.SIGALRM and period:
        signal.setitimer(signal.ITIMER_REAL, period, period)
    else:
        sender.start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        over.set()
        if sender.ident:
            sender.join()


def report(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


def main_thread(names: list[str], mode: str, install: Callable[[str], None]) -> None:
    """Run cases one after the other, on the main thread."""
    me = threading.get_ident()
    for name in names:
        faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
        install("before")
        stalled.clear()
        running = Running(name, False)
        at_once(running.prepare())
        install("after")
        with signals(mode, lambda: [me]):
            line = at_once(running.act())
        number, _ = MODES[mode]
        signal.signal(number, signal.SIG_IGN)
        if mode == "a handler that raises":
            line["next"] = at_once(running.recover())
        running.close()
        report(line)


def other_threads(names: list[str], mode: str, install: Callable[[str], None]) -> None:
    """Run each case on a thread of its own, which the signals hit; the handlers run here."""
    install("before")
    faulthandler.dump_traceback_later(4 * PATIENCE, exit=True)
    running = [Running(name, False) for name in names]
    for each in running:
        at_once(each.prepare())
    install("after")
    alive: set[int] = set()
    over = threading.Event()
    lines: list[dict[str, Any]] = []

    def work(each: Running) -> None:
        alive.add(threading.get_ident())
        lines.append(at_once(each.act()))
        over.wait()  # a signal to a thread that has ended would crash

    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in running]
    with signals(mode, lambda: list(alive)):
        for thread in threads:
            thread.start()
        while len(lines) < len(running):
            time.sleep(0.01)
    over.set()
    for line in lines:
        report(line)
    for each in running:
        each.close()


def event_loop(names: list[str], mode: str, install: Callable[[str], None]) -> None:
    """Run all cases at once on an event loop, on the main thread."""
    me = threading.get_ident()

    async def run() -> None:
        install("before")
        faulthandler.dump_traceback_later(4 * PATIENCE, exit=True)
        running = [Running(name, True) for name in names]
        for each in running:
            await each.prepare()
        install("after")
        with signals(mode, lambda: [me]):
            lines = await asyncio.gather(*(each.act() for each in running))
        for line in lines:
            report(line)
        for each in running:
            each.close()
            await each.client.close()
            await asyncio.gather(each.occupant or asyncio.sleep(0), return_exceptions=True)

    asyncio.run(run())


PLACES = {"main thread": main_thread, "other threads": other_threads, "event loop": event_loop}


def main(place: str, mode: str, when: str, *names: str) -> None:
    socket.getaddrinfo = _stalling
    number, _ = MODES[mode]

    def handler(number: int, frame: object) -> None:
        if mode == "a handler that raises":
            raise Raised

    def install(now: str) -> None:
        if now == when:
            signal.signal(number, handler)
        elif now == "before":
            signal.signal(number, signal.SIG_DFL)

    every = OF_ASYNCIO if place == "event loop" else list(CASES)
    PLACES[place](list(names) or every, mode, install)
    faulthandler.cancel_dump_traceback_later()
    os._exit(0)  # whatever still runs is reported already


if __name__ == "__main__":
    main(*sys.argv[1:])
