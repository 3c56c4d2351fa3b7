"""The addresses of a server's name, looked up in threads that many calls may share."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from ..errors import NameResolutionError
from .address import Address, SocketAddress
from .failures import resolve_timeout

__all__ = ["leave", "literal", "look_up", "resolve"]


def literal(address: Address) -> list[SocketAddress]:
    """Return the address of a unix domain socket, or the one that a literal is; empty where the host is a name."""
    if address.socket_path:
        return [(socket.AF_UNIX, address.socket_path)]
    try:
        return _look_up(address.at or address.host, address.port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # the latter where no name can be like that
        return []


#: Is called with the addresses of a name, or with why there are none.
Told: TypeAlias = Callable[[list[SocketAddress] | NameResolutionError], object]


class _LookUp:
    """A look-up under way, and who is to be told.

    Each step on it is one operation of a dict, so no lock is needed: a signal's handler may come in between, on a
    thread that is in the middle of any of this.
    """

    __slots__ = ("outcome", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Told, bool] = {}
        #: The addresses, or what the system said instead; None while it is asked.
        self.outcome: list[SocketAddress] | Exception | None = None

    def join(self, host: str, done: Told) -> None:
        self.waiting[done] = True
        # It may have ended meanwhile. Whoever takes `done` out calls it: this thread, or that of the look-up.
        if self.outcome is not None and self.waiting.pop(done, False):
            _tell(host, self.outcome, done)

    def end(self, host: str, outcome: list[SocketAddress] | Exception) -> None:
        self.outcome = outcome
        while self.waiting:
            try:
                done, _ = self.waiting.popitem()
            except KeyError:  # the last one was taken out meanwhile
                return
            _tell(host, outcome, done)


#: The look-ups under way, by host and port, of all clients.
_under_way: dict[tuple[str, int], _LookUp] = {}

if hasattr(os, "register_at_fork"):
    # Their threads are the parent's.
    os.register_at_fork(after_in_child=_under_way.clear)


def look_up(address: Address, done: Told) -> None:
    """Look a name up in a thread of its own, since that cannot be interrupted, and call `done` there.

    A look-up of the same name that is under way is joined. Who gives up waiting calls :func:`leave`; the thread
    ends by itself.
    """
    host, port = address.host, address.port
    found = _under_way.get((host, port))
    if found is not None:
        found.join(host, done)
        return

    def work() -> None:
        # The thread itself makes the entry: what interrupts the caller leaves none that nobody works on.
        mine = _LookUp()
        found = _under_way.setdefault((host, port), mine)
        found.join(host, done)
        if found is mine:
            outcome: list[SocketAddress] | Exception = OSError("the look-up was broken off")
            try:
                outcome = _outcome(host, port)
            finally:  # a greenlet may be killed
                _under_way.pop((host, port), None)
                mine.end(host, outcome)

    try:
        threading.Thread(target=work, name="tritonhttp-resolve", daemon=True).start()
    except RuntimeError as error:
        if "interpreter shutdown" in str(error):  # in CPython 3.12 and later; calls still work there
            _tell(host, _outcome(host, port), done)
            return
        message = f"cannot resolve the name {host!r}, which takes a thread: {error}"
        done(NameResolutionError(message, phase="resolve"))


def leave(address: Address, done: Told) -> None:
    """Wait for a look-up no more."""
    found = _under_way.get((address.host, address.port))
    if found is not None:
        found.waiting.pop(done, None)


def _outcome(host: str, port: int) -> list[SocketAddress] | Exception:
    try:
        return _look_up(host, port, 0)
    except Exception as error:  # OSError; UnicodeError where no name can be like that
        return error


def _tell(host: str, outcome: list[SocketAddress] | Exception, done: Told) -> None:
    """Tell one of those who wait: each gets an error of its own, since a call writes its URL into it."""
    if isinstance(outcome, Exception):
        done(NameResolutionError(f"cannot resolve the name {host!r}: {outcome}", phase="resolve"))
    else:
        done(list(outcome))


def resolve(address: Address, deadline: float | None) -> list[SocketAddress]:
    """Return the addresses of a server, in the order that the system prefers.

    Raises
    ------
    NameResolutionError
        If the name has no address.
    DeadlineExceeded
        If the answer takes too long.
    """
    found = literal(address)
    if found:
        return found
    began = time.monotonic()
    outcome: list[list[SocketAddress] | NameResolutionError] = []
    known = threading.Event()

    def note(answer: list[SocketAddress] | NameResolutionError) -> None:
        outcome.append(answer)
        known.set()

    try:
        look_up(address, note)
        if not known.wait(None if deadline is None else max(0.0, deadline - began)):
            raise resolve_timeout(address, time.monotonic() - began, deadline)
    finally:
        leave(address, note)
    if isinstance(outcome[0], NameResolutionError):
        raise outcome[0]
    return outcome[0]


def _look_up(host: str, port: int, flags: int) -> list[SocketAddress]:
    found: list[SocketAddress] = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
        if (family, address) not in found:
            found.append((family, address))
    return found
