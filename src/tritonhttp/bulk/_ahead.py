"""A thread that reads ahead, and one that writes behind. What they raise comes out where they are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

__all__ = ["Behind", "ahead"]

T = TypeVar("T")

_END = object()
#: Seconds between two looks at whether the other side has gone.
_LOOK = 0.1


def ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """Yield the items of an iterator that a thread reads, so many of them ahead."""
    queue: Queue[Any] = Queue(most)
    ended = threading.Event()

    def put(item: Any) -> bool:
        while not ended.is_set():
            try:
                queue.put(item, timeout=_LOOK)
                return True
            except Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=read, name="tritonhttp.bulk.read", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        ended.set()
        thread.join()


class Behind(Generic[T]):
    """A thread that carries out a function on items, in their order.

    Parameters
    ----------
    work : callable
    most : int
        How many items may wait; `put` waits for room.
    """

    def __init__(self, work: Callable[[T], object], most: int) -> None:
        self._work, self._queue = work, Queue[Any](most)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tritonhttp.bulk.write", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                item = self._queue.get(timeout=_LOOK)
            except Empty:
                continue
            if item is _END:
                return
            try:
                self._work(item)
            except BaseException as error:
                self._error = error
                self._ended.set()

    def put(self, item: T | object) -> None:
        """Give the thread an item, unless it has ended; raise what it failed with."""
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=_LOOK)
            except Full:
                continue
            return
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Wait until all is done."""
        self.put(_END)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End after the item that is being worked on."""
        self._ended.set()
        self._thread.join()
