"""Connecting blocking sockets: one address within a time limit, several in a race.

Functions of the socket and selectors modules are looked up when they are called, so that gevent's and eventlet's
replacements are used where a program has put them in.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from .failures import connect_failure
from .policy import step_timeout
from .race import Race

if TYPE_CHECKING:
    from .address import SocketAddress

__all__ = ["connect"]

#: A connect that goes on by itself; the last is Windows' own.
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", 0))


def connect(addresses: Sequence[SocketAddress], deadline: float | None, peer: str) -> socket.socket:
    """Return a socket that is connected to one of the addresses, for the caller to give a timeout to.

    Parameters
    ----------
    addresses : sequence of SocketAddress
        In the system's order.
    deadline : float or None
        When to give up, on the monotonic clock.
    peer : str
        What is connected to, for messages.

    Raises
    ------
    ConnectError
        With what became of each address.
    """
    began = monotonic()
    if len(addresses) > 1:
        race = Race(addresses, began, deadline)
        try:
            selector = selectors.DefaultSelector()
        except OSError as error:  # no descriptor is left
            failures = [(each, error) for each in race.addresses]
        else:
            winner = _run(race, selector)
            if winner is not None:
                return winner
            failures = race.failures
    else:
        ((family, address),) = addresses
        try:
            return _connected(family, address, deadline)
        except OSError as error:
            failures = [((family, address), error)]
    raise connect_failure(peer, failures, monotonic() - began, deadline) from failures[0][1]


def _connected(family: int, address: object, deadline: float | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        left = step_timeout(None, deadline, monotonic())
        sock.settimeout(None if left is None else max(left, 0.001))
        sock.connect(address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock


def _run(race: Race, selector: selectors.BaseSelector) -> socket.socket | None:
    """Return the socket that connects first, or None where none does in time; all others are closed."""
    socks: dict[int, socket.socket] = {}
    try:
        with selector:
            while True:
                while (number := race.start(monotonic())) is not None:
                    try:
                        if _begin(race.addresses[number], number, socks, selector):
                            return _won(socks, number)
                    except OSError as error:  # a system without IPv6 may still know addresses of it
                        _lost(race, socks, number, error)
                now = monotonic()
                if race.is_over(now):
                    return None
                ready = [key.data for key, _ in selector.select(race.pause(now))]
                for number in sorted(ready):
                    sock = socks[number]
                    problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if problem == 0:
                        return _won(socks, number)
                    selector.unregister(sock)
                    _lost(race, socks, number, OSError(problem, os.strerror(problem)))
    finally:
        for sock in socks.values():
            sock.close()


def _begin(
    place: SocketAddress, number: int, socks: dict[int, socket.socket], selector: selectors.BaseSelector
) -> bool:
    """Begin to connect, and return whether that is done already."""
    family, address = place
    sock = socks[number] = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    problem = sock.connect_ex(address)
    if problem in _UNDER_WAY:
        selector.register(sock, selectors.EVENT_WRITE, number)
    elif problem:
        raise OSError(problem, os.strerror(problem))
    return not problem


def _won(socks: dict[int, socket.socket], number: int) -> socket.socket:
    socks[number].setblocking(True)
    return socks.pop(number)


def _lost(race: Race, socks: dict[int, socket.socket], number: int, error: OSError) -> None:
    race.failed(number, error, monotonic())
    sock = socks.pop(number, None)
    if sock is not None:
        sock.close()
