"""How many calls may be in flight: more while that raises the throughput, fewer where the server is overloaded.

No I/O and no clock: the caller says when each call ended, how long it took, and whether the server refused it for
its load. Calls are judged in rounds. A round's throughput is compared with what is usual at the present limit: a
higher limit stays if it brings more, a lower one if it loses nothing. So the limit settles where the throughput
stops rising: beyond that a call only waits longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

from .._transport.policy import positive
from ..errors import DeadlineExceeded, InferenceServerException

__all__ = ["Throttle", "first_of", "in_flight_or", "is_overload"]

T = TypeVar("T")

#: The default maximum of items read ahead; each keeps its arrays alive.
_MOST_AHEAD = 32
#: Statuses of a server, or of a gateway in front of it, that has too much to do.
_OVERLOADED = ("429", "503")

#: The least seconds and calls of a round, and how often each place in flight is used in it.
_ROUND_SECONDS, _ROUND_CALLS, _ROUND_TURNS = 0.2, 16, 3
#: While the limit doubles, rounds are shorter.
_START_SECONDS, _START_CALLS, _START_TURNS = 0.03, 8, 1.5
#: A trial goes no lower: with one call at a time the server waits while an answer is on its way.
_LEAST = 2
#: By how much a trial changes the limit, and the share of that change by which the throughput has to follow.
_UP, _DOWN = 1.25, 0.8
_WORTH, _FREE = 0.12, 0.04
#: Rounds between two trials; it grows while trials change nothing.
_CALM, _CALMEST = 2, 8
#: What is left of the limit after an overload, and how many rounds pass before the old limit is tried again.
_BACK_OFF, _WARY = 0.7, 20
#: A round this much below the usual throughput, or with calls this much slower, is another server's: start anew.
_FALLEN, _SLOWER = 0.75, 1.5


def is_overload(error: object) -> bool:
    """Return whether a call failed because the server, or the way to it, had too much to do."""
    if isinstance(error, DeadlineExceeded):
        return True
    return isinstance(error, InferenceServerException) and error.status() in _OVERLOADED


@dataclass(slots=True)
class _Round:
    """What the calls that ended since the limit was set have done."""

    begun: float
    calls: int = 0
    rows: int = 0
    seconds: float = 0.0


class Throttle:
    """The control of one caller's calls. Not for several threads at once.

    Attributes
    ----------
    limit : int
        How many calls may be in flight now.

    Parameters
    ----------
    most : int
        The highest limit.
    start : int
        The first limit: a run of a second or two has no time to find out that two were too few.
    """

    def __init__(self, most: int, start: int = 8) -> None:
        self._most = max(1, most)
        self.limit = min(start, self._most)
        self._round: _Round | None = None
        #: Whether the limit still doubles; what it was before a trial; which way the next trial goes.
        self._starting = True
        self._before: int | None = None
        self._upwards = True
        #: Rows a second and seconds of a call that are usual at this limit.
        self._usual = self._latency = 0.0
        self._calm = self._pause = _CALM
        #: Calls that ended since are still those of the limit before, and say nothing of the new one.
        self._old = 0
        #: The limit from which on the server refuses calls, and the rounds for which that is believed.
        self._ceiling: float = math.inf
        self._wary = 0

    def finished(self, now: float, latency: float, rows: int = 1, overloaded: bool = False) -> None:
        """Tell of a call that has ended.

        Parameters
        ----------
        now : float
            When it ended, in seconds on any clock.
        latency : float
            How long it took, in seconds.
        rows : int
            How much it has done; a failed call nothing.
        overloaded : bool
            Whether the server refused it for its load, or it ran out of time.
        """
        old, self._old = self._old > 0, max(0, self._old - 1)
        if overloaded and (not old or self._before is not None):
            self._back_off()
        if overloaded or old:
            return
        current = self._round
        if current is None or now < current.begun:
            # The first call ends the wait for calls of another limit; it is where the count begins.
            self._round = _Round(now)
            return
        current.calls += 1
        current.rows += rows
        current.seconds += latency
        seconds, calls, turns = (
            (_START_SECONDS, _START_CALLS, _START_TURNS)
            if self._starting
            else (_ROUND_SECONDS, _ROUND_CALLS, _ROUND_TURNS)
        )
        passed = now - current.begun
        if passed >= seconds and current.calls >= max(calls, turns * self.limit):
            self._end(current, passed)

    def _end(self, current: _Round, passed: float) -> None:
        rate, latency = current.rows / passed, current.seconds / current.calls
        #: Little's law: how many were in flight.
        busy = current.seconds / passed >= 0.7 * self.limit
        self._wary -= 1
        if self._wary <= 0:
            self._ceiling = math.inf
        self._round = _Round(current.begun + passed)
        if self._before is not None:
            self._judge(rate, latency)
        elif self._usual and (rate < _FALLEN * self._usual or latency > _SLOWER * self._latency):
            self._usual, self._latency = rate, latency
            self._calm = self._pause = _CALM
            self._upwards = rate >= _FALLEN * self._usual
            self._try(self.limit * _DOWN)
        else:
            self._settle(rate, latency)
            self._pause -= 1
            if self._pause <= 0 or self._starting:
                if self._starting:
                    self._try(self.limit * 2 if busy else self.limit)
                else:
                    self._try(self.limit * (_UP if self._upwards and busy else _DOWN))

    def _settle(self, rate: float, latency: float) -> None:
        """Count a round among the usual ones."""
        share = 0.3 if self._usual else 1.0
        self._usual += share * (rate - self._usual)
        self._latency += share * (latency - self._latency)

    def _try(self, wanted: float) -> None:
        """Begin a trial of another limit, if there is one."""
        limit = self.limit
        found = math.ceil(wanted) if wanted > limit else math.floor(wanted)
        found = int(max(min(limit, _LEAST), min(found, self._most, self._ceiling - 1)))
        self._pause = self._calm
        if found == limit:
            self._starting = False
            self._upwards = not self._upwards
            return
        self._before = limit
        self._set(int(found))

    def _judge(self, rate: float, latency: float) -> None:
        """End a trial: keep its limit, or go back."""
        before, limit = self._before or self.limit, self.limit
        self._before = None
        change = limit / before - 1
        gain = rate / self._usual - 1 if self._usual else 1.0
        if gain >= (_WORTH if change > 0 else _FREE) * change:
            self._usual, self._latency = rate, latency
            if self._starting and change > 0:
                self._try(limit * 2)
                return
            self._upwards = change > 0
            self._calm, self._pause = _CALM, 1
        else:
            self._set(before)
            self._upwards = change < 0
            self._calm = min(_CALMEST, self._calm + 1)
            self._pause = self._calm
        self._starting = False

    def _back_off(self) -> None:
        limit = self.limit
        self._ceiling, self._wary = max(2, limit), _WARY
        back = self._before if self._before is not None and self._before < limit else limit * _BACK_OFF
        self._before, self._starting, self._upwards = None, False, False
        self._calm = self._pause = _CALM
        self._usual = self._latency = 0.0
        self._set(max(1, int(back)))

    def _set(self, limit: int) -> None:
        # As many calls as were in flight end before the new limit shows.
        self._old = max(self.limit, limit)
        self.limit = limit
        self._round = None


def first_of(waiting: dict[int, T]) -> tuple[int, T]:
    """Return the item that was begun first, with its number."""
    return next(iter(waiting.items()))


def in_flight_or(connections: int, in_flight: int | Literal["auto"] | Throttle | None) -> int | Throttle:
    """Return how many items to read ahead: as many as given, enough to keep the connections busy, or a control."""
    if in_flight == "auto":
        return Throttle(2 * connections)
    if isinstance(in_flight, Throttle):
        return in_flight
    return min(2 * connections, _MOST_AHEAD) if in_flight is None else positive(in_flight, "in_flight")
