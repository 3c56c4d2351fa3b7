"""The pool of the asyncio client's connections: calls wait in their tasks."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, TypeVar

from .failures import closed
from .pool import Place, Pool

__all__ = ["AsyncioPool"]

C = TypeVar("C")


class AsyncioPool(Pool[C]):
    """A pool for the tasks of one event loop."""

    def __init__(self, limit: int, lock: Any = None) -> None:
        super().__init__(limit)

    async def hold(self, place: Place[C], deadline: float | None, *, reserved: bool = False) -> bool:
        """Wait until a place is served; return False if the deadline passed before.

        Parameters
        ----------
        reserved : bool
            Whether the place is already in the line.

        Raises
        ------
        InferenceServerException
            If the pool is closed.
        """
        if place not in self.holders and (reserved or not self.take(place)):
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            wake = partial(_finish, waiter)
            if not reserved:
                self.join(place)
            self.wait(place, wake)
            if place not in self.holders and not self.closed:
                timer = None if deadline is None else loop.call_at(deadline, wake)
                try:
                    await waiter
                except BaseException:
                    # If its connection came meanwhile, it was not used.
                    if place in self.holders:
                        self.give_back(place, reusable=True)
                    raise
                finally:
                    if timer is not None:
                        timer.cancel()
            if place not in self.holders:
                if self.closed:
                    raise closed()
                return False
            self.begin(place)
        place.served = True
        return True


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
