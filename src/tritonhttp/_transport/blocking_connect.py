"""How a blocking socket is connected: attempts in parallel, a tunnel, TLS.

Functions of the socket and selectors modules are looked up when they are called, so that the replacements of
gevent and eventlet are used where a program has installed them.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import ProtocolError
from .address import Address, SocketAddress
from .failures import connect_failure, tls_failure
from .happy_eyeballs import Race
from .policy import step_timeout
from .route import Proxy, TunnelReader

if TYPE_CHECKING:
    import ssl

__all__ = ["connect", "encrypt", "open_tunnel"]


def connect(addresses: Sequence[SocketAddress], deadline: float | None, peer: str) -> socket.socket:
    """Return a socket that is connected to one of the addresses; the caller sets its timeout."""
    began = monotonic()
    try:
        if len(addresses) == 1:
            return _connect_one(*addresses[0], deadline)
        race = Race(addresses, began, deadline)
        winner = _connect_first(race)
        if winner is not None:
            return winner
        failures = race.failures
    except OSError as error:
        failures = [(place, error) for place in addresses]
    raise connect_failure(peer, failures, monotonic() - began, deadline) from failures[0][1]


def _connect_one(family: int, address: object, deadline: float | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        _limit_next_step(sock, deadline)
        sock.connect(address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_first(race: Race) -> socket.socket | None:
    """Return the socket that connects first, or None if none does in time; close all others."""
    socks: dict[int, socket.socket] = {}
    try:
        with selectors.DefaultSelector() as selector:
            while True:
                while (number := race.start(monotonic())) is not None:
                    family, address = race.addresses[number]
                    try:
                        sock = socks[number] = socket.socket(family, socket.SOCK_STREAM)
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
    sock: socket.socket, context: ssl.SSLContext, server: Address, deadline: float | None
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
