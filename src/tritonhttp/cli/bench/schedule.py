"""How much load: the levels of a run, and when each request of an open loop is due. No I/O and no clock."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Level", "Schedule", "parse_levels", "parse_range", "read_intervals"]

Distribution = Literal["constant", "poisson", "intervals"]

_CHUNK = 1 << 14
#: The most levels of one run; more is taken for a slip.
_MOST_LEVELS = 1000


@dataclass(frozen=True, kw_only=True)
class Level:
    """The load of one step.

    Attributes
    ----------
    concurrency : int
        Requests that are in flight all the time (closed loop); 0 for an open loop.
    rate : float
        Requests that are due in a second (open loop).
    distribution : str
        Of the intended starts: ``"constant"``, ``"poisson"`` or ``"intervals"``.
    intervals : tuple of int
        Nanoseconds between intended starts, repeated, for ``"intervals"``.
    count : int
        Stop after so many requests; 0: never.
    seed : int
        Of the random distribution.
    """

    concurrency: int = 0
    rate: float = 0.0
    distribution: Distribution = "constant"
    intervals: tuple[int, ...] = ()
    count: int = 0
    seed: int = 0

    @property
    def open(self) -> bool:
        """Whether requests have intended starts."""
        return not self.concurrency

    @property
    def value(self) -> float:
        """The figure that varies between the levels of a run."""
        return self.concurrency or self.rate

    def __str__(self) -> str:
        if self.concurrency:
            return f"concurrency {self.concurrency}"
        return f"{self.rate:g} requests/s" + (f", {self.distribution}" * (self.distribution != "constant"))

    def share(self, index: int, parts: int) -> Level:
        """Return what one of several processes does of a closed loop; an open one is shared by its tickets."""
        each = [(self.concurrency + n) // parts for n in range(parts)][::-1]
        count = [(self.count + n) // parts for n in range(parts)][::-1]
        return replace(self, concurrency=each[index], count=count[index]) if self.concurrency else self


class Schedule:
    """Intended starts of an open loop, in nanoseconds after its origin, by the number of the request.

    Any thread may ask. The same level gives the same starts in every process.
    """

    def __init__(self, level: Level) -> None:
        self._lock = threading.Lock()
        self._interval = 0.0
        self._offsets: list[int] = []
        self._last = 0
        if level.distribution == "constant":
            self._interval = 1e9 / level.rate
        elif level.distribution == "poisson":
            self._random = np.random.default_rng(level.seed)
            self._mean = 1e9 / level.rate
            self._intervals: Sequence[int] = ()
        else:
            self._intervals = level.intervals

    def __call__(self, number: int) -> int:
        """Return when a request is due."""
        if self._interval:
            return int(number * self._interval)
        while number >= len(self._offsets):
            self._extend()
        return self._offsets[number]

    def all(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return when requests are due."""
        if self._interval:
            return (numbers * self._interval).astype(np.int64)
        if len(numbers):
            self(int(numbers.max()))
        found: npt.NDArray[np.int64] = np.asarray(self._offsets, np.int64)[numbers]
        return found

    def due(self, until: int) -> int:
        """Return how many requests are due before a moment."""
        if self._interval:
            return max(0, int(-(-until // self._interval)))
        while not self._offsets or self._offsets[-1] < until:
            self._extend()
        return int(np.searchsorted(np.asarray(self._offsets, np.int64), until))

    def _extend(self) -> None:
        with self._lock:
            if self._intervals:
                steps: npt.NDArray[Any] = np.resize(
                    np.asarray(self._intervals, np.int64), _chunk(self._intervals)
                )
            else:
                steps = self._random.exponential(self._mean, _CHUNK).astype(np.int64)
            ends = self._last + np.cumsum(steps)
            # Each request comes an interval after the one before; the first is due at the origin.
            self._offsets += [self._last, *ends[:-1].tolist()]
            self._last = int(ends[-1])


def _chunk(intervals: Sequence[int]) -> int:
    return len(intervals) * max(1, _CHUNK // len(intervals))


def parse_levels(text: str, what: str, *, whole: bool) -> list[float]:
    """Return the levels of ``4``, ``1:16`` (each), ``1:16:4`` (steps of 4) or ``1:16:2x`` (doubled each time).

    Raises
    ------
    ValueError
        With one line that names `what`.
    """
    first, last, step, factor = _range(text, what, whole)
    found: list[float] = []
    for value in _values(first, step, factor):
        if value > last * (1 + 1e-9):
            break
        value = float(round(value)) if whole else value
        if not found or value > found[-1]:
            found.append(value)
        if len(found) > _MOST_LEVELS:
            raise ValueError(f"{what}: {text!r} has more than {_MOST_LEVELS} levels; take a larger step")
    return found


def parse_range(text: str, what: str, *, whole: bool) -> list[float]:
    """Return the ends of a range, as `parse_levels` takes it, or its only level."""
    first, last, *_ = _range(text, what, whole)
    return [first] if first == last else [first, last]


def _range(text: str, what: str, whole: bool) -> tuple[float, float, float, bool]:
    words = text.split(":")
    expected = f"{what}: expected N, FROM:TO, FROM:TO:STEP or FROM:TO:FACTORx, got {text!r}"
    try:
        factor = len(words) == 3 and words[2].endswith("x")
        numbers = [float(word.removesuffix("x") if n == 2 else word) for n, word in enumerate(words)]
    except ValueError:
        raise ValueError(expected) from None
    if not 1 <= len(numbers) <= 3 or not all(map(np.isfinite, numbers)):
        raise ValueError(expected)
    first = numbers[0]
    last = numbers[1] if len(numbers) > 1 else first
    step = numbers[2] if len(numbers) > 2 else 1.0
    if whole and (any(n != int(n) for n in (first, last)) or not (factor or step == int(step))):
        raise ValueError(f"{what}: expected whole numbers, got {text!r}")
    if first <= 0 or last < first:
        raise ValueError(f"{what}: expected a range that begins above 0 and ends no lower, got {text!r}")
    if step <= (1 if factor else 0):
        raise ValueError(f"{what}: expected a {'factor above 1' if factor else 'step above 0'}, got {text!r}")
    return first, last, step, factor


def _values(first: float, step: float, factor: bool) -> Iterator[float]:
    n = 0
    while True:
        yield first * step**n if factor else first + n * step
        n += 1


def read_intervals(lines: Iterable[str], what: str) -> tuple[int, ...]:
    """Return nanoseconds from lines of microseconds, as perf_analyzer's ``--request-intervals`` has them.

    Raises
    ------
    ValueError
        With one line that names `what` and the line.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = float(line)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e12:
            raise ValueError(f"{what}, line {number}: expected microseconds, got {line.strip()!r:.40}")
        found.append(round(value * 1000))
    if not found or not sum(found):
        raise ValueError(f"{what}: expected a line of microseconds for each interval, not all of them 0")
    return tuple(found)
