"""Exchanges over blocking sockets, by any number of threads.

A request is a tuple of buffers that goes out without being joined; the response is received into the memory
that the result will use. Each step is bounded by the network timeout and by the call's deadline, whichever
comes first. Functions of the socket module are looked up when they are called, so that gevent's replacements
are used where a program has put them in.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConnectionLost,
    DeadlineExceeded,
    InferenceServerException,
    ProtocolError,
    TransportError,
)
from ..wire.http1 import Buffer, Response, ResponseReader, coalesce
from .address import Address, SocketAddress, resolve
from .failures import closed, connect_failure, located, tls_failure
from .policy import Timeouts, earliest, may_resend, step_timeout
from .pool import CLOSED, OPEN, WAIT, Pool, Signal

if TYPE_CHECKING:
    import ssl

__all__ = ["BlockingTransport"]

#: Linux takes at most 1,024 buffers in one sendmsg.
_MAX_VECTOR = 1024
#: TLS encrypts what it is given at once; slices keep that memory small.
_TLS_SLICE = 1 << 18
#: How long an answer may take that a server sent before it stopped reading.
_EARLY_ANSWER = 1.0
#: How a time limit of the kernel (SO_RCVTIMEO) ends a call, and how one of Python's socket does.
_TIMED_OUT = (BlockingIOError, TimeoutError)
_TIMEVAL = struct.Struct("ll")


class _Connection:
    """One socket, and the reader of its responses."""

    __slots__ = ("_armed", "_kernel_waits", "_vectored", "handed_over", "is_stale", "reader", "sock")

    def __init__(self, sock: socket.socket, encrypted: bool) -> None:
        self.sock = sock
        self.reader = ResponseReader()
        #: Whether the kernel has taken the whole request.
        self.handed_over = False
        self._vectored = not encrypted and hasattr(sock, "sendmsg")
        # A socket with a timeout polls before every send and receive. Where it is the kernel's own, not gevent's
        # and not under TLS, the kernel can watch the time itself.
        self._kernel_waits = not encrypted and sys.platform == "linux" and type(sock).__module__ == "socket"
        if self._kernel_waits:
            sock.settimeout(None)
        self._armed: float | None = -1.0
        #: Says of an idle connection, when called with 0, whether it was closed, or something came on it unasked.
        self.is_stale: Callable[[int], Any]
        if hasattr(select, "poll"):
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            self.is_stale = poller.poll
        else:
            self.is_stale = lambda seconds: select.select([sock], [], [], seconds)[0]

    def close(self) -> None:
        self.sock.close()

    def exchange(self, buffers: Sequence[Buffer], network: float | None, deadline: float | None) -> Response:
        """Send the request and receive its response.

        Raises
        ------
        TransportError, ProtocolError
            The connection is of no use afterwards.
        """
        reader = self.reader
        if not reader.blank:
            reader.start()
        self.handed_over = False
        try:
            sent = 0
            if len(buffers) == 1 and self._vectored:
                if deadline is not None or network != self._armed:
                    self._arm(network, deadline)
                sent = self.sock.send(buffers[0])
            if sent < len(buffers[0]):
                self._send(buffers, sent, network, deadline)
        except _TIMED_OUT:
            raise DeadlineExceeded(
                f"timed out while sending: {_limit(network, deadline)}", phase="send"
            ) from None
        except OSError as error:
            # A server that refuses a large request may answer at once and stop reading.
            try:
                reader.reusable = False
                return self._receive(_EARLY_ANSWER, earliest(deadline, time.monotonic() + _EARLY_ANSWER))
            except InferenceServerException:
                raise ConnectionLost(f"the connection broke while sending: {error}", phase="send") from error
        self.handed_over = True
        return self._receive(network, deadline)

    def _arm(self, network: float | None, deadline: float | None) -> None:
        if deadline is None:
            timeout = network
        else:
            timeout = step_timeout(network, deadline, time.monotonic())
            if timeout == 0:
                raise TimeoutError
        if timeout != self._armed:
            if self._kernel_waits:
                seconds, fraction = divmod(timeout or 0.0, 1.0)
                microseconds = 0 if timeout is None else min(int(fraction * 1e6) + 1, 999_999)
                limit = _TIMEVAL.pack(int(seconds), microseconds)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            else:
                self.sock.settimeout(timeout)
            self._armed = timeout

    def _send(
        self, buffers: Sequence[Buffer], sent: int, network: float | None, deadline: float | None
    ) -> None:
        """Send what is left of the buffers behind the first `sent` bytes."""
        pending = [memoryview(buffers[0])[sent:], *buffers[1:]]
        first = 0
        while first < len(pending):
            self._arm(network, deadline)
            if not self._vectored:
                sent = self.sock.send(memoryview(pending[first])[:_TLS_SLICE])
            elif len(pending) - first == 1:
                sent = self.sock.send(pending[first])
            else:
                sent = self.sock.sendmsg(pending[first : first + _MAX_VECTOR])
            while first < len(pending) and sent >= len(pending[first]):
                sent -= len(pending[first])
                first += 1
            if sent:
                pending[first] = memoryview(pending[first])[sent:]

    def _receive(self, network: float | None, deadline: float | None) -> Response:
        reader = self.reader
        receive = self.sock.recv_into
        try:
            while True:
                if deadline is not None or network != self._armed:
                    self._arm(network, deadline)
                count = receive(reader.view if reader.blank else reader.get_buffer())
                if count:
                    if reader.received(count):
                        break
                elif reader.received_eof():
                    break
                else:
                    raise ConnectionLost(
                        f"the server closed the connection after {reader.progress()}", phase="receive"
                    )
        except _TIMED_OUT:
            raise DeadlineExceeded(
                f"timed out while receiving: {_limit(network, deadline)}, after {reader.progress()}",
                phase="receive",
            ) from None
        except OSError as error:
            if isinstance(error, TransportError):
                raise
            raise ConnectionLost(
                f"the connection broke after {reader.progress()}: {error}", phase="receive"
            ) from error
        response = reader.response
        assert response is not None
        return response


def _limit(network: float | None, deadline: float | None) -> str:
    if deadline is not None and deadline <= time.monotonic():
        return "the call's deadline passed"
    return f"no progress for {network:g} s" if network is not None else "no progress"


class _Waiter:
    """A thread in the line for a place."""

    __slots__ = ("grant", "woken")

    def __init__(self) -> None:
        self.grant: _Connection | Signal | None = None
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
    """

    def __init__(
        self, address: Address, limit: int, timeouts: Timeouts, context: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._limit = limit
        self._timeouts = timeouts
        self._context = context
        self.reset()

    def reset(self) -> None:
        """Start anew with no connection: at first, and in a forked child, whose inherited sockets are closed."""
        for connection in getattr(self, "_connections", ()):
            connection.close()
        closed_before = hasattr(self, "_pool") and self._pool.closed
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._pool: Pool[_Connection, _Waiter] = Pool(self._limit)
        self._pool.closed = closed_before

    def exchange(
        self,
        method: str,
        target: str,
        buffers: Sequence[Buffer],
        *,
        repeatable: bool = False,
        deadline: float | None = None,
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

        Raises
        ------
        TransportError
            When no whole response came.
        ProtocolError
            When what came is no HTTP.
        """
        if len(buffers) > 1:
            buffers = coalesce(buffers)
        fresh = False
        try:
            while True:
                with self._lock:
                    idle = self._pool.idle
                    place = idle.pop() if idle else self._pool.take()
                if place is WAIT:
                    place = self._wait(deadline)
                if type(place) is _Connection and not fresh and not place.is_stale(0):
                    connection, reused = place, True
                else:
                    connection, reused = self._renew(place, deadline), False
                try:
                    response = connection.exchange(buffers, self._timeouts.network, deadline)
                except BaseException as error:
                    answered, handed_over = not connection.reader.blank, connection.handed_over
                    self._check_in(connection, reusable=False)
                    if (
                        not isinstance(error, ConnectionLost)
                        or not reused
                        or not may_resend(repeatable=repeatable, answered=answered, handed_over=handed_over)
                    ):
                        raise
                    fresh = True
                    continue
                if connection.reader.reusable:
                    with self._lock:
                        if self._pool.keep(connection):
                            return response
                self._check_in(connection, reusable=connection.reader.reusable)
                return response
        except (TransportError, ProtocolError) as error:
            raise located(error, self._address, method, target) from error.__cause__

    def close(self) -> None:
        """Close the idle connections now, and the others when their requests end; turn away who waits."""
        with self._lock:
            idle, waiters = self._pool.close()
            self._connections.difference_update(idle)
        for connection in idle:
            connection.close()
        for waiter in waiters:
            waiter.woken.set()

    # -- the pool's decisions, carried out --

    def _renew(self, place: _Connection | Signal, deadline: float | None) -> _Connection:
        """Return a new connection for a place that has none, or one of no more use."""
        if place is CLOSED:
            raise closed()
        if isinstance(place, _Connection):
            self._forget(place)
        try:
            return self._open(deadline)
        except BaseException:
            self._check_in(None, reusable=False)
            raise

    def _wait(self, deadline: float | None) -> _Connection | Signal:
        """Return a place, after waiting in line for one if that is still needed."""
        waiter = _Waiter()
        with self._lock:
            place = self._pool.take()
            if place is not WAIT:
                return place
            self._pool.wait(waiter)
        try:
            woken = waiter.woken.wait(step_timeout(None, deadline, time.monotonic()))
        except BaseException:
            if not self._stop_waiting(waiter) and waiter.grant is not None:
                granted = waiter.grant
                self._check_in(granted if isinstance(granted, _Connection) else None, reusable=True)
            raise
        if not woken and self._stop_waiting(waiter):
            raise DeadlineExceeded(
                f"timed out while waiting for one of {self._limit} connections", phase="wait for a connection"
            )
        waiter.woken.wait()
        return CLOSED if waiter.grant is None else waiter.grant

    def _stop_waiting(self, waiter: _Waiter) -> bool:
        """Leave the line; False where the waiter got its place after all, or the client was closed."""
        with self._lock:
            return self._pool.leave(waiter)

    def _check_in(self, connection: _Connection | None, *, reusable: bool) -> None:
        """Give a place back, with its connection where it has one."""
        spent = None
        with self._lock:
            if connection is not None and (not reusable or self._pool.closed):
                spent, connection = connection, None
                self._connections.discard(spent)
            waiter = self._pool.give_back(connection)
            if waiter is not None:
                waiter.grant = OPEN if connection is None else connection
        if spent is not None:
            spent.close()
        if waiter is not None:
            waiter.woken.set()

    def _forget(self, connection: _Connection) -> None:
        connection.close()
        with self._lock:
            self._connections.discard(connection)

    def _open(self, deadline: float | None) -> _Connection:
        limit = self._timeouts.connection
        deadline = earliest(deadline, None if limit is None else time.monotonic() + limit)
        sock = self._connect(resolve(self._address.host, self._address.port, deadline), deadline)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._context is not None:
                sock = self._encrypt(sock, self._context, deadline)
            connection = _Connection(sock, encrypted=self._context is not None)
        except BaseException:
            sock.close()
            raise
        with self._lock:
            self._connections.add(connection)
        return connection

    def _connect(self, addresses: Sequence[SocketAddress], deadline: float | None) -> socket.socket:
        failures: list[tuple[SocketAddress, OSError]] = []
        for position, (family, address) in enumerate(addresses):
            left = step_timeout(None, deadline, time.monotonic())
            # An address that swallows packets leaves time for those behind it.
            timeout = None if left is None else max(left / (len(addresses) - position), 0.001)
            sock = socket.socket(family, socket.SOCK_STREAM)
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
        raise connect_failure(self._address, failures) from failures[0][1]

    def _encrypt(self, sock: socket.socket, context: ssl.SSLContext, deadline: float | None) -> socket.socket:
        left = step_timeout(None, deadline, time.monotonic())
        sock.settimeout(None if left is None else max(left, 0.001))
        try:
            return context.wrap_socket(sock, server_hostname=self._address.host)
        except (OSError, ValueError) as error:
            raise tls_failure(self._address, error) from error
