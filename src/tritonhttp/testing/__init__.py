"""A real Triton for tests and demonstrations, and a pytest plugin with its fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .provision import TritonUnavailable
    from .server import TritonFailed, TritonServer, packaged_models

__all__ = ["TritonFailed", "TritonServer", "TritonUnavailable", "packaged_models"]


def __getattr__(name: str) -> Any:
    # Every pytest session of an environment imports this package for its plugin, so imports are lazy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import provision, server

    return getattr(provision if name == "TritonUnavailable" else server, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
