"""Regions of memory on an NVIDIA GPU, under the reference's names.

This process allocates a region; a server on the same machine opens it by the handle of :func:`get_raw_handle`. The
memory is freed when the region is destroyed and no :class:`SharedMemoryTensor` of it is left, nor anything that
another library made of one through DLPack. Every function returns when its copies are done. Any thread may call
these functions.

Importing this needs no GPU. Functions that need one raise :class:`CudaSharedMemoryException`, which names what is
missing: the package `cuda-bindings`, the driver, or a GPU.
"""

from __future__ import annotations

import os
import weakref
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from ..._basics.log import logger
from ..._wire.dtypes import as_little_endian, np_to_triton_dtype
from ...errors import InferenceServerException
from .. import _contents, _dlpack
from .._contents import Failure
from ._cuda import LEGACY_STREAM, Cuda, CudaError, load

__all__ = [
    "CudaSharedMemoryException",
    "CudaSharedMemoryRegion",
    "SharedMemoryTensor",
    "allocated_shared_memory_regions",
    "as_shared_memory_tensor",
    "create_shared_memory_region",
    "destroy_shared_memory_region",
    "get_contents_as_numpy",
    "get_raw_handle",
    "set_shared_memory_region",
    "set_shared_memory_region_from_dlpack",
]


class CudaSharedMemoryException(InferenceServerException):
    """Indicate that a region could not be created, written, read or destroyed."""

    def __init__(self, msg: str | None = "", status: str | None = None, debug_details: Any = None) -> None:
        super().__init__(msg, status, debug_details)


# The words of the first two begin with the reference's whole messages.
_NOT_CREATED = Failure(CudaSharedMemoryException, "unable to create cuda shared memory handle")
_NOT_SET = Failure(CudaSharedMemoryException, "unable to set values in cuda shared memory")
_NOT_READ = Failure(CudaSharedMemoryException, "unable to get the contents of the cuda shared memory region")
_NOT_VIEWED = Failure(CudaSharedMemoryException, "unable to make a tensor of the cuda shared memory region")
_NOT_HANDED_OUT = Failure(CudaSharedMemoryException, "unable to get the raw handle of cuda shared memory")
_NOT_DESTROYED = Failure(CudaSharedMemoryException, "unable to destroy the cuda shared memory region")


class _Memory:
    """Memory on a device, freed with this object."""

    def __init__(self, cuda: Cuda, device_id: int, byte_size: int) -> None:
        self.cuda = cuda
        self.device_id = device_id
        self.size = byte_size
        with cuda.device(device_id):
            self.address = cuda.allocate(byte_size)
            # At exit the driver frees what is left, and its libraries may be unloaded before this runs.
            weakref.finalize(self, _free, cuda, device_id, self.address, os.getpid()).atexit = False
            self.raw_handle = cuda.ipc_handle(self.address)

    def __reduce__(self) -> tuple[Any, ...]:
        raise CudaSharedMemoryException(
            "cuda shared memory can't be pickled or copied; another process opens it by get_raw_handle()"
        )

    def read(self, start: int, byte_size: int) -> npt.NDArray[np.uint8]:
        """Return some of the bytes."""
        found = np.empty(byte_size, np.uint8)
        self.copy(self.device_id, found.ctypes.data, self.address + start, byte_size)
        return found

    def copy(self, device_id: int, destination: int, source: int, byte_size: int) -> None:
        """Copy to or from this memory in a device's stream, and wait until that is done."""
        if byte_size:
            with self.cuda.device(device_id):
                self.cuda.copy(destination, source, byte_size)
                self.cuda.synchronize()


def _free(cuda: Cuda, device_id: int, address: int, process: int) -> None:
    if os.getpid() == process:  # a forked child has a copy of the object, but does not own the memory
        try:
            with cuda.device(device_id):
                cuda.free(address)
        except CudaError as error:  # there is no caller to tell
            logger.warning("cuda shared memory on device %d was not freed: %s", device_id, error)


class CudaSharedMemoryRegion:
    """Hold a region; :func:`create_shared_memory_region` makes them."""

    def __init__(self, triton_shm_name: str, memory: _Memory) -> None:
        self._triton_shm_name = triton_shm_name
        self._memory: _Memory | None = memory
        self._byte_size = memory.size
        self._device_id = memory.device_id

    @property
    def name(self) -> str:
        """The name under which the region is to be registered with the server."""
        return self._triton_shm_name

    @property
    def byte_size(self) -> int:
        """The region's size in bytes."""
        return self._byte_size

    @property
    def device_id(self) -> int:
        """The number of the GPU that the region is on."""
        return self._device_id

    def __repr__(self) -> str:
        return (
            f"CudaSharedMemoryRegion({self.name!r}, byte_size={self.byte_size}, device_id={self.device_id})"
        )


# Removing a region from this list destroys it.
_allocated: list[CudaSharedMemoryRegion] = []


class SharedMemoryTensor:
    """Show a part of a region to libraries that read DLPack (``torch.from_dlpack(tensor)``), without a copy.

    Their tensors share the region's memory: they show what is written there later, and keep the memory after the
    region is destroyed. ``numpy.from_dlpack(tensor, device="cpu")`` copies (numpy 2.1 or newer).
    """

    def __init__(self, memory: _Memory, wanted: _contents.Wanted, start: int, code: int | None) -> None:
        self._memory = memory
        self._wanted = wanted
        self._start = start
        self._code = code
        self._array()  # refuses shapes that numpy does not have

    def _array(self) -> npt.NDArray[Any]:
        """Return an array of the address, shape and owner. It is not kept: a debugger would read its elements."""
        address = self._memory.address + self._start
        return _dlpack.array_over(self._memory, address, self._wanted.shape, self._wanted.dtype)

    def __dlpack__(
        self,
        stream: Any = None,
        *,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule.

        Parameters
        ----------
        stream : optional
            Ignored: all copies into the region are done.
        max_version : tuple of int, optional
            The newest version of DLPack that the consumer supports.
        dl_device : tuple of int, optional
            The device for the memory: the region's, or ``(1, 0)`` for a copy on the host.
        copy : bool, optional
            Whether it must, or must not, be a copy. On the region's device it is never one.

        Raises
        ------
        BufferError
            When that is not possible, as the protocol demands.
        CudaSharedMemoryException
            When CUDA fails to copy.
        """
        here = self.__dlpack_device__()
        device = here if dl_device is None else (int(dl_device[0]), int(dl_device[1]))
        if device == here and not copy:
            return _dlpack.export(self._array(), here, self._code, max_version)
        if device != (_dlpack.CPU, 0) or copy is False:
            raise BufferError(
                f"a region on device {here} is shown there without a copy, or copied to (1, 0);"
                f" got dl_device={dl_device}, copy={copy}"
            )
        with _cuda_errors(_NOT_READ):
            found = self._memory.read(self._start, self._wanted.least_bytes)
        return _dlpack.export(self._wanted.over(found, 0, _NOT_READ), device, self._code, max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the kind of the device, 2 for CUDA, and its number."""
        return _dlpack.CUDA, self._memory.device_id

    def __repr__(self) -> str:
        kind = "BF16" if self._code == _dlpack.BFLOAT16 else np_to_triton_dtype(self._wanted.dtype)
        return f"SharedMemoryTensor({kind}, {list(self._wanted.shape)}, device_id={self._memory.device_id})"


def create_shared_memory_region(
    triton_shm_name: str, byte_size: SupportsIndex, device_id: SupportsIndex
) -> CudaSharedMemoryRegion:
    """Allocate a region on a GPU. Its memory is not cleared.

    Parameters
    ----------
    triton_shm_name : str
        The name under which the region is to be registered with the server.
    byte_size : int
        The region's size in bytes.
    device_id : int
        The number of the GPU, among those that this process may use.

    Returns
    -------
    CudaSharedMemoryRegion
        The region, to be destroyed with :func:`destroy_shared_memory_region`.

    Raises
    ------
    CudaSharedMemoryException
        When the size is not positive, there is no such GPU, it has too little memory, or CUDA is missing.
    """
    size = _contents.size(byte_size, _NOT_CREATED)
    number = _contents.integer(device_id, "device_id", _NOT_CREATED)
    with _cuda_errors(_NOT_CREATED):
        cuda = load()
        count = cuda.device_count()
        if not 0 <= number < count:
            raise _NOT_CREATED(f"device_id is {number}, expected one of the {count} GPUs, which start at 0")
        region = CudaSharedMemoryRegion(triton_shm_name, _Memory(cuda, number, size))
    _allocated.append(region)
    return region


def get_raw_handle(cuda_shm_handle: CudaSharedMemoryRegion) -> bytes:
    """Return the region's cudaIPC handle in base64, as ``register_cuda_shared_memory`` takes it.

    Raises
    ------
    CudaSharedMemoryException
        When the region is destroyed.
    """
    return b64encode(_memory(cuda_shm_handle, _NOT_HANDED_OUT).raw_handle)


def set_shared_memory_region(
    cuda_shm_handle: CudaSharedMemoryRegion,
    input_values: Sequence[npt.NDArray[Any]],
    *,
    offset: SupportsIndex = 0,
) -> None:
    """Copy arrays into a region, one after the other.

    Parameters
    ----------
    cuda_shm_handle : CudaSharedMemoryRegion
        The region.
    input_values : list or tuple of numpy.ndarray
        Any memory order and byte order; the region gets C order, little-endian. Pass BYTES through
        :func:`tritonhttp.utils.serialize_byte_tensor` first: an object array must hold one ``bytes``, which is
        copied as it is, or be empty.
    offset : int
        Where the first array starts in the region, in bytes.

    Raises
    ------
    CudaSharedMemoryException
        When the arrays don't fit behind the offset, or are not as described above; then nothing is written. Or
        when CUDA fails to copy.
    """
    arrays = [as_little_endian(array) for array in _contents.arrays(input_values, _NOT_SET)]
    memory = _memory(cuda_shm_handle, _NOT_SET)
    here = _dlpack.CPU, 0
    _write(memory, [_dlpack.Tensor(each, each.ctypes.data, each.nbytes, here) for each in arrays], offset)


def set_shared_memory_region_from_dlpack(
    cuda_shm_handle: CudaSharedMemoryRegion, input_values: Iterable[Any], *, offset: SupportsIndex = 0
) -> None:
    """Copy tensors of any library that supports DLPack into a region, one after the other.

    Parameters
    ----------
    cuda_shm_handle : CudaSharedMemoryRegion
        The region.
    input_values : list
        Tensors on the host or on any GPU, contiguous in C order: objects with ``__dlpack__`` (torch, CuPy, JAX,
        numpy, …), or DLPack capsules. The copy waits for the work that the tensor's library has queued in its
        current stream. A capsule does not name its stream, so the copy waits for all work of that GPU. A single
        tensor means a list of one.
    offset : int
        Where the first tensor starts in the region, in bytes.

    Raises
    ------
    CudaSharedMemoryException
        When the tensors don't fit behind the offset, or are not as described above; then nothing is written. Or
        when CUDA fails to copy.
    """
    memory = _memory(cuda_shm_handle, _NOT_SET)
    values = [input_values] if hasattr(input_values, "__dlpack__") else input_values
    if not isinstance(values, Iterable):
        raise _NOT_SET(f"input_values is {values!r}, expected a list of tensors")
    with _cuda_errors(_NOT_SET):
        tensors = [_borrow(memory.cuda, index, value) for index, value in enumerate(values)]
    _write(memory, tensors, offset)


def _write(memory: _Memory, tensors: Sequence[_dlpack.Tensor], offset: SupportsIndex) -> None:
    start = _contents.start(memory.size, offset, sum(tensor.byte_size for tensor in tensors), _NOT_SET)
    with _cuda_errors(_NOT_SET):
        for tensor in tensors:
            # In the stream that the tensor's data were waited for.
            device_id = tensor.device[1] if tensor.device[0] in _dlpack.GPU else memory.device_id
            memory.copy(device_id, memory.address + start, tensor.address, tensor.byte_size)
            start += tensor.byte_size


def get_contents_as_numpy(
    cuda_shm_handle: CudaSharedMemoryRegion,
    datatype: Any,
    shape: Iterable[int] | int,
    *,
    offset: SupportsIndex = 0,
) -> npt.NDArray[Any]:
    """Return a copy of a tensor in a region.

    Parameters
    ----------
    cuda_shm_handle : CudaSharedMemoryRegion
        The region.
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
        On the host, writable. For BYTES an object array, with as many elements as the shape has, whatever follows
        them.

    Raises
    ------
    CudaSharedMemoryException
        When the tensor would end behind the region, or CUDA fails to copy.
    """
    memory = _memory(cuda_shm_handle, _NOT_READ)
    wanted = _contents.wanted(datatype, shape, _NOT_READ)
    start = _contents.start(memory.size, offset, wanted.least_bytes, _NOT_READ)
    with _cuda_errors(_NOT_READ):
        found = memory.read(start, memory.size - start if wanted.is_bytes else wanted.least_bytes)
    return wanted.over(found, 0, _NOT_READ)


def as_shared_memory_tensor(
    cuda_shm_handle: CudaSharedMemoryRegion,
    datatype: Any,
    shape: Iterable[int] | int,
    *,
    offset: SupportsIndex = 0,
) -> SharedMemoryTensor:
    """Return a tensor of a region, for libraries that read DLPack.

    Parameters
    ----------
    cuda_shm_handle : CudaSharedMemoryRegion
        The region.
    datatype : str or numpy.dtype
        The protocol's name, such as ``"FP32"``, or a numpy dtype; not BYTES.
    shape : list of int
        The tensor's shape.
    offset : int
        Where the tensor starts in the region, in bytes: a multiple of the size of an element.

    Raises
    ------
    CudaSharedMemoryException
        When the tensor would end behind the region, or DLPack has no such type.
    """
    memory = _memory(cuda_shm_handle, _NOT_VIEWED)
    code = None
    if isinstance(datatype, str) and datatype == "BF16":
        # This works without ml_dtypes, and numpy does not export its type.
        datatype, code = np.uint16, _dlpack.BFLOAT16
    wanted = _contents.wanted(datatype, shape, _NOT_VIEWED)
    kind = np_to_triton_dtype(wanted.dtype)
    if kind == "BF16":
        wanted, code = wanted._replace(dtype=np.dtype(np.uint16)), _dlpack.BFLOAT16
    if kind in (None, "BYTES") or not wanted.dtype.isnative:
        raise _NOT_VIEWED(f"datatype is {datatype!r}, expected one of the protocol's other than BYTES")
    start = _contents.start(memory.size, offset, wanted.least_bytes, _NOT_VIEWED)
    if start % wanted.dtype.itemsize:
        raise _NOT_VIEWED(f"the offset is {start}, expected a multiple of {wanted.dtype.itemsize}")
    try:
        return SharedMemoryTensor(memory, wanted, start, code)
    except ValueError as error:  # more dimensions than numpy allows
        raise _NOT_VIEWED(error) from error


def allocated_shared_memory_regions() -> list[CudaSharedMemoryRegion]:
    """Return the regions that this process created and did not destroy."""
    return list(_allocated)


def destroy_shared_memory_region(cuda_shm_handle: CudaSharedMemoryRegion) -> None:
    """Destroy a region. Its memory is freed as soon as no tensor over it is left.

    Have the server unregister the region first: freeing memory that another process has open is undefined in CUDA.

    Parameters
    ----------
    cuda_shm_handle : CudaSharedMemoryRegion
        The region.

    Raises
    ------
    CudaSharedMemoryException
        When the region is already destroyed.
    """
    _memory(cuda_shm_handle, _NOT_DESTROYED)
    try:
        _allocated.remove(cuda_shm_handle)
    except ValueError:  # another thread was faster
        raise _NOT_DESTROYED(f"{cuda_shm_handle!r} is destroyed") from None
    cuda_shm_handle._memory = None


def _memory(handle: CudaSharedMemoryRegion, failure: Failure) -> _Memory:
    if not isinstance(handle, CudaSharedMemoryRegion):
        raise failure(f"expected a CudaSharedMemoryRegion, got {handle!r}")
    memory = handle._memory
    if memory is None:
        raise failure(f"{handle!r} is destroyed")
    return memory


def _borrow(cuda: Cuda, index: int, value: Any) -> _dlpack.Tensor:
    """Return where a tensor is. On a GPU, make the legacy stream wait for its data."""
    try:
        device = _dlpack.device_of(value)
        if device is not None and device[0] in _dlpack.GPU:
            with cuda.device(device[1]):
                tensor = _dlpack.borrow(value, LEGACY_STREAM)
        else:
            tensor = _dlpack.borrow(value)
    except ValueError as error:
        raise _NOT_SET(f"input_values[{index}]: {error}") from error
    if device is None and tensor.device[0] in _dlpack.GPU:
        with cuda.device(tensor.device[1]):
            cuda.synchronize_device()
    if tensor.device[0] not in _dlpack.GPU + _dlpack.HOST:
        raise _NOT_SET(
            f"input_values[{index}]: expected a tensor on the host or on a CUDA device, got one on DLPack's"
            f" device {tensor.device}"
        )
    return tensor


@contextmanager
def _cuda_errors(failure: Failure) -> Iterator[None]:
    try:
        yield
    except CudaError as error:
        raise failure(error) from error
