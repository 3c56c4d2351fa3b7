"""What a caller probably meant: the nearest known names, and a warning in the caller's own line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

__all__ = ["advises", "ask", "known_names", "nearest", "silence", "warn"]

_PACKAGE = __name__.partition(".")[0]
#: The most names that a message lists.
_MOST_SHOWN = 10


_silenced: list[bool] = []


def silence() -> None:
    """Give no advice from now on: programs under the reference's names compare its words."""
    _silenced.append(True)


def advises() -> bool:
    """Return whether messages of a server's errors get advice."""
    return not _silenced


def nearest(given: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most like the given one in whatever case, or None if none is."""
    if not isinstance(given, str):
        return None
    from difflib import get_close_matches  # only for errors

    names = {name.casefold(): name for name in known}
    found = get_close_matches(given.casefold(), names, 1)
    return names[found[0]] if found else None


def ask(given: object, known: Iterable[str]) -> str:
    """Return the end of a message that asks for the nearest name, or nothing."""
    found = nearest(given, known)
    return "" if found is None else f"; did you mean {found!r}?"


def known_names(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest of those that exist, or all of them.

    Case counts less than letters: ``DIGITS`` is near ``digits``.
    """
    from difflib import get_close_matches

    by_form: dict[str, list[str]] = {}
    for each in sorted(set(known)):
        by_form.setdefault(each.casefold(), []).append(each)
    near = [each for form in get_close_matches(name.casefold(), by_form) for each in by_form[form]]
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    names = [each for forms in by_form.values() for each in forms]
    if not names:
        return "; it has none"
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return f"; it has {', '.join(map(repr, names[:_MOST_SHOWN]))}{more}"


def warn(message: str) -> None:
    """Show a warning, for the line of the program that called this library."""
    if _silenced:
        return
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=depth)
