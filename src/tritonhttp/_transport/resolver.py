"""Name resolution: look-ups in threads, each shared by all calls that wait for the same name."""

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
    """Return the address of a unix domain socket or of a literal; empty if the host is a name."""
    if address.socket_path:
        return [(socket.AF_UNIX, address.socket_path)]
    try:
        return _look_up(address.at or address.host, address.port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # the latter if it cannot be a name
        return []


#: Called with the addresses of a name, or with the reason why there are none.
Done: TypeAlias = Callable[[list[SocketAddress] | NameResolutionError], object]


class _LookUp:
    """A look-up in progress, and the callbacks of those who wait for it.

    It needs no lock, since each step is one operation of a dict. A lock could deadlock: a signal handler may run
    on a thread that is in the middle of any step.
    """

    __slots__ = ("outcome", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Done, bool] = {}
        #: The addresses, or the system's error; None while it is asked.
        self.outcome: list[SocketAddress] | Exception | None = None

    def join(self, host: str, done: Done) -> None:
        self.waiting[done] = True
        # It may have ended meanwhile. Either this thread or the look-up's removes `done`, and calls it.
        if self.outcome is not None and self.waiting.pop(done, False):
            _notify(host, self.outcome, done)

    def end(self, host: str, outcome: list[SocketAddress] | Exception) -> None:
        self.outcome = outcome
        while self.waiting:
            try:
                done, _ = self.waiting.popitem()
            except KeyError:  # the last one was removed meanwhile
                return
            _notify(host, outcome, done)


#: The look-ups in progress, of all clients, by host and port.
_look_ups: dict[tuple[str, int], _LookUp] = {}

if hasattr(os, "register_at_fork"):
    # Their threads run only in the parent.
    os.register_at_fork(after_in_child=_look_ups.clear)


def look_up(address: Address, done: Done) -> None:
    """Look a name up in a new thread, since that cannot be interrupted, and call `done` there.

    If the same name is being looked up already, share that look-up. A caller that gives up waiting calls
    :func:`leave`; the thread ends by itself.
    """
    host, port = address.host, address.port
    found = _look_ups.get((host, port))
    if found is not None:
        found.join(host, done)
        return

    def work() -> None:
        # The thread makes the entry, not the caller: an interrupt there would leave an entry without a thread.
        mine = _LookUp()
        found = _look_ups.setdefault((host, port), mine)
        found.join(host, done)
        if found is mine:
            outcome: list[SocketAddress] | Exception = OSError("the look-up was interrupted")
            try:
                outcome = _outcome(host, port)
            finally:  # a greenlet may be killed
                _look_ups.pop((host, port), None)
                mine.end(host, outcome)

    try:
        threading.Thread(target=work, name="tritonhttp-resolve", daemon=True).start()
    except RuntimeError as error:
        if "interpreter shutdown" in str(error):  # in CPython 3.12 and later; calls still work there
            _notify(host, _outcome(host, port), done)
            return
        message = f"cannot resolve the name {host!r}, which takes a thread: {error}"
        done(NameResolutionError(message, phase="resolve"))


def leave(address: Address, done: Done) -> None:
    """Stop waiting for a look-up."""
    found = _look_ups.get((address.host, address.port))
    if found is not None:
        found.waiting.pop(done, None)


def _outcome(host: str, port: int) -> list[SocketAddress] | Exception:
    try:
        return _look_up(host, port, 0)
    except Exception as error:  # OSError; UnicodeError if it cannot be a name
        return error


def _notify(host: str, outcome: list[SocketAddress] | Exception, done: Done) -> None:
    """Call one callback; each gets an error of its own, since a call adds its URL to it."""
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
