"""The bytes of a request: its head, and which of its buffers are sent together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .._basics.redaction import without_secrets
from ..errors import InvalidRequest

__all__ = [
    "COALESCE",
    "Buffer",
    "amended",
    "coalesce",
    "encode_head",
    "header_line",
    "host_of",
    "is_token",
    "plain_text",
    "without_expectation",
]

Buffer = bytes | bytearray | memoryview

#: Buffers up to this size may be joined. A larger one is a tensor, which is never copied.
COALESCE = 1 << 16

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_HOST = re.compile(rb"(?i)\r\nhost: ?([^\r]*)")
_FORBIDDEN = re.compile(r"[\r\n\0]")
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_token(name: object) -> bool:
    """Return whether a header may have this name."""
    return isinstance(name, str) and _TOKEN.fullmatch(name) is not None


def header_line(name: str, value: object) -> str:
    """Return a header line, including its line end; a line for each value of a list.

    Raises
    ------
    InvalidRequest
        If the name is not a token, or the value has no text form, or contains CR, LF, NUL or a lone surrogate.
    """
    if not is_token(name):
        shown = (
            repr(name) if not isinstance(name, str) or ":" not in name else f"'{name.partition(':')[0]}:…'"
        )
        raise InvalidRequest(f"header name {shown} is not a token of HTTP")
    if isinstance(value, (list, tuple)):
        return "".join(header_line(name, each) for each in value)
    text = plain_text(value)
    if text is None or _FORBIDDEN.search(text):
        # The message omits the value, which may be a credential.
        raise InvalidRequest(
            f"the value of header {name!r} must be text without CR, LF, NUL or lone surrogates, or a number,"
            f" got {type(value).__name__}"
        )
    return f"{name}: {text}\r\n"


def plain_text(value: object) -> str | None:
    """Return a caller's value as text, or None for a value that has no obvious text.

    Bytes that are not UTF-8 become surrogates. Text of its own has none: nobody knows which bytes they mean.
    """
    kind = type(value)
    if kind is str and value.isascii():  # type: ignore[attr-defined]  # the usual case
        return value  # type: ignore[return-value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    # Containers, arrays, functions, and objects that have only an address to show.
    if value is None or callable(value) or (hasattr(kind, "__iter__") and not isinstance(value, str)):
        return None
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        return None
    text = str(value)
    return None if _SURROGATE.search(text) else text


def encode_head(method: str, target: str, lines: str, length: int) -> bytes:
    """Return a request's head.

    Parameters
    ----------
    method, target : str
        The method, and the path with its query, percent-encoded.
    lines : str
        Header lines, each including its line end.
    length : int
        The body's size in bytes.

    Raises
    ------
    InvalidRequest
        If the target contains spaces or unprintable characters.
    """
    if " " in target or not target.isprintable():
        raise InvalidRequest(f"expected a percent-encoded path, got {without_secrets(target)!r}")
    if length or method != "GET":
        lines = f"{lines}Content-Length: {length}\r\n"
    # Text is sent as UTF-8; surrogates stand for the caller's own bytes.
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogateescape")


def host_of(request: Buffer) -> str:
    """Return the Host that a request's head names; a body may follow the head."""
    found = _HOST.search(request)
    return found[1].decode("utf-8", "replace") if found else ""


def amended(request: Buffer, origin: str, lines: bytes) -> tuple[bytes, bytes]:
    """Return a request's head with added header lines, and the body that follows it.

    Parameters
    ----------
    request : buffer
        The head as :func:`encode_head` returns it, optionally followed by a body.
    origin : str
        Scheme and authority to prepend to the path for a proxy (RFC 9112, 3.2.2), or an empty string.
    lines : bytes
        Additional header lines, each including its line end.
    """
    head, _, body = bytes(request).partition(b"\r\n\r\n")
    method, _, rest = head.partition(b" ")
    return b"%b %b%b\r\n%b\r\n" % (method, origin.encode(), rest, lines), body


def without_expectation(buffers: Sequence[Buffer]) -> Sequence[Buffer] | None:
    """Return a request as it is sent again after a 417 (RFC 9110, 10.1.1); None if it did not expect a 100."""
    first, *rest = buffers
    head, end, body = bytes(first).partition(b"\r\n\r\n")
    plain, count = _EXPECT.subn(b"", head + b"\r\n")
    return [b"%b\r\n%b" % (plain, body), *rest] if count and end else None


def coalesce(buffers: Sequence[Buffer], limit: int = COALESCE) -> list[Buffer]:
    """Join small neighbouring buffers. A buffer larger than `limit` is never copied."""
    if sum(map(len, buffers)) <= limit:
        return [b"".join(buffers)]
    joined: list[Buffer] = []
    small: list[Buffer] = []
    size = 0
    for buffer in buffers:
        length = len(buffer)
        if size + length > limit:
            if small:
                joined.append(b"".join(small))
                small, size = [], 0
            if length > limit:
                joined.append(buffer)
                continue
        if length:
            small.append(buffer)
            size += length
    if small:
        joined.append(b"".join(small))
    return joined
