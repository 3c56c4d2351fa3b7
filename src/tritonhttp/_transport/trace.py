"""Measurements of a transport: how long each phase of an exchange took, and counts over all exchanges."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

__all__ = ["Counts", "Trace", "marker"]


class Trace:
    """Timings of one exchange; if the request was sent again, of the last time.

    Attributes
    ----------
    phases : dict of str to float
        Seconds of each phase that took place, in order: wait, resolve, connect, proxy, tls, send, first_byte (from
        the end of sending to the first byte received), receive.
    sent, received : int
        Bytes, heads included.
    reused : bool
        Whether the connection had carried a request before.
    """

    __slots__ = ("_since", "phases", "received", "reused", "sent")

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the clock, at first or because the request is sent again."""
        self.phases: dict[str, float] = {}
        self.sent = self.received = 0
        self.reused = False
        self._since = time.monotonic()

    def mark(self, phase: str) -> None:
        """Note that a phase has ended, and the next one begins."""
        now = time.monotonic()
        self.phases.setdefault(phase, now - self._since)  # a repetition that is resumed has told some
        self._since = now

    def take(self, connection: Carrier, *, reused: bool) -> None:
        """Note which connection carries the exchange."""
        self.reused = reused
        self.sent, self.received = -connection.sent, -connection.received

    def end(self, connection: Carrier) -> None:
        """Note that the exchange is over."""
        self.sent += connection.sent
        self.received += connection.received

    def repeated(self, began: float, place: Any, sent: int, received: int) -> None:
        """Note a repetition, whose place has the times of its phases."""
        taken, handed, answered = place.taken, place.handed, place.answered
        phases = self.phases
        phases["wait"], phases["send"], phases["first_byte"] = (
            taken - began,
            handed - taken,
            answered - handed,
        )
        phases["receive"] = time.monotonic() - answered
        self.sent, self.received, self.reused = sent, received, True

    def resume(self, began: float, place: Any) -> None:
        """Note how far a repetition came."""
        for phase, ended in (("wait", place.taken), ("send", place.handed), ("first_byte", place.answered)):
            if ended:
                self.phases[phase] = ended - began
                self._since = began = ended


def marker(trace: Trace | None) -> Callable[[str], None]:
    """Return a function that marks the end of a phase; without a trace it does nothing."""
    return (lambda phase: None) if trace is None else trace.mark


class Carrier(Protocol):
    """The counts of a connection since it was opened: requests begun, and bytes."""

    requests: int
    sent: int
    received: int


@dataclasses.dataclass(slots=True)
class Counts:
    """Counts of a transport since it was made.

    Attributes
    ----------
    calls : int
        Exchanges begun.
    resent : int
        How often a request was sent again because its reused connection turned out closed.
    opened, reused, closed : int
        Connections opened, reused for another request, and closed.
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

    def end(self, connection: Carrier) -> None:
        """Add the counts of a connection that ends."""
        self.reused += max(0, connection.requests - 1)
        self.sent += connection.sent
        self.received += connection.received

    def with_open(self, connections: Collection[Carrier]) -> Counts:
        """Return the counts including those of the open connections; all others have been closed."""
        total = dataclasses.replace(self)
        for connection in connections:
            total.end(connection)
        total.closed = total.opened - len(connections)
        return total
