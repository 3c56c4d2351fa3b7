"""Names that callers may have meant, for messages."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["known_names"]

_MOST_SHOWN = 10


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
