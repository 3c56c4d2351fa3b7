"""Say what of this library is here: ``python -m tritonhttp [--json]``.

Versions, the C extensions in use, or why they are not, and the optional packages. It needs no other package than
the library does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from .._basics import implementation
from .._repetition import repeater  # noqa: F401  notes whether its extension can be used
from .._version import __version__
from .._wire import bytes_tensor  # noqa: F401  so does this

__all__ = ["main", "report"]

_NAME = "tritonhttp"
#: Extras for those who develop the library.
_INTERNAL = ("dev", "test")
#: A requirement's distribution, its condition aside, and the extra that it belongs to.
_REQUIREMENT = re.compile(r"""\s*([\w.-]+)[^;]*(?:;.*?\bextra\s*==\s*["']([\w-]+)["'].*)?""")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tritonhttp",
        description="Say which versions, C extensions and optional packages are here.",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    given = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    found = report()
    print(json.dumps(found, indent=2) if given.json else _text(found))
    return 0


def report() -> dict[str, Any]:
    """Return what is here.

    Returns
    -------
    dict
        Strings by ``tritonhttp``, ``python``, ``platform``, ``location`` and the packages that are always needed.
        ``extensions``: None for each C extension in use, otherwise the reason why Python replaces it. ``extras``:
        for each extra its packages with their versions, None for those that are missing.
    """
    needed, extras = _requirements()
    return {
        _NAME: __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
        "platform": platform.platform(),
        "location": os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        **{name: _version(name) for name in needed},
        "extensions": {
            name: implementation.in_python.get(name) for name in sorted(implementation.EXTENSIONS)
        },
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in sorted(extras.items())
        },
    }


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return the packages that the library needs, and those of each extra, as its metadata say."""
    try:
        requirements = metadata.requires(_NAME) or []
    except metadata.PackageNotFoundError:  # run from its source
        requirements = ["numpy", "orjson", "httptools"]
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found is None or found[2] in _INTERNAL:
            continue
        (needed if found[2] is None else extras.setdefault(found[2], [])).append(found[1])
    return needed, extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _text(found: dict[str, Any]) -> str:
    extensions, extras = found.pop("extensions"), found.pop("extras")
    rows = [(name, value or "missing") for name, value in found.items()]
    rows += [
        (f"C: {name.rpartition('.')[2]}", "in use" if reason is None else f"Python instead: {reason}")
        for name, reason in extensions.items()
    ]
    missing = []
    for extra, packages in extras.items():
        here = ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
        rows.append((f"extra {extra}", here))
        missing += [extra] if None in packages.values() else []
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {' '.join(value.split())}" for name, value in rows]
    if any(extensions.values()):
        lines += ["", _how_to_build()]
    if missing:
        lines += ["", f"Missing extras: pip install '{_NAME}[{','.join(missing)}]'"]
    return "\n".join(lines)


def _how_to_build() -> str:
    if os.environ.get("TRITONHTTP_IMPL") == "python":
        return "TRITONHTTP_IMPL=python excludes the C extensions: leave it empty to use them."
    return (
        "Without its C extensions the library does the same, but needs more CPU. Installing it builds them\n"
        "if a C compiler and Python's headers are there (Debian: apt install build-essential python3-dev):\n"
        f"    pip install --force-reinstall --no-deps --no-binary {_NAME} {_NAME}"
    )


if __name__ == "__main__":
    sys.exit(main())
