"""One model in detail: where its time goes, its batches, servers and versions. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..counters import PARTS, added
from ..output import time_of
from .view import Column, Row, columns_for, named, rate_words

__all__ = ["Section", "sections"]

_BAR = 20
_NAMES = dict(zip(PARTS, ("queue", "input", "infer", "output"), strict=True))


@dataclass(frozen=True)
class Section:
    """A table: its title, headers, how many of its columns are text, and its rows."""

    title: str
    headers: Sequence[str]
    texts: int
    rows: Sequence[Sequence[str]]


def sections(row: Row, versions: Iterable[Row], width: int) -> list[Section]:
    """Return what there is to say of a model, for a screen of this width."""
    found = [_facts(row), _times(row, width), _batches(row)]
    if len(row.parts) > 1:
        alone = [(url, Row(row.model, row.version, {url: part})) for url, part in row.parts.items()]
        found.append(_compared("servers", "server", alone, width))
    others = [(each.version, each) for each in versions]
    if len(others) > 1:
        found.append(_compared("versions", "version", others, width))
    return [section for section in found if section.rows]


def _facts(row: Row) -> Section:
    total = added(part.total for part in row.parts.values())
    said = [
        (title, named(name).text(row))
        for title, name in (
            ("inferences/s", "inferences"),
            ("requests/s", "requests"),
            ("failures/s", "failures"),
        )
    ]
    executions = row.rate("executions")
    said.append(("executions/s", "-" if executions is None else rate_words(executions)))
    said += [
        (title, named(name).text(row))
        for title, name in (
            ("mean batch", "batch"),
            ("in flight", "in-flight"),
            ("pending", "pending"),
            ("cache hits", "cache"),
        )
    ]
    counts = {name: total.get(name, (0, 0))[0] for name in ("success", "fail", "inferences")}
    said.append(
        (
            "since the start",
            f"{counts['success']:,} requests, {counts['fail']:,} failures, {counts['inferences']:,} inferences",
        )
    )
    last = max(part.last for part in row.parts.values())
    if last:
        said.append(("last inference", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last / 1000))))
    if row.note:
        said.insert(0, ("state", row.note))
    return Section("", (), 2, said)


def _times(row: Row, width: int) -> Section:
    seconds = row.figures.seconds
    total = seconds.get("total", 0.0)
    if not total:
        return Section("", (), 0, ())
    other = max(0.0, total - sum(seconds[part] for part in PARTS))
    named_times = [*((_NAMES[part], seconds[part]) for part in PARTS), ("other", other), ("total", total)]
    bar = max(0, min(_BAR, width - 30))
    rows = [
        (
            name,
            "█" * round(bar * each / total) if name != "total" else "",
            time_of(each),
            f"{each / total:.0%}",
        )
        for name, each in named_times
    ]
    return Section("time of a request", ("part", "", "mean", "share"), 2, rows)


def _batches(row: Row) -> Section:
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for name, counts in row.change.items():
        if name.startswith("batch "):
            _, size, part = name.split(" ", 2)
            if size.isdecimal():
                found.setdefault(int(size), {})[part] = counts
    runs = {size: max(count for count, _ in parts.values()) for size, parts in found.items()}
    everything = sum(runs.values())
    rows = [
        (
            str(size),
            f"{runs[size]:,}",
            f"{runs[size] / everything:.0%}",
            *(_mean(found[size].get(part, (0, 0))) for part in PARTS[1:]),
        )
        for size in sorted(found)
        if runs[size]
    ]
    return Section("batches of the interval", ("size", "runs", "share", "input", "infer", "output"), 0, rows)


def _mean(counts: tuple[int, int]) -> str:
    return time_of(counts[1] / counts[0] / 1e9) if counts[0] else "-"


def _compared(title: str, first: str, rows: Sequence[tuple[str, Row]], width: int) -> Section:
    longest = max(len(name) for name, _ in rows)
    names = columns_for(width - longest - 2, [row for _, row in rows], past=False)
    columns: list[Column] = [named(name) for name in names if name not in ("model", "version")]
    cells = [(name, *(column.cell(row) for column in columns)) for name, row in rows]
    return Section(title, (first, *(column.title for column in columns)), 1, cells)
