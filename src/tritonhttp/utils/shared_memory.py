"""Regions of system shared memory, under the reference's names.

A region is a POSIX shared memory object, found by its key, that a handle maps into this process. Arrays of
:func:`get_contents_as_numpy` keep the memory mapped, also after :func:`destroy_shared_memory_region`. The key is
removed when the last handle in the process that created the region is destroyed, or when that process exits; no
other process removes it, a forked child included. All functions may be called from any thread.
"""

from __future__ import annotations

import atexit
import math
import operator
import os
import struct
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from ..errors import InferenceServerException, ProtocolError
from ..memory import Identity, Memory, attach, create, object_name, unlink
from ..wire import bytes_tensor
from ..wire.dtypes import NAMES, triton_to_np_dtype

__all__ = [
    "SharedMemoryException",
    "SharedMemoryRegion",
    "attach_shared_memory_region",
    "create_shared_memory_region",
    "destroy_shared_memory_region",
    "get_contents_as_numpy",
    "mapped_shared_memory_regions",
    "set_shared_memory_region",
]

# How messages begin; the first two are the reference's whole messages.
_NOT_CREATED = "unable to create the shared memory region"
_NOT_SET = "unable to set the shared memory region"
_NOT_READ = "unable to get the contents of the shared memory region"
_NOT_DESTROYED = "unable to destroy the shared memory region"

_LENGTH = struct.Struct("<I")


class SharedMemoryException(InferenceServerException):
    """Indicate that a region could not be created, written, read or destroyed."""

    def __init__(self, msg: str | None = "", status: str | None = None, debug_details: Any = None) -> None:
        super().__init__(msg, status, debug_details)


class SharedMemoryRegion:
    """Hold one handle of a region; :func:`create_shared_memory_region` makes them.

    Pickling a handle pickles its key: who unpickles it attaches to the region, and destroys that handle.

    Parameters
    ----------
    triton_shm_name : str
        The name under which the region is to be registered with the server.
    shm_key : str
        The key of the memory object.
    """

    def __init__(self, triton_shm_name: str, shm_key: str) -> None:
        self._triton_shm_name = triton_shm_name
        self._shm_key = shm_key
        self._mpsm_handle: Memory | None = None

    @property
    def name(self) -> str:
        """The name under which the region is to be registered with the server."""
        return self._triton_shm_name

    @property
    def key(self) -> str:
        """The key of the memory object, as it was given."""
        return self._shm_key

    @property
    def byte_size(self) -> int:
        """The bytes that the region really has, which for a reused one may be other than asked for; 0 when
        destroyed.
        """
        memory = self._mpsm_handle
        return 0 if memory is None else memory.size

    def __repr__(self) -> str:
        return f"SharedMemoryRegion({self.name!r}, {self.key!r}, byte_size={self.byte_size})"

    def __reduce__(self) -> tuple[Any, ...]:
        _mapped(self, "unable to pickle the shared memory region")
        return attach_shared_memory_region, (self._triton_shm_name, self._shm_key)


class _Known:
    """What this process has of one memory object: the keys of its handles, as given, and who created it."""

    def __init__(self) -> None:
        self.creator: int | None = None
        self.keys: Counter[str] = Counter()


_known: dict[Identity, _Known] = {}
_lock = threading.RLock()
_seen_to: int | None = None


def create_shared_memory_region(
    triton_shm_name: str, shm_key: str, byte_size: SupportsIndex, create_only: bool = False
) -> SharedMemoryRegion:
    """Create a region of system shared memory, or attach to the one that has the key already.

    Parameters
    ----------
    triton_shm_name : str
        The name under which the region is to be registered with the server.
    shm_key : str
        The key of the memory object, with or without a slash in front; Triton wants it with one.
    byte_size : int
        The region's size in bytes.
    create_only : bool
        Whether a region that has the key already is an error. If not it is used with the size it has, and a
        warning says so where that is smaller than `byte_size`.

    Returns
    -------
    SharedMemoryRegion
        A handle, to be destroyed with :func:`destroy_shared_memory_region`.

    Raises
    ------
    SharedMemoryException
        When the size is not positive, there is no room, the key is taken (`create_only`) or belongs to another
        user, or the platform has no POSIX shared memory.

    Notes
    -----
    A new region is filled with zeros, and its memory is set aside at once.
    """
    try:
        size = operator.index(byte_size)
    except TypeError:
        raise SharedMemoryException(f"{_NOT_CREATED}: byte_size is {byte_size!r}, expected an int") from None
    if size <= 0:
        raise SharedMemoryException(f"{_NOT_CREATED}: byte_size is {size}, expected a positive number")
    handle = _open(triton_shm_name, shm_key, size, create_only)
    if handle.byte_size < size:
        try:
            warnings.warn(
                f"reusing shared memory region with key '{shm_key}',"
                f" region size is {handle.byte_size} instead of requested {size}",
                stacklevel=2,
            )
        except BaseException:  # a filter made it an error, and nobody will get to see the handle
            destroy_shared_memory_region(handle)
            raise
    return handle


def attach_shared_memory_region(triton_shm_name: str, shm_key: str) -> SharedMemoryRegion:
    """Attach to the region that has a key, whatever its size; not one of the reference's functions.

    Parameters
    ----------
    triton_shm_name : str
        The name under which the region is to be registered with the server.
    shm_key : str
        The key of the memory object.

    Returns
    -------
    SharedMemoryRegion
        A handle, to be destroyed with :func:`destroy_shared_memory_region`.

    Raises
    ------
    SharedMemoryException
        When no region has the key, or it belongs to another user.
    """
    return _open(triton_shm_name, shm_key, None)


def set_shared_memory_region(
    shm_handle: SharedMemoryRegion, input_values: Sequence[npt.NDArray[Any]], offset: SupportsIndex = 0
) -> None:
    """Copy arrays into a region, one behind the other.

    Parameters
    ----------
    shm_handle : SharedMemoryRegion
        The region's handle.
    input_values : list or tuple of numpy.ndarray
        Of any memory order and byte order; the region gets C order, little-endian. BYTES go through
        :func:`tritonhttp.utils.serialize_byte_tensor` first: an object array must hold one ``bytes``, which is
        copied as it is, or nothing.
    offset : int
        Where in the region the first array starts, in bytes.

    Raises
    ------
    SharedMemoryException
        When the arrays don't fit behind the offset, or are not of a kind described above. Nothing was written
        then.
    """
    if not isinstance(input_values, (list, tuple)):
        raise SharedMemoryException("input_values must be specified as a list/tuple of numpy arrays")
    if not all(isinstance(value, np.ndarray) for value in input_values):
        raise SharedMemoryException("each element of input_values must be a numpy array")
    memory = _mapped(shm_handle, _NOT_SET)
    arrays = [_numeric(value) for value in input_values]
    start = _start(memory, offset, sum(array.nbytes for array in arrays), _NOT_SET)
    for array in arrays:
        if array.nbytes:
            dtype = array.dtype
            if sys.byteorder != "little" or not dtype.isnative:
                dtype = dtype.newbyteorder("<")
            np.copyto(np.ndarray(array.shape, dtype, memory.map, start), array)
            start += array.nbytes


def get_contents_as_numpy(
    shm_handle: SharedMemoryRegion, datatype: Any, shape: Iterable[int] | int, offset: SupportsIndex = 0
) -> npt.NDArray[Any]:
    """Return a tensor that lies in a region.

    Parameters
    ----------
    shm_handle : SharedMemoryRegion
        The region's handle.
    datatype : numpy.dtype
        A numpy dtype, a scalar type such as ``np.float32``, or the protocol's name such as ``"FP32"``;
        ``np.object_`` and ``np.bytes_`` stand for BYTES.
    shape : list of int
        The tensor's shape.
    offset : int
        Where in the region the tensor starts, in bytes.

    Returns
    -------
    numpy.ndarray
        A writable view of the region, which stays valid for as long as any array over it lives, also when the
        region is destroyed. For BYTES an object array of ``bytes`` of its own, with as many elements as the
        shape has, whatever follows them.

    Raises
    ------
    SharedMemoryException
        When the tensor would end behind the region.
    """
    memory = _mapped(shm_handle, _NOT_READ)
    dtype = _dtype(datatype)
    dimensions = _dimensions(shape)
    count = math.prod(dimensions)
    strings = dtype.kind == "O"
    start = _start(memory, offset, count * (_LENGTH.size if strings else dtype.itemsize), _NOT_READ)
    try:
        if strings:
            return _strings(memory, start, count).reshape(dimensions)
        view: npt.NDArray[Any] = np.ndarray(dimensions, dtype, memory.map, start)
        return view
    except ValueError as error:  # no elements, but more dimensions or larger ones than numpy has
        raise SharedMemoryException(f"{_NOT_READ}: {error}") from error


def mapped_shared_memory_regions() -> list[str]:
    """Return the keys, as they were given, of the regions that this process has handles of."""
    with _lock:
        return list(dict.fromkeys(key for known in _known.values() for key in known.keys))


def destroy_shared_memory_region(shm_handle: SharedMemoryRegion) -> None:
    """Give up a handle, and with the process's last one of a region that it created, the region's key.

    Arrays over the region stay valid, and so do the server's and other processes' mappings of it. The server
    keeps its registration until it is told to unregister the name.

    Parameters
    ----------
    shm_handle : SharedMemoryRegion
        The region's handle.

    Raises
    ------
    SharedMemoryException
        When the handle was destroyed before, or the key can't be removed.
    """
    with _lock:
        memory = _mapped(shm_handle, _NOT_DESTROYED)
        shm_handle._mpsm_handle = None
        known = _known[memory.identity]
        known.keys[shm_handle._shm_key] -= 1
        known.keys += Counter()  # drops what came to zero
        if known.keys:
            return
        del _known[memory.identity]
        if known.creator == os.getpid():
            try:
                unlink(memory.identity)
            except OSError as error:
                raise SharedMemoryException(_told(_NOT_DESTROYED, shm_handle._shm_key, error)) from error


def _open(name: str, key: str, byte_size: int | None, create_only: bool = False) -> SharedMemoryRegion:
    """Make a handle; without a size only of a region that is there."""
    if not isinstance(key, str):
        raise SharedMemoryException(f"{_NOT_CREATED}: the key is {key!r}, expected a str")
    handle = SharedMemoryRegion(name, key)
    with _lock:
        try:
            memory, created = _find(object_name(key), byte_size, create_only)
        except (OSError, ValueError, OverflowError) as error:
            raise SharedMemoryException(_told(_NOT_CREATED, key, error)) from error
        known = _known.setdefault(memory.identity, _Known())
        if created:
            known.creator = os.getpid()
            _see_to_exit()
        known.keys[key] += 1
        handle._mpsm_handle = memory
    return handle


def _find(name: str, byte_size: int | None, create_only: bool) -> tuple[Memory, bool]:
    if byte_size is None:
        return attach(name), False
    if create_only:
        return create(name, byte_size), True
    for _ in range(100):  # others may create and unlink it between our steps
        try:
            return attach(name), False
        except FileNotFoundError:
            pass
        try:
            return create(name, byte_size), True
        except FileExistsError:
            pass
    raise FileExistsError("others create and remove it all the time")


def _told(failure: str, key: str, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{failure}: key {key!r}: {reason}"


def _mapped(handle: SharedMemoryRegion, failure: str) -> Memory:
    if not isinstance(handle, SharedMemoryRegion):
        raise SharedMemoryException(f"{failure}: expected a SharedMemoryRegion, came {handle!r}")
    memory = handle._mpsm_handle
    if memory is None:
        raise SharedMemoryException(f"{failure}: the handle of key {handle.key!r} is destroyed")
    return memory


def _start(memory: Memory, offset: SupportsIndex, byte_size: int, failure: str) -> int:
    """Return the offset, if that many bytes follow it."""
    try:
        start = operator.index(offset)
    except TypeError:
        raise SharedMemoryException(f"{failure}: the offset is {offset!r}, expected an int") from None
    if start < 0 or start + byte_size > memory.size:
        raise SharedMemoryException(
            f"{failure}: {byte_size} bytes at offset {start} are not within its {memory.size} bytes"
        )
    return start


def _numeric(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array whose elements are what goes into the region."""
    array = np.asarray(value)
    if array.dtype != np.object_:
        if array.dtype.hasobject or array.dtype.kind == "T":
            raise SharedMemoryException(
                f"{_NOT_SET}: arrays of dtype {array.dtype} hold references, not data"
            )
        return array
    if array.size == 0:
        return np.empty(0, np.uint8)
    element = array.item() if array.size == 1 else None
    if not isinstance(element, (bytes, bytearray, memoryview)):
        came = f"{array.size} elements" if array.size > 1 else f"one {type(element).__name__}"
        raise SharedMemoryException(
            f"{_NOT_SET}: an object array must hold one bytes object, as serialize_byte_tensor returns it;"
            f" came {came}"
        )
    return np.frombuffer(element, np.uint8) if len(element) else np.empty(0, np.uint8)


def _dtype(datatype: Any) -> np.dtype[Any]:
    """Return the numpy dtype; that of objects for BYTES."""
    if isinstance(datatype, str) and datatype in NAMES:
        datatype = triton_to_np_dtype(datatype)
    try:
        dtype: np.dtype[Any] = np.dtype(datatype)
    except TypeError as error:
        raise SharedMemoryException(f"{_NOT_READ}: unknown datatype {datatype!r}") from error
    if dtype.kind == "O" or (dtype.kind == "S" and not dtype.itemsize):
        return np.dtype(np.object_)
    if dtype.hasobject or dtype.kind == "T" or not dtype.itemsize:
        raise SharedMemoryException(f"{_NOT_READ}: arrays of dtype {dtype} can't be views of it")
    return dtype


def _dimensions(shape: Iterable[int] | int) -> tuple[int, ...]:
    try:
        given = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        dimensions = tuple(operator.index(dimension) for dimension in given)
    except TypeError:
        dimensions = (-1,)
    if any(dimension < 0 for dimension in dimensions):
        raise SharedMemoryException(f"{_NOT_READ}: the shape is {shape!r}, expected a list of sizes")
    return dimensions


def _strings(memory: Memory, start: int, count: int) -> npt.NDArray[np.object_]:
    end = start
    view = memory.buf
    try:
        for _ in range(count):
            end += _LENGTH.size + _LENGTH.unpack_from(view, end)[0]
        return bytes_tensor.decode(view[start:end], count)  # refuses a last element that ends too late
    except (struct.error, ProtocolError) as error:
        raise SharedMemoryException(
            f"{_NOT_READ}: its {memory.size} bytes hold no BYTES tensor of {count} elements at offset {start}"
        ) from error


def _see_to_exit() -> None:
    """Have what is left removed also at the end of a forked worker of `multiprocessing`, which skips `atexit`."""
    global _seen_to
    if _seen_to != os.getpid() and "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize

        Finalize(None, _remove_leftovers, exitpriority=0)
        _seen_to = os.getpid()


def _remove_leftovers() -> None:
    """Remove the keys of what this process created and did not destroy."""
    with _lock:
        for identity, known in _known.items():
            if known.creator == os.getpid():
                try:
                    unlink(identity)
                except OSError:  # nobody is left to be told
                    continue


def _unlock() -> None:
    """Let a forked child begin with a free lock: the thread that held it is not in the child."""
    global _lock
    _lock = threading.RLock()


atexit.register(_remove_leftovers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
