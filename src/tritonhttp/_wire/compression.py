"""Content codings of bodies: gzip and deflate, in both directions.

"deflate" is the zlib format (RFC 9110, 8.4.1.2). Some servers send the raw stream under that name; both are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from ..errors import InvalidRequest, ProtocolError
from .requests import Buffer, coalesce

__all__ = ["ALGORITHMS", "MAX_DECOMPRESSED", "Decompressor", "compress", "decompress", "is_coded", "slices"]


#: Name of the coding -> zlib's wbits for writing it.
ALGORITHMS = {"gzip": 31, "deflate": 15}
_CODINGS = ("gzip", "x-gzip", "deflate")
_NONE = ("", "identity")
_NO_HEADER = -15
#: The first bytes of a gzip header without optional fields, and without anything reserved.
_PLAIN = b"\x1f\x8b\x08\0"
#: The most codings of one body: each takes memory and time.
_MAX_CODINGS = 8
#: Bytes of compressed data to read at once: at the start of a gzip member, and later.
_SHORT, _LONG = 1 << 10, 1 << 16

#: The default limit of a decompressed body. It guards against bodies that grow a thousandfold.
MAX_DECOMPRESSED = 1 << 30


@cache
def _zlib() -> Any:
    """Import ISA-L's zlib where the extra ``fast-gzip`` is installed, and the standard one elsewhere."""
    try:
        from isal import isal_zlib
    except ImportError:
        return _standard()
    return isal_zlib


def _standard() -> Any:
    import zlib

    return zlib


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
    pieces = list(slices(body, encoding, limit))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def slices(body: Buffer, encoding: str, limit: int | None = None) -> Iterator[Buffer]:
    """Yield what :func:`decompress` returns, in pieces of bounded size and work."""
    decompressor = Decompressor(encoding, MAX_DECOMPRESSED if limit is None else limit)
    yield from decompressor.feed(body)
    decompressor.end()


def _names(encoding: str) -> list[str]:
    return [name for token in encoding.split(",") if (name := token.strip().lower()) not in _NONE]


def is_coded(encoding: str) -> bool:
    """Return whether a Content-Encoding value names a coding that changes the body."""
    return bool(_names(encoding))


class Decompressor:
    """Decompresses a body that arrives in pieces.

    Parameters
    ----------
    encoding : str
        A Content-Encoding value, as for :func:`decompress`.
    limit : int, optional
        The maximum size of what comes out of each coding, in bytes.
    step : int
        The most bytes to yield at a time.

    Raises
    ------
    ProtocolError
        For an unknown coding, or too many of them.
    """

    def __init__(self, encoding: str, limit: int | None = None, step: int = 1 << 20) -> None:
        names = _names(encoding)
        if not set(names) <= set(_CODINGS):
            raise ProtocolError(f"Content-Encoding {encoding!r}: expected gzip, deflate or identity")
        if len(names) > _MAX_CODINGS:
            raise ProtocolError(
                f"Content-Encoding: expected at most {_MAX_CODINGS} codings, got {len(names)}"
            )
        #: The last applied first.
        self._layers = [_Layer(name, limit, step) for name in reversed(names)]

    @property
    def pending(self) -> bool:
        """Whether the end of the compressed data is still to come."""
        return any(layer.pending for layer in self._layers)

    def feed(self, received: Buffer) -> Iterator[Buffer]:
        """Decompress the received bytes, yielding often: after so much input or output, perhaps ``b""``.

        Raises
        ------
        ProtocolError
            For damaged data, or more than the limit.
        """
        pieces: Iterator[Buffer] = iter((received,))
        for layer in self._layers:
            pieces = layer.undo(pieces)
        return pieces

    def end(self) -> None:
        """Note the end of the body.

        Raises
        ------
        ProtocolError
            If the compressed data are incomplete.
        """
        for layer in self._layers:
            if layer.pending:
                raise ProtocolError(f"the {layer.coding} body of {layer.received} bytes is truncated")


class _Layer:
    """Undoes one coding.

    A gzip body is any number of members (RFC 1952, 2.2). Zeros behind a member are padding. A new member is read
    in short slices, because zlib copies what stands behind its end: many small members would take quadratic time.
    """

    def __init__(self, coding: str, limit: int | None, step: int) -> None:
        self.coding = coding
        #: Bytes, in and out.
        self.received = self._size = 0
        self._limit = limit
        self._step = step
        #: Reads the current member; None between members.
        self._stream: Any = None
        self._reach = _SHORT
        #: Whether there may be more output without more input.
        self._full = False
        #: Whether a member has ended.
        self._ended = False
        #: The first bytes of a member, until enough have come to tell how to read it.
        self._start = b""
        #: How many bytes of a checksum may follow: a raw stream may be a zlib stream without its head.
        self._checksum = 0

    @property
    def pending(self) -> bool:
        """Whether a member is incomplete, or none has come."""
        return self._stream is not None or not self._ended or bool(self._start)

    def undo(self, pieces: Iterator[Buffer]) -> Iterator[bytes]:
        """Yield at least once for each piece, and each time `step` bytes are there or `_LONG` bytes were read."""
        for piece in pieces:
            yield from self._undo(memoryview(piece))

    def _undo(self, received: memoryview) -> Iterator[bytes]:
        self.received += len(received)
        failure: ProtocolError | None = None
        made: list[bytes] = []
        size = at = yielded = 0
        while failure is None and (at < len(received) or self._full):
            data = received[at : at + self._reach]
            try:
                if self._stream is None:
                    at += self._begin(data)
                else:
                    piece, count = self._read(data, self._step - size)
                    at += count
                    size += len(piece)
                    made.append(piece)
            except ProtocolError as error:  # what came before it is yielded first
                failure = error
            if size == self._step or at - yielded >= _LONG:
                yield b"".join(made)
                made.clear()
                size, yielded = 0, at
        yield b"".join(made)
        if failure is not None:
            raise failure

    def _read(self, data: Buffer, room: int) -> tuple[bytes, int]:
        """Return at most so many decompressed bytes, and how many bytes that took."""
        stream = self._stream
        if self._limit is not None:
            room = min(room, self._limit - self._size + 1)
        try:
            piece: bytes = stream.decompress(data, room)
        except (_standard().error, _zlib().error) as error:
            raise self._invalid(error) from error
        self._size += len(piece)
        if self._limit is not None and self._size > self._limit:
            raise ProtocolError(
                f"the {self.coding} body decompresses to more than the limit of {self._limit} bytes"
            )
        if stream.eof:
            left = len(stream.unused_data)
            self._stream, self._ended, self._full, self._reach = None, True, False, _SHORT
        else:
            left = len(stream.unconsumed_tail)
            self._full = len(piece) == room
            self._reach = min(2 * self._reach, _LONG)
        return piece, len(data) - left

    def _begin(self, data: memoryview) -> int:
        """Begin a member, or read what is between members; return how many bytes that took."""
        if self._ended and not self._start:
            if skipped := min(self._checksum, len(data)):
                self._checksum -= skipped
                return skipped
            rest = data.tobytes().lstrip(b"\0")
            if not rest or len(rest) < len(data):
                return len(data) - len(rest)
            if self.coding == "deflate":
                raise self._invalid(f"{len(rest)} bytes or more follow its end")
        start = self._start + data[: len(_PLAIN)].tobytes()
        if len(start) < 2 or (start != _PLAIN and _PLAIN.startswith(start)):
            self._start = start
            return len(data)
        self._stream = self._reader(start)
        try:
            self._stream.decompress(self._start)  # part of a header gives no output
        except (_standard().error, _zlib().error) as error:
            raise self._invalid(error) from error
        self._start = b""
        return 0

    def _reader(self, start: bytes) -> Any:
        """Return what reads a member with these first bytes."""
        # A zlib header's first two bytes are a multiple of 31 with the method 8 in the low half (RFC 1950).
        if start[0] & 15 == 8 and (start[0] << 8 | start[1]) % 31 == 0:
            # ISA-L reads these all the same, or not, depending on the pieces in which they come.
            if start[0] >> 4 > 7:
                raise self._invalid("its window is larger than 32 KiB")
            if start[1] & 32:
                raise self._invalid("it needs a preset dictionary")
            return _zlib().decompressobj(ALGORITHMS["deflate"])
        if self.coding == "deflate":
            self._checksum = 4
            return _zlib().decompressobj(_NO_HEADER)
        # In pieces, ISA-L misreads optional fields and takes reserved ones; such headers are rare.
        library = _zlib() if start.startswith(_PLAIN) else _standard()
        return library.decompressobj(ALGORITHMS["gzip"])

    def _invalid(self, reason: object) -> ProtocolError:
        return ProtocolError(f"the body is not valid {self.coding}: {reason}")
