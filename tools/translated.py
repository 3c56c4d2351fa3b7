"""Say how much of each page is translated: ``python tools/translated.py``; exit code 1 if that is too little.

Read the catalogues that ``make docs-l10n`` has brought up to date. A sentence counts if it has a translation that
is not marked as fuzzy.
"""

from __future__ import annotations

import sys
from pathlib import Path

from babel.messages.pofile import read_po

CATALOGUES = Path(__file__).parents[1] / "docs" / "locales" / "zh_CN" / "LC_MESSAGES"
#: These pages must be complete.
REQUIRED = (
    *("index", "quickstart", "migrating", "guide", "timeouts"),
    *("shared_memory", "production", "troubleshooting"),
)


def share(path: Path) -> tuple[int, int]:
    """Return how many messages of a catalogue are translated, and how many there are."""
    with path.open("rb") as file:
        messages = [each for each in read_po(file) if each.id]
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
