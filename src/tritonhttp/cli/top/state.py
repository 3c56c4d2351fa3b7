"""What is known of a server: its latest readings, and how they differ from those before. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..counters import Counters, Key, difference, gauges_of, gpus_of, of_metrics

__all__ = ["AWAY", "LIVE", "NEW", "RESTARTED", "SLOW", "WAITING", "Part", "Reading", "Server"]

#: States of a server, and notes of a model on it.
WAITING, LIVE, SLOW, AWAY, RESTARTED, NEW = "waiting", "live", "slow", "away", "restarted", "new"
#: By how much counters of one server may differ that are not read at the same moment.
_SLACK = 10
#: So often must metrics contradict the statistics until they count as another server's.
_STRIKES = 2


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a server said of its models.

    Attributes
    ----------
    sent, at : float
        Seconds on one clock: when it was asked, when it had answered.
    counters : mapping
        Of each model and version.
    states : mapping
        What the server calls the state of a model, where that is all it says.
    last : mapping
        The last inference of a model, in milliseconds since 1970.
    source : str
        What the counters were read from; those of two sources have no difference.
    words : str
        Why there is not more.
    """

    sent: float
    at: float
    counters: Mapping[Key, Counters] = field(default_factory=dict)
    states: Mapping[Key, str] = field(default_factory=dict)
    last: Mapping[Key, int] = field(default_factory=dict)
    source: str = "statistics"
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A model on one server.

    Attributes
    ----------
    change : mapping or None
        What was counted in the span; None where there is nothing to compare with.
    seconds : float
        The span.
    total : mapping
        What was counted since the server's start.
    pending : int or None
        Requests that wait, by the metrics.
    note : str
        Why there is no change, or the model's state.
    """

    change: Counters | None = None
    seconds: float = 0.0
    total: Counters = field(default_factory=dict)
    pending: int | None = None
    last: int = 0
    note: str = ""


class Server:
    """A server as its readings show it.

    Parameters
    ----------
    url : str
    metrics_url : str
        Where its metrics are; empty: nowhere.
    """

    def __init__(self, url: str, metrics_url: str = "") -> None:
        self.url, self.metrics_url = url, metrics_url
        self.state = WAITING
        #: What went wrong, and what cannot be shown.
        self.words = self.limits = ""
        #: Whether the latest round brought a reading.
        self.fresh = False
        self.name = self.version = ""
        #: How often it began anew, and the wall clock's seconds of the last time.
        self.restarts, self.restarted_at = 0, 0.0
        self.parts: dict[Key, Part] = {}
        self.samples: list[dict[str, Any]] = []
        self.looked_at = 0.0
        self.metrics_words = ""
        self._strikes = 0
        self._reading: Reading | None = None

    def take(self, reading: Reading, clock: float) -> None:
        """Take a reading, at a time of the wall clock."""
        before, self._reading = self._reading, reading
        was_away = self.state == AWAY
        self.state, self.words, self.limits, self.fresh = LIVE, "", reading.words, True
        old = before.counters if before is not None and before.source == reading.source else {}
        changes = {
            key: difference(old[key], counters) for key, counters in reading.counters.items() if key in old
        }
        fallen = {key for key, change in changes.items() if change is None}
        # All that had counted count anew. One model alone may also have been loaded again.
        if fallen and all(key in fallen for key in changes if _counted(old[key])):
            self.state = RESTARTED
            self.restarts, self.restarted_at = self.restarts + 1, clock
        if fallen:  # the metrics at hand are older
            self._strikes, self.samples = 0, []
        elif self.looked_at <= reading.sent and reading.source == "statistics":
            self._judge(reading.counters, of_metrics(self.samples))
        waiting = self.pending
        self.parts = {}
        for key in reading.counters.keys() | reading.states.keys():
            counters = reading.counters.get(key)
            note = reading.states.get(key, "")
            change = changes.get(key)
            if key in fallen or self.state == RESTARTED:
                note, change = RESTARTED, None
            elif was_away:  # the time in between says nothing of now
                change = None
            elif counters is not None and key not in old and old:
                note = NEW
            self.parts[key] = Part(
                change=change,
                seconds=reading.at - before.at if before is not None else 0.0,
                total=counters or {},
                pending=waiting.get(key),
                last=reading.last.get(key, 0),
                note=note,
            )

    def fail(self, words: str) -> None:
        """Note that it does not answer as a server does. What was known of its models is known to be old."""
        self.state, self.words, self.fresh = AWAY, words, False
        self.parts = {
            key: Part(total=part.total, last=part.last, note=AWAY) for key, part in self.parts.items()
        }
        self.samples, self._strikes = [], 0

    def wait(self, seconds: float) -> None:
        """Note that it has not answered yet, for so long."""
        self.fresh = False
        if self.state not in (WAITING, AWAY):
            self.state, self.words = SLOW, f"no answer for {seconds:.1f} s"

    def look(self, samples: list[dict[str, Any]], sent: float, at: float) -> None:
        """Take its metrics, asked for and answered at these times."""
        self.samples, self.looked_at, self.metrics_words = samples, at, ""
        before = self._reading
        if before is not None and before.at <= sent and before.source == "statistics":
            self._judge(of_metrics(samples), before.counters)
        if self.state == AWAY:
            self.samples = []
        if self._strikes >= _STRIKES:
            self.samples = []
            self.metrics_words = f"{self.metrics_url} has the metrics of another server"
        waiting = self.pending
        self.parts = {key: replace(part, pending=waiting.get(key)) for key, part in self.parts.items()}

    def look_failed(self, words: str) -> None:
        """Note that there are no metrics."""
        self.samples, self.metrics_words = [], words

    def _judge(self, later: Mapping[Key, Counters], earlier: Mapping[Key, Counters]) -> None:
        """Note whether metrics and statistics contradict each other: something fell that only rises."""
        self._strikes += any(
            _successes(later[key]) + _SLACK < _successes(earlier[key])
            for key in later.keys() & earlier.keys()
        )

    @property
    def pending(self) -> dict[Key, int]:
        """The requests that wait, by model."""
        return {
            (each["labels"].get("model", ""), each["labels"].get("version", "")): int(each["value"])
            for each in self.samples
            if each["name"] == "nv_inference_pending_request_count" and abs(each["value"]) < float("inf")
        }

    @property
    def gauges(self) -> dict[str, float]:
        """GPU, CPU and memory."""
        return gauges_of(self.samples)

    @property
    def gpus(self) -> dict[str, dict[str, float]]:
        """GPU and its memory, by UUID."""
        return gpus_of(self.samples)


def _counted(counters: Counters) -> bool:
    return any(count for count, _ in counters.values())


def _successes(counters: Counters) -> int:
    return counters.get("success", (0, 0))[0]
