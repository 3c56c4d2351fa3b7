"""`tritonhttp bench` beside NVIDIA's perf_analyzer, a C++ program: the same model, levels and windows, in turn.

perf_analyzer is the program that the environment variable PERF_ANALYZER names, or the one on PATH; it needs glibc
2.38. Each block is one run of three windows, however its figures vary. CPU: of perf_analyzer, that of its process
less that of a run of a few requests, over the requests that the server counts; of `tritonhttp bench`, what it says
itself of its windows. So neither start counts.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from harness import OURS, Block, Bound, Case, Site

PEER = "perf_analyzer"
MODEL = "add_sub"
WINDOW = 1.0
#: About half of what the model's server does on two cores.
RATE = 1000
#: In an open loop, for both: perf_analyzer has 4 unless told, and so sends little into a server that is slow.
IN_FLIGHT = 16
TIMEOUT = 60.0


@contextlib.contextmanager
def ours(level: tuple[str, int], site: Site) -> Iterator[Block]:
    """Run `tritonhttp bench`."""
    import typer  # noqa: F401  missing: the case is skipped

    option, value = level
    command = [sys.executable, "-m", "tritonhttp", "bench", MODEL, "-u", site.url, f"--{option}", str(value)]
    command += [
        "--warm-up",
        "0.3",
        "--window",
        str(WINDOW),
        "--windows",
        "3",
        "--stability",
        "999999",
        "--json",
    ]
    command += ["--max-in-flight", str(IN_FLIGHT)]

    def block(number: int) -> dict[str, float]:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
        (step,) = json.loads(done.stdout)["steps"]
        latency = step["latency"]
        sent = step["latency_from_sending"] or latency
        return {
            "rate": step["throughput"]["value"],
            "cpu": step["client"]["cpu"],
            "p50": latency["p50"]["value"],
            "p99": latency["p99"]["value"],
            "sent": sent["p99"]["value"],
        }

    yield block


@contextlib.contextmanager
def peer(level: tuple[str, int], site: Site) -> Iterator[Block]:
    """Run perf_analyzer."""
    import tritonhttp

    program = os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")
    if program is None or not Path(program).exists():
        raise ImportError("perf_analyzer is neither on PATH nor named by PERF_ANALYZER")
    option, value = level
    basic = [program, "-m", MODEL, "-u", site.url, "-i", "http"]
    windows = ["-p", str(round(WINDOW * 1000)), "-r", "3", "-s", "999999", "--percentile", "99"]
    loads = {"concurrency": "--concurrency-range", "rate": "--request-rate-range"}
    if option == "rate":
        windows += ["--max-threads", str(IN_FLIGHT)]

    def run(command: list[str]) -> tuple[str, float, int]:
        """Return its output, its CPU seconds, and how many requests the server has answered meanwhile."""
        before = served()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"perf_analyzer ended with {process.returncode}: {text[-500:]}")
        return text, usage.ru_utime + usage.ru_stime, served() - before

    with tritonhttp.InferenceServerClient(site.url) as client:

        def served() -> int:
            stats = client.get_inference_statistics(MODEL)["model_stats"][0]
            return int(stats["inference_stats"]["success"]["count"])

        try:
            _, start, _ = run([*basic, "--concurrency-range", "1", "--request-count", "10"])
        except OSError as error:
            raise ImportError(f"{program} does not run here: {error}") from error

        def block(number: int) -> dict[str, float]:
            text, cpu, requests = run([*basic, loads[option], str(value), *windows])
            figures = {"rate": float(re.search(r"Throughput: ([\d.]+)", text)[1])}  # type: ignore[index]
            for name in ("p50", "p99"):
                figures[name] = float(re.search(rf"{name} latency: (\d+) usec", text)[1]) / 1e6  # type: ignore[index]
            # perf_analyzer counts from the moment of sending, so that of late requests the wait is left out.
            return {**figures, "sent": figures["p99"], "cpu": (cpu - start) / requests}

        yield block


def _case(name: str, title: str, level: tuple[str, int], bounds: tuple[Bound, ...]) -> Case:
    return Case(
        name=name,
        title=title,
        server="triton",
        contenders={OURS: functools.partial(ours, level), PEER: functools.partial(peer, level)},
        metrics=("rate", "cpu", "p50", "p99", "sent"),
        bounds=bounds,
        blocks=5,
        counts={OURS: 1, PEER: 1},
    )


def _closed(concurrency: int, cpu: float) -> Case:
    return _case(
        f"loadtest-{concurrency}",
        f"`tritonhttp bench`, concurrency {concurrency}, Triton",
        ("concurrency", concurrency),
        (
            Bound(metric="rate", against=PEER, at_least=1.0),
            Bound(metric="cpu", against=PEER, at_most=cpu),
            Bound(metric="p50", against=PEER, at_most=1.05),
        ),
    )


CASES = [
    _closed(1, 0.75),
    _closed(16, 0.9),
    _case(
        "loadtest-open",
        f"`tritonhttp bench`, {RATE:,} requests/s from their intended starts, Triton",
        ("rate", RATE),
        (Bound(metric="sent", against=PEER, at_most=1.1),),
    ),
]
