"""The datatypes of the protocol, one table: name on the wire, numpy dtype, bytes per element.

The names are those of the Open Inference Protocol's "Tensor Data Types" and Triton's BF16. BF16 needs the
`ml_dtypes` package, which is imported only when a BF16 tensor is met.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "BY_DTYPE",
    "BY_NAME",
    "NAMES",
    "as_little_endian",
    "np_to_triton_dtype",
    "triton_to_np_dtype",
]

#: Name on the wire -> the scalar type that the reference gives for it. BF16 is looked up when asked for.
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

#: The native dtypes, for a look-up without branches; other byte orders and strings go the long way.
BY_DTYPE = {np.dtype(scalar): name for name, scalar in BY_NAME.items()}


def np_to_triton_dtype(np_dtype: npt.DTypeLike) -> str | None:
    """Return the protocol's name for a numpy dtype, or None where it has none.

    Parameters
    ----------
    np_dtype
        A numpy dtype, a scalar type such as ``np.float32``, or what ``np.dtype`` accepts. Any byte order.

    Returns
    -------
    str or None
        For example ``"FP32"``; ``"BYTES"`` for object arrays and for numpy's string types.
    """
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
    ImportError
        For ``"BF16"`` without the `ml_dtypes` package; the message has the command that installs it.
    """
    if dtype == "BF16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(
                "BF16 tensors need the package ml_dtypes: pip install 'tritonhttp[bf16]'"
            ) from error
        return ml_dtypes.bfloat16
    return BY_NAME.get(dtype)


def as_little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array C-contiguous and in the byte order of the wire; itself where it is so already."""
    dtype = array.dtype
    if array.flags.c_contiguous and dtype.isnative and sys.byteorder == "little":
        return array
    return np.ascontiguousarray(array, dtype.newbyteorder("<")).reshape(array.shape)
