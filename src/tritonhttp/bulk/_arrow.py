"""Arrow arrays as tensors and back, without a copy where both have the same layout. No I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .._protocol.arrays import as_array, cast, may_be_cast
from .._wire import dtypes
from ..errors import InvalidRequest

__all__ = ["BadValue", "check_dtype", "check_type", "column_of", "dtype_of", "fitted", "tensor_of", "type_of"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

#: Floats have every whole number of at most so much.
_EXACT = {"BF16": 1 << 8, "FP16": 1 << 11, "FP32": 1 << 24, "FP64": 1 << 53}


class BadValue(Exception):
    """A row of a column is no tensor of the model; says why."""


# -- what columns can hold --


def _is_text(kind: Any) -> bool:
    return any(
        getattr(pa.types, f"is_{name}", _never)(kind) for name in ("string", "large_string", "string_view")
    )


def _is_binary(kind: Any) -> bool:
    names = ("binary", "large_binary", "fixed_size_binary", "binary_view")
    return any(getattr(pa.types, f"is_{name}", _never)(kind) for name in names)


def _never(kind: Any) -> bool:  # a kind that this pyarrow does not have
    return False


def _inside(kind: Any) -> tuple[int, Any]:
    """Return how many dimensions a row of this type has, and the type of its elements."""
    depth = 0
    while True:
        if isinstance(kind, pa.FixedShapeTensorType):
            return depth + len(kind.shape), kind.value_type
        if hasattr(kind, "value_field"):  # lists of every kind
            depth, kind = depth + 1, kind.value_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return depth, kind


def check_type(kind: Any, datatype: str, shape: Shape, what: str, rounded: bool) -> None:
    """Refuse a type of which no row can be a tensor of this datatype and shape.

    Parameters
    ----------
    kind : pyarrow.DataType
    datatype : str
    shape : tuple of int
        Of one row; -1 is any length.
    what : str
        The column in messages.
    rounded : bool
        Whether floats may be rounded.

    Raises
    ------
    InvalidRequest
    """
    depth, leaf = _inside(kind)
    if pa.types.is_null(leaf):
        return
    if depth != len(shape) and not _reshaped(depth, shape):
        raise InvalidRequest(
            f"{what}: expected rows of {len(shape)} dimensions, {list(shape)} (-1: any length), got {kind}"
        )
    if _is_text(leaf) or _is_binary(leaf):
        check_dtype(np.dtype(object), datatype, what, rounded, kind)
    elif pa.types.is_boolean(leaf) or pa.types.is_integer(leaf) or pa.types.is_floating(leaf):
        check_dtype(dtype_of(leaf), datatype, what, rounded, kind)
    else:
        raise InvalidRequest(f"{what}: expected {datatype}, got {kind}, which is not cast to that")


def dtype_of(kind: Any) -> np.dtype[Any]:
    """Return numpy's dtype of a type of numbers. Arrow's own `to_pandas_dtype` needs pandas up to pyarrow 25."""
    found: np.dtype[Any] = pa.array([], kind).to_numpy(zero_copy_only=False).dtype
    return found


def check_dtype(dtype: np.dtype[Any], datatype: str, what: str, rounded: bool, came: object = None) -> None:
    """Refuse a dtype of which no value can be one of the datatype; `came` is its name in messages.

    Raises
    ------
    InvalidRequest
    """
    have = dtypes.np_to_triton_dtype(dtype)
    came = came or have or dtype
    if have == datatype:
        return
    if not may_be_cast(have, datatype):
        raise InvalidRequest(f"{what}: expected {datatype}, got {came}, which is not cast to that")
    if dtype.kind == "f" and not rounded and not np.can_cast(dtype, dtypes.triton_to_np_dtype(datatype)):
        raise InvalidRequest(f"{what}: expected {datatype}, got {came}; cast=True rounds to that")


def _reshaped(depth: int, shape: Shape) -> bool:
    """Whether rows come flat: as one list, or as the one element that they have."""
    size = int(np.prod(shape))
    return min(shape, default=0) >= 0 and (depth == 1 or (depth == 0 and size == 1))


# -- Arrow to tensors --


def tensor_of(
    array: Any, datatype: str, shape: Shape, rounded: bool = False, refuse_nan: bool = False
) -> Array:
    """Return the rows of an Arrow array, whose type is checked, as one tensor.

    Parameters
    ----------
    array : pyarrow.Array
    datatype : str
        The tensor's.
    shape : tuple of int
        Of one row; -1 is any length, the same for all rows.
    rounded : bool
        Whether numbers may be rounded to the datatype's floats. Otherwise a number that changes is refused.
    refuse_nan : bool

    Raises
    ------
    BadValue
        If a row does not fit, without saying which: the reason is that row's if it is the only one.
    """
    if not len(array):
        return np.empty((0, *(max(0, size) for size in shape)), dtypes.triton_to_np_dtype(datatype))
    if pa.types.is_null(array.type):
        raise BadValue("null")
    flat, sizes, axes = _flattened(array)
    found = flat.reshape(len(array), *sizes)
    if axes is not None:
        found = found.transpose(0, *(axis + 1 for axis in axes))
    return fitted(found, datatype, shape, rounded, refuse_nan)


def fitted(
    array: Array, datatype: str, shape: Shape, rounded: bool = False, refuse_nan: bool = False
) -> Array:
    """Return rows, whose dtype is checked, as a tensor; the parameters and errors are :func:`tensor_of`'s."""
    whole = shape
    if array.ndim - 1 != len(shape) and _reshaped(array.ndim - 1, shape):
        shape = (int(np.prod(shape)),) if array.ndim > 1 else ()
    have = array.shape[1:]
    if len(have) != len(shape) or any(want not in (-1, size) for want, size in zip(shape, have, strict=True)):
        raise BadValue(f"expected shape {list(shape)}{_any(shape)}, got {list(have)}")
    if refuse_nan and dtypes.np_to_triton_dtype(array.dtype) in _EXACT and np.isnan(array).any():
        raise BadValue("NaN")
    found = _cast(array, datatype, rounded)
    return found if shape == whole else found.reshape(len(found), *whole)


def _any(shape: Shape) -> str:
    return " (-1: any length)" if -1 in shape else ""


def _flattened(array: Any) -> tuple[Array, list[int], list[int] | None]:
    """Return the elements of all rows, the sizes of a row, and the order of its axes where that is another."""
    sizes: list[int] = []
    axes = None
    while True:
        if array.null_count:
            raise BadValue("a null inside" if sizes else "null")
        kind = array.type
        if isinstance(kind, pa.FixedShapeTensorType):
            if kind.permutation:
                axes = [*range(len(sizes)), *(len(sizes) + axis for axis in kind.permutation)]
            array = array.storage.flatten()
            sizes += kind.shape
        elif isinstance(kind, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(kind):
            array = array.dictionary_decode()
        elif hasattr(kind, "value_field"):
            sizes.append(_length(array))
            array = array.flatten()
        else:
            return _elements(array), sizes, axes


def _length(array: Any) -> int:
    """Return the length that all lists have."""
    size = getattr(array.type, "list_size", None)
    if size is not None:
        return int(size)
    lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    if not len(lengths):
        return 0
    if (lengths != lengths[0]).any():
        raise BadValue(f"lists of {lengths.min()} to {lengths.max()} elements in one row")
    return int(lengths[0])


def _elements(array: Any) -> Array:
    """Return the values of an array without lists; text as bytes."""
    if _is_text(array.type):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            raise BadValue("not UTF-8") from None
        array = array.cast(pa.large_binary())
    return as_array(array, "column")


def _cast(array: Array, datatype: str, rounded: bool) -> Array:
    """Return numbers as those of a datatype that they may be cast to."""
    try:
        found = cast(array, datatype, "column")
    except InvalidRequest:
        raise BadValue(f"{_shown(array)} does not fit into {datatype}") from None
    if array.dtype.kind in "iu" and datatype in _EXACT and not rounded:
        limit = _EXACT[datatype]
        if ((array > limit) | (array < -limit)).any():
            raise BadValue(f"{_shown(array)} may be rounded by {datatype}; cast=True allows that")
    return found


def _shown(array: Array) -> str:
    return f"{array.ravel().tolist()!r:.60}" if array.size > 1 else repr(array.item())


# -- tensors to Arrow --


def type_of(datatype: str, shape: Shape) -> Any:
    """Return the type of the column for tensors of this datatype and, for each row, shape.

    A number or text is itself; vectors are lists, of fixed size where that is known; numbers of more dimensions,
    all of them known, are Arrow's tensors. BF16, which Arrow has not, becomes float, which has all its values.
    BYTES are binary.
    """
    if datatype == "BYTES":
        kind = pa.binary()
    elif datatype == "BF16":
        kind = pa.float32()
    else:
        kind = pa.from_numpy_dtype(np.dtype(dtypes.triton_to_np_dtype(datatype)))
    if len(shape) > 1 and min(shape) > 0 and datatype not in ("BYTES", "BOOL"):
        return pa.fixed_shape_tensor(kind, shape)
    for size in reversed(shape):
        kind = pa.list_(kind, size) if size > 0 else pa.list_(kind)
    return kind


def column_of(array: Array, kind: Any) -> Any:
    """Return a tensor as a column of the type that :func:`type_of` says, or of another that its values fit.

    Raises
    ------
    pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, pyarrow.ArrowTypeError
        If they do not.
    """
    rows = len(array)
    if isinstance(kind, pa.FixedShapeTensorType) and array.shape[1:] == tuple(kind.shape):
        return pa.ExtensionArray.from_storage(
            kind, column_of(array.reshape(rows, int(np.prod(kind.shape))), kind.storage_type)
        )
    if array.ndim == 1 or (array.size == rows and not hasattr(kind, "value_field")):
        if array.dtype.name in ("bfloat16", "float16") and kind != pa.float16():  # Arrow casts no halves
            array = array.astype(np.float32)
        found = pa.array(array.reshape(-1), type_of(dtypes.np_to_triton_dtype(array.dtype) or "", ()))
        return found if found.type == kind else found.cast(kind)
    size = array.shape[1]
    if getattr(kind, "list_size", size) != size or not hasattr(kind, "value_field"):
        raise pa.ArrowInvalid(f"rows have shape {list(array.shape[1:])}")
    values = column_of(array.reshape(rows * size, *array.shape[2:]), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    large = pa.types.is_large_list(kind)
    offsets = np.arange(rows + 1, dtype=np.int64 if large else np.int32) * size
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(pa.array(offsets), values, type=kind)
