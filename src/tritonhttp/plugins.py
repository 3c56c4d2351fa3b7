"""Plugins: called before each request, they may change its headers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["InferenceServerClientPlugin", "Request"]


class Request:
    """What a plugin sees of a request.

    Parameters
    ----------
    headers : dict or None
        The request's headers, which a plugin changes in place; None for none yet.
    """

    def __init__(self, headers: dict[str, Any] | None) -> None:
        self.headers: dict[str, Any] = headers if headers is not None else {}


class InferenceServerClientPlugin(ABC):
    """The base of every plugin: a callable that is given each :class:`Request` before it is sent."""

    @abstractmethod
    def __call__(self, request: Request) -> Any:
        """Change the request in place.

        What it returns has no meaning, unless it is awaitable: the asyncio client awaits it before it sends the
        request, so that a plugin may be a coroutine; the blocking client refuses it.
        """
