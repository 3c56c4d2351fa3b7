"""Write a run's measurements to RESULTS.md, results.json and a picture.

`collect` makes one plain dictionary of a run, the content of results.json; `markdown` and `svg` render it.
"""

from __future__ import annotations

import datetime
import html
import importlib.metadata
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import OURS, Case, Measured

PACKAGES = (
    "tritonhttp",
    "numpy",
    "orjson",
    "httptools",
    "isal",
    "tritonclient",
    "geventhttpclient",
    "gevent",
    "aiohttp",
    "pycurl",
    "uvloop",
)


def duration(seconds: float) -> str:
    """Format a time with a suitable unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= scale:
            return f"{_three(seconds / scale)} {unit}"
    return f"{_three(seconds * 1e6)} µs"


def _three(value: float) -> str:
    """Format a number with three significant digits, never as a power of ten."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


METRICS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "cpu": ("CPU", duration),
    "p50": ("p50", duration),
    "p99": ("p99", duration),
    "sent": ("p99 from sending", duration),
    "wall": ("wall", duration),
    "rate": ("req/s", lambda value: f"{value:,.0f}" if value >= 100 else _three(value)),
    "rows": ("rows/s", lambda value: f"{value:,.0f}"),
    "memory": ("memory", lambda value: f"{value / 2**20:,.1f} MB"),
    "files": ("open files", lambda value: f"{value:+.0f}"),
}


def machine() -> dict[str, str]:
    """Describe the machine; call it before the run."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (
        found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    ):
        model = found[1]
    return {
        "cores": str(os.cpu_count()),
        "processor": model,
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "load before": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def spread(loops: Sequence[float]) -> str:
    """Describe how steady the machine was: the time of one loop, measured repeatedly."""
    first, middle, third = statistics.quantiles(
        [*loops, *loops], n=4, method="inclusive"
    )  # needs at least two
    return f"{middle * 1e3:.1f} ms ({first * 1e3:.1f} – {third * 1e3:.1f}), at best {min(loops) * 1e3:.1f}"


def versions() -> dict[str, str]:
    """Return the versions of the packages that took part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        import pycurl

        found["libcurl"] = pycurl.version_info()[1]
    except ImportError:
        pass
    return found


def _case(case: Case, measured: Mapping[str, Measured]) -> dict[str, Any]:
    contenders: dict[str, Any] = {}
    for name, result in measured.items():
        entry: dict[str, Any] = {"requests_per_block": result.requests}
        for metric in METRICS:
            if (quartiles := result.quartiles(metric)) is not None:
                entry[metric] = {
                    "median": result.median(metric),
                    "quartiles": quartiles,
                    "blocks": result.values(metric),
                }
        contenders[name] = entry
        for key in ("missing", "failed"):
            if text := getattr(result, key):
                entry[key] = text.strip()
    bounds = []
    for bound in case.bounds:
        pair = [
            measured[name].median(bound.metric) if name in measured else None
            for name in (bound.of, bound.against)
        ]
        value = None if None in pair else bound.measure(*pair)  # type: ignore[arg-type]
        bounds.append(
            {
                "metric": bound.metric,
                "of": bound.of,
                "against": bound.against,
                "kind": "difference" if bound.difference else "ratio",
                "at_most": bound.at_most,
                "at_least": bound.at_least,
                "measured": value,
                "met": None if value is None else bound.met(value),
            }
        )
    return {
        "name": case.name,
        "title": case.title,
        "metrics": list(case.metrics),
        "contenders": contenders,
        "bounds": bounds,
    }


def collect(
    results: Iterable[tuple[Case, Mapping[str, Measured]]],
    skipped: Mapping[str, str],
    seconds: float,
    where: Mapping[str, str],
) -> dict[str, Any]:
    """Return a whole run as one dictionary."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds),
        "machine": dict(where),
        "versions": versions(),
        "cases": [_case(case, measured) for case, measured in results],
        "skipped": dict(skipped),
    }


def merged(whole: Mapping[str, Any], some: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole run with the cases of a later one in place of its own, with the date of these."""
    later = {case["name"]: {**case, "date": some["date"]} for case in some["cases"]}
    skipped = {name: why for name, why in whole["skipped"].items() if name not in later}
    return {
        **whole,
        "versions": {**whole["versions"], **some["versions"]},
        "cases": [later.get(case["name"], case) for case in whole["cases"]],
        "skipped": {**skipped, **some["skipped"]},
    }


# Tables


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: list[str], rows: Iterable[list[str]], numbers_from: int) -> list[str]:
    marks = ["---" if i < numbers_from else "---:" for i in range(len(head))]
    return [_row(head), _row(marks), *map(_row, rows), ""]


def _median(case: Mapping[str, Any], name: str, metric: str) -> str:
    entry = case["contenders"].get(name, {}).get(metric)
    return METRICS[metric][1](entry["median"]) if entry else "–"


def _bound_rows(cases: Iterable[Mapping[str, Any]]) -> Iterable[list[str]]:
    for case in cases:
        for bound in case["bounds"]:
            metric, value = bound["metric"], bound["measured"]
            sign, limit = (
                ("≤", bound["at_most"]) if bound["at_most"] is not None else ("≥", bound["at_least"])
            )
            show = METRICS[metric][1] if bound["kind"] == "difference" else lambda ratio: f"{ratio:.3g}"
            of = "" if bound["of"] == OURS else f"{bound['of']}: "
            prefix = "+" if bound["kind"] == "difference" else ""
            yield [
                case["title"],
                METRICS[metric][0],
                of + _median(case, bound["of"], metric),
                f"{bound['against']}: {_median(case, bound['against'], metric)}",
                "–" if value is None else prefix * (value > 0) + show(value),
                f"{sign} {prefix}{show(limit)}",
                {True: "met", False: "**not met**", None: "not measured"}[bound["met"]],
            ]


def _measurements(case: Mapping[str, Any], metrics: list[str]) -> Iterable[list[str]]:
    ours = case["contenders"].get(OURS, {})
    for i, (name, entry) in enumerate(case["contenders"].items()):
        cells = [case["title"] if i == 0 else "", name]
        for metric in metrics:
            if metric not in entry:
                cells.append("")
                continue
            show, (low, high) = METRICS[metric][1], entry[metric]["quartiles"]
            text = show(entry[metric]["median"])
            if len(entry[metric]["blocks"]) > 1:
                text += f" ({show(low)} – {show(high)})"
            cells.append(text)
        main = case["metrics"][0]
        ratio = ""
        if name != OURS and main in entry and main in ours and entry[main]["median"]:
            ratio = f"{ours[main]['median'] / entry[main]['median']:.2f}"
        if why := entry.get("missing") or entry.get("failed"):
            ratio = f"{'missing' if 'missing' in entry else 'failed'}: {why.splitlines()[-1]}"
        yield [*cells, ratio]


def _groups(cases: list[Mapping[str, Any]]) -> Iterable[tuple[list[str], list[Mapping[str, Any]]]]:
    """Put cases with the same metrics into one table."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for case in cases:
        groups.setdefault(tuple(case["metrics"]), []).append(case)
    return ((list(metrics), members) for metrics, members in groups.items())


def tables(run: Mapping[str, Any]) -> str:
    """Render the bounds and all measurements."""
    lines: list[str] = []
    bounds = list(_bound_rows(run["cases"]))
    if bounds:
        met = sum(row[-1] == "met" for row in bounds)
        lines += ["## What must hold", "", f"{met} of {len(bounds)} bounds are met.", ""]
        head = ["case", "", OURS, "against", "measured", "wanted", ""]
        lines += _table(head, bounds, 99)
    lines += [
        "## All measurements",
        "",
        "Medians over the blocks, the quartiles in brackets. CPU is the client process's own, user and system, "
        f"for one request. The last column is {OURS} divided by the contender of the line.",
        "",
    ]
    for metrics, cases in _groups(run["cases"]):
        head = [
            "case",
            "contender",
            *(METRICS[metric][0] for metric in metrics),
            f"{METRICS[metrics[0]][0]} ratio",
        ]
        lines += _table(head, (row for case in cases for row in _measurements(case, metrics)), 2)
    if run["skipped"]:
        lines += ["## Not run", "", *(f"- {name}: {why}" for name, why in run["skipped"].items()), ""]
    return "\n".join(lines)


def markdown(run: Mapping[str, Any]) -> str:
    """Render RESULTS.md."""
    facts = ", ".join(f"{name} {value}" for name, value in run["versions"].items())
    where = run["machine"]
    later = [f"{case['name']} on {case['date']}" for case in run["cases"] if "date" in case]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Run on {run['date']}, in {run['seconds'] // 60} min {run['seconds'] % 60} s, by `make bench` "
            "(one case: `make bench ONLY=small`; without make: `python3 benchmarks/run.py`).",
            "",
            f"Machine: {where['cores']} cores, {where['processor']}, {where['kernel']}, {where['Python']}; "
            f"load before the run {where['load before']}; a loop of Python between the cases, CPU: "
            f"{where['loop']}.  ",
            f"Versions: {facts}.",
            "",
            *([f"Measured again by `--only … --merge`: {', '.join(later)}.", ""] if later else []),
            "Each contender of a case has its own process; they measure blocks of requests in turn. Triton is a "
            "real server with Python models. The sink is a server that answers with canned bytes, on its own "
            "core, so that the client's cost shows. tritonhttp and tritonclient run the whole public path, from "
            "numpy arrays to numpy arrays. libcurl and the bare socket get an encoded request, and decode "
            "nothing. In the cases of shared memory tritonhttp has shared_memory='auto'. The plain call is "
            "tritonhttp without the case's feature; tritonhttp in Python is tritonhttp without the C extension. "
            "1 MB is 2^20 bytes.",
            "",
            tables(run),
        ]
    )


# The picture

PICTURE = (
    ("small-triton", "cpu", "small infer, CPU per request"),
    ("fp32-16mb-triton", "cpu", "16 MB in and out, CPU"),
    ("fp32-64mb-triton", "cpu", "64 MB in and out, CPU"),
    ("json-sink", "cpu", "100k floats as JSON, CPU"),
    ("bytes-infer-20", "cpu", "100k strings in and out, CPU"),
    ("peak-memory", "memory", "64 MB in and out, memory beyond the input"),
)
# Legible on a light and a dark background, even if a viewer ignores the media queries.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #768390 }
.title { font-weight: 600 } .small { font-size: 12px }
.tritonhttp { fill: #2da44e } .tritonclient { fill: #8c959f } .floor { fill: #a9b4c0 }
@media (prefers-color-scheme: light) { .title { fill: #24292f } .small { fill: #57606a } .floor { fill: #c8d1da } }
@media (prefers-color-scheme: dark) { .title { fill: #e6edf3 } .small { fill: #9198a1 } .floor { fill: #4d5661 } }
"""
CLASSES = {"tritonhttp": "tritonhttp", "tritonclient": "tritonclient", "bare socket": "floor"}
HEADLINE = "What a request costs the client: tritonhttp, tritonclient.http, a bare socket with the same bytes"
WIDTH, LEFT, BAR, GAP = 760, 100, 16, 4
ROOM_FOR_VALUE = 80


def _text(text: str, x: float, y: float, attributes: str = 'class="small"') -> str:
    return f'<text {attributes} x="{x:.1f}" y="{y}">{html.escape(text)}</text>'


def svg(run: Mapping[str, Any]) -> str:
    """Draw the main cases as bars, each case on its own scale."""
    cases = {case["name"]: case for case in run["cases"]}
    parts: list[str] = []
    y = 44
    for name, metric, title in PICTURE:
        contenders = cases.get(name, {}).get("contenders", {})
        values = {
            contender: contenders[contender][metric]["median"]
            for contender in CLASSES
            if metric in contenders.get(contender, {})
        }
        if not values or not max(values.values()) > 0:
            continue
        parts.append(_text(title, 0, y, 'class="title"'))
        y += 10
        for contender, value in values.items():
            width = max(1.0, (WIDTH - LEFT - ROOM_FOR_VALUE) * value / max(values.values()))
            parts += [
                _text(contender, LEFT - 8, y + BAR - 4, 'class="small" text-anchor="end"'),
                f'<rect class="{CLASSES[contender]}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}"/>',
                _text(METRICS[metric][1](value), LEFT + width + 6, y + BAR - 4),
            ]
            y += BAR + GAP
        y += 26
    where = run["machine"]
    foot = f"Less is better. Medians of one run, {run['date']}, {where['cores']} cores, {where['Python']}."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 6}" role="img" '
            f'width="{WIDTH}" height="{y + 6}" aria-label="{HEADLINE}">',
            f"<style>{STYLE}</style>",
            _text(HEADLINE, 0, 16),
            *parts,
            _text(foot, 0, y - 6),
            "</svg>",
            "",
        ]
    )
