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
        #: One entry for each thread that ended a task since a submission counted on it.
        self._free: deque[None] = deque(maxlen=limit)
        # Reentrant: a client that is dropped while this is held shuts its executor down on this very thread.
        self._lock = threading.RLock()
        self._closed = False
        _executors.add(self)

    def submit(self, task: Task) -> None:
        """Have a task carried out; it must not raise.

        Raises
        ------
        InferenceServerException
            After :meth:`shutdown`, and where the system has no first thread for it.
        """
        with self._lock:
            if self._closed:
                raise InferenceServerException("the client is closed")
            if len(self._threads) < self._limit:
                if self._free:
                    self._free.pop()
                else:
                    self._start()
            self._tasks.put(task)

    def _start(self) -> None:
        # The thread knows nothing of the executor: it keeps neither that nor its client alive.
        name = f"tritonhttp_{len(self._threads)}"
        thread = threading.Thread(target=_work, args=(self._tasks, self._free), name=name)
        try:
            thread.start()
        except RuntimeError as error:
            if self._threads:
                return  # those that there are carry the task out, later
            raise InferenceServerException(
                f"async_infer needs a thread, and there is none: {error}"
            ) from error
        self._threads.append(thread)

    def shutdown(self, *, wait: bool) -> None:
        """Let the threads end behind the tasks that were submitted; with `wait`, wait for them. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()


def _work(tasks: SimpleQueue[Task | None], free: deque[None]) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # or what it holds would live until the next one comes
        free.append(None)
