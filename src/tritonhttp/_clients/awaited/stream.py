"""The answers of `generate_stream` and `infer_stream`, one at a time as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..._protocol.generation import AnswerReader, StreamBase, as_result
from ..._protocol.result import InferResult
from ..._transport.policy import IdleMoment, Moment, moment
from ..._transport.pool import Place
from ..._wire.responses import Response
from .side import guarded, leave, pause

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["AnswerStream", "GenerateStream", "InferStream"]

T = TypeVar("T")
A = TypeVar("A")


@guarded
class AnswerStream(StreamBase, Generic[A]):
    """Iterate over a model's answers: what all streams have in common."""

    def __init__(
        self,
        begin: Callable[[Moment | None, Place[Any]], Awaitable[Response]],
        limit: float | None,
        idle: float | None,
        model_name: str = "",
        url: str = "",
    ) -> None:
        super().__init__(limit, idle, Place(), model_name, url)
        self._begin = begin

    async def __aenter__(self) -> Self:
        await self._ask(self._begun)
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> A:
        return await self._ask(self._next)

    async def close(self) -> None:
        """End the stream here; its connection is closed if there is more to come. Idempotent.

        Another task that waits for an answer meanwhile finds the stream ended: at once, or when it has begun.
        """
        self._left = True
        leave(self)

    async def _ask(self, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step while no other task does."""
        asker = object()
        try:  # twice: an interrupt in the first end leaves it to the second
            try:
                self._begin_turn(asker)
                found = await step()
                self._end_turn(asker)
            except BaseException as error:
                self._failed(asker, error)
                raise
        except BaseException as error:
            self._failed(asker, error)
            raise
        # blocking: finally:
        # blocking:     if self._left and not self._askers:  # by a thread that found the turn taken
        # blocking:         self.close()
        return found

    async def _begun(self) -> AnswerReader:
        return self._reader or await self._open()

    async def _next(self) -> A:
        reader = await self._begun()
        while True:
            try:
                while reader.behind:  # an earlier piece holds more than a slice
                    await pause(reader.response.asked, self._until)
                    if self._left:
                        self._close()
                    reader.go_on()
            except BaseException as error:
                self._broke(error)
            answer: A | None = self._take(reader)
            if answer is not None:
                return answer
            if reader.ended:
                raise StopAsyncIteration
            try:
                more = await self._stream.more(self._idle, self._until)
            except BaseException as error:
                self._broke(error)
                continue
            self._feed(more, asyncio.get_running_loop().time())

    async def _open(self) -> AnswerReader:
        clock = asyncio.get_running_loop().time
        began = clock()
        self._until = moment(began, self._limit)
        try:
            until = self._until
            limits = until, moment(began, self._idle, IdleMoment)  # asyncio only
            until = min(filter(None, limits), default=None)  # asyncio only
            # No name holds the response: where an interrupt drops it here, its connection is free at once.
            self._opened(await self._begin(until, self._place), began, clock())
        except BaseException as error:
            self._close(error)  # what failed is not begun again
            raise
        assert self._reader is not None
        return self._reader


class GenerateStream(AnswerStream[dict[str, Any]]):
    """Iterate over a model's answers, as dicts, with ``async for``: `client.generate_stream` makes it.

    One task at a time may ask for an answer; any may close it. An error of the model is raised where it came in
    the order of the answers; a stream that is cut raises when all that came before has been given.

    A task that is cancelled while it waits for an answer ends the stream.
    """


class InferStream(AnswerStream[InferResult]):
    """Iterate over the results of an inference with ``async for``: `client.infer_stream` makes it.

    Everything else is as in :class:`GenerateStream`.
    """

    _interpret = staticmethod(as_result)
