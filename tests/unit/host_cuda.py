"""The host's memory in place of a GPU's, with exactly the calls of `_cuda.Cuda`."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from tritonhttp.utils.cuda_shared_memory._cuda import CudaError


class HostCuda:
    """Devices that share the host's memory; copies are carried out when they are waited for."""

    def __init__(self, devices: int = 2, room: int = 1 << 24) -> None:
        self.devices = devices
        self.room = room
        self.stack: list[int] = []
        self.blocks: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.queued: list[tuple[int, int, int, int]] = []
        self.log: list[tuple[object, ...]] = []
        self.fail: dict[str, str] = {}

    def note(self, call: str, *arguments: object) -> None:
        self.log.append((call, *self.stack[-1:], *arguments))
        if call in self.fail:
            raise CudaError(self.fail[call])

    @property
    def used(self) -> int:
        return sum(len(block) for block in self.blocks.values())

    def device_count(self) -> int:
        return self.devices

    @contextlib.contextmanager
    def device(self, device_id: int) -> Iterator[None]:
        assert 0 <= device_id < self.devices
        self.stack.append(device_id)
        try:
            yield
        finally:
            self.stack.pop()

    def allocate(self, byte_size: int) -> int:
        self.note("allocate", byte_size)
        if self.used + byte_size > self.room:
            raise CudaError("cudaMalloc: cudaErrorMemoryAllocation: out of memory")
        block = ctypes.create_string_buffer(b"\xee" * byte_size, byte_size)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, address: int) -> None:
        self.note("free")
        del self.blocks[address]

    def ipc_handle(self, address: int) -> bytes:
        self.note("ipc_handle")
        return address.to_bytes(64, "little")

    def copy(self, destination: int, source: int, byte_size: int) -> None:
        self.note("copy", byte_size)
        self.queued.append((self.stack[-1], destination, source, byte_size))

    def synchronize(self) -> None:
        self.note("synchronize")
        mine = [each for each in self.queued if each[0] == self.stack[-1]]
        self.queued = [each for each in self.queued if each not in mine]
        for _, destination, source, byte_size in mine:
            ctypes.memmove(destination, source, byte_size)

    def synchronize_device(self) -> None:
        self.note("synchronize_device")
        self.synchronize()
