"""Load from an event loop in a thread of its own, with the asyncio client (``--aio``)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any

from ...errors import TransportError
from .load import _LONGEST_PAUSE, _PAUSE, BaseLoad, Recorder, Work
from .schedule import Level

__all__ = ["AioLoad"]

#: Seconds between two looks at how late the loop runs.
_BEAT = 0.01


class AioLoad(BaseLoad):
    """Load from tasks of one event loop.

    Parameters
    ----------
    connect : callable
        Makes the asyncio client; called on the loop.
    """

    def __init__(self, connect: Callable[[], Any], work: Work, workers: int, **options: Any) -> None:
        super().__init__(work, workers, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        self._beats: list[float] = []
        self.client = self._wait(self._connected(connect))

    def _wait(self, work: Coroutine[Any, Any, Any], seconds: float | None = 30) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(seconds)

    @staticmethod
    async def _connected(connect: Callable[[], Any]) -> Any:
        return connect()

    def start(self, level: Level, origin: int) -> None:
        """Begin to send at a level; `origin` is the moment of an open loop's first ticket."""
        self._beats = []
        self._wait(self._start(self._prepare(level, origin)))

    async def _start(self, number: int) -> None:
        self._tasks = set()
        self._over = asyncio.Event()
        await self._hire(number)
        self._heart = asyncio.create_task(self._beat())

    def tend(self) -> None:
        """Add workers to an open loop if all are busy. Call this often."""
        if self.crowded:
            self._wait(self._hire(min(len(self.busy), self.most - len(self.busy))))

    def end(self, seconds: float) -> bool:
        """Send no more, and wait for the answers for so long; return whether all have come."""
        with suppress(FutureTimeout):
            return bool(self._wait(self._end(seconds), seconds + 10))
        return False

    async def _end(self, seconds: float) -> bool:
        self.stopped = True
        self._over.set()
        self._heart.cancel()
        waiting = set(self._tasks)
        if waiting:
            _, waiting = await asyncio.wait(waiting, timeout=seconds)
        for task in waiting:
            task.cancel()
        return not waiting

    @property
    def done(self) -> bool:
        """Whether a level with a count has made all its calls."""
        return all(task.done() for task in list(self._tasks))

    @property
    def lag(self) -> float:
        """By how many seconds the event loop was late, at the 99th percentile since the start."""
        beats = sorted(self._beats)
        return beats[int(len(beats) * 0.99)] if beats else 0.0

    def stats(self) -> tuple[float, int]:
        """Return the CPU seconds of this process, and how many requests were sent again."""
        stats = self.client.stats()
        return time.process_time(), stats.retries + stats.resent

    def close(self) -> None:
        """Close the connections and the loop."""
        self.stopped = True
        with suppress(Exception):  # the end is near in any case
            self._wait(self.client.close(), 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _beat(self) -> None:
        clock = self._loop.time
        while True:
            before = clock()
            await asyncio.sleep(_BEAT)
            self._beats.append(clock() - before - _BEAT)

    async def _hire(self, number: int) -> None:
        for _ in range(number):
            recorder, worker = Recorder(), len(self.busy)
            self.busy.append(0)
            self.recorders.append(recorder)
            calls = self.work.awaited(self.client, recorder, worker * self.parts + self.index)
            run = self._open if self.schedule is not None else self._closed
            self._tasks.add(asyncio.create_task(run(worker, recorder, calls)))

    async def _closed(self, worker: int, recorder: Recorder, calls: Iterator[Callable[[], Any]]) -> None:
        clock = time.perf_counter_ns
        start_at, end_at, kind_is = recorder.starts.append, recorder.ends.append, recorder.kinds.append
        pause = 0.0
        for _ in self.tickets:
            if self.stopped:
                break
            call = next(calls)
            start = clock()
            try:
                await call()
            except Exception as error:
                end = clock()
                kind_is(self.failures.note(error))
                if isinstance(error, TransportError):
                    pause = min(max(pause * 2, _PAUSE), _LONGEST_PAUSE)
                    await asyncio.sleep(pause)
            else:
                end = clock()
                kind_is(0)
                pause = 0.0
            start_at(start)
            end_at(end)
        await self._finish(recorder)

    @staticmethod
    async def _finish(recorder: Recorder) -> None:
        if recorder.finish is not None:
            with suppress(Exception):
                await recorder.finish()

    async def _open(self, worker: int, recorder: Recorder, calls: Iterator[Callable[[], Any]]) -> None:
        assert self.schedule is not None
        schedule, origin, busy = self.schedule, self.origin, self.busy
        clock = time.perf_counter_ns
        for ticket in self.tickets:
            due = origin + schedule(ticket)
            while (delay := (due - clock()) / 1e9) > 0 and not self.stopped:
                await asyncio.sleep(min(delay, 0.1))
            if self.stopped:
                break
            call = next(calls)
            busy[worker] = 1
            start = clock()
            kind = 0
            try:
                await call()
            except Exception as error:
                kind = self.failures.note(error)
            end = clock()
            busy[worker] = 0
            recorder.kinds.append(kind)
            recorder.tickets.append(ticket)
            recorder.starts.append(start)
            recorder.ends.append(end)
        busy[worker] = 0
        await self._finish(recorder)
