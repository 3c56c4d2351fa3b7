"""A response of HTTP/1.1, read without a socket, from wherever its bytes come.

:class:`ResponseReader` tells the transport where to receive next (:meth:`~ResponseReader.get_buffer`) and
takes note of what arrived (:meth:`~ResponseReader.received`, :meth:`~ResponseReader.received_eof`). The
grammar of heads and chunks is llhttp's, through httptools; a body of known length never passes through it but
is received straight into the memory that the result will use.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httptools
import numpy as np

from ..errors import ProtocolError
from .requests import Buffer

__all__ = [
    "MAX_HEAD",
    "Response",
    "ResponseHead",
    "ResponseReader",
    "StreamedResponse",
    "parse_head",
]

#: Most bytes of a response head, and most header lines in it.
MAX_HEAD = 1 << 16
_MAX_HEADERS = 256
#: Most interim responses before an answer: each is progress, so no time limit would end them.
_MAX_INTERIM = 100

#: Where the first tensor of a received body starts in memory, for the vector units of the caller's processor.
_ALIGNMENT = 64

_START = b"HTTP/1."
_SWITCHED = "the server switched to another protocol (status 101), unasked"


class ResponseHead:
    """A response's status and headers, and how its body is framed. Shared between responses: not to be changed."""

    __slots__ = (
        "chunked",
        "content_length",
        "encoding",
        "headers",
        "json_size",
        "keep_alive",
        "raw",
        "reason",
        "status",
    )

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        reason: str = "",
        *,
        content_length: int | None = None,
        chunked: bool = False,
        keep_alive: bool = False,
        raw: bytes = b"",
    ) -> None:
        self.status = status
        #: As it came, where it did.
        self.raw = raw
        self.reason = reason
        #: Names in lower case; the values of a name that came more than once are joined by ", ".
        self.headers = headers
        #: What the headers say of the body: Content-Encoding, and Inference-Header-Content-Length, a number where
        #: it is one.
        self.encoding = headers.get("content-encoding")
        size: str | int | None = headers.get("inference-header-content-length")
        # Python reads no number of more than 4,300 digits, and no size has more than 19.
        self.json_size = int(size) if isinstance(size, str) and size.isdecimal() and len(size) < 20 else size
        #: None where the body ends with the connection, or is chunked.
        self.content_length = content_length
        self.chunked = chunked
        #: Whether the server keeps the connection open behind this response.
        self.keep_alive = keep_alive


class Response:
    """A whole response. ``status_code``, ``get()`` and ``read()`` are what programs for the reference use."""

    __slots__ = ("_position", "asked", "body", "head", "limit")

    #: How often the call was tried.
    attempts: int = 1

    def __init__(self, head: ResponseHead, body: Buffer, limit: int | None = None) -> None:
        self.head = head
        self.body = body
        #: The most bytes that the body may have when it is unpacked.
        self.limit = limit
        #: Method, origin and target of the request that it answers, where they are known.
        self.asked: tuple[str, str, str] = ("", "", "")
        self._position = 0

    @property
    def status_code(self) -> int:
        """The status, for example 200."""
        return self.head.status

    @property
    def reason(self) -> str:
        """The words behind the status, for people."""
        return self.head.reason

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, their names in lower case."""
        return self.head.headers

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header's value, its name in any case."""
        return self.head.headers.get(name.lower(), default)

    def read(self, length: int | None = -1) -> bytes:
        """Return the next `length` bytes of the body as bytes, or all that is left of it."""
        start = self._position
        end = len(self.body) if length is None or length < 0 else min(start + length, len(self.body))
        self._position = end
        return bytes(self.body[start:end])

    def __repr__(self) -> str:
        return f"<Response {self.status_code} {self.reason}, {len(self.body)} bytes>"


class StreamedResponse(Response):
    """The head of a response whose body is still to come; a transport's `stream` gives its pieces."""

    stream: Any
    #: Is called when that has ended, if anybody wants to know.
    ending: Any = None


class _HeadParser:
    """Collects llhttp's callbacks for one response; also the pieces of a chunked body."""

    def __init__(self) -> None:
        self.reason = b""
        self.lines: list[tuple[str, str]] = []
        self.size = 0
        #: Bytes since the last piece of a body that are no body: sizes, extensions, trailers.
        self.framing = 0
        self.headers_complete = False
        self.keep_alive = False
        self.message_complete = False
        #: Whether something stands behind the message; it is not part of it.
        self.excess = False
        self.pieces: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.excess = self.message_complete

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.excess:
            return
        if len(self.lines) >= _MAX_HEADERS:
            raise ProtocolError(f"the response has more than {_MAX_HEADERS} header lines")
        # llhttp leaves the white space behind a value, which is no part of it (RFC 9110, 5.5).
        self.lines.append((name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")))

    def on_headers_complete(self) -> None:
        self.headers_complete = True
        # Asked here: where the message has no body, llhttp forgets the headers' part in it at once.
        self.keep_alive = bool(self.parser.should_keep_alive())

    def on_body(self, piece: bytes) -> None:
        if not self.excess:
            self.size += len(piece)
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.message_complete = True

    def feed(self, data: Buffer) -> None:
        """Parse what arrived.

        Raises
        ------
        ProtocolError
            Where it is no HTTP/1 response.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise ProtocolError(_SWITCHED) from error
        except httptools.HttpParserCallbackError as error:
            # What a callback raised: an error of ours, or whatever interrupted the caller meanwhile.
            if error.__context__ is not None:
                raise error.__context__ from error.__context__.__cause__
            raise
        except httptools.HttpParserError as error:
            if self.message_complete:
                self.excess = True
                return
            raise ProtocolError(f"expected an HTTP/1.1 response: {error}") from error

    def head(self, raw: bytes) -> ResponseHead:
        """Return the parsed head."""
        if not self.headers_complete:
            raise ProtocolError("expected an HTTP/1.1 response, got a head without an end")
        headers: dict[str, str] = {}
        for name, value in self.lines:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        status = self.parser.get_status_code()
        if status < 100:
            raise ProtocolError(f"expected an HTTP/1.1 response, got one of status {status:03}")
        if status == 101:
            raise ProtocolError(_SWITCHED)
        coding = headers.get("transfer-encoding", "identity").strip().lower()
        if coding not in ("chunked", "identity"):
            raise ProtocolError(f"Transfer-Encoding {coding!r}: expected chunked, nothing else was asked for")
        chunked = coding == "chunked"
        length: int | None = None
        if status < 200 or status in (204, 304):
            length = 0
        elif not chunked and "content-length" in headers:
            # llhttp has refused what is no number, or several that differ.
            length = int(headers["content-length"].split(",")[0])
        return ResponseHead(
            status,
            MappingProxyType(headers),  # the head is shared, and callers see its headers
            self.reason.decode("latin-1"),
            content_length=length,
            chunked=chunked and length is None,
            # Once an application under uvicorn raises, it answers 500 and closes, without saying so: what is sent
            # meanwhile is lost.
            keep_alive=self.keep_alive and not (status == 500 and headers.get("server") == "uvicorn"),
            raw=raw,
        )


_NO_HEAD = ResponseHead(0, {}, content_length=0)
_heads: dict[bytes, ResponseHead] = {}


def _no_http(start: bytes) -> ProtocolError:
    # An alert, as a server sends it that was not spoken to in TLS.
    advice = " (the server speaks TLS: https://)" if start.startswith(b"\x15\x03") else ""
    return ProtocolError(f"expected an HTTP/1.1 response, got bytes that begin with {start!r}{advice}")


def parse_head(data: bytes) -> ResponseHead:
    """Parse a response's head, the empty line included.

    A server answers the same model with the same head over and over (Triton sends no date), so they are
    remembered.
    """
    head = _heads.get(data)
    if head is None:
        if not data.startswith(_START):  # llhttp takes other versions, and empty lines before
            raise _no_http(data[:40])
        parser = _HeadParser()
        parser.feed(data)
        head = parser.head(data)
        if len(_heads) >= 512:
            _heads.clear()
        if len(data) <= 1024:
            _heads[data] = head
    return head


def _allocate(head: ResponseHead, length: int) -> memoryview:
    """Return memory for a body, not zeroed, its first tensor on a 64-byte boundary."""
    try:
        memory = np.empty(length + _ALIGNMENT, np.uint8)
    except (MemoryError, OverflowError, ValueError) as error:
        raise ProtocolError(f"the server announced {length} bytes, more than there is memory for") from error
    address = memory.__array_interface__["data"][0] + (head.json_size if type(head.json_size) is int else 0)
    start = -address % _ALIGNMENT
    return memory.data[start : start + length]


class ResponseReader:
    """Reads one response after the other from one connection.

    A transport calls :meth:`start` before it sends a request, then receives into :meth:`get_buffer` and reports
    to :meth:`received` until that returns True; then :attr:`response` is there, and :attr:`reusable` says
    whether the connection may carry another request.

    Parameters
    ----------
    max_body : int, optional
        The most bytes of a body; more is a :class:`ProtocolError`.
    tunnel : bool
        The request is CONNECT: a success has no body, whatever its head says (RFC 9112, 6.3).
    """

    __slots__ = (
        "_body",
        "_failure",
        "_filled",
        "_got",
        "_head",
        "_interim",
        "_parser",
        "_scratch",
        "_streamed",
        "_tunnel",
        "blank",
        "continued",
        "ended",
        "last_head",
        "max_body",
        "open",
        "response",
        "reusable",
        "view",
    )

    def __init__(self, max_body: int | None = None, *, tunnel: bool = False) -> None:
        self.max_body = max_body
        self._tunnel = tunnel
        self._scratch = bytearray(MAX_HEAD)
        #: Where a response begins: what :meth:`get_buffer` returns while the reader is blank.
        self.view = memoryview(self._scratch)
        #: The head of a plain response before this one, which is likely to come again; its bytes empty: none yet.
        self.last_head = _NO_HEAD
        self.response: Response | None = None
        self.reusable = True
        self.start()

    def start(self) -> None:
        """Expect a new response; needed only where the reader is not blank."""
        #: Whether nothing of an answer was kept; so, where it never came whole, whether nothing of it came.
        self.blank = True
        #: Whether the server has asked for the body of the request (status 100).
        self.continued = False
        self.response = None
        self._streamed = False
        #: Whether the pieces of a body are handed out as they come, and whether the last of them is there.
        self.open = self.ended = False
        #: What is wrong with an open body, behind the pieces that came before.
        self._failure: ProtocolError | None = None
        self._filled = 0
        self._head: ResponseHead | None = None
        self._interim = 0
        self._parser: _HeadParser | None = None
        self._body: memoryview | None = None
        self._got = 0

    def stream(self) -> None:
        """Hand the body of a success out as it comes: the response is there with its head.

        From then on :meth:`received` returns True each time, and :meth:`take` gives what came.
        """
        self._streamed = True
        self.last_head = _NO_HEAD  # nothing is taken for a plain response

    def take(self) -> bytes:
        """Return what came of an open body since the last time.

        Raises
        ------
        ProtocolError
            In its turn, where what came then is not HTTP, or passes a limit.
        """
        parser = self._parser
        if parser is not None and parser.pieces:
            pieces, parser.pieces = parser.pieces, []
            return b"".join(pieces)
        if self._failure is not None:
            raise self._failure
        return b""

    @property
    def answering(self) -> bool:
        """Whether an answer has begun that is no interim one: nothing that is sent now changes it."""
        return self._head is not None

    def get_buffer(self) -> memoryview:
        """Return where to receive next."""
        if self._body is not None:
            return self._body[self._got :]
        return self.view[self._filled :] if self._filled else self.view

    def received(self, count: int) -> bool:
        """Take note of `count` bytes in the last :meth:`get_buffer`; return whether the response is whole.

        Raises
        ------
        ProtocolError
            Where they are not HTTP, or pass a limit.
        """
        if self.blank:
            head = self.last_head
            end = len(head.raw)
            if end and count == end + (head.content_length or 0) and self._scratch.startswith(head.raw):
                # All of a response at once, with the head of the one before: the reader stays as it is.
                self.response = Response(head, bytes(self._scratch[end:count]), self.max_body)
                return True
            self.blank = False
        if self._body is not None:
            self._got += count
            if self._got < len(self._body):
                return False
            if self._head is not None and self._head.content_length is not None:
                return self._complete(self._body)
            self._grow()
            return False
        if self._parser is not None:
            return self._received_chunks(self.view[:count])
        return self._received_head(count)

    def received_eof(self) -> bool:
        """Take note that the server closed its side; return True where that ends the response as it should."""
        self.reusable = False
        head = self._head
        if self.open and head is not None:
            self.ended = head.content_length is None and not head.chunked
            return self.ended
        if head is not None and self._body is not None and head.content_length is None and not head.chunked:
            self._check_size(self._got)
            return self._complete(self._body[: self._got])
        return False

    def progress(self) -> str:
        """Say how far the response came, for an error's message."""
        if self._head is None:
            return f"{self._filled} bytes of the response's head" if self._filled else "no byte of a response"
        if self._head.content_length is not None:
            return f"{self._got} of {self._head.content_length} bytes of the response's body"
        return "an incomplete body"

    def _received_head(self, count: int) -> bool:
        searched = max(0, self._filled - 3)
        self._filled += count
        while True:
            end = self._scratch.find(b"\r\n\r\n", searched, self._filled)
            if end < 0:
                return self._incomplete_head()
            end += 4
            raw = bytes(self.view[:end])
            head = parse_head(raw)
            if head.status >= 200:
                break
            # An interim response (RFC 9110, 15.2): what follows is the answer itself, or another of them.
            self._interim += 1
            self.continued = self.continued or head.status == 100
            if self._interim > _MAX_INTERIM:
                raise ProtocolError(f"the server sent more than {_MAX_INTERIM} interim responses")
            self._scratch[: self._filled - end] = self._scratch[end : self._filled]
            self._filled -= end
            searched = 0
        self._head = head
        if not head.keep_alive:
            self.reusable = False
        have = self._filled - end
        if self._tunnel and head.status < 300:
            return self._complete(b"")
        streamed = self._streamed and head.status == 200
        length = head.content_length
        if streamed or head.chunked:
            self._parser = parser = _HeadParser()
            parser.feed(self.view[:end])
            rest = bytes(self.view[end : self._filled])
            self._filled = 0
            if streamed:
                self.open, self.ended = self._complete(b""), parser.message_complete
            return self._received_chunks(rest) if rest else streamed
        if length is not None:
            self._check_size(length)
            if head.keep_alive:
                self.last_head = head
            if have >= length:
                if have > length:
                    # Bytes that nobody asked for: whatever they are, they are not the next answer.
                    self.reusable = False
                return self._complete(bytes(self.view[end : end + length]))
            self._body = _allocate(head, length)
        else:
            self._check_size(have)
            self._body = self._room(max(MAX_HEAD, 2 * have))
        self._body[:have] = self.view[end : self._filled]
        self._got = have
        return False

    def _incomplete_head(self) -> bool:
        start = bytes(self.view[: min(self._filled, 40)])
        if not start.startswith(_START[: len(start)]) or self._scratch.find(b"\n\n", 0, self._filled) >= 0:
            raise _no_http(start)
        if self._filled == MAX_HEAD:
            raise ProtocolError(f"the response's head is longer than {MAX_HEAD} bytes")
        return False

    def _received_chunks(self, data: Buffer) -> bool:
        parser = self._parser
        assert parser is not None
        if not self.open:
            self._parse_chunks(parser, data)
            return parser.message_complete and self._complete(b"".join(parser.pieces))
        if self._failure is None:
            try:
                self._parse_chunks(parser, data)
                self.ended = parser.message_complete
            except ProtocolError as error:
                self._failure = error
            self._got = parser.size
        return True

    def _parse_chunks(self, parser: _HeadParser, data: Buffer) -> None:
        size = parser.size
        parser.feed(data)
        self._check_size(parser.size)
        parser.framing = 0 if parser.size > size else parser.framing + len(data)
        if parser.framing > MAX_HEAD:
            # llhttp collects a trailer of any length, and skips an extension of any length.
            raise ProtocolError(
                f"the response's chunks have trailers or extensions of more than {MAX_HEAD} bytes"
            )
        if parser.excess:
            self.reusable = False

    def _grow(self) -> None:
        body = self._body
        assert body is not None
        self._check_size(len(body))
        self._body = self._room(2 * len(body))
        self._body[: len(body)] = body

    def _room(self, size: int) -> memoryview:
        """Return memory for a body of unknown length, at most one byte more than it may have."""
        return memoryview(bytearray(size if self.max_body is None else min(size, self.max_body + 1)))

    def _check_size(self, size: int) -> None:
        if self.max_body is not None and size > self.max_body:
            raise ProtocolError(f"the response's body has {size} bytes or more, the limit is {self.max_body}")

    def _complete(self, body: Buffer) -> bool:
        head = self._head
        assert head is not None
        self.response = Response(head, body, self.max_body)
        self._body = None
        return True
