"""The environment that ``make integration`` makes, and services that run in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tritonhttp

EXAMPLES = Path(__file__).parents[2] / "examples"
#: The longest time, in seconds, for anything that should be over at once.
PATIENCE = 20


@pytest.fixture(scope="session")
def python() -> str:
    """Return the interpreter of the environment that has the frameworks; without it, skip."""
    python = os.environ.get("INTEGRATION_PYTHON")
    if not python or not shutil.which(python):
        pytest.skip("needs INTEGRATION_PYTHON, an interpreter with FastAPI and torch: run `make integration`")
    return str(Path(python).absolute())


@pytest.fixture(scope="session")
def digits() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return images of digits, and the digits."""
    with np.load(Path(tritonhttp.__file__).parent / "testing" / "data" / "digits.npz") as data:
        return data["images"].astype(np.float32) / 16, data["labels"]


@pytest.fixture
def found(triton_client: tritonhttp.InferenceServerClient, digits: Any) -> npt.NDArray[Any]:
    """Return what a plain call finds in each image."""
    images, labels = digits
    found = []
    for part in np.split(images, 8):
        image = tritonhttp.InferInput.from_numpy("IMAGE", part)
        found.append(triton_client.infer("digits", [image]).as_numpy("SCORES").argmax(axis=1))
    assert (np.concatenate(found) == labels).mean() > 0.97
    return np.concatenate(found)


@dataclass
class Service:
    """A service that runs in a process of its own."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def send(self, path: str, body: Any = None) -> socket.socket:
        """Send a request, and return its connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n"
        )
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        return connection

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        with self.send(path, body) as connection, connection.makefile("rb") as file:
            status = int(file.readline().split()[1])
            while file.readline().strip():
                pass
            return status, json.loads(file.read())

    def stop(self) -> None:
        """Ask the service to end; kill it if it does not."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def established(port: int) -> dict[str, set[int]]:
    """Return the processes that hold each connection of this machine to a port, by the connection's inode."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *rest = line.split()
        if state == "01" and int(remote.rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{rest[5]}]")
    holders: dict[str, set[int]] = defaultdict(set)
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target in inodes:
            holders[target].add(int(descriptor.parts[2]))
    return holders


@pytest.fixture(scope="module")
def serve(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Start services of ``examples/``, each with a listening socket; in the end no log may show a traceback."""
    services: list[Service] = []
    folder = tmp_path_factory.mktemp("services")

    def serve(url: str, *command: str) -> Service:
        log = folder / f"log{len(services)}"
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, log.open("wb") as output:
            fd = listener.fileno()
            process = subprocess.Popen(
                [python, "-m", *(part.format(fd=fd) for part in command)],
                cwd=EXAMPLES,
                env={**os.environ, "TRITON_URL": url, "HOME": str(folder)},  # gunicorn writes to it
                pass_fds=[fd],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            services.append(Service(listener.getsockname()[1], process, log))
        return services[-1]

    yield serve
    for service in services:
        service.stop()
    for service in services:
        log = service.log.read_text()
        assert "Traceback" not in log, log
        assert "never retrieved" not in log, log
