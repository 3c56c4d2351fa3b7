"""Reads server-sent events without a socket, from pieces of any size.

It follows the WHATWG HTML standard, "Server-sent events", section on interpreting an event stream. Lines end
with LF, CRLF or CR, and an empty line ends an event. An event that the stream's end cuts off is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ProtocolError

__all__ = ["Event", "EventReader"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes
    ----------
    data : str
        The data lines, joined by LF.
    kind : str
        The event type, "message" by default.
    """

    data: str
    kind: str = "message"


class EventReader:
    """Reads the events of one stream.

    Parameters
    ----------
    limit : int
        Limit on an event in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._kind = b""
        #: Whether the last byte was a CR. A LF that follows belongs to it.
        self._after_cr = False
        self._first = True

    @property
    def pending(self) -> bool:
        """Whether an event is incomplete."""
        return bool(self._line or self._data)

    def feed(self, received: bytes | bytearray | memoryview) -> Iterator[Event]:
        """Process received bytes, yielding the events that they complete.

        Raises
        ------
        ProtocolError
            For an event larger than the limit.
        """
        chunk = bytes(received)
        if not chunk:
            return
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        # Every line end becomes LF. A CR at the end may be the first half of a CRLF.
        self._after_cr = chunk[-1:] == b"\r"
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            whole = bytes(self._line) + line if self._line else line
            self._line.clear()
            event = self._take(whole)
            if event is not None:
                yield event
        self._line += rest
        if self._size + len(self._line) > self._limit:
            raise ProtocolError(f"an event of the stream has more than {self._limit} bytes")

    def _take(self, line: bytes) -> Event | None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            data, kind = self._data, self._kind
            self._data, self._kind, self._size = [], b"", 0
            if not data:
                return None
            return Event(
                b"\n".join(data).decode("utf-8", "replace"), kind.decode("utf-8", "replace") or "message"
            )
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(line)
        elif name == b"event":
            self._kind = value
        return None  # comments, and ids and retry times, which only serve to reconnect
