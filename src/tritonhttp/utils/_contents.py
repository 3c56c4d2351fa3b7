"""The contents of regions of both kinds of shared memory: which values may be written, and what can be read where.

A function that may refuse takes the caller's :class:`Failure`, which makes the error from the reason.
"""

from __future__ import annotations

import math
import operator
import struct
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._wire import bytes_tensor
from .._wire.dtypes import NAMES, triton_to_np_dtype
from ..errors import InferenceServerException, ProtocolError

__all__ = ["Failure", "Wanted", "arrays", "integer", "put", "size", "start", "wanted"]

_LENGTH = struct.Struct("<I")


class Failure(NamedTuple):
    """What failed: the error to raise, and the words that its message begins with."""

    error: type[InferenceServerException]
    words: str

    def __call__(self, reason: object) -> InferenceServerException:
        """Return the error for a reason."""
        return self.error(f"{self.words}: {reason}")


def integer(value: SupportsIndex, name: str, failure: Failure) -> int:
    """Return an argument as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise failure(f"{name} is {value!r}, expected an int") from None


def size(byte_size: SupportsIndex, failure: Failure) -> int:
    """Return the size of a new region as an int."""
    value = integer(byte_size, "byte_size", failure)
    if value <= 0:
        raise failure(f"byte_size is {value}, expected a positive number")
    return value


def start(region_size: int, offset: SupportsIndex, byte_size: int, failure: Failure) -> int:
    """Return the offset as an int if that many bytes follow it."""
    value = integer(offset, "the offset", failure)
    if value < 0 or value + byte_size > region_size:
        raise failure(f"{byte_size} bytes at offset {value} are not within its {region_size} bytes")
    return value


def arrays(input_values: Any, failure: Failure) -> list[npt.NDArray[Any]]:
    """Return the arrays to write into a region."""
    if not isinstance(input_values, (list, tuple)):
        raise failure.error("input_values must be specified as a list/tuple of numpy arrays")
    if not all(isinstance(value, np.ndarray) for value in input_values):
        raise failure.error("each element of input_values must be a numpy array")
    return [_numeric(value, failure) for value in input_values]


def _numeric(value: npt.NDArray[Any], failure: Failure) -> npt.NDArray[Any]:
    array = np.asarray(value)
    if array.dtype != np.object_:
        if array.dtype.hasobject or array.dtype.kind == "T":
            raise failure(f"arrays of dtype {array.dtype} hold references, not data")
        return array
    if array.size == 0:
        return np.empty(0, np.uint8)
    element = array.item() if array.size == 1 else None
    if not isinstance(element, (bytes, bytearray, memoryview)):
        got = f"{array.size} elements" if array.size > 1 else f"one {type(element).__name__}"
        raise failure(
            f"an object array must hold one bytes object, as serialize_byte_tensor returns it; got {got}"
        )
    return np.frombuffer(element, np.uint8) if len(element) else np.empty(0, np.uint8)


def put(array: npt.NDArray[Any], buffer: Any, offset: int) -> None:
    """Copy an array into a buffer, in C order and little-endian."""
    dtype = array.dtype
    if sys.byteorder != "little" or not dtype.isnative:
        dtype = dtype.newbyteorder("<")
    np.copyto(np.ndarray(array.shape, dtype, buffer, offset), array)


class Wanted(NamedTuple):
    """A tensor to read: its numpy dtype (object for BYTES) and shape."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def is_bytes(self) -> bool:
        """Whether it is BYTES, whose size depends on the contents."""
        return self.dtype.kind == "O"

    @property
    def least_bytes(self) -> int:
        """Its size in bytes; for BYTES the least size."""
        return math.prod(self.shape) * (_LENGTH.size if self.is_bytes else self.dtype.itemsize)

    def over(self, buffer: Any, offset: int, failure: Failure) -> npt.NDArray[Any]:
        """Return the tensor at the offset: a view of the buffer, but copies of BYTES."""
        try:
            if self.is_bytes:
                return _strings(memoryview(buffer), offset, math.prod(self.shape), failure).reshape(
                    self.shape
                )
            view: npt.NDArray[Any] = np.ndarray(self.shape, self.dtype, buffer, offset)
            return view
        except ValueError as error:  # no elements, but more or larger dimensions than numpy allows
            raise failure(error) from error


def wanted(datatype: Any, shape: Iterable[int] | int, failure: Failure) -> Wanted:
    """Return the tensor that a caller describes by a numpy dtype or a protocol's name, and a shape."""
    return Wanted(_dtype(datatype, failure), dimensions(shape, failure))


def _dtype(datatype: Any, failure: Failure) -> np.dtype[Any]:
    if isinstance(datatype, str) and datatype in NAMES:
        datatype = triton_to_np_dtype(datatype)
    try:
        dtype: np.dtype[Any] = np.dtype(datatype)
    except TypeError as error:
        raise failure(f"unknown datatype {datatype!r}") from error
    if dtype.kind == "O" or (dtype.kind == "S" and not dtype.itemsize):
        return np.dtype(np.object_)
    if dtype.hasobject or dtype.kind == "T" or not dtype.itemsize:
        raise failure(f"arrays of dtype {dtype} can't be views of it")
    return dtype


def dimensions(shape: Iterable[int] | int, failure: Failure) -> tuple[int, ...]:
    """Return a shape as a tuple of sizes."""
    try:
        given = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        found = tuple(operator.index(dimension) for dimension in given)
    except TypeError:
        found = (-1,)
    if any(dimension < 0 for dimension in found):
        raise failure(f"the shape is {shape!r}, expected a list of sizes")
    return found


def _strings(view: memoryview, begin: int, count: int, failure: Failure) -> npt.NDArray[np.object_]:
    end = begin
    try:
        for _ in range(count):
            end += _LENGTH.size + _LENGTH.unpack_from(view, end)[0]
        return bytes_tensor.decode(view[begin:end], count)  # refuses a last element that ends too late
    except (struct.error, ProtocolError) as error:
        raise failure(
            f"the {view.nbytes - begin} bytes behind the offset hold no BYTES tensor of {count} elements"
        ) from error
