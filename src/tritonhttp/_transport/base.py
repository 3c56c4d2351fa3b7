"""What the transports of threads and of asyncio have in common."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Generic, TypeVar

from .address import Address
from .policy import Connections
from .pool import Place
from .route import Route
from .trace import Counts

if TYPE_CHECKING:
    import ssl

__all__ = ["StreamBase", "TransportBase"]

T = TypeVar("T")
C = TypeVar("C")


class TransportBase:
    """A pool of connections to one server.

    Parameters
    ----------
    address : Address
        The server.
    limit : int
        The most connections.
    context : ssl.SSLContext or None
        For servers with TLS.
    options : Connections, optional
        How connections are made, used and kept.

    Raises
    ------
    InvalidRequest
        For a proxy that cannot be used.
    """

    def __init__(
        self, address: Address, limit: int, context: ssl.SSLContext | None, options: Connections | None = None
    ) -> None:
        self._address = address
        self._origin = address.origin
        self._limit = limit
        self._context = context
        self._options = options = options or Connections()
        self._route = route = Route(address, options)
        self._prepare = None if route.plain else route.prepare
        #: Seconds that a connection may be idle, and live.
        self._max_idle = options.max_idle or math.inf
        self._max_age = options.max_age or math.inf
        self._counts = Counts()
        self.reset()

    def reset(self) -> None:
        """Start without connections."""
        raise NotImplementedError

    @property
    def pinned(self) -> str:
        """The one of the name's addresses that it connects to; empty: any."""
        return self._address.at

    def pin(self, literal: str) -> None:
        """Connect to this one of the addresses of the server's name, from the first connection on."""
        self._address = dataclasses.replace(self._address, at=literal)
        self._route = Route(self._address, self._options)


class StreamBase(Generic[T, C]):
    """The body of a response, as it comes. It keeps its connection until its end, or until it is closed."""

    def __init__(self, transport: T, place: Place[C], method: str, target: str) -> None:
        self._transport = transport
        self._place = place
        self._request = method, target
