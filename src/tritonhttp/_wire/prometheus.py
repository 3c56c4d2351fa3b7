"""Metrics in Prometheus' text format, version 0.0.4: text in, samples out.

Each line is a sample or a comment; comments with HELP and TYPE describe a metric. A backslash escapes itself, a
line end and, in the value of a label, a quote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ProtocolError

__all__ = ["Metrics", "Sample", "parse"]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*'
_SAMPLE = re.compile(
    rf"({_NAME})(?:[ \t]*\{{((?:{_LABEL},)*(?:{_LABEL})?[ \t]*)\}}[ \t]*|[ \t]+)"
    r"([-+.0-9a-zA-Z]+)(?:[ \t]+(-?[0-9]{1,19}))?"
)
_LABELS = re.compile(_LABEL)
_COMMENT = re.compile(rf"#[ \t]*(HELP|TYPE)[ \t]+({_NAME})(?:[ \t]+(.*))?")
_ESCAPED_LABEL, _ESCAPED_HELP = re.compile(r'\\[\\n"]'), re.compile(r"\\[\\n]")


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric.

    Attributes
    ----------
    name : str
        For example ``"nv_inference_request_success"``; of a histogram or summary with its ending, such as
        ``_bucket`` or ``_count``.
    labels : mapping of str to str
        For example ``{"model": "digits", "version": "1"}``.
    value : float
        May be NaN or infinite.
    timestamp : int or None
        Milliseconds since 1970, where the server states them.
    """

    name: str
    labels: Mapping[str, str]
    value: float
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of a server.

    Attributes
    ----------
    text : str
        As the server sent them.
    samples : tuple of Sample
        All samples, in the server's order.
    types, help : dict of str to str
        The type of each metric, for example ``"counter"``, and the words that describe it, by its name.
    """

    text: str = field(repr=False)
    samples: tuple[Sample, ...]
    types: Mapping[str, str]
    help: Mapping[str, str] = field(repr=False)

    def find(self, name: str, /, **labels: str) -> list[Sample]:
        """Return the samples of that name that have these labels, and perhaps others.

        ``metrics.find("nv_inference_count", model="digits")`` has one sample for each version of the model.
        """
        return [
            each
            for each in self.samples
            if each.name == name and all(each.labels.get(label) == labels[label] for label in labels)
        ]


def parse(text: str) -> Metrics:
    """Parse metrics.

    Raises
    ------
    ProtocolError
        For a line that is neither a sample nor a comment.
    """
    samples: list[Sample] = []
    described: dict[str, dict[str, str]] = {"TYPE": {}, "HELP": {}}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if line.startswith("#"):
            if found := _COMMENT.fullmatch(line):
                kind, name, words = found.groups("")
                described[kind][name] = _unescaped(words, _ESCAPED_HELP)
        elif line:
            samples.append(_sample(line, number))
    return Metrics(text, tuple(samples), described["TYPE"], described["HELP"])


def _sample(line: str, number: int) -> Sample:
    found = _SAMPLE.fullmatch(line)
    try:
        if found is None:
            raise ValueError
        value = float(found[7])
    except ValueError:
        raise ProtocolError(
            f"line {number} of the metrics: expected 'name{{label=\"…\"}} value', got {line!r:.200}"
        ) from None
    labels = {name: _unescaped(value, _ESCAPED_LABEL) for name, value in _LABELS.findall(found[2] or "")}
    return Sample(found[1], labels, value, None if found[8] is None else int(found[8]))


def _unescaped(text: str, escaped: re.Pattern[str]) -> str:
    return escaped.sub(lambda found: found[0][1].replace("n", "\n"), text)
