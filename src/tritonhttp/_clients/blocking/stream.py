# Generated from awaited/stream.py by tools/async_to_sync.py: edit that, then run `make generate`.
"""The answers of `generate_stream` and `infer_stream`, one at a time as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..._protocol.generation import AnswerReader, StreamBase, as_result
from ..._protocol.result import InferResult
from ..._transport.policy import Moment, moment
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
        begin: Callable[[Moment | None, Place[Any]], Response],
        limit: float | None,
        idle: float | None,
        model_name: str = "",
        url: str = "",
    ) -> None:
        super().__init__(limit, idle, Place(), model_name, url)
        self._begin = begin

    def __enter__(self) -> Self:
        self._ask(self._begun)
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> A:
        return self._ask(self._next)

    def close(self) -> None:
        """End the stream here; its connection is closed if there is more to come. Idempotent.

        Another thread that waits for an answer meanwhile finds the stream ended: at once, or when it has begun.
        """
        self._left = True
        leave(self)

    def _ask(self, step: Callable[[], T]) -> T:
        """Take a step while no other thread does."""
        asker = object()
        try:  # twice: an interrupt in the first end leaves it to the second
            try:
                self._begin_turn(asker)
                found = step()
                self._end_turn(asker)
            except BaseException as error:
                self._failed(asker, error)
                raise
        except BaseException as error:
            self._failed(asker, error)
            raise
        finally:
            if self._left and not self._askers:  # by a thread that found the turn taken
                self.close()
        return found

    def _begun(self) -> AnswerReader:
        return self._reader or self._open()

    def _next(self) -> A:
        reader = self._begun()
        while True:
            try:
                while reader.behind:  # an earlier piece holds more than a slice
                    pause(reader.response.asked, self._until)
                    if self._left:
                        self._close()
                    reader.go_on()
            except BaseException as error:
                self._broke(error)
            answer: A | None = self._take(reader)
            if answer is not None:
                return answer
            if reader.ended:
                raise StopIteration
            try:
                more = self._stream.more(self._idle, self._until)
            except BaseException as error:
                self._broke(error)
                continue
            self._feed(more, time.monotonic())

    def _open(self) -> AnswerReader:
        clock = time.monotonic
        began = clock()
        self._until = moment(began, self._limit)
        try:
            until = self._until
            # No name holds the response: where an interrupt drops it here, its connection is free at once.
            self._opened(self._begin(until, self._place), began, clock())
        except BaseException as error:
            self._close(error)  # what failed is not begun again
            raise
        assert self._reader is not None
        return self._reader


class GenerateStream(AnswerStream[dict[str, Any]]):
    """Iterate over a model's answers, as dicts, with ``for``: `client.generate_stream` makes it.

    One thread at a time may ask for an answer; any may close it. An error of the model is raised where it came in
    the order of the answers; a stream that is cut raises when all that came before has been given.
    """


class InferStream(AnswerStream[InferResult]):
    """Iterate over the results of an inference with ``for``: `client.infer_stream` makes it.

    Everything else is as in :class:`GenerateStream`.
    """

    _interpret = staticmethod(as_result)
