"""What was measured, as figures: percentiles, their confidence, and whether windows are stable. No I/O, no clock.

All times are nanoseconds of one monotonic clock in :class:`Records`, and seconds in :class:`Figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "PERCENTILES",
    "Estimate",
    "Figures",
    "Records",
    "figures",
    "is_stable",
    "joined",
    "latency_metric",
]

Times = npt.NDArray[np.int64]

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

#: Neighbouring latencies depend on each other, so blocks of the time line are drawn, not requests.
_BLOCKS = 30
_DRAWS = 400
#: Logarithmic bins of the draws: 0.1 % wide.
_BINS = 1000
_CONFIDENCE = 0.95
#: As perf_analyzer: so many windows in a row must agree.
_WINDOWS = 3


@dataclass(frozen=True, kw_only=True)
class Records:
    """Requests that have ended, a row each.

    Attributes
    ----------
    due : array of int64
        When the request was to start: its intended start in an open loop, its start in a closed one.
    start, end : array of int64
    kind : array of int16
        0: answered as expected. Otherwise the number of the kind of error.
    sequence : array of int64
        The id of its sequence; empty without sequences.
    payload : array of int64
        The number of its inputs.
    answers : array of int64
        How many answers a stream had; empty without streams.
    times : array of int64
        When each of those came, request by request.
    """

    due: Times
    start: Times
    end: Times
    kind: npt.NDArray[np.int16]
    payload: Times = field(default_factory=lambda: np.empty(0, np.int64))
    sequence: Times = field(default_factory=lambda: np.empty(0, np.int64))
    answers: Times = field(default_factory=lambda: np.empty(0, np.int64))
    times: Times = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.end)

    @classmethod
    def none(cls) -> Records:
        """Return no requests."""
        empty = np.empty(0, np.int64)
        return cls(due=empty, start=empty, end=empty, kind=np.empty(0, np.int16))

    def where(self, mask: npt.NDArray[np.bool_]) -> Records:
        """Return some of the requests."""
        times = self.times[np.repeat(mask, self.answers)] if len(self.answers) else self.times
        return Records(
            due=self.due[mask],
            start=self.start[mask],
            end=self.end[mask],
            kind=self.kind[mask],
            payload=self.payload[mask] if len(self.payload) else self.payload,
            sequence=self.sequence[mask] if len(self.sequence) else self.sequence,
            answers=self.answers[mask] if len(self.answers) else self.answers,
            times=times,
        )


def joined(parts: Sequence[Records]) -> Records:
    """Return the requests of all parts."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Records.none()
    names = Records.__dataclass_fields__
    return Records(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class Estimate:
    """A figure, and the interval that holds the true one with 95 % confidence; NaN if that is unknown."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def error(self) -> float:
        """The standard error."""
        return (self.high - self.low) / (2 * 1.96)

    def scaled(self, factor: float) -> Estimate:
        """Return it in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a span of time showed.

    Attributes
    ----------
    seconds : float
        The length of the span.
    count : int
        Requests that were answered in it as expected.
    throughput : Estimate
        Those in a second.
    latency : mapping of str to Estimate
        Seconds: ``avg``, ``p50``, …, ``max``. In an open loop from the intended start.
    errors : mapping of str to int
        Requests that failed, by kind.
    unanswered : int
        Requests of an open loop that were due in the span, and had no answer when the load ended. Their time until
        then is in the latencies, which would be higher still.
    late, lateness : int, mapping of str to float
        Requests sent more than a millisecond after their intended start; by how many seconds requests were late.
    sent : mapping of str to Estimate
        Latencies of an open loop from the moment that a request was sent, as other programs count them.
    first, between : mapping of str to Estimate
        Of streams: seconds to the first answer, and between answers.
    answers : float
        Answers of streams in a second.
    sequences : int
        Sequences of which requests were answered.
    """

    seconds: float
    count: int
    throughput: Estimate
    latency: Mapping[str, Estimate]
    errors: Mapping[str, int] = field(default_factory=dict)
    unanswered: int = 0
    late: int = 0
    lateness: Mapping[str, float] = field(default_factory=dict)
    sent: Mapping[str, Estimate] = field(default_factory=dict)
    first: Mapping[str, Estimate] = field(default_factory=dict)
    between: Mapping[str, Estimate] = field(default_factory=dict)
    answers: float = 0.0
    sequences: int = 0
    #: Sorted, in nanoseconds.
    latencies: Times = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(self.errors.values())


def latency_metric(text: str) -> str | None:
    """Return the name of a latency figure (``avg``, ``max``, ``p99.9``); None if that is none."""
    if text in ("avg", "max"):
        return text
    try:
        share = float(text[1:])
    except ValueError:
        return None
    return f"p{share:g}" if text[:1] == "p" and 0 < share < 100 else None


def figures(
    records: Records,
    begin: int,
    end: int,
    *,
    names: Sequence[str] = (),
    metrics: Sequence[str] = (),
    missing: Times | None = None,
    stopped: int = 0,
    open_loop: bool = False,
) -> Figures:
    """Return what requests show of a span.

    Those that ended in the span make the throughput. The latencies of a closed loop are theirs. Those of an open
    loop are of the requests that were due in the span, whenever they ended: a stall at its end is not cut off.

    Parameters
    ----------
    names : sequence of str
        The kinds of errors, by number.
    metrics : sequence of str
        More figures of the latency, such as ``"p99.5"``.
    missing : array of int64, optional
        When requests were due that have not ended.
    stopped : int
        When the load ended: those have waited until then.
    """
    ended = (records.end >= begin) & (records.end < end)
    if open_loop:
        cohort = records.where((records.due >= begin) & (records.due < end))
    else:
        cohort = records.where(ended)
    answered = ended & (records.kind == 0)
    failures = cohort.kind[cohort.kind != 0]
    good = cohort.where(cohort.kind == 0)
    latencies, moments = good.end - good.due, good.due if open_loop else good.end
    unanswered = 0
    if missing is not None and len(missing):
        missing = missing[(missing >= begin) & (missing < end)]
        unanswered = len(missing)
        latencies = np.concatenate([latencies, stopped - missing])
        moments = np.concatenate([moments, missing])
    wanted = ["avg", *(f"p{share:g}" for share in PERCENTILES), "max", *metrics]
    late = cohort.start - cohort.due if open_loop else np.empty(0, np.int64)
    counts: dict[str, int] = {}
    for number in np.unique(failures):
        if number < len(names):
            counts[names[int(number)]] = int((failures == number).sum())
    first, between = _of_streams(good, begin, end, wanted)
    inside = (records.times >= begin) & (records.times < end)
    return Figures(
        seconds=(end - begin) / 1e9,
        count=int(answered.sum()),
        throughput=_rate(records.end[answered], begin, end),
        latency=_estimates(latencies, moments, begin, end, wanted),
        errors=counts,
        unanswered=unanswered,
        late=int((late > 1_000_000).sum()),
        lateness={
            name: float(np.quantile(late, share)) / 1e9
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        }
        if len(late)
        else {},
        sent=_estimates(good.end - good.start, good.due, begin, end, wanted) if open_loop else {},
        first=first,
        between=between,
        answers=float(inside.sum()) / max((end - begin) / 1e9, 1e-9),
        sequences=len(np.unique(good.sequence)) if len(good.sequence) else 0,
        latencies=np.sort(latencies),
    )


def _of_streams(
    records: Records, begin: int, end: int, wanted: Sequence[str]
) -> tuple[Mapping[str, Estimate], Mapping[str, Estimate]]:
    if not len(records.times):
        return {}, {}
    ends = np.cumsum(records.answers)
    begins = ends - records.answers
    some = records.answers > 0
    firsts = records.times[begins[some]]
    # The gap before each answer; the first of each stream has none.
    gaps = np.diff(records.times, prepend=records.times[:1])
    inner = np.ones(len(gaps), np.bool_)
    inner[begins[some]] = False
    return (
        _estimates(firsts - records.due[some], firsts, begin, end, wanted),
        _estimates(gaps[inner], records.times[inner], begin, end, wanted),
    )


def _rate(ends: Times, begin: int, end: int) -> Estimate:
    seconds = (end - begin) / 1e9
    if seconds <= 0:
        return Estimate(float("nan"))
    rate = len(ends) / seconds
    blocks = min(_BLOCKS, len(ends) // 4)
    if blocks < 2:
        return Estimate(rate)
    counts = np.bincount(_block(ends, begin, end, blocks), minlength=blocks)
    half = _t(blocks - 1) * float(counts.std(ddof=1)) / blocks**0.5 * blocks / seconds
    return Estimate(rate, max(0.0, rate - half), rate + half)


def _t(freedom: int) -> float:
    """Return Student's t for 95 %, from its normal approximation; within 1 % from 4 degrees on."""
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _block(moments: Times, begin: int, end: int, blocks: int) -> npt.NDArray[np.int64]:
    return np.clip((moments - begin) * blocks // max(1, end - begin), 0, blocks - 1).astype(np.int64)


def _estimates(
    values: Times, moments: Times, begin: int, end: int, wanted: Sequence[str]
) -> Mapping[str, Estimate]:
    """Return figures of values in seconds; their intervals by drawing blocks of time again and again."""
    if not len(values):
        return {}
    points = {name: _point(values, name) / 1e9 for name in wanted}
    blocks = min(_BLOCKS, len(values) // 4)
    if blocks < 3:
        return {name: Estimate(value) for name, value in points.items()}
    block = _block(moments, begin, end, blocks)
    bins = (np.log(np.maximum(values, 1)) * _BINS).astype(np.int64)
    known, bins = np.unique(bins, return_inverse=True)
    table = np.zeros((blocks, len(known)))
    np.add.at(table, (block, bins.reshape(-1)), 1)
    draws = np.random.default_rng(1).multinomial(blocks, [1 / blocks] * blocks, _DRAWS).astype(float)
    drawn = draws @ table
    totals = np.maximum(drawn.sum(axis=1), 1)
    sums = draws @ np.bincount(block, values.astype(float), blocks)
    ahead = np.cumsum(drawn, axis=1)
    middles = np.exp((known + 0.5) / _BINS) / 1e9
    found = {}
    for name, value in points.items():
        if name == "max":
            found[name] = Estimate(value)  # what is above the highest one seen cannot be known
            continue
        if name == "avg":
            spread = sums / totals / 1e9
        else:
            share = float(name[1:]) / 100
            spread = middles[(ahead >= share * totals[:, None] - 1e-9).argmax(axis=1)]
        low, high = np.quantile(spread, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
        found[name] = Estimate(value, min(float(low), value), max(float(high), value))
    return found


def _point(values: Times, name: str) -> float:
    if name == "avg":
        return float(values.mean())
    share = 1.0 if name == "max" else float(name[1:]) / 100
    return float(np.quantile(values, share, method="inverted_cdf"))


def is_stable(windows: Sequence[tuple[float, float]], percent: float) -> bool:
    """Return whether the last windows agree, as perf_analyzer decides it.

    Parameters
    ----------
    windows : sequence of (throughput, latency)
    percent : float
        How much the largest of the last three may be above the smallest.
    """
    last = windows[-_WINDOWS:]
    if len(last) < _WINDOWS or not all(rate > 0 and latency >= 0 for rate, latency in last):
        return False
    columns: Any = zip(*last, strict=True)
    return all(max(column) <= min(column) * (1 + percent / 100) for column in columns)
