"""What is remembered: a dict with a bound."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Table"]

K = TypeVar("K")
V = TypeVar("V")


class Table(dict[K, V]):
    """Remembers so many entries, and begins anew beyond that: a program repeats a few, or none at all."""

    __slots__ = ()
    BOUND = 256

    def keep(self, key: K, value: V) -> V:
        """Remember a value, and return it."""
        if len(self) >= self.BOUND and key not in self:
            self.clear()
        self[key] = value
        return value
