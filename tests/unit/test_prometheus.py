"""Metrics in Prometheus' text format, as the format's description has it."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from tritonhttp import ProtocolError
from tritonhttp._wire.prometheus import parse
from tritonhttp.metrics import Metrics, Sample

TEXT = """
# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# A comment that means nothing.
#
\t# HELP\tescaped  A "quote" \\" and a \\\\n, then \\n the end
escaped{path="C:\\\\DIR\\\\FILE.TXT",error="Cannot find:\\n\\"FILE\\" \\q"} 1.458255915e9
no_labels 12.47
small {le = "0.05" , } 1e-7 -3982045
# TYPE other:name histogram
other:name_bucket{le="+Inf"}144320
"""


def test_every_part_of_the_format_is_read() -> None:
    metrics = parse(TEXT)
    assert metrics == Metrics(
        TEXT,
        (
            Sample("http_requests_total", {"method": "post", "code": "200"}, 1027.0, 1395066363000),
            Sample("http_requests_total", {"method": "post", "code": "400"}, 3.0, 1395066363000),
            Sample(
                "escaped",
                {"path": r"C:\DIR\FILE.TXT", "error": 'Cannot find:\n"FILE" \\q'},
                1.458255915e9,
            ),
            Sample("no_labels", {}, 12.47),
            Sample("small", {"le": "0.05"}, 1e-7, -3982045),
            Sample("other:name_bucket", {"le": "+Inf"}, 144320.0),
        ),
        {"http_requests_total": "counter", "other:name": "histogram"},
        {
            "http_requests_total": "The total number of HTTP requests.",
            "escaped": 'A "quote" \\" and a \\n, then \n the end',
        },
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_lines_end_as_they_like(end: str) -> None:
    assert [each.value for each in parse(f"a 1{end}").samples] == [1.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("+Inf", math.inf),
        ("-Inf", -math.inf),
        ("NaN", math.nan),
        ("-0", -0.0),
        ("18446744073709551615", 2.0**64),
    ],
)
def test_every_number_is_read(text: str, value: float) -> None:
    (sample,) = parse(f'a{{b="c"}} {text}').samples
    assert repr(sample.value) == repr(value)


def test_metrics_show_their_samples_and_not_the_whole_text() -> None:
    shown = repr(parse("# HELP a words\na 1\n"))
    assert "value=1.0" in shown
    assert "words" not in shown


@pytest.mark.parametrize("text", ["a}b", "a,b", "a=b", "", " ", "#", "\u2028", "\x0b", "ä"])
def test_every_text_is_the_value_of_a_label(text: str) -> None:
    (sample,) = parse(f'a{{x="{text}",y="z"}} 1').samples
    assert sample.labels == {"x": text, "y": "z"}


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a1",
        "abc_5",
        'a{x="1"}',
        'a{x="1" 2',
        'a{x="1" y="2"} 3',
        "a{x=1} 2",
        "a{,} 1",
        "a 1_0",
        "a one",
        "a ١",
        "a 1 2 3",
        "a 1 2.5",
        "a 1 99999999999999999999",
        "9a 1",
        'a{9="x"} 1',
        "<html>",
        '{"a": 1}',
    ],
)
def test_any_other_line_is_refused(line: str) -> None:
    with pytest.raises(
        ProtocolError, match=r"line 2 of the metrics: expected 'name\{label=\"…\"\} value', got"
    ):
        parse(f"fine 1\n{line}\n")


@pytest.mark.parametrize(
    "line", ['a{x="' + "\\\\" * 50_000, "a{" + 'x="1",' * 20_000, "a " + " " * 200_000 + "x!"]
)
def test_a_line_without_end_takes_no_time(line: str) -> None:
    began = time.monotonic()
    with pytest.raises(ProtocolError):
        parse(line)
    assert time.monotonic() - began < 2


def test_samples_are_found_by_name_and_labels() -> None:
    metrics = parse(TEXT)

    def codes(**labels: Any) -> list[str]:
        return [each.labels["code"] for each in metrics.find("http_requests_total", **labels)]

    assert codes() == ["200", "400"]
    assert codes(code="400", method="post") == ["400"]
    assert codes(code="500") == codes(colour="") == []
    assert metrics.find("http_requests") == []
    assert parse('a{name="b"} 1').find("a", name="b")
