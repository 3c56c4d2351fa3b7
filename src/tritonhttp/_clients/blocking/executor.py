"""Threads for `async_infer`: a few, started on demand, that share one queue of tasks.

`concurrent.futures` would add a third to a small request, above all for its futures. As there, the interpreter's
exit waits for accepted tasks, and gevent's replacements are used if the program has patched them in.
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


# As concurrent.futures does it. With atexit the interpreter would first wait for idle threads, for ever.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
if hasattr(os, "register_at_fork"):
    # The threads exist only in the parent.
    os.register_at_fork(after_in_child=_executors.clear)


class Executor:
    """Runs tasks in the order in which they were submitted, several at a time.

    Only the choice of threads to start takes a lock. A task may come under another lock that a signal handler
    wants, while the thread that it interrupted holds ours: a deadlock. So the steps of the rest are atomic.

    Parameters
    ----------
    limit : int
        The maximum number of threads.
    """

    def __init__(self, limit: int) -> None:
        from queue import SimpleQueue

        self._limit = limit
        #: Identifies the kind of threads, because gevent and eventlet may patch them later.
        self.kind = socket.socket
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        #: Each thread adds itself too, because an interrupt may hit the code that starts it.
        self._threads: set[threading.Thread] = set()
        self._starting: set[threading.Thread] = set()
        #: Tasks that will be put in the queue.
        self._accepted: set[Task] = set()
        #: One entry for each task in the queue that :meth:`hire` has not seen.
        self._started: deque[None] = deque()
        #: Idle workers not yet claimed.
        self._free: deque[None] = deque(maxlen=limit)
        # Re-entrant, because a signal handler or a dropped client may use it on the thread that holds it.
        self._lock = threading.RLock()
        self._closed = False
        _executors.add(self)

    def __del__(self) -> None:
        # A signal handler may have made another one for its client while this one was being made.
        if hasattr(self, "_closed"):
            self.shutdown(wait=False)

    def accept(self, task: Task) -> None:
        """Promise to run a task, which must not raise. :meth:`put` or :meth:`drop` must follow.

        Raises
        ------
        InferenceServerException
            After :meth:`shutdown`.
        """
        self._accepted.add(task)  # before the look: a shutdown that came in between waits for it
        if self._closed:
            self.drop(task)
            raise InferenceServerException("the client is closed")

    def submit(self, task: Task) -> None:
        """Put a task in the queue, which must not raise. :meth:`hire` must follow.

        The caller's lock keeps a shutdown out, except the one at the interpreter's exit.

        Raises
        ------
        InferenceServerException
            After :meth:`shutdown`.
        """
        if self._closed:
            raise InferenceServerException("the client is closed")
        self._tasks.put(task)
        try:
            self._free.pop()
        except IndexError:
            if len(self._threads) < self._limit:
                self._started.append(None)

    def put(self, task: Task) -> None:
        """Put an accepted task in the queue. :meth:`hire` must follow."""
        self._tasks.put(task)
        self._started.append(None)
        self.drop(task)

    def drop(self, task: Task) -> None:
        """Forget an accepted task."""
        self._accepted.discard(task)
        if self._closed and not self._accepted:
            self._tasks.put(None)  # also behind another None, which ends the threads as well

    def hire(self) -> None:
        """Start threads for tasks in the queue, unless idle ones are free.

        No lock is held while a thread starts, because under gevent that switches to other greenlets.

        Raises
        ------
        InferenceServerException
            If the system cannot start even one thread.
        """
        while self._started:
            try:
                self._started.pop()
            except IndexError:  # another thread was faster
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
            # The thread has no reference to the executor, so it keeps neither that nor its client alive.
            thread = threading.Thread(
                target=_work, args=(self._tasks, self._free, self._threads), name=f"tritonhttp_{number}"
            )
            self._starting.add(thread)
        try:
            thread.start()
            self._threads.add(thread)
        except RuntimeError as error:
            if not self._threads:  # otherwise the existing threads run the task later
                raise InferenceServerException(
                    f"async_infer needs a thread, and there is none: {error}"
                ) from error
        finally:
            self._starting.discard(thread)

    def shutdown(self, *, wait: bool) -> None:
        """Let the threads end after the submitted tasks; with `wait`, wait for them. Idempotent.

        One of the threads itself, which calls this in a callback or hook, does not wait.
        """
        self._closed = True
        if not self._accepted:
            self._tasks.put(None)
        if wait and threading.current_thread() not in self._threads:
            while self._accepted:  # tasks that wait for their sequence's turn
                time.sleep(0.005)
            for thread in list(self._threads):
                thread.join()


def _work(tasks: SimpleQueue[Task | None], free: deque[None], threads: set[threading.Thread]) -> None:
    threads.add(threading.current_thread())
    while (task := tasks.get()) is not None:
        task()
        del task  # otherwise it would keep its data alive until the next task
        free.append(None)
    tasks.put(None)  # for the next thread
