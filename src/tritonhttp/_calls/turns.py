"""The order of a sequence's requests: one call at a time.

A turn is a place in a pool of one; the pools of the two clients wait in their own ways.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from .._transport.pool import Place, Pool

__all__ = ["Turn", "Turns"]

P = TypeVar("P", bound=Pool[Any])


class Turns(Generic[P]):
    """Lets the calls of each sequence run one after the other, in the order in which they were made.

    Parameters
    ----------
    pool : callable
        Makes the client's kind of pool from a limit and a lock.
    then : callable, optional
        Called, without a lock, after a turn was given back.
    """

    def __init__(self, pool: Callable[[int, Any], P], then: Callable[[], object] = lambda: None) -> None:
        self.lock = threading.RLock()
        self.then = then
        self._make = pool
        self._pools: dict[Hashable, P] = {}
        #: One that no sequence uses, so that not each call has to make one.
        self._spare: deque[P] = deque(maxlen=1)


class Turn(Generic[P]):
    """A call's turn in its sequence: it waits in line once it has joined, and ends with its ``with`` block.

    Use it twice, ``with turn, turn:``: if an interrupt ends the first exit, the second completes it.
    """

    def __init__(
        self, turns: Turns[P], key: Hashable, behind: str = "the sequence's earlier requests"
    ) -> None:
        #: What it waits for, in messages.
        self.behind = behind
        self.place: Place[None] = Place()
        self._turns, self._key = turns, key
        self.pool: P | None = None

    def join(self, wake: Callable[[], object] | None = None, *, first: bool = False) -> None:
        """Join the line of the sequence.

        Parameters
        ----------
        wake : callable, optional
            Called when the turn has come; without it the pool's `hold` waits for that.
        first : bool
            Whether to join at the front: in a signal handler that interrupted a call about to join.
        """
        place = self.place
        with self._turns.lock:
            self.pool = pool = self._found()
            place.served = first
            pool.join(place)
            if wake is not None:
                pool.wait(place, wake)

    def begin(self) -> bool:
        """Take the turn if nobody has it or waits for it, or else join the line; return whether it is taken."""
        with self._turns.lock:
            self.pool = pool = self._found()
            if pool.take(self.place):
                return True
            pool.join(self.place)
            return False

    def _found(self) -> P:
        """Return the pool of the sequence."""
        turns = self._turns
        pool = turns._pools.get(self._key)
        if pool is None:
            try:
                spare = turns._spare.pop()
            except IndexError:
                spare = turns._make(1, turns.lock)
            pool = turns._pools.setdefault(self._key, spare)
        return pool

    def __enter__(self) -> Turn[P]:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the next call have its turn. Idempotent."""
        turns, pool = self._turns, self.pool
        if pool is None:
            return
        with turns.lock:
            pool.give_back(self.place, reusable=False)
            if not pool.holders and not pool.line and turns._pools.get(self._key) is pool:
                turns._pools.pop(self._key, None)
                if pool.holders or pool.line:  # a handler joined in between
                    turns._pools.setdefault(self._key, pool)
                else:
                    turns._spare.append(pool)
        turns.then()
        self.pool = None
