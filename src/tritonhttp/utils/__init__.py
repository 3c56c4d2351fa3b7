"""The reference's helpers for datatypes and BYTES tensors, under their names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._wire import bytes_tensor
from .._wire.dtypes import np_to_triton_dtype, triton_to_np_dtype
from .._wire.inference import RESERVED_PARAMETERS, RESERVED_PREFIX
from ..errors import InferenceServerException, raise_error

__all__ = [
    "TRITON_RESERVED_REQUEST_PARAMS",
    "TRITON_RESERVED_REQUEST_PARAMS_PREFIX",
    "InferenceServerException",
    "deserialize_bytes_tensor",
    "np_to_triton_dtype",
    "raise_error",
    "serialize_byte_tensor",
    "serialized_byte_size",
    "triton_to_np_dtype",
]

TRITON_RESERVED_REQUEST_PARAMS: list[str] = list(RESERVED_PARAMETERS)
TRITON_RESERVED_REQUEST_PARAMS_PREFIX = RESERVED_PREFIX


def serialize_byte_tensor(input_tensor: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Serialize a tensor of strings: for each element its length in four bytes, little-endian, then its bytes.

    Parameters
    ----------
    input_tensor : numpy.ndarray
        An object array, or an array of a string dtype. Elements are serialized as they are (bytes), as UTF-8
        (str), or as their ``str()`` (anything else).

    Returns
    -------
    numpy.ndarray
        A 0-d object array that holds the serialized bytes (``.item()`` returns them); of shape [0] if the tensor
        has no elements.

    Raises
    ------
    InferenceServerException
        For another dtype.
    """
    if input_tensor.size == 0:
        return np.empty([0], dtype=np.object_)
    serialized = np.empty((), dtype=np.object_)
    serialized[()] = bytes(bytes_tensor.encode(input_tensor))
    return serialized


def deserialize_bytes_tensor(encoded_tensor: bytes | bytearray | memoryview) -> npt.NDArray[np.object_]:
    """Return the elements of a serialized tensor of strings, as a one-dimensional object array of bytes.

    Raises
    ------
    InferenceServerException
        If the data end within an element.
    """
    return bytes_tensor.decode(encoded_tensor)


def serialized_byte_size(tensor_value: npt.NDArray[np.object_]) -> int:
    """Return the sum of the lengths of an object array's elements, in bytes.

    For an array that :func:`serialize_byte_tensor` returned, this is the tensor's size on the wire and in shared
    memory. For the strings themselves, it lacks the four bytes in front of each.

    Raises
    ------
    InferenceServerException
        For another dtype.
    """
    if tensor_value.dtype != np.object_:
        raise_error("The tensor_value dtype must be np.object_")
    return sum(map(len, tensor_value.ravel().tolist()))
