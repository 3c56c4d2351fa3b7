"""What a run has committed: a line for each part, and in the first line what the run is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from ..errors import BulkError
from ._places import Lines, Place

__all__ = ["Committed", "Manifest", "described"]

_VERSION = 2


class Committed(NamedTuple):
    """A part of an output, and the place in the source behind it.

    Attributes
    ----------
    rows, computed, failed : int
        Rows in its file, rows of the source that they are for, and rows of the source that failed.
    """

    number: int
    rows: int
    computed: int
    failed: int
    fragment: int
    row: int


class Manifest:
    """The file of what is committed.

    Attributes
    ----------
    parts : list of Committed
    is_done : bool
        Whether the output is complete.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lines = Lines(place)
        self.parts: list[Committed] = []
        self.is_done = False
        found = [orjson.loads(line) for line in self._lines.found]
        self._run: Mapping[str, Any] | None = found[0] if found else None
        if self._run is None or self._run.get("version") != _VERSION:
            return
        for entry in found[1:]:
            if "done" in entry:
                self.is_done = True
            else:
                self.parts.append(Committed(*entry["part"]))

    @property
    def is_begun(self) -> bool:
        """Whether a run has begun."""
        return self._run is not None

    def open(self) -> None:
        """Open the file for this run alone; see `Lines.open`."""
        self._lines.open()

    def clear(self) -> None:
        """Forget what was committed."""
        self._lines.clear()
        self._run, self.parts, self.is_done = None, [], False

    def begin(self, run: Mapping[str, Any]) -> None:
        """Go on with the run that is there, or begin it.

        Raises
        ------
        BulkError
            If that one was another: says what has changed.
        """
        run = {"version": _VERSION, **run}
        if self._run is None:
            self._lines.add(orjson.dumps(run))
        else:
            changes = _changes(self._run, orjson.loads(orjson.dumps(run)))
            if changes:
                raise BulkError(
                    f"{self._place.name}: cannot go on, since this is another run than the one that was begun:"
                    f" {'; '.join(changes)}. Undo the change, or begin anew with overwrite=True"
                )

    def commit(self, part: Committed) -> None:
        """Add a part."""
        self._lines.add(orjson.dumps({"part": list(part)}))
        self.parts.append(part)

    def end(self) -> None:
        """Say that the output is complete."""
        self._lines.add(b'{"done":true}')
        self.is_done = True

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == "source":
            found += _changed_fragments(old or [], new or [])
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [
                f"{name} {key} was {_short(old.get(key))} and is {_short(new.get(key))}"
                for key in dict.fromkeys((*old, *new))
                if old.get(key) != new.get(key)
            ]
        else:
            found.append(f"the {name} was {_short(old)} and is {_short(new)}")
    return found


def _changed_fragments(old: list[Any], new: list[Any]) -> list[str]:
    before, now = ({each["name"]: each for each in some} for some in (old, new))
    found = [f"{name} is gone" for name in before if name not in now]
    found += [f"{name} is new" for name in now if name not in before]
    for name in before:
        if name in now and before[name] != now[name]:
            keys = ", ".join(key for key in now[name] if before[name].get(key) != now[name][key])
            found.append(f"{name} has changed ({keys})")
    if not found:
        found.append("the files have another order")
    return [*found[:5], *([f"and {len(found) - 5} more files"] if len(found) > 5 else [])]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def described(value: Any) -> Any:
    """Return what tells whether an option is another one: of a function its name and a digest of its code."""
    code = getattr(value, "__code__", None)
    if code is not None:
        digest = hashlib.sha256(code.co_code + repr(code.co_names).encode() + repr(_constants(code)).encode())
        return f"{value.__module__}.{value.__qualname__} {digest.hexdigest()[:12]}"
    if callable(value):
        return f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Mapping):
        return {str(key): described(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _constants(code: Any) -> list[Any]:
    return [each.co_code if hasattr(each, "co_code") else each for each in code.co_consts]
