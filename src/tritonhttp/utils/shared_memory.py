"""Regions of system shared memory, under the reference's names.

A region is a POSIX shared memory object, found by its key, that a handle maps into this process. Arrays of
:func:`get_contents_as_numpy` keep the memory mapped, also after :func:`destroy_shared_memory_region`. The key is
removed when the last handle in the process that created the region is destroyed, or when that process exits; no
other process removes it, a forked child included. All functions may be called from any thread.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
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
        self._number = next(_numbers)
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
        _mapped(self, _NOT_PICKLED)
        return attach_shared_memory_region, (self._triton_shm_name, self._shm_key)


class _Known:
    """What this process has of one memory object: the keys of its handles, as given, and who created it."""

    def __init__(self) -> None:
        self.creator: int | None = None
        #: By the number of each handle, so that an end that was interrupted can be tried again.
        self.keys: dict[int, str] = {}


_numbers = count()
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
    size = _contents.size(byte_size, _NOT_CREATED)
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
    wanted = _contents.wanted(datatype, shape, _NOT_READ)
    start = _contents.start(memory.size, offset, wanted.least_bytes, _NOT_READ)
    return wanted.over(memory.map, start, _NOT_READ)


def mapped_shared_memory_regions() -> list[str]:
    """Return the keys, as they were given, of the regions that this process has handles of."""
    with _lock:
        every = [key for known in tuple(_known.values()) for key in tuple(known.keys.values())]
        return list(dict.fromkeys(every))


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
        known = _known.get(memory.identity) or _Known()
        known.keys.pop(shm_handle._number, None)
        try:
            if not known.keys and known.creator == os.getpid():
                unlink(memory.identity)
        except OSError as error:
            raise _told(_NOT_DESTROYED, shm_handle._shm_key, error) from error
        finally:
            if not known.keys:
                _known.pop(memory.identity, None)
            shm_handle._mpsm_handle = None


def _open(name: str, key: str, byte_size: int | None, create_only: bool = False) -> SharedMemoryRegion:
    """Make a handle; without a size only of a region that is there."""
    if not isinstance(key, str):
        raise _NOT_CREATED(f"the key is {key!r}, expected a str")
    handle = SharedMemoryRegion(name, key)
    with _lock:
        try:
            memory, created = _find(object_name(key), byte_size, create_only)
        except (OSError, ValueError, OverflowError) as error:
            raise _told(_NOT_CREATED, key, error) from error
        known = _known.setdefault(memory.identity, _Known())
        if created:
            known.creator = os.getpid()
            _see_to_exit()
        handle._mpsm_handle = memory
        known.keys[handle._number] = key
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


def _told(failure: Failure, key: str, error: Exception) -> InferenceServerException:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return failure(f"key {key!r}: {reason}")


def _mapped(handle: SharedMemoryRegion, failure: Failure) -> Memory:
    if not isinstance(handle, SharedMemoryRegion):
        raise failure(f"expected a SharedMemoryRegion, came {handle!r}")
    memory = handle._mpsm_handle
    if memory is None:
        raise failure(f"the handle of key {handle.key!r} is destroyed")
    return memory


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
        for identity, known in tuple(_known.items()):
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
