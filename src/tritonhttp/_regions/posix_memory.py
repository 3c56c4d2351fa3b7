"""Shared memory objects of POSIX: created, opened, mapped, unlinked.

An object stays mapped while anything refers to :attr:`Memory.map`, such as an array over it, even after its name
was unlinked. The caller has to unlink what it creates. Errors are the system's own, as OSError.

`multiprocessing.shared_memory` is not used: before Python 3.13 its resource tracker unlinks objects that a process
has only opened, and warns at exit.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from importlib import import_module
from typing import Any

try:
    _posixshmem: Any = import_module("_posixshmem")  # type checkers have no stub of it
except ImportError:  # Windows, and interpreters built without it
    _posixshmem = None

__all__ = ["Memory", "attach", "create", "object_name", "unlink"]

#: Where Linux shows memory objects as files, for interpreters without `_posixshmem`.
_FOLDER = "/dev/shm"
#: Seconds to wait for another process that has created an object, but not yet given it a size.
_SIZING = 1.0

Identity = tuple[str, int, int]


class Memory:
    """One mapping of a memory object, with the attributes that programs for the reference read.

    ``identity`` tells an object from a later one of the same name.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self.size = os.fstat(descriptor).st_size
        self.identity = _identity(name, descriptor)
        self.map = mmap.mmap(descriptor, self.size)

    @property
    def buf(self) -> memoryview:
        """The whole memory."""
        return memoryview(self.map)


def object_name(key: str) -> str:
    """Return the system's name for a key: with one slash, in front."""
    # The C library drops leading slashes on Linux, but not everywhere. The other rules are the C library's too;
    # without `_posixshmem` they keep a key inside the folder.
    bare = key.lstrip("/")
    if not bare or bare in (".", "..") or "/" in bare or "\0" in bare:
        raise OSError(errno.EINVAL, "a key is a file name, which a slash may stand before")
    return f"/{bare}"


def create(name: str, byte_size: int) -> Memory:
    """Create an object that only its user may open, and map it."""
    descriptor = _open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        # The size first: another process may have opened the object, and wait for its size.
        os.ftruncate(descriptor, byte_size)
        _allocate(descriptor, byte_size)
        return Memory(descriptor, name)
    except BaseException:
        _unlink(name)
        raise
    finally:
        os.close(descriptor)


def attach(name: str) -> Memory:
    """Map an existing object."""
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
    """Remove the name if it still belongs to that object."""
    name = identity[0]
    with contextlib.suppress(FileNotFoundError):
        descriptor = _open(name, os.O_RDONLY)
        try:
            if _identity(name, descriptor) == identity:
                _unlink(name)
        finally:
            os.close(descriptor)


def _identity(name: str, descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return name, status.st_dev, status.st_ino


def _allocate(descriptor: int, byte_size: int) -> None:
    # Otherwise a full /dev/shm (64 MB by default in a container) shows as a SIGBUS at the first write to a page.
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
