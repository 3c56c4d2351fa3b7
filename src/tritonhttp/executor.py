"""Threads for `async_infer`: a few, started when needed, over one line of tasks.

What `concurrent.futures` does besides, its futures above all, costs a third of a small request. As there, the
interpreter's exit waits for the tasks that were accepted, and gevent's replacements are used where a program has
put them in.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import InferenceServerException

if TYPE_CHECKING:
    from queue import SimpleQueue

__all__ = ["Executor"]

Task = Callable[[], None]

_executors: weakref.WeakSet[Executor] = weakref.WeakSet()


def _at_exit() -> None:
    for executor in list(_executors):
        executor.shutdown(wait=True)


# Behind the interpreter's own wait for threads an idle one would keep it for ever: as concurrent.futures does it.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
if hasattr(os, "register_at_fork"):
    # The threads are the parent's.
    os.register_at_fork(after_in_child=_executors.clear)


class Executor:
    """Carries out tasks in the order in which they were submitted, several at a time.

    Parameters
    ----------
    limit : int
        The most threads.
    """

    def __init__(self, limit: int) -> None:
        from queue import SimpleQueue

        self._limit = limit
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting: set[threading.Thread] = set()
        #: Idle workers that no task counts on yet.
        self._free: deque[None] = deque(maxlen=limit)
        # Re-entrant: a signal's handler, or a client that is dropped, may use it on the thread that holds it.
        self._lock = threading.RLock()
        self._closed = False
        _executors.add(self)

    def put(self, task: Task) -> None:
        """Put a task in the line; it must not raise. :meth:`hire` has to follow.

        Raises
        ------
        InferenceServerException
            After :meth:`shutdown`.
        """
        with self._lock:
            if self._closed:
                raise InferenceServerException("the client is closed")
            self._tasks.put(task)

    def hire(self) -> None:
        """Start a thread for a task that was put in the line, if none is free.

        No lock is held while a thread starts: under gevent that lets other greenlets run.

        Raises
        ------
        InferenceServerException
            If the system has no first thread for it.
        """
        with self._lock:
            if self._free:
                self._free.pop()
                return
            number = len(self._threads) + len(self._starting)
            if number >= self._limit or self._closed:
                return
            # The thread knows nothing of the executor: it keeps neither that nor its client alive.
            thread = threading.Thread(
                target=_work, args=(self._tasks, self._free), name=f"tritonhttp_{number}"
            )
            self._starting.add(thread)
        try:
            thread.start()
            self._threads.append(thread)
        except RuntimeError as error:
            if not self._threads:  # otherwise those that there are carry the task out, later
                raise InferenceServerException(
                    f"async_infer needs a thread, and there is none: {error}"
                ) from error
        finally:
            self._starting.discard(thread)

    def shutdown(self, *, wait: bool) -> None:
        """Let the threads end behind the tasks that were submitted; with `wait`, wait for them. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._tasks.put(None)
        if wait:
            for thread in list(self._threads):
                thread.join()


def _work(tasks: SimpleQueue[Task | None], free: deque[None]) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # or what it holds would live until the next one comes
        free.append(None)
    tasks.put(None)  # for the next thread
