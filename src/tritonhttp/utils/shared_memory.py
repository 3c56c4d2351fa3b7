"""Regions of system shared memory, under the reference's names.

A region is a POSIX shared memory object with a key; a handle maps it into this process. Arrays of
:func:`get_contents_as_numpy` keep the memory mapped, even after :func:`destroy_shared_memory_region`. Only the
process that created a region removes its key, when its last handle is destroyed or the process exits; a forked
child does not. Any thread may call these functions.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, SupportsIndex

import numpy.typing as npt

from .._regions.posix_memory import Identity, Memory, attach, create, object_name, unlink
from ..errors import InferenceServerException
from . import _contents
from ._contents import Failure

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


class SharedMemoryException(InferenceServerException):
    """Indicate that a region could not be created, written, read or destroyed."""

    def __init__(self, msg: str | None = "", status: str | None = None, debug_details: Any = None) -> None:
        super().__init__(msg, status, debug_details)


# The words of the first two are the reference's whole messages.
_NOT_CREATED = Failure(SharedMemoryException, "unable to create the shared memory region")
_NOT_SET = Failure(SharedMemoryException, "unable to set the shared memory region")
_NOT_READ = Failure(SharedMemoryException, "unable to get the contents of the shared memory region")
_NOT_DESTROYED = Failure(SharedMemoryException, "unable to destroy the shared memory region")
_NOT_PICKLED = Failure(SharedMemoryException, "unable to pickle the shared memory region")


class SharedMemoryRegion:
    """Hold one handle of a region; :func:`create_shared_memory_region` makes them.

    Pickling a handle pickles its key. Unpickling attaches to the region; that handle is destroyed separately.

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
        self._number = next(_numbers)
        self._mpsm_handle: Memory | None = None

    @property
    def name(self) -> str:
        """The name under which the region is to be registered with the server."""
        return self._triton_shm_name

    @property
    def key(self) -> str:
        """The key of the memory object, as given."""
        return self._shm_key

    @property
    def byte_size(self) -> int:
        """The region's real size in bytes, which may differ from the requested size if it was reused; 0 when
        destroyed.
        """
        memory = self._mpsm_handle
        return 0 if memory is None else memory.size

    def __repr__(self) -> str:
        return f"SharedMemoryRegion({self.name!r}, {self.key!r}, byte_size={self.byte_size})"

    def __reduce__(self) -> tuple[Any, ...]:
        _mapped(self, _NOT_PICKLED)
        return attach_shared_memory_region, (self._triton_shm_name, self._shm_key)


_numbers = count()
#: The memory object of each handle and its key, as given. By number, so that an interrupted destruction can be
#: repeated.
_handles: dict[int, tuple[Identity, str]] = {}
#: The processes that created memory objects.
_creators: dict[Identity, int] = {}
_lock = threading.RLock()
_seen_to: int | None = None


def create_shared_memory_region(
    triton_shm_name: str, shm_key: str, byte_size: SupportsIndex, create_only: bool = False
) -> SharedMemoryRegion:
    """Create a region of system shared memory, or attach to the one that already has the key.

    Parameters
    ----------
    triton_shm_name : str
        The name under which the region is to be registered with the server.
    shm_key : str
        The key of the memory object, with or without a leading slash; Triton expects one.
    byte_size : int
        The region's size in bytes.
    create_only : bool
        Whether an existing region of that key is an error. Otherwise it is used with its own size, with a warning
        if that is smaller than `byte_size`.

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
    A new region is filled with zeros, and its memory is allocated at once.
    """
    size = _contents.size(byte_size, _NOT_CREATED)
    handle = _open(triton_shm_name, shm_key, size, create_only)
    if handle.byte_size < size:
        try:
            warnings.warn(
                f"reusing shared memory region with key '{shm_key}',"
                f" region size is {handle.byte_size} instead of requested {size}",
                stacklevel=2,
            )
        except BaseException:  # a filter turned the warning into an error, and the caller gets no handle
            destroy_shared_memory_region(handle)
            raise
    return handle


def attach_shared_memory_region(triton_shm_name: str, shm_key: str) -> SharedMemoryRegion:
    """Attach to the region of a key, whatever its size; the reference has no such function.

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
        When there is no region of that key, or it belongs to another user.
    """
    return _open(triton_shm_name, shm_key, None)


def set_shared_memory_region(
    shm_handle: SharedMemoryRegion, input_values: Sequence[npt.NDArray[Any]], offset: SupportsIndex = 0
) -> None:
    """Copy arrays into a region, one after the other.

    Parameters
    ----------
    shm_handle : SharedMemoryRegion
        The region's handle.
    input_values : list or tuple of numpy.ndarray
        Any memory order and byte order; the region gets C order, little-endian. Pass BYTES through
        :func:`tritonhttp.utils.serialize_byte_tensor` first: an object array must hold one ``bytes``, which is
        copied as it is, or be empty.
    offset : int
        Where the first array starts in the region, in bytes.

    Raises
    ------
    SharedMemoryException
        When the arrays don't fit behind the offset, or are not as described above. Then nothing is written.
    """
    arrays = _contents.arrays(input_values, _NOT_SET)
    memory = _mapped(shm_handle, _NOT_SET)
    start = _contents.start(memory.size, offset, sum(array.nbytes for array in arrays), _NOT_SET)
    for array in arrays:
        if array.nbytes:
            _contents.put(array, memory.map, start)
            start += array.nbytes


def get_contents_as_numpy(
    shm_handle: SharedMemoryRegion, datatype: Any, shape: Iterable[int] | int, offset: SupportsIndex = 0
) -> npt.NDArray[Any]:
    """Return a tensor in a region.

    Parameters
    ----------
    shm_handle : SharedMemoryRegion
        The region's handle.
    datatype : numpy.dtype
        A numpy dtype, a scalar type such as ``np.float32``, or the protocol's name such as ``"FP32"``;
        ``np.object_`` and ``np.bytes_`` mean BYTES.
    shape : list of int
        The tensor's shape.
    offset : int
        Where the tensor starts in the region, in bytes.

    Returns
    -------
    numpy.ndarray
        A writable view of the region, which stays valid after the region is destroyed. For BYTES an object array
        with copies, of as many elements as the shape has, whatever follows them.

    Raises
    ------
    SharedMemoryException
        When the tensor would end behind the region.
    """
    memory = _mapped(shm_handle, _NOT_READ)
    wanted = _contents.wanted(datatype, shape, _NOT_READ)
    start = _contents.start(memory.size, offset, wanted.least_bytes, _NOT_READ)
    return wanted.over(memory.map, start, _NOT_READ)


def mapped_shared_memory_regions() -> list[str]:
    """Return the keys, as given, of the regions that this process has handles of."""
    with _lock:
        return list(dict.fromkeys(key for _, key in tuple(_handles.values())))


def destroy_shared_memory_region(shm_handle: SharedMemoryRegion) -> None:
    """Destroy a handle. With its last handle, the process that created the region also removes the key.

    Arrays over the region stay valid, and so do mappings in the server and in other processes. The server keeps
    the registration until it is told to unregister the name.

    Parameters
    ----------
    shm_handle : SharedMemoryRegion
        The region's handle.

    Raises
    ------
    SharedMemoryException
        When the handle is already destroyed, or the key can't be removed.
    """
    with _lock:
        memory = _mapped(shm_handle, _NOT_DESTROYED)
        _handles.pop(shm_handle._number, None)
        last = all(identity != memory.identity for identity, _ in tuple(_handles.values()))
        try:
            if last and _creators.get(memory.identity) == os.getpid():
                unlink(memory.identity)
        except OSError as error:
            raise _told(_NOT_DESTROYED, shm_handle._shm_key, error) from error
        finally:
            if last:
                _creators.pop(memory.identity, None)
            shm_handle._mpsm_handle = None


def _open(name: str, key: str, byte_size: int | None, create_only: bool = False) -> SharedMemoryRegion:
    """Make a handle; without a size, attach to an existing region."""
    if not isinstance(key, str):
        raise _NOT_CREATED(f"the key is {key!r}, expected a str")
    handle = SharedMemoryRegion(name, key)
    with _lock:
        try:
            memory, created = _find(object_name(key), byte_size, create_only)
        except (OSError, ValueError, OverflowError) as error:
            raise _told(_NOT_CREATED, key, error) from error
        if created:
            _creators[memory.identity] = os.getpid()
            _see_to_exit()
        handle._mpsm_handle = memory
        _handles[handle._number] = memory.identity, key
    return handle


def _find(name: str, byte_size: int | None, create_only: bool) -> tuple[Memory, bool]:
    if byte_size is None:
        return attach(name), False
    if create_only:
        return create(name, byte_size), True
    for _ in range(100):  # other processes may create and unlink it between these steps
        with suppress(FileNotFoundError):
            return attach(name), False
        with suppress(FileExistsError):
            return create(name, byte_size), True
    raise FileExistsError("others create and remove it all the time")


def _told(failure: Failure, key: str, error: Exception) -> InferenceServerException:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return failure(f"key {key!r}: {reason}")


def _mapped(handle: SharedMemoryRegion, failure: Failure) -> Memory:
    if not isinstance(handle, SharedMemoryRegion):
        raise failure(f"expected a SharedMemoryRegion, got {handle!r}")
    memory = handle._mpsm_handle
    if memory is None:
        raise failure(f"the handle of key {handle.key!r} is destroyed")
    return memory


def _see_to_exit() -> None:
    """Remove leftovers also when a forked worker of `multiprocessing` ends, which skips `atexit`."""
    global _seen_to
    if _seen_to != os.getpid() and "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize

        Finalize(None, _remove_leftovers, exitpriority=0)
        _seen_to = os.getpid()


def _remove_leftovers() -> None:
    """Remove the keys of regions that this process created and did not destroy."""
    with _lock:
        for identity, creator in tuple(_creators.items()):
            if creator == os.getpid():
                with suppress(OSError):  # at exit there is no caller to tell
                    unlink(identity)


def _unlock() -> None:
    """Replace the lock in a forked child, which lacks the thread that may hold it."""
    global _lock
    _lock = threading.RLock()


atexit.register(_remove_leftovers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
