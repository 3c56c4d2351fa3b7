"""How a blocking connection is opened: the name resolved, the socket connected, a tunnel, TLS.

Functions of the socket and selectors modules are looked up when they are called, so that the replacements of
gevent and eventlet are used where a program has installed them.
"""

from __future__ import annotations

import math
import os
import selectors
import socket
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import ProtocolError
from .address import Address, SocketAddress
from .blocking_connection import Connection
from .failures import connect_failure, tls_failure
from .happy_eyeballs import Race
from .policy import Connections, Timeouts, earliest, step_timeout
from .resolver import resolve
from .route import Proxy, Route, TunnelReader
from .trace import Trace, marker

if TYPE_CHECKING:
    import ssl

__all__ = ["open_connection"]

_INTERNET = (socket.AF_INET, socket.AF_INET6)


def open_connection(
    server: Address,
    route: Route,
    context: ssl.SSLContext | None,
    timeouts: Timeouts,
    options: Connections,
    deadline: float | None,
    trace: Trace | None,
) -> Connection:
    """Open a connection to a server.

    Raises
    ------
    NameResolutionError, ConnectError, DeadlineExceeded
        If it cannot be opened in time.
    """
    began = monotonic()
    mark = marker(trace)
    if timeouts.connection is not None:
        deadline = earliest(deadline, began + timeouts.connection)
    addresses = resolve(route.address, deadline)
    mark("resolve")
    sock = _connect(addresses, deadline, route.peer)
    mark("connect")
    try:
        if sock.family in _INTERNET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if route.tunnel is not None:
            _open_tunnel(sock, route.tunnel, server, deadline)
            mark("proxy")
        if context is not None:
            sock = _encrypt(sock, context, server, deadline)
            mark("tls")
        connection = Connection(sock, context is not None, timeouts.network, options.max_response_bytes)
    except BaseException:
        sock.close()
        raise
    connection.dies = began + (options.max_age or math.inf)
    connection.reader.reusable = options.keep_alive
    return connection


def _connect(addresses: Sequence[SocketAddress], deadline: float | None, peer: str) -> socket.socket:
    """Return a socket that is connected to one of the addresses; the caller sets its timeout."""
    began = monotonic()
    if len(addresses) > 1:
        race = Race(addresses, began, deadline)
        try:
            selector = selectors.DefaultSelector()
        except OSError as error:  # no file descriptor is left
            failures = [(each, error) for each in race.addresses]
        else:
            winner = _connect_first(race, selector)
            if winner is not None:
                return winner
            failures = race.failures
    else:
        ((family, address),) = addresses
        try:
            return _connect_one(family, address, deadline)
        except OSError as error:
            failures = [((family, address), error)]
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


def _connect_first(race: Race, selector: selectors.BaseSelector) -> socket.socket | None:
    """Return the socket that connects first, or None if none does in time; close all others."""
    socks: dict[int, socket.socket] = {}
    try:
        with selector:
            while True:
                while (number := race.start(monotonic())) is not None:
                    family, address = race.addresses[number]
                    try:
                        sock = socks[number] = socket.socket(family, socket.SOCK_STREAM)
                        sock.setblocking(False)
                        sock.connect(address)
                        return socks.pop(number)
                    except (BlockingIOError, InterruptedError):  # the kernel continues
                        selector.register(sock, selectors.EVENT_WRITE, number)
                    except (
                        OSError
                    ) as error:  # also: the system has no IPv6, but resolves names to its addresses
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


def _open_tunnel(sock: socket.socket, proxy: Proxy, server: Address, deadline: float | None) -> None:
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


def _encrypt(
    sock: socket.socket, context: ssl.SSLContext, server: Address, deadline: float | None
) -> socket.socket:
    """Return the socket under TLS, its handshake done."""
    began = monotonic()
    _limit_next_step(sock, deadline)
    try:
        encrypted = context.wrap_socket(
            sock,
            server_hostname=server.host,
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
