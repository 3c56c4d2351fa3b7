"""Columns of pandas, Arrow and polars, and object arrays, as tensors: vectors are stacked, missing values refused.

None of these libraries is imported: a column is known by what it offers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidRequest

__all__ = ["check_complete", "check_unmasked", "is_missing", "refuse_missing", "stack", "vectors"]

Array = npt.NDArray[Any]


def refuse_missing(what: str, row: int, value: object = None) -> InvalidRequest:
    """Return the error for a row without a value."""
    shown = "missing" if value is None else f"missing ({value!r:.20})"
    return InvalidRequest(
        f"{what}: row {row} is {shown}, and the protocol has no missing values: fill it in, or leave the row out"
    )


def is_missing(value: object) -> bool:
    """Return whether an element stands for no value: None, pandas' NA and NaT, a NaN among objects."""
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and value != value)
    )


def check_complete(column: Any, what: str, per_row: int = 1) -> None:
    """Refuse a column with missing values, which would become NaN or None on their way to numpy.

    A NaN in a column of floats is a value.

    Parameters
    ----------
    column
        Of any library.
    what : str
        Its name in messages.
    per_row : int
        How many elements are one of the caller's rows.

    Raises
    ------
    InvalidRequest
        It names the first such row.
    """
    names = getattr(column, "column_names", None)
    if names is None:
        names = getattr(column, "columns", None)
    if names is not None:  # a whole frame
        for name in names:
            check_complete(column[name], f"{what}: column {name!r}", per_row)
        return
    count = getattr(column, "null_count", None)  # a number in Arrow, a method in polars
    if callable(count):
        count = count()
    if isinstance(count, int):
        flags = column.is_null() if count else False
    else:
        dtype = getattr(column, "dtype", None)
        if not hasattr(column, "isna") or (isinstance(dtype, np.dtype) and dtype.kind != "O"):
            return
        flags = column.isna()
    missing: Array = np.asarray(flags)
    if missing.ndim == 1 and missing.any():
        raise refuse_missing(what, int(missing.argmax()) // per_row)


def check_unmasked(array: Array, what: str) -> None:
    """Refuse an array of ``numpy.ma`` with masked elements, whose data mean nothing.

    Raises
    ------
    InvalidRequest
        It names the first row with one.
    """
    mask: Any = getattr(array, "mask", None)
    if mask is not None and np.any(mask):
        flags = np.broadcast_to(mask, array.shape)
        raise refuse_missing(
            what, int(flags.reshape(len(flags), -1).any(axis=1).argmax()) if flags.ndim else 0
        )


def vectors(column: Any, what: str, per_row: int = 1) -> Array | None:
    """Return an Arrow or polars column of lists, all of one length, as an array; None for another column.

    Arrow's are not copied, unless they are of text or bool. `per_row` as for :func:`check_complete`.

    Raises
    ------
    InvalidRequest
        For lists of different lengths, and for missing values.
    """
    kind = type(column).__module__.partition(".")[0]
    if kind == "pyarrow":
        if hasattr(column, "num_chunks"):
            column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if hasattr(column, "to_numpy_ndarray"):  # of a tensor's own type
            check_complete(column, what, per_row)
            tensors: Array = column.to_numpy_ndarray()
            return tensors
        size = getattr(getattr(column, "type", None), "list_size", None)
        if size is None and not hasattr(column, "value_lengths"):
            return None
        check_complete(column, what, per_row)
        if size is None:
            size = _common(np.asarray(column.value_lengths()), what)
        flat = column.flatten()
    elif kind == "polars" and hasattr(getattr(column, "dtype", None), "inner"):
        check_complete(column, what, per_row)
        column = column.arr.to_list() if hasattr(column.dtype, "shape") else column
        size = _common(np.asarray(column.list.len()), what)
        flat = column.explode() if size else column.explode().clear()  # an empty list becomes a null
    else:
        return None
    inner = vectors(flat, what, per_row * size)
    if inner is None:
        check_complete(flat, what, per_row * size)
        inner = flat.to_numpy(zero_copy_only=False) if kind == "pyarrow" else np.asarray(flat)
    return inner.reshape(len(column), size, *inner.shape[1:])


def _common(lengths: Array, what: str) -> int:
    """Return the length that all rows have."""
    size = int(lengths[0]) if len(lengths) else 0
    others = np.flatnonzero(lengths != size)
    if len(others):
        row = int(others[0])
        raise _ragged(what, [size], row, [int(lengths[row])])
    return size


def stack(array: Array, what: str, convert: Callable[[Any, str], Array]) -> Array | None:
    """Return a column of arrays or lists, all of one shape, as one array; None if it has others than these.

    Parameters
    ----------
    array : numpy.ndarray
        Of objects, with one dimension.
    convert : callable
        Makes an array of a row, from it and its name in messages.

    Raises
    ------
    InvalidRequest
        For missing rows, and for rows of different shapes; it names the first.
    """
    rows = array.tolist()
    if not any(map(_is_vector, rows)):
        return None
    found: list[Array] = []
    for number, row in enumerate(rows):
        if is_missing(row):
            raise refuse_missing(what, number, row)
        if not _is_vector(row):
            raise InvalidRequest(f"{what}: row 0 and others are vectors, row {number} is {row!r:.80}")
        try:
            made = convert(row, f"{what}: row {number}")
        except InvalidRequest:
            if any(map(is_missing, row)):
                raise refuse_missing(what, number) from None
            raise
        if found and made.shape != found[0].shape:
            raise _ragged(what, list(found[0].shape), number, list(made.shape))
        found.append(made)
    return np.stack(found)


def _is_vector(row: object) -> bool:
    """Return whether a cell of a column holds several values: an array of any library, a list or a tuple."""
    if isinstance(row, (np.ndarray, list, tuple)):
        return True
    return hasattr(row, "__array__") and hasattr(row, "__len__") and not isinstance(row, (str, bytes))


def _ragged(what: str, first: list[int], row: int, shape: list[int]) -> InvalidRequest:
    return InvalidRequest(
        f"{what}: rows of different shapes cannot be one tensor: row 0 has {first}, row {row} has {shape};"
        " pad them, or send those of one shape together"
    )
