"""Rows and columns: models over all servers, sorted, filtered, and as many columns as fit. Pure."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from ..counters import PARTS, Counters, Key, ServerFigures, added, figures_of
from ..output import short, time_of
from .state import AWAY, Part, Server

__all__ = [
    "COLUMNS",
    "Column",
    "History",
    "Options",
    "Row",
    "arranged",
    "columns_for",
    "gauge_words",
    "named",
    "rate_words",
    "rows_of",
    "server_json",
    "server_words",
    "spark",
]

_BARS = "▁▂▃▄▅▆▇█"
#: How many figures of the past are kept for each model.
_KEPT = 240
_GAP = 2


@dataclass(frozen=True)
class Row:
    """A model and version, on all servers that have it."""

    model: str
    version: str
    parts: Mapping[str, Part]

    @cached_property
    def change(self) -> Counters:
        """What was counted, added up over servers."""
        return added(part.change for part in self.parts.values() if part.change is not None)

    @cached_property
    def figures(self) -> ServerFigures:
        """The figures of that."""
        return figures_of(self.change)

    @property
    def known(self) -> bool:
        """Whether something was counted at all: nothing is, where there is nothing to compare with."""
        return any(part.change is not None for part in self.parts.values())

    def rate(self, name: str, place: int = 0) -> float | None:
        """Return what was counted in a second, each server by its own span."""
        if not self.known:
            return None
        return sum(
            part.change.get(name, (0, 0))[place] / part.seconds
            for part in self.parts.values()
            if part.change is not None and part.seconds > 0
        )

    def seconds(self, part: str) -> float | None:
        """Return the mean seconds of a request."""
        return self.figures.seconds.get(part)

    @property
    def batch(self) -> float | None:
        """The mean batch size."""
        return self.figures.batch or None

    @property
    def cached(self) -> float | None:
        """The share of requests that the cache answered."""
        looked_up = self.figures.hits + self.figures.misses
        return self.figures.hits / looked_up if looked_up else None

    @property
    def in_flight(self) -> float | None:
        """The mean number of requests in the servers, by what they took and how many there were."""
        nanoseconds = self.rate("success", 1)
        return None if nanoseconds is None else nanoseconds / 1e9

    @property
    def pending(self) -> int | None:
        """The requests that wait."""
        found = [part.pending for part in self.parts.values() if part.pending is not None]
        return sum(found) if found else None

    @property
    def note(self) -> str:
        """What is to be said of it: of a server that is away only where no other has the model."""
        notes = {part.note for part in self.parts.values()}
        if len(notes) > 1:
            notes -= {AWAY, ""} if len(notes - {AWAY, ""}) else {AWAY}
        return ", ".join(sorted(notes))

    def as_json(self, servers: bool = True) -> dict[str, Any]:
        """Return it as an object for machines; with several servers each by itself too."""
        found: dict[str, Any] = {
            "model": self.model,
            "version": self.version,
            "note": self.note or None,
            "inferences_per_second": self.rate("inferences"),
            "requests_per_second": self.rate("success"),
            "failures_per_second": self.rate("fail"),
            "executions_per_second": self.rate("executions"),
            **{f"{part}_seconds": self.seconds(part) for part in (*PARTS, "total")},
            "batch_size": self.batch,
            "cache_hit_share": self.cached,
            "in_flight": self.in_flight,
            "pending": self.pending,
        }
        if servers and len(self.parts) > 1:
            found["servers"] = {
                url: Row(self.model, self.version, {url: part}).as_json() for url, part in self.parts.items()
            }
        return found


def rows_of(servers: Iterable[Server], *, fresh: bool = False) -> list[Row]:
    """Return the models of servers; `fresh`: only of those that have said something new."""
    found: dict[Key, dict[str, Part]] = {}
    for server in servers:
        if server.fresh or not fresh:
            for key, part in server.parts.items():
                found.setdefault(key, {})[server.url] = part
    return [Row(*key, parts) for key, parts in sorted(found.items())]


class History:
    """The rates of each model in the past, bounded; of a model that is gone, none."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._rates: dict[Key, deque[float | None]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Add the rates of now."""
        old, self._rates = self._rates, {}
        for row in rows:
            key = row.model, row.version
            self._rates[key] = old.get(key) or deque(maxlen=self._kept)
            self._rates[key].append(row.rate("inferences"))

    def of(self, row: Row) -> Sequence[float | None]:
        """Return the rates of a model, the latest last."""
        return list(self._rates.get((row.model, row.version), ()))


def spark(rates: Sequence[float | None], width: int) -> str:
    """Return the latest rates as bars of one line; a gap where none is known."""
    shown = list(rates)[-width:] if width > 0 else []
    most = max((rate for rate in shown if rate is not None), default=0.0)

    def bar(rate: float | None) -> str:
        if rate is None:
            return " "
        return _BARS[min(7, math.ceil(rate / most * 7))] if rate > 0 else _BARS[0]

    return "".join(map(bar, shown)).rjust(width)


# -- columns --


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: what it is called, how wide it is, and when it leaves a narrow screen.

    Attributes
    ----------
    name : str
        As ``--sort`` and JSON's readers know it.
    rank : int
        The columns with the highest leave first.
    words : str
        What it shows.
    """

    name: str
    title: str
    width: int
    rank: int
    value: Callable[[Row], Any]
    form: Callable[[Any], str] = str
    right: bool = True
    words: str = ""

    def text(self, row: Row) -> str:
        """Return its cell; a dash where nothing is known."""
        value = self.value(row)
        return "-" if value is None else self.form(value)

    def cell(self, row: Row) -> str:
        """Return its cell, where no other column has the row's note."""
        noted = self.name == "inferences" and self.value(row) is None and row.note
        return row.note if noted else self.text(row)


def rate_words(value: float) -> str:
    """Format a rate."""
    return "0" if not value else short(value) if value < 100 else f"{value:,.0f}"


def _seconds(part: str) -> Callable[[Row], float | None]:
    return lambda row: row.seconds(part)


def _version(row: Row) -> Any:
    """Return what sorts numbers as numbers, and is shown as it is."""
    return _Version(row.version)


class _Version(str):
    def __lt__(self, other: str) -> bool:
        return self._order() < _Version(other)._order()

    def _order(self) -> tuple[int, str]:
        return (int(self), "") if self.isdecimal() else (-1, str(self))


def _servers(row: Row) -> str:
    there = sum(part.note != AWAY for part in row.parts.values())
    return f"{there}/{len(row.parts)}"


COLUMNS = (
    Column(
        name="model",
        title="model",
        width=12,
        rank=0,
        right=False,
        value=lambda row: row.model,
        words="the model",
    ),
    Column(name="version", title="ver", width=3, rank=2, right=False, value=_version, words="its version"),
    Column(
        name="inferences",
        title="inf/s",
        width=9,
        rank=1,
        value=lambda row: row.rate("inferences"),
        form=rate_words,
        words="inferences in a second: rows of batches",
    ),
    Column(
        name="rate",
        title="",
        width=10,
        rank=6,
        right=False,
        value=lambda row: None,
        words="inf/s in the past",
    ),
    Column(
        name="requests",
        title="req/s",
        width=7,
        rank=9,
        value=lambda row: row.rate("success"),
        form=rate_words,
        words="successful requests in a second",
    ),
    Column(
        name="failures",
        title="fail/s",
        width=6,
        rank=3,
        value=lambda row: row.rate("fail"),
        form=rate_words,
        words="requests that failed in a second",
    ),
    Column(
        name="queue",
        title="queue",
        width=7,
        rank=5,
        value=_seconds("queue"),
        form=time_of,
        words="mean time of a request in the queue",
    ),
    Column(
        name="input",
        title="input",
        width=7,
        rank=11,
        value=_seconds("compute_input"),
        form=time_of,
        words="for preparing its inputs",
    ),
    Column(
        name="infer",
        title="infer",
        width=7,
        rank=4,
        value=_seconds("compute_infer"),
        form=time_of,
        words="in the model",
    ),
    Column(
        name="output",
        title="output",
        width=7,
        rank=12,
        value=_seconds("compute_output"),
        form=time_of,
        words="for its outputs",
    ),
    Column(
        name="batch",
        title="batch",
        width=5,
        rank=7,
        value=lambda row: row.batch,
        form=short,
        words="mean batch size",
    ),
    Column(
        name="cache",
        title="cache",
        width=5,
        rank=13,
        value=lambda row: row.cached,
        form=lambda value: f"{value:.0%}",
        words="requests that the response cache answered",
    ),
    Column(
        name="in-flight",
        title="flight",
        width=6,
        rank=8,
        value=lambda row: row.in_flight,
        form=rate_words,
        words="mean number of requests in the server",
    ),
    Column(
        name="pending",
        title="pend",
        width=5,
        rank=10,
        value=lambda row: row.pending,
        form=lambda value: f"{value:,}",
        words="requests that wait, by the metrics",
    ),
    Column(
        name="servers",
        title="servers",
        width=7,
        rank=14,
        value=_servers,
        words="servers that answer, of those that have the model",
    ),
)


def named(name: str) -> Column:
    """Return the column of a name."""
    return next(column for column in COLUMNS if column.name == name)


def columns_for(
    width: int, rows: Sequence[Row], *, several: bool = False, past: bool = True
) -> dict[str, int]:
    """Return the columns that fit into a width, and the width of each.

    Parameters
    ----------
    several : bool
        Whether there are several servers.
    past : bool
        Whether there is a past to show.
    """
    wanted = [
        column
        for column in COLUMNS
        if (several or column.name != "servers") and (past or column.name != "rate")
    ]
    longest = max((len(row.model) for row in rows), default=0)
    least = {column.name: column.width for column in wanted}
    least["model"] = max(least["model"], min(longest, width // 5))
    left = width
    found: set[str] = set()
    # A version says little where no model has several.
    ranks = {column.name: column.rank for column in wanted}
    if len({row.model for row in rows}) == len(rows):
        ranks["version"] = max(ranks.values())
    for column in sorted(wanted, key=lambda column: ranks[column.name]):
        if least[column.name] + _GAP > left and found:
            break
        found.add(column.name)
        left -= least[column.name] + _GAP
    widths = {column.name: least[column.name] for column in wanted if column.name in found}
    more = max(0, min(left, longest - widths["model"]))
    widths["model"] += more
    if "rate" in widths:
        widths["rate"] += max(0, min(left - more, 30))
    return widths


# -- order --


@dataclass(frozen=True, kw_only=True)
class Options:
    """How it is shown."""

    pattern: str = ""
    sort: str = "inferences"
    reverse: bool = False
    interval: float = 1.0


def arranged(rows: Iterable[Row], sort: str, reverse: bool, pattern: str) -> list[Row]:
    """Return the rows whose model has the pattern in its name, or matches it, in the order of a column.

    Numbers begin with the highest, unless reversed; what is not known comes last.
    """
    column = named(sort)
    wanted = [row for row in rows if _matches(row.model, pattern)]
    known = [row for row in wanted if column.value(row) is not None]
    known.sort(key=lambda row: (row.model, _version(row)))
    known.sort(key=column.value, reverse=column.right != reverse)
    return known + sorted(
        (row for row in wanted if column.value(row) is None), key=lambda row: (row.model, _version(row))
    )


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    return fnmatchcase(name, pattern if set(pattern) & set("*?[") else f"*{pattern}*")


# -- servers --


def gauge_words(server: Server) -> list[str]:
    """Return what the metrics say of GPU, CPU and memory, in words."""
    several = len(server.gpus) > 1
    found = [
        _load(f"GPU{n}" if several else "GPU", gauges, "nv_gpu")
        for n, gauges in enumerate(server.gpus.values())
    ]
    found.append(_load("CPU", server.gauges, "nv_cpu"))
    return [words for words in found if words]


def _load(name: str, gauges: Mapping[str, float], prefix: str) -> str:
    words = []
    if f"{prefix}_utilization" in gauges:
        words.append(f"{gauges[f'{prefix}_utilization']:.0%}")
    total = gauges.get(f"{prefix}_memory_total_bytes")
    if f"{prefix}_memory_used_bytes" in gauges and total != 0:  # Triton's first ones are 0
        used = f"{gauges[f'{prefix}_memory_used_bytes'] / 2**30:.1f}"
        words.append(f"{used}/{total / 2**30:.1f} GiB" if total else f"{used} GiB")
    if f"{prefix}_power_usage" in gauges:
        words.append(f"{gauges[f'{prefix}_power_usage']:.0f} W")
    return " ".join([name, *words]) if words else ""


def server_words(server: Server) -> list[str]:
    """Return what else there is to say of a server: what went wrong, and what cannot be shown."""
    found = [server.words, server.limits]
    if server.restarts:
        times = f" ({server.restarts} times)" if server.restarts > 1 else ""
        found.append(f"restarted at {time.strftime('%H:%M:%S', time.localtime(server.restarted_at))}{times}")
    return [words for words in found if words]


def server_json(server: Server) -> dict[str, Any]:
    """Return a server as an object for machines."""
    return {
        "state": server.state,
        "name": server.name or None,
        "version": server.version or None,
        "error": server.words or None,
        "limits": server.limits or None,
        "restarts": server.restarts,
        "metrics": None if server.metrics_words or not server.samples else server.metrics_url,
        "gauges": server.gauges,
        "gpus": server.gpus,
    }
