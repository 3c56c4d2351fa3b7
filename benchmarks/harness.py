"""How a case is measured: a process for each contender, blocks in turn, medians over the blocks.

A case names its contenders. A contender is a context manager that takes a `Site` and yields a `Block`: a
function that makes ``n`` requests and returns its measurements. The parent keeps one process for each contender
and finds out how many requests fill a block. Then it asks the contenders for a block each, one after the other,
in an order that rotates each round. Nothing else runs meanwhile. The garbage collector keeps its default
settings and also runs between blocks. CPU is that of the contender's process: user and system, all threads.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

Block = Callable[[int], dict[str, float]]
Builder = Callable[["Site"], AbstractContextManager[Block]]

OURS, REFERENCE, FLOOR, LIBCURL = "tritonhttp", "tritonclient", "bare socket", "libcurl"
ANSWER_TIMEOUT = 240.0  # seconds without an answer after which a contender is ended
QUICK_BLOCKS = 2
FEW = 30  # a block of at most this many calls has long calls


@dataclass(frozen=True, kw_only=True)
class Site:
    """The address of the contenders' requests: ``host:port``, and the certificates of a TLS server."""

    server: str
    url: str = ""
    ca: str = ""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.rpartition(":")
        return host, int(port)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A bound on tritonhttp's median: its ratio to another contender's median, or their difference.

    ``of`` is tritonhttp, or a contender that is another form of it.
    """

    metric: str
    against: str
    of: str = OURS
    at_most: float | None = None
    at_least: float | None = None
    difference: bool = False

    def measure(self, ours: float, other: float) -> float:
        """Return the ratio or the difference of two medians."""
        return ours - other if self.difference else ours / other if other else float("inf")

    def met(self, measured: float) -> bool:
        """Return whether the measured ratio or difference keeps the bound."""
        return measured <= self.at_most if self.at_most is not None else measured >= (self.at_least or 0.0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of work for several contenders.

    Parameters
    ----------
    server : str
        ``triton``, ``sink``, ``tls`` (the sink's TLS port) or ``""``.
    blocks : int
        Blocks for each contender.
    seconds : float
        What a block should take about; the number of requests follows from a trial.
    least : int
        Requests in a block, at least.
    counts : mapping
        A fixed number of requests in a block, by contender.
    fresh : bool
        A new process for every block: for what can be measured only once in a process.
    """

    name: str
    title: str
    contenders: Mapping[str, Builder]
    metrics: tuple[str, ...] = ("cpu", "p50")
    server: str = ""
    bounds: tuple[Bound, ...] = ()
    blocks: int = 5
    seconds: float = 0.2
    least: int = 3
    counts: Mapping[str, int] = field(default_factory=dict)
    fresh: bool = False


@dataclass
class Measured:
    """The measurements of one contender's blocks, or the reason why there are none."""

    blocks: list[dict[str, float]] = field(default_factory=list)
    requests: int = 0
    missing: str = ""  # not installed or not written yet
    failed: str = ""

    def values(self, metric: str) -> list[float]:
        """Return one metric over the blocks."""
        return [block[metric] for block in self.blocks if metric in block]

    def median(self, metric: str) -> float | None:
        """Return the median over the blocks."""
        values = self.values(metric)
        return statistics.median(values) if values else None

    def quartiles(self, metric: str) -> tuple[float, float] | None:
        """Return the first and third quartile over the blocks."""
        values = self.values(metric)
        if len(values) < 2:
            return (values[0], values[0]) if values else None
        first, _, third = statistics.quantiles(values, n=4, method="inclusive")
        return first, third


# Blocks: what a contender yields


def one_by_one(call: Callable[[], object]) -> Block:
    """Return a block that calls n times: CPU seconds of a call, and its median wall seconds.

    CPU is the mean of many short calls. For a few long calls it is the median of each call's own CPU, because the
    kernel occasionally needs 200 ms of CPU to receive one large body, for any client.
    """

    def many(number: int) -> dict[str, float]:
        clock = time.perf_counter
        walls = [0.0] * number
        cpu = time.process_time()
        for i in range(number):
            start = clock()
            call()
            walls[i] = clock() - start
        cpu = time.process_time() - cpu
        return {"cpu": cpu / number, "p50": statistics.median(walls)}

    def block(number: int) -> dict[str, float]:
        if number > FEW:
            return many(number)
        calls = [many(1) for _ in range(number)]
        return {metric: statistics.median(each[metric] for each in calls) for metric in calls[0]}

    return block


def all_at_once(batch: Callable[[int], Sequence[float] | None]) -> Block:
    """Return a block around a function that makes n requests: CPU seconds of one, requests a second."""

    def block(number: int) -> dict[str, float]:
        cpu, start = time.process_time(), time.perf_counter()
        walls = batch(number)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        measured = {"cpu": cpu / number, "rate": number / wall}
        if walls:
            measured["p50"] = statistics.median(walls)
        return measured

    return block


@contextlib.contextmanager
def in_threads(calls: Sequence[Callable[[], object]]) -> Iterator[Block]:
    """Yield a block that runs the calls concurrently, each in its own thread."""

    def repeat(call: Callable[[], object], number: int) -> None:
        for _ in range(number):
            call()

    with ThreadPoolExecutor(len(calls)) as pool:

        def batch(number: int) -> None:
            shares = [(number + i) // len(calls) for i in range(len(calls))]
            list(pool.map(repeat, calls, shares))

        yield all_at_once(batch)


def loop() -> float:
    """Return the CPU seconds of a fixed loop: they vary with the load by other guests of the machine."""
    start = time.process_time()
    for _ in range(300_000):
        pass
    return time.process_time() - start


# The contenders' processes


def _stay_off_the_sinks_core() -> None:
    with contextlib.suppress(AttributeError, OSError):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[:-1])


def _contend(pipe: multiprocessing.connection.Connection, build: Builder, site: Site) -> None:
    """Run a contender: build it, report that, then measure a block for each number received, until 0."""
    try:
        if site.server in ("sink", "tls"):
            _stay_off_the_sinks_core()
        with build(site) as block:
            pipe.send(("built", None))
            while number := pipe.recv():
                gc.collect()
                start = time.perf_counter()
                measured = block(number)
                pipe.send(("block", (time.perf_counter() - start, measured)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except ImportError as error:
        pipe.send(("missing", str(error)))
    except AttributeError as error:
        # A package that is still empty, or a peer that is too old.
        kind = "missing" if str(error).startswith("module ") else "failed"
        pipe.send((kind, traceback.format_exc(limit=-4)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc(limit=-6)))


class _Failed(Exception):
    """A contender failed: the error's kind and text."""


class _Contender:
    """The parent's end of one contender's process."""

    def __init__(self, build: Builder, site: Site) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_contend, args=(theirs, build, site), daemon=True)
        self._process.start()
        theirs.close()

    def expect(self, kind: str) -> object:
        try:
            if not self._pipe.poll(ANSWER_TIMEOUT):
                raise _Failed("failed", f"no answer within {ANSWER_TIMEOUT:g} s")
            got, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(5)
            raise _Failed("failed", f"its process ended with {self._process.exitcode}") from None
        if got != kind:
            raise _Failed(got, value)
        return value

    def block(self, number: int) -> tuple[float, dict[str, float]]:
        self._pipe.send(number)
        return self.expect("block")  # type: ignore[return-value]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(0)
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def _calibrate(contender: _Contender, case: Case, name: str) -> int:
    """Warm up, and return how many requests make a block."""
    fixed = case.counts.get(name)
    if fixed:
        contender.block(max(1, fixed // 10))
        return fixed
    number = 1
    if contender.block(number)[0] >= case.seconds:
        return case.least
    while True:
        seconds, _ = contender.block(number)
        if seconds >= case.seconds / 5 or number >= 100_000:
            return max(case.least, round(number * case.seconds / max(seconds, 1e-9)))
        number = max(number + 1, round(number * min(8.0, case.seconds / 3 / max(seconds, 1e-9))))


def run(
    case: Case, site: Site, *, quick: bool = False, say: Callable[[str, float], None] = lambda *_: None
) -> dict[str, Measured]:
    """Measure one case; ``say`` gets the contender whose turn it is, and the share of the case that is done."""
    results = {name: Measured() for name in case.contenders}
    rounds = min(case.blocks, QUICK_BLOCKS) if quick else case.blocks
    with contextlib.ExitStack() as stack:

        def start(name: str) -> _Contender:
            contender = _Contender(case.contenders[name], site)
            stack.callback(contender.end)
            return contender

        def give_up(name: str, failure: _Failed) -> None:
            kind, text = failure.args
            setattr(results[name], kind if kind == "missing" else "failed", text)
            running.pop(name, None)

        running = {name: start(name) for name in case.contenders}
        for name in case.contenders:
            say(name, 0.0)
            try:
                running[name].expect("built")
                results[name].requests = 1 if case.fresh else _calibrate(running[name], case, name)
            except _Failed as failure:
                give_up(name, failure)
        for turn in range(rounds):
            names = list(running)
            for i in range(len(names)):
                name = names[(i + turn) % len(names)]
                say(name, (turn + i / len(names)) / rounds)
                try:
                    if case.fresh and turn:
                        running[name] = start(name)
                        running[name].expect("built")
                    results[name].blocks.append(running[name].block(results[name].requests)[1])
                    if case.fresh:
                        running[name].end()
                except _Failed as failure:
                    give_up(name, failure)
    return results
