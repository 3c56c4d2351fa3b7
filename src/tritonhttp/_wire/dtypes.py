"""The datatypes of the protocol: names on the wire and numpy dtypes, in one table.

The names are those of the Open Inference Protocol's "Tensor Data Types", and Triton's BF16. BF16 needs the package
`ml_dtypes`, which is imported only for a BF16 tensor.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from .._basics.hints import nearest
from ..errors import MissingDependency

__all__ = [
    "BY_DTYPE",
    "BY_NAME",
    "NAMES",
    "as_little_endian",
    "meant",
    "np_to_triton_dtype",
    "triton_to_np_dtype",
]

#: Name on the wire -> scalar type, as in the reference. BF16 is missing here, because it needs `ml_dtypes`.
BY_NAME: dict[str, Any] = {
    "BOOL": bool,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
NAMES = (*BY_NAME, "BF16")

#: What other libraries call some of them.
_ELSEWHERE = {
    "bfloat16": "BF16",
    "boolean": "BOOL",
    "bytestring": "BYTES",
    "half": "FP16",
    "long": "INT64",
    "string": "BYTES",
    "text": "BYTES",
    "utf8": "BYTES",
}
_PREFIXES = re.compile(r"^(?:.*\.)?(?:(?:data)?type_)?", re.IGNORECASE)

#: Native dtype -> name. Other byte orders and strings take the slower path of :func:`np_to_triton_dtype`.
BY_DTYPE = {np.dtype(scalar): name for name, scalar in BY_NAME.items()}


def np_to_triton_dtype(np_dtype: npt.DTypeLike) -> str | None:
    """Return the protocol's name for a numpy dtype, or None if it has none.

    Parameters
    ----------
    np_dtype
        A numpy dtype of any byte order, a scalar type such as ``np.float32``, or anything else that ``np.dtype``
        accepts.

    Returns
    -------
    str or None
        For example ``"FP32"``. Object arrays and numpy's string types are ``"BYTES"``.
    """
    if np_dtype is None:  # which numpy takes for float64
        return None
    try:
        dtype = np_dtype if isinstance(np_dtype, np.dtype) else np.dtype(np_dtype)
    except TypeError:
        return None
    name = BY_DTYPE.get(dtype)
    if name is not None:
        return name
    if dtype.kind in "SUT":
        return "BYTES"
    if dtype.name == "bfloat16":
        return "BF16"
    return BY_DTYPE.get(dtype.newbyteorder("="))


def triton_to_np_dtype(dtype: str) -> Any:
    """Return the numpy scalar type for a name of the protocol, or None for an unknown name.

    Raises
    ------
    MissingDependency
        For ``"BF16"`` if the package `ml_dtypes` is missing; the message has the command that installs it.
    """
    if dtype == "BF16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise MissingDependency(
                "BF16 tensors need the package ml_dtypes: pip install 'tritonhttp[bf16]'"
            ) from error
        return ml_dtypes.bfloat16
    return BY_NAME.get(dtype) if isinstance(dtype, str) else None


def as_little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array C-contiguous and little-endian, without a copy if it already is."""
    dtype = array.dtype
    if array.flags.c_contiguous and dtype.isnative and sys.byteorder == "little":
        return array
    return np.ascontiguousarray(array, dtype.newbyteorder("<")).reshape(array.shape)


def meant(given: Any) -> str | None:
    """Return the protocol's datatype that a caller probably meant by what is none, or None.

    Those are numpy's and torch's types and their names, a configuration's such as ``TYPE_FP32``, misspelled names.
    """
    if not isinstance(given, str) and (found := _datatype_of(given)):
        return found
    name = _PREFIXES.sub("", str(given)).strip("<>' ").casefold()
    if name.upper() in NAMES:
        return name.upper()
    return _ELSEWHERE.get(name) or _datatype_of(name) or nearest(name, NAMES)


def _datatype_of(given: Any) -> str | None:
    try:
        return np_to_triton_dtype(given)
    except Exception:  # numpy may raise anything for what it does not know
        return None
