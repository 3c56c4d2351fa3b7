"""A result beside an earlier one: how much figures changed, whether by more than chance, and bounds of both."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .figures import Estimate, Records, figures, latency_metric

__all__ = ["Bound", "Change", "Measured", "changes", "parse_bound", "read_result"]

_Z = 1.96
_NAMES = ("throughput", "avg", "p50", "p90", "p95", "p99", "p99.9", "max", "errors", "cpu")
_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "%": 0.01, "": 1.0}
_BOUND = re.compile(r"([a-z][a-z0-9.]*)\s*([<>])\s*([+-]?)([0-9.]+)\s*(us|µs|ms|s|%|)", re.IGNORECASE)


@dataclass(frozen=True)
class Measured:
    """One step of a result: mode, level and figures; latencies and CPU in seconds, errors as a share."""

    mode: str
    level: float
    figures: Mapping[str, Estimate]

    @property
    def key(self) -> tuple[str, float]:
        """What a step of another result must have to be compared with this one."""
        return self.mode, round(self.level, 6)


@dataclass(frozen=True)
class Change:
    """A figure of one level, before and now."""

    level: str
    name: str
    before: Estimate
    now: Estimate

    @property
    def ratio(self) -> float:
        """The change relative to the earlier figure: 0.1 is ten percent more; NaN without an earlier one."""
        if not self.before.value:
            return 0.0 if not self.now.value else float("nan")
        return self.now.value / self.before.value - 1

    @property
    def certain(self) -> bool | None:
        """Whether the difference is more than chance; None if that is unknown."""
        difference = self.now.value - self.before.value
        if difference == 0:
            return False
        errors = (
            (self.before.high - self.before.value, self.now.value - self.now.low)
            if difference > 0
            else (self.before.value - self.before.low, self.now.high - self.now.value)
        )
        if any(map(math.isnan, errors)):
            return None
        spread = math.hypot(*errors) / _Z
        return abs(difference) > _Z * spread


@dataclass(frozen=True)
class Bound:
    """A condition that fails a run: of a figure, or of its change."""

    text: str
    name: str
    above: bool
    limit: float
    relative: bool

    def missed(self, now: Measured, change: Change | None) -> bool:
        """Return whether a step misses it. A change counts only if it is more than chance, or that is unknown."""
        if self.relative:
            if change is None or math.isnan(change.ratio) or change.certain is False:
                return False
            value = change.ratio
        else:
            found = now.figures.get(self.name)
            if found is None:
                return False
            value = found.value
        return value > self.limit if self.above else value < self.limit


def parse_bound(text: str) -> Bound:
    """Return the bound of ``p99>+10%``, ``throughput<-5%``, ``p99>50ms`` or ``errors>0.1%``.

    Raises
    ------
    ValueError
        With one line.
    """
    found = _BOUND.fullmatch(text.strip())
    wrong = ValueError(
        "--fail-if: expected a bound such as 'p99>+10%', 'throughput<-5%', 'p99>50ms' or 'errors>0.1%',"
        f" got {text!r}"
    )
    if found is None:
        raise wrong
    name = found[1].lower()
    name = name if name in _NAMES else latency_metric(name) or ""
    unit = found[5].lower()
    relative = bool(found[3])
    try:
        limit = float(f"{found[3]}{found[4]}") * _UNITS[unit]
    except ValueError:
        raise wrong from None
    wanted = "%" if relative or name == "errors" else "" if name == "throughput" else "time"
    given = unit if unit in ("%", "") else "time"
    if not name or wanted != given:
        raise wrong
    return Bound(text.strip(), name, found[2] == ">", limit, relative)


def changes(before: Sequence[Measured], now: Sequence[Measured]) -> list[tuple[Measured, dict[str, Change]]]:
    """Return the changes of each step of now that the earlier result has too."""
    earlier = {step.key: step for step in before}
    found: list[tuple[Measured, dict[str, Change]]] = []
    for step in now:
        old = earlier.get(step.key)
        if old is None and len(before) == len(now) == 1 and before[0].mode == step.mode:
            old = before[0] if math.isclose(before[0].level, step.level, rel_tol=1e-6) else None
        if old is None:
            found.append((step, {}))
            continue
        label = f"{step.mode.replace('_', ' ')} {step.level:g}"
        both = [name for name in [*_NAMES, *step.figures] if name in old.figures and name in step.figures]
        found.append(
            (
                step,
                {
                    name: Change(label, name, old.figures[name], step.figures[name])
                    for name in dict.fromkeys(both)
                },
            )
        )
    return found


def read_result(path: Path) -> list[Measured]:
    """Return the steps of a result of ``bench --json``, or of a profile export, perf_analyzer's included.

    Raises
    ------
    ValueError
        With one line that names the file.
    OSError
        If it cannot be read.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if "experiments" in content:
            found = [_exported(each) for each in content["experiments"]]
        else:
            found = [_own(each) for each in content["steps"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path}: expected a result of `tritonhttp bench --json`, or a --profile-export-file"
        ) from None
    if not found:
        raise ValueError(f"{path}: the result has no steps")
    return found


def _own(step: Any) -> Measured:
    named = {"throughput": step["throughput"], **step["latency"]}
    found = {name: _estimate(each) for name, each in named.items()}
    failed = sum(step["errors"].values())
    found["errors"] = Estimate(failed / max(failed + step["requests"], 1))
    if step["client"]["cpu"] is not None:
        found["cpu"] = Estimate(step["client"]["cpu"])
    return Measured(step["mode"], float(step["level"]), found)


def _estimate(value: Any) -> Estimate:
    return Estimate(
        *(float("nan") if value[name] is None else float(value[name]) for name in ("value", "low", "high"))
    )


def _exported(experiment: Any) -> Measured:
    requests = [each for each in experiment["requests"] if each["response_timestamps"]]
    start = np.array([each["timestamp"] for each in requests], np.int64)
    end = np.array([each["response_timestamps"][-1] for each in requests], np.int64)
    if not len(end):
        raise ValueError
    records = Records(due=start, start=start, end=end, kind=np.zeros(len(end), np.int16))
    borders = experiment.get("window_boundaries") or [int(start.min()), int(end.max()) + 1]
    shown = figures(records, int(min(borders)), int(max(borders)))
    mode = experiment["experiment"]["mode"]
    return Measured(
        mode, float(experiment["experiment"]["value"]), {"throughput": shown.throughput, **shown.latency}
    )
