"""Streamed answers of generate: bytes in, dicts out, whoever does the I/O.

Source: Triton's generate extension: each response is one server-sent event whose data are a JSON object; an error is
an event with ``{"error": …}``, behind status 200.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from .errors import ProtocolError, ServerError
from .wire import inference, jsonio
from .wire.sse import EventReader

__all__ = ["Answers"]

#: The most bytes of one answer.
_LIMIT = 1 << 28


class Answers:
    """The answers of one stream, in the order in which they came, and when they came.

    Attributes
    ----------
    times : list of float
        Seconds from the request to each answer.
    """

    def __init__(self, began: float, content_type: str) -> None:
        self.times: list[float] = []
        self._began = began
        self._events = EventReader(_LIMIT)
        # A server that has only one thing to say may say it as plain JSON.
        self._single: bytearray | None = None if _is_event_stream(content_type) else bytearray()
        self._ready: deque[dict[str, Any] | ServerError] = deque()
        #: Whether nothing more will come.
        self.ended = False

    def feed(self, received: bytes, now: float) -> None:
        """Take what was received.

        Raises
        ------
        ProtocolError
            For what is no stream of JSON objects.
        """
        if self._single is not None:
            self._single += received
            return
        for event in self._events.feed(received):
            self._add(event.data, now)

    def end(self, now: float) -> None:
        """Take note that the server has said all.

        Raises
        ------
        ProtocolError
            In the middle of an event.
        """
        self.ended = True
        if self._single:
            self._add(bytes(self._single), now)
        elif self._events.pending:
            raise ProtocolError("the stream ended in the middle of an event")

    def take(self) -> dict[str, Any] | None:
        """Return the next answer, or None where none is there.

        Raises
        ------
        ServerError
            In its turn, where the server sent an error.
        """
        if not self._ready:
            return None
        answer = self._ready.popleft()
        if isinstance(answer, ServerError):
            self._ready.clear()
            self.ended = True
            raise answer
        return answer

    def _add(self, data: str | bytes, now: float) -> None:
        raw = data.encode() if isinstance(data, str) else data
        answer = jsonio.loads(raw, "an event of the stream")
        message = inference.error_message(answer)
        if message is not None:
            self._ready.append(ServerError(message, "200", raw.decode("utf-8", "replace")))
        elif not isinstance(answer, dict):
            raise ProtocolError(
                f"an event of the stream: expected a JSON object, got {type(answer).__name__}"
            )
        else:
            self.times.append(now - self._began)
            self._ready.append(answer)


def _is_event_stream(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"
