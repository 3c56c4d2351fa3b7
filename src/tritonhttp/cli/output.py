"""How results are shown: JSON for machines, tables for people and pipes.

On a terminal, tables are drawn by rich, which folds them to the terminal's width and knows NO_COLOR. In a pipe
they are plain text with aligned columns, never folded or cut.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._basics.redaction import printable

__all__ = [
    "as_json",
    "data",
    "facts",
    "heading",
    "one_line",
    "printable",
    "short",
    "show_json",
    "table",
    "time_of",
]

#: A cell, or a cell and its style.
Cell = str | tuple[str, str]


def one_line(text: str) -> str:
    """Return text as one line that is safe to show."""
    return printable(" ".join(text.split()))


def as_json(value: Any, indent: int | None = 2) -> str:
    """Return a value as JSON; what JSON has no numbers for are the strings NaN, Infinity and -Infinity."""
    return json.dumps(_strict(value), indent=indent, ensure_ascii=False)


def show_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON."""
    print(as_json(value, indent))


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    return value


def data(array: Any) -> list[Any]:
    """Return an array's elements, flat, as JSON has them; bytes that are not UTF-8 as ``{"base64": …}``."""
    flat = array.ravel()
    if array.dtype.kind == "O":
        return [_text(item) for item in flat.tolist()]
    return [float(item) for item in flat] if array.dtype.name == "bfloat16" else list(flat.tolist())


def _text(item: Any) -> Any:
    if isinstance(item, str):
        return item
    try:
        return bytes(item).decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"base64": b64encode(item).decode("ascii")}


def short(value: float) -> str:
    """Format a number with three significant digits."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def time_of(seconds: float) -> str:
    """Format a time with a suitable unit."""
    if math.isnan(seconds):
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= scale:
            return f"{short(seconds / scale)} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def heading(words: str) -> None:
    """Print the name of a part."""
    print(printable(words))


def facts(pairs: Iterable[tuple[str, Cell]]) -> None:
    """Print names and values, a line each."""
    table((), [(name, value) for name, value in pairs])


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]], right: Iterable[str] = ()) -> None:
    """Print rows below their headers; without headers, names and values.

    Parameters
    ----------
    headers : sequence of str
    rows : iterable of sequence of Cell
    right : iterable of str
        The headers of columns of numbers.
    """
    cells = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]
    cells = [[(printable(text), style) for text, style in row] for row in cells]
    numbers = [header in set(right) for header in headers]
    if sys.stdout.isatty():
        _draw(headers, cells, numbers)
    else:
        _write(
            [*([list(headers)] if headers else []), *([text for text, _ in row] for row in cells)], numbers
        )


def _write(lines: list[list[str]], numbers: Sequence[bool]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [
            cell.rjust(width) if n < len(numbers) and numbers[n] else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())


def _draw(headers: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], numbers: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(headers))
    for n in range(len(headers) or max(map(len, rows), default=0)):
        name = headers[n] if headers else ""
        justify: Any = "right" if headers and numbers[n] else "left"
        style = "" if headers or n else "bold"
        drawn.add_column(Text(name), justify=justify, overflow="fold", style=style, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(text, style) for text, style in row))
    Console(highlight=False).print(drawn)
