"""Run one server and end it with its owner; executed as a script, with the standard library only.

This process's standard input is a pipe, whose write end the owner holds. Its first line is the order. ``stop`` in
the pipe shuts the server down in order; the pipe's end, or the owner's death, kills it. Either way this process
exits only when every descendant of the server is gone, and its files in ``/dev/shm`` and ``/tmp`` are deleted.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# Seconds between checks whether the owner is still this process's parent: a forked child of the owner may hold
# the pipe open after the owner's death.
_LOOK = 0.25
# The Python backend makes this folder in /tmp at its start, whatever TMPDIR says. A killed one leaves it there.
_SCRATCH = "python_env_*"
# It appears 0.2 s after the start; a server without a Python model makes none.
_SCRATCH_WAIT = 2.0
_OVERRIDE = re.compile(r"/tmp/folder\w{6}(?=/)")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def remove_shared_memory(prefix: str) -> None:
    """Delete the shared memory files that a server's Python backend left."""
    for path in Path("/dev/shm").glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _tell(line: object) -> None:
    """Tell the owner the pid of the server, then its folder, which the owner deletes if this process is killed."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


class _Scratch:
    """Find the server's folder in ``/tmp``: under the lock no other server starts, so the new folder is ours."""

    def __init__(self, cache: str) -> None:
        self._lock: int | None = os.open(cache, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._before = set(Path("/tmp").glob(_SCRATCH))
        self._until = time.monotonic() + _SCRATCH_WAIT
        self._folder: Path | None = None

    def search(self) -> bool:
        """Look for the folder; return False once it is found or the search is over."""
        if self._lock is None:
            return False
        found = [path for path in Path("/tmp").glob(_SCRATCH) if path not in self._before and _is_ours(path)]
        if found or time.monotonic() > self._until:
            if len(found) == 1:
                self._folder = found[0]
                _tell(found[0])
            os.close(self._lock)
            self._lock = None
        return self._lock is not None

    def remove(self) -> None:
        self.search()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_uid == os.getuid()
    return False


def _supervise(
    *, argv: list[str], env: dict[str, str], cache: str, prefix: str, owner: int, grace: float
) -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # The stubs of the Python backend become children of this process when the server dies before them.
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    child_ended = _wake_on_child()
    scratch = _Scratch(cache)
    server = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        # It dies with this process.
        preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    _tell(server.pid)
    ended = (os.P_PID, server.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    kill_at = float("inf")
    while os.getppid() == owner and time.monotonic() < kill_at and not os.waitid(*ended):
        readable, _, _ = select.select([0, child_ended], [], [], 0.01 if scratch.search() else _LOOK)
        if child_ended in readable:
            os.read(child_ended, 64)
        if 0 in readable:
            if not os.read(0, 64):
                break
            server.terminate()
            kill_at = time.monotonic() + grace
    overrides = _override_folders(server.pid)
    # Before the server is reaped: afterwards the group's number could belong to another process.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    _end_children()
    remove_shared_memory(prefix)
    scratch.remove()
    for folder in overrides:
        shutil.rmtree(folder, ignore_errors=True)


def _end_children() -> None:
    """Kill all children of this process, adopted ones too, and return when none is left."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(ChildProcessError):
        while True:
            # A model may have started a process in a group of its own.
            with contextlib.suppress(OSError):
                for pid in listed.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            os.wait()


def _override_folders(group: int) -> set[str]:
    """Return the folders of models that were sent as files: the server leaves them, even in an orderly stop.

    A model's process has the path of its model as an argument.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(process.name)) == group:
                for argument in process.joinpath("cmdline").read_bytes().split(b"\0"):
                    if match := _OVERRIDE.match(os.fsdecode(argument)):
                        found.add(match[0])
    return found


def _wake_on_child() -> int:
    """Return a file descriptor that becomes readable when a child ends."""
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return receiver


def _order() -> bytes:
    """Return the owner's order. It is no argument, because all users could read the environment in it."""
    order = b""
    while not order.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            raise SystemExit(1)  # the owner has ended
        order += piece
    return order


if __name__ == "__main__":
    _supervise(**json.loads(_order()))
