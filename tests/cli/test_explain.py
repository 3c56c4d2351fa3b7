"""`tritonhttp explain` by its entry point: on the real Triton, and on servers that keep no statistics."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import tritonhttp
from tritonhttp.cli import explain as module
from tritonhttp.cli.phases import OVERLAPPING, TOGETHER

from ..clients import wait_until
from ..live.api.gateway import Gateway
from .conftest import COMMAND, Run, environment
from .test_bench import Scripted
from .test_generate import in_terminal

LARGE = ("--random", "--shape", "INPUT0:500000")


def rules(found: Any) -> set[str]:
    return {each["rule"] for each in found["advice"]}


def advised(run: Run, rule: str, *words: str) -> tuple[Any, str]:
    """Return what explain finds, with a rule's words in it, and those words.

    Rules look at shares of the time, and a busy machine may take it elsewhere: so there are several tries.
    """
    for _ in range(20):
        found = checked(run("explain", *words, "--json").json)
        if rule in rules(found):
            break
    (said,) = [each["text"] for each in found["advice"] if each["rule"] == rule]
    return found, said


def checked(found: Any) -> Any:
    """Check what holds of every result: parts add up, and shares to the whole."""
    for total, parts in (
        (found["first"]["total_ms"], found["first"]["phases_ms"]),
        (found["warm"]["mean_ms"], found["warm"]["phases_ms"]),
    ):
        assert math.fsum(parts.values()) == pytest.approx(total)
        assert min(parts.values()) >= 0
    assert math.fsum(found["warm"]["shares"].values()) == pytest.approx(1)
    for each in found["advice"]:
        assert re.search(r"\d", each["text"]), each
    return found


def test_the_text(run: Run, triton_server: Any) -> None:
    # On a busy machine the server may be done before `send` returns, or count longer than the call takes.
    for _ in range(20):
        ran = run("explain", "slow", "-i", "DELAY=0.05", "--repeat", "10")
        assert (ran.code, ran.err) == (0, "")
        if OVERLAPPING not in ran.out and TOGETHER not in ran.out:
            break
    text = re.sub("[█▏▎▍▌▋▊▉]", "", ran.out.replace(triton_server.url, "URL"))
    text = re.sub(r"\d+\.\d+|\d+%|(?<= )-(?= )", "N", text).replace("N%", "N")
    text = re.sub(r" {2,}", "  ", re.sub(r"(?m) +$", "", text))
    assert (
        text
        == """\
slow 1 at URL: a first call, then 10 warm calls; 140 bytes sent, 141 bytes received by each

phase  first ms  warm ms  share
prepare  N  N  N  this library: inputs become a request
wait  N  N  N  for a free connection
resolve  N  N  N  the host's name
connect  N  N  N  a new connection
send  N  N  N  the request, into the system's buffers
network  N  N  N  both ways, and the server's HTTP
queue  N  N  N  waiting in the server for an instance or a batch
input  N  N  N  the server gathers the inputs
compute  N  N  N  the model
output  N  N  N  the server stores the outputs
server, rest  N  N  N  between the server's own parts
receive  N  N  N  the answer, from its first byte to its last
decode  N  N  N  this library: the answer becomes arrays
total  N  N  N

warm calls  ms
min  N
p50  N
p90  N
max  N

Advice
- The model itself computes for N ms of N ms (N): only a faster model or device shortens this call; calls side by\
 side raise the throughput (tritonhttp bench).
"""
    )


@pytest.mark.parametrize(
    "words",
    [
        ("add_sub", "--random"),
        ("digits_ensemble", "--random", "--seed", "1"),
        ("identity_bytes", "-i", "INPUT0=some text"),
        ("sequence_accumulate", "--random"),
        ("summary", "--random", "--select", "MEAN"),
        ("identity_fp16", "--random", "--param", "a=1"),
    ],
)
def test_models_of_every_kind(run: Run, words: tuple[str, ...]) -> None:
    ran = run("explain", *words, "--repeat", "3", "--json")
    assert ran.code == 0
    found = checked(ran.json)
    assert (found["model"], found["version"], found["warm"]["calls"]) == (words[0], "1", 3)
    assert {"resolve", "connect"} <= found["first"]["phases_ms"].keys()
    assert not {"resolve", "connect"} & found["warm"]["phases_ms"].keys()
    assert (found["server"]["requests"], found["server"]["others"]) == (3, 0)
    assert list(found["warm"]["percentiles_ms"]) == ["min", "p50", "max"]


def test_an_output_that_is_not_selected_does_not_come(run: Run) -> None:
    def received(*words: str) -> int:
        size: int = run(
            "explain", "add_sub", "--random", "--seed", "1", "--repeat", "1", "--json", *words
        ).json["response_bytes"]
        return size

    assert received("--select", "OUTPUT0") < received()


@contextmanager
def traffic(url: str, model: str, threads: int) -> Iterator[None]:
    """Keep a model busy with calls of 50 ms."""
    over = threading.Event()
    delay = tritonhttp.InferInput("DELAY", [1], "FP32")
    client = tritonhttp.InferenceServerClient(url, concurrency=threads)

    def ask() -> None:
        import numpy as np

        mine = tritonhttp.InferInput("DELAY", delay.shape(), "FP32").set_data_from_numpy(np.float32([0.05]))
        while not over.is_set():
            client.infer(model, [mine])

    def count() -> int:
        found: int = client.get_inference_statistics(model)["model_stats"][0]["inference_count"]
        return found

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    before = count()
    for worker in workers:
        worker.start()
    try:
        wait_until(lambda: count() > before + threads)
        yield
    finally:
        over.set()
        for worker in workers:
            worker.join()
        client.close()


def test_a_queue_and_other_traffic(run: Run, triton_server: Any) -> None:
    """Twelve callers before four instances: a request waits for two others."""
    with traffic(triton_server.url, "slow", 12):
        found, said = advised(run, "queue", "slow", "-i", "DELAY=0.05", "--repeat", "5")
    assert found["server"]["others"] > 5
    assert any("other traffic" in note and "only 5" in note for note in found["notes"])
    assert "the 4 instances are busy" in said
    assert "cold_start" not in rules(found)  # its figures are not of this call alone


def test_a_batch_that_is_waited_for(run: Run) -> None:
    found, said = advised(run, "queue", "batched", "-i", "DELAY=0", "--repeat", "3")
    assert found["warm"]["phases_ms"]["queue"] > 15
    assert "20.0 ms for a batch" in said


def test_large_tensors(run: Run) -> None:
    words = ("identity_fp32", *LARGE, "--repeat", "5")
    plain, said = advised(run, "shared_memory", *words)
    assert plain["request_bytes"] > 2_000_000
    assert "4 MB go over HTTP to this machine" in said
    shared = checked(run("explain", *words, "--shared-memory", "auto", "--json").json)
    assert shared["request_bytes"] < 1000
    assert "shared_memory" not in rules(shared)
    assert any("through shared memory" in note for note in shared["notes"])


def test_json_in_place_of_binary_data(run: Run) -> None:
    words = ("explain", "identity_fp32", "--random", "--shape", "INPUT0:20000", "--repeat", "2", "--json")
    assert "json_data" not in rules(run(*words).json)
    for option in ("--json-input", "--json-output"):
        found = checked(run(*words, option).json)
        assert "json_data" in rules(found), option


def test_compression(run: Run) -> None:
    words = ("identity_fp32", *LARGE, "--repeat", "2")
    for algorithm in ("gzip", "deflate"):
        found, said = advised(run, "compression", *words, "--compression", algorithm)
        assert found["request_bytes"] < 1_950_000  # random numbers hardly shrink
        assert said.startswith(f"{algorithm} makes 1.")
        assert said.endswith("leave compression out")
    plain = checked(run("explain", *words, "--json").json)
    assert "compression" not in rules(plain)  # on this machine it would not help


def test_tls_is_a_phase_of_its_own(run: Run, tls_gateway: Any) -> None:
    url, ca = tls_gateway
    found = checked(
        run("explain", "add_sub", "--random", "-u", url, "--ca-certs", ca, "--repeat", "2", "--json").json
    )
    assert found["first"]["phases_ms"]["tls"] > 0
    assert "tls" not in found["warm"]["phases_ms"]


class Closing(Scripted):
    """Closes each connection after its answer."""

    class handler(Scripted.handler):
        def send_response_only(self, *words: Any) -> None:
            super().send_response_only(*words)
            self.send_header("Connection", "close")


def test_a_server_that_closes_its_connections(run: Run) -> None:
    with Closing() as server:
        found = checked(run("explain", "m", "--random", "-u", server.url, "--repeat", "4", "--json").json)
    assert "connect" in found["warm"]["phases_ms"]
    (said,) = [each["text"] for each in found["advice"] if each["rule"] == "connections"]
    assert "4 of 4 warm calls opened a connection" in said


def test_a_server_without_statistics(run: Run) -> None:
    with Scripted() as server:
        words = ("explain", "m", "--random", "-u", server.url, "--repeat", "4")
        found = checked(run(*words, "--json").json)
        text = run(*words).out
    assert found["server"] is None
    assert "server, network" in found["warm"]["phases_ms"]
    assert not {"network", "queue", "compute"} & found["warm"]["phases_ms"].keys()
    assert re.search(r"^Note: \S.* has no statistics of these calls: ", text, re.MULTILINE), text


def test_it_says_so_if_nothing_stands_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonhttp.cli.advice.RULES", ())
    assert run("explain", "add_sub", "--random", "--repeat", "1").out.endswith(
        "\nNothing stands out: no rule of advice applies to these figures.\n"
    )


def test_without_repeat_it_ends_in_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.1)
    words = ("explain", "slow", "-i", "DELAY=0.05", "--json")
    assert 1 <= run(*words).json["warm"]["calls"] < 10
    assert run(*words, "--repeat", "4").json["warm"]["calls"] == 4


def test_a_terminal_that_is_narrow(triton_server: Any) -> None:
    shown = in_terminal(
        "explain", "add_sub", "--random", "--repeat", "2", "-u", triton_server.url, columns=72, NO_COLOR="1"
    )
    table = shown[shown.index("phase") : shown.index("total")]
    assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", table).splitlines())) <= 72
    assert "the model" not in table  # no words that would have to be folded
    wide = in_terminal(
        "explain", "add_sub", "--random", "--repeat", "2", "-u", triton_server.url, columns=140
    )
    assert "the model" in wide


def test_calls_that_fail_later_show_those_before(run: Run, triton_server: Any) -> None:
    seen = 0

    def meddle(request: Any) -> tuple[int, bytes] | None:
        nonlocal seen
        seen += request.target.endswith("/infer")
        return (500, b'{"error": "it broke"}') if seen > 4 else None

    with Gateway(triton_server.url, meddle=meddle) as gateway:
        ran = run("explain", "add_sub", "--random", "-u", gateway.url, "--repeat", "10", "--json")
    assert ran.code == 1
    assert "it broke" in ran.err
    assert checked(json.loads(ran.out))["warm"]["calls"] == 3


def test_an_interrupt_shows_what_was_measured(triton_server: Any) -> None:
    with (
        tritonhttp.InferenceServerClient(triton_server.url) as client,
        subprocess.Popen(
            [*COMMAND, "explain", "slow", "-i", "DELAY=0.05", "--repeat", "100000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(TRITON_URL=triton_server.url),
        ) as process,
    ):

        def count() -> int:
            found: int = client.get_inference_statistics("slow")["model_stats"][0]["inference_count"]
            return found

        before = count()
        wait_until(lambda: count() >= before + 4)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, err) == (130, "")
    assert re.search(r"then \d+ warm calls?; ", out), out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add_sub",), 2, ["INPUT0 INT32[-1, 16]", "--random"]),
        (("add_sub", "--random", "--repeat", "0"), 2, ["--repeat", "--help"]),
        (("add_sub", "--random", "--compression", "zip"), 2, ["--compression: expected gzip or deflate"]),
        (("add_sub", "--random", "--shared-memory", "yes"), 2, ["--shared-memory: expected none or auto"]),
        (("add_sub", "--random", "--select", "NONE"), 2, ["no output 'NONE'"]),
        (("add_sub", "--random", "--param", "x"), 2, ["--param: expected"]),
        (("identity_int32", "--random", "--shape", "OTHER:1"), 2, ["no input 'OTHER'"]),
        (("identity_fp16", "--random", "--json-input"), 1, ["FP16", "binary"]),
        (("nowhere", "--random"), 1, ["nowhere", "tritonhttp models"]),
        (("fail", "-i", "MESSAGE=it broke"), 1, ["it broke"]),
        (("repeat", "--random"), 1, ["tritonhttp generate"]),
        (("slow", "-i", "DELAY=5", "--deadline", "0.2"), 3, ["timed out", "--deadline"]),
        (("add_sub", "--random", "-u", "127.0.0.1:9"), 3, ["127.0.0.1:9", "serve --demo"]),
    ],
)
def test_mistakes(run: Run, words: tuple[str, ...], code: int, said: list[str]) -> None:
    run("explain", *words).failed(code, *said)


def test_addresses_of_this_machine() -> None:
    for url in ("localhost:8000", "127.0.0.1:1", "[::1]:8000", "unix:///tmp/x.sock", "0.0.0.0:8000"):
        assert module._is_local([url], False), url
    for url in ("192.0.2.1:8000", "no.such.host.invalid"):
        assert not module._is_local([url], False), url
        assert not module._is_local(["127.0.0.1", url], False), url
