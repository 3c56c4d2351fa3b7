"""Load from several processes, each with a load of its own: beyond one core of Python (``--processes``).

A process obeys one order at a time over a pipe. All share the system's monotonic clock, and the tickets of an open
loop are dealt out in turn, so together they send what one would.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from .figures import Records, joined
from .load import Failures
from .schedule import Level

__all__ = ["ProcessesLoad"]

_START_TIMEOUT = 60.0


def _serve(
    pipe: multiprocessing.connection.Connection, build: Callable[[int, int], Any], index: int, parts: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    try:
        load = build(index, parts)
    except BaseException as error:
        pipe.send((0, error))
        return
    over = threading.Event()
    threading.Thread(target=_tend, args=(load, over), daemon=True).start()
    pipe.send((0, None))
    try:
        while True:
            number, name, arguments = pipe.recv()
            if name == "take":
                answer: Any = (load.take(), load.failures.names, load.failures.words)
            elif name == "look":
                answer = (load.done, load.lag, load.stats(), load.full)
            else:
                answer = getattr(load, name)(*arguments)
            pipe.send((number, answer))
            if name == "close":
                return
    except (EOFError, OSError):  # the parent is gone
        pass
    finally:
        over.set()


def _tend(load: Any, over: threading.Event) -> None:
    while not over.wait(0.02):
        load.tend()


class ProcessesLoad:
    """The load of several processes, with the methods of one.

    Parameters
    ----------
    build : callable
        Makes the load of a process, from its index and their number; must be picklable.
    parts : int
    """

    def __init__(self, build: Callable[[int, int], Any], parts: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.failures = Failures()
        self._pipes = []
        self._processes = []
        self._number = 0
        for index in range(parts):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, build, index, parts), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for error in self._answers(_START_TIMEOUT):
            if error is not None:
                self.close()
                raise error

    def start(self, level: Level, origin: int) -> None:
        """Begin to send at a level in all processes."""
        self._all("start", level, origin)

    def tend(self) -> None:
        """Do nothing: each process tends to itself."""

    def end(self, seconds: float) -> bool:
        """Send no more, and wait for the answers."""
        return all(self._all("end", seconds, limit=seconds + 20))

    def take(self) -> Records:
        """Return the requests that have ended since the last look."""
        parts = []
        for records, names, words in self._all("take"):
            kinds = np.zeros(len(names), np.int16)
            for number, name in enumerate(names[1:], 1):
                if name not in self.failures.words:
                    self.failures.words[name] = words[name]
                    self.failures.names.append(name)
                kinds[number] = self.failures.names.index(name)
            values = {field: getattr(records, field) for field in Records.__dataclass_fields__}
            parts.append(Records(**{**values, "kind": kinds[records.kind]}))
        return joined(parts)

    @property
    def done(self) -> bool:
        """Whether all have made all their calls."""
        return all(done for done, *_ in self._all("look"))

    @property
    def lag(self) -> float:
        """How late the latest event loop ran."""
        return max(float(lag) for _, lag, *_ in self._all("look"))

    @property
    def full(self) -> bool:
        """Whether one ran out of workers."""
        return any(full for *_, full in self._all("look"))

    def stats(self) -> tuple[float, int]:
        """Return the CPU seconds of all, and how many requests were sent again."""
        found = [stats for _, _, stats, _ in self._all("look")]
        return sum(cpu for cpu, _ in found), sum(again for _, again in found)

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            with suppress(OSError, ValueError):
                pipe.send((-1, "close", ()))
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()

    def _all(self, name: str, *arguments: Any, limit: float = 30.0) -> list[Any]:
        self._number += 1
        for pipe in self._pipes:
            pipe.send((self._number, name, arguments))
        return self._answers(limit)

    def _answers(self, limit: float) -> list[Any]:
        found = []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            number, answer = -1, None
            try:
                while number != self._number:  # an interrupt may have left an answer unread
                    if not pipe.poll(limit):
                        raise RuntimeError(f"a process of the load gave no answer within {limit:g} s")
                    number, answer = pipe.recv()
                found.append(answer)
            except (EOFError, OSError):
                process.join(5)
                raise RuntimeError(f"a process of the load ended with {process.exitcode}") from None
        return found
