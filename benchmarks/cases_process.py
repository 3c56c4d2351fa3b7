"""The cost to a process: importing, peak memory, and the memory that 100,000 requests leave behind."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cases_blocking import SMALL, identity
from contenders import PACKAGES, PublicPath, packages
from harness import FLOOR, OURS, REFERENCE, Block, Bound, Case, Site
from peers import BareSocket, Exchange, Task

NUMPY = "numpy alone"
LARGE_MIB = 64
SOAK_REQUESTS = 100_000
SOAK_WARM_UP = 2_000
IMPORT = """
import time
cpu, start = time.process_time(), time.perf_counter()
import {}
print(time.perf_counter() - start, time.process_time() - cpu)
"""


@contextlib.contextmanager
def importing(module: str, site: Site) -> Iterator[Block]:
    """Import in a new interpreter, which prints the time; with byte code, as after an installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def block(number: int) -> dict[str, float]:
        command = [sys.executable, "-c", IMPORT.format(module)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        wall, cpu = done.stdout.split()
        return {"wall": float(wall), "cpu": float(cpu)}

    block(1)  # writes missing byte code, warms the page cache
    yield block


def _status(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]


def _peak(call: Callable[[], object]) -> dict[str, float]:
    """Return how much the resident size rose during a call."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    return {"memory": _status("VmHWM") - before}


@contextlib.contextmanager
def peak_of_package(package: str, task: Task, site: Site) -> Iterator[Block]:
    """Make one large request in a process that has made only small ones before."""
    warm = PublicPath(package, SMALL)
    with warm.client(site) as client:
        for _ in range(20):
            warm.check(warm.read(client.infer(**warm.arguments())))
        path = PublicPath(package, task)  # the user's array exists beforehand
        yield lambda _: _peak(lambda: path.read(client.infer(**path.arguments())))


@contextlib.contextmanager
def peak_of_floor(task: Task, site: Site) -> Iterator[Block]:
    """Do the same with a bare socket; its own constructor makes a first, small exchange."""
    with contextlib.closing(BareSocket(site.address, Exchange(SMALL))) as call:
        call.prepare(Exchange(task))
        yield lambda _: _peak(call)


@contextlib.contextmanager
def soak(package: str, task: Task, site: Site) -> Iterator[Block]:
    """Make very many requests, and measure how much the process has grown since the first."""
    path = PublicPath(package, task)
    with path.client(site) as client:

        def block(number: int) -> dict[str, float]:
            def go(times: int) -> tuple[int, int]:
                for _ in range(times):
                    path.read(client.infer(**path.arguments()))
                gc.collect()
                return _status("VmRSS"), len(os.listdir("/proc/self/fd"))

            memory, files = go(SOAK_WARM_UP)
            cpu = time.process_time()
            memory_after, files_after = go(SOAK_REQUESTS)
            cpu = time.process_time() - cpu
            return {
                "memory": memory_after - memory,
                "files": files_after - files,
                "cpu": cpu / SOAK_REQUESTS,
            }

        yield block


CASES = [
    Case(
        name="import",
        title="import",
        contenders={
            **{name: functools.partial(importing, package) for name, package in PACKAGES.items()},
            NUMPY: functools.partial(importing, "numpy"),
        },
        metrics=("wall", "cpu"),
        bounds=(
            Bound(metric="wall", against=REFERENCE, at_most=0.85),
            Bound(metric="wall", against=NUMPY, at_most=0.035, difference=True),
        ),
        blocks=15,
        counts={OURS: 1, REFERENCE: 1, NUMPY: 1},
    ),
    Case(
        name="peak-memory",
        title=f"peak memory beyond the input, {LARGE_MIB} MB in and out, sink",
        server="sink",
        contenders={
            **packages(peak_of_package, identity(LARGE_MIB)),
            FLOOR: functools.partial(peak_of_floor, identity(LARGE_MIB)),
        },
        metrics=("memory",),
        bounds=(
            Bound(metric="memory", against=REFERENCE, at_most=0.52),
            Bound(metric="memory", against=FLOOR, at_most=1.03),
        ),
        blocks=5,
        fresh=True,
    ),
    Case(
        name="soak",
        title=f"left behind by {SOAK_REQUESTS:,} small requests, sink",
        server="sink",
        contenders={OURS: functools.partial(soak, PACKAGES[OURS], SMALL)},
        metrics=("memory", "files", "cpu"),
        blocks=1,
        fresh=True,
    ),
]
