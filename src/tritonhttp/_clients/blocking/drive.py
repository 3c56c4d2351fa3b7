# Generated from awaited/drive.py by tools/async_to_sync.py: edit that, then run `make generate`.
"""What carries out a flow: a generator of steps, whose results are sent back in and whose errors are thrown in."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

__all__ = ["drive"]

T = TypeVar("T")


def drive(
    flow: Generator[Any, Any, T],
    perform: Callable[[Any], Any],
    pause: Callable[[float], None] | None = None,
) -> T:
    """Perform the steps of a flow, pause where a step is a number of seconds, and return what they come to."""
    try:
        step = next(flow)
        while True:
            try:
                answer = None
                if isinstance(step, float):
                    (pause or time.sleep)(step)
                else:
                    answer = perform(step)
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
