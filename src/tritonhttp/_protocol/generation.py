"""Streamed answers of generate and of inferences: bytes in, dicts or results out, no I/O.

Sources: Triton's generate extension and MLServer's streaming. Each response is one server-sent event whose data
are a JSON object. An error is an event with ``{"error": …}``, behind status 200.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from .._basics.redaction import without_secrets
from .._wire import inference, jsonio
from .._wire.compression import Decompressor
from .._wire.requests import Buffer
from .._wire.responses import Response, StreamedResponse
from .._wire.sse import EventReader
from ..errors import InferenceServerException, InvalidRequest, ProtocolError, ServerError
from .bodies import plain_body
from .refusals import placed
from .result import InferResult

__all__ = ["AnswerReader", "StreamBase", "as_result"]

#: The most bytes of one answer.
_LIMIT = 1 << 28
#: The most decompressed bytes to read at once: they may hold thousands of answers.
_STEP = 1 << 16
_ENDED = (StopIteration, StopAsyncIteration)


def as_dict(raw: bytes, answer: dict[str, Any], response: Any) -> dict[str, Any]:
    """Return an answer of generate: as it is."""
    return answer


def as_result(raw: bytes, answer: dict[str, Any], response: Any) -> InferResult:
    """Return an answer of an inference as its result."""
    result = InferResult.from_response_body(raw)
    result._headers, result.attempts = response.headers, getattr(response, "attempts", 1)
    return result


class AnswerReader:
    """Reads the answers of one stream, in the order in which they arrive, and notes when each arrives.

    A compressed piece may be read in many slices: the first when it arrives, the others when they are needed.

    Parameters
    ----------
    began : float
        When the request was sent.
    content_type : str
        The response's Content-Type.
    encoding : str or None
        Its Content-Encoding.
    limit : int or None
        The maximum size of the decompressed stream in bytes.

    Attributes
    ----------
    times : list of float
        Seconds from the request to each answer.
    """

    def __init__(
        self,
        began: float,
        content_type: str = "",
        encoding: str | None = None,
        limit: int | None = None,
        interpret: Callable[[bytes, dict[str, Any], Any], Any] = as_dict,
    ) -> None:
        self.times: list[float] = []
        self._interpret = interpret
        self._began = began
        self._decompressor = Decompressor(encoding or "", limit, _STEP)
        #: What has arrived and is still to be read: each reads a slice at a time.
        self._coming: deque[Iterator[None]] = deque()
        self._events = EventReader(_LIMIT)
        media_type = content_type.partition(";")[0].strip().lower()
        # A server with only one answer may send it as plain JSON.
        self._single = None if media_type == "text/event-stream" else bytearray()
        self._blank = True
        self._ready: deque[Any] = deque()
        #: Whether no further answer will arrive.
        self.ended = False
        #: The response that carries the answers, for errors.
        self.response: Any = None

    def feed(self, received: Buffer, now: float) -> None:
        """Read received bytes. Errors in them are raised by :meth:`take`, behind the answers before them."""
        self._coming.append(self._slices(received, now))
        if len(self._coming) == 1:
            self.go_on()

    def _slices(self, received: Buffer, now: float) -> Iterator[None]:
        read = False
        for piece in self._decompressor.feed(received):
            if read:
                yield
            self._read(piece, now)
            read = True

    @property
    def behind(self) -> bool:
        """Whether :meth:`go_on` may find the next answer."""
        return bool(self._coming) and not self._ready

    def go_on(self) -> None:
        """Read one more slice of what has arrived."""
        if not self._coming:
            return
        try:
            for _ in self._coming[0]:
                return
            self._coming.popleft()
        except ProtocolError as error:
            self._coming.clear()
            self._ready.append(error)

    def end(self, now: float) -> None:
        """Note that the response has ended."""
        self._coming.append(self._last(now))
        if len(self._coming) == 1:
            self.go_on()
        self.ended = True

    def _last(self, now: float) -> Iterator[None]:
        yield from ()
        if self._decompressor.pending:
            raise ProtocolError("the stream is compressed, and ended before its coding did")
        if self._single is not None:
            self._add("message", bytes(self._single), now)
        elif self._events.pending:
            raise ProtocolError("the stream ended in the middle of an event")

    def close(self) -> None:
        """Drop the answers that were not taken, and expect no further one."""
        self.ended = True
        self._coming.clear()
        self._ready.clear()
        self._single = None

    def take(self) -> Any:
        """Return the next answer, or None until one has arrived.

        Raises
        ------
        ServerError
            If the server sent an error here.
        ProtocolError
            If the bytes here are no JSON object, or not the answer that is expected.
        """
        while self.behind:
            self.go_on()
        if not self._ready:
            return None
        answer = self._ready.popleft()
        if isinstance(answer, InferenceServerException):
            self.close()
            raise answer
        return answer

    @property
    def failure(self) -> InferenceServerException | None:
        """An error that was received, but not raised yet."""
        return next((each for each in self._ready if isinstance(each, InferenceServerException)), None)

    def _read(self, piece: Buffer, now: float) -> None:
        if self._blank and piece:
            self._blank = False
            # No event begins like this: it is JSON, whatever the Content-Type says.
            if bytes(piece[:1]) in (b"{", b"["):
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
            self._ready.append(placed(error, self.response))
        elif not isinstance(answer, dict):
            raise ProtocolError(
                f"an event of the stream: expected a JSON object, got {type(answer).__name__}"
            )
        else:
            found = self._interpret(raw, answer, self.response)
            self.times.append(now - self._began)
            self._ready.append(found)


class StreamBase:
    """What the streams of both clients share: all but waiting.

    Attributes
    ----------
    headers : dict
        The response's headers, names in lower case; empty until it begins.
    attempts : int
        How often the request was tried.
    model_name : str
        The model that was asked.
    url : str
        The request's URL; with several servers empty until one has answered.
    """

    def __init__(
        self,
        limit: float | None,
        idle: float | None,
        place: Any = None,
        model_name: str = "",
        url: str = "",
    ) -> None:
        self.model_name = model_name
        self.url = url
        self.headers: dict[str, str] = {}
        self.attempts = 1
        self._limit, self._idle = limit, idle
        self._until: Any = None
        self._reader: AnswerReader | None = None
        self._stream: Any = None
        #: Reports the end of the stream; None once reported.
        self._ending: Any = None
        #: The call's place in its pool, from the request to the end of the stream.
        self._place = place
        #: Threads or tasks that ask for an answer; the first has the turn. Each change of the list is one step of
        #: C, so an interrupt leaves nothing locked.
        self._askers: list[object] = []
        #: Whether it was closed while another thread or task had the turn, which then closes it.
        self._left = False
        #: How it ended before the response did: "closed" or "failed".
        self._end = ""

    def __repr__(self) -> str:
        reader, count = self._reader, len(self.times)
        state = self._end or ("ended" if reader is not None and reader.ended else "open")
        if reader is None:
            state = "closed" if self._left else "not begun"
        elif count or not self._end:
            state = f"{state}, {count} answer{'' if count == 1 else 's'}"
        where = f" at {without_secrets(self.url)}" if self.url else ""
        return f"<{type(self).__name__} of {self.model_name!r}{where}: {state}>"

    @staticmethod  # a bound method would refer back to the stream, which must end when it is dropped
    def _interpret(raw: bytes, answer: dict[str, Any], response: Any) -> Any:
        """Make an answer of its bytes, its JSON and the response that carries it."""
        return as_dict(raw, answer, response)

    @property
    def times(self) -> list[float]:
        """Seconds from the request to each answer received so far."""
        return [] if self._reader is None else list(self._reader.times)

    @property
    def time_to_first(self) -> float | None:
        """Seconds from the request to the first answer; None until it is received."""
        return next(iter(self.times), None)

    @property
    def intervals(self) -> list[float]:
        """Seconds from each answer to the next."""
        return [later - earlier for earlier, later in pairwise(self.times)]

    def _begin_turn(self, asker: object) -> None:
        """Take the turn to ask for an answer, or raise an error at once. :meth:`_end_turn` must follow."""
        self._askers.append(asker)
        if self._askers[0] is not asker:
            raise InvalidRequest(
                "two threads or tasks ask for this stream's next answer at once: expected one at a time; in a"
                " shared stream each step needs a lock around it"
            )

    def _end_turn(self, asker: object) -> None:
        with contextlib.suppress(ValueError):  # it has ended already
            self._askers.remove(asker)

    def _failed(self, asker: object, error: BaseException) -> None:
        """End a turn that raised. The stream ends too, since an interrupt may have dropped a piece of it."""
        if self._askers and self._askers[0] is asker and not isinstance(error, _ENDED):
            self._close(error)
        self._end_turn(asker)

    def _opened(self, response: Response, began: float, now: float) -> None:
        headers = getattr(response, "headers", None)
        self.headers = dict(headers) if isinstance(headers, Mapping) else {}
        self.attempts = getattr(response, "attempts", 1)
        _, origin, target, *_ = getattr(response, "asked", ("", "", ""))
        self.url = f"{origin}{target}" or self.url
        encoding = limit = body = None
        if isinstance(response, StreamedResponse):
            self._stream, self._ending = response.stream, response.ending
            encoding, limit = response.head.encoding, response.limit
        else:  # an overridden `_post` has sent the request
            body = plain_body(response)
        content_type = str(response.get("Content-Type") or "")
        self._reader = reader = AnswerReader(began, content_type, encoding, limit, self._interpret)
        reader.response = response
        if body is not None:
            self._feed(body, now)
            self._feed(b"", now)
        elif self._left:
            self._close()

    def _feed(self, received: Buffer, now: float) -> None:
        reader = self._reader
        assert reader is not None
        if self._left:
            self._close()
        elif received:
            if self._ending is not None:
                self._ending.call.response_bytes += len(received)
            reader.feed(received, now)
        else:
            reader.end(now)
            self._tell(reader.failure)

    def _take(self, reader: AnswerReader) -> Any:
        try:
            return reader.take()
        except InferenceServerException as error:
            self._close(error)
            raise

    def _broke(self, error: BaseException) -> None:
        """Close the stream after an error, and raise the error unless the stream was closed meanwhile."""
        if self._left and isinstance(error, InferenceServerException):
            self._close()
        else:
            self._close(error)
            raise error

    def _close(self, error: BaseException | None = None) -> None:
        if self._reader is None:
            self._reader = AnswerReader(0.0)
        if error is not None:
            self._end = self._end or "failed"
            if self.attempts > 1 and isinstance(error, InferenceServerException):
                error.attempts = self.attempts  # the response took them, before it broke
        elif not self._reader.ended:
            self._end = "closed"
        self._reader.close()
        if self._stream is not None:
            self._stream.close()
        if self._place is not None and self._place.transport is not None:
            self._place.transport.give_back(self._place)
        self._tell(error)

    def _tell(self, error: BaseException | None) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            ending(error, self._until)
