"""The regions of one client's transparent path: made when needed, reused once no array refers to them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
import weakref
from collections import deque
from typing import Any

from . import names
from . import posix_memory as memory

__all__ = ["Block", "BlockPool", "Lease"]

#: The smallest block, in bytes.
_SMALLEST = 1 << 16
#: Seconds after which the server is told to forget an idle block.
_MAX_IDLE = 60.0


class Block:
    """One region.

    Attributes
    ----------
    name : str
        The name under which the server knows it; its key is the same with a slash in front.
    byte_size : int
    registered : bool
        Whether the server has it, or may have it.
    spent : bool
        Whether a request may still use it, so that it must not be used again. It is set before a request goes out
        and cleared once the server is done with it. An interruption in between leaves it set.
    inherited : bool
        Whether a forked child may see it, so that it must not be used again either.
    generation : int
        How many times the server had forgotten its regions when the block was made.
    idle_since : float
        When it was last used, on the monotonic clock.
    window : type
        The type of a ctypes array over the whole block; the cache of ctypes would drop it now and then.
    teller : weakref to the list, or None
        The list in which :meth:`BlockPool.doomed` handed it out.
    """

    def __init__(self, byte_size: int, generation: int) -> None:
        self.generation = generation
        self.name = names.claim(self)
        self.mapped = memory.create(f"/{self.name}", byte_size)
        #: Removes the key once, at the latest when the block is freed; mappings of the region stay.
        self.unlink = weakref.finalize(self, _unlink, self.mapped.identity, os.getpid())
        self.byte_size = byte_size
        self.window = ctypes.c_char * byte_size
        self.registered = False
        self.spent = False
        self.inherited = False
        self.idle_since = 0.0
        self.teller: weakref.ref[Handed] | None = None


class Lease:
    """A block in use.

    It returns to the pool when the last reference to `buffer` is gone. Every array over the block holds one.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        # Not an ndarray: numpy would drop it from the chain between a view and its memory.
        self.buffer: Any = block.window.from_buffer(block.mapped.map)


class Watch(weakref.ref[Any]):
    """Notices when the buffer of a lease is freed."""

    block: Block


class Handed(list[Block]):
    """Blocks handed out to a caller that makes the server forget them; nobody else gets them while this lives."""


class _Reservation:
    """Bytes for a block that is being made. They count while this object lives."""

    def __init__(self, byte_size: int) -> None:
        self.byte_size = byte_size


class BlockPool:
    """Blocks of at most `limit` bytes together; safe to share between threads.

    A signal may raise an exception at any step, and its handler may use the pool in the middle of any step. So
    there are no counters: `_blocks` holds all blocks, a block is leased while the watch of its buffer is in
    `_leased`, and idle if it is neither leased nor doomed. Each of these changes in one step, and the next scan
    repairs what an exception has left in between.

    Parameters
    ----------
    limit : int
        In bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Reentrant: a signal handler may infer while its thread holds the lock.
        self._lock = threading.RLock()
        self._blocks: dict[Block, None] = {}
        self._leased: dict[Block, Watch] = {}
        self._doomed: dict[Block, None] = {}
        self._reserved: set[weakref.ref[_Reservation]] = set()
        # Any thread appends here when it frees the last array, even inside this class: so without the lock.
        self._returned: deque[Any] = deque()
        self._generation = 0
        self._closed = False

    @property
    def taken(self) -> int:
        """The bytes of all blocks that this process or the server has, and of those being made."""
        reserved = [each() for each in tuple(self._reserved)]
        return sum(each.byte_size for each in (*tuple(self._blocks), *reserved) if each is not None)

    @property
    def _idle(self) -> list[Block]:
        """The blocks that can be leased."""
        leased, doomed = self._leased, self._doomed
        return [block for block in tuple(self._blocks) if block not in leased and block not in doomed]

    def take(self, byte_size: int) -> Lease | None:
        """Return a block of at least that size, or None if the limit or the machine has no room for it.

        There may be room once the server has forgotten the `doomed` blocks.
        """
        with self._lock:
            self._collect()
            most = 2 * byte_size + _SMALLEST
            while fit := [block for block in self._idle if byte_size <= block.byte_size <= most]:
                lease = self._lease(min(fit, key=lambda block: (block.byte_size, -block.idle_since)))
                if lease is not None:
                    return lease
            self._scan()
            size = _rounded(byte_size)
            idle, doomed = self._idle, tuple(self._doomed)
            missing = self.taken + size - self.limit
            if self._closed or missing > sum(block.byte_size for block in (*idle, *doomed)):
                return None
            if missing > 0:
                missing -= sum(block.byte_size for block in doomed)
                for block in sorted(idle, key=lambda block: block.idle_since):
                    if missing <= 0:
                        break
                    missing -= block.byte_size
                    self._doom(block)
                return None  # until the server has forgotten them
            reservation = _Reservation(size)
            self._reserved.add(weakref.ref(reservation, self._reserved.discard))
        try:
            if not _has_room(size):
                return None
            block = Block(size, self._generation)
        except (OSError, MemoryError):
            return None
        with self._lock:
            if self._closed:
                return None
            lease = self._lease(block)
            self._blocks[block] = None
            del reservation
            return lease

    def collect(self) -> None:
        """Take back the blocks that were returned."""
        if self._returned:
            with self._lock:
                self._collect()

    @property
    def has_doomed(self) -> bool:
        """Whether there are blocks for the server to forget."""
        return bool(self._doomed)

    def doomed(self) -> Handed:
        """Hand out the blocks that the server is to forget; they count until :meth:`settle`.

        No other caller gets them while the list lives.
        """
        handed = Handed()
        with self._lock:
            self._collect()
            for block in tuple(self._doomed):
                if block.teller is None or block.teller() is None:
                    block.teller = weakref.ref(handed)
                    handed.append(block)
        return handed

    def settle(self, doomed: list[Block], left: list[Block]) -> None:
        """Take back what `doomed` handed out. The server still has those in `left`; the others are gone."""
        with self._lock:
            for block in doomed:
                if block in left:
                    block.teller = None
                else:
                    # In this order: a block that is in _blocks, but not doomed, would be used again.
                    self._blocks.pop(block, None)
                    self._doomed.pop(block, None)

    def forget(self, generation: int) -> None:
        """Retire the blocks of that generation and before, which the server has forgotten."""
        with self._lock:
            if generation == self._generation:
                self._generation += 1
                self._collect()

    def abandon(self) -> None:
        """Drop all blocks: the server has none of them."""
        with self._lock:
            for block in tuple(self._blocks):
                block.registered = False
            self._doomed.clear()
            self._collect()

    def retire_leased(self) -> None:
        """Do not use the blocks again that are leased now."""
        for block in tuple(self._leased):
            block.inherited = True

    def close(self) -> list[Block]:
        """Lease no more blocks, and return those that the server may know."""
        with self._lock:
            self._closed = True
            self._collect()
            blocks = tuple(self._blocks)
            self._blocks.clear()
            self._leased.clear()
            self._doomed.clear()
        return [block for block in blocks if block.registered]

    def _lease(self, block: Block) -> Lease | None:
        """Lease an idle block; return None if a signal handler was faster."""
        lease = Lease(block)
        watch = Watch(lease.buffer, self._returned.append)
        watch.block = block
        return lease if self._leased.setdefault(block, watch) is watch else None

    def _collect(self) -> None:
        """Take back the blocks that were returned, and doom those that must not be used again."""
        now = time.monotonic()
        with contextlib.suppress(IndexError):  # a signal handler was faster
            while self._returned:
                watch = self._returned.popleft()
                block = getattr(watch, "block", None)
                # Otherwise it was never leased, the pool is closed, or a signal handler was faster.
                if block is not None and self._leased.get(block) is watch:
                    block.idle_since = now
                    self._leased.pop(block, None)
        for block in self._idle:
            if (
                block.spent
                or block.inherited
                or not block.registered
                or block.generation < self._generation
                or now - block.idle_since > _MAX_IDLE
            ):
                self._doom(block)

    def _scan(self) -> None:
        """Take back returned blocks that an exception kept from `_collect`, too."""
        self._returned.extend(watch for watch in tuple(self._leased.values()) if watch() is None)
        self._collect()

    def _doom(self, block: Block) -> None:
        if block.registered:
            self._doomed[block] = None
        else:
            self._blocks.pop(block, None)


def _unlink(identity: memory.Identity, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        memory.unlink(identity)


def _rounded(byte_size: int) -> int:
    """Round a size up to one of few, so that blocks can be reused: at most an eighth more, in whole pages."""
    step = max(1 << max(byte_size.bit_length() - 4, 0), _SMALLEST)
    return -(-byte_size // step) * step


def _has_room(byte_size: int) -> bool:
    """Return whether as much again stays free: Triton's own backends use the same file system."""
    try:
        status = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return True
    return byte_size * 2 <= status.f_bavail * status.f_frsize
