"""Call a real Triton for a long time while everything around the calls goes wrong, and report what came of it.

Run ``python -m tests.soak --seconds 1800``, or ``make soak SECONDS=1800``. Ends with status 1 if any promise was
broken. ``--keep FILE`` appends the report to a file of JSON lines, ``--sum FILE`` prints the sum of such a file
as a table.

Two Tritons run; one after the other is killed or stopped and started again, while a model of theirs is loaded and
unloaded. Two processes call them, 16 threads and 500 asyncio tasks, half of the time through the injector.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tritonhttp import InferenceServerClient, InferenceServerException
from tritonhttp.testing import TritonServer, packaged_models

from .calls import LARGEST

_MODELS = ("tagged", "repeat", "sequence_accumulate")
#: How many KiB more a process may have allocated in the end than after its first seconds; and for each call, for
#: the books of this soak. Resident memory says less: allocators keep what threads have freed.
MEMORY, PER_CALL = 8 << 10, 0.05


def repository(folder: Path) -> tuple[Path, Path]:
    """Make the repository of models; return it, and the journal of the tagged ones."""
    models, journal = folder / "models", folder / "journal"
    for name in ("repeat", "sequence_accumulate"):
        shutil.copytree(packaged_models() / name, models / name)
    for name in ("tagged", "visitor"):
        shutil.copytree(Path(__file__).parent / "models" / "tagged", models / name)
        with open(models / name / "config.pbtxt", "a") as config:
            config.write(f'parameters {{ key: "journal" value: {{ string_value: "{journal}" }} }}\n')
    journal.touch()
    return models, journal


class Chaos:
    """Kills and restarts Tritons, and loads and unloads a model, until it is over.

    Parameters
    ----------
    every : float
        Seconds between two restarts.
    """

    def __init__(self, servers: list[TritonServer], every: float, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self._servers, self._every = servers, every
        self._random = random.Random(f"chaos {seed}")
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._restart, self._visit)]

    def __enter__(self) -> Chaos:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _restart(self) -> None:
        turn = 0
        while not self._over.wait(self._every):
            server, how = self._servers[turn % len(self._servers)], ("kill", "stop")[turn % 3 == 2]
            turn += 1
            crashed = not server.running
            self.done[
                "servers that ended by themselves"
                if crashed
                else f"servers {'killed' if how == 'kill' else 'stopped'}"
            ] += 1
            getattr(server, how)()
            self._over.wait(self._random.uniform(0, 2))
            try:
                server.start()
            except RuntimeError:  # TritonFailed: once more, on a machine that is too busy
                try:
                    server.start()
                except RuntimeError as error:
                    self.problems.append(str(error)[:300])

    def _visit(self) -> None:
        while not self._over.wait(self._random.uniform(0.2, 2.0)):
            server = self._random.choice(self._servers)
            with (
                contextlib.suppress(InferenceServerException),
                InferenceServerClient(server.url, deadline=20) as client,
            ):
                how = self._random.choice(("load", "unload"))
                getattr(client, f"{how}_model")("visitor")
                self.done[f"models {how}ed"] += 1


@contextlib.contextmanager
def injector(servers: list[TritonServer], rate: float, seed: int, done: Counter[str]) -> Iterator[list[str]]:
    """Run the injector in front of servers; its addresses. Adds its faults to `done` in the end."""
    ports = ":".join(server.url.rpartition(":")[2] for server in servers)
    command = [sys.executable, "-m", "tests.soak.injector", ports, str(rate), str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield [f"127.0.0.1:{port}" for port in json.loads(process.stdout.readline())]
            told, _ = process.communicate(timeout=30)
            done.update(json.loads(told))
        finally:
            process.kill()


def soak(
    seconds: float,
    *,
    threads: int = 16,
    tasks: int = 500,
    rate: float = 0.04,
    restart_every: float = 20.0,
    warm_up: float = 10.0,
    largest: int = LARGEST,
    in_flight: int = 1 << 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Run a soak, and return its report; "broken" lists the promises that were broken."""
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="tritonhttp-soak-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        models, journal = repository(folder)
        servers = [
            TritonServer(models, models=_MODELS, args=["--disable-auto-complete-config"]) for _ in range(2)
        ]
        for server in servers:
            stack.enter_context(server)
        injected = stack.enter_context(injector(servers, rate, seed, faults))
        started = time.time()
        callers = []
        for index, (kind, count) in enumerate((("threads", threads), ("tasks", tasks))):
            given = {
                "kind": kind,
                "callers": count,
                "first": 1 + index * 1000,
                "direct": [server.url for server in servers],
                "injected": injected,
                "seed": seed,
                "largest": largest,
                "in_flight": in_flight // 2,
                "warm_up": warm_up,
                "seconds": seconds,
                "tags": str(folder / f"{kind}.npz"),
                "diary": str(folder / f"{kind}.txt"),
            }
            command = [sys.executable, "-m", "tests.soak.caller", json.dumps(given)]
            callers.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
        try:
            with Chaos(servers, restart_every, seed) as chaos:
                told = [_told(process, seconds + warm_up + 240) for process in callers]
        finally:
            for process in callers:
                process.kill()
                process.wait()
        stack.pop_all().close()
        report: dict[str, Any] = {
            "seconds": round(time.time() - started),
            "threads": told[0],
            "tasks": told[1],
            "faults": faults + chaos.done,
        }
        broken = [*chaos.problems]
        for kind in ("threads", "tasks"):
            broken += _broken(kind, report[kind])
        report["runs"], doubled, missing = effects(
            journal, [folder / f"{kind}.npz" for kind in ("threads", "tasks")]
        )
        report["doubled"], report["missing"] = len(doubled), len(missing)
        diary = [folder / f"{kind}.txt" for kind in ("threads", "tasks")]
        broken += [f"ran {times} times: {_line(diary, tag)}" for tag, times in doubled[:20]]
        broken += [f"was answered and did not run: tag {tag}" for tag in missing[:20]]
    left = [name for name in os.listdir("/dev/shm") if any(f"-{each.pid}-" in name for each in callers)]
    broken += [f"left in /dev/shm: {name}" for name in left if name.startswith("tritonhttp-region-")]
    report["broken"] = broken
    return report


def _told(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """Return the report of a process of callers."""
    try:
        out, complaints = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGUSR1)  # have it print where its threads are
        time.sleep(1)
        process.kill()
        out, complaints = process.communicate()
        return {"hangs": complaints[-20000:]}
    line = out.strip().rpartition("\n")[2]
    if not line.startswith("{"):
        return {"hangs": f"status {process.returncode}: {complaints[-20000:]}"}
    return {**json.loads(line), "stderr": complaints[-20000:]}


def _line(files: list[Path], tag: int) -> str:
    """Return what a diary says of an inference."""
    for file in files:
        with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(f"{tag} "):
                    return line.strip()
    return f"tag {tag}"


def _broken(kind: str, told: dict[str, Any]) -> list[str]:
    """List the promises that a process of callers has seen broken."""
    if "hangs" in told:
        return [f"{kind}: {told['hangs']}"]
    broken = [
        f"{kind}: {name}: {each}"
        for name in ("wrong", "foreign", "complaints", "lost")
        for each in told[name][:10]
    ]
    if told["unpaired hooks"]:
        broken.append(f"{kind}: {told['unpaired hooks']} more calls of on_request than of on_response")
    if told["stderr"]:
        broken.append(f"{kind}: {told['stderr']}")
    before, after = told["before"], told["after"]
    allowed = {"memory": MEMORY + PER_CALL * told["counts"]["calls"]}
    for what in ("threads", "descriptors", "shared memory", "memory"):
        if after[what] > before[what] + allowed.get(what, 0):
            broken.append(f"{kind}: {what} {before[what]} before, {after[what]} after")
    return broken


def effects(journal: Path, files: list[Path]) -> tuple[int, list[tuple[int, int]], list[int]]:
    """Return how many inferences ran, those that ran too often, and those that were answered and never ran."""
    ran, times = np.unique(np.fromfile(journal, "<i8"), return_counts=True)
    doubled: list[tuple[int, int]] = []
    missing: list[int] = []
    for file in files:
        if not file.exists():
            continue
        with np.load(file) as told:
            tags, most, least = told["tags"], told["most"], told["least"]
        at = np.minimum(np.searchsorted(ran, tags), len(ran) - 1)
        found = np.where(ran[at] == tags, times[at], 0) if len(ran) else np.zeros(len(tags), int)
        doubled += [(int(tags[each]), int(found[each])) for each in np.flatnonzero(found > most)]
        missing += [int(tags[each]) for each in np.flatnonzero((least > 0) & (found == 0))]
    return int(times.sum()), doubled, missing


def summed(reports: list[dict[str, Any]]) -> str:
    """Return the sum of reports as a table."""

    def total(*path: str) -> int:
        found = 0
        for report in reports:
            for kind in ("threads", "tasks"):
                value: Any = report[kind]
                for name in path:
                    value = value.get(name, 0) if isinstance(value, dict) else 0
                found += len(value) if isinstance(value, list) else value
        return found

    def most(what: str) -> str:
        found = {
            kind: [report[kind]["after"][what] - report[kind]["before"][what] for report in reports]
            for kind in ("threads", "tasks")
        }
        return ", ".join(f"{kind}: {max(each):+,}" for kind, each in found.items())

    faults: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for report in reports:
        faults.update(report["faults"])
        for kind in ("threads", "tasks"):
            errors.update(report[kind]["errors"])
    rows = {
        "runs, seconds": f"{len(reports)}, {sum(report['seconds'] for report in reports):,}",
        "calls": f"{total('counts', 'calls'):,}",
        "answers, each compared with its own request": f"{total('counts', 'answers'):,}",
        "errors of the tree": f"{total('counts', 'errors'):,}",
        "cancelled": f"{total('counts', 'cancelled'):,}",
        "retries": f"{total('counts', 'retries'):,}",
        "inferences run by the counting model": f"{sum(report['runs'] for report in reports):,}",
        "**wrong answers**": f"{total('wrong'):,}",
        "**lost answers**": f"{total('lost'):,}",
        "**calls that ran more often than they may**": f"{sum(report['doubled'] for report in reports):,}",
        "**answered, and never run**": f"{sum(report['missing'] for report in reports):,}",
        "**other exceptions**": f"{total('foreign') + total('complaints'):,}",
        "**calls of `on_request` without one of `on_response`**": f"{total('unpaired hooks'):,}",
        "threads more at the end than at the beginning, at most": most("threads"),
        "descriptors more": most("descriptors"),
        "objects in /dev/shm more": most("shared memory"),
        "KiB allocated more": most("memory"),
        "KiB resident more": most("resident"),
    }
    lines = ["| | |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows.items())]
    for title, counts in (("faults", faults), ("errors", errors)):
        lines += ["", f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counts.most_common())]
    return "\n".join(lines)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rate", type=float, default=0.04, help="the share of exchanges with a fault")
    parser.add_argument("--keep", type=Path, help="append the report to this file")
    parser.add_argument("--sum", type=Path, help="print the sum of the reports in this file")
    given = parser.parse_args()
    if given.sum:
        print(summed([json.loads(line) for line in given.sum.read_text().splitlines()]))  # noqa: T201
        return 0
    report = soak(given.seconds, rate=given.rate, seed=given.seed)
    if given.keep:
        with open(given.keep, "a") as file:
            file.write(json.dumps({**report, "seed": given.seed}) + "\n")
    if all("counts" in report[kind] for kind in ("threads", "tasks")):
        print(summed([report]))  # noqa: T201
    for problem in report["broken"]:
        print("BROKEN:", problem)  # noqa: T201
    return 1 if report["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
