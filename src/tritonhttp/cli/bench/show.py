"""How a run is shown: a block of lines for each step, a table over all, and a bar while it runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..output import facts, heading, short, table, time_of
from .compare import Change, Measured
from .figures import Estimate
from .measure import Progress, Step
from .search import Found, Slo

__all__ = ["bar", "show_changes", "show_found", "show_step", "show_summary"]

_LATENCIES = ("avg", "p50", "p90", "p95", "p99", "p99.9", "max")


def _interval(value: Estimate, form: Callable[[float], str]) -> str:
    if math.isnan(value.low):
        return form(value.value)
    return f"{form(value.value)} ({form(value.low)} to {form(value.high)})"


def show_step(step: Step) -> None:
    """Print what one level showed."""
    found = step.figures
    state = "interrupted" if step.interrupted else "" if step.stable else "not settled: see the intervals"
    heading(f"{step.level}{f' — {state}' if state else ''}")
    rows: list[tuple[str, str]] = [
        (
            "throughput",
            f"{_interval(found.throughput, short)} requests/s; {found.count:,} answered in {found.seconds:.1f} s",
        )
    ]
    if found.latency:
        rows.append(("latency", _latencies(found.latency)))
        rows.append(("95 % sure", _sure(found.latency)))
    if found.first:
        rows.append(("first answer", _latencies(found.first)))
        rows.append(("between", _latencies(found.between) if found.between else "one answer each"))
        rows.append(("answers", f"{short(found.answers)} answers/s"))
    if found.sequences:
        rows.append(("sequences", f"{found.sequences:,}"))
    if found.errors:
        rows.append(("errors", ", ".join(f"{count:,} {name}" for name, count in found.errors.items())))
        rows += [("", f"{name}: {step.words[name]}") for name in found.errors if name in step.words]
    if step.again:
        rows.append(("sent again", f"{step.again:,} requests"))
    if found.unanswered:
        rows.append(
            (
                "unanswered",
                f"{found.unanswered:,} requests that were due; latencies include their wait so far",
            )
        )
    if found.lateness:
        late = found.lateness
        rows.append(
            (
                "sent late",
                f"{found.late:,} by more than 1 ms; p50 {time_of(late['p50'])}, p99 {time_of(late['p99'])},"
                f" at most {time_of(late['max'])}",
            )
        )
    if found.sent:
        rows.append(("from sending", _latencies(found.sent)))
    if not math.isnan(step.cpu):
        rows.append(("client", f"{time_of(step.cpu)} of CPU for each request; {step.cores:.2f} cores busy"))
    if step.server is not None:
        rows.append(("server", _server(step)))
    if step.gauges:
        rows.append(("metrics", _gauges(step.gauges)))
    for words in step.limits:
        rows.append(("note", words))
    facts([(f"  {name}", value) for name, value in rows])


def _latencies(found: Mapping[str, Estimate]) -> str:
    names = [*_LATENCIES, *(name for name in found if name not in _LATENCIES)]
    return ", ".join(f"{name} {time_of(found[name].value)}" for name in names if name in found)


def _sure(found: Mapping[str, Estimate]) -> str:
    known = [
        (name, found[name]) for name in ("p50", "p99") if name in found and not math.isnan(found[name].low)
    ]
    if not known:
        return "too few requests to say"
    return ", ".join(f"{name} {time_of(each.low)} to {time_of(each.high)}" for name, each in known)


def _server(step: Step) -> str:
    assert step.server is not None
    names = {
        "queue": "queue",
        "compute_input": "input",
        "compute_infer": "compute",
        "compute_output": "output",
    }
    parts = ", ".join(
        f"{short_name} {time_of(step.server.seconds[name])}" for name, short_name in names.items()
    )
    more = f", batches of {step.server.batch:.2f}" if step.server.batch > 1.005 else ""
    more += f", {step.server.hits:,} cache hits" if step.server.hits else ""
    more += f", {step.server.failures:,} failures" if step.server.failures else ""
    return f"{parts}{more}"


def _gauges(gauges: Mapping[str, float]) -> str:
    words = []
    for name, label in (("nv_gpu_utilization", "GPU"), ("nv_cpu_utilization", "CPU of the machine")):
        if name in gauges:
            words.append(f"{label} {gauges[name]:.0%}")
    if "nv_gpu_power_usage" in gauges:
        words.append(f"{gauges['nv_gpu_power_usage']:.0f} W")
    for name, label in (("nv_gpu_memory_used_bytes", "GPU memory"), ("nv_cpu_memory_used_bytes", "memory")):
        if name in gauges:
            words.append(f"{label} {gauges[name] / 2**30:.1f} GiB")
    return ", ".join(words)


def show_summary(steps: Sequence[Step], slo: Slo | None = None) -> None:
    """Print a line for each level."""
    if len(steps) < 2:
        return
    first = "requests/s asked" if steps[0].level.open else "concurrency"
    headers = [first, "requests/s", "p50", "p95", "p99", "max", "errors", "CPU"]
    if slo is not None:
        headers.append(str(slo))
    rows = []
    for step in steps:
        found = step.figures
        row = [f"{step.level.value:g}", short(found.throughput.value)]
        for name in ("p50", "p95", "p99", "max"):
            row.append(time_of(found.latency[name].value) if name in found.latency else "-")
        row += [f"{found.failed:,}", time_of(step.cpu)]
        if slo is not None:
            row.append(slo.missed(found, step.level.rate) or "kept")
        rows.append(row)
    print()
    table(headers, rows, right=headers[:8])


def show_found(found: Found, slo: Slo, unit: str, interrupted: bool) -> None:
    """Print the outcome of a search."""
    print()
    tried = len(found.trials)
    if interrupted:
        print(f"{slo}: interrupted after {tried} levels; {found.kept:.4g} {unit} kept it")
        return
    if not found.kept:
        print(f"{slo}: missed at every level, the lowest being {found.missed:.4g} {unit}")
        return
    if math.isinf(found.missed):
        print(f"{slo}: kept at every level, the highest being {found.kept:.4g} {unit}")
        return
    print(
        f"{slo}: kept up to {found.kept:.4g} {unit}, missed at {found.missed:.4g}."
        f" Searched by doubling, then by halving the gap: {tried} levels."
    )
    if found.close:
        print("  One of the two levels was close enough for chance to decide: longer windows make it surer.")


def show_changes(compared: Sequence[tuple[Measured, Mapping[str, Change]]], missed: Sequence[str]) -> None:
    """Print figures beside earlier ones."""
    for step, found in compared:
        print()
        mode = step.mode.replace("_", " ")
        if not found:
            print(f"{mode} {step.level:g}: not in the earlier result")
            continue
        heading(f"{mode} {step.level:g}, compared with the earlier result")
        rows = []
        for name, change in found.items():
            form = short if name == "throughput" else _share if name == "errors" else time_of
            rows.append(
                [
                    f"  {name}",
                    form(change.before.value),
                    form(change.now.value),
                    _change(change),
                    _chance(change),
                ]
            )
        table(["  figure", "before", "now", "change", ""], rows, right=["before", "now", "change"])
    for words in missed:
        print(f"missed: {words}")


def _share(value: float) -> str:
    return f"{value:.2%}"


def _change(change: Change) -> str:
    return "-" if math.isnan(change.ratio) else f"{change.ratio:+.1%}"


def _chance(change: Change) -> str:
    if change.certain is None:
        return ""
    return "more than chance" if change.certain else "may be chance"


@contextmanager
def bar(wanted: bool) -> Iterator[Callable[[str], Progress | None]]:
    """Show a bar with running figures on standard error; nothing if that is no terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    ]
    with Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as shown:
        task = shown.add_task("", total=1.0, words="")

        def begin(name: str) -> Progress:
            shown.reset(task, description=name, words="warm-up", completed=0)
            return lambda share, words: shown.update(task, completed=share, words=words)

        yield begin
