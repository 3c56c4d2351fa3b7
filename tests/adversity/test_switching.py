"""Many threads, switched as often as the interpreter can: each gets its own answer, and no place is lost."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tritonhttp
from tritonhttp import Retry
from tritonhttp._repetition.repeater import REPEATS

from ..clients import run_in_threads, tensor
from .echo import STREAMED, Echo
from .interrupts import open_now, settled
from .servers import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

THREADS, SECONDS = 8, 1.0


@pytest.fixture(autouse=True)
def _switched(_nothing_is_left: None) -> Iterator[None]:
    """Have the threads change places at every look of the interpreter."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def servers(_nothing_is_left: None) -> Iterator[list[Server]]:
    echo = Echo()
    echo.closes_every = 20
    with Server((echo,)) as one, Server((echo,)) as other:
        yield [one, other]
    echo.close()


class Caller:
    """One thread's calls: each sends numbers that no other has."""

    def __init__(self, client: Any, number: int) -> None:
        self.client, self.number, self.calls = client, number, 0
        self.chance = random.Random(number)

    def sent(self) -> Any:
        self.calls += 1
        size = self.chance.choice((8, 8, 8, 64))
        return np.full(size, self.number * 1_000_000 + self.calls, np.int64)

    def infer(self, **options: Any) -> None:
        sent = self.sent()
        result = self.client.infer("echo", [tensor("INPUT0", sent)], **options)
        assert result.as_numpy("OUTPUT0").tolist() == sent.tolist()

    def start(self, **options: Any) -> None:
        sent = [self.sent() for _ in range(3)]
        handles = [self.client.async_infer("echo", [tensor("INPUT0", each)], **options) for each in sent]
        cancelled = self.chance.random() < 0.3 and handles[1].cancel()
        for number, (each, handle) in enumerate(zip(sent, handles, strict=True)):
            if not (cancelled and number == 1):
                assert handle.get_result().as_numpy("OUTPUT0").tolist() == each.tolist()

    def stream(self) -> None:
        with self.client.generate_stream("echo", {}) as stream:
            if self.chance.random() < 0.5:
                assert next(stream) == STREAMED[0]
            else:
                assert list(stream) == STREAMED

    def call_on(self) -> None:
        while True:
            self.any_of_them()

    def any_of_them(self) -> None:
        which = self.chance.randrange(10)
        if which == 0:
            self.stream()
        elif which == 1:
            self.start()
        elif which == 2:
            self.start(sequence_id=1 + self.number % 2, sequence_start=True)
        elif which == 3:
            self.infer(headers={"x-one": "1"}, request_id=str(self.calls))
        elif which == 4:
            self.infer(deadline=30)
        else:
            self.infer()


@pytest.mark.parametrize("several", [False, True], ids=["one server", "two servers"])
@pytest.mark.parametrize(
    "fast", [pytest.param(True, marks=pytest.mark.skipif(not REPEATS, reason="no extension")), False]
)
def test_each_thread_gets_its_own_answers(
    servers: list[Server], fast: bool, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr("tritonhttp._transport.blocking.REPEATS", False)
    before = open_now()
    url: Any = [server.url for server in servers] if several else servers[0].url
    retry = Retry(attempts=3, backoff=0) if several else None
    begun, ended = [0], [0]
    lock = threading.Lock()

    def count(counter: list[int]) -> Any:
        def add(_: object) -> None:
            with lock:
                counter[0] += 1

        return add

    hooks = {"on_request": count(begun), "on_response": count(ended)} if several else {}
    with tritonhttp.InferenceServerClient(url, concurrency=3, retry=retry, **hooks) as client:
        until = time.monotonic() + SECONDS

        def work(number: int) -> None:
            caller = Caller(client, number)
            while time.monotonic() < until or not caller.calls:
                caller.any_of_them()

        run_in_threads(work, range(1, 1 + THREADS))
        gc.collect()
        for server in client.servers:
            pool = client.server(server)._transport.pool if several else client._transport.pool
            assert (pool.holders, list(pool.line), pool.ready) == (set(), [], set())
        assert not client._turns._pools
        assert begun == ended
    settled(before)


def test_calls_keep_their_connections_while_interrupted_ones_look_for_theirs(servers: list[Server]) -> None:
    """As behind each call that an exception has interrupted; the extension takes and gives back meanwhile."""
    before = open_now()
    with tritonhttp.InferenceServerClient(servers[0].url, concurrency=3) as client:
        until = time.monotonic() + SECONDS

        def work(number: int) -> None:
            caller = Caller(client, number)
            while time.monotonic() < until:
                if number:
                    caller.infer()
                else:
                    client._transport._close_lost()

        run_in_threads(work, range(4))
    settled(before)


def test_a_client_that_is_closed_among_calls_ends_them_all(servers: list[Server]) -> None:
    before = open_now()
    for _ in range(8):
        client = tritonhttp.InferenceServerClient(servers[0].url, concurrency=2)
        ready = threading.Barrier(5)

        def work(index: int, client: Any = client, ready: Any = ready) -> None:
            caller = Caller(client, index)
            if not index:
                ready.wait(10)
                time.sleep(random.uniform(0, 0.01))
                client.close()
                return
            ready.wait(10)
            with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
                caller.call_on()

        run_in_threads(work, range(5))
        assert not client._transport.pool.holders
        del client
    settled(before)
