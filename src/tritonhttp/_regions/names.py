"""Names of regions: unguessable, and each tells which process owns it.

A name holds the kernel's boot id, the pid namespace, the pid and its start time. So a process on the same machine
can tell whether the owner has ended, even if its pid was reused.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["claim", "is_left_behind", "remove_files"]

PREFIX = "tritonhttp-region-"
_UNKNOWN = "0"

#: Owner of each region name in this process. A name of this process without an owner was left behind.
_holders: WeakValueDictionary[str, Any] = WeakValueDictionary()


def claim(holder: Any) -> str:
    """Return a new name, in use while `holder` lives."""
    pid = os.getpid()
    name = f"{PREFIX}{_machine(pid)}-{pid}-{_start_time(pid)}-{secrets.token_hex(8)}"
    _holders[name] = holder
    return name


def is_left_behind(name: str) -> bool:
    """Return whether a name is this library's and its owner has provably ended."""
    if not name.startswith(PREFIX):
        return False
    machine, _, rest = name[len(PREFIX) :].rpartition("-")[0].partition("-")
    pid, _, started = rest.partition("-")
    if machine != _machine(os.getpid()) or _UNKNOWN in (machine, started) or not pid.isdecimal():
        return False  # another machine or pid namespace, or nothing is known about the owner
    if (int(pid), started) == (os.getpid(), _start_time(os.getpid())):
        return name not in _holders
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return _start_time(int(pid)) not in (started, _UNKNOWN)


def remove_files() -> None:
    """Remove memory objects whose owners ended before the server had mapped them."""
    with contextlib.suppress(OSError):
        for name in filter(is_left_behind, os.listdir("/dev/shm")):
            with contextlib.suppress(OSError):  # another user's, or another process was faster
                os.unlink(f"/dev/shm/{name}")


@lru_cache(maxsize=1)
def _machine(pid: int) -> str:
    """Return an id shared by the processes that see each other's pids."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().replace("-", "").strip()
        namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return _UNKNOWN
    return f"{boot[:16]}.{namespace:x}"


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since the boot; "ended" for a zombie, "0" if unknown."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return _UNKNOWN
    return fields[19] if fields[0] not in ("Z", "X") else "ended"
