"""Results as files: perf_analyzer's CSV and profile export, and our own JSON. No I/O but to the given file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

from .compare import Measured
from .data import Requests
from .figures import Estimate
from .measure import Step
from .search import Found

__all__ = ["as_measured", "as_result", "write_csv", "write_profile"]

_SERVER_COLUMNS = {
    "Server Queue": "queue",
    "Server Compute Input": "compute_input",
    "Server Compute Infer": "compute_infer",
    "Server Compute Output": "compute_output",
}


def write_csv(file: IO[str], steps: Sequence[Step], *, percentile: str = "", verbose: bool = False) -> None:
    """Write perf_analyzer's CSV: a line for each level; times in whole microseconds.

    The client does not split its time. `Client Send` and `Client Recv` are 0, and their time is in
    `Network+Server Send/Recv`.
    """
    if not steps:
        return
    shares = ["p50", "p90", "p95", "p99"]
    if percentile and percentile not in shares:
        shares.append(percentile)
        shares.sort(key=lambda name: float(name[1:]))
    first = "Request Rate" if steps[0].level.open else "Concurrency"
    columns = [
        first,
        "Inferences/Second",
        "Client Send",
        "Network+Server Send/Recv",
        *_SERVER_COLUMNS,
        "Client Recv",
    ]
    columns += [f"{name} latency" for name in shares]
    if verbose:
        columns += ["request/response", "response wait"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for step in steps:
        latency = step.figures.latency
        average = _micros(latency.get("avg"))
        parts = [
            round((step.server.seconds[name] if step.server else 0.0) * 1e6)
            for name in _SERVER_COLUMNS.values()
        ]
        row = [
            f"{step.level.value:g}",
            f"{step.figures.throughput.value:g}",
            0,
            max(0, average - sum(parts)),
            *parts,
            0,
        ]
        row += [_micros(latency.get(name)) for name in shares]
        writer.writerow(row + ([0, average] if verbose else []))


def _micros(value: Estimate | None) -> int:
    return 0 if value is None or math.isnan(value.value) else round(value.value * 1e6)


def write_profile(file: IO[str], steps: Sequence[Step], requests: Requests, epoch: int, version: str) -> None:
    """Write perf_analyzer's profile export: every request of each level with its times, in nanoseconds since 1970.

    The answers' contents are not kept, so `response_outputs` is left out.

    Parameters
    ----------
    epoch : int
        The clock's zero, in nanoseconds since 1970.
    """
    inputs = [json.dumps(_inputs(payload.inputs), ensure_ascii=False) for payload in requests.flat]
    file.write('{"experiments":[')
    for number, step in enumerate(steps):
        mode = "request_rate" if step.level.open else "concurrency"
        value = step.level.rate if step.level.open else step.level.concurrency
        head = json.dumps({"mode": mode, "value": value}, separators=(",", ":"))
        file.write(f'{"," * bool(number)}{{"experiment":{head},"requests":[')
        records = step.records.where(step.records.kind == 0)
        starts, ends = (records.start + epoch).tolist(), (records.end + epoch).tolist()
        payloads = records.payload.tolist() or [0] * len(starts)
        sequences = records.sequence.tolist()
        answers, times = records.answers.tolist(), (records.times + epoch).tolist()
        at = 0
        for n, start in enumerate(starts):
            stamps = [ends[n]]
            if answers:
                stamps = times[at : at + answers[n]] or stamps
                at += answers[n]
            sequence = f'"sequence_id":{sequences[n]},' if sequences else ""
            file.write(
                f'{"," * bool(n)}{{"timestamp":{start},{sequence}"request_inputs":{inputs[payloads[n]]},'
                f'"response_timestamps":{json.dumps(stamps, separators=(",", ":"))}}}'
            )
        borders = [border + epoch for border in step.span]
        file.write(f'],"window_boundaries":{json.dumps(borders, separators=(",", ":"))}}}')
    file.write(f'],"version":{json.dumps(version)},"service_kind":"triton","endpoint":""}}\n')


#: A tensor of more elements is left out of a profile export: it would stand there once for each request.
_LARGE = 1024


def _inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, array in inputs.items():
        if array.size > _LARGE:
            continue
        values = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array.ravel().tolist()]
        values = [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
        found[name] = values[0] if len(values) == 1 else values
    return found


def _mode(step: Step) -> str:
    if step.level.concurrency:
        return "concurrency"
    return "request_rate" if step.level.distribution == "constant" else step.level.distribution


def as_measured(step: Step) -> Measured:
    """Return a step as the comparison takes it."""
    found = {"throughput": step.figures.throughput, **step.figures.latency}
    total = step.figures.failed + step.figures.count
    found["errors"] = Estimate(step.figures.failed / total if total else 0.0)
    if not math.isnan(step.cpu):
        found["cpu"] = Estimate(step.cpu)
    return Measured(_mode(step), step.level.value, found)


def as_result(steps: Sequence[Step], found: Found | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return our own JSON: times in seconds, each figure with its 95 % interval."""
    result = {**about, "steps": [_step(step) for step in steps]}
    if found is not None:
        result["search"] = {
            "kept": found.kept,
            "missed": _number(found.missed),
            "tried": [{"level": t.level, "missed": t.missed, "close": t.close} for t in found.trials],
        }
    return result


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _with_interval(value: Estimate) -> dict[str, float | None]:
    return {"value": _number(value.value), "low": _number(value.low), "high": _number(value.high)}


def _step(step: Step) -> dict[str, Any]:
    shown = step.figures
    return {
        "mode": _mode(step),
        "level": step.level.value,
        "stable": step.stable,
        "interrupted": step.interrupted,
        "seconds": shown.seconds,
        "requests": shown.count,
        "throughput": _with_interval(shown.throughput),
        "latency": {name: _with_interval(each) for name, each in shown.latency.items()},
        "latency_from_sending": {name: _with_interval(each) for name, each in shown.sent.items()},
        "first_answer": {name: _with_interval(each) for name, each in shown.first.items()},
        "between_answers": {name: _with_interval(each) for name, each in shown.between.items()},
        "answers_per_second": shown.answers if shown.first else None,
        "sequences": shown.sequences,
        "errors": dict(shown.errors),
        "messages": {name: words for name, words in step.words.items() if name in shown.errors},
        "unanswered": shown.unanswered,
        "late": shown.late,
        "lateness": dict(shown.lateness),
        "sent_again": step.again,
        "client": {"cpu": _number(step.cpu), "cores": _number(step.cores), "limits": list(step.limits)},
        "machine_busy": _number(step.busy),
        "server": None
        if step.server is None
        else {
            "requests": step.server.requests,
            "failures": step.server.failures,
            "executions": step.server.executions,
            "batch": step.server.batch,
            "cache_hits": step.server.hits,
            **step.server.seconds,
        },
        "gauges": dict(step.gauges),
        "hdr": encoded(step),
    }


def encoded(step: Step) -> str | None:
    """Return the latencies as an encoded HDR histogram of microseconds; None without hdrh."""
    histogram = hdr(step)
    if histogram is None:
        return None
    text = histogram.encode()
    return text.decode("ascii") if isinstance(text, bytes) else str(text)


def hdr(step: Step) -> Any:
    """Return the latencies as an HDR histogram of microseconds, exact to three digits."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        return None
    import numpy as np

    histogram = HdrHistogram(1, 24 * 3600 * 1_000_000, 3)
    values, counts = np.unique(np.maximum(step.figures.latencies // 1000, 1), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram
