"""Runs a model's inferences concurrently, as tasks. The twin of `blocking/parallel.py`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from time import monotonic
from typing import Any, TypeVar

from ..._calls.flow import Throttle, is_overload
from ..._protocol.inference import Inference
from ..._protocol.result import InferResult
from ..._transport.policy import Moment
from ..given import iterator
from ..model_base import Several

__all__ = ["Ends", "Running", "carry_out", "is_done", "iterated", "result", "settle", "start"]

T = TypeVar("T")

Headers = Mapping[str, Any] | None

Running = asyncio.Future[InferResult]


class Ends:
    """The ends of a map's inferences, in their order; its control is told of each."""

    def __init__(self, throttle: Throttle | None) -> None:
        self._throttle = throttle
        self._ended: deque[tuple[int, float, float, object]] = deque()
        self._any = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ended)

    def watch(self, number: int, found: object) -> None:
        """Wait for the end of an inference that has begun just now; what is no inference has ended."""
        begun = monotonic()
        if isinstance(found, asyncio.Future):
            found.add_done_callback(lambda ended: self._end(number, begun, ended))
        else:
            self._add((number, begun, begun, None))

    def _end(self, number: int, begun: float, ended: Running) -> None:
        error = None if ended.cancelled() else ended.exception()
        self._add((number, begun, monotonic(), error))

    def _add(self, end: tuple[int, float, float, object]) -> None:
        self._ended.append(end)
        self._any.set()

    async def first(self) -> int:
        """Wait for an inference to end; return its number."""
        while not self._ended:
            self._any.clear()
            await self._any.wait()
        return self._tell(*self._ended.popleft())

    def tell_all(self) -> None:
        """Tell the control of all that have ended."""
        while self._ended:
            self._tell(*self._ended.popleft())

    def _tell(self, number: int, begun: float, now: float, error: object) -> int:
        if self._throttle is not None and now > begun:
            self._throttle.finished(now, now - begun, error is None, is_overload(error))
        return number


def start(
    client: Any, inference: Inference, headers: Headers, query_params: Headers, until: Moment | None
) -> Running:
    """Start an inference."""
    running: Running = asyncio.ensure_future(client._run(inference, headers, query_params, until))
    return running


def is_done(found: object) -> bool:
    """Return False for an inference that is still running."""
    return not isinstance(found, asyncio.Future) or found.done()


async def result(running: Running) -> InferResult:
    """Wait for an inference and return its result."""
    return await running


async def settle(started: Iterable[Any], error: BaseException | None = None, items: Any = None) -> None:
    """Cancel the inferences among these, and close the items that they were made from."""
    if items is not None:
        await items.aclose()
    tasks = [each for each in started if isinstance(each, asyncio.Future)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def carry_out(
    client: Any, several: Several, headers: Headers, query_params: Headers, until: Moment | None
) -> None:
    """Run several inferences, as many at a time as the client has connections."""
    inferences = iter(several.inferences)

    async def work() -> None:
        for rows, inference in inferences:
            several.add(rows, await client._run(inference, headers, query_params, until))

    tasks = [asyncio.ensure_future(work()) for _ in range(min(several.count, client._workers))]
    try:
        await asyncio.gather(*tasks)
    finally:
        await settle(tasks)


def iterated(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Return a generator of a map's items, or refuse at once what cannot be iterated."""
    return _each(items if isinstance(items, AsyncIterable) else iterator(items))


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
