"""The regions of one client's transparent path: made when needed, reused when nothing looks at them any more."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections import deque
from typing import Any

from .. import memory
from . import names

__all__ = ["Block", "Lease", "Pool"]

#: A request for less takes a block of this size, in bytes.
_SMALLEST = 1 << 16
#: How long a block may be idle before the server shall forget it, in seconds.
_MAX_IDLE = 60.0


class Block:
    """One region.

    Attributes
    ----------
    name : str
        The name under which the server knows it; with a slash in front its key.
    byte_size : int
    registered : bool
        Whether the server has it.
    spent : bool
        Whether it must not be used again: a request that was given up may still use it, or a forked child see it.
    generation : int
        How often the server had forgotten its regions before.
    idle_since : float
        When it was used last, on the monotonic clock.
    window : type
        The ctypes array over all of it, which ctypes itself would make anew every now and then.
    """

    __slots__ = (
        "__weakref__",
        "byte_size",
        "generation",
        "idle_since",
        "mapped",
        "name",
        "registered",
        "spent",
        "unlink",
        "window",
    )

    def __init__(self, byte_size: int, generation: int) -> None:
        self.generation = generation
        self.name = names.claim(self)
        self.mapped = memory.create(f"/{self.name}", byte_size)
        #: Removes the key, once, at the latest with the block; whoever has mapped the region keeps it.
        self.unlink = weakref.finalize(self, _unlink, self.mapped.identity, os.getpid())
        self.byte_size = byte_size
        self.window = ctypes.c_char * byte_size
        self.registered = False
        self.spent = False
        self.idle_since = 0.0


class Lease:
    """A block while it is used.

    It goes back to the pool when nothing refers to `buffer` any more; every array over it does.
    """

    __slots__ = ("block", "buffer")

    def __init__(self, block: Block) -> None:
        self.block = block
        # Not an ndarray, which numpy would leave out of the chain from a view to its memory.
        self.buffer: Any = block.window.from_buffer(block.mapped.map)


class Pool:
    """Blocks of at most `limit` bytes together; safe to share between threads.

    Parameters
    ----------
    limit : int
        In bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: The bytes of all blocks that this process or the server has.
        self.taken = 0
        self._lock = threading.Lock()
        self._idle: list[Block] = []  # the one used last at the end
        self._leased: dict[int, tuple[weakref.ref[Any], Block]] = {}
        # Filled by whatever thread lets the last array go, also within this class: no lock may be taken there.
        self._returned: deque[weakref.ref[Any]] = deque()
        self._doomed: list[Block] = []
        self._generation = 0
        self._closed = False

    def take(self, byte_size: int) -> Lease | None:
        """Return a block of at least that size, or None where the limit or the machine has no room for it.

        There may be room once the server has forgotten what is `doomed`.
        """
        with self._lock:
            self._collect()
            fit, most = None, 2 * byte_size + _SMALLEST
            for block in reversed(self._idle):
                if byte_size <= block.byte_size <= most:
                    fit, most = block, block.byte_size - 1
            if fit is not None:
                self._idle.remove(fit)
                return self._lease(fit)
            size = _rounded(byte_size)
            missing = self.taken + size - self.limit
            if self._closed or missing > sum(block.byte_size for block in (*self._idle, *self._doomed)):
                return None
            if missing > 0:
                missing -= sum(block.byte_size for block in self._doomed)
                while missing > 0:
                    missing -= self._idle[0].byte_size
                    self._doom(self._idle.pop(0))
                return None  # for now: the server has them
            self.taken += size
        try:
            if not _has_room(size):
                raise MemoryError
            block = Block(size, self._generation)
        except (OSError, MemoryError):
            with self._lock:
                self.taken -= size
            return None
        with self._lock:
            return self._lease(block)

    def collect(self) -> None:
        """Let go of what came back and is of no more use."""
        if self._returned:
            with self._lock:
                self._collect()

    @property
    def has_doomed(self) -> bool:
        """Whether there would be more room if the server forgot what it shall forget."""
        return bool(self._doomed)

    def doomed(self) -> list[Block]:
        """Hand out the blocks that the server shall forget; they count until :meth:`settle`."""
        with self._lock:
            self._collect()
            doomed, self._doomed = self._doomed, []
        return doomed

    def settle(self, doomed: list[Block], left: list[Block]) -> None:
        """Take back what `doomed` handed out: some the server still has, the others are gone."""
        with self._lock:
            self.taken -= sum(block.byte_size for block in doomed) - sum(block.byte_size for block in left)
            self._doomed += left

    def forget(self, generation: int) -> None:
        """Use none of the blocks again that are as old as that: the server has forgotten them."""
        with self._lock:
            if generation == self._generation:
                self._generation += 1
                for block in self._idle:
                    self._doom(block)
                self._idle.clear()

    def retire_leased(self) -> None:
        """Use none of the blocks again that are leased now."""
        for _, block in list(self._leased.values()):
            block.spent = True

    def close(self) -> list[Block]:
        """Lease no block from now on, and return all that the server may know."""
        with self._lock:
            self._closed = True
            self._collect()
            blocks = [*self._idle, *self._doomed, *(block for _, block in self._leased.values())]
            self._idle.clear()
            self._doomed.clear()
            self._leased.clear()
        return [block for block in blocks if block.registered]

    def _lease(self, block: Block) -> Lease:
        lease = Lease(block)
        watch = weakref.ref(lease.buffer, self._returned.append)
        self._leased[id(watch)] = watch, block
        return lease

    def _collect(self) -> None:
        now = time.monotonic()
        while self._returned:
            found = self._leased.pop(id(self._returned.popleft()), None)
            if found is None:
                continue
            block = found[1]
            if block.spent or block.generation < self._generation or not block.registered:
                self._doom(block)
            else:
                block.idle_since = now
                self._idle.append(block)
        while self._idle and now - self._idle[0].idle_since > _MAX_IDLE:
            self._doom(self._idle.pop(0))

    def _doom(self, block: Block) -> None:
        if block.registered:
            self._doomed.append(block)
        else:
            self.taken -= block.byte_size


def _unlink(identity: memory.Identity, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        memory.unlink(identity)


def _rounded(byte_size: int) -> int:
    """Return a size that others have too: at most an eighth more, whole pages."""
    step = max(1 << max(byte_size.bit_length() - 4, 0), _SMALLEST)
    return -(-byte_size // step) * step


def _has_room(byte_size: int) -> bool:
    """Return whether as much is left behind for others: Triton's own backends live on the same file system."""
    try:
        status = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return True
    return byte_size * 2 <= status.f_bavail * status.f_frsize
