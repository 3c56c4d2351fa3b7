"""The answers of `generate_stream`, awaited one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..generation import Answers, StreamBase
from ..transport.policy import Moment, moment
from ..wire.http1 import Response

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["GenerateStream"]


class GenerateStream(StreamBase):
    """Iterate over a model's answers, as dicts, with ``async for``; see `tritonhttp.stream`.

    One task at a time may ask for an answer; any may close it. A task that is cancelled while it waits for an
    answer ends the stream.
    """

    def __init__(
        self, begin: Callable[[Moment | None], Awaitable[Response]], limit: float | None, idle: float | None
    ) -> None:
        super().__init__(limit, idle)
        self._begin = begin

    async def __aenter__(self) -> Self:
        if not self._turn.acquire(False):
            raise self._crowded()
        try:
            if self._answers is None:
                await self._open()
        finally:
            self._turn.release()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if not self._turn.acquire(False):
            raise self._crowded()
        try:
            answers = self._answers or await self._open()
            while (answer := self._take(answers)) is None:
                if answers.ended:
                    raise StopAsyncIteration
                try:
                    more = await self._stream.more(self._idle, self._until)
                except BaseException as error:
                    self._broke(error)
                    continue
                self._feed(more, asyncio.get_running_loop().time())
            return answer
        finally:
            self._turn.release()

    async def close(self) -> None:
        """End the stream here; its connection is closed if there is more to come. Idempotent.

        Another task that waits for an answer meanwhile finds the stream ended: at once, or when it has begun.
        """
        self._left = True
        if not self._turn.locked() or self._stream is not None:
            self._close()

    async def _open(self) -> Answers:
        clock = asyncio.get_running_loop().time
        began = clock()
        self._until = moment(began, self._limit)
        try:
            limits = self._until, moment(began, self._idle)
            response = await self._begin(min(filter(None, limits), default=None))
            self._opened(response, began, clock())
        except BaseException as error:
            self._close(error)  # what failed is not begun again
            raise
        assert self._answers is not None
        return self._answers
