"""What is said of attributes that objects of this library do not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from .._basics.hints import advises, ask
from ..errors import InvalidCall

__all__ = ["no_attribute"]


def no_attribute(found: object, name: str, instead: Mapping[str, str]) -> NoReturn:
    """Refuse an attribute that an object does not have, and say what to write instead, if that is known."""
    kind = type(found)
    if hasattr(kind, name):  # a property, whose own error is looked for
        object.__getattribute__(found, name)
    words = f"{kind.__name__!r} object has no attribute {name!r}"
    if name.startswith("_") or not advises():
        raise AttributeError(words)
    known = [each for each in dir(kind) if each[0] != "_"]
    raise InvalidCall(f"{words}: {instead[name]}" if name in instead else f"{words}{ask(name, known)}")
