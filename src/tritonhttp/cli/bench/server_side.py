"""What the server says of the same window: its statistics, and GPU and memory from metrics within reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import InferenceServerException
from .. import scrape
from ..common import Failure, Setup

__all__ = ["GAUGES", "Server", "ServerFigures", "Snapshot", "difference", "gauges_of", "read_statistics"]

_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
_TIMEOUT = 2.0
GAUGES = (
    "nv_gpu_utilization",
    "nv_gpu_power_usage",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_cpu_utilization",
    "nv_cpu_memory_used_bytes",
)


@dataclass(frozen=True)
class Snapshot:
    """Counters of a model and of those that it is composed of, by name: count and nanoseconds of each part."""

    counts: Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True, kw_only=True)
class ServerFigures:
    """What a model did in a span, as its server counts.

    Attributes
    ----------
    requests, failures, inferences, executions, hits : int
    seconds : mapping of str to float
        Mean seconds of a request: ``queue``, ``compute_input``, ``compute_infer``, ``compute_output``, ``total``.
    """

    requests: int = 0
    failures: int = 0
    inferences: int = 0
    executions: int = 0
    hits: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def batch(self) -> float:
        """The mean batch size."""
        return self.inferences / self.executions if self.executions else 0.0


def read_statistics(replies: Iterable[Any], model: str, version: str) -> Snapshot:
    """Add up the statistics of a model over servers and versions."""
    total: dict[str, tuple[int, int]] = {}

    def add(name: str, count: int, ns: int) -> None:
        before = total.get(name, (0, 0))
        total[name] = (before[0] + count, before[1] + ns)

    for reply in replies:
        for entry in reply.get("model_stats") or ():
            if entry.get("name") != model or (version and str(entry.get("version")) != version):
                continue
            for name, duration in (entry.get("inference_stats") or {}).items():
                add(name, int(duration.get("count", 0)), int(duration.get("ns", 0)))
            add("inferences", int(entry.get("inference_count", 0)), 0)
            add("executions", int(entry.get("execution_count", 0)), 0)
    return Snapshot({model: total})


def difference(before: Snapshot, after: Snapshot, model: str) -> ServerFigures | None:
    """Return what happened between two snapshots; None if the server was asked nothing, or restarted."""
    old, new = before.counts.get(model, {}), after.counts.get(model, {})

    def change(name: str, part: int = 0) -> int:
        return new.get(name, (0, 0))[part] - old.get(name, (0, 0))[part]

    requests = change("success")
    if requests <= 0 or change("success", 1) < 0:
        return None
    seconds = {name: change(name, 1) / requests / 1e9 for name in _PARTS}
    seconds["total"] = change("success", 1) / requests / 1e9
    return ServerFigures(
        requests=requests,
        failures=max(0, change("fail")),
        inferences=change("inferences"),
        executions=change("executions"),
        hits=max(0, change("cache_hit")),
        seconds=seconds,
    )


def gauges_of(samples: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the gauges of GPU and CPU: the mean over GPUs of a share, the sum of others."""
    values: dict[str, list[float]] = {}
    for sample in samples:
        if sample["name"] in GAUGES:
            values.setdefault(sample["name"], []).append(sample["value"])
    return {
        name: sum(each) / (len(each) if name.endswith("utilization") else 1) for name, each in values.items()
    }


class Server:
    """Asks the servers about a model. What cannot be had is left out.

    Parameters
    ----------
    setup : Setup
        Makes a client of its own, so that this does not take the load's connections.
    metrics_url : str, optional
        None: port 8002 of the first server.
    """

    def __init__(self, setup: Setup, model: str, version: str, metrics_url: str | None) -> None:
        self._setup, self.model, self._version = setup, model, version
        self._client = setup.client()
        self._metrics = metrics_url
        self._asked = metrics_url is not None
        self._counts = True
        #: Each gauge since `begin`.
        self.gauges: dict[str, list[float]] = {}
        if metrics_url is None:
            with suppress(Failure):
                self._metrics = scrape.address(setup, setup.urls[0])

    def begin(self) -> None:
        """Forget the gauges."""
        self.gauges = {}

    def snapshot(self) -> Snapshot | None:
        """Return the statistics as they are now; None where the server keeps none."""
        if not self._counts:
            return None
        try:
            replies = self._client.on_each(
                lambda one: one.get_inference_statistics(self.model, self._version)
            )
        except InferenceServerException:
            self._counts = False
            return None
        return read_statistics(replies.values(), self.model, self._version)

    def look(self) -> None:
        """Read the metrics once; never again if they are not there, which is an error if their URL was given."""
        if self._metrics is None:
            return
        try:
            samples = scrape.read(replace(self._setup, deadline=_TIMEOUT), self._metrics)
        except (InferenceServerException, ImportError):
            self._metrics = None
            if self._asked:
                raise
            return
        for name, value in gauges_of(samples).items():
            self.gauges.setdefault(name, []).append(value)

    def close(self) -> None:
        """Close the client."""
        self._client.close()
