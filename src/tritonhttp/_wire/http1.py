"""Reads HTTP/1.1 responses without a socket.

:class:`ResponseReader` tells the transport where to receive next (:meth:`~ResponseReader.get_buffer`) and is told
what arrived (:meth:`~ResponseReader.received`, :meth:`~ResponseReader.received_eof`). llhttp, through httptools,
parses heads and chunks; a body of known length is received straight into the memory that the result will use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING

import httptools
import numpy as np

from ..errors import ProtocolError
from .requests import Buffer
from .responses import Response, ResponseHead

if TYPE_CHECKING:
    pass

__all__ = ["MAX_HEAD", "ResponseReader", "parse_head"]

#: Limits on a response head: its bytes and its header lines.
MAX_HEAD = 1 << 16
_MAX_HEADERS = 256
#: Limit on interim responses before an answer: each counts as progress, so no time limit ends them.
_MAX_INTERIM = 100

#: Alignment of a received body's first tensor: vector instructions are slow on unaligned data.
_ALIGNMENT = 64

#: A line of a header's value that begins with white space, which goes on with the line before it.
_FOLD = re.compile(rb"\r\n[ \t]+")
_LENGTHS = re.compile(rb"\r\ncontent-length:([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"[ \t]*([0-9]{1,19})[ \t]*")

_START = b"HTTP/1."
#: Types of the frames with which a server of HTTP/2 begins, all of stream 0: SETTINGS, and GOAWAY.
_FIRST_FRAMES = (b"\x04", b"\x07")
_SWITCHED = "the server switched to another protocol (status 101), unasked"


def _kept(callback: Callable[..., None]) -> Callable[..., None]:
    """Keep what a callback raises: httptools loses it where an exception is being handled already."""

    @wraps(callback)
    def call(self: _HeadParser, *given: bytes) -> None:
        try:
            callback(self, *given)
        except BaseException as error:
            self.failure = error
            raise

    return call


class _HeadParser:
    """Collects what llhttp reports about one response: its head, and the pieces of its body."""

    def __init__(self) -> None:
        self.reason = b""
        self.lines: list[tuple[str, str]] = []
        self.size = 0
        #: Bytes of framing (chunk sizes, extensions, trailers) since the last piece of the body.
        self.framing = 0
        self.headers_complete = False
        self.keep_alive = False
        self.message_complete = False
        #: Whether bytes follow the message.
        self.excess = False
        self.pieces: list[bytes] = []
        #: What a callback raised: our own error, or an interrupt such as KeyboardInterrupt.
        self.failure: BaseException | None = None
        self.parser = httptools.HttpResponseParser(self)

    @_kept
    def on_message_begin(self) -> None:
        self.excess = self.message_complete

    @_kept
    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    @_kept
    def on_header(self, name: bytes, value: bytes) -> None:
        if self.excess:
            return
        if len(self.lines) >= _MAX_HEADERS:
            raise ProtocolError(f"the response has more than {_MAX_HEADERS} header lines")
        # llhttp keeps the white space after a value, which is not part of it (RFC 9110, 5.5).
        self.lines.append((name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")))

    @_kept
    def on_headers_complete(self) -> None:
        self.headers_complete = True
        # llhttp answers this correctly only here: after a message without a body it has forgotten the headers.
        self.keep_alive = bool(self.parser.should_keep_alive())

    @_kept
    def on_body(self, piece: bytes) -> None:
        if not self.excess:
            self.size += len(piece)
            self.pieces.append(piece)

    @_kept
    def on_message_complete(self) -> None:
        self.message_complete = True

    def feed(self, data: Buffer) -> None:
        """Parse received bytes.

        Raises
        ------
        ProtocolError
            If they are not an HTTP/1 response.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise ProtocolError(_SWITCHED) from error
        except httptools.HttpParserCallbackError as error:
            # Without one kept an interrupt came before the callback; then the context has it.
            failure = self.failure or error.__context__
            if failure is not None:
                raise failure from failure.__cause__
            raise
        except httptools.HttpParserError as error:
            if self.message_complete:
                self.excess = True
                return
            raise ProtocolError(f"expected an HTTP/1.1 response: {error}") from error

    def unfold_trailers(self) -> None:
        """Read folded lines behind the chunks too. This allows any character in values, which nobody reads."""
        if hasattr(self.parser, "set_dangerous_leniencies"):  # older httptools unfolds by itself
            self.parser.set_dangerous_leniencies(lenient_headers=True)

    def head(self, raw: bytes) -> ResponseHead:
        """Return the parsed head."""
        if not self.headers_complete:
            raise ProtocolError("expected an HTTP/1.1 response, got a head without an end")
        headers: dict[str, str] = {}
        for name, value in self.lines:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        status = self.parser.get_status_code()
        if status < 100:
            raise ProtocolError(f"expected an HTTP/1.1 response, got status {status:03}")
        if status == 101:
            raise ProtocolError(_SWITCHED)
        coding = headers.get("transfer-encoding", "identity").strip().lower()
        if coding not in ("chunked", "identity"):
            raise ProtocolError(f"Transfer-Encoding {coding!r}: expected chunked, the only one supported")
        chunked = coding == "chunked"
        length: int | None = None
        if status < 200 or status in (204, 304):
            length = 0
        elif not chunked and "content-length" in headers:
            # llhttp has already refused what is not one number.
            length = int(headers["content-length"])
        return ResponseHead(
            status,
            MappingProxyType(headers),  # callers see the headers of a shared head
            self.reason.decode("latin-1"),
            content_length=length,
            chunked=chunked and length is None,
            # When an application raises, uvicorn answers 500 and closes the connection without announcing it; a
            # request sent in between would be lost.
            keep_alive=self.keep_alive and not (status == 500 and headers.get("server") == "uvicorn"),
            raw=raw,
        )


_NO_HEAD = ResponseHead(0, {}, content_length=0)
_heads: dict[bytes, ResponseHead] = {}


def _no_http(start: bytes) -> ProtocolError:
    came = f"bytes that begin with {start!r}"
    if start.startswith(b"\x15\x03"):  # a TLS alert: the server expects TLS
        came += " (the server speaks TLS: https://)"
    elif start[3:4] in _FIRST_FRAMES and start[4:9].strip(b"\0\1") == b"":
        came = "HTTP/2: is this the gRPC port, 8001 on Triton? HTTP is usually on 8000"
    return ProtocolError(f"expected an HTTP/1.1 response, got {came}")


def _regular(head: bytes) -> bytes:
    """Return a head without two forms that llhttp refuses, and clients should read.

    A folded line is unfolded (RFC 9112, 5.2), but not into the status line. Of equal Content-Lengths one is kept
    (RFC 9110, 8.6).
    """
    if b"\r\n " in head or b"\r\n\t" in head:
        start, end, rest = head.partition(b"\r\n")
        if rest[:1] not in (b" ", b"\t"):
            head = start + end + _FOLD.sub(b" ", rest)
    lengths = _LENGTHS.findall(head)
    if len(lengths) > 1 or (lengths and b"," in lengths[0]):
        found = [_LENGTH.fullmatch(each) for each in b",".join(lengths).split(b",")]
        different = {-1 if each is None else int(each[1]) for each in found}
        length = different.pop()
        if not different and length >= 0:
            head = b"%b\r\nContent-Length: %d\r\n\r\n" % (_LENGTHS.sub(b"", head)[:-4], length)
    return head


def parse_head(data: bytes) -> ResponseHead:
    """Parse a response's head, the empty line included.

    Heads are cached, because a server repeats them from call to call (Triton sends no Date).
    """
    head = _heads.get(data)
    if head is None:
        if not data.startswith(_START):  # llhttp accepts other versions, and empty lines first
            raise _no_http(data[:40])
        parser = _HeadParser()
        parser.feed(_regular(data))
        head = parser.head(data)
        if len(_heads) >= 512:
            _heads.clear()
        if len(data) <= 1024:
            _heads[data] = head
    return head


def _allocate(head: ResponseHead, length: int) -> memoryview:
    """Return uninitialised memory for a body, with its first tensor on a 64-byte boundary."""
    try:
        memory = np.empty(length + _ALIGNMENT, np.uint8)
    except (MemoryError, OverflowError, ValueError) as error:
        raise ProtocolError(f"the server announced {length} bytes, more than there is memory for") from error
    address = memory.__array_interface__["data"][0] + (head.json_size if type(head.json_size) is int else 0)
    start = -address % _ALIGNMENT
    return memory.data[start : start + length]


class ResponseReader:
    """Reads the responses of one connection, one after the other.

    A transport calls :meth:`start` before it sends a request. It then receives into :meth:`get_buffer` and calls
    :meth:`received` until that returns True. :attr:`response` is then set, and :attr:`reusable` says whether the
    connection can carry another request.

    Parameters
    ----------
    max_body : int, optional
        Limit on a body in bytes; a larger one is a :class:`ProtocolError`.
    tunnel : bool
        The request is CONNECT: a success has no body, whatever its head says (RFC 9112, 6.3).
    """

    def __init__(self, max_body: int | None = None, *, tunnel: bool = False) -> None:
        self.max_body = max_body
        self._tunnel = tunnel
        self._scratch = bytearray(MAX_HEAD)
        #: What :meth:`get_buffer` returns while the reader is blank.
        self.view = memoryview(self._scratch)
        #: The head of the last plain response, which the next one is likely to repeat. Initially without bytes.
        self.last_head = _NO_HEAD
        self.response: Response | None = None
        self.reusable = True
        self.start()

    def start(self) -> None:
        """Expect a new response; needed only if the reader is not blank."""
        #: True until bytes of a response are retained.
        self.blank = True
        #: Whether the server asked for the request's body (status 100).
        self.continued = False
        self.response = None
        self._streamed = False
        #: Whether the body is handed out as it arrives, and whether its last piece has arrived.
        self.open = self.ended = False
        #: The error in an open body; :meth:`take` raises it after the pieces that came before it.
        self._failure: ProtocolError | None = None
        self._filled = 0
        self._head: ResponseHead | None = None
        self._interim = 0
        self._parser: _HeadParser | None = None
        self._body: memoryview | None = None
        self._got = 0

    def stream(self) -> None:
        """Hand out the body of a success as it arrives: the response is set as soon as its head is complete.

        After that :meth:`received` always returns True, and :meth:`take` returns what arrived.
        """
        self._streamed = True
        self.last_head = _NO_HEAD  # the shortcut for plain responses must not apply

    def take(self) -> bytes:
        """Return what arrived of an open body since the last call.

        Raises
        ------
        ProtocolError
            If the bytes that follow are not HTTP, or exceed a limit; valid pieces are returned first.
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
        """Whether the final response has begun, so that nothing sent from now on changes it."""
        return self._head is not None

    def get_buffer(self) -> memoryview:
        """Return where to receive next."""
        if self._body is not None:
            return self._body[self._got :]
        return self.view[self._filled :] if self._filled else self.view

    def received(self, count: int) -> bool:
        """Process `count` bytes in the last :meth:`get_buffer`; return whether the response is complete.

        Raises
        ------
        ProtocolError
            If they are not HTTP, or exceed a limit.
        """
        if self.blank:
            head = self.last_head
            end = len(head.raw)
            if end and count == end + (head.content_length or 0) and self._scratch.startswith(head.raw):
                # The whole response came at once, with the head of the last one: the reader stays blank.
                self.response = Response(head, bytes(self._scratch[end:count]), self.max_body)
                return True
            self.blank = False
        body = self._body
        if body is not None:
            self._got += count
            if self._got < len(body):
                return False
            if self._head is not None and self._head.content_length is not None:
                return self._complete(body)
            self._check_size(len(body))
            self._body = self._room(2 * len(body))
            self._body[: len(body)] = body
            return False
        if self._parser is not None:
            return self._received_chunks(self.view[:count])
        return self._received_head(count)

    def received_eof(self) -> bool:
        """Note that the server closed its side; return True if that is the proper end of the response."""
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
        """Describe how much of the response arrived, for error messages."""
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
                return self._incomplete_head(searched)
            end += 4
            raw = bytes(self.view[:end])
            head = parse_head(raw)
            if head.status >= 200:
                break
            # An interim response (RFC 9110, 15.2): another response follows.
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
            parser.feed(_regular(raw))
            parser.unfold_trailers()
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
                    # Nobody asked for the excess bytes, so they are not the next response.
                    self.reusable = False
                return self._complete(bytes(self.view[end : end + length]))
            self._body = _allocate(head, length)
        else:
            self._check_size(have)
            self._body = self._room(max(MAX_HEAD, 2 * have))
        self._body[:have] = self.view[end : self._filled]
        self._got = have
        return False

    def _incomplete_head(self, searched: int) -> bool:
        start = bytes(self.view[: min(self._filled, 40)])
        if (
            not start.startswith(_START[: len(start)])
            or self._scratch.find(b"\n\n", searched, self._filled) >= 0
        ):
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
            # llhttp limits neither trailers nor extensions.
            raise ProtocolError(
                f"the response's chunks have trailers or extensions of more than {MAX_HEAD} bytes"
            )
        if parser.excess:
            self.reusable = False

    def _room(self, size: int) -> memoryview:
        """Return memory for a body of unknown length: at most the limit and one byte."""
        return memoryview(bytearray(size if self.max_body is None else min(size, self.max_body + 1)))

    def _check_size(self, size: int) -> None:
        if self.max_body is not None and size > self.max_body:
            raise ProtocolError(f"the response's body has {size} bytes or more; the limit is {self.max_body}")

    def _complete(self, body: Buffer) -> bool:
        head = self._head
        assert head is not None
        self.response = Response(head, body, self.max_body)
        self._body = None
        return True
