"""A real Triton for tests and demonstrations, and a pytest plugin with its fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._basics.lazy import lazily

if TYPE_CHECKING:
    from .provision import TritonUnavailable
    from .server import TritonFailed, TritonServer, packaged_models

__all__ = ["TritonFailed", "TritonServer", "TritonUnavailable", "packaged_models"]

if not TYPE_CHECKING:
    # Every pytest session of an environment imports this package for its plugin, so imports are lazy.
    _HOMES = {
        "TritonFailed": ".server",
        "TritonServer": ".server",
        "TritonUnavailable": ".provision",
        "packaged_models": ".server",
    }
    __getattr__, __dir__ = lazily(__name__, __all__, _HOMES, ["pytest_plugin"])
