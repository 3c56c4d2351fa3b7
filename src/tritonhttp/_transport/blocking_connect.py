"""How a blocking connection is opened: the name resolved, the socket connected, a tunnel, TLS.

Functions of the socket and selectors modules are looked up when they are called, so that the replacements of
gevent and eventlet are used where a program has installed them.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from .._wire.http1 import ResponseReader
from ..errors import ProtocolError
from .address import Address, SocketAddress
from .blocking_connection import Connection
from .failures import connect_failure, tls_failure
from .happy_eyeballs import Race
from .policy import Connections, Timeouts, earliest, step_timeout
from .resolver import resolve
from .route import MAX_REFUSAL, Proxy, Route

if TYPE_CHECKING:
    import ssl

    from .trace import Trace

__all__ = ["open_connection"]

_INTERNET = (socket.AF_INET, socket.AF_INET6)

#: Results of a connect that the kernel continues; the last is from Windows.
_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", 0))


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
    if timeouts.connection is not None:
        deadline = earliest(deadline, began + timeouts.connection)
    addresses = resolve(route.address, deadline)
    if trace is not None:
        trace.mark("resolve")
    sock = _connect(addresses, deadline, route.peer)
    if trace is not None:
        trace.mark("connect")
    try:
        if sock.family in _INTERNET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if route.tunnel is not None:
            _open_tunnel(sock, route.tunnel, server, deadline)
            if trace is not None:
                trace.mark("proxy")
        if context is not None:
            sock = _encrypt(sock, context, server, deadline)
            if trace is not None:
                trace.mark("tls")
        connection = Connection(sock, context is not None, timeouts.network, options.max_response_bytes)
    except BaseException:
        sock.close()
        raise
    connection.dies = began + options.age_limit
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
                    try:
                        if _start_attempt(race.addresses[number], number, socks, selector):
                            return _take_winner(socks, number)
                    except (
                        OSError
                    ) as error:  # a system without IPv6 may still resolve names to IPv6 addresses
                        _drop_failed(race, socks, number, error)
                now = monotonic()
                if race.is_over(now):
                    return None
                ready = [key.data for key, _ in selector.select(race.pause(now))]
                for number in sorted(ready):
                    sock = socks[number]
                    problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if problem == 0:
                        return _take_winner(socks, number)
                    selector.unregister(sock)
                    _drop_failed(race, socks, number, OSError(problem, os.strerror(problem)))
    finally:
        for sock in socks.values():
            sock.close()


def _start_attempt(
    place: SocketAddress, number: int, socks: dict[int, socket.socket], selector: selectors.BaseSelector
) -> bool:
    """Start to connect, and return whether that has succeeded already."""
    family, address = place
    sock = socks[number] = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    problem = sock.connect_ex(address)
    if problem in _IN_PROGRESS:
        selector.register(sock, selectors.EVENT_WRITE, number)
    elif problem:
        raise OSError(problem, os.strerror(problem))
    return not problem


def _take_winner(socks: dict[int, socket.socket], number: int) -> socket.socket:
    socks[number].setblocking(True)
    return socks.pop(number)


def _drop_failed(race: Race, socks: dict[int, socket.socket], number: int, error: OSError) -> None:
    race.failed(number, error, monotonic())
    sock = socks.pop(number, None)
    if sock is not None:
        sock.close()


def _open_tunnel(sock: socket.socket, proxy: Proxy, server: Address, deadline: float | None) -> None:
    """Ask the proxy to open a tunnel to the server."""
    began = monotonic()
    reader = ResponseReader(MAX_REFUSAL, tunnel=True)
    try:
        _limit_next_step(sock, deadline)
        sock.sendall(proxy.connect_request(server))
        while reader.response is None:
            _limit_next_step(sock, deadline)
            count = sock.recv_into(reader.get_buffer())
            if not (reader.received(count) if count else reader.received_eof()) and not count:
                raise ConnectionResetError(f"it closed the connection after {reader.progress()}")
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
