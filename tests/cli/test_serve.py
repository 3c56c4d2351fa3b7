"""`tritonhttp serve`: a real Triton in the foreground."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

import tritonhttp
from tritonhttp.testing import TritonUnavailable, packaged_models, provision
from tritonhttp.testing.server import _free_ports

from .conftest import COMMAND, Run, environment


@pytest.fixture(autouse=True)
def _needs_triton() -> None:
    if os.environ.get("TRITON_URL"):
        pytest.skip("starts a server of its own, and TRITON_URL names one")
    try:
        provision.installed()
    except TritonUnavailable as unavailable:
        if unavailable.excused:
            pytest.skip(str(unavailable))
        raise


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def serve(*words: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "serve", *words]
    pipe = subprocess.PIPE
    # Its own group, as the foreground job of a shell has: Ctrl-C reaches all of it.
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True
    )


def test_it_serves_until_ctrl_c() -> None:
    port, metrics_port, *_ = _free_ports("127.0.0.1")
    with serve(
        "--demo", "--model", "add_sub", "--port", str(port), "--metrics-port", str(metrics_port)
    ) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
        finally:
            os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    ready = f"Triton is ready at http://127.0.0.1:{port}, metrics at http://127.0.0.1:{metrics_port}/metrics"
    assert said == f"{ready}; Ctrl-C stops it\n"
    assert (process.returncode, out, err) == (130, "", "starting Triton ...\nstopping Triton ...\n")


def test_sigterm_stops_it_too() -> None:
    words = ("--model-repository", str(packaged_models()), "--model", "add_sub", "--log", "--json")
    with serve(*words, "--port", "0", "--metrics-port", "0") as process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            with tritonhttp.InferenceServerClient(said["url"]) as client:
                assert client.is_model_ready("add_sub")
                assert not client.is_model_ready("digits")
        finally:
            os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "")
    assert "Traceback" not in err
    assert "Started HTTPService" in err
    assert not is_alive(said["pid"])


def test_a_server_that_dies_is_noticed() -> None:
    with serve("--demo", "--model", "add_sub", "--port", "0", "--metrics-port", "0", "--json") as process:
        assert process.stdout is not None
        os.kill(json.loads(process.stdout.readline())["pid"], signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ended by itself" in err.splitlines()[-1]


def failed(run: Run, code: int, words: tuple[str, ...], said: str) -> None:
    ran = run("serve", *words)
    assert (ran.code, ran.out) == (code, "")
    *_, last = ran.err.splitlines()
    assert last.startswith("tritonhttp: ")
    assert said in last


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        failed(run, 1, ("--demo", "--port", port), f"cannot listen at 127.0.0.1 port {port}: ")


def test_a_repository_that_is_broken(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.pbtxt").write_text("no configuration")
    words = ("--model-repository", str(tmp_path), "--port", "0", "--metrics-port", "0")
    failed(run, 1, words, "--log shows its log")
    failed(run, 1, (*words, "--arg=--no-such-flag"), "no-such-flag")


def test_the_handler_of_sigterm_is_put_back(run: Run, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    failed(run, 1, ("--demo", "--model", "nowhere", "--port", "0", "--metrics-port", "0"), "nowhere")
    assert signal.getsignal(signal.SIGTERM) is before
