"""How a blocking socket is connected: attempts in parallel, a tunnel, TLS.

Functions of the socket and selectors modules are looked up when they are called, so that the replacements of
gevent and eventlet are used where a program has installed them.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ProtocolError
from .address import Address, SocketAddress
from .failures import cancelled, connect_failure, tls_failure
from .happy_eyeballs import Race
from .policy import step_timeout
from .pool import Place
from .route import Proxy, TunnelReader

if TYPE_CHECKING:
    import ssl

__all__ = ["Making", "connect", "encrypt", "interrupt", "open_tunnel"]

#: Told of each thing that a thread is about to wait for: what wakes it.
Watch: TypeAlias = Callable[[Callable[[], object]], None]


class Making:
    """A connection that is being made for a call. A call of it wakes the thread that makes it."""

    def __init__(self, place: Place[Any]) -> None:
        self._place = place
        self._wakes: list[Callable[[], object]] = []

    def watch(self, wake: Callable[[], object]) -> None:
        """Take what wakes the thread; raise RequestCancelled if the call was cancelled."""
        self._wakes.append(wake)
        self.check()

    def check(self) -> None:
        """Raise RequestCancelled if the call was cancelled."""
        if self._place.cancelled:
            raise cancelled()

    def __call__(self) -> None:
        # The pool may call this without a cancellation, if it looked at the place while that was in the line.
        for wake in list(self._wakes) if self._place.cancelled else ():
            wake()


def interrupt(sock: socket.socket) -> None:
    """Wake whoever waits for a socket, on any thread: the connection is closed for them."""
    # Not by SSLSocket's own method, which would drop TLS under them. eventlet's classes lack it.
    kinds = (kind for kind in type(sock).__mro__ if not hasattr(kind, "do_handshake"))
    shut: Any = next((vars(kind)["shutdown"] for kind in kinds if "shutdown" in vars(kind)), None)
    with contextlib.suppress(OSError):
        if shut is None:
            sock.shutdown(socket.SHUT_RDWR)
        else:
            shut(sock, socket.SHUT_RDWR)


def connect(
    addresses: Sequence[SocketAddress], deadline: float | None, peer: str, watch: Watch
) -> socket.socket:
    """Return a socket that is connected to one of the addresses; the caller sets its timeout."""
    began = monotonic()
    try:
        if len(addresses) == 1:
            return _connect_one(*addresses[0], deadline, watch)
        race = Race(addresses, began, deadline)
        winner = _connect_first(race, watch)
        if winner is not None:
            return winner
        failures = race.failures
    except OSError as error:
        failures = [(place, error) for place in addresses]
    raise connect_failure(peer, failures, monotonic() - began, deadline) from failures[0][1]


def _connect_one(family: int, address: object, deadline: float | None, watch: Watch) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        watch(partial(interrupt, sock))
        _limit_next_step(sock, deadline)
        sock.connect(address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_first(race: Race, watch: Watch) -> socket.socket | None:
    """Return the socket that connects first, or None if none does in time; close all others."""
    socks: dict[int, socket.socket] = {}
    try:
        with selectors.DefaultSelector() as selector:
            while True:
                while (number := race.start(monotonic())) is not None:
                    family, address = race.addresses[number]
                    try:
                        sock = socks[number] = socket.socket(family, socket.SOCK_STREAM)
                        watch(partial(interrupt, sock))
                        sock.setblocking(False)
                        sock.connect(address)
                        return socks.pop(number)
                    except (BlockingIOError, InterruptedError):  # the kernel continues
                        selector.register(socks[number], selectors.EVENT_WRITE, number)
                    except OSError as error:
                        # A system without IPv6 may still resolve names to IPv6 addresses.
                        race.failed(number, error, monotonic())
                now = monotonic()
                if race.is_over(now):
                    return None
                for number in sorted(key.data for key, _ in selector.select(race.pause(now))):
                    problem = socks[number].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not problem:
                        return socks.pop(number)
                    selector.unregister(socks[number])
                    race.failed(number, OSError(problem, os.strerror(problem)), monotonic())
    finally:
        for sock in socks.values():
            sock.close()


def open_tunnel(sock: socket.socket, proxy: Proxy, server: Address, deadline: float | None) -> None:
    """Ask the proxy to open a tunnel to the server."""
    began = monotonic()
    reader = TunnelReader()
    try:
        _limit_next_step(sock, deadline)
        sock.sendall(proxy.connect_request(server))
        while reader.response is None:
            _limit_next_step(sock, deadline)
            reader.feed(sock.recv_into(reader.get_buffer()))
    except (OSError, ProtocolError) as error:
        raise proxy.failure(server, error, monotonic() - began, deadline) from error
    proxy.check_tunnel(server, reader.response)


def encrypt(
    sock: socket.socket, context: ssl.SSLContext, server: Address, deadline: float | None, watch: Watch
) -> socket.socket:
    """Return the socket under TLS, its handshake done."""
    began = monotonic()
    _limit_next_step(sock, deadline)
    try:
        encrypted = context.wrap_socket(
            sock,
            server_hostname=server.tls_name,
            # Where the end of the connection ends a body, only close_notify proves that the body is whole.
            suppress_ragged_eofs=False,
            do_handshake_on_connect=False,
        )
        try:
            watch(partial(interrupt, encrypted))
            encrypted.do_handshake()
        except BaseException:
            encrypted.close()
            raise
    except (OSError, ValueError) as error:
        raise tls_failure(server, error, monotonic() - began, deadline) from error
    return encrypted


def _limit_next_step(sock: socket.socket, deadline: float | None) -> None:
    """Set the socket's timeout for one step; a handshake is one step."""
    left = step_timeout(None, deadline, monotonic())
    sock.settimeout(None if left is None else max(left, 0.001))
