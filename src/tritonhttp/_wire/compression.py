"""Content codings of bodies: gzip and deflate, in both directions.

"deflate" is the zlib format (RFC 9110, 8.4.1.2). Some servers send the raw stream under that name; both are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from ..errors import InvalidRequest, ProtocolError
from .requests import Buffer, coalesce

__all__ = ["ALGORITHMS", "MAX_DECOMPRESSED", "Decompressor", "compress", "decompress"]


#: Name of the coding -> zlib's wbits for writing it.
ALGORITHMS = {"gzip": 31, "deflate": 15}
_CODINGS = ("gzip", "x-gzip", "deflate")
_EITHER_HEADER, _NO_HEADER = 47, -15

#: The default limit of a decompressed body. It guards against bodies that grow a thousandfold.
MAX_DECOMPRESSED = 1 << 30


@cache
def _zlib() -> Any:
    """Import ISA-L's zlib where the extra ``fast-gzip`` is installed, and the standard one elsewhere."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


def compress(buffers: Sequence[Buffer], algorithm: str) -> tuple[bytes, ...]:
    """Compress the buffers as one body.

    Raises
    ------
    InvalidRequest
        For an algorithm other than ``"gzip"`` and ``"deflate"``.
    """
    wbits = ALGORITHMS.get(algorithm)
    if wbits is None:
        raise InvalidRequest(
            f"unsupported compression algorithm {algorithm!r}: expected 'gzip', 'deflate' or None"
        )
    stream = _zlib().compressobj(wbits=wbits)
    # ISA-L hardly compresses less than 32 KiB behind a small first piece.
    pieces = [stream.compress(buffer) for buffer in coalesce(buffers)]
    pieces.append(stream.flush())
    return (b"".join(pieces),)


def decompress(body: Buffer, encoding: str, limit: int | None = None) -> Buffer:
    """Undo the codings that a Content-Encoding value lists.

    Parameters
    ----------
    body
        The body as received.
    encoding : str
        ``"gzip"``, ``"deflate"``, ``"identity"``, or a list of them in the order in which they were applied.
    limit : int, optional
        The maximum size of the result in bytes, :data:`MAX_DECOMPRESSED` by default.

    Raises
    ------
    ProtocolError
        For an unknown coding, a damaged or truncated body, or a result of more than `limit` bytes.
    """
    limit = MAX_DECOMPRESSED if limit is None else limit
    for coding in reversed([token.strip().lower() for token in encoding.split(",")]):
        if coding in _CODINGS:
            body = _decompress_one(body, coding, limit)
        elif coding not in ("", "identity"):
            raise ProtocolError(f"Content-Encoding {encoding!r}: expected gzip, deflate or identity")
    return body


class Decompressor:
    """Decompresses a body that arrives in pieces and has one coding.

    Parameters
    ----------
    encoding : str
        ``"gzip"`` or ``"deflate"``.

    Raises
    ------
    ProtocolError
        For any other encoding.
    """

    def __init__(self, encoding: str) -> None:
        if encoding.strip().lower() not in _CODINGS:
            raise ProtocolError(f"Content-Encoding {encoding!r} of a stream: expected gzip or deflate")
        self._encoding = encoding
        self._stream = _zlib().decompressobj(_EITHER_HEADER)

    @property
    def pending(self) -> bool:
        """Whether the end of the compressed data is still to come."""
        return not self._stream.eof

    def feed(self, received: Buffer) -> Iterator[bytes]:
        """Decompress the received bytes, yielding at most 1 MiB at a time.

        Raises
        ------
        ProtocolError
            For damaged data.
        """
        try:
            while not self._stream.eof:
                piece = self._stream.decompress(received, 1 << 20)
                yield piece
                received = self._stream.unconsumed_tail
                if not received and len(piece) < 1 << 20:
                    break
        except _zlib().error as error:
            raise ProtocolError(f"the body is not valid {self._encoding}: {error}") from error


def _decompress_one(body: Buffer, coding: str, limit: int) -> bytes:
    zlib = _zlib()
    # A zlib header's first two bytes are a multiple of 31 with the method 8 in the low half (RFC 1950).
    raw = coding == "deflate" and not (
        len(body) >= 2 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    )
    pieces: list[bytes] = []
    rest: Any = body
    size = 0
    try:
        while True:  # once per gzip member
            stream = zlib.decompressobj(_NO_HEADER if raw else _EITHER_HEADER)
            while not stream.eof:
                # Each step is bounded, so that a small body cannot fill the memory.
                piece = stream.decompress(rest, min(1 << 24, limit - size + 1))
                rest = stream.unconsumed_tail
                size += len(piece)
                if size > limit:
                    raise ProtocolError(
                        f"the {coding} body decompresses to more than the limit of {limit} bytes"
                    )
                if not piece and not rest and not stream.eof:
                    raise ProtocolError(f"the {coding} body of {len(body)} bytes is truncated")
                pieces.append(piece)
            rest = stream.unused_data
            if coding == "deflate" or not rest.strip(b"\0"):
                return b"".join(pieces)
    except zlib.error as error:
        raise ProtocolError(f"the body is not valid {coding}: {error}") from error
