"""What carries out a flow: a generator of steps, whose results are sent back in and whose errors are thrown in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

__all__ = ["drive"]

T = TypeVar("T")


async def drive(
    flow: Generator[Any, Any, T],
    perform: Callable[[Any], Awaitable[Any]],
    pause: Callable[[float], Awaitable[None]] | None = None,
) -> T:
    """Perform the steps of a flow, pause where a step is a number of seconds, and return what they come to."""
    try:
        step = next(flow)
        while True:
            try:
                answer = None
                if isinstance(step, float):
                    await (pause or asyncio.sleep)(step)
                else:
                    answer = await perform(step)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        found: T = end.value
        return found
    except BaseException:  # an interrupt here, between two steps
        flow.close()
        raise
