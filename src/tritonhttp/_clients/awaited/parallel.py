"""How the asyncio client runs inferences of a model side by side: as tasks; the twin of `blocking/parallel.py`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..._protocol.result import InferResult
from ..._transport.policy import UNSET, Moment
from ...errors import InferenceServerException
from ..model_base import CallOptions, Flow, ModelBase, Outputs, Several, iterator

__all__ = ["Parallel", "iterated"]

T = TypeVar("T")


class Parallel(ModelBase):
    """The part of a model that has several inferences under way."""

    if TYPE_CHECKING:  # the model defines it

        async def _drive(self, flow: Flow[T], options: CallOptions) -> T: ...

    async def _map(
        self,
        items: AsyncGenerator[Any, None],
        limit: int,
        copy: bool,
        return_exceptions: bool,
        options: CallOptions,
    ) -> AsyncGenerator[Outputs | InferenceServerException, None]:
        waiting: deque[asyncio.Future[InferResult] | Outputs | Exception] = deque()
        more = True
        try:
            while True:
                while more and len(waiting) < limit and not (waiting and _is_there(waiting[0])):
                    found = await self._begin(items, copy, options)
                    if found is not None:
                        waiting.append(found)
                    more = found is not None and (return_exceptions or not isinstance(found, Exception))
                if not waiting:
                    return
                yield await self._outcome(waiting.popleft(), return_exceptions)
        finally:
            await items.aclose()
            tasks = [each for each in waiting if isinstance(each, asyncio.Future)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(
        self, items: AsyncGenerator[Any, None], copy: bool, options: CallOptions
    ) -> asyncio.Future[InferResult] | Outputs | Exception | None:
        client = self._client
        try:
            async for item in items:
                step = await self._drive(self._item(item, copy, options), options)
                if isinstance(step, Outputs):
                    return step
                until = client._until(options.get("deadline", UNSET))
                headers, query_params = options.get("headers"), options.get("query_params")
                running: asyncio.Future[InferResult] = asyncio.ensure_future(
                    client._run(step, headers, query_params, until)
                )
                return running
        except Exception as error:
            return error
        return None

    async def _outcome(
        self, found: asyncio.Future[InferResult] | Outputs | Exception, return_exceptions: bool
    ) -> Outputs | InferenceServerException:
        try:
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, Outputs) else Outputs(await found)
        except Exception as error:
            return self._failed(error, return_exceptions)

    async def _carry_out(
        self,
        several: Several,
        headers: Mapping[str, Any] | None,
        query_params: Mapping[str, Any] | None,
        until: Moment | None,
    ) -> None:
        client = self._client
        inferences = iter(several.inferences)

        async def work() -> None:
            for start, inference in inferences:
                several.add(start, await client._run(inference, headers, query_params, until))

        workers = min(several.count, client._workers)
        tasks = [asyncio.ensure_future(work()) for _ in range(workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def iterated(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Return what gives the items of a map, or refuse at once what is no iterable."""
    return _each(items if isinstance(items, AsyncIterable) else iterator(items))


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _is_there(found: asyncio.Future[InferResult] | Outputs | Exception) -> bool:
    return not isinstance(found, asyncio.Future) or found.done()
