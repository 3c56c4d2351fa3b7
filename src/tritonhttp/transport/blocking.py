"""Exchanges over blocking sockets, by any number of threads.

A request is a tuple of buffers that goes out without being joined; the response is received into the memory
that the result will use. Functions of the socket module are looked up when they are called, so that gevent's
replacements are used where a program has put them in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import socket
import threading
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import ConnectionLost, ProtocolError, TransportError
from ..wire.http1 import Response, ResponseReader, StreamedResponse
from ..wire.requests import Buffer, coalesce
from .address import Address, SocketAddress, resolve
from .connection import Connection
from .failures import closed, connect_failure, located, tls_failure, wait_timeout
from .policy import Connections, Timeouts, earliest, may_resend, step_timeout
from .pool import CLOSED, OPEN, WAIT, Pool, Signal
from .repeater import REPEATS, Repeater
from .route import MAX_REFUSAL, Proxy, Route
from .trace import Counts, Trace

if TYPE_CHECKING:
    import ssl

__all__ = ["BlockingTransport", "Stream"]

_INTERNET = (socket.AF_INET, socket.AF_INET6)


class _Waiter:
    """A thread in the line for a place."""

    __slots__ = ("grant", "woken")

    def __init__(self) -> None:
        self.grant: Connection | Signal | None = None
        self.woken = threading.Event()


class BlockingTransport:
    """A pool of connections to one server, for use by any number of threads at a time.

    Parameters
    ----------
    address : Address
        The server.
    limit : int
        The most connections.
    timeouts : Timeouts
        Limits for connecting, and for each step without progress.
    context : ssl.SSLContext or None
        For servers with TLS.
    options : Connections, optional
        How connections are made, used and kept.

    Raises
    ------
    InvalidRequest
        For a proxy that cannot be used.
    """

    def __init__(
        self,
        address: Address,
        limit: int,
        timeouts: Timeouts,
        context: ssl.SSLContext | None,
        options: Connections | None = None,
    ) -> None:
        self._address = address
        self._origin = address.origin
        self._limit = limit
        self._timeouts = timeouts
        self._context = context
        options = options or Connections()
        self._options = options
        self._route = route = Route(address, options)
        self._prepare = None if route.plain else route.prepare
        self._max_idle = options.idle_limit
        #: Whether the repeater is worth asking.
        self.repeats = REPEATS and route.plain and context is None
        self.reset()

    def reset(self) -> None:
        """Start anew with no connection: at first, and in a forked child, whose inherited sockets are closed."""
        for connection in getattr(self, "_connections", ()):
            connection.close()
        closed_before = hasattr(self, "_pool") and self._pool.closed
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._pool: Pool[Connection, _Waiter] = Pool(self._limit)
        self._pool.closed = closed_before
        self._counts = Counts()
        self.repeater: Repeater[Connection] = Repeater(
            self._lock, self._pool, self._timeouts.network or math.inf, self._max_idle
        )

    def exchange(
        self,
        method: str,
        target: str,
        buffers: Sequence[Buffer],
        *,
        repeatable: bool = False,
        deadline: float | None = None,
        trace: Trace | None = None,
        streamed: bool = False,
        idle_timeout: float | None = None,
        begun: Connection | None = None,
    ) -> Response:
        """Send a request and return its response, whatever its status.

        Parameters
        ----------
        method, target : str
            The request, for messages.
        buffers : sequence of buffers
            The whole request, its head first.
        repeatable : bool
            Whether it may go out again when a reused connection turns out closed.
        deadline : float or None
            When the call must end, on the monotonic clock.
        trace : Trace, optional
            Is told how long each phase takes.
        streamed : bool
            Whether to return a success with its head: a StreamedResponse whose `stream` is a :class:`Stream`.
        idle_timeout : float or None
            Seconds for each step without progress of a streamed one, in place of the network timeout.
        begun : optional
            The connection on which a repetition of the request took another course: it is gone on with.

        Raises
        ------
        TransportError
            When no whole response came.
        ProtocolError
            When what came is no HTTP.
        """
        if len(buffers) > 1:
            buffers = coalesce(buffers)
        expects = False
        network = idle_timeout if streamed else self._timeouts.network
        if self._prepare is not None:
            buffers, expects = self._prepare(buffers)
        fresh = False
        try:
            while True:
                if trace is not None:
                    trace.start()
                if begun is None:
                    connection, reused = self._take(fresh, deadline, trace)
                else:
                    connection, reused, begun = begun, True, None
                if trace is not None:
                    trace.take(connection, reused=reused)
                try:
                    response = connection.exchange(buffers, network, deadline, expects, trace, streamed)
                except BaseException as error:
                    answered, handed_over = not connection.reader.blank, connection.handed_over
                    self._check_in(connection, reusable=False)
                    fresh = (
                        reused
                        and isinstance(error, ConnectionLost)
                        and may_resend(repeatable=repeatable, answered=answered, handed_over=handed_over)
                    )
                    if not fresh:
                        raise
                    with self._lock:
                        self._counts.calls -= 1
                        self._counts.resent += 1
                    continue
                finally:
                    if trace is not None:
                        trace.end(connection)
                asked = method, self._origin, target
                if connection.reader.open:
                    head = StreamedResponse(response.head, b"")
                    head.asked = asked
                    head.stream = Stream(self, connection, method, target)
                    return head
                response.asked = asked
                connection.reader.response = None  # an idle connection should not keep a large body
                if connection.reader.reusable:
                    expires = monotonic() + self._max_idle
                    connection.expires = expires if expires < connection.dies else connection.dies
                    self._keep(connection)
                else:
                    self._check_in(connection, reusable=False)
                return response
        except (TransportError, ProtocolError) as error:
            raise located(error, self._address, method, target) from error.__cause__

    def _keep(self, connection: Connection) -> None:
        """Give a place back with its connection, fit for further use as it is."""
        with self._lock:
            kept = self._pool.keep(connection)
            oldest = self._pool.idle[0] if kept else connection
            expired = oldest is not connection and oldest.expires <= monotonic()
            if expired:
                # The longest idle one has had its time; those behind it are looked at in their turn.
                self._pool.drop_oldest()
        if expired:
            self._forget(oldest)
        elif not kept:
            self._check_in(connection, reusable=True)

    def _drop(self, connection: Connection) -> None:
        """Give a place back whose connection is of no more use."""
        self._check_in(connection, reusable=False)

    def addresses(self, deadline: float | None) -> list[SocketAddress]:
        """Look up the addresses of the server's name."""
        try:
            return resolve(self._address, deadline)
        except TransportError as error:
            raise located(error, self._address, "", "") from error.__cause__

    def pin(self, literal: str) -> None:
        """Connect to this one of the addresses of the server's name, from the first connection on."""
        self._address = dataclasses.replace(self._address, at=literal)
        self._route = Route(self._address, self._options)

    @property
    def counts(self) -> Counts:
        """What the transport did since it was made; in a forked child, since the fork."""
        with self._lock:
            counts = self._counts.with_open(self._connections)
        counts.calls += self.repeater.calls
        return counts

    def close(self) -> None:
        """Close the idle connections now, and the others when their requests end; turn away who waits."""
        with self._lock:
            idle, waiters = self._pool.close()
        self._forget(*idle)
        for waiter in waiters:
            waiter.woken.set()

    # -- the pool's decisions, carried out --

    def _take(self, fresh: bool, deadline: float | None, trace: Trace | None) -> tuple[Connection, bool]:
        """Return a connection, and whether it had a request before; a new one where a `fresh` one is needed."""
        with self._lock:
            self._counts.calls += 1
            place = self._pool.take()
        if place is WAIT:
            place = self._wait(deadline)
        if trace is not None:
            trace.mark("wait")
        if (
            type(place) is Connection
            and not fresh
            and monotonic() < place.expires
            and not self._is_stale(place)
        ):
            return place, True
        return self._renew(place, deadline, trace), False

    def _is_stale(self, connection: Connection) -> bool:
        try:
            return bool(connection.is_stale(0))
        except BaseException:  # gevent lets others run meanwhile, which may kill this greenlet
            self._check_in(connection, reusable=False)
            raise

    def _renew(self, place: Connection | Signal, deadline: float | None, trace: Trace | None) -> Connection:
        """Return a new connection for a place that has none, or one of no more use."""
        if place is CLOSED:
            raise closed()
        try:
            if isinstance(place, Connection):
                self._forget(place)
            return self._open(deadline, trace)
        except BaseException:
            self._check_in(None, reusable=False)
            raise

    def _wait(self, deadline: float | None) -> Connection | Signal:
        """Return a place, after waiting in line for one if that is still needed."""
        waiter = _Waiter()
        began = monotonic()
        with self._lock:
            place = self._pool.take()
            if place is not WAIT:
                return place
            self._pool.wait(waiter)
        try:
            woken = waiter.woken.wait(step_timeout(None, deadline, began))
        except BaseException:
            if not self._stop_waiting(waiter) and waiter.grant is not None:
                granted = waiter.grant
                self._check_in(granted if isinstance(granted, Connection) else None, reusable=True)
            raise
        if not woken and deadline is not None and self._stop_waiting(waiter):
            raise wait_timeout(self._limit, monotonic() - began, deadline)
        waiter.woken.wait()
        return CLOSED if waiter.grant is None else waiter.grant

    def _stop_waiting(self, waiter: _Waiter) -> bool:
        """Leave the line; False where the waiter got its place after all, or the client was closed."""
        with self._lock:
            return self._pool.leave(waiter)

    def _check_in(self, connection: Connection | None, *, reusable: bool) -> None:
        """Give a place back, with its connection where it has one."""
        spent = None
        with self._lock:
            if connection is not None and (not reusable or self._pool.closed):
                spent, connection = connection, None
            waiter = self._pool.give_back(connection)
            if waiter is not None:
                waiter.grant = OPEN if connection is None else connection
        if spent is not None:
            self._forget(spent)
        if waiter is not None:
            waiter.woken.set()

    def _forget(self, *spent: Connection) -> None:
        for connection in spent:
            connection.close()
        with self._lock:
            self._connections.difference_update(spent)
            for connection in spent:
                self._counts.end(connection)

    def _open(self, deadline: float | None, trace: Trace | None) -> Connection:
        began = monotonic()
        limit = self._timeouts.connection
        deadline = earliest(deadline, None if limit is None else began + limit)
        route = self._route
        addresses = resolve(route.address, deadline)
        if trace is not None:
            trace.mark("resolve")
        sock = self._connect(addresses, deadline)
        if trace is not None:
            trace.mark("connect")
        try:
            if sock.family in _INTERNET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if route.tunnel is not None:
                self._dig(sock, route.tunnel, deadline)
                if trace is not None:
                    trace.mark("proxy")
            if self._context is not None:
                sock = self._encrypt(sock, self._context, deadline)
                if trace is not None:
                    trace.mark("tls")
            connection = Connection(sock, self._context is not None, self._options.max_response_bytes)
        except BaseException:
            sock.close()
            raise
        connection.dies = began + self._options.age_limit
        connection.reader.reusable = self._options.keep_alive
        with self._lock:
            self._connections.add(connection)
            self._counts.opened += 1
        return connection

    def _connect(self, addresses: Sequence[SocketAddress], deadline: float | None) -> socket.socket:
        failures: list[tuple[SocketAddress, OSError]] = []
        began = monotonic()
        for position, (family, address) in enumerate(addresses):
            left = step_timeout(None, deadline, monotonic())
            # An address that swallows packets leaves time for those behind it.
            timeout = None if left is None else max(left / (len(addresses) - position), 0.001)
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a system without IPv6 may still know addresses of it
                failures.append(((family, address), error))
                continue
            try:
                sock.settimeout(timeout)
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                failures.append(((family, address), error))
            except BaseException:
                sock.close()
                raise
        seconds = monotonic() - began
        raise connect_failure(self._route.peer, failures, seconds, deadline) from failures[0][1]

    def _dig(self, sock: socket.socket, proxy: Proxy, deadline: float | None) -> None:
        """Have the proxy open a tunnel to the server."""
        began = monotonic()
        reader = ResponseReader(MAX_REFUSAL, tunnel=True)
        try:
            _arm(sock, deadline)
            sock.sendall(proxy.connect_request(self._address))
            while reader.response is None:
                _arm(sock, deadline)
                count = sock.recv_into(reader.get_buffer())
                if not (reader.received(count) if count else reader.received_eof()) and not count:
                    raise ConnectionResetError(f"it closed the connection after {reader.progress()}")
        except (OSError, ProtocolError) as error:
            raise proxy.failure(self._address, error, monotonic() - began, deadline) from error
        proxy.check_tunnel(self._address, reader.response)

    def _encrypt(self, sock: socket.socket, context: ssl.SSLContext, deadline: float | None) -> socket.socket:
        began = monotonic()
        _arm(sock, deadline)
        try:
            # Where a body ends with the connection, only the server's word (close_notify) tells it from a cut one.
            return context.wrap_socket(sock, server_hostname=self._address.host, suppress_ragged_eofs=False)
        except (OSError, ValueError) as error:
            raise tls_failure(self._address, error, monotonic() - began, deadline) from error


class Stream:
    """The body of a response, as it comes. It keeps its connection, until its end or until it is closed."""

    def __init__(
        self, transport: BlockingTransport, connection: Connection, method: str, target: str
    ) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self._request = method, target

    def more(self, idle: float | None, deadline: float | None) -> bytes:
        """Return the next piece of the body, or b"" where it has ended.

        Parameters
        ----------
        idle : float or None
            How long to wait for it, in seconds.
        deadline : float or None
            When the call must end, on the monotonic clock.

        Raises
        ------
        TransportError, ProtocolError
            The connection is closed then.
        """
        connection = self._connection
        if connection is None:
            return b""
        reader = connection.reader
        try:
            while not (piece := reader.take()):
                if reader.ended:
                    self.close()
                    break
                connection._receive(idle, deadline)
        except (TransportError, ProtocolError) as error:
            self.close()
            raise located(error, self._transport._address, *self._request) from error.__cause__
        except BaseException:
            self.close()
            raise
        return piece

    def close(self) -> None:
        """Give the connection back where the body has ended, and close it otherwise. Idempotent."""
        connection, self._connection = self._connection, None
        # In a forked child the transport has started anew: the connection is none of its own.
        if connection is not None and connection in self._transport._connections:
            reader = connection.reader
            connection.expires = min(monotonic() + self._transport._max_idle, connection.dies)
            self._transport._check_in(connection, reusable=reader.ended and reader.reusable)

    def interrupt(self) -> None:
        """Wake a thread that waits in :meth:`more`, which then ends or fails; only that one may close it."""
        connection = self._connection
        if connection is not None and connection in self._transport._connections:
            with contextlib.suppress(OSError):
                # That of a TLS socket would take the encryption from under who reads.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def __del__(self) -> None:
        # The collector may run on a thread that holds the transport's lock.
        if self._connection is not None:
            lock = self._transport._lock
            if lock.acquire(blocking=False):
                lock.release()
                self.close()
            else:
                with contextlib.suppress(RuntimeError):  # the interpreter ends
                    threading.Thread(target=self.close, name="tritonhttp-close").start()


def _arm(sock: socket.socket, deadline: float | None) -> None:
    """Bound the next step on a socket; a handshake is one step, whatever it reads and writes."""
    left = step_timeout(None, deadline, monotonic())
    sock.settimeout(None if left is None else max(left, 0.001))
