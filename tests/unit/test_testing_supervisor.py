"""The supervisor process on its own, with a small script in the server's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tritonhttp.testing import _supervisor, provision

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server and its supervisor are for Linux")

# It notes the order to end, has a child in a session of its own, and makes the folder the Python backend makes.
SERVER = """
import os, signal, subprocess, sys, tempfile, time
signal.signal(signal.SIGTERM, lambda *_: (print("ordered", flush=True), {on_term}))
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
folder = tempfile.mkdtemp(prefix="python_env_", dir="/tmp")
print("started", child.pid, folder, flush=True)
time.sleep(60)
"""


class Supervised:
    def __init__(self, folder: Path, on_term: str = "sys.exit(0)", grace: float = 10, owner: int = 0) -> None:
        self.prefix = f"tritonhttp-test-{uuid.uuid4().hex}-"
        self.log = folder / "log"
        cache = provision.cache_folder()  # real servers may start meanwhile
        cache.mkdir(parents=True, exist_ok=True)
        order = {
            "argv": [sys.executable, "-c", SERVER.format(on_term=on_term)],
            "env": dict(os.environ),
            "cache": str(cache),
            "prefix": self.prefix,
            "owner": owner or os.getpid(),
            "grace": grace,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", _supervisor.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(order)}\n".encode())
        self.process.stdin.flush()
        self.shared = Path("/dev/shm") / f"{self.prefix}region"
        self.shared.touch()

    def wait_for_start(self) -> None:
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline())
        deadline = time.monotonic() + 10
        while "started" not in self.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        _, child, folder = self.log.read_text().split()
        self.child, self.folder = int(child), Path(folder)
        # The supervisor has found the folder, and tells it to its owner.
        assert self.process.stdout.readline().decode() == f"{self.folder}\n"
        assert alive(self.child)
        assert self.folder.is_dir()

    def finish(self) -> None:
        """Close the pipe and wait."""
        self.process.communicate(timeout=10)
        assert self.process.returncode == 0, self.log.read_text()
        assert not alive(self.pid)
        assert not alive(self.child)
        assert not self.folder.exists()
        assert not self.shared.exists()


@pytest.fixture
def supervise(tmp_path):
    started = []

    def start(**options) -> Supervised:
        started.append(Supervised(tmp_path, **options))
        return started[-1]

    yield start
    for supervised in started:
        supervised.process.kill()
        supervised.process.communicate()
        supervised.shared.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_end_of_the_pipe_ends_the_server_at_once(supervise):
    supervised = supervise()
    supervised.wait_for_start()
    started = time.monotonic()
    supervised.finish()
    assert time.monotonic() - started < 8
    assert "ordered" not in supervised.log.read_text()


def test_stop_shuts_the_server_down_in_order(supervise):
    supervised = supervise()
    supervised.wait_for_start()
    supervised.process.stdin.write(b"stop")
    supervised.process.stdin.flush()
    supervised.process.wait(10)
    assert "ordered" in supervised.log.read_text()
    supervised.finish()


def test_stop_is_not_waited_for_too_long(supervise):
    supervised = supervise(on_term="None", grace=0.3)
    supervised.wait_for_start()
    started = time.monotonic()
    supervised.process.stdin.write(b"stop")
    supervised.process.stdin.flush()
    supervised.process.wait(10)
    assert 0.3 <= time.monotonic() - started < 8
    supervised.finish()


def test_a_dead_server_ends_its_supervisor(supervise):
    supervised = supervise()
    supervised.wait_for_start()
    os.kill(supervised.pid, signal.SIGKILL)
    supervised.process.wait(10)  # with the pipe still open
    supervised.finish()


def test_a_dead_owner_ends_the_server_though_the_pipe_is_open(tmp_path, supervise):
    """As when a forked child of the owner holds the pipe: the parent is another process than the owner."""
    supervised = supervise(owner=os.getppid())
    supervised.process.wait(10)
    assert not supervised.shared.exists()


def test_an_owner_that_ends_before_it_has_given_its_order_leaves_nothing():
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", _supervisor.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = process.communicate(b'{"argv": ["true"]', timeout=10)
    assert (process.returncode, out) == (1, b"")


def test_only_files_with_the_prefix_are_removed(tmp_path):
    prefix = f"tritonhttp-test-{uuid.uuid4().hex}-"
    kept = Path("/dev/shm") / f"other-{prefix}"
    gone = Path("/dev/shm") / f"{prefix}region"
    kept.touch()
    gone.touch()
    try:
        _supervisor.remove_shared_memory(prefix)
        assert kept.exists()
        assert not gone.exists()
    finally:
        kept.unlink()
        gone.unlink(missing_ok=True)
