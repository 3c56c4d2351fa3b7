"""CUDA, as far as regions need it: a few calls of the runtime on the primary context of a device.

The bindings are those of `cuda-bindings` (installed by `cuda-python`), loaded when first used. Copies are put into
the legacy default stream, which waits for, and is waited for by, all streams but those made non-blocking.
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
    """What is missing, or the name and the text of CUDA's error and the call that returned it."""


@cache
def load() -> Cuda:
    """Return CUDA, initialised.

    Raises
    ------
    CudaError
        Without the bindings, a driver or a GPU.
    """
    return Cuda(*_bindings())


def _bindings() -> tuple[Any, Any]:
    try:
        try:
            return import_module("cuda.bindings.runtime"), import_module("cuda.bindings.driver")
        except ImportError:
            return import_module("cuda.cudart"), import_module("cuda.cuda")  # before cuda-python 12.6
    except ImportError as error:
        raise CudaError(
            f"CUDA shared memory needs the package cuda-bindings: pip install 'tritonhttp[cuda]' ({error})"
        ) from error


class Cuda:
    """The calls themselves. Addresses and sizes are ints, of bytes; all raise :class:`CudaError`."""

    def __init__(self, runtime: Any, driver: Any) -> None:
        self._runtime = runtime
        self._driver = driver
        self._contexts: dict[int, Any] = {}
        self._process = os.getpid()
        try:
            # The runtime would call a driver that is not there one that is too old.
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
        """Carry out the calls inside on that device, and leave the thread's current one as it was."""
        if os.getpid() != self._process:
            raise CudaError("CUDA can't be used in a process forked after its first use; spawn it instead")
        # A pushed context and not cudaSetDevice: setting back a device that was the current one only by default
        # would make a context there, of hundreds of megabytes.
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
        """Return the address of new memory on the current device."""
        return int(self._call(self._runtime.cudaMalloc, byte_size))

    def free(self, address: int) -> None:
        """Give memory back, when the device has done its work."""
        self._call(self._runtime.cudaFree, address)

    def ipc_handle(self, address: int) -> bytes:
        """Return what other processes open the memory at that address by."""
        handle = self._call(self._runtime.cudaIpcGetMemHandle, address)
        return ctypes.string_at(handle.getPtr(), _IPC_HANDLE_SIZE)

    def copy(self, destination: int, source: int, byte_size: int) -> None:
        """Put a copy into the current device's stream; either address may be the host's or any device's."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call(self._runtime.cudaMemcpyAsync, destination, source, byte_size, kind, LEGACY_STREAM)

    def synchronize(self) -> None:
        """Wait until the copies are done."""
        self._call(self._runtime.cudaStreamSynchronize, LEGACY_STREAM)

    def synchronize_device(self) -> None:
        """Wait until the current device has done all its work, in whatever stream."""
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
