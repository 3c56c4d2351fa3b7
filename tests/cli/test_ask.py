"""The commands that ask and change a server; the main outputs are compared with golden text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tritonhttp
from tritonhttp.testing import packaged_models
from tritonhttp.utils import shared_memory

from ..clients import wait_until
from .conftest import Run

NOWHERE = "127.0.0.1:9"


def test_status(run: Run, triton_server: Any) -> None:
    ran = run("status")
    assert ran.code == 0
    golden = f"""\
url         {triton_server.url}
live        yes
ready       yes
name        triton
version     X
extensions  classification, sequence, """
    assert re.sub(r"\d+\.\d+\.\d+\n", "X\n", ran.out).startswith(golden), ran.out
    assert run("status", "--json").json["ready"] is True


def test_status_of_several_servers_shows_each_and_fails_if_one_does(run: Run, triton_server: Any) -> None:
    ran = run("status", "-u", triton_server.url, "-u", NOWHERE, "--json")
    assert ran.code == 3
    assert ran.json[triton_server.url]["ready"] is True
    assert "refused" in ran.json[NOWHERE]["error"]
    ran = run("status", "-u", f"{triton_server.url},{NOWHERE}")
    assert (ran.code, ran.out.count("url  ")) == (3, 2)


def test_models(run: Run) -> None:
    ran = run("models")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "model                version  state  reason"
    assert "digits               1        READY" in lines
    assert {"name": "digits", "version": "1", "state": "READY"} in run("models", "--json").json


def test_models_of_several_servers_are_by_server(run: Run, triton_server: Any) -> None:
    other = f"localhost:{triton_server.url.rpartition(':')[2]}"
    ran = run("models", "-u", triton_server.url, "-u", other)
    assert ran.out.startswith(f"{triton_server.url}:\nmodel ")
    assert f"\n\n{other}:\nmodel " in ran.out
    assert set(run("models", "-u", triton_server.url, "-u", other, "--json").json) == {
        triton_server.url,
        other,
    }


def test_show(run: Run) -> None:
    ran = run("show", "summary")
    assert ran.out == (
        """\
name            summary
platform        python
versions        1
max batch size  0
batching        none
instances       1 on CPU

        name     datatype  shape
input   VALUES   FP32      [-1]
input   WEIGHTS  FP32      [-1]   optional
output  COUNT    INT64     [1]
output  MEAN     FP32      [1]
output  SORTED   FP32      [-1]
output  TEXT     BYTES     [1]
"""
    )
    found = run("show", "batched", "--json").json
    assert (found["max_batch_size"], found["batching"]) == (
        4,
        "dynamic, waits at most 20000 µs, preferably 4",
    )


@pytest.mark.parametrize(
    ("model", "batching"),
    [
        ("add_sub", "by the caller only"),
        ("digits_ensemble", "ensemble of digits_scale, digits"),
        ("repeat", "decoupled: any number of answers"),
        ("sequence_accumulate", "sequences, oldest"),
    ],
)
def test_show_says_how_a_model_batches(run: Run, model: str, batching: str) -> None:
    assert run("show", model, "--json").json["batching"] == batching


def test_config_can_be_loaded_again(run: Run, tmp_path: Path) -> None:
    config = run("config", "add_sub").json
    assert config["max_batch_size"] == 8
    config["max_batch_size"] = 5
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    model = packaged_models() / "add_sub" / "1" / "model.py"
    ran = run("load", "add_sub", "--config", str(path), "--file", f"1/model.py={model}")
    try:
        assert (ran.code, ran.out) == (0, "add_sub: loaded\n")
        assert run("show", "add_sub", "--json").json["max_batch_size"] == 5
    finally:
        assert run(
            "load", "add_sub", "--config", "-", stdin=json.dumps(config | {"max_batch_size": 8}).encode()
        )
        assert run("load", "add_sub").code == 0
    assert run("show", "add_sub", "--json").json["max_batch_size"] == 8


def test_unload_and_load(run: Run, triton_server: Any) -> None:
    assert run("unload", "identity_uint8", "--dependents").out == "identity_uint8: unloaded\n"
    try:
        run("wait", "--model", "identity_uint8", "--timeout", "0.3").failed(4, "not ready", triton_server.url)
        wait_until(lambda: "UNAVAILABLE  unloaded" in run("models").out)
    finally:
        assert run("load", "identity_uint8", "--json").json == {"model": "identity_uint8", "loaded": True}
    ran = run("wait", "--model", "identity_uint8", "--json")
    assert (ran.code, ran.json["ready"]) == (0, True)


def test_wait_for_a_server_that_is_nowhere(run: Run) -> None:
    run("wait", "-u", NOWHERE, "--timeout", "0.3").failed(3, "127.0.0.1:9", "timed out", "refused")


def test_stats(run: Run) -> None:
    assert run("infer", "add_sub", "--random").code == 0

    def counted() -> bool:  # a moment after the answer
        return bool(run("stats", "add_sub", "--json").json["model_stats"][0]["inference_count"])

    wait_until(counted)
    header, row = run("stats", "add_sub").out.splitlines()
    assert header.split("  ")[:1] == ["model"]
    assert re.fullmatch(r"add_sub +1( +\d+){3}( +[\d.,]+){4}", row), row
    assert len(run("stats").out.splitlines()) > 20


def test_metrics(run: Run, triton_server: Any) -> None:
    at = triton_server.metrics_url
    assert run("infer", "digits", "--random").code == 0
    ran = run("metrics", "--metrics-url", at, "nv_inference_count")
    assert ran.out.splitlines()[0].split() == ["metric", "labels", "value"]
    row = re.compile(r"^nv_inference_count  model=digits, version=1 +[1-9]\d*$", re.MULTILINE)
    # The server counts a moment after it has answered.
    wait_until(lambda: bool(row.search(run("metrics", "--metrics-url", at, "nv_inference_count").out)))
    samples = run("metrics", "--metrics-url", at, "model=digits", "--json").json
    assert {each["labels"]["model"] for each in samples} >= {"digits"}
    assert len(run("metrics", "--metrics-url", at).out.splitlines()) > 100
    run("metrics", "--metrics-url", at, "no_such_*").failed(1, "no metric like 'no_such_*'")
    run("metrics", "--metrics-url", f"http://{triton_server.url}/v2").failed(1, "Prometheus' text format")
    run("metrics", "--metrics-url", f"http://{triton_server.url}/nowhere").failed(
        1, "--metrics-url says where"
    )
    run("metrics", "-u", "unix:///tmp/x.sock").failed(2, "--metrics-url")


def test_trace_settings(run: Run) -> None:
    before = run("trace", "get", "--json").json
    assert run("trace", "get").out.splitlines()[0].split() == ["log_frequency", before["log_frequency"]]
    try:
        ran = run("trace", "set", "trace_rate=7", "trace_level=OFF", "--json")
        assert (ran.json["trace_rate"], ran.json["trace_level"]) == ("7", ["OFF"])
        # Triton traces only if it was started for that; what it says is shown.
        run("trace", "set", "trace_level=TIMESTAMPS,TENSORS").failed(1, "trace file name is not given")
        assert run("trace", "set", "trace_rate=9", "--model", "digits", "--json").json["trace_rate"] == "9"
        # An empty value clears the model's own setting.
        assert run("trace", "set", "trace_rate=", "--model", "digits", "--json").json["trace_rate"] == "7"
    finally:
        run("trace", "set", f"trace_rate={before['trace_rate']}", "trace_level=OFF")
    assert run("trace", "get", "--json").json == before


def test_log_settings(run: Run) -> None:
    assert "log_info           true\n" in run("log", "get").out
    try:
        assert run("log", "set", "log_info=false", "log_verbose_level=1", "--json").json["log_info"] is False
    finally:
        ran = run("log", "set", "log_info=true", "log_verbose_level=0", "--json")
    assert (ran.json["log_info"], ran.json["log_verbose_level"]) == (True, 0)


def test_regions_of_shared_memory(run: Run, triton_server: Any) -> None:
    assert run("shm", "list").out == f"{triton_server.url} has no regions\n"
    handles = [
        shared_memory.create_shared_memory_region(name, f"/{name}-key", 64)
        for name in ("one", "two", "three")
    ]
    try:
        with tritonhttp.InferenceServerClient(triton_server.url) as client:
            for name in ("one", "two", "three"):
                client.register_system_shared_memory(name, f"/{name}-key", 64)
        assert run("shm", "list").out.splitlines()[1].split() == ["system", "one", "/one-key", "64"]
        assert [each["name"] for each in run("shm", "list", "--json").json] == ["one", "three", "two"]
        assert run("shm", "unregister", "two").out == "two: unregistered\n"
        run("shm", "unregister", "two").failed(1, "no region 'two'")
        assert sorted(run("shm", "unregister", "--all", "--json").json) == ["one", "three"]
        assert run("shm", "list", "--json").json == []
    finally:
        for handle in handles:
            shared_memory.destroy_shared_memory_region(handle)


def test_headers_and_credentials_go_with_each_request(run: Run, start_peer: Any) -> None:
    server = start_peer(b'[{"name": "m"}]')
    words = ("--header", "X-A: 1", "--header", "X-A:2", "--header", "X-B:c:d", "--auth", "me:se:cret")
    assert run("models", "-u", server.url, *words).out.splitlines()[1].split() == ["m", "not", "loaded"]
    head = server.heads[0].lower()
    assert b"x-a: 1, 2\r\n" in head
    assert b"x-b: c:d\r\n" in head
    assert b"authorization: basic bwu6c2u6y3jlda==\r\n" in head


def test_a_server_that_asks_for_credentials(run: Run, start_peer: Any) -> None:
    server = start_peer(b'{"error": "who are you?"}', status=401)
    for words in (("status",), ("models",), ("show", "m")):
        run(*words, "-u", server.url).failed(1, "who are you?", "--auth or --header")


def test_what_a_server_says_cannot_change_the_terminal(run: Run, start_peer: Any) -> None:
    server = start_peer(json.dumps([{"name": "m\x1b[2J", "reason": "[red]a\nb[/red]"}]).encode())
    assert run("models", "-u", server.url).out.splitlines()[1:] == [
        r"m\x1b[2J           not loaded  [red]a\nb[/red]"
    ]
    broken = start_peer(b'{"error": "bad \\u001b[31m\\nthing"}', status=400)
    run("models", "-u", broken.url).failed(1, r"bad \x1b[31m thing")


@pytest.fixture
def start_peer() -> Any:
    """Start servers that answer every request alike and keep the heads of requests."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    started: list[Any] = []

    def start(body: bytes, status: int = 200) -> Any:
        heads: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                heads.append(str(self.headers).replace("\n", "\r\n").encode())
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.url = f"127.0.0.1:{server.server_address[1]}"
        server.heads = heads
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()
