"""The names of ``tritonclient.http.aio``: the asyncio client, and otherwise those of ``tritonclient.http``."""

from typing import Any
from urllib.parse import quote

from .._clients.awaited.aiohttp_forms import plain
from . import names
from .aio_client import InferenceServerClient

__all__ = ["InferenceServerClient", "quote"]


async def _raise_if_error(response: Any) -> None:
    names._raise_if_error(await plain(response))


async def _get_error(response: Any) -> Any:
    return names._get_error(await plain(response))


def __getattr__(name: str) -> Any:
    return getattr(names, name)
