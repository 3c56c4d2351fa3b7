"""A name with several addresses, some of which swallow connects: the next is tried soon."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import ConnectTimeout

from ..clients import wait_until
from .conftest import metadata
from .servers import HEALTHY, Server

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs 127.0.0.2, and a full backlog to swallow"
)

HOLE, GOOD, CLOSED = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of the name triton.test, to be changed."""
    found = [HOLE, GOOD]
    ask = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != "triton.test":
            return ask(host, port, *args, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no literal")
        return [entry for literal in found for entry in ask(literal, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


@pytest.fixture
def hole(serve: Callable[..., Server]) -> Server:
    """A server that lets connects wait."""
    return serve(answers_connects=None)


@pytest.fixture
def good(serve: Callable[..., Server], hole: Server) -> Server:
    """A server at the next address, on the same port."""
    return serve(at=(GOOD, hole.port))


@pytest.mark.parametrize("options", [{}, {"connection_timeout": None, "network_timeout": None}])
def test_the_next_address_is_tried_after_a_quarter_of_a_second(
    good: Server, addresses: list[str], open_client: Callable[..., Any], within: Any, options: Any
) -> None:
    client = open_client(f"triton.test:{good.port}", **options)
    with within(0.2):
        assert metadata(client) == HEALTHY
    assert metadata(client) == HEALTHY
    assert good.connections == 1, "the next call has the connection"


def test_a_short_deadline_is_shared_out(
    good: Server, addresses: list[str], open_client: Callable[..., Any]
) -> None:
    client = open_client(f"triton.test:{good.port}")
    assert metadata(client, deadline=0.4) == HEALTHY


def test_an_address_that_refuses_costs_no_time(
    good: Server, addresses: list[str], open_client: Callable[..., Any]
) -> None:
    addresses[:] = [CLOSED, GOOD, HOLE]

    def seconds() -> float:
        client = open_client(f"triton.test:{good.port}")
        began = time.monotonic()
        assert metadata(client) == HEALTHY
        return time.monotonic() - began

    # A busy machine may delay some of them; the pause before the next address would delay all.
    wait_until(lambda: seconds() < 0.2)


def test_a_slow_address_wins_where_the_next_ones_fail(
    hole: Server, addresses: list[str], open_client: Callable[..., Any], within: Any
) -> None:
    addresses[:] = [HOLE, CLOSED]
    client = open_client(f"triton.test:{hole.port}")
    timer = threading.Timer(0.5, hole.mend)
    timer.start()
    with within(0.4, 5):  # the kernel asks again after a second
        assert metadata(client) == HEALTHY
    timer.join()


def test_an_error_names_every_address_where_none_answers(
    hole: Server, addresses: list[str], open_client: Callable[..., Any], within: Any
) -> None:
    addresses[:] = [HOLE, CLOSED]
    client = open_client(f"triton.test:{hole.port}")
    words = (
        rf"cannot connect to triton\.test port {hole.port}: 127\.0\.0\.1: timed out;"
        r" 127\.0\.0\.3: \[Errno 111\] Connection refused, after \d[\d.]* s: the call's 0\.6 s are over"
    )
    with within(0.5), pytest.raises(ConnectTimeout, match=words) as caught:
        metadata(client, deadline=0.6)
    assert caught.value.phase == "connect"


# -- interruptions ----------------------------------------------------------------------------------


@pytest.fixture
def ticking() -> Iterator[Callable[..., None]]:
    """Handle a signal again and again."""
    before = signal.getsignal(signal.SIGALRM)

    def start(handler: Any, first: float, again: float = 0.0) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, first, again)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("several", [False, True])
def test_signals_that_are_handled_do_not_stretch_the_limit(
    hole: Server, addresses: list[str], ticking: Any, within: Any, several: bool
) -> None:
    handled: list[int] = []
    addresses[:] = [HOLE, CLOSED] if several else [HOLE]
    with tritonhttp.InferenceServerClient(f"triton.test:{hole.port}") as client:
        ticking(lambda *_: handled.append(1), 0.05, 0.05)
        with within(0.4), pytest.raises(ConnectTimeout):
            metadata(client, deadline=0.5)
    assert len(handled) > 3


def test_an_interrupt_closes_every_socket(
    hole: Server, addresses: list[str], ticking: Any, open_descriptors: Callable[[], dict[str, str]]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    addresses[:] = [HOLE, CLOSED, HOLE]
    before = open_descriptors()
    with tritonhttp.InferenceServerClient(f"triton.test:{hole.port}") as client:
        for after in (0.02, 0.1, 0.3):
            ticking(interrupt, after)
            with pytest.raises(KeyboardInterrupt):
                metadata(client, deadline=5)
            assert open_descriptors() == before
        assert not client._transport._connections


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":  # its first loop opens a pipe that stays
        pytest.importorskip("uvloop", reason="a dependency of the tests only").new_event_loop().close()
    return str(request.param)


def run(kind: str, main: Any) -> None:
    loop = asyncio.new_event_loop() if kind == "asyncio" else sys.modules["uvloop"].new_event_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()
    assert not complaints


def test_a_task_may_be_cancelled_at_every_step(
    hole: Server, addresses: list[str], kind: str, open_descriptors: Callable[[], dict[str, str]]
) -> None:
    addresses[:] = [HOLE, CLOSED]

    async def main() -> None:
        client = tritonhttp.aio.InferenceServerClient(f"triton.test:{hole.port}")
        with contextlib.suppress(ConnectTimeout):
            await client.is_server_live(deadline=0.05)  # uvloop makes its own descriptors when it needs them
        before = open_descriptors()
        for again in range(3):
            for steps in (*range(12), 0.05, 0.3):
                task = asyncio.ensure_future(client.is_server_live(deadline=5))
                if isinstance(steps, float):
                    await asyncio.sleep(steps)
                for _ in range(int(steps)):
                    await asyncio.sleep(0.001)
                task.cancel()
                for _ in range(again):
                    await asyncio.sleep(0)
                    task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert asyncio.all_tasks() == {asyncio.current_task()}
                assert open_descriptors() == before
        await client.close()

    run(kind, main())


def test_each_event_loop_tries_the_next_address(good: Server, addresses: list[str], kind: str) -> None:
    addresses[:] = [HOLE, CLOSED, GOOD]

    async def main() -> None:
        async with tritonhttp.aio.InferenceServerClient(f"triton.test:{good.port}") as client:
            began = time.monotonic()
            assert await client.is_server_live()
            assert 0.2 < time.monotonic() - began < 8
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(kind, main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ends_in_the_middle_leaves_no_socket(
    hole: Server, addresses: list[str], open_descriptors: Callable[[], dict[str, str]]
) -> None:
    addresses[:] = [HOLE, CLOSED]
    before = open_descriptors()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio complains of the task that is dropped
    client = tritonhttp.aio.InferenceServerClient(f"triton.test:{hole.port}")
    begun: list[Any] = []

    async def main() -> None:
        begun.append(asyncio.ensure_future(client.is_server_live()))
        await asyncio.sleep(0.1)

    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.get_coro().close()  # type: ignore[union-attr]
    loop.close()
    assert open_descriptors() == before


PATCHED = """
import socket, sys, time
import tritonhttp
port = int(sys.argv[1])
ask = socket.getaddrinfo

def look_up(host, port, *args, **options):
    if host != "triton.test":
        return ask(host, port, *args, **options)
    if options.get("flags"):
        raise socket.gaierror(socket.EAI_NONAME, "no literal")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in sys.argv[2:]]

socket.getaddrinfo = look_up
turns = 0

def tick():
    global turns
    while True:
        time.sleep(0.01)
        turns += 1

spawn(tick)
with tritonhttp.InferenceServerClient(f"triton.test:{port}") as client:
    began = time.monotonic()
    assert client.get_server_metadata()
    took = time.monotonic() - began
    assert 0.2 < took < 8, took
    assert turns > 10, turns  # others had their turns meanwhile
    assert client.get_server_metadata()
sys.stdout.write("fine")
"""


@pytest.mark.parametrize(
    ("package", "prologue"),
    [
        ("gevent", "import gevent.monkey\ngevent.monkey.patch_all()\nfrom gevent import spawn\n"),
        ("eventlet", "import eventlet\neventlet.monkey_patch()\nfrom eventlet import spawn\n"),
    ],
)
def test_a_program_of_greenlets_tries_the_next_address(good: Server, package: str, prologue: str) -> None:
    pytest.importorskip(package, reason="a dependency of the tests only")
    command = [sys.executable, "-W", "ignore", "-c", prologue + PATCHED, str(good.port), HOLE, CLOSED, GOOD]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "fine"), ran.stderr
