"""A real Triton for tests and demonstrations, and a pytest plugin with its fixtures."""

from __future__ import annotations

from .provision import TritonUnavailable
from .server import TritonFailed, TritonServer, packaged_models

__all__ = ["TritonFailed", "TritonServer", "TritonUnavailable", "packaged_models"]
