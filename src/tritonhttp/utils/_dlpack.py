"""DLPack: borrow tensors of other libraries, and lend them our memory, without a copy.

A capsule holds a pointer to a struct of DLPack's C header, in the form before or since version 1.0. A borrowed
tensor is only read, and its capsule is not consumed: the producer's memory is released when the capsule dies. Our
own capsules are numpy's, of an array over the memory, with the device overwritten. So their deleter is numpy's: it
is C, runs no Python, and works on any thread and in an interpreter that shuts down.
"""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

__all__ = [
    "BFLOAT16",
    "CPU",
    "CUDA",
    "GPU",
    "HOST",
    "Tensor",
    "array_over",
    "as_array",
    "borrow",
    "device_of",
    "export",
]

# DLDeviceType
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
HOST, GPU = (CPU, CUDA_HOST), (CUDA, CUDA_MANAGED)
# DLDataTypeCode
_OPAQUE, BFLOAT16 = 3, 4

#: The newest version understood here; a minor version adds nothing that a reader must know.
VERSION = (1, 0)


Sizes: TypeAlias = tuple[int, ...]


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    capsule: Any
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]

    @property
    def address(self) -> int:
        return int(self.data or 0) + int(self.byte_offset)

    @property
    def sizes(self) -> Sizes:
        return tuple(self.shape[: self.ndim])

    @property
    def steps(self) -> Sizes | None:
        """The strides in elements; None: contiguous in C order."""
        return tuple(self.strides[: self.ndim]) if self.strides else None


#: What stands before the tensor in the form since 1.0: version, manager_ctx, deleter, flags.
_BEFORE_TENSOR = struct.calcsize("@IIPPQ")


# Own function objects: the types set on attributes of `ctypes.pythonapi` would hold for the whole process.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _open(capsule: Any) -> _Tensor:
    """Return a capsule's tensor, which keeps the capsule alive."""
    if _is_valid(capsule, b"dltensor_versioned"):
        address = _pointer(capsule, b"dltensor_versioned")
        major, minor = (ctypes.c_uint32 * 2).from_address(address)
        if major != VERSION[0]:
            raise ValueError(f"expected DLPack {VERSION[0]}.x, got {major}.{minor}")
        tensor = _Tensor.from_address(address + _BEFORE_TENSOR)
    elif _is_valid(capsule, b"dltensor"):
        tensor = _Tensor.from_address(_pointer(capsule, b"dltensor"))
    else:
        raise ValueError(
            f"expected a tensor with __dlpack__, or its capsule, not consumed; got {capsule!r:.200}"
        )
    tensor.capsule = capsule
    return tensor


class Tensor(NamedTuple):
    """A borrowed tensor, whose memory lives as long as `capsule`."""

    capsule: Any
    address: int
    byte_size: int
    device: tuple[int, int]


def device_of(producer: Any) -> tuple[int, int] | None:
    """Return the kind and the number of a tensor's device; None for a capsule, which has to be opened for them."""
    if not hasattr(producer, "__dlpack__"):
        return None
    try:
        kind, number = producer.__dlpack_device__()
        return int(kind), int(number)
    except Exception as error:  # a library may raise anything
        raise ValueError(f"its __dlpack_device__ failed: {type(error).__name__}: {error}") from error


def borrow(producer: Any, stream: int | None = None) -> Tensor:
    """Return the address, size and device of a tensor, which must be contiguous in C order.

    Parameters
    ----------
    producer
        An object with ``__dlpack__``, or a capsule that is not consumed yet.
    stream : int, optional
        For a tensor on a GPU: our stream, which has to wait until the tensor's data are ready.

    Raises
    ------
    ValueError
        For anything else; the message says what was given.
    """
    capsule = _ask(producer, stream) if hasattr(producer, "__dlpack__") else producer
    tensor = _open(capsule)
    shape, strides = tensor.sizes, tensor.steps
    # Only the flags of that array are read, not the memory, which may be a device's.
    if strides is not None and not as_strided(np.empty(0, np.uint8), shape, strides).flags.c_contiguous:
        raise ValueError(f"expected a tensor contiguous in C order, got shape {shape} with strides {strides}")
    if tensor.dtype.code == _OPAQUE:
        raise ValueError("expected numbers, got a tensor of opaque handles")
    bits = math.prod(shape) * tensor.dtype.bits * tensor.dtype.lanes
    return Tensor(capsule, tensor.address, -(-bits // 8), (tensor.device.type, tensor.device.id))


#: numpy's letters for DLPack's kinds of elements; numpy has no bfloat16, so integers of the same size stand in.
_KINDS = {0: "i", 1: "u", 2: "f", BFLOAT16: "u", 5: "c", 6: "b"}


def as_array(producer: Any) -> tuple[npt.NDArray[Any], int]:
    """Return an array over the memory of a tensor on the host, with any strides, and the kind of its elements.

    Raises
    ------
    ValueError
        For a tensor on another device, and for elements that numpy has no dtype for.
    """
    device = device_of(producer)
    if device is not None and device[0] not in HOST:
        raise ValueError(
            f"expected a tensor on the host, got one on device {device[1]} of kind {device[0]}:"
            " copy it to the host first"
        )
    tensor = _open(_ask(producer, None))
    kind, bits = _KINDS.get(tensor.dtype.code), tensor.dtype.bits
    if kind is None or tensor.dtype.lanes != 1 or bits % 8:
        raise ValueError(f"numpy has no elements of kind {tensor.dtype.code} with {bits} bits")
    dtype = np.dtype(bool if kind == "b" else f"{kind}{bits // 8}")
    if 0 in tensor.sizes:
        return np.empty(tensor.sizes, dtype), tensor.dtype.code
    strides = None if tensor.steps is None else tuple(step * dtype.itemsize for step in tensor.steps)
    array = array_over(tensor.capsule, tensor.address, tensor.sizes, dtype, strides)
    return array, tensor.dtype.code


def _ask(producer: Any, stream: int | None) -> Any:
    try:
        return _capsule(producer, **({} if stream is None else {"stream": stream}))
    except Exception as error:  # a library may raise anything
        raise ValueError(f"its __dlpack__ failed: {type(error).__name__}: {error}") from error


def _capsule(producer: Any, **arguments: int) -> Any:
    """Return a capsule in the newer form if the producer has it, which alone can mark a tensor as read-only."""
    try:
        return producer.__dlpack__(max_version=VERSION, **arguments)
    except TypeError:  # as numpy before 2.1
        return producer.__dlpack__(**arguments)


class _Memory:
    """An address with numpy's array interface, and the owner of the memory there."""

    def __init__(self, owner: object, **interface: Any) -> None:
        self.owner = owner
        self.__array_interface__ = interface


def array_over(
    owner: object, address: int, shape: Sizes, dtype: np.dtype[Any], strides: Sizes | None = None
) -> npt.NDArray[Any]:
    """Return an array over an address, which keeps the owner alive. On a device's memory, don't read its elements.

    Strides are in bytes; None: contiguous in C order.

    Raises
    ------
    ValueError
        If numpy does not support the shape.
    """
    return np.asarray(
        _Memory(owner, version=3, data=(address, False), shape=shape, typestr=dtype.str, strides=strides)
    )


def export(
    array: npt.NDArray[Any],
    device: tuple[int, int],
    code: int | None = None,
    max_version: tuple[int, int] | None = None,
) -> Any:
    """Return a capsule over an array's memory, which keeps the array alive until its consumer is done.

    Parameters
    ----------
    array : numpy.ndarray
        An array that :func:`array_over` returned.
    device : tuple of int
        The kind and the number of the memory's device.
    code : int, optional
        The kind of the elements, where it differs from the array's.
    max_version : tuple of int, optional
        The newest version of DLPack that the consumer understands; None: only the form before 1.0.
    """
    newer = max_version is not None and max_version >= VERSION
    capsule = _capsule(array) if newer else array.__dlpack__()
    tensor = _open(capsule)
    tensor.device.type, tensor.device.id = device
    if code is not None:
        tensor.dtype.code = code
    return capsule
