"""Calls that are interrupted at every place: by exceptions, by handlers that use the client, by cancellation."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import InferenceServerException, Retry

from ..clients import tensor
from .echo import COUNTED, METRICS, STREAMED, Echo
from .faults import identity, trusting
from .interrupts import (
    AT_ONCE,
    RULERS,
    Interrupt,
    Interruption,
    Nested,
    OrdinaryInterrupt,
    Stepped,
    Watch,
    Way,
    open_now,
    settled,
    sweep,
)
from .servers import Server

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and signals to threads"),
    # A socket that the interrupt lost is closed by the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def watch(_nothing_is_left: None) -> Iterator[Watch]:
    with Watch() as watch:
        yield watch


@pytest.fixture
def echo(_nothing_is_left: None) -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def server(echo: Echo) -> Iterator[Server]:
    with Server((echo,)) as server:
        yield server


@pytest.fixture
def other(echo: Echo) -> Iterator[Server]:
    with Server((echo,)) as server:
        yield server


# -- the calls --

_numbers = itertools.count(1)


def _asked(size: int = 8) -> tuple[Any, list[Any]]:
    sent = np.full(size, next(_numbers), np.float32)
    return sent, [tensor("INPUT0", sent)]


def _as_json() -> list[Any]:
    (asked,) = _asked()[1]
    return [asked.set_data_from_numpy(np.zeros(8, np.float32), binary_data=False)]


def _own(sent: Any, result: Any) -> None:
    found = result.as_numpy("OUTPUT0")
    # numpy's array_equal takes an exception that comes in the middle of it for a difference.
    assert found.tolist() == sent.tolist(), f"got {found[:1]}, sent {sent[:1]}"


def infer(client: Any, _: Any = None, size: int = 8, **options: Any) -> None:
    sent, inputs = _asked(size)
    _own(sent, client.infer("echo", inputs, **options))


def infer_raw(client: Any, _: Any = None) -> None:
    sent, _ = _asked()
    _own(sent, client.infer_raw("echo", sent))


def infer_async(client: Any, _: Any = None) -> None:
    sent, inputs = _asked()
    _own(sent, client.async_infer("echo", inputs).get_result())


def begun(client: Any) -> Any:
    """Return a stream that has given its first answer."""
    stream = client.generate_stream("echo", {})
    assert next(stream) == STREAMED[0]
    return stream


async def ainfer(client: Any, _: Any = None, size: int = 8, **options: Any) -> None:
    sent, inputs = _asked(size)
    _own(sent, await client.infer("echo", inputs, **options))


async def ainfer_raw(client: Any, _: Any = None) -> None:
    sent, _ = _asked()
    _own(sent, await client.infer_raw("echo", sent))


async def abegun(client: Any) -> Any:
    stream = client.generate_stream("echo", {})
    assert await anext(stream) == STREAMED[0]
    return stream


def none_outstanding(urls: list[str], client: Any) -> None:
    left = [len(client._dispatch._balancer._known[url].tickets) for url in urls]
    if any(left):
        raise AssertionError(f"requests under way: {left}")


class _Others:
    """Hold the only connection by a stream on another thread, which ends in a moment."""

    def __init__(self, client: Any) -> None:
        held = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(client, held))
        self._thread.start()
        held.wait()

    def _hold(self, client: Any, held: threading.Event) -> None:
        with client.generate_stream("echo", {}):
            held.set()
            time.sleep(0.002)

    def join(self) -> None:
        self._thread.join()


def _joined(client: Any, others: _Others) -> None:
    others.join()


# -- the ways of the blocking client --


class Blocking:
    """Makes the ways over a server, and a second one."""

    def __init__(self, echo: Echo, server: Server, other: Server) -> None:
        self.echo, self.server, self.other = echo, server, other

    def _open(self, url: Any = None, **options: Any) -> Any:
        return tritonhttp.InferenceServerClient(url or self.server.url, **options)

    def _way(self, call: Any, *, client: dict[str, Any] | None = None, **given: Any) -> Way:
        return Way(
            **{
                "open": partial(self._open, **client or {}),
                "call": call,
                "again": infer,
                "close": lambda client: client.close(),
                **given,
            }
        )

    def _lose(self, client: Any) -> None:
        self.echo.lose = 1

    def _keep(self, client: Any, prepared: Any) -> None:
        self.echo.lose = 0

    def first(self) -> Way:
        return self._way(infer, fresh=True)

    def plain(self) -> Way:
        return self._way(infer)

    def limited(self) -> Way:
        return self._way(partial(infer, deadline=30))

    def varied(self) -> Way:
        self.echo.varied = True
        return self._way(infer)

    def closed_by_the_server(self) -> Way:
        self.echo.closes_every = 1
        return self._way(infer)

    def watched(self) -> Way:
        return self._way(partial(infer, headers={"x-one": "1"}, request_id="one"))

    def hooked(self) -> Way:
        seen: deque[Any] = deque(maxlen=1)
        return self._way(infer, client={"on_request": seen.append, "on_response": seen.append})

    def retried(self) -> Way:
        options = {"retry": Retry(attempts=3, backoff=0)}
        call = partial(infer, idempotent=True)
        return self._way(call, client=options, prepare=self._lose, recover=self._keep)

    def balanced(self) -> Way:
        urls = [self.server.url, self.other.url]

        options = {"url": urls, "balancing": "round_robin"}
        return self._way(infer, client=options, check=partial(none_outstanding, urls), prepare=infer)

    def resolved(self) -> Way:
        return self._way(infer, client={"url": f"localhost:{self.server.port}"}, fresh=True)

    def resolved_again(self) -> Way:
        options = {"url": f"localhost:{self.server.port}", "resolve_every": 60.0}
        return self._way(infer, client=options, fresh=True)

    def asked_for(self) -> Way:
        return self._way(lambda client, _: client.is_server_live() or pytest.fail("not live"))

    def raw(self) -> Way:
        return self._way(infer_raw)

    def measured(self) -> Way:
        def measure(client: Any, _: Any) -> None:
            assert client.metrics(port=self.server.port).text == METRICS.decode()

        return self._way(measure, fresh=True)

    def results_streamed(self) -> Way:
        def read(client: Any, _: Any) -> None:
            with client.infer_stream("echo", _as_json()) as stream:
                assert [int(result["OUTPUT0"][0]) for result in stream] == COUNTED

        return self._way(read, held=True)

    def started(self) -> Way:
        return self._way(infer_async)

    def in_line(self) -> Way:
        return self._way(infer, prepare=_Others, recover=_joined)

    def cancelled(self, **options: Any) -> Way:
        def prepare(client: Any) -> Any:
            others = _Others(client)
            return others, [client.async_infer("echo", _asked()[1], **options) for _ in range(3)]

        def cancel(client: Any, prepared: Any) -> None:
            assert prepared[1][1].cancel() or prepared[1][1].done()

        def recover(client: Any, prepared: Any) -> None:
            prepared[0].join()
            for handle in (prepared[1][0], prepared[1][2]):
                handle.get_result()

        def check(client: Any) -> None:
            assert not client._transport.pool.line
            assert not client._turns._pools

        return self._way(cancel, prepare=prepare, recover=recover, check=check)

    def cancelled_in_a_sequence(self) -> Way:
        return self.cancelled(sequence_id=7)

    def in_line_with_a_deadline(self) -> Way:
        return self._way(partial(infer, deadline=30), prepare=_Others, recover=_joined)

    def shared(self) -> Way:
        return self._way(
            partial(infer, size=1 << 14),
            again=partial(infer, size=1 << 14),
            client={"shared_memory": "auto", "shared_memory_threshold": 1 << 12},
        )

    def shared_first(self) -> Way:
        way = self.shared()
        way.fresh = True
        return way

    def stream_opened(self) -> Way:
        return self._way(
            lambda client, stream: stream.__enter__(),
            prepare=lambda client: client.generate_stream("echo", {}),
            recover=lambda client, stream: stream.close(),
        )

    def stream_read(self) -> Way:
        def read(client: Any, stream: Any) -> None:
            assert list(stream) == STREAMED[1:]

        return self._way(read, prepare=begun, recover=lambda client, stream: stream.close())

    def stream_closed(self) -> Way:
        return self._way(
            lambda client, stream: stream.close(),
            prepare=begun,
            recover=lambda client, stream: stream.close(),
        )

    def stream_in_a_block(self) -> Way:
        def read(client: Any, _: Any) -> None:
            with client.generate_stream("echo", {}) as stream:
                assert list(stream) == STREAMED

        return self._way(read, held=True)

    def stream_dropped(self) -> Way:
        def read(client: Any, _: Any) -> None:
            assert list(client.generate_stream("echo", {})) == STREAMED

        return self._way(read, held=True)

    def stream_watched(self) -> Way:
        seen: deque[Any] = deque(maxlen=1)
        way = self.stream_dropped()
        way.open = partial(self._open, on_response=seen.append)
        return way

    def closed(self) -> Way:
        def prepare(client: Any) -> None:
            infer(client)
            infer_async(client)

        def close_again(client: Any) -> None:
            client.close()
            with pytest.raises(InferenceServerException, match="closed"):
                infer(client)

        return self._way(
            lambda client, _: client.close(),
            prepare=prepare,
            again=close_again,
            client={"shared_memory": "auto", "shared_memory_threshold": 1 << 12},
            fresh=True,
        )


BLOCKING = [name for name in vars(Blocking) if not name.startswith("_")]


@pytest.fixture
def blocking(echo: Echo, server: Server, other: Server) -> Blocking:
    return Blocking(echo, server, other)


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("name", BLOCKING)
def test_an_interrupt_anywhere_in_a_call_leaves_nothing_behind(
    name: str, ruler: str, blocking: Blocking, watch: Watch
) -> None:
    sweep(getattr(blocking, name)(), partial(Interruption, ruler=ruler), watch, least=10)


@pytest.mark.parametrize("name", ["first", "plain", "watched", "retried", "stream_read", "in_line"])
def test_an_ordinary_exception_anywhere_in_a_call_reaches_the_caller(
    name: str, blocking: Blocking, watch: Watch
) -> None:
    sweep(getattr(blocking, name)(), partial(Interruption, kind=OrdinaryInterrupt), watch)


def in_a_thread(function: Any, *arguments: Any) -> Any:
    """Call a function on a thread of its own, and return or raise what comes of it."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((function(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)  # where it hangs, the test ends all the same
    thread.start()
    thread.join()
    found, error = outcome.pop()
    try:
        if error is not None:
            raise error
        return found
    finally:
        error = None  # its traceback has this frame


@pytest.mark.parametrize("name", ["plain", "varied", "retried", "in_line", "stream_read"])
def test_what_ends_a_thread_anywhere_in_a_call_leaves_nothing_behind(
    name: str, blocking: Blocking, watch: Watch
) -> None:
    way = getattr(blocking, name)()
    way.run = in_a_thread
    sweep(way, partial(Interruption, kind=SystemExit), watch, least=10)


def test_an_interrupt_in_a_tls_handshake_leaves_nothing_behind(echo: Echo, watch: Watch) -> None:
    with Server((echo,), identity()) as server:
        way = Way(
            open=partial(
                tritonhttp.InferenceServerClient, server.url, ssl=True, ssl_context_factory=trusting
            ),
            call=infer,
            again=infer,
            close=lambda client: client.close(),
            fresh=True,
        )
        sweep(way, Interruption, watch, least=10)


# -- the ways of the asyncio client --


class Asyncio:
    """Makes the ways over a server, and a second one, on an event loop."""

    def __init__(self, echo: Echo, server: Server, other: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.echo, self.server, self.other, self.loop = echo, server, other, loop

    def _open(self, url: Any = None, **options: Any) -> Any:
        return tritonhttp.aio.InferenceServerClient(url or self.server.url, **{"conn_limit": 1, **options})

    def _run(self, function: Any, *arguments: Any) -> Any:
        found = function(*arguments)
        if not asyncio.iscoroutine(found):
            return found
        return self.loop.run_until_complete(asyncio.wait_for(found, AT_ONCE))

    def _within(self) -> bool:
        return asyncio.current_task(self.loop) is not None

    def _way(self, call: Any, *, client: dict[str, Any] | None = None, **given: Any) -> Way:
        return Way(
            **{
                "open": partial(self._open, **client or {}),
                "call": call,
                "again": ainfer,
                "close": lambda client: client.close(),
                "run": self._run,
                "rest": asyncio.sleep,
                "within": self._within,
                **given,
            }
        )

    async def _lose(self, client: Any) -> None:
        self.echo.lose = 1

    async def _keep(self, client: Any, prepared: Any) -> None:
        self.echo.lose = 0

    def first(self) -> Way:
        return self._way(ainfer, fresh=True)

    def plain(self) -> Way:
        return self._way(ainfer)

    def varied(self) -> Way:
        self.echo.varied = True
        return self._way(partial(ainfer, deadline=30))

    def closed_by_the_server(self) -> Way:
        self.echo.closes_every = 1
        return self._way(ainfer)

    def watched(self) -> Way:
        return self._way(partial(ainfer, headers={"x-one": "1"}, request_id="one"))

    def hooked(self) -> Way:
        seen: deque[Any] = deque(maxlen=1)
        return self._way(ainfer, client={"on_request": seen.append, "on_response": seen.append})

    def retried(self) -> Way:
        options = {"retry": Retry(attempts=3, backoff=0.001)}
        call = partial(ainfer, idempotent=True)
        return self._way(call, client=options, prepare=self._lose, recover=self._keep)

    def balanced(self) -> Way:
        urls = [self.server.url, self.other.url]
        options = {"url": urls, "balancing": "round_robin"}
        return self._way(ainfer, client=options, check=partial(none_outstanding, urls), prepare=ainfer)

    def resolved(self) -> Way:
        return self._way(ainfer, client={"url": f"localhost:{self.server.port}"}, fresh=True)

    def resolved_again(self) -> Way:
        options = {"url": f"localhost:{self.server.port}", "resolve_every": 60.0}
        return self._way(ainfer, client=options, fresh=True)

    def raw(self) -> Way:
        return self._way(ainfer_raw)

    def measured(self) -> Way:
        async def measure(client: Any, _: Any) -> None:
            assert (await client.metrics(port=self.server.port)).text == METRICS.decode()

        return self._way(measure, fresh=True)

    def results_streamed(self) -> Way:
        async def read(client: Any, _: Any) -> None:
            async with client.infer_stream("echo", _as_json()) as stream:
                assert [int(result["OUTPUT0"][0]) async for result in stream] == COUNTED

        return self._way(read, held=True)

    def in_line(self) -> Way:
        async def hold(client: Any, held: asyncio.Event) -> None:
            async with client.generate_stream("echo", {}):
                held.set()
                await asyncio.sleep(0.002)

        async def later(client: Any) -> None:
            await asyncio.sleep(0)
            await ainfer(client)

        async def others(client: Any) -> Any:
            held = asyncio.Event()
            holder = asyncio.ensure_future(hold(client, held))
            await held.wait()
            # One waits in the line before it, one after it.
            return holder, asyncio.ensure_future(ainfer(client)), asyncio.ensure_future(later(client))

        async def joined(client: Any, others: Any) -> None:
            await asyncio.gather(*others)

        def within() -> bool:
            task = asyncio.current_task(self.loop)
            return task is not None and task.get_name() == "the call"

        return self._way(ainfer, prepare=others, recover=joined, within=within)

    def shared(self) -> Way:
        return self._way(
            partial(ainfer, size=1 << 14),
            again=partial(ainfer, size=1 << 14),
            client={"shared_memory": "auto", "shared_memory_threshold": 1 << 12},
        )

    def stream_opened(self) -> Way:
        async def enter(client: Any, stream: Any) -> None:
            await stream.__aenter__()

        return self._way(
            enter,
            prepare=lambda client: client.generate_stream("echo", {}),
            recover=lambda client, stream: stream.close(),
        )

    def stream_read(self) -> Way:
        async def read(client: Any, stream: Any) -> None:
            assert [answer async for answer in stream] == STREAMED[1:]

        return self._way(read, prepare=abegun, recover=lambda client, stream: stream.close())

    def stream_closed(self) -> Way:
        async def close(client: Any, stream: Any) -> None:
            await stream.close()

        return self._way(close, prepare=abegun, recover=lambda client, stream: stream.close())

    def stream_in_a_block(self) -> Way:
        async def read(client: Any, _: Any) -> None:
            async with client.generate_stream("echo", {}) as stream:
                assert [answer async for answer in stream] == STREAMED

        return self._way(read, held=True)

    def stream_dropped(self) -> Way:
        async def read(client: Any, _: Any) -> None:
            assert [answer async for answer in client.generate_stream("echo", {})] == STREAMED

        return self._way(read, held=True)

    def closed(self) -> Way:
        async def close(client: Any, _: Any) -> None:
            await client.close()

        async def close_again(client: Any) -> None:
            await client.close()
            with pytest.raises(InferenceServerException, match="closed"):
                await ainfer(client)

        return self._way(close, prepare=ainfer, again=close_again, fresh=True)


ASYNCIO = [name for name in vars(Asyncio) if not name.startswith("_")]


@pytest.fixture
def on_a_loop(echo: Echo, server: Server, other: Server) -> Iterator[Asyncio]:
    loop = asyncio.new_event_loop()
    yield Asyncio(echo, server, other, loop)
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert not left


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("name", ASYNCIO)
def test_an_interrupt_anywhere_in_a_task_leaves_nothing_behind(
    name: str, ruler: str, on_a_loop: Asyncio, watch: Watch
) -> None:
    sweep(getattr(on_a_loop, name)(), partial(Interruption, ruler=ruler), watch, least=4)


@pytest.mark.parametrize("name", ["plain", "retried", "in_line", "shared", "stream_read"])
def test_what_stops_the_loop_anywhere_in_a_task_leaves_nothing_behind(
    name: str, on_a_loop: Asyncio, watch: Watch
) -> None:
    """A KeyboardInterrupt, as a SystemExit, comes out of the running loop at once, not only of the task."""

    def run(function: Any, *arguments: Any) -> Any:
        # No `wait_for`, which would raise it once more, out of the next run of the loop.
        found = function(*arguments)
        return on_a_loop.loop.run_until_complete(found) if asyncio.iscoroutine(found) else found

    way = getattr(on_a_loop, name)()
    way.run = run
    sweep(way, partial(Interruption, kind=KeyboardInterrupt), watch, least=4)


@pytest.mark.parametrize("how", ["cancel", "late", "close"])
@pytest.mark.parametrize("name", ASYNCIO)
def test_a_call_cancelled_anywhere_leaves_nothing_behind(
    name: str, how: str, on_a_loop: Asyncio, watch: Watch
) -> None:
    least = 0 if name == "stream_closed" else 1  # which waits for nothing
    sweep(getattr(on_a_loop, name)(), partial(Stepped, how=how), watch, least=least)


# -- handlers that use the client --

HANDLERS: dict[str, Callable[[Any], object]] = {
    "close": lambda client: client.close(),
    "is_server_live": lambda client: client.is_server_live() or pytest.fail("not live"),
    "stats": lambda client: client.stats(),
    "infer": partial(infer, idempotent=True),
}
#: The calls during which they run.
HANDLED = ["first", "plain", "varied", "watched", "retried", "balanced", "started", "in_line", "stream_read"]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("name", HANDLED)
def test_a_handler_may_use_the_client(name: str, handler: str, blocking: Blocking, watch: Watch) -> None:
    way = getattr(blocking, name)()
    if handler == "close":
        way.fresh, way.again = True, lambda client: None
    elif handler == "is_server_live" and name == "balanced":
        pytest.skip("it is for one server")
    sweep(way, partial(Nested, handler=HANDLERS[handler], ends=handler == "close"), watch, least=10)


# -- storms --


class Storm:
    """Raises in a thread, again and again, at any time while it calls.

    Attributes
    ----------
    armed : bool
        Whether a call is under way.
    victim : int
        The thread.
    """

    def __init__(self, strike: Callable[[Storm], object]) -> None:
        self._strike = strike
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow)
        self.armed = False
        self.victim = threading.get_ident()

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _blow(self) -> None:
        while not self._over.is_set():
            time.sleep(random.uniform(2e-5, 4e-4))
            if self.armed:
                self._strike(self)

    def handle(self, *_: object) -> None:
        """Handle a signal."""
        if self.armed:
            self.armed = False
            raise Interrupt


def by_signal(storm: Storm) -> None:
    signal.pthread_kill(storm.victim, signal.SIGUSR1)


def by_exception(storm: Storm) -> None:
    storm.armed = False
    victim, kind = ctypes.c_ulong(storm.victim), ctypes.py_object(OrdinaryInterrupt)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(victim, kind)


def weather(
    storm: Storm,
    client: Any,
    kind: type[BaseException],
    begin: Callable[[], object],
    wait: Callable[[], object],
) -> bool:
    """Make one of several calls in the storm, and the next one; return whether it was interrupted."""
    which, interrupted = random.randrange(10), False
    try:
        storm.armed = True
        begin()
        if which == 0:
            with client.generate_stream("echo", {}) as stream:
                assert list(stream) == STREAMED
        elif which < 4:
            infer(client, headers={"x-one": "1"})
        else:
            infer(client, deadline=30 if which == 4 else None)
        wait()
        storm.armed = False
    except kind:
        interrupted = True
        if which:
            infer(client)
    if interrupted and not which:  # the exception held the stream, where it came at the end of the block
        infer(client)
    return interrupted


@pytest.fixture
def _restless() -> Iterator[None]:
    """Let the storm's thread run at any time, not only while the others wait for an answer."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_restless")
@pytest.mark.parametrize("beside", [0, 2], ids=["alone", "beside others"])
@pytest.mark.parametrize("varied", [False, True], ids=["same", "varied"])
@pytest.mark.parametrize("how", ["signal", "alarm"])
def test_calls_survive_a_storm_of_signals(
    how: str, varied: bool, beside: int, echo: Echo, server: Server, watch: Watch
) -> None:
    echo.varied, echo.closes_every = varied, 50
    # With a handler of alarms the C extension is not used.
    storm = Storm(by_signal if how == "signal" else lambda storm: None)
    number = signal.SIGUSR1 if how == "signal" else signal.SIGALRM
    handler = signal.signal(number, storm.handle)
    over = threading.Event()
    problems: list[BaseException] = []

    def call_beside(client: Any) -> None:
        try:
            while not over.is_set():
                infer(client)
        except BaseException as error:
            problems.append(error)

    def begin() -> None:
        if how == "alarm":
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 5e-4))

    before = open_now()
    try:
        with tritonhttp.InferenceServerClient(server.url, concurrency=1 + bool(beside)) as client:
            threads = [threading.Thread(target=call_beside, args=(client,)) for _ in range(beside)]
            for thread in threads:
                thread.start()
            interrupted, until = 0, time.monotonic() + 0.7
            with storm:
                while time.monotonic() < until or not interrupted:
                    with watch.over():
                        interrupted += weather(storm, client, Interrupt, begin, lambda: None)
            over.set()
            for thread in threads:
                thread.join()
    finally:
        over.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, handler)
    assert not problems
    gc.collect()
    settled(before)


@pytest.mark.usefixtures("_restless")
def test_calls_survive_asynchronous_exceptions(echo: Echo, server: Server) -> None:
    echo.varied, echo.closes_every = True, 50
    problems: list[BaseException] = []
    interrupted = 0

    def wait() -> None:
        while True:  # an exception under way must not come later
            time.sleep(0)

    def work(client: Any, storm: Storm) -> None:
        nonlocal interrupted
        until = time.monotonic() + 0.7
        try:
            while time.monotonic() < until or not interrupted:
                interrupted += weather(storm, client, OrdinaryInterrupt, lambda: None, wait)
        except BaseException as error:
            problems.append(error)

    before = open_now()
    with tritonhttp.InferenceServerClient(server.url) as client:
        storm = Storm(by_exception)
        worker = threading.Thread(target=work, args=(client, storm), daemon=True)
        worker.start()
        assert worker.ident is not None
        storm.victim = worker.ident
        with storm:
            worker.join(10)
        assert not worker.is_alive(), f"a call was not served behind {interrupted} exceptions"
    assert not problems
    gc.collect()
    settled(before)
