"""``tritonhttp bench`` by its entry point: on the real Triton, and on scripted servers whose limits are known."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonhttp.cli.main import main

from ..clients import wait_until
from ..framing import JSON_SIZE, Handler, HandlerServer
from .conftest import COMMAND, Ran, Run, environment

#: Short, and always at their end.
QUICK = ("--warm-up", "0.05", "--window", "0.15", "--windows", "3")


class Scripted(HandlerServer):
    """A server of model ``m``, which answers after what `delay` says."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests = 0
        self.free = 0.0
        self.service = 0.0
        #: A span of the clock in which nothing is answered.
        self.stall = (0.0, 0.0)
        self.status = 200

    def delay(self) -> float:
        """One request after another takes `service` seconds; sleeping longer than asked does not add up."""
        with self.lock:
            self.requests += 1
            now = time.monotonic()
            if self.stall[0] <= now < self.stall[1]:
                return self.stall[1] - now
            self.free = max(now, self.free) + self.service
            return self.free - now

    class handler(Handler):
        def do_GET(self) -> None:
            tensor = {"name": "X", "datatype": "INT32", "shape": [1]}
            if self.path.endswith("/config"):
                body: Any = {"name": "m", "max_batch_size": 0}
            elif self.path.endswith("/stats"):
                self.answer(404, b'{"error": "no statistics"}')
                return
            else:
                body = {
                    "name": "m",
                    "versions": ["1"],
                    "platform": "",
                    "inputs": [tensor],
                    "outputs": [tensor],
                }
            self.answer(200, json.dumps(body).encode())

        def do_POST(self) -> None:
            self.read()
            time.sleep(self.owner.delay())
            if self.owner.status != 200:
                self.answer(self.owner.status, b'{"error": "overloaded"}')
                return
            output = {"name": "X", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}
            head = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
            self.answer(200, head + b"\1\0\0\0", [(JSON_SIZE, str(len(head)))])


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        yield server


def ran(capsys: pytest.CaptureFixture[str], *words: str) -> Ran:
    code = main(["bench", *words])
    out, err = capsys.readouterr()
    return Ran(code, out, err)


# -- scripted servers --


def test_a_stall_shows_in_the_tail_of_an_open_loop(scripted: Scripted, capsys: Any) -> None:
    """Closed loops send little while a server stalls; latencies from the intended start show all of it."""

    def stall() -> None:
        wait_until(lambda: scripted.requests > 20)
        now = time.monotonic()
        scripted.stall = (now, now + 2.0)

    breaker = threading.Thread(target=stall)
    breaker.start()
    words = ("m", "-u", scripted.url, "--rate", "50", "--count", "200", "--max-in-flight", "4", "--json")
    (step,) = ran(capsys, *words).json["steps"]
    breaker.join()
    assert step["requests"] == 200
    # A request of every 20 ms met 2 s of stall: half of the 200, evenly between 0 and 2 s.
    assert 1.7 < step["latency"]["p99"]["value"] < 5
    assert 0.7 < step["latency"]["p90"]["value"] < 5
    assert step["late"] > 20  # only four can wait at a time, and it is said that the others went out late
    assert step["lateness"]["max"] > 1
    assert any("--max-in-flight" in words for words in step["client"]["limits"])


def test_a_stall_in_a_closed_loop_is_not_dropped_with_its_window(scripted: Scripted, capsys: Any) -> None:
    scripted.service = 0.005
    scripted.stall = (time.monotonic() + 2.0, time.monotonic() + 2.8)
    words = (
        "m",
        "-u",
        scripted.url,
        "--warm-up",
        "0",
        "--window",
        "0.5",
        "--windows",
        "8",
        "--stability",
        "20",
    )
    (step,) = ran(capsys, *words, "--json").json["steps"]
    assert step["latency"]["max"]["value"] > 0.5 or step["seconds"] < 2.0  # a very slow machine began later


def test_slo_finds_the_rate_that_a_server_can_do(scripted: Scripted, capsys: Any) -> None:
    scripted.service = 0.01  # 100 a second

    def finds() -> bool:
        ended = ran(
            capsys,
            *("m", "-u", scripted.url, "--slo", "p90=40ms", "--rate", "80:125"),
            *("--warm-up", "0.1", "--window", "0.4", "--windows", "3", "--stability", "0.01", "--json"),
        )
        found = ended.json["search"]
        if ended.code or [bool(tried["missed"]) for tried in found["tried"][:2]] != [False, True]:
            return False
        assert found["kept"] < found["missed"]
        assert [tried["level"] for tried in found["tried"][:3]] == [80, 125, 102.5]
        return 95 <= found["kept"] <= 105 and 94 <= found["missed"] <= 106

    assert any(finds() for _ in range(4))  # a busy machine may itself miss the bound


def test_slo_finds_a_concurrency(scripted: Scripted, capsys: Any) -> None:
    scripted.service = 0.01  # n in flight wait n times as long
    words = ("m", "-u", scripted.url, "--slo", "p50=55ms", "--concurrency", "1:64", *QUICK)

    def finds() -> bool:
        ended = ran(capsys, *words)
        assert "Searched by doubling" in ended.out
        return "p50 ≤ 55 ms: kept up to 5 requests in flight, missed at 6." in ended.out

    assert any(finds() for _ in range(4))  # a busy machine may itself miss the bound


def test_errors_are_counted_by_kind(scripted: Scripted, capsys: Any) -> None:
    def refuse() -> None:
        wait_until(lambda: scripted.requests > 5)
        scripted.status = 503

    breaker = threading.Thread(target=refuse)
    breaker.start()
    ended = ran(capsys, "m", "-u", scripted.url, "--count", "60", "--fail-if", "errors>10%")
    breaker.join()
    assert ended.code == 4
    assert " HTTP 503" in ended.out
    assert "HTTP 503: overloaded" in ended.out
    assert "missed: errors>10% at concurrency 1" in ended.out


def test_nothing_but_errors_is_an_error(scripted: Scripted, capsys: Any) -> None:
    def refuse() -> None:
        wait_until(lambda: scripted.requests > 1)
        scripted.status = 500

    scripted.service = 0.05
    breaker = threading.Thread(target=refuse)
    breaker.start()
    ended = ran(
        capsys, "m", "-u", scripted.url, "--warm-up", "0.3", "--window", "0.2", "--windows", "1", "--json"
    )
    breaker.join()
    assert ended.code == 1
    assert ended.json["steps"][0]["errors"]["HTTP 500"] > 0
    assert ended.err.count("\n") == 1
    assert "every request failed: HTTP 500: overloaded" in ended.err


# -- the real server --


def test_levels_of_a_closed_loop(run: Run) -> None:
    ended = run("bench", "add_sub", "--concurrency", "1:4:2x", *QUICK)
    assert ended.code == 0, ended
    assert ended.err == ""  # no progress bar where there is no terminal
    for words in ("concurrency 1", "throughput", "p99.9", "95 % sure", "of CPU for each request", "queue"):
        assert words in ended.out
    last = ended.out.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["1", "2", "4"]


@pytest.mark.parametrize(
    "words",
    [
        ("--concurrency", "3"),
        ("--concurrency", "3", "--aio"),
        ("--concurrency", "3", "--processes", "2"),
        ("--rate", "60"),
        ("--rate", "60", "--poisson"),
        ("--rate", "60", "--aio"),
        ("--rate", "60", "--processes", "2"),
    ],
    ids=" ".join,
)
def test_a_count_is_sent_exactly(run: Run, triton_client: Any, words: tuple[str, ...]) -> None:
    def served() -> int:
        stats = triton_client.get_inference_statistics("add_sub")["model_stats"][0]
        return int(stats["inference_stats"]["success"]["count"])

    before = served()
    ended = run("bench", "add_sub", *words, "--count", "40", "--json")
    assert ended.code == 0, ended
    (step,) = ended.json["steps"]
    assert step["requests"] == 40
    assert step["unanswered"] == 0
    wait_until(lambda: served() == before + 41)  # with the one that was tried first
    if "--rate" in words and "--poisson" not in words:
        assert 20 < step["throughput"]["value"] < 75  # a busy machine is late
    if "--aio" not in words:
        assert step["client"]["cpu"] > 0


def test_intervals_of_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "intervals").write_text("20000\n0\n10000\n")
    ended = run("bench", "add_sub", "--intervals", str(tmp_path / "intervals"), "--count", "30", "--json")
    (step,) = ended.json["steps"]
    assert (step["mode"], step["level"]) == ("intervals", 100)
    assert step["requests"] == 30


@pytest.mark.parametrize("aio", [(), ("--aio",)], ids=["threads", "aio"])
def test_wrong_answers_are_counted(run: Run, tmp_path: Path, aio: tuple[str, ...]) -> None:
    numbers = list(range(16))
    data = [{"INPUT0": numbers, "INPUT1": numbers}] * 2
    right, wrong = {"OUTPUT1": [0] * 16}, {"OUTPUT1": [1] * 16}
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"data": data, "validation_data": [right, wrong]}))
    ended = run("bench", "add_sub", "--input-data", str(file), "--count", "20", "--json", *aio)
    (step,) = ended.json["steps"]
    assert step["errors"] == {"wrong answer": 10}
    assert step["requests"] == 10
    assert "'OUTPUT1' differs" in step["messages"]["wrong answer"]


@pytest.mark.parametrize(
    "words", [("--concurrency", "2"), ("--rate", "100", "--sequences", "2"), ("--aio",)], ids=" ".join
)
def test_sequences(run: Run, words: tuple[str, ...]) -> None:
    ended = run("bench", "sequence_accumulate", *words, "--sequence-length", "4", "--count", "40", "--json")
    assert ended.code == 0, ended
    (step,) = ended.json["steps"]
    assert (step["requests"], step["errors"]) == (40, {})
    assert 8 <= step["sequences"] <= 16


@pytest.mark.parametrize("aio", [(), ("--aio",)], ids=["threads", "aio"])
def test_streams(run: Run, aio: tuple[str, ...]) -> None:
    words = ("bench", "repeat", "--streaming", "--shape", "IN:4", "--count", "10", "--json")
    (step,) = run(*words, *aio).json["steps"]
    assert step["requests"] == 10
    assert 0 < step["first_answer"]["p50"]["value"] <= step["latency"]["p50"]["value"]
    assert step["between_answers"]["p50"]["value"] > 0
    assert step["answers_per_second"] == pytest.approx(4 * step["throughput"]["value"], rel=0.2)


def test_inputs_of_all_kinds(run: Run) -> None:
    count = ("--count", "3", "--json")
    for words in (
        ("identity_bytes", "--shape", "INPUT0:2", "--string-length", "5"),
        ("identity_bytes", "--input", 'INPUT0=["a", "b"]'),
        ("identity_fp32", "--shape", "INPUT0:70000", "--shared-memory", "auto"),
        ("add_sub", "-b", "4", "--input-data", "zero"),
        ("add_sub", "--json-input", "--json-output"),
        ("slow", "--input", "DELAY=0.01"),
        ("add_sub", "--param", "a=1"),
    ):
        ended = run("bench", *words, *count)
        assert ended.code == 0, ended
        assert ended.json["steps"][0]["requests"] == 3


def test_files(run: Run, tmp_path: Path) -> None:
    names = {name: tmp_path / name for name in ("a.csv", "a.json", "a.html")}
    ended = run(
        *("bench", "add_sub", "--concurrency", "2", "--count", "30", "-f", str(names["a.csv"])),
        *("--profile-export-file", str(names["a.json"]), "--report", str(names["a.html"])),
    )
    assert ended.code == 0, ended
    (row,) = csv.DictReader(names["a.csv"].read_text().splitlines())
    assert row["Concurrency"] == "2"
    assert float(row["Server Compute Infer"]) > 0
    (experiment,) = json.loads(names["a.json"].read_text())["experiments"]
    assert len(experiment["requests"]) == 30
    now = time.time_ns()
    for request in experiment["requests"]:
        (answered,) = request["response_timestamps"]
        assert now - 60e9 < request["timestamp"] < answered < now
        assert len(request["request_inputs"]["INPUT0"]) == 16
    assert names["a.html"].read_text("utf-8").startswith("<!doctype html>")


def test_a_comparison_with_an_earlier_result(run: Run, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    words = ("bench", "slow", "--input", "DELAY=0.01", "--count", "30")
    before.write_text(run(*words, "--json").out)
    slower = ("bench", "slow", "--input", "DELAY=0.03", "--count", "30", "--compare", str(before))
    ended = run(*slower, "--fail-if", "p50>+50%")
    assert ended.code == 4, ended
    assert "more than chance" in ended.out
    assert "missed: p50>+50% at concurrency 1" in ended.out
    assert run(*slower, "--fail-if", "p50>+900%").code == 0
    run(*slower, "--concurrency", "2")  # a level of its own


def test_metrics_of_the_server(run: Run, triton_server: Any) -> None:
    url = getattr(triton_server, "metrics_url", None)
    if url is None:
        pytest.skip("the server's metrics are not known")
    ended = run("bench", "add_sub", *QUICK, "--metrics-url", url, "--json")
    (step,) = ended.json["steps"]
    assert step["gauges"]["nv_cpu_memory_used_bytes"] > 0


@pytest.mark.parametrize(
    "more", [(), ("--aio",), ("--processes", "2", "--concurrency", "2")], ids=["threads", "aio", "processes"]
)
def test_ctrl_c_keeps_what_was_measured(triton_server: Any, tmp_path: Path, more: tuple[str, ...]) -> None:
    profile = tmp_path / "profile.json"
    words = [
        "bench",
        "add_sub",
        "--warm-up",
        "0",
        "--window",
        "0.2",
        "--windows",
        "500",
        "--stability",
        "0.01",
    ]
    process = subprocess.Popen(
        [*COMMAND, *words, "--json", "--profile-export-file", str(profile), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TRITON_URL=triton_server.url),
    )
    try:
        with tritonhttp_client(triton_server.url) as client:
            before = served(client)
            wait_until(lambda: served(client) > before + 200, 30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err == ""
    (step,) = json.loads(out)["steps"]
    assert step["interrupted"]
    assert step["requests"] > 0
    assert len(json.loads(profile.read_text())["experiments"][0]["requests"]) > 0


def tritonhttp_client(url: str) -> Any:
    import tritonhttp

    return tritonhttp.InferenceServerClient(url)


def served(client: Any) -> int:
    stats = client.get_inference_statistics("add_sub")["model_stats"][0]
    return int(stats["inference_stats"]["success"]["count"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--concurrency", "0"), "--concurrency: expected a range"),
        (("--concurrency", "x"), "--concurrency: expected N"),
        (("--rate", "1:0"), "--rate: expected a range"),
        (("--rate", "5", "--concurrency", "5"), "expected one of them"),
        (("--poisson",), "--poisson needs --rate"),
        (("--intervals", "/nonexistent"), "/nonexistent: No such file"),
        (("--slo", "fast"), "--slo: expected a bound such as p99=50ms"),
        (("--slo", "p99=5ms", "--count", "5"), "--slo: expected --rate or --concurrency"),
        (("--window", "0"), "--window: expected 0.05 or more"),
        (("--window", "nan"), "--window: expected"),
        (("--batch", "9"), "--batch: expected 1 to 8, got 9"),
        (("--shape", "INPUT0:17"), "--shape INPUT0: expected [16], got [17]"),
        (("--shape", "X:1"), "has no input 'X'"),
        (("--input", "X=1"), "has no input 'X'"),
        (("--input", "INPUT0=[1]"), "INPUT0"),
        (("--input-data", "/nonexistent"), "--input-data: expected random, zero, or a file"),
        (("--input-data", __file__), "expected JSON such as"),
        (("--input-data", "zero", "--input-data", "random"), "--input-data: zero goes with nothing else"),
        (("--shared-memory", "system"), "--shared-memory: expected none or auto"),
        (("--sequence-ids", "5:2"), "--sequence-ids: expected FROM or FROM:TO"),
        (("--processes", "2"), "each needs a request in flight"),
        (("--fail-if", "p99>+10%"), "needs --compare"),
        (("--fail-if", "slow"), "--fail-if: expected a bound such as"),
        (("--compare", __file__), "expected a result of `tritonhttp bench --json`"),
        (("--csv", "/nonexistent/a.csv"), "--csv: no file can be written"),
        (("--report", "/tmp"), "--report: no file can be written"),
        (("--percentile", "100"), "--percentile"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_is_one_line_and_2(run: Run, words: tuple[str, ...], expected: str) -> None:
    run("bench", "add_sub", *words).failed(2, expected)


def test_an_open_shape_is_asked_for(run: Run) -> None:
    run("bench", "identity_fp32").failed(2, "say which, such as --shape INPUT0:1")


def test_no_server_and_no_model(run: Run) -> None:
    run("bench", "nonesuch").failed(1, "nonesuch")
    run("bench", "add_sub", "-u", "127.0.0.1:9").failed(3, "refused")
    run("bench", "fail").failed(1)


def test_the_results_of_a_decoupled_model_need_streaming(run: Run) -> None:
    run("bench", "repeat", "--shape", "IN:1").failed(1, "--streaming")


def test_random_values_are_the_same_with_the_same_seed(run: Run, tmp_path: Path) -> None:
    found = []
    for n, seed in enumerate(("1", "1", "2")):
        file = tmp_path / f"{n}.json"
        run("bench", "add_sub", "--count", "1", "--seed", seed, "--profile-export-file", str(file))
        request = json.loads(file.read_text())["experiments"][0]["requests"][0]
        found.append(np.array(request["request_inputs"]["INPUT0"]).tolist())
    assert found[0] == found[1] != found[2]
