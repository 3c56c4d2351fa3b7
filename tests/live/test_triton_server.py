"""TritonServer on a real Triton: it starts, stops, restarts, fails in time, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InvalidRequest
from tritonhttp.testing import TritonFailed, TritonServer, packaged_models
from tritonhttp.testing import server as server_module

FEW = ["add_sub"]
MODEL = (packaged_models() / "add_sub" / "1" / "model.py").read_text()
CONFIG = (packaged_models() / "add_sub" / "config.pbtxt").read_text()


def add(url: str, model: str = "add_sub") -> list[int]:
    numbers = np.arange(16, dtype=np.int32).reshape(1, 16)
    inputs = []
    for name in ("INPUT0", "INPUT1"):
        tensor = tritonhttp.InferInput(name, [1, 16], "INT32")
        tensor.set_data_from_numpy(numbers)
        inputs.append(tensor)
    with tritonhttp.InferenceServerClient(url) as client:
        return client.infer(model, inputs).as_numpy("OUTPUT0")[0, :3].tolist()


def answers(url: str) -> bool:
    host, port = url.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except ConnectionRefusedError:
        return False


def prefix(log: str) -> str:
    """The server's own prefix in /dev/shm, as its log tells it."""
    found = re.search(r'"shm-region-prefix-name":"([^"]+)"', log)
    assert found
    return found[1]


def members(group: int) -> set[int]:
    """The processes of a process group that are not just waiting to be reaped."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may hold anything; state, parent and group come after it.
            state, _, in_group = process.joinpath("stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(in_group) == group and state not in "ZX":
            found.add(int(process.name))
    return found


def shared_memory(of: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{of}*"))


def wait_until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def owner(start_server, tmp_path):
    """Start a server in a process of its own: yield that process, and the server's url, pid and prefix."""
    started = []

    def run(then: str):
        script = tmp_path / "owner.py"
        script.write_text(
            "import os, time\n"
            "from tritonhttp.testing import TritonServer\n"
            "server = TritonServer(models=['add_sub'])\n"
            "server.start()\n"
            "line = [l for l in server.log.splitlines() if 'shm-region-prefix-name' in l][0]\n"
            f"{then}\n"
            "print(server.url, server.pid, line, flush=True)\n"
            "time.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        url, pid, log = process.stdout.readline().split(" ", 2)
        return process, url, int(pid), prefix(log)

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_stopped_server_leaves_nothing(start_server, end):
    server = start_server(models=FEW)
    assert add(server.url) == [0, 2, 4]
    with urllib.request.urlopen(server.metrics_url) as reply:
        assert b"nv_inference_count" in reply.read()
    url, group, own = server.url, server.pid, prefix(server.log)
    assert len(members(group)) > 1
    assert shared_memory(own)

    getattr(server, end)()

    assert not server.running
    assert members(group) == set()
    assert shared_memory(own) == []
    assert not answers(url)
    assert "Started HTTPService" in server.log
    assert end == "kill" or "successfully unloaded 'add_sub'" in server.log  # in order
    getattr(server, end)()  # a second time is no error
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.pid


@pytest.mark.parametrize("running", [True, False])
def test_restart_keeps_the_ports(start_server, running):
    server = start_server(models=FEW)
    url, metrics_url, pid = server.url, server.metrics_url, server.pid
    if not running:
        server.kill()
    server.restart()
    assert (server.url, server.metrics_url) == (url, metrics_url)
    assert server.pid != pid
    assert add(url) == [0, 2, 4]


def test_starting_twice_is_refused(start_server):
    server = start_server(models=FEW)
    with pytest.raises(RuntimeError, match="started already"):
        server.start()


def test_two_servers_run_at_once(start_server):
    one, two = start_server(models=FEW), start_server(models=FEW)
    assert one.url != two.url
    one.kill()
    assert add(two.url) == [0, 2, 4]
    assert shared_memory(prefix(two.log))


def test_a_killed_server_leaves_nothing_and_can_be_restarted(start_server):
    server = start_server(models=FEW)
    url, group, own = server.url, server.pid, prefix(server.log)
    os.kill(group, signal.SIGKILL)
    wait_until(lambda: not server.running)
    assert members(group) == set()
    assert shared_memory(own) == []
    server.restart()
    assert add(url) == [0, 2, 4]


def test_a_killed_supervisor_takes_its_server_along(start_server):
    server = start_server(models=FEW)
    url, group, own = server.url, server.pid, prefix(server.log)
    supervisor = int(Path(f"/proc/{group}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not members(group))
    server.kill()
    assert shared_memory(own) == []
    assert not answers(url)


def test_a_killed_owner_takes_its_server_along(owner):
    process, url, group, own = owner("")
    assert add(url) == [0, 2, 4]
    process.kill()
    wait_until(lambda: not members(group) and not shared_memory(own))
    assert not answers(url)


def test_a_killed_owner_takes_its_server_along_though_a_forked_child_lives(owner):
    # The child has the pipe's write end too; its copy of the object must not matter.
    process, url, group, own = owner("if os.fork() == 0: server.stop(); time.sleep(60)")
    time.sleep(0.5)
    assert add(url) == [0, 2, 4]
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1])
    process.kill()
    try:
        wait_until(lambda: not members(group) and not shared_memory(own))
    finally:
        os.kill(child, signal.SIGKILL)


def test_no_command_line_shows_the_environment(monkeypatch, start_server):
    """Every user of the machine may read the arguments of a process, and only its user its environment."""
    monkeypatch.setenv("SECRET_OF_THE_TESTS", "sesame")
    server = start_server(models=["add_sub"])
    assert server._supervisor is not None
    assert add(server.url) == [0, 2, 4]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (server._supervisor.pid, server._pid)]
    assert all(lines)
    assert not any(b"sesame" in line or b"SECRET" in line for line in lines)


def test_a_server_listens_on_this_machine_only(triton_server):
    host, _, port = triton_server.url.rpartition(":")
    if host != "127.0.0.1":
        pytest.skip("another server")
    # On Linux, a server that listens on all addresses answers at this one too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)


def test_a_repository_of_ones_own_is_served(start_server, tmp_path):
    folder = tmp_path / "models" / "mine" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("print('loaded mine', flush=True)\n" + MODEL)
    (folder.parent / "config.pbtxt").write_text(CONFIG)
    server = start_server(tmp_path / "models")
    assert add(server.url, "mine") == [0, 2, 4]
    wait_until(lambda: "loaded mine" in server.log)
    assert not list(tmp_path.rglob("__pycache__"))


def test_other_models_can_be_loaded(start_server):
    server = start_server(models=[])
    with tritonhttp.InferenceServerClient(server.url) as client:
        assert not client.is_model_ready("add_sub")
        client.load_model("add_sub")
        assert client.is_model_ready("add_sub")


def test_folders_of_models_sent_as_files_go(start_server):
    server = start_server(models=[])
    config = (
        '{"backend": "python", "max_batch_size": 8,'
        '"input": [{"name": "INPUT0", "data_type": "TYPE_INT32", "dims": [16]},'
        '{"name": "INPUT1", "data_type": "TYPE_INT32", "dims": [16]}],'
        '"output": [{"name": "OUTPUT0", "data_type": "TYPE_INT32", "dims": [16]},'
        '{"name": "OUTPUT1", "data_type": "TYPE_INT32", "dims": [16]}]}'
    )
    with tritonhttp.InferenceServerClient(server.url) as client:
        client.load_model("sent", config=config, files={"file:1/model.py": MODEL.encode()})
    commands = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in members(server.pid))
    folder = Path(re.findall(rb"(/tmp/folder\w+)/", commands)[0].decode())
    assert folder.is_dir()
    server.kill()
    assert not folder.exists()


def test_failing_model_shows_the_log(start_server, tmp_path):
    shutil.copytree(packaged_models() / "add_sub", tmp_path / "models" / "broken")
    (tmp_path / "models" / "broken" / "1" / "model.py").write_text("raise ValueError('on purpose')\n")
    started = time.monotonic()
    with pytest.raises(TritonFailed, match=r"ended while starting: .*(?s:.*)on purpose"):
        start_server(tmp_path / "models")
    assert time.monotonic() - started < 20


def test_bad_flag_shows_the_log(start_server):
    with pytest.raises(TritonFailed, match=r"ended while starting: .*no-such-flag.*; its log"):
        start_server(models=FEW, args=["--no-such-flag"])


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_missing_repository_is_named_in_one_line(start_server, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(
        TritonFailed, match=rf"^there is no folder of models '.*{name}'; models=\[…\] names models.*$"
    ):
        start_server(tmp_path / name, models=FEW)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": "digits"}, r"models must be a list, got 'digits'; did you mean \['digits'\]?"),
        ({"args": "--log-verbose=1"}, "args must be a list"),
        ({"http_port": "8000"}, "http_port must be a whole number, 0 for a free port; got '8000'"),
        ({"metrics_port": None}, "metrics_port must be a whole number"),
    ],
)
def test_options_of_another_type_are_refused(options, words):
    with pytest.raises(InvalidRequest, match=words):
        TritonServer(**options)


def test_a_start_past_its_deadline_is_given_up(start_server, tmp_path):
    shutil.copytree(packaged_models() / "add_sub", tmp_path / "models" / "late")
    model = tmp_path / "models" / "late" / "1" / "model.py"
    model.write_text("import time\ntime.sleep(60)\n" + model.read_text())
    started = time.monotonic()
    with pytest.raises(TritonFailed, match="not ready after 1 s") as failed:
        start_server(tmp_path / "models", startup_timeout=1)
    assert time.monotonic() - started < 5
    assert "loading: late" in str(failed.value)


@pytest.mark.parametrize("taken", ["http", "metrics"])
def test_a_port_taken_meanwhile(start_server, monkeypatch, taken):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        free = server_module._free_ports
        other = free("127.0.0.1")[0]
        first = [[port, other] if taken == "http" else [other, port]]
        monkeypatch.setattr(server_module, "_free_ports", lambda host: first.pop() if first else free(host))
        server = start_server(models=FEW)
        assert not first
        assert str(port) not in (server.url + server.metrics_url)
        assert add(server.url) == [0, 2, 4]


def test_no_address_before_the_start():
    server = TritonServer()
    with pytest.raises(RuntimeError, match="no address"):
        _ = server.url
    assert repr(server) == "<TritonServer not started>"
    server.kill()


def test_the_demo_prints_its_steps(triton_server):
    """With the server that is there; starting one is the other tests' matter."""
    done = subprocess.run(
        [sys.executable, "-m", "tritonhttp.cli.demo", triton_server.url], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy    98.50% of 400 images" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 80


def test_the_demo_without_a_server_says_so():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "tritonhttp.cli.demo", address], capture_output=True, text=True
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("demo: ")
    assert done.stderr.count("\n") == 1


def test_the_packaged_models_are_ready(triton_server, triton_client):
    if not isinstance(triton_server, TritonServer):
        pytest.skip(f"{triton_server.url} runs elsewhere, with models of its own")
    states = {model["name"]: model["state"] for model in triton_client.get_model_repository_index()}
    assert states == dict.fromkeys((path.name for path in packaged_models().iterdir()), "READY")
