"""Ends inferences that are still in line when their deadlines pass, on one thread for all of a process.

A thread in `get_result` sees to that by itself. Callbacks, `concurrent.futures.wait` and asyncio do not.
The thread starts when there is something to watch, and ends soon after there is not.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from time import monotonic
from typing import Protocol

from ..._basics.log import logger
from ..._transport.blocking_pool import Bell

__all__ = ["watch"]

#: The longest wait of the thread in seconds, before it looks which tasks have begun.
_TICK = 0.5


class _Task(Protocol):
    @property
    def is_begun(self) -> bool: ...

    def expire(self) -> object: ...


class _Watch:
    """The tasks that are watched, each with its deadline on the monotonic clock."""

    def __init__(self) -> None:
        # Re-entrant, because a signal handler may use it on the thread that holds it.
        self._lock = threading.RLock()
        self._tasks: list[tuple[float, _Task]] = []
        self._thread: threading.Thread | None = None
        self._next = 0.0
        self._bell = Bell()

    def add(self, until: float, task: _Task) -> None:
        thread = None
        with self._lock:
            self._tasks.append((until, task))
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._work, name="tritonhttp-deadlines", daemon=True)
                self._thread = thread
            elif until < self._next:
                self._bell()
        if thread is not None:
            with suppress(
                RuntimeError
            ):  # no thread to be had: the task ends when one of the client's takes it
                thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                now = monotonic()
                due = [task for until, task in self._tasks if until <= now]
                self._tasks = [each for each in self._tasks if each[0] > now and not each[1].is_begun]
                if not self._tasks and not due:
                    self._thread = None
                    return
                self._next = min((until for until, _ in self._tasks), default=now)
                self._bell = bell = Bell()
            for task in due:
                try:
                    task.expire()
                except Exception:
                    logger.exception("an inference whose deadline passed was not withdrawn")
            if not due:
                bell.wait(min(self._next - now, _TICK))
            del due[:]


_watch = _Watch()


def _in_child() -> None:
    global _watch
    _watch = _Watch()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def watch(until: float, task: _Task) -> None:
    """Have a task's `expire` called at a time on the monotonic clock, unless it has begun by then."""
    _watch.add(until, task)
