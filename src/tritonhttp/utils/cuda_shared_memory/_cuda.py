"""The few calls of CUDA's runtime that regions need, on the primary context of a device.

The bindings come from `cuda-bindings` (installed by `cuda-python`) and are loaded at first use. Copies run in the
legacy default stream, which is ordered with all streams except non-blocking ones.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["LEGACY_STREAM", "Cuda", "CudaError", "load"]

#: The legacy default stream, to CUDA (cudaStreamLegacy) and to DLPack.
LEGACY_STREAM = 1

_IPC_HANDLE_SIZE = 64


class CudaError(Exception):
    """Tells what is missing, or the name and text of CUDA's error and the call that returned it."""


@cache
def load() -> Cuda:
    """Return CUDA, initialised.

    Raises
    ------
    CudaError
        Without the bindings, a driver or a GPU.
    """
    try:
        try:
            runtime, driver = import_module("cuda.bindings.runtime"), import_module("cuda.bindings.driver")
        except ImportError:  # before cuda-python 12.6
            runtime, driver = import_module("cuda.cudart"), import_module("cuda.cuda")
    except ImportError as error:
        raise CudaError(
            f"CUDA shared memory needs the package cuda-bindings: pip install 'tritonhttp[cuda]' ({error})"
        ) from error
    return Cuda(runtime, driver)


class Cuda:
    """The calls themselves. Addresses and sizes are ints, of bytes; all raise :class:`CudaError`."""

    def __init__(self, runtime: Any, driver: Any) -> None:
        self._runtime = runtime
        self._driver = driver
        self._contexts: dict[int, Any] = {}
        self._process = os.getpid()
        try:
            # Without a driver the runtime would report one that is too old.
            self._call(driver.cuInit, 0)
        except RuntimeError as error:
            raise CudaError(
                f"CUDA shared memory needs NVIDIA's driver, which did not load: {error}"
            ) from error

    def device_count(self) -> int:
        """Return the number of GPUs that this process may use."""
        return int(self._call(self._driver.cuDeviceGetCount))

    @contextmanager
    def device(self, device_id: int) -> Iterator[None]:
        """Make a device the thread's current one inside the block."""
        if os.getpid() != self._process:
            raise CudaError("CUDA can't be used in a process forked after its first use; spawn it instead")
        # A pushed context instead of cudaSetDevice: restoring a device that was current only by default would
        # create a context of hundreds of megabytes there.
        context = self._contexts.get(device_id)
        if context is None:
            number = self._call(self._driver.cuDeviceGet, device_id)
            context = self._contexts[device_id] = self._call(self._driver.cuDevicePrimaryCtxRetain, number)
        self._call(self._driver.cuCtxPushCurrent, context)
        try:
            yield
        finally:
            self._call(self._driver.cuCtxPopCurrent)

    def allocate(self, byte_size: int) -> int:
        """Allocate memory on the current device, and return its address."""
        return int(self._call(self._runtime.cudaMalloc, byte_size))

    def free(self, address: int) -> None:
        """Free memory once the device has finished its work."""
        self._call(self._runtime.cudaFree, address)

    def ipc_handle(self, address: int) -> bytes:
        """Return the handle by which other processes open the memory."""
        handle = self._call(self._runtime.cudaIpcGetMemHandle, address)
        return ctypes.string_at(handle.getPtr(), _IPC_HANDLE_SIZE)

    def copy(self, destination: int, source: int, byte_size: int) -> None:
        """Queue a copy in the current device's stream; each address may be on the host or on any device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call(self._runtime.cudaMemcpyAsync, destination, source, byte_size, kind, LEGACY_STREAM)

    def synchronize(self) -> None:
        """Wait until the copies are done."""
        self._call(self._runtime.cudaStreamSynchronize, LEGACY_STREAM)

    def synchronize_device(self) -> None:
        """Wait until the current device has done the work of all its streams."""
        self._call(self._runtime.cudaDeviceSynchronize)

    def _call(self, function: Any, *arguments: Any) -> Any:
        error, *results = function(*arguments)
        if int(error):
            raise CudaError(f"{function.__name__}: {self._named(error)}")
        return results[0] if results else None

    def _named(self, error: Any) -> str:
        if isinstance(error, self._driver.CUresult):
            words = self._driver.cuGetErrorName(error), self._driver.cuGetErrorString(error)
        else:
            words = self._runtime.cudaGetErrorName(error), self._runtime.cudaGetErrorString(error)
        return ": ".join(text.decode() for _, text in words if text) or f"error {int(error)}"
