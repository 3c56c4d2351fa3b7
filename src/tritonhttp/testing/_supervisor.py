"""Run one server and end it with its owner; executed as a script, with the standard library only.

The owner holds the write end of the pipe that is this process's standard input. ``stop`` in that pipe ends the
server in order; the pipe's end, or the owner's death, ends it at once. Either way this process leaves only when
every descendant of the server is gone and its shared memory files are deleted.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

# A forked child of the owner may hold the pipe open after the owner's death, so this process also looks, this
# often (in seconds), whether the owner is still its parent.
_LOOK = 0.25
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def remove_shared_memory(prefix: str) -> None:
    """Delete the shared memory files that a server's Python backend left."""
    for path in Path("/dev/shm").glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _supervise(argv: list[str], env: dict[str, str], prefix: str, owner: int, grace: float) -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # The stubs of the Python backend become children of this process when the server dies before them.
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def die_with_supervisor() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    child_ended = _wake_on_child()
    server = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=die_with_supervisor,
    )
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{server.pid}\n".encode())
    kill_at = float("inf")
    while os.getppid() == owner and time.monotonic() < kill_at and not _exited(server.pid):
        readable, _, _ = select.select([0, child_ended], [], [], _LOOK)
        if child_ended in readable:
            os.read(child_ended, 64)
        if 0 in readable:
            if not os.read(0, 64):
                break
            server.terminate()
            kill_at = time.monotonic() + grace
    # Before the server is reaped, so that the group's number cannot have gone to anybody else.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    remove_shared_memory(prefix)


def _wake_on_child() -> int:
    """Return a file descriptor that becomes readable when a child ends."""
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return receiver


def _exited(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


if __name__ == "__main__":
    _supervise(**json.loads(sys.argv[1]))
