"""Models as functions of arrays, awaited: the twin of :mod:`tritonhttp.model`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy.typing as npt

from .. import model
from ..base import CLOSING
from ..errors import InferenceServerException
from ..model_base import (
    CallOptions,
    Flow,
    Inference,
    ModelBase,
    Outputs,
    SequenceBase,
    SequenceOptions,
    Several,
    Step,
    in_flight_or,
    iterator,
    sort,
)
from ..operations import Operation
from ..result import InferResult
from ..transport.policy import UNSET, Deadline, Moment, call_limit
from ._calls import drive

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .client import InferenceServerClient

__all__ = ["Model", "Sequence"]

T = TypeVar("T")


class Model(ModelBase):
    """As :class:`tritonhttp.model.Model`, on the asyncio client: calls, `batched` and `refresh` are awaited."""

    _client: InferenceServerClient

    @overload
    async def __call__(self, inputs: Mapping[str, Any], /, **options: Unpack[CallOptions]) -> Outputs: ...

    @overload
    async def __call__(self, /, **inputs_and_options: Any) -> Outputs: ...

    async def __call__(self, inputs: Mapping[str, Any] | None = None, /, **keywords: Any) -> Outputs:
        given, options = sort(inputs, keywords)
        return await self._drive(self._call(given, options), options)

    async def batched(
        self,
        inputs: Mapping[str, Any],
        /,
        *,
        max_batch: int | None = None,
        **options: Unpack[CallOptions],
    ) -> dict[str, npt.NDArray[Any]]:
        given, kept = sort(inputs, options)
        return await self._drive(self._batched(given, max_batch, kept), kept)

    @overload
    def map(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        /,
        *,
        in_flight: int | None = None,
        copy: bool = True,
        return_exceptions: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outputs, None]: ...

    @overload
    def map(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        /,
        *,
        in_flight: int | None = None,
        copy: bool = True,
        return_exceptions: bool,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outputs | InferenceServerException, None]: ...

    def map(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        /,
        *,
        in_flight: int | None = None,
        copy: bool = True,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outputs | InferenceServerException, None]:
        _, kept = sort({}, options)
        call_limit(kept.get("deadline", UNSET), None)  # refused at once, and not item by item
        limit = in_flight_or(self._client._configuration["conn_limit"], in_flight)
        given = _each(items if isinstance(items, AsyncIterable) else iterator(items))
        return self._map(given, limit, copy, return_exceptions, kept)

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
                return asyncio.ensure_future(client.infer(**step.arguments, deadline=until))
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

    def sequence(self, id: int | str | None = None) -> Sequence:
        return Sequence(self, id)

    async def refresh(
        self,
        *,
        headers: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        deadline: Deadline = UNSET,
    ) -> Self:
        options: CallOptions = {"headers": headers, "query_params": query_params, "deadline": deadline}
        await self._drive(self._read(), options)
        return self

    async def _drive(self, flow: Flow[T], options: CallOptions) -> T:
        client = self._client
        until = client._until(options.get("deadline", UNSET))
        headers, query_params = options.get("headers"), options.get("query_params")

        async def perform(step: Step) -> Any:
            if isinstance(step, Inference):
                return await client.infer(**step.arguments, deadline=until)
            if isinstance(step, Operation):
                return await client._carry_out(step, headers, query_params, until)
            return await self._carry_out(step, until)

        return await drive(flow, perform)

    async def _carry_out(self, several: Several, until: Moment | None) -> None:
        client = self._client
        inferences = iter(several.inferences)

        async def work() -> None:
            for start, inference in inferences:
                several.add(start, await client.infer(**inference.arguments, deadline=until))

        workers = min(several.count, client._configuration["conn_limit"])
        tasks = [asyncio.ensure_future(work()) for _ in range(workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _is_there(found: asyncio.Future[InferResult] | Outputs | Exception) -> bool:
    return not isinstance(found, asyncio.Future) or found.done()


class Sequence(SequenceBase):
    """As :class:`tritonhttp.model.Sequence`, with ``async with`` and awaited calls."""

    _model: Model

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._model._drive(self._end(), {} if value is None else {"deadline": CLOSING})
        except Exception as error:
            if value is None:
                raise
            self._not_ended(error)

    @overload
    async def __call__(self, inputs: Mapping[str, Any], /, **options: Unpack[SequenceOptions]) -> Outputs: ...

    @overload
    async def __call__(self, /, **inputs_and_options: Any) -> Outputs: ...

    async def __call__(self, inputs: Mapping[str, Any] | None = None, /, **keywords: Any) -> Outputs:
        given, options = sort(inputs, keywords, SequenceOptions)
        return await self._model._drive(self._call(given, options), options)


# What a method does is said once, in the blocking twins.
for _here, _there in ((Model, model.Model), (Sequence, model.Sequence)):
    for _name, _method in vars(_here).items():
        if callable(_method) and not _method.__doc__:
            _method.__doc__ = getattr(getattr(_there, _name, None), "__doc__", None)
