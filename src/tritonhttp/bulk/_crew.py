"""Threads that carry out calls, as many as a limit says that may change at any time.

Each thread makes whole calls: handing single ones over between threads costs more than all else on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

__all__ = ["Crew"]

T = TypeVar("T")

#: Seconds between two looks of the thread that waits, and that all calls under way have to end after an error.
_LOOK, _GRACE = 0.1, 5.0


class Crew(Generic[T]):
    """Carry out `work` on each item of an iterator, on several threads.

    Parameters
    ----------
    items : iterator
        Read by one thread at a time.
    work : callable
    limit : callable
        How many may be at work now.
    """

    def __init__(self, items: Iterator[T], work: Callable[[T], object], limit: Callable[[], int]) -> None:
        self._items, self._work, self._limit = items, work, limit
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        #: Whether no more items are worked on.
        self.is_over = False
        self._error: BaseException | None = None

    def run(self, tick: Callable[[], object]) -> None:
        """Carry all out; call `tick` now and then; raise what failed first."""
        try:
            self.grow()
            while True:
                with self._changed:
                    if not self._threads or self._error is not None:
                        break
                    self._changed.wait(_LOOK)
                tick()
            if self._error is not None:
                raise self._error
        finally:
            self.is_over = True
            limit = monotonic() + _GRACE
            for thread in [*self._threads]:
                thread.join(max(0.0, limit - monotonic()))

    def grow(self) -> None:
        """Start threads if there may be more."""
        with self._changed:
            while not self.is_over and len(self._threads) < self._limit():
                thread = threading.Thread(target=self._run, name="tritonhttp.bulk.call", daemon=True)
                thread.start()  # first: Ctrl-C may come between, and only what has started can be joined
                self._threads.add(thread)

    def _stays(self, me: threading.Thread) -> bool:
        """Whether a thread may take another item; one too many leaves, under the lock, so that not all do."""
        with self._changed:
            if len(self._threads) > self._limit():
                self._threads.discard(me)
            return me in self._threads and not self.is_over

    def _run(self) -> None:
        me = threading.current_thread()
        try:
            while self._stays(me):
                with self._reading:
                    item = None if self.is_over else next(self._items, None)
                    if item is None or self.is_over:
                        self.is_over = True
                        break
                self._work(item)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
            self.is_over = True
        finally:
            with self._changed:
                self._threads.discard(me)
                self._changed.notify_all()


def closed(items: object) -> None:
    """Close a generator, unless a thread is still in it."""
    with suppress(ValueError):
        items.close()  # type: ignore[attr-defined]
