"""Name resolution: look-ups in threads, each shared by all calls that wait for the same name."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from ..errors import NameResolutionError
from .address import Address, SocketAddress
from .failures import resolve_timeout
from .policy import step_timeout

__all__ = ["Outcome", "found_addresses", "leave", "literal", "look_up", "resolve"]


def literal(address: Address) -> list[SocketAddress]:
    """Return the address of a unix domain socket or of a literal; empty if the host is a name."""
    if address.socket_path:
        return [(socket.AF_UNIX, address.socket_path)]
    try:
        return _look_up(address.at or address.host, address.port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # the latter if it cannot be a name
        return []


#: What came of a look-up: the addresses of a name, or why there are none.
Outcome: TypeAlias = list[SocketAddress] | Exception
Done: TypeAlias = Callable[[Outcome], object]


class _LookUp:
    """A look-up in progress, and the callbacks of those who wait for it.

    It needs no lock, since each step is one operation of a dict. A lock could deadlock: a signal handler may run
    on a thread that is in the middle of any step.
    """

    def __init__(self) -> None:
        self.waiting: dict[Done, bool] = {}
        #: None while the system is asked.
        self.outcome: Outcome | None = None

    def join(self, done: Done) -> None:
        self.waiting[done] = True
        # It may have ended meanwhile. Either this thread or the look-up's removes `done`, and calls it.
        if self.outcome is not None and self.waiting.pop(done, False):
            done(self.outcome)

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        with contextlib.suppress(KeyError):  # the last one was removed meanwhile
            while self.waiting:
                done, _ = self.waiting.popitem()
                done(outcome)


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
    place = address.host, address.port
    found = _look_ups.get(place)
    if found is not None:
        found.join(done)
        return

    def work() -> None:
        # The thread makes the entry, not the caller: an interrupt there would leave an entry without a thread.
        mine = _LookUp()
        found = _look_ups.setdefault(place, mine)
        found.join(done)
        if found is mine:
            outcome: Outcome = OSError("the look-up was interrupted")
            try:
                outcome = _outcome(*place)
            finally:  # a greenlet may be killed
                _look_ups.pop(place, None)
                mine.end(outcome)

    try:
        threading.Thread(target=work, name="tritonhttp-resolve", daemon=True).start()
    except RuntimeError as error:
        # In CPython 3.12 and later no thread starts during the interpreter's shutdown, but calls still work.
        asks = "interpreter shutdown" in str(error)
        done(_outcome(*place) if asks else OSError(f"that takes a thread: {error}"))


def leave(address: Address, done: Done) -> None:
    """Stop waiting for a look-up."""
    found = _look_ups.get((address.host, address.port))
    if found is not None:
        found.waiting.pop(done, None)


def _outcome(host: str, port: int) -> Outcome:
    try:
        return _look_up(host, port, 0)
    except Exception as error:  # OSError; UnicodeError if it cannot be a name
        return error


def found_addresses(address: Address, outcome: Outcome) -> list[SocketAddress]:
    """Return the addresses that a look-up found, or raise NameResolutionError.

    Each call gets a list and an error of its own, since it adds its URL to the error.
    """
    if isinstance(outcome, Exception):
        raise NameResolutionError(f"cannot resolve the name {address.host!r}: {outcome}", phase="resolve")
    return list(outcome)


def resolve(
    address: Address,
    deadline: float | None,
    watch: Callable[[Callable[[], object]], object] = lambda wake: None,
) -> list[SocketAddress]:
    """Return the addresses of a server, in the order that the system prefers.

    Parameters
    ----------
    address : Address
        The server.
    deadline : float or None
        When to stop waiting, on the monotonic clock.
    watch : callable, optional
        Is told what wakes this thread early, and then raises if it was woken.

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
    outcomes: list[Outcome] = []
    known = threading.Event()

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        known.set()

    try:
        look_up(address, note)
        watch(known.set)
        if not known.wait(step_timeout(None, deadline, began)):
            raise resolve_timeout(address, time.monotonic() - began, deadline)
        watch(known.set)
    finally:
        leave(address, note)
    return found_addresses(address, outcomes[0])


def _look_up(host: str, port: int, flags: int) -> list[SocketAddress]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))
