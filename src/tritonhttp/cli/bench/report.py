"""One page of HTML with the charts of a run. It opens offline: it has no script, font or address of elsewhere.

pygal draws the charts as SVG: it is pure Python and small, and the page's own CSS styles what it draws, for light,
dark and paper. Charts with scripts (plotly 4 MB, vega 1 MB) would be most of the page, and are nothing in print.
"""

from __future__ import annotations

import html
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..output import short, time_of
from .figures import PERCENTILES, Estimate
from .measure import Step
from .run import Outcome
from .search import Slo

__all__ = ["page"]

_PARTS = (
    ("queue", "server: queue"),
    ("compute_input", "server: input"),
    ("compute_infer", "server: compute"),
    ("compute_output", "server: output"),
)
#: Colours that can be told apart by all, on white and on black; the page replaces them by variables.
_COLOURS = ("#0b6fa4", "#c2570c", "#1b7f4b", "#8a4fbf", "#b8860b", "#b3264a", "#5f6b76", "#0f8a8a")
#: The most steps in a chart of curves; more cannot be told apart.
_MOST_CURVES = 8

_CSS = """
:root { color-scheme: light dark; --back: #fff; --text: #16202a; --soft: #5c6874; --line: #d9dfe5; --card: #f6f8fa;
  --c0: #0b6fa4; --c1: #c2570c; --c2: #1b7f4b; --c3: #8a4fbf; --c4: #a07400; --c5: #b3264a; --c6: #5f6b76;
  --c7: #0f8a8a }
@media (prefers-color-scheme: dark) { :root { --back: #11161b; --text: #e6ebf0; --soft: #9aa7b3; --line: #2c3640;
  --card: #192027; --c0: #5cb8ec; --c1: #f39a5b; --c2: #5fcf94; --c3: #c19bf0; --c4: #e0bd4e; --c5: #f17c9a;
  --c6: #a5b0ba; --c7: #55cccc } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 80rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem }
p { margin: .4rem 0 } .soft { color: var(--soft); font-size: .9rem }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem; margin: 1.2rem 0 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .85rem;
  font-variant-numeric: tabular-nums } th, td { padding: .35rem .4rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) } th:first-child, td:first-child { text-align: left }
th { color: var(--soft); font-weight: 600 } ul { padding-left: 1.2rem; margin: .4rem 0 }
svg.chart { width: 100%; height: auto; display: block } svg.chart text { fill: var(--soft); font-family: inherit }
svg.chart .title { fill: var(--text) !important } svg.chart path.guide, svg.chart .axis path {
  stroke: var(--line) !important; stroke-dasharray: none !important }
svg.chart .legend text, svg.chart .axis text { fill: var(--soft) !important }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 29rem), 1fr)); gap: 0 1.5rem }
@media print { :root { --back: #fff; --text: #000; --soft: #444; --line: #bbb; --card: #fff }
  body { max-width: none; padding: 0; font-size: 11pt } section, .card, tr { break-inside: avoid }
  .charts { grid-template-columns: 1fr 1fr } }
"""


def _pygal() -> Any:
    """Import pygal, without its finder of plugins: the import system of today warns of its form."""
    import pygal
    import pygal.style

    sys.meta_path[:] = [each for each in sys.meta_path if type(each).__module__ != "pygal"]
    return pygal


def page(outcome: Outcome, about: Mapping[str, Any], slo: Slo | None = None) -> str:
    """Return the page of a run."""
    steps = [step for step in outcome.steps if step.figures.count or step.figures.failed]
    steps.sort(key=lambda step: step.level.value)
    title = f"{about['model']}{' version ' + about['version'] if about['version'] else ''}"
    parts = [
        f"<h1>{_text(title)} under load</h1>",
        f'<p class="soft">{_text(", ".join(about["servers"]))} · {_text(about["date"])} · tritonhttp'
        f" {_text(about['tritonhttp'])}{' · interrupted' if outcome.interrupted else ''}</p>",
    ]
    if steps:
        parts += [_cards(outcome, steps, slo), _notes(steps), _table(steps), _charts(steps)]
    else:
        parts.append("<p>No request was answered.</p>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)} under load</title><style>{_CSS}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _text(words: object) -> str:
    return html.escape(str(words))


def _cards(outcome: Outcome, steps: Sequence[Step], slo: Slo | None) -> str:
    best = max(steps, key=lambda step: step.figures.throughput.value)
    found = best.figures
    cards = [(f"{short(found.throughput.value)}/s", f"most requests a second, at {best.level}")]
    if slo is not None and outcome.found is not None:
        unit = "requests/s" if best.level.open else "in flight"
        cards.insert(
            0, (f"{outcome.found.kept:.4g} {unit}", f"keeps {slo}; missed at {outcome.found.missed:.4g}")
        )
    if found.latency:
        cards += [(time_of(found.latency[name].value), f"{name} there") for name in ("p50", "p99")]
    failed = sum(step.figures.failed for step in steps)
    total = failed + sum(step.figures.count for step in steps)
    cards.append((f"{failed:,}", f"errors in {total:,} requests"))
    cards.append((time_of(best.cpu), "client CPU for a request"))
    inner = "".join(f'<div class="card"><b>{_text(big)}</b>{_text(small)}</div>' for big, small in cards)
    return f'<div class="cards">{inner}</div>'


def _notes(steps: Sequence[Step]) -> str:
    notes = []
    for step in steps:
        words = list(step.limits)
        if step.interrupted:
            words.append("interrupted")
        elif not step.stable:
            words.append("did not settle; its intervals say how sure it is")
        if step.figures.unanswered:
            words.append(f"{step.figures.unanswered:,} requests had no answer when the load ended")
        words += [
            f"{count:,} × {kind}: {step.words.get(kind, '')}" for kind, count in step.figures.errors.items()
        ]
        notes += [f"<li>{_text(step.level)}: {_text(each)}</li>" for each in words]
    return f"<ul>{''.join(notes)}</ul>" if notes else ""


def _table(steps: Sequence[Step]) -> str:
    names = ["avg", *(f"p{share:g}" for share in PERCENTILES), "max"]
    heads = ["level", "requests/s", *names, "errors", "client CPU", "queue", "compute"]
    rows = []
    for step in steps:
        found = step.figures
        cells = [_text(step.level), _with_interval(found.throughput, short)]
        cells += [_latency(found.latency, name) for name in names]
        cells += [f"{found.failed:,}", _text(time_of(step.cpu))]
        for part in ("queue", "compute_infer"):
            cells.append(_text(time_of(step.server.seconds[part])) if step.server else "-")
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    return (
        "<section><h2>Levels</h2>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="soft">Below a figure: the interval that holds it with 95 % confidence.'
        f"{' Latencies count from the intended start of a request.' if steps[0].level.open else ''}</p></section>"
    )


def _latency(found: Mapping[str, Estimate], name: str) -> str:
    if name not in found:
        return "-"
    # Intervals of all would be wider than a page.
    return (
        _with_interval(found[name], time_of) if name in ("p50", "p99") else _text(time_of(found[name].value))
    )


def _with_interval(value: Estimate, form: Callable[[float], str]) -> str:
    shown = _text(form(value.value))
    if math.isnan(value.low):
        return shown
    return f'{shown}<br><span class="soft">{_text(form(value.low))} – {_text(form(value.high))}</span>'


# -- charts --


def _charts(steps: Sequence[Step]) -> str:
    made = []
    if len(steps) > 1:
        made.append(("Throughput against latency", _curve(steps), "Each point is a level."))
    some = _some(steps)
    made.append(
        (
            "Latency by percentile",
            _percentiles(some),
            "The axis stretches towards 100 %, as HDR histograms do.",
        )
    )
    made.append(
        (
            "Where the time went",
            _where(steps),
            "Mean of a request. Network and client: what is not the server's.",
        )
    )
    for step in some:
        if len(step.timeline) > 1:
            failed = step.figures.failed
            words = f"{failed:,} errors, as bars." if failed else "No errors."
            made.append((f"Over time: {step.level}", _over_time(step), words))
    sections = [
        f'<section><h2>{_text(name)}</h2>{chart}<p class="soft">{_text(words)}</p></section>'
        for name, chart, words in made
        if chart
    ]
    return f'<div class="charts">{"".join(sections)}</div>'


def _some(steps: Sequence[Step]) -> list[Step]:
    """Return a few steps, spread over all."""
    if len(steps) <= _MOST_CURVES:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(n * last / (_MOST_CURVES - 1))] for n in range(_MOST_CURVES)]


def _options(**more: Any) -> dict[str, Any]:
    style = _pygal().style.Style(
        background="transparent",
        plot_background="transparent",
        foreground="#5c6874",
        foreground_strong="#16202a",
        foreground_subtle="#d9dfe5",
        colors=_COLOURS,
        font_family="inherit",
        label_font_size=14,
        major_label_font_size=14,
        legend_font_size=14,
        title_font_size=14,
        value_font_size=12,
        opacity=".8",
        opacity_hover=".95",
    )
    return {
        "style": style,
        "js": (),
        "width": 620,
        "height": 380,
        "margin": 10,
        "margin_bottom": 34,
        "margin_right": 34,  # half of the last label
        "legend_at_bottom": True,
        "legend_at_bottom_columns": 3,
        "legend_box_size": 12,
        "dots_size": 3,
        "stroke_style": {"width": 2},
        "truncate_legend": -1,
        "print_values": False,
        **more,
    }


def _svg(chart: Any) -> str:
    """Return a chart's SVG for the page: colours as variables, the page's own fonts, no script and no address."""
    drawn = str(chart.render(is_unicode=True))
    drawn = re.sub(r"<\?xml[^>]*\?>|<!--.*?-->|<script.*?</script>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"@import[^;]*;|@font-face\s*\{[^}]*\}", "", drawn)
    for number, colour in enumerate(_COLOURS):
        drawn = re.sub(colour, f"var(--c{number})", drawn, flags=re.IGNORECASE)
    for colour, name in (("#5c6874", "soft"), ("#16202a", "text"), ("#d9dfe5", "line")):
        drawn = re.sub(colour, f"var(--{name})", drawn, flags=re.IGNORECASE)
    drawn = re.sub(r"<title>Pygal</title>", "", drawn)
    return re.sub(r'class="pygal-chart"', 'class="pygal-chart chart" role="img"', drawn, count=1)


def _marks(values: Sequence[float]) -> list[float]:
    """Return round numbers for a logarithmic axis: 1, 2 and 5 times the powers of ten, or the powers alone."""
    values = [value for value in values if value > 0]
    if not values:
        return [1.0]
    low, high = math.log10(min(values)), math.log10(max(values))
    factors = (1, 2, 5) if high - low < 3 else (1,)
    found = [f * 10.0**n for n in range(math.floor(low) - 1, math.ceil(high) + 1) for f in factors]
    inside = [each for each in found if 10**low / 1.01 <= each <= 10**high * 1.01]
    below = max((each for each in found if each < 10**low), default=10**low)
    above = min((each for each in found if each > 10**high), default=10**high)
    return [below, *inside, above]


def _log_labels(marks: Sequence[float]) -> list[dict[str, Any]]:
    """Return an axis's labels. pygal's own logarithmic charts have both axes so."""
    return [{"value": math.log10(mark), "label": f"{mark:g}"} for mark in marks]


def _curve(steps: Sequence[Step]) -> str:
    pygal = _pygal()

    shown = [
        step.figures.latency[name].value * 1e3
        for step in steps
        for name in ("p50", "p99")
        if step.figures.latency
    ]
    marks = _marks(shown)
    chart = pygal.XY(
        **_options(
            x_title="requests/s",
            y_title="ms",
            y_labels=_log_labels(marks),
            range=(math.log10(marks[0]), math.log10(marks[-1])),
            xrange=(0, max(step.figures.throughput.value for step in steps) * 1.05),
            x_value_formatter=lambda value: f"{value:,.4g}",
            value_formatter=lambda value: f"{10**value:,.3g}",
        )
    )
    for name in ("p50", "p95", "p99"):
        points = [
            {
                "value": (step.figures.throughput.value, math.log10(step.figures.latency[name].value * 1e3)),
                "label": str(step.level),
            }
            for step in steps
            if name in step.figures.latency
        ]
        chart.add(name, points)
    return _svg(chart)


def _percentiles(steps: Sequence[Step]) -> str:
    import numpy as np

    pygal = _pygal()

    most = max((len(step.figures.latencies) for step in steps), default=0)
    if not most:
        return ""
    end = max(1.0, min(5.0, math.log10(most)))
    marks = [(0.0, "0"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %"), (5.0, "99.999 %")]
    values = [
        float(value) / 1e6
        for step in steps
        for value in step.figures.latencies[:1].tolist() + step.figures.latencies[-1:].tolist()
    ]
    heights = _marks(values)
    chart = pygal.XY(
        **_options(
            y_title="ms",
            show_dots=False,
            y_labels=_log_labels(heights),
            range=(math.log10(heights[0]), math.log10(heights[-1])),
            xrange=(0, end),
            x_labels=[{"value": value, "label": label} for value, label in marks if value <= end + 0.01],
            value_formatter=lambda value: f"{10**value:,.3g}",
        )
    )
    for step in steps:
        latencies = step.figures.latencies
        if not len(latencies):
            continue
        nines = np.linspace(0, max(0.3, min(5.0, math.log10(len(latencies)))), 80)
        at = np.quantile(latencies, np.minimum(1 - 10**-nines, 1.0), method="inverted_cdf")
        curve = np.log10(np.maximum(at, 1) / 1e6)
        chart.add(str(step.level), list(zip(nines.tolist(), curve.tolist(), strict=True)))
    return _svg(chart)


def _steps_to(most: float) -> list[float]:
    """Return about five round numbers from 0 on that reach a value."""
    size = 10.0 ** math.floor(math.log10(max(most, 1e-6) / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor * 5 >= most)
    return [n * step for n in range(math.ceil(most / step) + 1)]


def _where(steps: Sequence[Step]) -> str:
    pygal = _pygal()

    steps = [step for step in steps if step.server is not None and "avg" in step.figures.latency]
    if not steps:
        return ""
    chart = pygal.HorizontalStackedBar(
        **_options(
            x_title="ms",
            x_labels=[f"{step.level.value:g}" for step in steps],
            value_formatter=lambda value: f"{value:,.3g} ms",
            height=220 + 30 * len(steps),
            y_labels=_steps_to(max(step.figures.latency["avg"].value for step in steps) * 1e3),
            truncate_label=-1,
        )
    )
    for name, label in _PARTS:
        chart.add(label, [step.server.seconds[name] * 1e3 for step in steps if step.server is not None])
    rest = []
    for step in steps:
        assert step.server is not None
        inside = sum(step.server.seconds[name] for name, _ in _PARTS)
        rest.append(max(0.0, step.figures.latency["avg"].value - inside) * 1e3)
    chart.add("network and client", rest)
    return _svg(chart)


def _over_time(step: Step) -> str:
    pygal = _pygal()

    if all(math.isnan(row[3]) for row in step.timeline):
        return ""  # errors alone, which the notes name
    times = [moment for moment, *_ in step.timeline]
    step_of_labels = max(1, len(times) // 6)
    chart = pygal.Line(
        **_options(
            x_labels=[f"{moment:.1f}" for moment in times],
            show_minor_x_labels=False,
            truncate_label=-1,
            x_labels_major=[f"{moment:.1f}" for moment in times[::step_of_labels]],
            x_title="seconds",
            y_title="ms",
            show_dots=len(times) < 40,
            value_formatter=lambda value: f"{value:,.3g}",
        )
    )
    for name, index in (("p50", 3), ("p99", 4)):
        values = [row[index] * 1e3 if not math.isnan(row[index]) else None for row in step.timeline]
        chart.add(name, values)
    if any(row[2] for row in step.timeline):
        chart.add(
            "errors", [row[2] or None for row in step.timeline], secondary=True, stroke=False, dots_size=4
        )
    return _svg(chart)
