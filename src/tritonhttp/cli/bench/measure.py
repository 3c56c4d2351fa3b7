"""One step: load at one level, warmed up, in windows, until they agree or there were enough of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..counters import ServerFigures
from .figures import Figures, Records, figures, is_stable, joined
from .schedule import Level, Schedule
from .server_side import Server, figures_between

__all__ = ["Progress", "Rule", "Step", "measure"]

#: Seconds between two looks at an open load, which may need workers, and at a closed one.
_TICK, _SLOW_TICK = 0.02, 0.1
_SHOW = 0.25
#: Seconds after the start until the first request of an open loop is due.
_HEAD_START = 0.05
_DRAIN = 30.0
#: From this share of a core for each process on, the client is taken for the limit.
_FULL_CORE = 0.9
_FULL_MACHINE = 0.95
#: Requests late by this, though workers were idle, mean a client that is not woken in time.
_LATE_LOOP = 0.005


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a step has lasted long enough.

    Attributes
    ----------
    window : float
        Seconds of a window.
    window_count : int
        Requests of a window at least; 0: windows are cut by time.
    warm_up : float
    trials : int
        The most windows.
    stability : float
        Percent by which three windows may differ.
    percentile : float
        The latency that decides on stability; 0: the mean.
    """

    window: float = 2.0
    window_count: int = 0
    warm_up: float = 1.0
    trials: int = 10
    stability: float = 10.0
    percentile: float = 0.0

    @property
    def metric(self) -> str:
        """The name of the latency that decides."""
        return f"p{self.percentile:g}" if self.percentile else "avg"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one level showed.

    Attributes
    ----------
    stable : bool
        Whether the last three windows agreed.
    cpu : float
        Client CPU seconds of a request; `cores` of them were busy.
    again : int
        Requests that were sent again.
    busy : float
        The share of all cores of this machine that was busy; NaN if unknown.
    limits : tuple of str
        Why the client, and not the server, may have been the limit.
    timeline : list of tuple
        For each second since the begin: answers, failures, p50 and p99 latency in seconds.
    """

    level: Level
    figures: Figures
    windows: list[tuple[float, float]]
    stable: bool
    interrupted: bool = False
    cpu: float = float("nan")
    cores: float = float("nan")
    again: int = 0
    busy: float = float("nan")
    server: ServerFigures | None = None
    gauges: Mapping[str, float] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    timeline: list[tuple[float, int, int, float, float]] = field(default_factory=list)
    records: Records = field(default_factory=Records.none, repr=False)
    span: tuple[int, int] = (0, 0)


#: Told now and then: a share of the step (0 to 1), and a few running figures.
Progress = Callable[[float, str], None]


def measure(
    load: Any,
    level: Level,
    rule: Rule,
    *,
    server: Server | None = None,
    progress: Progress | None = None,
    metrics: Sequence[str] = (),
    processes: int = 1,
    asyncio: bool = False,
) -> Step:
    """Put a load at a level and return what it showed. Ctrl-C ends the step early; what was measured is kept."""
    run = _Run(load, level, rule, server, progress, metrics, processes, asyncio)
    run.go()
    return run.result()


class _Run:
    def __init__(
        self,
        load: Any,
        level: Level,
        rule: Rule,
        server: Server | None,
        progress: Progress | None,
        metrics: Sequence[str],
        processes: int,
        asyncio: bool,
    ) -> None:
        self.load, self.level, self.rule, self.server = load, level, rule, server
        self.progress, self.metrics, self.processes, self.asyncio = (
            progress,
            list(metrics),
            processes,
            asyncio,
        )
        self.parts: list[Records] = []
        self.marks: list[int] = []
        self.windows: list[tuple[float, float]] = []
        self.stable = self.interrupted = self.drained = False
        self.stopped = 0
        self.lag = 0.0
        self._fresh: list[Records] = []
        self._shown = 0.0
        self._seen = 0

    def go(self) -> None:
        """Run the load and cut its time into windows."""
        self.origin = time.perf_counter_ns() + int(_HEAD_START * 1e9)
        try:
            if self.level.count:  # all requests count, the first ones too
                self._mark()
            self.load.start(self.level, self.origin)
            if not self.level.count:
                self._wait(self.rule.warm_up, 0.0)
                self._mark()
            if self.server is not None:
                self.server.begin()
            while not self._settled():
                done = len(self.windows) / (1 if self.level.count else self.rule.trials)
                self._wait(self.rule.window, done)
                self._cut()
        except KeyboardInterrupt:
            self.interrupted = True
            if not self.marks:
                self._mark()
            self._cut()
        self.after = self._outside()
        self.lag, self.full = self.load.lag, self.load.full
        self.stopped = time.perf_counter_ns()
        try:
            self.drained = self.load.end(1.0 if self.interrupted else _DRAIN)
        except KeyboardInterrupt:
            self.interrupted = True
        self._collect()

    def _settled(self) -> bool:
        if self.level.count:
            return bool(self.windows) and self.load.done
        self.stable = is_stable(self.windows, self.rule.stability)
        return self.stable or len(self.windows) >= self.rule.trials

    def _wait(self, seconds: float, done: float) -> None:
        """Wait for a window: its time has passed, or its requests have come."""
        rule = self.rule
        begin = time.perf_counter()
        target = self._seen + rule.window_count
        limit = seconds if not (rule.window_count and self.marks) else max(seconds * 10, 60.0)
        next_look = begin
        while (now := time.perf_counter()) - begin < limit:
            if self.level.count and self.load.done:
                return
            if rule.window_count and self.marks and self._seen >= target:
                return
            time.sleep(max(0.0, min(_TICK if self.level.open else _SLOW_TICK, limit - (now - begin))))
            self.load.tend()
            if rule.window_count and self.marks:
                self._collect()
            if self.progress is not None and now - self._shown >= _SHOW:
                self._shown = now
                self._collect()
                share = done + min(1.0, (now - begin) / max(limit, 1e-9)) / rule.trials
                self.progress(min(share, 1.0), self._words())
            if self.server is not None and self.marks and now >= next_look:
                next_look = now + 1.0
                self.server.look()
        self._collect()

    def _collect(self) -> None:
        new = self.load.take()
        if len(new):
            self.parts.append(new)
            self._fresh.append(new)
            self._seen += len(new)

    def _words(self) -> str:
        """Return the figures of the last second."""
        now = time.perf_counter_ns()
        recent = joined(self._fresh[-8:])
        recent = recent.where(recent.end >= now - 1_000_000_000)
        if not len(recent):
            return "no answer yet"
        latencies = (recent.end - recent.due) / 1e6
        failed = int((recent.kind != 0).sum())
        return (
            f"{len(recent) / min(1.0, max((now - self.origin) / 1e9, 0.1)):,.0f}/s"
            f" · p50 {np.quantile(latencies, 0.5):.2f} ms · p99 {np.quantile(latencies, 0.99):.2f} ms"
            + (f" · {failed} errors" if failed else "")
        )

    def _mark(self) -> None:
        self.before = self._outside()
        self.marks.append(time.perf_counter_ns())
        self._fresh = []

    def _cut(self) -> None:
        """End a window."""
        self._collect()
        self.marks.append(time.perf_counter_ns())
        begin, end = self.marks[-2:]
        window = joined(self._fresh)
        window = window.where((window.end >= begin) & (window.end < end) & (window.kind == 0))
        self._fresh = []
        latencies = window.end - window.due
        rate = len(window) / max((end - begin) / 1e9, 1e-9)
        if len(latencies):
            share = self.rule.percentile / 100
            latency = float(np.quantile(latencies, share)) if share else float(latencies.mean())
        else:
            latency = float("nan")
        self.windows.append((rate, latency / 1e9))

    def _outside(self) -> tuple[float, tuple[float, int], tuple[float, float], Any]:
        snapshot = self.server.snapshot() if self.server is not None else None
        return time.perf_counter(), self.load.stats(), _machine(), snapshot

    # -- the result --

    def result(self) -> Step:
        """Return what came of it."""
        records = joined(self.parts)
        begin = self.marks[0]
        end = self.marks[-1]
        if self.level.count and len(records):
            begin = self.origin if self.level.open else int(records.start.min())
            end = int(records.end.max()) + 1
        missing = self._missing(records, begin, end) if self.level.open else None
        names = self.load.failures.names
        found = figures(
            records,
            begin,
            end,
            names=names,
            metrics=self.metrics,
            missing=missing,
            stopped=time.perf_counter_ns() if missing is not None and not self.drained else self.stopped,
            open_loop=self.level.open,
        )
        (wall, (cpu, again), machine, before), (wall2, (cpu2, again2), machine2, after) = (
            self.before,
            self.after,
        )
        took = max(wall2 - wall, 1e-9)
        ended = int(((records.end >= self.marks[0]) & (records.end < self.marks[-1])).sum())
        cores = (cpu2 - cpu) / took
        total = machine2[1] - machine[1]
        busy = (machine2[0] - machine[0]) / total if total > 0 else float("nan")
        gauges = {}
        for name, values in (self.server.gauges if self.server is not None else {}).items():
            gauges[name] = max(values) if "memory" in name else sum(values) / len(values)
        span = records.where((records.end >= begin) & (records.end < end))
        return Step(
            level=self.level,
            figures=found,
            windows=self.windows,
            stable=self.stable or bool(self.level.count),
            interrupted=self.interrupted,
            cpu=(cpu2 - cpu) / ended if ended else float("nan"),
            cores=cores,
            again=again2 - again,
            busy=busy,
            server=figures_between(before, after) if before and after else None,
            gauges=gauges,
            limits=tuple(self._limits(found, cores, busy)),
            words=dict(self.load.failures.words),
            timeline=_timeline(records, begin, end),
            records=span,
            span=(begin, end),
        )

    def _missing(self, records: Records, begin: int, end: int) -> Any:
        """Return when requests were due that have not ended."""
        schedule = Schedule(self.level)
        until = min(end, self.stopped)
        count = schedule.due(max(0, until - self.origin))
        if self.level.count:
            count = min(count, self.level.count)
        due = schedule.all(np.arange(count)) + self.origin
        return np.setdiff1d(due[due >= begin], records.due)

    def _limits(self, found: Figures, cores: float, busy: float) -> list[str]:
        words = []
        each = cores / self.processes
        if each >= _FULL_CORE:
            more = (
                f"--processes {self.processes * 2}"
                if self.processes * 2 <= _cores()
                else "a machine with more cores"
            )
            words.append(
                f"the client was the limit: it used {each:.2f} of a core in each process; try {more}"
            )
        elif busy >= _FULL_MACHINE:
            words.append(f"this machine's cores were {busy:.0%} busy, {cores / _cores():.0%} with the client")
        if self.asyncio and self.lag > _LATE_LOOP:
            words.append(f"the client was the limit: its event loop ran {self.lag * 1e3:.1f} ms late (p99)")
        if self.level.open:
            late = found.lateness.get("p99", 0.0)
            if self.full:
                words.append(
                    "the client was the limit: as many requests were in flight as may be (--max-in-flight)"
                )
            elif late > _LATE_LOOP and not words:
                words.append(
                    f"the client was the limit: it sent {late * 1e3:.1f} ms late (p99), though it had connections"
                )
        return words


def _cores() -> int:
    import os

    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _machine() -> tuple[float, float]:
    """Return busy and all CPU time of the machine, in ticks; (0, 0) where the system does not say."""
    try:
        values = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    idle = values[3] + values[4]
    return float(sum(values) - idle), float(sum(values))


def _timeline(records: Records, begin: int, end: int) -> list[tuple[float, int, int, float, float]]:
    """Cut a span into at most 120 slices of time, by when requests ended."""
    seconds = (end - begin) / 1e9
    if seconds <= 0 or not len(records):
        return []
    slices = int(min(120, max(1, round(seconds / 0.25))))
    found = []
    inside = records.where((records.end >= begin) & (records.end < end))
    index = np.minimum((inside.end - begin) * slices // (end - begin), slices - 1)
    for n in range(slices):
        part = inside.where(index == n)
        good = part.where(part.kind == 0)
        latencies = (good.end - good.due) / 1e9
        p50, p99 = np.quantile(latencies, [0.5, 0.99]) if len(latencies) else (float("nan"), float("nan"))
        found.append((n * seconds / slices, len(good), len(part) - len(good), float(p50), float(p99)))
    return found
