"""Conversion between callers' values and numpy arrays: no I/O, and nothing on a GPU.

Accepted are numbers, text, lists of them, numpy arrays, columns of tables, and objects with ``__array__`` or
DLPack. An object array holds only strings or byte strings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from .._wire import dtypes
from ..errors import InvalidRequest, MissingDependency
from . import columns

__all__ = ["as_array", "as_dlpack", "as_torch", "cast", "decoded", "is_typed", "may_be_cast"]

_TEXT = (str, bytes, bytearray, memoryview)


def is_typed(value: Any) -> bool:
    """Return whether a value has a dtype of its own; lists and Python's numbers have none."""
    return hasattr(value, "dtype") or hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def as_array(value: Any, what: str, expected: str | None = None) -> npt.NDArray[Any]:
    """Return a caller's value as an array, over the caller's memory where possible.

    Parameters
    ----------
    value
        See the module. ``bytes`` and ``str`` are one element; numpy decides for ``bytearray`` and other buffers.
    what : str
        The value's name in messages.
    expected : str, optional
        The datatype that it shall have; for a message only.

    Raises
    ------
    InvalidRequest
        For anything but numbers and text, and for a tensor on a GPU.
    MissingDependency
        For a BF16 tensor without ml_dtypes.
    """
    if isinstance(value, np.ndarray):
        array: npt.NDArray[Any] = value
        if type(value) is not np.ndarray:
            columns.check_unmasked(value, what)
    elif isinstance(value, (str, bytes)):
        array = np.array(value, dtype=object)
    elif hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
        array = _foreign(value, what, expected)
    else:
        array = _made(value, what)
    return _of_text_or_numbers(array, what) if array.dtype.kind == "O" else array


def _made(value: Any, what: str) -> npt.NDArray[Any]:
    """Return a value without a dtype as an array; text as objects, since S drops trailing NULs."""
    try:
        try:
            array = np.asarray(value)
        except UnicodeDecodeError:  # numpy reads bytes among str as ASCII
            return np.array(value, dtype=object)
        return np.array(value, dtype=object) if array.dtype.kind in "SU" else array
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(value, (list, tuple)):
            rows = np.empty(len(value), dtype=object)
            for number, row in enumerate(value):
                rows[number] = row
            if (stacked := columns.stack(rows, what, as_array)) is not None:
                return stacked
        raise InvalidRequest(f"{what}: no array can be made of this {_name(value)}: {error}") from error


def _foreign(value: Any, what: str, expected: str | None) -> npt.NDArray[Any]:
    """Return another library's tensor or column as an array."""
    if (found := columns.vectors(value, what)) is not None:
        return found
    columns.check_complete(value, what)
    reason: Exception | None = None
    if hasattr(value, "__array__"):
        try:
            return np.asarray(value)
        except Exception as error:  # a library may raise anything
            reason = error
    if not hasattr(value, "__dlpack__"):
        raise InvalidRequest(f"{what}: no array can be made of this {_name(value)}: {reason}") from reason
    from ..utils import _dlpack

    try:
        array, code = _dlpack.as_array(value)
    except ValueError as error:
        raise InvalidRequest(f"{what}: no array can be made of this {_name(value)}: {error}") from error
    if code != _dlpack.BFLOAT16:
        return array
    try:
        return array.view(dtypes.triton_to_np_dtype("BF16"))
    except MissingDependency:
        if expected in (None, "BF16"):
            raise
        raise InvalidRequest(
            f"{what}: expected {expected}, got BF16; float() of a torch tensor converts"
        ) from None


def _of_text_or_numbers(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    items = array.ravel().tolist()
    others = [kind for kind in set(map(type, items)) if not issubclass(kind, _TEXT)]
    if not others:
        return array
    if array.ndim == 1 and (stacked := columns.stack(array, what, as_array)) is not None:
        return stacked
    try:
        numbers = np.asarray(array.tolist())
    except (TypeError, ValueError, OverflowError):
        numbers = array
    if numbers.dtype.kind in "biuf" and numbers.shape == array.shape:
        return numbers
    if array.ndim:
        for index, item in enumerate(items):
            if columns.is_missing(item):
                raise columns.refuse_missing(what, index // math.prod(array.shape[1:]), item)
    if any(hasattr(item, "set_data_from_numpy") for item in items):
        raise InvalidRequest(
            f"{what}: expected the array itself, got an InferInput, which client.infer(…) takes"
        )
    index, item = next((index, item) for index, item in enumerate(items) if not isinstance(item, _TEXT))
    shown = " ".join(f"{item!r:.80}".split())
    if array.ndim == 0:
        advice = "; list(…) makes a list of it" if hasattr(item, "__iter__") else ""
        raise InvalidRequest(
            f"{what}: expected numbers, or str and bytes, got {_article(_name(item))}: {shown}{advice}"
        )
    text = next((each for each in items if isinstance(each, _TEXT)), None)
    if isinstance(item, (bool, int, float)):
        raise InvalidRequest(
            f"{what}: {item!r:.80} does not fit into 64 bits"
            if text is None
            else f"{what}: one tensor cannot hold both numbers and text, such as {item!r:.80} and {text!r:.80}"
        )
    advice = ""
    if isinstance(item, (np.ndarray, list, tuple)):
        advice = "; of a frame whose cells are vectors give one column, frame['name']"
    elif isinstance(item, Mapping):
        advice = "; inputs by name are one mapping, model({'name': array}), with all their rows"
    raise InvalidRequest(
        f"{what}: expected numbers, or str and bytes; element {index} is {_article(_name(item))}: {shown}{advice}"
    )


def _article(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiouAEIOU' else 'a'} {word}"


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


#: Values may be cast to a datatype of the same or a higher rank, if they fit.
_RANKS = {"BOOL": 0, **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), 2), "BYTES": None}


def may_be_cast(have: str | None, datatype: str) -> bool:
    """Return whether there are values of the one datatype that :func:`cast` converts to the other."""
    before, after = (_RANKS.get(name, 1) if name in dtypes.NAMES else None for name in (have, datatype))
    return before is not None and after is not None and before <= after


def cast(array: npt.NDArray[Any], datatype: str, what: str) -> npt.NDArray[Any]:
    """Return an array as another datatype of the protocol, if values change only by rounding to a float.

    Integers may become floats, and integers of any width that they fit in. Floats may become floats, unless a
    finite value would become infinite. Booleans may become numbers.

    Raises
    ------
    InvalidRequest
        For every other conversion.
    """
    have = dtypes.np_to_triton_dtype(array.dtype)
    if have == datatype:
        return array
    if not may_be_cast(have, datatype):
        if array.dtype.kind == "f" and np.isnan(array).any():
            row = int(np.isnan(array).reshape(len(array), -1).any(axis=1).argmax()) if array.ndim else 0
            raise InvalidRequest(
                f"{what}: expected {datatype}, got {have} with NaN in row {row}: a missing value?"
            )
        raise InvalidRequest(
            f"{what}: expected {datatype}, got {have or array.dtype}, which is not cast to that"
        )
    target = np.dtype(dtypes.triton_to_np_dtype(datatype))
    if array.size == 0:
        return array.astype(target)
    floats = _RANKS.get(datatype) == 2
    if _RANKS.get(str(have), 1) == _RANKS.get(datatype, 1) == 1:
        low, high, limits = int(array.min()), int(array.max()), np.iinfo(target)
        if low < limits.min or high > limits.max:
            raise InvalidRequest(f"{what}: values from {low} to {high} do not fit into {datatype}")
    with np.errstate(all="ignore"):
        found: npt.NDArray[Any] = array.astype(target)
        if floats and not np.array_equal(np.isfinite(found), np.isfinite(array)):
            raise InvalidRequest(f"{what}: values of {have} beyond the largest finite {datatype}")
    return found


def decoded(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Return an array of byte strings, decoded as UTF-8."""
    try:
        texts = [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what}: not all elements are UTF-8: {error}") from error
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found.reshape(array.shape)


class _BF16:
    """A bfloat16 tensor with DLPack, which numpy does not offer for that dtype."""

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
            raise BufferError("this tensor is on the host and cannot be moved to a device")
        array = self._array.copy() if copy else self._array
        return _dlpack.export(array, (_dlpack.CPU, 0), _dlpack.BFLOAT16, max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def as_dlpack(array: npt.NDArray[Any], what: str) -> Any:
    """Return an object over the array's memory with ``__dlpack__`` and ``__dlpack_device__``.

    Raises
    ------
    InvalidRequest
        For strings, which DLPack cannot represent.
    """
    if array.dtype.kind == "O":
        raise InvalidRequest(f"{what} is BYTES, and DLPack has only numbers: use as_numpy")
    return _BF16(array) if array.dtype.name == "bfloat16" else array


def as_torch(array: npt.NDArray[Any], what: str) -> Any:
    """Return a ``torch.Tensor`` over the array's memory.

    Raises
    ------
    MissingDependency
        Without torch.
    InvalidRequest
        For strings.
    """
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise MissingDependency("as_torch needs torch: pip install torch") from error
    return torch.from_dlpack(as_dlpack(array, what))
