"""Public names that a package imports when they are asked for, so that its own import stays short."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from .hints import ask

__all__ = ["lazily"]

_PACKAGE = __name__.partition(".")[0]
#: Where names are that people look for at the top.
_INSTEAD = {
    **dict.fromkeys(
        ("AsyncClient", "AsyncInferenceServerClient", "AsyncioInferenceServerClient"),
        "tritonhttp.aio.InferenceServerClient",
    ),
    **dict.fromkeys(("Client", "InferenceClient", "TritonClient"), "tritonhttp.InferenceServerClient"),
    "http": "tritonhttp itself, import tritonhttp as httpclient",
    **dict.fromkeys(("BasicAuth", "BearerAuth", "ApiKeyAuth"), "in tritonhttp.auth"),
    "TritonServer": "in tritonhttp.testing",
    # Each needs an extra, so that looking for it must not import it.
    **{name: f"a module of its own: import tritonhttp.{name}" for name in ("bulk", "cli", "otel")},
}


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
        words = f"module {package!r} has no attribute {name!r}"
        if not name.startswith("_"):
            where = _INSTEAD.get(name) if package == _PACKAGE else None
            words += f": it is {where}" if where else ask(name, (*names, *known))
        raise AttributeError(words, name=name)

    return get, lambda: sorted({*names, *known})
