"""Load from threads, each with the plain blocking call: measured, this costs less than asyncio or `async_infer`.

A worker takes a ticket, waits until it is due if the loop is open, makes a call, and notes two times and the
outcome. It appends to arrays of its own, so the thread that measures can read along.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from ...errors import InferenceServerException, ServerError, TransportError
from .figures import Records, joined
from .schedule import Level, Schedule

__all__ = ["BaseLoad", "Failures", "Recorder", "ThreadLoad", "Work", "WrongAnswer"]

#: Workers of an open loop at its start; more come when all are busy.
_FIRST_WORKERS = 16
#: Seconds before a due time from which on a worker sleeps exactly; until then it can be woken.
_LAST_NAP = 0.02
#: A closed loop would ask a dead server without pause; seconds, doubled with each failure in a row.
_PAUSE, _LONGEST_PAUSE = 0.001, 0.1


class WrongAnswer(Exception):
    """The answer is not the expected one."""


class Recorder:
    """What one worker notes."""

    def __init__(self) -> None:
        self.tickets, self.starts, self.ends = array("q"), array("q"), array("q")
        self.kinds = array("h")
        self.payloads, self.sequences = array("q"), array("q")
        self.answers, self.times = array("q"), array("q")
        self._taken = self._taken_times = 0
        #: Ends the sequence that is open, so that it does not hold a place in the server.
        self.finish: Callable[[], Any] | None = None

    def take(self, due: Callable[[Any], Any] | None) -> Records:
        """Return what is new. `due` makes intended starts of tickets; None: requests are due when they start."""
        begin, end = self._taken, len(self.ends)  # appended last, so the others are at least as long
        self._taken = end

        def part(values: array[int], kind: Any = np.int64) -> Any:
            return np.array(values[begin:end], kind)

        answers = part(self.answers) if self.answers else np.empty(0, np.int64)
        first = self._taken_times
        self._taken_times = first + int(answers.sum())
        starts = part(self.starts)
        return Records(
            due=starts if due is None else due(part(self.tickets)),
            start=starts,
            end=part(self.ends),
            kind=part(self.kinds, np.int16),
            payload=part(self.payloads) if self.payloads else np.empty(0, np.int64),
            sequence=part(self.sequences) if self.sequences else np.empty(0, np.int64),
            answers=answers,
            times=np.array(self.times[first : self._taken_times], np.int64),
        )


class Work(Protocol):
    """What is asked: endless calls for a worker, which note payload, sequence and answers in its recorder."""

    def calls(self, client: Any, recorder: Recorder, worker: int) -> Iterator[Callable[[], object]]:
        """Return the calls of the blocking client."""
        ...

    def awaited(self, client: Any, recorder: Recorder, worker: int) -> Iterator[Callable[[], Any]]:
        """Return those of the asyncio client."""
        ...


class Failures:
    """The kinds of errors that came, by number from 1 on, each with the words of its first."""

    def __init__(self) -> None:
        self.names = ["answered"]
        self.words: dict[str, str] = {}
        self._lock = threading.Lock()

    def note(self, error: BaseException) -> int:
        """Return the number of an error's kind."""
        if isinstance(error, WrongAnswer):
            name = "wrong answer"
        elif isinstance(error, ServerError):
            name = f"HTTP {error.status()}" if error.status() else "error in the stream"
        else:
            name = type(error).__name__
        with self._lock:
            if name not in self.words:
                words = error.message() if isinstance(error, InferenceServerException) else error
                self.words[name] = " ".join(str(words).split())[:300]
                self.names.append(name)
            return self.names.index(name)


class BaseLoad:
    """What both kinds of load share: tickets, records, the end.

    Parameters
    ----------
    work : Work
    workers : int
        The most requests in flight in an open loop.
    fixed : bool
        Whether an open loop has all its workers from the beginning, as sequences need them.
    index, parts : int
        Which of several processes this is: it takes each `parts`-th ticket.
    """

    def __init__(
        self, work: Work, workers: int, *, fixed: bool = False, index: int = 0, parts: int = 1
    ) -> None:
        self.work, self.most, self.fixed = work, workers, fixed
        self.index, self.parts = index, parts
        self.failures = Failures()
        self.origin = 0
        self.stopped = False
        self.schedule: Schedule | None = None
        self.recorders: list[Recorder] = []
        self.busy: list[int] = []
        self.level = Level(concurrency=1)
        #: Whether all workers of an open loop were busy, so that requests had to wait.
        self.full = False

    def _prepare(self, level: Level, origin: int) -> int:
        """Get ready for a level; return how many workers it begins with."""
        self.level = level.share(self.index, self.parts)
        self.origin = origin
        self.stopped = self.full = False
        self.schedule = Schedule(level) if level.open else None
        self.recorders, self.busy = [], []
        if level.open:
            # The next of an itertools iterator is one step of C: threads need no lock.
            first, step = self.index, self.parts
            self.tickets: Iterator[int] = (
                iter(range(first, level.count, step)) if level.count else itertools.count(first, step)
            )
            return self.most if self.fixed else min(self.most, _FIRST_WORKERS)
        self.tickets = iter(range(self.level.count)) if self.level.count else itertools.repeat(0)
        return self.level.concurrency

    def due(self, tickets: Any) -> Any:
        """Return the intended starts of tickets on the clock."""
        assert self.schedule is not None
        return self.schedule.all(tickets) + self.origin

    def take(self) -> Records:
        """Return the requests that have ended since the last look."""
        due = self.due if self.schedule is not None else None
        return joined([recorder.take(due) for recorder in list(self.recorders)])

    @property
    def crowded(self) -> bool:
        """Whether an open loop has no worker for the next request, and may have more."""
        if self.schedule is None or not self.busy or not all(self.busy):
            return False
        self.full = self.full or len(self.busy) >= self.most
        return len(self.busy) < self.most


class ThreadLoad(BaseLoad):
    """Load from threads of this process.

    Parameters
    ----------
    client : InferenceServerClient
        With as many connections as requests may be in flight.
    """

    def __init__(self, client: Any, work: Work, workers: int, **options: Any) -> None:
        super().__init__(work, workers, **options)
        self.client = client
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def start(self, level: Level, origin: int) -> None:
        """Begin to send at a level; `origin` is the moment of an open loop's first ticket."""
        self._over.clear()
        self._threads = []
        self._hire(self._prepare(level, origin))

    def tend(self) -> None:
        """Add workers to an open loop if all are busy. Call this often."""
        if self.crowded:
            self._hire(min(len(self.busy), self.most - len(self.busy)))

    def end(self, seconds: float) -> bool:
        """Send no more, and wait for the answers for so long; return whether all have come."""
        self.stopped = True
        self._over.set()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def done(self) -> bool:
        """Whether a level with a count has made all its calls."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def lag(self) -> float:
        """How late the event loop ran; threads have none."""
        return 0.0

    def stats(self) -> tuple[float, int]:
        """Return the CPU seconds of this process, and how many requests were sent again."""
        stats = self.client.stats()
        return time.process_time(), stats.retries + stats.resent

    def close(self) -> None:
        """Close the connections, also those of calls that have not ended."""
        self.stopped = True
        self._over.set()
        self.client.close()

    def _hire(self, number: int) -> None:
        for _ in range(number):
            recorder, worker = Recorder(), len(self.busy)
            self.busy.append(0)
            self.recorders.append(recorder)
            calls = self.work.calls(self.client, recorder, worker * self.parts + self.index)
            target = self._open if self.schedule is not None else self._closed
            thread = threading.Thread(target=target, args=(worker, recorder, calls), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _closed(self, worker: int, recorder: Recorder, calls: Iterator[Callable[[], object]]) -> None:
        clock = time.perf_counter_ns
        start_at, end_at, kind_is = recorder.starts.append, recorder.ends.append, recorder.kinds.append
        pause = 0.0
        for _ in self.tickets:
            if self.stopped:
                break
            call = next(calls)
            start = clock()
            try:
                call()
            except Exception as error:
                end = clock()
                kind_is(self.failures.note(error))
                if isinstance(error, TransportError):
                    pause = min(max(pause * 2, _PAUSE), _LONGEST_PAUSE)
                    self._over.wait(pause)
            else:
                end = clock()
                kind_is(0)
                pause = 0.0
            start_at(start)
            end_at(end)
        self._finish(recorder)

    def _open(self, worker: int, recorder: Recorder, calls: Iterator[Callable[[], object]]) -> None:
        assert self.schedule is not None
        schedule, origin, busy = self.schedule, self.origin, self.busy
        clock, sleep = time.perf_counter_ns, time.sleep
        start_at, end_at, kind_is = recorder.starts.append, recorder.ends.append, recorder.kinds.append
        ticket_is = recorder.tickets.append
        _sleep_exactly()
        for ticket in self.tickets:
            due = origin + schedule(ticket)
            delay = (due - clock()) / 1e9
            if delay > _LAST_NAP and self._over.wait(delay - _LAST_NAP):
                break
            delay = (due - clock()) / 1e9
            if delay > 0:
                sleep(delay)
            if self.stopped:
                break
            call = next(calls)
            busy[worker] = 1
            start = clock()
            try:
                call()
            except Exception as error:
                end = clock()
                kind_is(self.failures.note(error))
            else:
                end = clock()
                kind_is(0)
            busy[worker] = 0
            ticket_is(ticket)
            start_at(start)
            end_at(end)
        busy[worker] = 0
        self._finish(recorder)

    @staticmethod
    def _finish(recorder: Recorder) -> None:
        if recorder.finish is not None:
            with suppress(Exception):
                recorder.finish()


def _sleep_exactly() -> None:
    """Let the kernel wake this thread without its usual slack of 50 µs; Linux only."""
    if sys.platform != "linux":
        return
    import ctypes

    set_timer_slack = 29
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_timer_slack, 1, 0, 0, 0)
