"""Which connection carries the next request: decided here, carried out by the transports.

The pool holds no lock and does no I/O. A caller takes a place; it gets an idle connection, or leave to open
one, or has to wait in line. Places that become free go to those who wait, first come first served.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["CLOSED", "OPEN", "WAIT", "Pool", "Signal"]

C = TypeVar("C")
W = TypeVar("W")


class Signal:
    """An answer of the pool that is no connection."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


OPEN = Signal("OPEN")
WAIT = Signal("WAIT")
CLOSED = Signal("CLOSED")


class Pool(Generic[C, W]):
    """The books over at most `limit` places for connections of the type C, and over waiters of the type W.

    Parameters
    ----------
    limit : int
        The most connections at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.closed = False
        #: Connections without a request; the last one used comes first, so that the others may grow old.
        self.idle: list[C] = []
        #: Places taken: by requests under way, and by idle connections.
        self.taken = 0
        self.waiters: deque[W] = deque()

    def take(self) -> C | Signal:
        """Take a place: an idle connection, OPEN for a new one, WAIT where all are in use; or CLOSED."""
        if self.idle:
            return self.idle.pop()
        if self.closed:
            return CLOSED
        if self.taken < self.limit:
            self.taken += 1
            return OPEN
        return WAIT

    def wait(self, waiter: W) -> None:
        """Join the line, after :meth:`take` said WAIT."""
        self.waiters.append(waiter)

    def leave(self, waiter: W) -> bool:
        """Leave the line; False where a place was given to the waiter meanwhile."""
        try:
            self.waiters.remove(waiter)
        except ValueError:
            return False
        return True

    def keep(self, connection: C) -> bool:
        """Give a place back with its connection, where nobody waits for it; return whether that is so."""
        if self.waiters or self.closed:
            return False
        self.idle.append(connection)
        return True

    def drop_oldest(self) -> C:
        """Give up the place of the connection that has been idle longest; the caller closes it."""
        self.taken -= 1
        return self.idle.pop(0)

    def give_back(self, connection: C | None) -> W | None:
        """Give a place back, with its connection if that is fit for another request.

        Returns
        -------
        waiter or None
            Who gets the place; the caller hands the connection, or leave to open one, over to it.
        """
        if connection is not None and self.keep(connection):
            return None
        if self.waiters:
            return self.waiters.popleft()
        self.taken -= 1
        return None

    def close(self) -> tuple[list[C], list[W]]:
        """Close the books; return the connections to close and the waiters to turn away."""
        self.closed = True
        idle, self.idle = self.idle, []
        self.taken -= len(idle)
        waiters, self.waiters = list(self.waiters), deque()
        return idle, waiters
