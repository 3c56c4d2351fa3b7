"""What a response is: its head, which equal responses share, and what programs ask an answer for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from .requests import Buffer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Response", "ResponseHead", "StreamedResponse"]


@dataclass(slots=True, eq=False, repr=False)
class ResponseHead:
    """A response's status, headers and body framing. Never changed, because responses share it."""

    status: int
    #: Names in lower case; the values of a name that came more than once are joined by ", ".
    headers: Mapping[str, str]
    reason: str = ""
    _: KW_ONLY
    #: None if the body is chunked or ends with the connection.
    content_length: int | None = None
    chunked: bool = False
    #: Whether the server keeps the connection open after this response.
    keep_alive: bool = False
    #: The head as received; empty if it was not parsed from bytes.
    raw: bytes = b""
    #: Content-Encoding.
    encoding: str | None = field(init=False)
    #: Inference-Header-Content-Length: an int if it is a number. (int() refuses more than 4,300 digits; sizes have
    #: at most 19.)
    json_size: str | int | None = field(init=False)

    def __post_init__(self) -> None:
        self.encoding = self.headers.get("content-encoding")
        size: str | int | None = self.headers.get("inference-header-content-length")
        self.json_size = int(size) if isinstance(size, str) and size.isdecimal() and len(size) < 20 else size


class Response:
    """A complete response, with the methods that programs know from geventhttpclient's."""

    __slots__ = ("_position", "asked", "body", "head", "limit")

    #: How often the request was sent.
    attempts: int = 1

    def __init__(self, head: ResponseHead, body: Buffer, limit: int | None = None) -> None:
        self.head = head
        self.body = body
        #: Limit on the decompressed body, in bytes.
        self.limit = limit
        #: Method, origin and target of the answered request, if known; of an error also the Host that was sent.
        self.asked: tuple[str, ...] = ("", "", "")
        self._position = 0

    @property
    def status_code(self) -> int:
        """The status, for example 200."""
        return self.head.status

    @property
    def reason(self) -> str:
        """The reason phrase, for people."""
        return self.head.reason

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with names in lower case."""
        return self.head.headers

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header's value; case does not matter in its name."""
        return self.head.headers.get(name.lower(), default)

    # -- as geventhttpclient's response --

    @property
    def status_message(self) -> str:
        """The reason phrase."""
        return self.head.reason

    @property
    def content_length(self) -> int | None:
        """The value of Content-Length, or None."""
        length = self.get("content-length", "")
        return int(length) if length.isdecimal() else None

    length = content_length

    def get_code(self) -> int:
        """Return the status."""
        return self.head.status

    def info(self) -> Mapping[str, str]:
        """Return the headers, with names in lower case."""
        return self.head.headers

    def items(self) -> Iterable[tuple[str, str]]:
        """Return the headers' names, in lower case, and values."""
        return self.head.headers.items()

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.head.headers

    def __getitem__(self, name: str) -> str:
        return self.head.headers[name.lower()]

    #: The response is there as a whole.
    message_begun = headers_complete = message_complete = True

    @property
    def method(self) -> str:
        """The method of the answered request."""
        return self.asked[0]

    @property
    def version(self) -> str:
        """The version of HTTP, such as ``"HTTP/1.1"``."""
        return self.head.raw[:8].decode("latin-1")

    def get_http_version(self) -> str:
        """Return the version of HTTP."""
        return self.version

    def should_keep_alive(self) -> bool:
        """Return whether the server keeps the connection open."""
        return self.head.keep_alive

    def should_close(self) -> bool:
        """Return whether the server closes the connection."""
        return not self.head.keep_alive

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the body in pieces of 4 KiB."""
        return self

    def __next__(self) -> bytes:
        piece = Response.read(self, 1 << 12)
        if not piece:
            raise StopIteration
        return piece

    def readline(self, sep: bytes = b"\r\n") -> bytes:
        """Return the body's next line, its end included; nothing if no line ends."""
        end = bytes(self.body).find(sep, self._position)
        return b"" if end < 0 else bytes(self.read(end + len(sep) - self._position))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def release(self) -> Any:
        """Do nothing: the connection is free already."""

    def read(self, length: int | None = -1) -> bytes:
        """Return the next `length` bytes of the body, or the rest of it."""
        start = self._position
        end = len(self.body) if length is None or length < 0 else min(start + length, len(self.body))
        self._position = end
        return bytes(self.body[start:end])

    def __repr__(self) -> str:
        return f"<Response {self.status_code} {self.reason}, {len(self.body)} bytes>"


class StreamedResponse(Response):
    """The head of a response whose body is still arriving; the transport's `stream` yields its pieces."""

    stream: Any
    #: A callback for the end of the stream, or None.
    ending: Any = None
    #: Whether errors in it name the server, because the client has several.
    names_server: bool = False
