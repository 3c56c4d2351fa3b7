"""Plugins, which are called before each request and can change its headers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["InferenceServerClientPlugin", "Request"]


class Request:
    """A request as a plugin sees it.

    Parameters
    ----------
    headers : dict or None
        The request's headers, which a plugin changes in place; None creates an empty dict.
    """

    def __init__(self, headers: dict[str, Any] | None) -> None:
        self.headers: dict[str, Any] = headers if headers is not None else {}


class InferenceServerClientPlugin(ABC):
    """Base class of plugins: callables that get each :class:`Request` before it is sent."""

    @abstractmethod
    def __call__(self, request: Request) -> Any:
        """Change the request in place.

        The result is ignored unless it is awaitable. The asyncio client awaits it before it sends the request, so
        a plugin can be a coroutine function; the blocking client refuses it.
        """
