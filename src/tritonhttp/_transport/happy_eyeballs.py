"""Which of a name's addresses is tried next, and when: Happy Eyeballs, RFC 8305. No I/O; the time is an argument.

Addresses are tried in the system's order, alternating between families. An attempt begins a quarter of a second
after the one before it, or at once when that fails. The first that connects wins.
"""

from __future__ import annotations

from collections.abc import Sequence

from .address import SocketAddress
from .failures import NotTried

__all__ = ["Race", "interleaved"]

#: Seconds between two attempts: what RFC 8305 recommends, and the least that it allows.
_SPACING, _LEAST_SPACING = 0.25, 0.01


def interleaved(addresses: Sequence[SocketAddress]) -> list[SocketAddress]:
    """Return the addresses with alternating families, each family in its order (section 4)."""
    families: dict[int, list[SocketAddress]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    longest = max(map(len, families.values()), default=0)
    return [family[place] for place in range(longest) for family in families.values() if place < len(family)]


class Race:
    """The attempts to connect to one of several addresses, identified by their numbers.

    Parameters
    ----------
    addresses : sequence of SocketAddress
        In the system's order.
    now, deadline : float
        When the first attempt begins, and when all end; without a deadline the system ends them. If there is
        little time, attempts follow each other sooner, so that every address is tried.
    """

    def __init__(self, addresses: Sequence[SocketAddress], now: float, deadline: float | None) -> None:
        #: In the order of the attempts.
        self.addresses = interleaved(addresses)
        self._deadline = deadline
        self._spacing = _SPACING
        if deadline is not None:
            share = (deadline - now) / max(len(self.addresses), 1)
            self._spacing = min(_SPACING, max(share, _LEAST_SPACING))
        self._next = now
        self._begun = 0
        self._failed: dict[int, OSError] = {}

    def start(self, now: float) -> int | None:
        """Return the number of the attempt to begin now, or None if none is due."""
        begun = self._begun
        if begun == len(self.addresses) or (begun and now < self._next) or (begun and self.is_over(now)):
            return None
        self._begun += 1
        self._next = now + self._spacing
        return begun

    def failed(self, number: int, error: OSError, now: float) -> None:
        """Note that an attempt failed: the next one begins at once."""
        self._failed[number] = error
        self._next = now

    def is_over(self, now: float) -> bool:
        """Return whether every attempt has failed, or the deadline has passed."""
        return len(self._failed) == len(self.addresses) or (
            self._deadline is not None and now >= self._deadline
        )

    def pause(self, now: float) -> float | None:
        """Return the seconds until the next attempt or the deadline; None if there is neither."""
        ends = [] if self._deadline is None else [self._deadline]
        if self._begun < len(self.addresses):
            ends.append(self._next)
        return max(0.0, min(ends) - now) if ends else None

    @property
    def failures(self) -> list[tuple[SocketAddress, OSError]]:
        """How each address failed, if none has connected."""
        return [
            (address, self._failed.get(number) or (TimeoutError() if number < self._begun else NotTried()))
            for number, address in enumerate(self.addresses)
        ]
