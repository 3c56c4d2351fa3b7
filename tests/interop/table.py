"""The table of ``docs/servers.md``: read, compared with what was measured, and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "servers.md"
_TABLE = re.compile(r"(?<=<!-- measured -->\n).*?(?=<!-- end -->)", re.DOTALL)
#: The columns, by the name that a server gives itself.
TITLES = {
    "triton": "Triton",
    "frontend": "tritonfrontend 2.73, core",
    "mlserver": "MLServer",
    "kserve": "KServe",
    "omle": "omle-server",
}

#: Server -> its version under "", and the cell of each row under the row's title.
Columns = dict[str, Mapping[str, str]]


def read() -> Columns:
    """Return the page's table."""
    found = _TABLE.search(PAGE.read_text("utf-8"))
    assert found, f"{PAGE.name} has no measured table"
    lines = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in found[0].splitlines()]
    if not lines:
        return {}
    columns: Columns = {}
    for number, head in enumerate(lines[0]):
        name = next(name for name, title in TITLES.items() if head.startswith(f"{title} "))
        cells = {line[0]: line[number + 1] for line in lines[2:]}
        columns[name] = {"": head.removeprefix(TITLES[name]).strip(), **cells}
    return columns


def write(name: str, column: Mapping[str, str]) -> None:
    """Replace one server's column; the rows are those of the column."""
    columns = {**read(), name: column}

    def line(first: str, cells: Iterable[str]) -> str:
        return f"| {' | '.join((first, *cells))} |\n"

    def row(title: str) -> list[str]:
        return [columns.get(each, {}).get(title, "?") for each in TITLES]

    text = line("", map("{} {}".format, TITLES.values(), row(""))) + line("---", ["---"] * len(TITLES))
    text += "".join(line(title, row(title)) for title in column if title)
    PAGE.write_text(_TABLE.sub(lambda _: text, PAGE.read_text("utf-8"), count=1), "utf-8")
