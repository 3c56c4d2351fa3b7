"""The names of ``tritonclient.http.aio``: the asyncio client, and otherwise those of ``tritonclient.http``."""

from typing import Any
from urllib.parse import quote

from . import names
from .aio_client import InferenceServerClient

__all__ = ["InferenceServerClient", "quote"]


def __getattr__(name: str) -> Any:
    return getattr(names, name)
