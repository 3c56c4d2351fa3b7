"""The regions of one client's transparent path: made when needed, reused when nothing looks at them any more."""

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
        Whether it must not be used again, since a request may still use it. It is set before a request goes out,
        and cleared when the server is done with it: whatever comes in between leaves it set.
    inherited : bool
        Whether a forked child may see it, so that it must not be used again either.
    generation : int
        How often the server had forgotten its regions before.
    idle_since : float
        When it was used last, on the monotonic clock.
    window : type
        The ctypes array over all of it, which ctypes itself would make anew every now and then.
    teller : weakref to the list, or None
        The list of :meth:`BlockPool.doomed` that it was handed out in.
    """

    __slots__ = (
        "__weakref__",
        "byte_size",
        "generation",
        "idle_since",
        "inherited",
        "mapped",
        "name",
        "registered",
        "spent",
        "teller",
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
        self.inherited = False
        self.idle_since = 0.0
        self.teller: weakref.ref[Handed] | None = None


class Lease:
    """A block while it is used.

    It goes back to the pool when nothing refers to `buffer` any more; every array over it does.
    """

    __slots__ = ("block", "buffer")

    def __init__(self, block: Block) -> None:
        self.block = block
        # Not an ndarray, which numpy would leave out of the chain from a view to its memory.
        self.buffer: Any = block.window.from_buffer(block.mapped.map)


class Watch(weakref.ref[Any]):
    """Looks after the buffer of a lease."""

    __slots__ = ("block",)

    block: Block


class Handed(list[Block]):
    """Blocks that somebody has the server forget. They are its own for as long as the list lives."""

    __slots__ = ("__weakref__",)


class _Reservation:
    """Bytes that a block under way will take. They count for as long as this lives."""

    __slots__ = ("__weakref__", "byte_size")

    def __init__(self, byte_size: int) -> None:
        self.byte_size = byte_size


class BlockPool:
    """Blocks of at most `limit` bytes together; safe to share between threads.

    An exception may come at every step (a signal, a thread that is told to end), and a signal handler may use the
    pool in the middle of anything. So nothing is counted up and down: `_blocks` are all blocks that there are,
    what is leased is told by who looks after their buffers, and idle is what is neither leased nor doomed. Each of
    these changes in one step, and what an exception leaves in between is cleared up by the next scan.

    Parameters
    ----------
    limit : int
        In bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Reentrant: a signal handler may infer in the middle of this.
        self._lock = threading.RLock()
        self._blocks: dict[Block, None] = {}
        self._leased: dict[Block, Watch] = {}
        self._doomed: dict[Block, None] = {}
        self._reserved: set[weakref.ref[_Reservation]] = set()
        # Filled by whatever thread lets the last array go, also within this class: no lock may be taken there.
        self._returned: deque[Any] = deque()
        self._generation = 0
        self._closed = False

    @property
    def taken(self) -> int:
        """The bytes of all blocks that this process or the server has."""
        under_way = [each() for each in tuple(self._reserved)]
        return sum(each.byte_size for each in (*tuple(self._blocks), *under_way) if each is not None)

    @property
    def _idle(self) -> list[Block]:
        """The blocks that can be leased."""
        leased, doomed = self._leased, self._doomed
        return [block for block in tuple(self._blocks) if block not in leased and block not in doomed]

    def take(self, byte_size: int) -> Lease | None:
        """Return a block of at least that size, or None where the limit or the machine has no room for it.

        There may be room once the server has forgotten what is `doomed`.
        """
        with self._lock:
            self._collect()
            most = 2 * byte_size + _SMALLEST
            while fit := [block for block in self._idle if byte_size <= block.byte_size <= most]:
                best = fit[0] if len(fit) == 1 else min(fit, key=_size_and_age)
                lease = self._lease(best)
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
                return None  # for now: the server has them
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
        """Let go of what came back and is of no more use."""
        if self._returned:
            with self._lock:
                self._collect()

    @property
    def has_doomed(self) -> bool:
        """Whether there would be more room if the server forgot what it shall forget."""
        return bool(self._doomed)

    def doomed(self) -> Handed:
        """Hand out the blocks that the server shall forget; they count until :meth:`settle`.

        Nobody else is given them while the list lives.
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
        """Take back what `doomed` handed out: some the server still has, the others are gone."""
        with self._lock:
            for block in doomed:
                if block in left:
                    block.teller = None
                else:
                    # In this order: one that is not doomed, but counts, would be used again.
                    self._blocks.pop(block, None)
                    self._doomed.pop(block, None)

    def forget(self, generation: int) -> None:
        """Use none of the blocks again that are as old as that: the server has forgotten them."""
        with self._lock:
            if generation == self._generation:
                self._generation += 1
                for block in self._idle:
                    if block.generation <= generation:
                        self._doom(block)

    def retire_leased(self) -> None:
        """Use none of the blocks again that are leased now."""
        for block in tuple(self._leased):
            block.inherited = True

    def close(self) -> list[Block]:
        """Lease no block from now on, and return all that the server may know."""
        with self._lock:
            self._closed = True
            self._collect()
            blocks = tuple(self._blocks)
            self._blocks.clear()
            self._leased.clear()
            self._doomed.clear()
        return [block for block in blocks if block.registered]

    def _lease(self, block: Block) -> Lease | None:
        """Lease an idle block; None where a signal handler was faster."""
        lease = Lease(block)
        watch = Watch(lease.buffer, self._returned.append)
        watch.block = block
        return lease if self._leased.setdefault(block, watch) is watch else None

    def _collect(self) -> None:
        now = time.monotonic()
        with contextlib.suppress(IndexError):  # a signal handler was faster
            while self._returned:
                self._take_back(self._returned.popleft(), now)
        for block in self._idle:
            if block.generation < self._generation or now - block.idle_since > _MAX_IDLE:
                self._doom(block)

    def _scan(self) -> None:
        """Take back what came back and was lost on the way, by an exception in between."""
        now = time.monotonic()
        for watch in tuple(self._leased.values()):
            if watch() is None:
                self._take_back(watch, now)

    def _take_back(self, watch: Watch, now: float) -> None:
        block = getattr(watch, "block", None)
        if block is None or self._leased.get(block) is not watch:
            return  # it came to no lease, the pool was closed, or a signal handler was faster
        block.idle_since = now
        if (
            block.spent
            or block.inherited
            or block.generation < self._generation
            or not block.registered
            or block not in self._blocks
        ):
            self._doom(block)
        self._leased.pop(block, None)  # idle from now on, unless it is doomed

    def _doom(self, block: Block) -> None:
        if block.registered:
            self._doomed[block] = None
        else:
            self._blocks.pop(block, None)


def _size_and_age(block: Block) -> tuple[int, float]:
    return block.byte_size, -block.idle_since


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
