"""`python -m tritonhttp.testing`: a server in the foreground."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tritonhttp
from tritonhttp.testing import TritonFailed, TritonServer, TritonUnavailable, provision

from ..clients import wait_until

COMMAND = [sys.executable, "-m", "tritonhttp.testing", "--port", "0", "--metrics-port", "0"]
FAST = "identity_int32"  # of a backend without a process of its own


@pytest.fixture(autouse=True)
def _a_server_can_run_here(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--triton-url") or os.environ.get("TRITON_URL"):
        pytest.skip("starts servers of its own")
    try:
        provision.installed()
    except TritonUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def foreground() -> Iterator[Callable[..., tuple[Any, str]]]:
    """Start the program, and return its process and what it printed once the server was ready."""
    started: list[Any] = []

    def start(*arguments: str) -> tuple[Any, str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        shown = ""
        while f" {FAST} " not in shown and (line := process.stdout.readline()):
            shown += line
        return process, shown

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refused(url: str) -> bool:
    host, _, port = url.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_runs_until_it_is_told_to_stop(foreground: Any, number: signal.Signals) -> None:
    process, shown = foreground("--models", f" {FAST}", "--", "--http-thread-count=3", "--log-verbose=0")
    found = re.search(
        r"is ready .*\n  URL +(\S+)\n  metrics +(\S+)\n  models +identity_int32 version 1$", shown
    )
    assert found, shown
    url, metrics = found.groups()
    with tritonhttp.InferenceServerClient(url) as client:
        assert client.check(FAST)
        assert [each.name for each in client.models() if each.ready] == [FAST]
    with urllib.request.urlopen(metrics) as reply:
        assert b"nv_inference_count" in reply.read()
    process.send_signal(number)
    rest, complaints = process.communicate(timeout=20)
    assert (process.returncode, rest, complaints) == (0, "Stopping Triton ...\n", "")
    assert refused(url)


def test_a_server_that_ends_by_itself_says_so(foreground: Any) -> None:
    process, _ = foreground("--models", FAST)
    (supervisor,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (server,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    os.kill(int(server), signal.SIGKILL)
    _, complaints = process.communicate(timeout=20)
    assert (process.returncode, complaints) == (1, "tritonhttp.testing: tritonserver ended by itself\n")


CANNOT_RUN = {
    "an unknown model": (["--models", f"{FAST},digit"], r"has no model 'digit'; did you mean 'digits'\?"),
    "no repository": (["--model-repository", "/no/such/folder"], "no folder '/no/such/folder' with models"),
    "a flag that Triton does not have": (
        ["--models", FAST, "--", "--no-such-flag"],
        "ended while starting: .*--no-such",
    ),
    "another machine's address": (["--host", "192.0.2.1"], "cannot listen at '192.0.2.1': Cannot assign"),
    "no port": (["--port", "65536"], "cannot listen at 127.0.0.1 port 65536: .*0-65535"),
    "one port for both": (["--port", "8123", "--metrics-port", "8123"], "need two ports, got 8123 for both"),
}


@pytest.mark.parametrize("case", CANNOT_RUN)
def test_a_server_that_cannot_run_says_why_in_one_line(case: str) -> None:
    arguments, words = CANNOT_RUN[case]
    ran = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(f"tritonhttp.testing: .*{words}.*\n", ran.stderr), ran.stderr


def test_a_machine_that_cannot_run_it_says_so_in_one_line(tmp_path: Path) -> None:
    """Also one without fcntl, as Windows."""
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import platform, sys\nsys.modules['fcntl'] = None\nplatform.machine = lambda: 'riscv64'\n"
        "from tritonhttp.cli.foreground import main\nsys.exit(main([]))\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch("tritonhttp.testing: no Triton server can run here: .*riscv64.*\n", ran.stderr)


def test_a_taken_port_is_named(start_server: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in ({"http_port": port}, {"metrics_port": port}):
            with pytest.raises(
                TritonFailed, match=f"cannot listen at 127.0.0.1 port {port}: Address already in"
            ):
                start_server(models=[FAST], **options)


def test_ports_and_host_are_those_that_are_given(start_server: Any) -> None:
    first = start_server(models=[FAST])
    ports = [
        int(first.url.rpartition(":")[2]),
        int(first.metrics_url.rpartition(":")[2].removesuffix("/metrics")),
    ]
    first.kill()
    server = start_server(models=[FAST], http_port=ports[1], metrics_port=ports[0], host="0.0.0.0")
    assert server.url == f"127.0.0.1:{ports[1]}"
    assert server.metrics_url == f"http://127.0.0.1:{ports[0]}/metrics"
    with tritonhttp.InferenceServerClient(server.url) as client:
        assert client.is_server_ready()
    server.restart()
    assert server.url == f"127.0.0.1:{ports[1]}"
    assert TritonServer(host="localhost").running is False


def test_ctrl_c_while_it_starts_leaves_nothing() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--models", "add_sub"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def supervisors() -> list[str]:
        pids = children.read_text().split()
        return [pid for pid in pids if b"_supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    wait_until(lambda: supervisors() != [])
    (supervisor,) = supervisors()
    process.send_signal(signal.SIGINT)
    shown, complaints = process.communicate(timeout=20)
    assert (process.returncode, shown, complaints) == (0, b"Stopping Triton ...\n", b"")
    wait_until(
        lambda: not lives(supervisor)
    )  # where the signal came at the very start it ends with the pipe to it
