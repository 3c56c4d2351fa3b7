"""Threads for `async_infer`: a few, started when needed, over one line of tasks.

What `concurrent.futures` does besides, its futures above all, costs a third of a small request. As there, the
interpreter's exit waits for the tasks that were accepted, and gevent's replacements are used where a program has
put them in.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import InferenceServerException

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
        #: Whose threads these are: gevent and eventlet may put theirs in place later.
        self.kind = socket.socket
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        #: Each adds itself too, since an interrupt may come to whoever starts it.
        self._threads: set[threading.Thread] = set()
        self._starting: set[threading.Thread] = set()
        #: Tasks that will be put in the line, and how many were that nobody has hired for.
        self._accepted: set[Task] = set()
        self._started: deque[None] = deque()
        #: Idle workers that no task counts on yet.
        self._free: deque[None] = deque(maxlen=limit)
        # Re-entrant: a signal's handler, or a client that is dropped, may use it on the thread that holds it.
        self._lock = threading.RLock()
        self._closed = False
        _executors.add(self)

    def accept(self, task: Task) -> None:
        """Promise to carry out a task, which must not raise; :meth:`put` has to follow, or :meth:`drop`.

        Raises
        ------
        InferenceServerException
            After :meth:`shutdown`.
        """
        with self._lock:
            if self._closed:
                raise InferenceServerException("the client is closed")
            self._accepted.add(task)

    def submit(self, task: Task) -> None:
        """Accept a task, and put it in the line.

        Raises
        ------
        InferenceServerException
            After :meth:`shutdown`.
        """
        with self._lock:
            if self._closed:
                raise InferenceServerException("the client is closed")
            self._tasks.put(task)
            try:
                self._free.pop()
            except IndexError:
                if len(self._threads) < self._limit:
                    self._started.append(None)

    def put(self, task: Task) -> None:
        """Put a task in the line; :meth:`hire` has to follow."""
        with self._lock:
            self._tasks.put(task)
            self._started.append(None)
            self.drop(task)

    def drop(self, task: Task) -> None:
        """Forget a task that was accepted."""
        with self._lock:
            self._accepted.discard(task)
            if self._closed and not self._accepted:
                self._tasks.put(None)

    def hire(self) -> None:
        """Start threads for the tasks that were put in the line, as far as none are free.

        No lock is held while a thread starts: under gevent that lets other greenlets run.

        Raises
        ------
        InferenceServerException
            If the system has no first thread for it.
        """
        while self._started:
            try:
                self._started.pop()
            except IndexError:  # another thread hires
                return
            self._hire()

    def _hire(self) -> None:
        with self._lock:
            if self._free:
                self._free.pop()
                return
            number = len(self._threads | self._starting)
            if number >= self._limit:
                return
            # The thread knows nothing of the executor: it keeps neither that nor its client alive.
            thread = threading.Thread(
                target=_work, args=(self._tasks, self._free, self._threads), name=f"tritonhttp_{number}"
            )
            self._starting.add(thread)
        try:
            thread.start()
            self._threads.add(thread)
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
            self._closed = True
            if not self._accepted:
                self._tasks.put(None)
        if wait:
            while self._accepted:  # behind calls of their sequences that other threads make
                time.sleep(0.005)
            for thread in list(self._threads):
                thread.join()


def _work(tasks: SimpleQueue[Task | None], free: deque[None], threads: set[threading.Thread]) -> None:
    threads.add(threading.current_thread())
    while (task := tasks.get()) is not None:
        task()
        del task  # or what it holds would live until the next one comes
        free.append(None)
    tasks.put(None)  # for the next thread
