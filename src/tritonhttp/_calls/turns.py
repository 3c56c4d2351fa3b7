"""The order of a sequence's requests: each call has its turn, one after the other.

A turn is a place in a pool of one; the two kinds of client have pools of their own, which wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from .._transport.pool import Place, Pool

__all__ = ["Turn", "Turns"]

P = TypeVar("P", bound=Pool[Any])


class Turns(Generic[P]):
    """Lets the calls of one sequence go one after the other, in the order in which they were made.

    Parameters
    ----------
    pool : callable
        Makes a pool of the caller's kind, of a limit and a lock.
    then : callable, optional
        Is called, without a lock, when a turn has been given back.
    """

    def __init__(self, pool: Callable[[int, Any], P], then: Callable[[], object] = lambda: None) -> None:
        self.lock = threading.RLock()
        self.then = then
        self._make = pool
        self._pools: dict[Hashable, P] = {}


class Turn(Generic[P]):
    """A call's turn among those of its sequence: in line once it has joined, until the end of its block.

    Use it twice, ``with turn, turn:``, so that an interrupt in the first end leaves it to the second.
    """

    def __init__(self, turns: Turns[P], key: Hashable) -> None:
        self.place: Place[None] = Place()
        self._turns, self._key = turns, key
        self.pool: P | None = None

    def join(self, wake: Callable[[], object] | None = None, *, first: bool = False) -> None:
        """Join the line of the sequence.

        Parameters
        ----------
        wake : callable, optional
            Is told when the turn has come; without it the pool's `hold` waits for that.
        first : bool
            Whether it interrupts a call of the same thread that is about to join.
        """
        turns, place = self._turns, self.place
        with turns.lock:
            self.pool = pool = turns._pools.setdefault(self._key, turns._make(1, turns.lock))
            place.served = first
            pool.join(place)
            if wake is not None:
                pool.wait(place, wake)

    def __enter__(self) -> Turn[P]:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the next one have its turn. Idempotent."""
        turns, pool = self._turns, self.pool
        if pool is None:
            return
        with turns.lock:
            pool.give_back(self.place, reusable=False)
            if not pool.holders and not pool.line and turns._pools.get(self._key) is pool:
                turns._pools.pop(self._key, None)
                if pool.holders or pool.line:  # of a handler that came in between
                    turns._pools.setdefault(self._key, pool)
        turns.then()
