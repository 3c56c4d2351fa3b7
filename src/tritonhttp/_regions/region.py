"""A region as an object: tensors are written into it one after the other, and read as views."""

from __future__ import annotations

import operator
import os
import secrets
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._basics import log
from .._protocol import operations
from .._protocol.operations import Operation
from .._protocol.refusals import shares_nothing
from .._wire import bytes_tensor
from .._wire.dtypes import np_to_triton_dtype
from .._wire.inference import text
from ..errors import ConnectError, InferenceServerException, ServerError
from ..utils import shared_memory as helpers
from . import names
from . import posix_memory as memory

__all__ = ["Region", "RegionSlice", "aligned", "sweep"]

#: Tensors start at multiples of a cache line, in bytes, which also suits vector instructions.
ALIGNMENT = 64
#: How many spellings of a key to try when attaching to a region.
_SPELLINGS = 4


def aligned(byte_size: int) -> int:
    """Round a size up to where the next tensor may start."""
    return -(-byte_size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, eq=False)
class RegionSlice:
    """A place in a region, for one tensor.

    Attributes
    ----------
    region : Region
    offset, byte_size : int
        Where the place is in the region, in bytes.
    datatype : str or None
        The datatype of the tensor written there; None: the place was only reserved.
    shape : tuple of int or None
        Its shape.
    """

    region: Region
    offset: int
    byte_size: int
    datatype: str | None = None
    shape: tuple[int, ...] | None = None

    def view(self, datatype: Any = None, shape: Iterable[int] | int | None = None) -> npt.NDArray[Any]:
        """Return the tensor in this place, as :meth:`Region.view` does; by default with the type that was written.

        Raises
        ------
        SharedMemoryException
            When the tensor is larger than this place, or its datatype or shape is not known.
        """
        datatype = self.datatype if datatype is None else datatype
        shape = self.shape if shape is None else shape
        if datatype is None or shape is None:
            raise helpers.SharedMemoryException(
                "nothing was written here through this object: expected the datatype and the shape"
            )
        return self.region._read(datatype, shape, self.offset, self.offset + self.byte_size)


class Region:
    """A registered shared memory region; ``client.shared_memory()`` makes and ends it.

    Arrays that :meth:`view` returned stay valid after its end. Any thread may use it.
    """

    def __init__(self, byte_size: int | None, key: str | None) -> None:
        if byte_size is None and key is None:
            raise helpers.SharedMemoryException(
                "expected the region's byte_size, or the key of one to attach to"
            )
        if key is not None:
            text(key, "key")
        self._owner = os.getpid()
        #: The name under which the server knows the region.
        self.name = names.claim(self)
        #: Whether other processes may attach by the key; if not, it is removed once the server has the region.
        self._shared = key is not None
        self._attached = byte_size is None
        key = self.name if key is None else key
        key = key if key.startswith("/") else f"/{key}"
        if byte_size is None:
            self._handle = helpers.attach_shared_memory_region(self.name, key)
        else:
            self._handle = helpers.create_shared_memory_region(self.name, key, byte_size, create_only=True)
        self._registered = False
        #: The reserved places, start and end by start. Each is reserved in one step, without a lock: a signal
        #: handler may reserve a place in the middle of another reservation.
        self._places: dict[int, tuple[int, int]] = {}
        #: Where to look for the next one first.
        self._end = 0

    @property
    def key(self) -> str:
        """The key of the memory object. Others can attach only by a key that the caller chose."""
        return self._handle.key

    @property
    def byte_size(self) -> int:
        """The region's size in bytes; 0 after its end."""
        return self._handle.byte_size

    def write(self, array: npt.NDArray[Any]) -> RegionSlice:
        """Copy a tensor behind the earlier ones, and return its place.

        Parameters
        ----------
        array : numpy.ndarray
            Any memory order and byte order. Elements of an object array: bytes as they are, str as UTF-8,
            anything else as its ``str()``.

        Raises
        ------
        SharedMemoryException
            When there is no room left, or the protocol has no datatype for the array's dtype.
        """
        if not isinstance(array, np.ndarray):
            raise helpers.SharedMemoryException(f"expected a numpy array, got {type(array).__name__}")
        datatype = np_to_triton_dtype(array.dtype)
        if datatype is None:
            raise helpers.SharedMemoryException(f"no datatype of the protocol fits dtype {array.dtype}")
        data = array
        if datatype == "BYTES":
            data = np.frombuffer(bytes_tensor.encode(array) or b"", np.uint8)
        place = self.reserve(data.nbytes)
        helpers.set_shared_memory_region(self._handle, [data], place.offset)
        return RegionSlice(self, place.offset, place.byte_size, datatype, array.shape)

    def reserve(self, byte_size: int) -> RegionSlice:
        """Return a place of that many bytes behind the earlier ones, for an output.

        Raises
        ------
        SharedMemoryException
            When there is no room left.
        """
        try:
            byte_size = operator.index(byte_size)
        except TypeError:
            raise helpers.SharedMemoryException(f"byte_size is {byte_size!r}, expected an int") from None
        places, offset = self._places, aligned(self._end)
        while True:
            if not self.byte_size:
                raise helpers.SharedMemoryException("the region has ended with its block")
            if byte_size < 0 or offset + byte_size > self.byte_size:
                raise helpers.SharedMemoryException(
                    f"{byte_size} bytes do not fit: {max(self.byte_size - offset, 0)} of the region's"
                    f" {self.byte_size} are left"
                )
            place = offset, offset + byte_size
            found = places.setdefault(offset, place) if byte_size else place
            if found is place:
                break
            offset = aligned(found[1])
        self._end = place[1]
        return RegionSlice(self, offset, byte_size)

    def reset(self) -> None:
        """Start at the beginning again; the next tensors overwrite the earlier ones."""
        self._places = {}
        self._end = 0

    def view(self, datatype: Any, shape: Iterable[int] | int, offset: int = 0) -> npt.NDArray[Any]:
        """Return a tensor in the region.

        Parameters
        ----------
        datatype : str or numpy.dtype
            The protocol's name, or what ``numpy.dtype`` takes.
        shape : sequence of int
        offset : int
            Where the tensor starts, in bytes.

        Returns
        -------
        numpy.ndarray
            A writable view; for BYTES an object array with copies.

        Raises
        ------
        SharedMemoryException
            When the tensor would end behind the region.
        """
        return self._read(datatype, shape, offset, self.byte_size)

    def _read(self, datatype: Any, shape: Iterable[int] | int, offset: int, end: int) -> npt.NDArray[Any]:
        array = helpers.get_contents_as_numpy(self._handle, datatype, shape, offset)
        size = array.nbytes
        if array.dtype == np.object_:
            size = sum(map(len, array.ravel())) + 4 * array.size
        if offset + size > end:
            raise helpers.SharedMemoryException(
                f"a tensor of {size} bytes at offset {offset} does not end before {end}"
            )
        return array

    def __repr__(self) -> str:
        return f"<Region {self.name!r}, {self._end} of {self.byte_size} bytes taken>"

    # -- what a client does to begin and end it --

    def _open(self) -> Generator[Operation[Any], Any, None]:
        self._registered = True  # until the server has certainly not registered it
        for remaining in reversed(range(_SPELLINGS if self._attached else 1)):
            # Triton refuses a key that is registered under another name; with more slashes it is another key.
            slashes = "/" * secrets.randbelow(256) if self._attached else ""
            try:
                yield operations.register_system_shared_memory(
                    self.name, slashes + self.key, self.byte_size, 0
                )
                break
            except (ServerError, ConnectError) as error:
                if not remaining or isinstance(error, ConnectError) or shares_nothing(error):
                    self._registered = False
                    raise
        mapped = self._handle._mpsm_handle
        if mapped is not None and not self._shared:
            memory.unlink(mapped.identity)
        yield from sweep()

    def _close(self) -> Generator[Operation[Any], Any, None]:
        if os.getpid() != self._owner:
            return  # a forked child does not own the region
        helpers.destroy_shared_memory_region(self._handle)
        if not self._registered:
            return
        try:
            yield operations.unregister_shared_memory("system", self.name)
        except InferenceServerException as error:
            # The server has ended, or a request that was given up uses it. Then the next sweep unregisters it.
            log.logger.warning("region %s stays registered: %s", self.name, error)


def sweep() -> Generator[Operation[Any], Any, None]:
    """Remove what ended clients have left behind on the server and in the file system."""
    names.remove_files()
    try:
        listed = yield operations.get_shared_memory_status("system", "")
        left = [region["name"] for region in listed if names.is_left_behind(region["name"])]
    except (InferenceServerException, AttributeError, KeyError, TypeError):
        return
    for name in left:
        with suppress(InferenceServerException):  # in use; a later sweep removes it
            yield operations.unregister_shared_memory("system", name)
