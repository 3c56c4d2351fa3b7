"""Streamed answers of generate: bytes in, dicts out, whoever does the I/O.

Source: Triton's generate extension: each response is one server-sent event whose data are a JSON object; an error
is an event with ``{"error": …}``, behind status 200.
"""

from __future__ import annotations

import contextlib
from collections import deque
from itertools import pairwise
from typing import Any

from .._wire import inference, jsonio
from .._wire.compression import Decompressor
from .._wire.http1 import Response, StreamedResponse
from .._wire.requests import Buffer
from .._wire.sse import EventReader
from ..errors import InferenceServerException, InvalidRequest, ProtocolError, ServerError
from . import operations

__all__ = ["Answers", "StreamBase"]

#: The most bytes of one answer.
_LIMIT = 1 << 28
_ENDED = (StopIteration, StopAsyncIteration)


class Answers:
    """The answers of one stream, in the order in which they came, and when they came.

    Attributes
    ----------
    times : list of float
        Seconds from the request to each answer.
    """

    def __init__(self, began: float, content_type: str = "", encoding: str | None = None) -> None:
        self.times: list[float] = []
        self._began = began
        self._unfolder = (
            Decompressor(encoding) if encoding and encoding.strip().lower() != "identity" else None
        )
        self._events = EventReader(_LIMIT)
        # A server that has only one thing to say may say it as plain JSON.
        self._single: bytearray | None = None if _is_event_stream(content_type) else bytearray()
        self._blank = True
        self._ready: deque[dict[str, Any] | InferenceServerException] = deque()
        #: Whether nothing more will come.
        self.ended = False
        #: What brings them, for errors.
        self.response: Any = None

    def feed(self, received: Buffer, now: float) -> None:
        """Take what was received; what is wrong with it is raised in its turn."""
        try:
            for piece in (received,) if self._unfolder is None else self._unfolder.feed(received):
                self._read(piece, now)
        except ProtocolError as error:
            self._ready.append(error)

    def end(self, now: float) -> None:
        """Take note that the server has said all."""
        self.ended = True
        try:
            if self._unfolder is not None and self._unfolder.pending:
                raise ProtocolError("the stream is compressed, and ended before its coding did")
            if self._single is not None:
                self._add("message", bytes(self._single), now)
            elif self._events.pending:
                raise ProtocolError("the stream ended in the middle of an event")
        except ProtocolError as error:
            self._ready.append(error)

    def close(self) -> None:
        """Drop what was not taken; nothing more will come."""
        self.ended = True
        self._ready.clear()
        self._single = None

    def take(self) -> dict[str, Any] | None:
        """Return the next answer, or None where none is there.

        Raises
        ------
        ServerError
            In its turn, where the server sent an error.
        ProtocolError
            In its turn, for what is no JSON object.
        """
        if not self._ready:
            return None
        answer = self._ready.popleft()
        if isinstance(answer, InferenceServerException):
            self.close()
            raise answer
        return answer

    @property
    def failure(self) -> InferenceServerException | None:
        """What is wrong with what came, if its turn has not come yet."""
        return next((each for each in self._ready if isinstance(each, InferenceServerException)), None)

    def _read(self, piece: Buffer, now: float) -> None:
        if self._blank and piece:
            self._blank = False
            if bytes(piece[:1]) in (b"{", b"["):  # no event begins like that, whatever the server calls it
                self._single = bytearray()
        if self._single is None:
            for event in self._events.feed(piece):
                self._add(event.kind, event.data.encode(), now)
            return
        self._single += piece
        if len(self._single) > _LIMIT:
            raise ProtocolError(f"the answer has more than {_LIMIT} bytes")

    def _add(self, kind: str, raw: bytes, now: float) -> None:
        try:
            answer = jsonio.loads(raw, "an event of the stream")
            message = inference.error_message(answer)
        except ProtocolError:
            if kind != "error":
                raise
            answer = message = None
        if message is None and kind == "error":
            message = raw.decode("utf-8", "replace")[:500]
        if message is not None:
            error = ServerError(message, "200", raw.decode("utf-8", "replace"))
            self._ready.append(operations.placed(error, self.response))
        elif not isinstance(answer, dict):
            raise ProtocolError(
                f"an event of the stream: expected a JSON object, got {type(answer).__name__}"
            )
        else:
            self.times.append(now - self._began)
            self._ready.append(answer)


def _is_event_stream(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


class StreamBase:
    """What the streams of both clients share: everything but the waiting.

    Attributes
    ----------
    headers : dict
        The response's headers, names in lower case; empty before it began.
    attempts : int
        How often the request was tried.
    """

    def __init__(self, limit: float | None, idle: float | None, place: Any = None) -> None:
        self.headers: dict[str, str] = {}
        self.attempts = 1
        self._limit, self._idle = limit, idle
        self._until: Any = None
        self._answers: Answers | None = None
        self._stream: Any = None
        #: Who wants to know when the stream has ended; None when they were told.
        self._ending: Any = None
        #: The call's place in its pool, from the request to the end of the stream.
        self._place = place
        #: Who asks for an answer just now: the first of them has the turn. Each step is one step of C, so that an
        #: interrupt leaves nothing locked.
        self._askers: list[object] = []
        #: Whether it was closed while somebody had the turn, who has to carry that out.
        self._left = False

    @property
    def times(self) -> list[float]:
        """Seconds from the request to each answer that has come."""
        return [] if self._answers is None else list(self._answers.times)

    @property
    def time_to_first(self) -> float | None:
        """Seconds from the request to the first answer; None before it came."""
        return next(iter(self.times), None)

    @property
    def intervals(self) -> list[float]:
        """Seconds from each answer to the next."""
        return [later - earlier for earlier, later in pairwise(self.times)]

    def _begin_turn(self, asker: object) -> None:
        """Take the turn to ask for an answer, or refuse: nobody waits for it. :meth:`_end_turn` has to follow."""
        self._askers.append(asker)
        if self._askers[0] is not asker:
            raise self._crowded()

    def _end_turn(self, asker: object) -> None:
        with contextlib.suppress(ValueError):  # it was ended before
            self._askers.remove(asker)

    def _failed(self, asker: object, error: BaseException) -> None:
        """End a turn that raised. What an interrupt may have dropped ends the stream."""
        if self._askers and self._askers[0] is asker and not isinstance(error, _ENDED):
            self._close(error)
        self._end_turn(asker)

    def _crowded(self) -> InvalidRequest:
        return InvalidRequest(
            "two threads or tasks ask for this stream's next answer at once: expected one at a time; those who"
            " share a stream need a lock around each step"
        )

    def _opened(self, response: Response, began: float, now: float) -> None:
        self.headers = dict(response.headers)
        self.attempts = getattr(response, "attempts", 1)
        if isinstance(response, StreamedResponse):
            self._stream, self._ending = response.stream, response.ending
        self._answers = Answers(began, response.get("Content-Type") or "", response.get("Content-Encoding"))
        self._answers.response = response
        if self._stream is None:  # somebody else has sent the request
            self._feed(response.read(), now)
            self._feed(b"", now)
        elif self._left:
            self._close()

    def _feed(self, received: Buffer, now: float) -> None:
        answers = self._answers
        assert answers is not None
        if self._left:
            self._close()
        elif received:
            if self._ending is not None:
                self._ending.call.response_bytes += len(received)
            answers.feed(received, now)
        else:
            answers.end(now)
            self._tell(answers.failure)

    def _take(self, answers: Answers) -> dict[str, Any] | None:
        try:
            return answers.take()
        except InferenceServerException as error:
            self._close(error)
            raise

    def _broke(self, error: BaseException) -> None:
        """Close what an error has ended, and raise it, unless the stream was closed meanwhile."""
        if self._left and isinstance(error, InferenceServerException):
            self._close()
        else:
            self._close(error)
            raise error

    def _close(self, error: BaseException | None = None) -> None:
        if self._answers is None:
            self._answers = Answers(0.0)
        self._answers.close()
        if self._stream is not None:
            self._stream.close()
        if self._place is not None and self._place.transport is not None:
            self._place.transport.give_back(self._place)
        self._tell(error)

    def _tell(self, error: BaseException | None) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            ending(error, self._until)
