"""Say how much of each page is translated: ``python tools/translated.py``; exit code 1 if that is too little.

Read the catalogues that ``make docs-l10n`` has brought up to date. A message counts if it has a translation that
is not marked as fuzzy. Of the API's pages only their own text and the first paragraph of each docstring are
counted: the descriptions of parameters may stay in English.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

from babel.messages.pofile import read_po

ROOT = Path(__file__).parents[1]
CATALOGUES = ROOT / "docs" / "locales" / "zh_CN" / "LC_MESSAGES"
API = sorted(f"api/{path.stem}" for path in (ROOT / "docs" / "api").glob("*.rst"))
#: These pages must be complete.
REQUIRED = (
    *("index", "quickstart", "migrating", "guide", "timeouts"),
    *("shared_memory", "production", "troubleshooting"),
    *API,
)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def paragraphs(text: str) -> list[str]:
    """Return paragraphs as catalogues have them: each on one line, titles apart from their underlines."""
    return [" ".join(each.split()) for each in re.split(r"\n=*\n", text)]


@functools.cache
def summaries() -> frozenset[str]:
    """Return the first paragraph of each docstring of the package."""
    texts = (
        ast.get_docstring(node)
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, DOCUMENTED)
    )
    return frozenset(paragraphs(text)[0] for text in texts if text)


def share(path: Path) -> tuple[int, int]:
    """Return how many messages of a catalogue are translated, and how many are to be."""
    with path.open("rb") as file:
        messages = [each for each in read_po(file) if each.id]
    name = path.relative_to(CATALOGUES).with_suffix("").as_posix()
    if name in API:
        own = paragraphs((ROOT / "docs" / f"{name}.rst").read_text("utf-8"))
        messages = [each for each in messages if each.id in summaries() or each.id in own]
    return sum(bool(each.string) and not each.fuzzy for each in messages), len(messages)


def main() -> int:
    """Print a line for each page, the required ones first."""
    found = {
        path.relative_to(CATALOGUES).with_suffix("").as_posix(): path for path in CATALOGUES.rglob("*.po")
    }
    missing = [name for name in REQUIRED if name not in found]
    short = []
    for name in sorted(found, key=lambda name: (name not in REQUIRED, name)):
        done, whole = share(found[name])
        print(f"{name:24} {done:4} of {whole:4}  {done / max(whole, 1):4.0%}")
        if name in REQUIRED and done < whole:
            short.append(name)
    if missing or short:
        print(f"not complete: {', '.join([*missing, *short])}", file=sys.stderr)
    return 1 if missing or short else 0


if __name__ == "__main__":
    sys.exit(main())
