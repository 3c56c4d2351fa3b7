"""Public names that a package imports when they are asked for, so that its own import stays short."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, names: Iterable[str], homes: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    Parameters
    ----------
    package : str
    names : iterable of str
        Its public names.
    homes : mapping of str to str
        The module of each name that is imported when it is asked for, relative to the package.
    modules : iterable of str
        Its public modules.
    """
    known = frozenset(modules)

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name], package), name)
        if name in known:
            return import_module(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)

    return get, lambda: sorted({*names, *known})
