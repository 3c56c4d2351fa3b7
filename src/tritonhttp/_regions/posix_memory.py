"""Shared memory objects of POSIX: created, opened, mapped, unlinked.

An object stays mapped for as long as anything refers to :attr:`Memory.map`: an array over it is enough, whatever
became of its name. Nothing here is undone by itself; errors are the system's own, as OSError.

This does without `multiprocessing.shared_memory`, whose resource tracker unlinks, before Python 3.13, objects
that a process had only opened, and complains at exit.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from importlib import import_module
from typing import Any

_posixshmem: Any  # as a name rather than an import, since type checkers have no stub of it
try:
    _posixshmem = import_module("_posixshmem")
except ImportError:  # Windows, and interpreters built without it
    _posixshmem = None

__all__ = ["Memory", "attach", "create", "object_name", "unlink"]

#: Where Linux shows its memory objects as files; the way in without `_posixshmem`.
_FOLDER = "/dev/shm"
#: Seconds that a creator in another process has between making an object and giving it a size.
_SIZING = 1.0

Identity = tuple[str, int, int]


class Memory:
    """One mapping of a memory object, with what programs for the reference read from its counterpart.

    ``identity`` tells two objects apart that had the same name one after the other.
    """

    __slots__ = ("identity", "map", "name", "size")

    def __init__(self, descriptor: int, name: str) -> None:
        status = os.fstat(descriptor)
        self.name = name
        self.size = status.st_size
        self.identity = _identity(name, status)
        self.map = mmap.mmap(descriptor, self.size)

    @property
    def buf(self) -> memoryview:
        """The whole memory."""
        return memoryview(self.map)


def object_name(key: str) -> str:
    """Return the name that the system knows the key by: one slash and then none."""
    # The C library drops slashes in front on Linux, but not everywhere. The other rules are its own too; without
    # them a key could leave the folder where there is no `_posixshmem`.
    bare = key.lstrip("/")
    if not bare or bare in (".", "..") or "/" in bare or "\0" in bare:
        raise OSError(errno.EINVAL, "a key is a file name, which a slash may stand before")
    return f"/{bare}"


def create(name: str, byte_size: int) -> Memory:
    """Make a new object, which only its user may open, and map it."""
    descriptor = _open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        try:
            # The size first: others may open the object by now, and wait for it.
            os.ftruncate(descriptor, byte_size)
            _allocate(descriptor, byte_size)
            return Memory(descriptor, name)
        except BaseException:
            _unlink(name)
            raise
    finally:
        os.close(descriptor)


def attach(name: str) -> Memory:
    """Map an object that is there already."""
    descriptor = _open(name, os.O_RDWR)
    try:
        deadline = time.monotonic() + _SIZING
        while os.fstat(descriptor).st_size == 0:
            if time.monotonic() > deadline:
                raise OSError(errno.EINVAL, "the memory object of that key has no bytes")
            time.sleep(0.001)
        return Memory(descriptor, name)
    finally:
        os.close(descriptor)


def unlink(identity: Identity) -> None:
    """Remove the name, if it still leads to that very object."""
    name = identity[0]
    try:
        descriptor = _open(name, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if _identity(name, os.fstat(descriptor)) == identity:
            _unlink(name)
    except FileNotFoundError:
        pass
    finally:
        os.close(descriptor)


def _identity(name: str, status: os.stat_result) -> Identity:
    return name, status.st_dev, status.st_ino


def _allocate(descriptor: int, byte_size: int) -> None:
    # Without this a full /dev/shm (64 MB in a container, if nobody asked for more) shows when a page is first
    # written, and then as a SIGBUS.
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, byte_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise


def _open(name: str, flags: int) -> int:
    if _posixshmem is not None:
        descriptor: int = _posixshmem.shm_open(name, flags, mode=0o600)
        return descriptor
    return os.open(_path(name), flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _unlink(name: str) -> None:
    if _posixshmem is not None:
        _posixshmem.shm_unlink(name)
    else:
        os.unlink(_path(name))


def _path(name: str) -> str:
    if not os.path.isdir(_FOLDER):
        raise OSError(errno.ENOSYS, "system shared memory needs POSIX, which this platform does not offer")
    return _FOLDER + name
