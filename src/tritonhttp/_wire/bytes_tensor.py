"""The framing of BYTES tensors in the binary protocol.

Each element is its length as four little-endian bytes, followed by its bytes. The elements follow each other
in C order, without padding. :func:`encode` frames an array of strings, and :func:`decode` returns an array of
``bytes``. Lengths from the server are never trusted: nothing is read past the end of the data.
"""

from __future__ import annotations

import struct
from itertools import repeat
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .._basics.implementation import check_c_is_wanted, fall_back
from ..errors import InvalidRequest, ProtocolError

try:
    check_c_is_wanted()
    from . import _bytes_tensor as _speedups
except ImportError as error:  # use the Python code below, which is five to ten times slower
    fall_back("tritonhttp._wire._bytes_tensor", error)
    _speedups = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["decode", "encode"]

_LENGTH = struct.Struct("<I")
_MAX_LENGTH = 2**32 - 1
_BYTES_LIKE = (bytes, bytearray, memoryview)


def encode(array: np.ndarray[Any, Any]) -> bytes | bytearray:
    """Serialize an array of strings or byte strings for the binary protocol.

    Parameters
    ----------
    array : numpy.ndarray
        An array of any shape and memory order. The dtype decides how elements are encoded:

        - object: ``bytes`` and its subclasses, ``bytearray`` and ``memoryview`` unchanged; ``str`` as UTF-8;
          anything else, including ``None`` and subclasses of ``str``, as the UTF-8 of its ``str()``.
        - ``S`` and ``U``: the element as numpy returns it, without trailing NULs; ``U`` as UTF-8.
        - ``StringDType`` (numpy 2): UTF-8. A missing value is sent as the dtype's ``na_object`` if that is a
          string, and is an error otherwise.

        An array without elements may have any dtype.

    Returns
    -------
    bytes or bytearray
        The framed elements in C order.

    Raises
    ------
    InvalidRequest
        For any other dtype, and for an element that has no UTF-8 form (a lone surrogate) or at least 2**32 bytes.

    Notes
    -----
    The reference sends the ``str()`` of subclasses of ``bytes``, of ``bytearray`` and of ``memoryview``
    (``b'…'`` with its quotes, for example), and refuses ``U`` and ``StringDType``.
    """
    # Subclasses may change elements: numpy.char.chararray strips spaces.
    array = np.asarray(array)
    if array.size == 0:
        return b""
    kind = array.dtype.kind
    if kind == "S":
        return _encode_fixed(array)
    if kind not in "OUT":
        raise InvalidRequest(
            f"cannot serialize bytes tensor: invalid datatype {array.dtype}; "
            "expected object, S, U or StringDType"
        )
    # A copy, because the str() of an element can run code that changes the array.
    items = array.ravel().tolist()
    if hasattr(array.dtype, "na_object"):
        _refuse_missing(items)
    return _encode_items(items) if _speedups is None else _speedups.encode(items, _as_bytes)


def decode(data: Buffer, count: int | None = None) -> np.ndarray[Any, Any]:
    """Split the binary form of a BYTES tensor into elements.

    Parameters
    ----------
    data : bytes, bytearray, memoryview or numpy.ndarray
        One contiguous buffer.
    count : int, optional
        The number of elements that the tensor's shape promises; not checked if None.

    Returns
    -------
    numpy.ndarray
        A one-dimensional array of ``bytes`` objects.

    Raises
    ------
    ProtocolError
        If an element extends past the data, one to three bytes are left over, or the number of elements is not
        ``count``.
    """
    view = memoryview(data)
    if count is not None and (count < 0 or count * 4 > view.nbytes):
        raise ProtocolError(
            f"BYTES tensor: expected {count} elements of at least 4 bytes each, got {view.nbytes} bytes"
        )
    if not view.c_contiguous:
        raise ValueError("expected a C-contiguous buffer")
    if _speedups is None:
        # Slicing bytes is faster than tobytes() on slices of the view, even after this copy.
        items = _decode_items(data if type(data) is bytes else view.tobytes(), count)
        if items is None:
            _refuse(view, count)
        return np.fromiter(items, dtype=object, count=len(items))
    found, end = _speedups.scan(view)
    if end != view.nbytes or count not in (None, found):
        _refuse(view, count)
    array = np.empty(found, dtype=object)
    if _speedups.fill(view, array) != found:
        raise ProtocolError("BYTES tensor: the data changed while it was decoded")
    return array


class _Prefixes(dict[int, bytes]):
    """Length -> encoded length. Large tensors have few different lengths."""

    def __missing__(self, length: int) -> bytes:
        prefix = self[length] = _LENGTH.pack(length)
        return prefix


def _encode_items(items: list[Any]) -> bytes:
    kinds = list(map(type, items))  # counting in a list is faster than making a set
    if kinds.count(str) == len(items):
        try:
            items = [item.encode() for item in items]
        except UnicodeEncodeError:
            items = [_as_bytes(item, index) for index, item in enumerate(items)]
    elif kinds.count(bytes) != len(items):
        items = [item if type(item) is bytes else _as_bytes(item, index) for index, item in enumerate(items)]
    # One join over [prefix, item, prefix, item, …], because other ways need a Python loop.
    parts = [b""] * (2 * len(items))
    parts[1::2] = items
    try:
        parts[::2] = map(_Prefixes().__getitem__, map(len, items))
    except struct.error:
        for index, item in enumerate(items):
            _check_length(item, index)
        raise
    return b"".join(parts)


def _encode_fixed(array: np.ndarray[Any, Any]) -> bytes | bytearray:
    width = array.dtype.itemsize
    flat = np.ascontiguousarray(array).reshape(-1)
    if 0 < width <= _MAX_LENGTH:
        octets = flat.view(np.uint8).reshape(-1, width)
        if _speedups is not None:
            return _speedups.encode_fixed(octets.data, width)
        if octets[:, -1].all():  # no element ends with a NUL, so all have the full width
            encoded = bytearray(flat.size * (4 + width))
            rows = np.frombuffer(encoded, dtype=[("length", "<u4"), ("octets", np.uint8, (width,))])
            rows["length"] = width
            rows["octets"] = octets
            return encoded
    return _encode_items(flat.tolist())


def _as_bytes(item: Any, index: int) -> bytes:
    """Return one element as exactly ``bytes``. Every rule about single elements is here."""
    if type(item) is bytes:
        octets = item
    elif isinstance(item, _BYTES_LIKE):
        octets = memoryview(item).tobytes()  # a subclass can override bytes(item)
    else:
        text = item if type(item) is str else str(item)
        try:
            octets = str.encode(text)
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"element {index} of a BYTES tensor has no UTF-8 form: {error.reason} (at {error.start})"
            ) from error
    _check_length(octets, index)
    return octets


def _check_length(octets: bytes, index: int) -> None:
    if len(octets) > _MAX_LENGTH:
        raise InvalidRequest(
            f"element {index} of a BYTES tensor has {len(octets)} bytes; the protocol allows {_MAX_LENGTH}"
        )


def _refuse_missing(items: list[Any]) -> None:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidRequest(
                f"element {index} of a BYTES tensor is missing ({item!r}); expected a string"
            )


def _decode_items(data: bytes, count: int | None) -> list[bytes] | None:
    """Return the elements, or None if the data is not exactly ``count`` elements."""
    items: list[bytes] = []
    append, read_length = items.append, _LENGTH.unpack_from
    position, end = 0, len(data)
    try:
        for _ in repeat(None, end // 4 if count is None else count):
            start = position + 4
            position = start + read_length(data, position)[0]
            # Slices stop at the end of the data, so a false length is harmless. It is detected below.
            append(data[start:position])
    except struct.error:  # past the end, or too few bytes for a length
        pass
    return items if position == end and count in (None, len(items)) else None


def _refuse(view: memoryview, count: int | None) -> NoReturn:
    """Raise the error that describes malformed data. It scans the data again, slowly."""
    index = position = 0
    while (left := view.nbytes - position) >= 4:
        (length,) = _LENGTH.unpack_from(view, position)
        if length > left - 4:
            expected, left = f"{length} bytes", left - 4
            break
        position += 4 + length
        index += 1
    else:
        if left == 0:
            raise ProtocolError(f"BYTES tensor: expected {count} elements, got {index}")
        expected = "a length of 4 bytes"
    raise ProtocolError(
        f"BYTES tensor: element {index} at offset {position}: expected {expected}, got {left}"
    )
