"""Models as functions of arrays, awaited: the twin of :mod:`tritonhttp.model`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy.typing as npt

from .. import model
from ..base import CLOSING
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
    sort,
)
from ..operations import Operation
from ..transport.policy import UNSET, Deadline, Moment
from .client import drive

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
