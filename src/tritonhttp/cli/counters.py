"""What servers count for their models: readings of statistics or metrics, and what two readings differ by.

A reading has a count and nanoseconds for each part of the work. Only differences of two readings have a meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "PARTS",
    "Counters",
    "Key",
    "ServerFigures",
    "added",
    "difference",
    "figures_of",
    "gauges_of",
    "gpus_of",
    "of_metrics",
    "of_statistics",
]

#: The parts of a request's time on its server.
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
#: Count and nanoseconds by name: those of ``inference_stats``, ``inferences``, ``executions``, and for each size
#: of a batch ``batch SIZE PART``.
Counters = Mapping[str, tuple[int, int]]
#: A model and its version.
Key = tuple[str, str]

_GAUGES = (
    "nv_gpu_utilization",
    "nv_gpu_power_usage",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_cpu_utilization",
    "nv_cpu_memory_used_bytes",
    "nv_cpu_memory_total_bytes",
)
#: Metrics that count what statistics count: name, count or nanoseconds, and by what to multiply.
_COUNTED = {
    "nv_inference_request_success": ("success", 0, 1),
    "nv_inference_request_failure": ("fail", 0, 1),
    "nv_inference_count": ("inferences", 0, 1),
    "nv_inference_exec_count": ("executions", 0, 1),
    "nv_inference_request_duration_us": ("success", 1, 1000),
    "nv_cache_num_hits_per_model": ("cache_hit", 0, 1),
    "nv_cache_num_misses_per_model": ("cache_miss", 0, 1),
    **{f"nv_inference_{part}_duration_us": (part, 1, 1000) for part in PARTS},
}


@dataclass(frozen=True, kw_only=True)
class ServerFigures:
    """What a model did in a span, as its server counts.

    Attributes
    ----------
    requests, failures, inferences, executions, hits, misses : int
    seconds : mapping of str to float
        Mean seconds of a request: ``queue``, ``compute_input``, ``compute_infer``, ``compute_output``, ``total``.
        Empty without requests.
    """

    requests: int = 0
    failures: int = 0
    inferences: int = 0
    executions: int = 0
    hits: int = 0
    misses: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def batch(self) -> float:
        """The mean batch size."""
        return self.inferences / self.executions if self.executions else 0.0


def of_statistics(reply: Any) -> dict[Key, Counters]:
    """Return the counters of each model in a server's statistics; what is not there counts as 0."""
    found: dict[Key, Counters] = {}
    for entry in reply.get("model_stats") or ():
        counts = {name: _duration(each) for name, each in (entry.get("inference_stats") or {}).items()}
        counts["inferences"] = int(entry.get("inference_count", 0)), 0
        counts["executions"] = int(entry.get("execution_count", 0)), 0
        for batch in entry.get("batch_stats") or ():
            for part in PARTS[1:]:
                counts[f"batch {batch.get('batch_size')} {part}"] = _duration(batch.get(part) or {})
        found[str(entry.get("name")), str(entry.get("version", ""))] = counts
    return found


def _duration(value: Mapping[str, Any]) -> tuple[int, int]:
    return int(value.get("count", 0)), int(value.get("ns", 0))


def of_metrics(samples: Iterable[Mapping[str, Any]]) -> dict[Key, Counters]:
    """Return the counters of each model in Triton's metrics."""
    found: dict[Key, dict[str, tuple[int, int]]] = {}
    for name, labels, value in _samples(samples):
        if name in _COUNTED and "model" in labels:
            counts = found.setdefault((labels["model"], labels.get("version", "")), {})
            part, place, scale = _COUNTED[name]
            count, ns = counts.get(part, (0, 0))
            more = int(value * scale)
            counts[part] = (count, ns + more) if place else (count + more, ns)
    return dict(found)


def _samples(samples: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Yield the samples that are numbers."""
    for sample in samples:
        if abs(value := sample["value"]) < float("inf"):
            yield sample["name"], sample["labels"], value


def added(many: Iterable[Counters]) -> Counters:
    """Add counters up."""
    total: dict[str, tuple[int, int]] = {}
    for counters in many:
        for name, (count, ns) in counters.items():
            before = total.get(name, (0, 0))
            total[name] = before[0] + count, before[1] + ns
    return total


def difference(before: Counters, after: Counters) -> Counters | None:
    """Return what was counted between two readings; None if they began anew: one of them has fallen."""
    found = {}
    for name in before.keys() | after.keys():
        (count, ns), (was, ns_was) = after.get(name, (0, 0)), before.get(name, (0, 0))
        if count < was or ns < ns_was:
            return None
        found[name] = count - was, ns - ns_was
    return found


def figures_of(change: Counters) -> ServerFigures:
    """Return the figures of a difference."""
    requests, ns = change.get("success", (0, 0))
    seconds = {part: change.get(part, (0, 0))[1] / requests / 1e9 for part in PARTS} if requests else {}
    if requests:
        seconds["total"] = ns / requests / 1e9
    names = {"fail": "failures", "cache_hit": "hits", "cache_miss": "misses"}
    counts = {names.get(name, name): count for name, (count, _) in change.items()}
    counted = ("failures", "inferences", "executions", "hits", "misses")
    return ServerFigures(
        requests=requests, seconds=seconds, **{name: counts.get(name, 0) for name in counted}
    )


def gauges_of(samples: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the gauges of GPU and CPU: the mean over GPUs of a share, the sum of others."""
    values: dict[str, list[float]] = {}
    for name, _, value in _samples(samples):
        if name in _GAUGES:
            values.setdefault(name, []).append(value)
    return {
        name: sum(each) / (len(each) if name.endswith("utilization") else 1) for name, each in values.items()
    }


def gpus_of(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the gauges of each GPU, by its UUID."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in _samples(samples):
        if name in _GAUGES and "gpu_uuid" in labels:
            found.setdefault(labels["gpu_uuid"], {})[name] = value
    return found
