"""What a transport tells about its work: how long each phase of one exchange took, and counts of all of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["Counts", "Trace"]


class Trace:
    """How an exchange went, for who gives one to ``exchange``; where it was sent again, how the last one went.

    Attributes
    ----------
    phases : dict of str to float
        Seconds by phase, in order, those that there were: wait, resolve, connect, proxy, tls, send, first_byte
        (from the end of sending to the first byte that came), receive.
    sent, received : int
        Bytes, heads included.
    reused : bool
        Whether the connection had carried a request before.
    """

    __slots__ = ("_since", "phases", "received", "reused", "sent")

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew, the first time or for another sending."""
        self.phases: dict[str, float] = {}
        self.sent = self.received = 0
        self.reused = False
        self._since = time.monotonic()

    def mark(self, phase: str) -> None:
        """Take note that a phase has ended, and that the next one begins."""
        now = time.monotonic()
        self.phases[phase] = now - self._since
        self._since = now

    def take(self, connection: Carrier, *, reused: bool) -> None:
        """Take note of the connection that carries the exchange."""
        self.reused = reused
        self.sent, self.received = -connection.sent, -connection.received

    def end(self, connection: Carrier) -> None:
        """Take note that the exchange is over."""
        self.sent += connection.sent
        self.received += connection.received

    def repeated(self, began: float, place: Any, sent: int, received: int) -> None:
        """Take note of a repetition, which tells the times by its place."""
        self.phases = {
            "wait": place.taken - began,
            "send": place.handed - place.taken,
            "first_byte": place.answered - place.handed,
            "receive": time.monotonic() - place.answered,
        }
        self.sent, self.received, self.reused = sent, received, True


class Carrier(Protocol):
    """What a connection counts: requests begun, and bytes, since it was made."""

    requests: int
    sent: int
    received: int


@dataclasses.dataclass(slots=True)
class Counts:
    """What a transport did since it was made.

    Attributes
    ----------
    calls : int
        Exchanges begun.
    resent : int
        How often a request went out again because its reused connection turned out closed.
    opened, reused, closed : int
        Connections made, taken again for a further request, and closed.
    sent, received : int
        Bytes of requests and answers, heads included.
    """

    calls: int = 0
    resent: int = 0
    opened: int = 0
    reused: int = 0
    closed: int = 0
    sent: int = 0
    received: int = 0

    def _add(self, connection: Carrier) -> None:
        self.reused += max(0, connection.requests - 1)
        self.sent += connection.sent
        self.received += connection.received

    def end(self, connection: Carrier) -> None:
        """Take over what a connection counted that is closed now."""
        self.closed += 1
        self._add(connection)

    def with_open(self, connections: Iterable[Carrier]) -> Counts:
        """Return the counts, those of the open connections among them."""
        total = dataclasses.replace(self)
        for connection in connections:
            total._add(connection)
        return total
