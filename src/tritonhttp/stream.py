"""The answers of `generate_stream`, one at a time as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .generation import Answers, StreamBase
from .transport.policy import Moment, moment
from .wire.http1 import Response

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["GenerateStream"]


class GenerateStream(StreamBase):
    """Iterate over a model's answers, as dicts: `client.generate_stream` makes it.

    One thread at a time may ask for an answer; any may close it. An error of the model is raised where it came in
    the order of the answers; a stream that is cut raises when all that came before has been given.
    """

    def __init__(
        self, begin: Callable[[Moment | None], Response], limit: float | None, idle: float | None
    ) -> None:
        super().__init__(limit, idle)
        self._begin = begin

    def __enter__(self) -> Self:
        if not self._turn.acquire(False):
            raise self._crowded()
        try:
            if self._answers is None:
                self._open()
        finally:
            self._turn.release()
            if self._left:  # by a thread that found the turn taken
                self.close()
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        if not self._turn.acquire(False):
            raise self._crowded()
        try:
            answers = self._answers or self._open()
            while (answer := self._take(answers)) is None:
                if answers.ended:
                    raise StopIteration
                try:
                    more = self._stream.more(self._idle, self._until)
                except BaseException as error:
                    self._broke(error)
                    continue
                self._feed(more, time.monotonic())
            return answer
        finally:
            self._turn.release()
            if self._left:  # by a thread that found the turn taken
                self.close()

    def close(self) -> None:
        """End the stream here; its connection is closed if there is more to come. Idempotent.

        Another thread that waits for an answer meanwhile finds the stream ended: at once, or when it has begun.
        """
        self._left = True
        if self._turn.acquire(False):
            try:
                self._close()
            finally:
                self._turn.release()
        elif self._stream is not None:
            self._stream.interrupt()

    def _open(self) -> Answers:
        began = time.monotonic()
        self._until = moment(began, self._limit)
        try:
            self._opened(self._begin(self._until), began, time.monotonic())
        except BaseException as error:
            self._close(error)  # what failed is not begun again
            raise
        assert self._answers is not None
        return self._answers
