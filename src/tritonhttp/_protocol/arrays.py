"""What callers have, as numpy arrays, and numpy arrays as what callers want: no I/O, and nothing on a GPU.

Taken are numbers, text, lists of them, numpy arrays, and whatever has ``__array__`` or speaks DLPack. An object
array holds strings or byte strings, nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from .._wire import dtypes
from ..errors import InvalidRequest

__all__ = ["as_array", "as_dlpack", "as_torch", "cast", "decoded", "is_typed"]

_TEXT = (str, bytes, bytearray, memoryview)


def is_typed(value: Any) -> bool:
    """Return whether a value has a dtype of its own, which lists and Python's numbers do not."""
    return hasattr(value, "dtype") or hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def as_array(value: Any, what: str) -> npt.NDArray[Any]:
    """Return a caller's value as an array, of the caller's memory where that is possible.

    Parameters
    ----------
    value
        See the module. ``bytes`` and ``str`` are one element, ``bytearray`` and other buffers what numpy makes
        of them.
    what : str
        What it is, for messages.

    Raises
    ------
    InvalidRequest
        For anything that is no array of numbers or text, and for a tensor on a GPU.
    """
    if isinstance(value, np.ndarray):
        array: npt.NDArray[Any] = value
    elif isinstance(value, (str, bytes)):
        array = np.array(value, dtype=object)
    elif hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
        array = _foreign(value, what)
    else:
        array = _made(value, what)
    return _of_text_or_numbers(array, what) if array.dtype.kind == "O" else array


def _made(value: Any, what: str) -> npt.NDArray[Any]:
    """Return what numpy makes of a value without a dtype; text as objects, since S loses the NULs at its end."""
    try:
        try:
            array = np.asarray(value)
        except UnicodeDecodeError:  # numpy takes bytes among str for ASCII
            return np.array(value, dtype=object)
        return np.array(value, dtype=object) if array.dtype.kind in "SU" else array
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"{what}: no array can be made of this {_name(value)}: {error}") from error


def _foreign(value: Any, what: str) -> npt.NDArray[Any]:
    """Return what another library's tensor holds."""
    reason: Exception | None = None
    if hasattr(value, "__array__"):
        try:
            return np.asarray(value)
        except Exception as error:  # whatever a library raises
            reason = error
    if not hasattr(value, "__dlpack__"):
        raise InvalidRequest(f"{what}: no array can be made of this {_name(value)}: {reason}") from reason
    from ..utils import _dlpack

    try:
        array, code = _dlpack.as_array(value)
    except ValueError as error:
        raise InvalidRequest(f"{what}: no array can be made of this {_name(value)}: {error}") from error
    return array.view(dtypes.triton_to_np_dtype("BF16")) if code == _dlpack.BFLOAT16 else array


def _of_text_or_numbers(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    items = array.ravel().tolist()
    others = [kind for kind in set(map(type, items)) if not issubclass(kind, _TEXT)]
    if not others:
        return array
    try:
        numbers = np.asarray(array.tolist())
    except (TypeError, ValueError, OverflowError):
        numbers = array
    if numbers.dtype.kind in "biuf" and numbers.shape == array.shape:
        return numbers
    index, item = next((index, item) for index, item in enumerate(items) if not isinstance(item, _TEXT))
    raise InvalidRequest(
        f"{what}: expected numbers, or str and bytes; element {index} is a {_name(item)}: {item!r:.80}"
    )


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


#: A value survives on its way to a kind that is not further left, if it fits there.
_RANKS = {"BOOL": 0, **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), 2), "BYTES": None}


def cast(array: npt.NDArray[Any], datatype: str, what: str) -> npt.NDArray[Any]:
    """Return an array as another datatype of the protocol, where no value changes but by rounding to a float.

    Whole numbers become whole numbers of any width that they fit in, and floats; floats become floats, unless a
    finite one would be infinite; truth values become numbers.

    Raises
    ------
    InvalidRequest
        For every other change.
    """
    have = dtypes.np_to_triton_dtype(array.dtype)
    if have == datatype:
        return array
    before, after = (_RANKS.get(name, 1) if name in dtypes.NAMES else None for name in (have, datatype))
    if before is None or after is None or before > after:
        raise InvalidRequest(
            f"{what}: expected {datatype}, got {have or array.dtype}, which is not cast to that"
        )
    target = np.dtype(dtypes.triton_to_np_dtype(datatype))
    if array.size == 0:
        return array.astype(target)
    if before == after == 1:
        low, high, limits = int(array.min()), int(array.max()), np.iinfo(target)
        if low < limits.min or high > limits.max:
            raise InvalidRequest(f"{what}: values from {low} to {high} do not fit into {datatype}")
    with np.errstate(all="ignore"):
        found: npt.NDArray[Any] = array.astype(target)
        if after == 2 and not np.array_equal(np.isfinite(found), np.isfinite(array)):
            raise InvalidRequest(f"{what}: values of {have} beyond the largest finite {datatype}")
    return found


def decoded(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Return an array of strings made of one of byte strings in UTF-8."""
    try:
        texts = [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what}: not all elements are UTF-8: {error}") from error
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found.reshape(array.shape)


class _BF16:
    """A tensor of bfloat16 for who reads DLPack, which numpy does not write for that dtype."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array.view(np.uint16)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        from ..utils import _dlpack

        if stream is not None or dl_device not in (None, (_dlpack.CPU, 0)):
            raise BufferError("this tensor is on the host, and stays there")
        array = self._array.copy() if copy else self._array
        return _dlpack.export(array, (_dlpack.CPU, 0), _dlpack.BFLOAT16, max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def as_dlpack(array: npt.NDArray[Any], what: str) -> Any:
    """Return an object over the array's memory with ``__dlpack__`` and ``__dlpack_device__``.

    Raises
    ------
    InvalidRequest
        For strings, which DLPack has no form for.
    """
    if array.dtype.kind == "O":
        raise InvalidRequest(f"{what} is BYTES, and only numbers go through DLPack: use as_numpy")
    return _BF16(array) if array.dtype.name == "bfloat16" else array


def as_torch(array: npt.NDArray[Any], what: str) -> Any:
    """Return a ``torch.Tensor`` over the array's memory.

    Raises
    ------
    ImportError
        Without torch.
    InvalidRequest
        For strings.
    """
    producer = as_dlpack(array, what)
    return import_module("torch").from_dlpack(producer)
