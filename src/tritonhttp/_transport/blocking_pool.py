"""The pool of the blocking client's connections: calls wait in their threads."""

from __future__ import annotations

import sys
import threading
from time import monotonic
from typing import Any, TypeVar

from .failures import cancelled, closed
from .policy import step_timeout
from .pool import Place, Pool

__all__ = ["Bell", "BlockingPool", "is_owned", "this_thread"]

C = TypeVar("C")

#: Bound at import, since the extension identifies threads; gevent's replacement would identify greenlets.
_get_ident = threading.get_ident


class Bell:
    """Wakes the one thread that waits for it. Ringing is one step in C, and may be repeated."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self) -> None:
        try:  # noqa: SIM105  contextlib's suppress would take three frames
            self._lock.release()
        except RuntimeError:  # it has rung
            pass

    def wait(self, seconds: float | None) -> bool:
        """Wait for a ring since the last wait, at most for so many seconds; return whether it rang."""
        return self._lock.acquire(True, -1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))


class BlockingPool(Pool[C]):
    """A pool for threads."""

    def __init__(self, limit: int, lock: Any = None) -> None:
        super().__init__(limit)
        #: Re-entrant: a signal handler may use the pool while its thread holds the lock. Nothing that may block
        #: runs under it: unless gevent has patched it, all greenlets of one thread hold it together.
        self.lock: Any = lock or threading.RLock()

    @property
    def is_interrupted(self) -> bool:
        """Whether this code runs in the middle of one of the pool's methods, as a signal handler does."""
        return is_owned(self.lock)

    def hold(self, place: Place[C], deadline: float | None, *, reserved: bool = False) -> bool:
        """Wait until a place is served; return False if the deadline passed before.

        Parameters
        ----------
        reserved : bool
            Whether the place is already in the line.

        Raises
        ------
        InferenceServerException
            If the pool is closed.
        RequestCancelled
            If the call was cancelled.
        """
        if place.cancelled:
            raise cancelled()
        owners = this_thread()
        place.owner = owners[0]
        nested = place.exceeds or self.is_interrupted
        with self.lock:
            if nested and not self.closed:
                self.exceed(place)
            if place in self.holders or (not reserved and self.take(place)):
                place.served = True
                return True
            if not reserved:
                self.join(place)
            bell = Bell()
            self.wait(place, bell)
            if place not in self.holders and self.is_nested(place, owners) and not self.closed:
                self.exceed(place)
        while True:
            if place.cancelled:
                raise cancelled()
            with self.lock:
                if place in self.holders:
                    self.begin(place)
                    return True
                if self.closed:
                    raise closed()
            left = step_timeout(None, deadline, monotonic())
            if left == 0:
                return False
            bell.wait(left)


def is_owned(lock: Any) -> bool:
    """Whether this thread holds a re-entrant lock."""
    return bool(lock._is_owned())


def this_thread() -> tuple[int, int]:
    """Identify the running greenlet, if there are any, and the thread; without greenlets both are the thread."""
    greenlet, number = sys.modules.get("greenlet"), _get_ident()
    return (id(greenlet.getcurrent()) if greenlet is not None else number), number
