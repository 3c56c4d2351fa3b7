"""JSON as Triton reads and writes it, with the speed of orjson.

Triton's JSON may contain bare ``NaN``, ``Infinity`` and ``-Infinity`` in both directions. orjson refuses to
read them and writes null for them. So reading falls back to the standard module, and writing inserts them as
fragments. A value that cannot be written raises :class:`InvalidRequest`.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import InvalidRequest, ProtocolError

__all__ = ["dump_array", "dumps", "loads", "plain"]

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
#: The most levels of JSON from the server. Deeper ones end Python's stack wherever they are shown or copied.
_MAX_DEPTH = 256
#: Bytes to look at together.
_STEP = 1 << 16
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


def dumps(value: Any) -> bytes:
    """Encode a value whose numbers are finite and fit 64 bits, as those of :func:`plain` do."""
    try:
        return orjson.dumps(value)
    except TypeError:
        pass  # numpy's numbers, for example in a shape, need an option that slows everything else down
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        raise InvalidRequest(f"cannot be written as JSON: {error}") from error


def plain(value: Any, where: str, *, text: bool = False) -> Any:
    """Prepare a caller's value for :func:`dumps`: NaN, infinities and large integers become fragments.

    With `text`, bytes are decoded as UTF-8.

    Raises
    ------
    InvalidRequest
        For a value that JSON cannot represent, such as bytes; the message names `where`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{where} is not valid text, and JSON has no form for it: {error}") from None
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if _INT64_MIN <= value <= _UINT64_MAX else orjson.Fragment(str(int(value)))
    if isinstance(value, float):
        return value if math.isfinite(value) else orjson.Fragment(json.dumps(float(value)))
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), where, text=text)
    if isinstance(value, dict):
        return {_key(key, where): plain(item, f"{where}[{key!r}]", text=text) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where, text=text) for item in value]
    if text and isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"{where} has bytes that are not UTF-8, and JSON has no form for them"
            ) from error
    raise InvalidRequest(f"{where} is a {type(value).__name__}, which JSON has no form for")


def _key(key: Any, where: str) -> str:
    """Return a key as JSON has it: a number becomes text, as the standard module has it."""
    if isinstance(key, (str, int, float)) and not isinstance(key, bool):
        return str(plain(str(key), f"a key of {where}"))
    raise InvalidRequest(f"a key of {where} must be a str, got {key!r}")


def dump_array(array: npt.NDArray[Any]) -> bytes:
    """Encode a numeric or boolean array as a flat JSON list in C order."""
    if array.dtype.kind == "f":
        if array.dtype.itemsize == 2:
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            return json.dumps(array.ravel().tolist()).encode("ascii")
    flat = array.ravel()
    if not flat.dtype.isnative:
        flat = flat.astype(flat.dtype.newbyteorder("="))
    return orjson.dumps(flat, option=_OPTIONS)


def loads(data: bytes | bytearray | memoryview, what: str) -> Any:
    """Decode JSON from the server, including bare NaN and infinities.

    Raises
    ------
    ProtocolError
        For anything else, and for more than 256 levels; the message names `what` and shows the first bytes.
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as refusal:
        raw = bytes(data)
        try:
            found = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ProtocolError(
                "Failed to encode using UTF-8. Please use binary_data=True, if you want to pass a byte array."
                f" UnicodeError: {error}",
                debug_details=raw,
            ) from error
        except (ValueError, RecursionError):
            start = raw[:80].decode("utf-8", "replace")
            came = f" that begin with {start!r} ({refusal})" if raw else ""
            raise ProtocolError(
                f"{what}: expected JSON, got {len(raw)} bytes{came}", debug_details=raw
            ) from refusal
    if len(data) > 2 * _MAX_DEPTH and _openings(data) > _MAX_DEPTH and _is_deep(found):
        raise ProtocolError(f"{what}: expected JSON of at most {_MAX_DEPTH} levels, got more")
    return found


def _openings(data: bytes | bytearray | memoryview) -> int:
    """Return how many levels the JSON has at most. Numbers of a tensor have few, so that it is quick for them."""
    view = memoryview(data)
    pieces = (bytes(view[start : start + _STEP]) for start in range(0, len(view), _STEP))
    return sum(piece.count(b"[") + piece.count(b"{") for piece in pieces)


def _is_deep(found: Any) -> bool:
    level = [found] if type(found) in (dict, list) else []
    for _ in range(_MAX_DEPTH):
        parts = (each.values() if type(each) is dict else each for each in level)
        level = [part for part in chain.from_iterable(parts) if type(part) in (dict, list)]
        if not level:
            return False
    return True
