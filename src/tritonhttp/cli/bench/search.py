"""The highest level of load that keeps a bound, found by doubling, then halving the gap. No I/O and no clock."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from .figures import Figures, latency_metric

__all__ = ["Found", "Slo", "Trial", "parse_slo", "search"]

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
#: A bound of latency is not kept by refusing requests, nor by leaving them waiting.
_MOST_ERRORS = 0.001
_LEAST_OF_RATE = 0.95
_MOST_STEPS = 40


@dataclass(frozen=True)
class Slo:
    """A bound of a latency figure, in seconds."""

    metric: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.metric} ≤ {self.seconds * 1e3:g} ms"

    def missed(self, found: Figures, rate: float = 0.0) -> str:
        """Return why a step misses the bound; empty if it keeps it.

        Parameters
        ----------
        rate : float
            What an open loop asked for.
        """
        got = found.latency.get(self.metric)
        if got is None:
            return "no request was answered"
        if got.value > self.seconds:
            return f"{self.metric} {got.value * 1e3:.3g} ms"
        total = found.count + found.failed
        if found.failed > _MOST_ERRORS * total:
            return f"{found.failed / total:.1%} errors"
        if found.throughput.value < _LEAST_OF_RATE * rate:
            return f"only {found.throughput.value:.4g} requests/s were answered"
        return ""

    def close(self, found: Figures) -> bool:
        """Return whether the figure's interval holds the bound, so that chance may have decided."""
        got = found.latency.get(self.metric)
        return got is not None and got.low < self.seconds < got.high


def parse_slo(text: str) -> Slo:
    """Return the bound of ``p99=50ms``; ValueError with one line if it is none."""
    name, equals, bound = text.replace("<=", "=").replace("≤", "=").replace(" ", "").partition("=")
    metric = latency_metric(name.lower())
    unit = next((unit for unit in ("us", "µs", "ms", "s") if bound.endswith(unit)), "")
    try:
        seconds = float(bound.removesuffix(unit)) * _UNITS[unit]
    except (KeyError, ValueError):
        seconds = 0.0
    if not (equals and metric and 0 < seconds < 1e6):
        raise ValueError(f"--slo: expected a bound such as p99=50ms, avg=2s or max=800us, got {text!r}")
    return Slo(metric, seconds)


@dataclass(frozen=True)
class Trial:
    """One step of a search: the level, and why it missed the bound; "" if it kept it."""

    level: float
    missed: str
    close: bool = False


@dataclass
class Found:
    """The outcome of a search: the true limit lies between `kept` and `missed`.

    `kept` is 0 if no level kept the bound; `missed` is infinite if every one did.
    """

    kept: float = 0.0
    missed: float = float("inf")
    trials: list[Trial] = field(default_factory=list)

    @property
    def close(self) -> bool:
        """Whether one of the two ends may have been decided by chance."""
        return any(trial.close for trial in self.trials if trial.level in (self.kept, self.missed))


def search(
    start: float,
    *,
    least: float,
    most: float,
    precision: float = 0.02,
    whole: bool = False,
    found: Found | None = None,
) -> Generator[float, Trial, Found]:
    """Yield levels to try, and take the trial of each, until both ends of the limit are known.

    Parameters
    ----------
    start : float
        The first level.
    least, most : float
        Where to stop.
    precision : float
        How far apart the ends may be, relative to the lower one.
    whole : bool
        Try whole numbers only.
    found : Found, optional
        Where to note the steps, so that they are there if the search is interrupted.
    """
    found = Found() if found is None else found
    level = min(max(start, least), most)
    for _ in range(_MOST_STEPS):
        level = float(round(level)) if whole else level
        trial = yield level
        found.trials.append(trial)
        if trial.missed:
            found.missed = min(found.missed, level)
        else:
            found.kept = max(found.kept, level)
        kept, missed = found.kept, found.missed
        if kept >= missed:  # a lower level missed by chance what a higher one kept
            found.missed = missed = float("inf")
        if missed == float("inf"):
            if kept >= most:
                break
            level = min(kept * 2, most)
        elif not kept:
            if missed <= least:
                break
            level = max(missed / 2, least)
        elif missed - kept <= max(precision * kept, float(whole)):
            break
        else:
            level = (kept + missed) / 2
            if whole:
                level = min(max(round(level), kept + 1), missed - 1)
    return found
