"""Exchanges over blocking sockets, by any number of threads.

A request is a sequence of buffers, and large ones are sent without a copy. The response is received into memory
that the result will use. Functions of the socket module are looked up when they are called, so that gevent's
replacements are used if a program has installed them.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import weakref
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from .._repetition.answer import Answer, Repeated
from .._repetition.repeater import REPEATS, Repeater
from .._wire.requests import Buffer, coalesce, host_of, without_expectation
from .._wire.responses import Response, StreamedResponse
from ..errors import ConnectionLost, ProtocolError, TransportError
from .address import Address, SocketAddress
from .base import StreamBase, TransportBase
from .blocking_connect import Making, connect, encrypt, open_tunnel
from .blocking_connection import Connection
from .blocking_pool import BlockingPool, this_thread
from .failures import cancelled, located, wait_timeout
from .policy import Connections, Timeouts, earliest, may_resend
from .pool import Place
from .resolver import resolve
from .trace import Counts, Trace, marker

if TYPE_CHECKING:
    import ssl

__all__ = ["BlockingTransport", "Stream"]


class BlockingTransport(TransportBase):
    """A pool of connections to one server, for use by any number of threads at a time.

    Parameters
    ----------
    timeouts : Timeouts
        Limits for connecting, and for each step without progress.
    address, limit, context, options
        As for :class:`TransportBase`.
    """

    def __init__(
        self,
        address: Address,
        limit: int,
        timeouts: Timeouts,
        context: ssl.SSLContext | None,
        options: Connections | None = None,
    ) -> None:
        self._timeouts = timeouts
        #: The socket class at first. Once gevent has replaced it, the repeater would block all greenlets.
        self._kind = socket.socket
        super().__init__(address, limit, context, options)
        #: Whether the repeater can carry out exchanges.
        self.repeats = REPEATS and self._route.plain and context is None

    def reset(self) -> None:
        """Start without connections: at first, and in a forked child, which closes its inherited sockets."""
        for connection in getattr(self, "_connections", ()):
            connection.close()
        closed_before = hasattr(self, "pool") and self.pool.closed
        #: The open connections. One that an exception took from a call closes itself when it is collected.
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.pool: BlockingPool[Connection] = BlockingPool(self._limit)
        self.pool.closed = closed_before
        self._counts = Counts()
        limit = self._timeouts.network or math.inf
        self.repeater: Repeater[Connection] = Repeater(self.pool, limit, self._max_idle)

    @property
    def is_closed(self) -> bool:
        closed: bool = self.pool.closed
        return closed

    def exchange(
        self,
        method: str,
        target: str,
        buffers: Sequence[Buffer],
        place: Place[Connection] | None = None,
        repeatable: bool = False,
        deadline: float | None = None,
        trace: Trace | None = None,
        streamed: bool = False,
        idle_timeout: float | None = None,
        answer: Answer | None = None,
        id_json: bytes = b"",
    ) -> Response:
        """Send a request and return its response, whatever its status.

        Parameters
        ----------
        method, target : str
            The request, for messages.
        buffers : sequence of buffers
            The whole request, its head first.
        place : Place, optional
            The call's, in the line or new. It keeps the connection of a streamed success, and counts how often the
            request was sent again.
        repeatable : bool
            Whether it may be sent again if a reused connection turns out closed.
        deadline : float or None
            When the call must end, on the monotonic clock.
        trace : Trace, optional
            Records how long each phase takes.
        streamed : bool
            Whether to return a success once its head has come: a StreamedResponse whose `stream` is a
            :class:`Stream`.
        idle_timeout : float or None
            Seconds for each step without progress of a streamed request, in place of the network timeout.
        answer : Answer, optional
            An answer that is expected to come again.
        id_json : bytes
            The request's id, as the answer will have it.

        Raises
        ------
        TransportError
            If no whole response came.
        ProtocolError
            If what came is not HTTP.
        RequestCancelled
            If the call was cancelled.
        """
        if place is None:
            place = Place()
        reserved = place.transport is self
        place.transport = self
        # Twice: if an interrupt ends the first `give_back`, the second completes it.
        try:
            try:
                request = buffers[0]
                if (
                    self.repeats
                    and socket.socket is self._kind
                    and len(buffers) == 1
                    and type(request) is bytes
                    and not streamed
                ):
                    began = 0.0 if trace is None else monotonic()
                    start, head, size = b"", 0, 0
                    if answer is not None:
                        start, head, size = answer.start, answer.head_size, answer.size
                        if answer.at >= 0:
                            start = answer.start_with(id_json)
                    body = self.repeater.repeat(place, request, start, head, size, deadline)
                    if body is None and place.connection is None:
                        self._hold(place, deadline, reserved=reserved, trace=trace)
                        if place.connection is not None:
                            body = self.repeater.repeat(place, request, start, head, size, deadline)
                    if body is None:
                        if trace is not None:
                            trace.resume(began, place)
                    elif answer is not None:
                        if place.connection is not None:
                            self._put_by(place)
                        response = Repeated(answer, body, (method, self._origin, target))
                        if trace is not None:
                            trace.repeated(began, place, len(request), answer.size)
                        return response
                return self._exchange(
                    method,
                    target,
                    buffers,
                    place,
                    repeatable=repeatable,
                    deadline=deadline,
                    trace=trace,
                    streamed=streamed,
                    network=idle_timeout if streamed else self._timeouts.network,
                    reserved=reserved,
                )
            except BaseException:
                self.give_back(place)
                raise
        except (TransportError, ProtocolError) as error:
            self.give_back(place)
            if place.cancelled:  # what broke is the connection that was closed for that
                raise cancelled() from None
            raise located(error, self._address, method, target) from error.__cause__
        except BaseException:
            self.give_back(place)
            self._close_lost()
            raise

    def _exchange(
        self,
        method: str,
        target: str,
        buffers: Sequence[Buffer],
        place: Place[Connection],
        *,
        repeatable: bool,
        deadline: float | None,
        trace: Trace | None,
        streamed: bool,
        network: float | None,
        reserved: bool,
    ) -> Response:
        """Carry out an exchange; if it raises, :meth:`exchange` gives the place back."""
        if len(buffers) > 1:
            buffers = coalesce(buffers)
        expects = False
        if self._prepare is not None:
            buffers, expects = self._prepare(buffers)
        if place not in self.pool.holders:
            self._hold(place, deadline, reserved=reserved, trace=trace)
        fresh = False
        while True:
            reused = self._take(place, fresh, deadline, trace)
            connection = place.connection
            assert connection is not None
            try:
                response = connection.exchange(
                    buffers, network, deadline, expects, trace, streamed, place.sent
                )
                again = without_expectation(buffers) if response.status_code == 417 else None
                if again is None:
                    break
                buffers, expects = again, False
                fresh = not (connection.reader.reusable and connection.handed_over)
            except ConnectionLost as error:
                fresh = not place.cancelled and may_resend(
                    error,
                    reused=reused,
                    answered=not connection.reader.blank,
                    handed_over=connection.handed_over,
                    repeatable=repeatable,
                )
                if not fresh:
                    raise
                with self.pool.lock:
                    self._counts.resent += 1
            finally:
                if trace is not None:
                    trace.end(connection)
            place.resent += connection.handed_over
            if trace is not None:
                trace.start()
        asked: tuple[str, ...] = (method, self._origin, target)
        if response.head.status >= 400:
            asked = (*asked, host_of(buffers[0]))
        response.asked = asked
        if connection.reader.open:
            head = StreamedResponse(response.head, b"", response.limit)
            head.asked = asked
            head.stream = Stream(self, place, method, target)
            return head
        connection.reader.response = None  # an idle connection should not keep a large body
        self._put_by(place, reusable=connection.reader.reusable)
        return response

    def has_room(self, place: Place[Connection]) -> bool:
        """Return whether a place has a connection, or can have one at once."""
        with self.pool.lock:
            return self.pool.has_room(place)

    def reserve(self, place: Place[Connection]) -> None:
        """Let a place join the line for a call that another thread will make; it is served once that waits.

        Takes no lock: its caller may hold one that a signal handler wants in the middle of the pool. Joining is a
        single step for a place that is not ready.
        """
        again, place.transport = place.transport is self, self
        if not again or place not in self.pool.line:
            self.pool.join(place)

    def give_back(self, place: Place[Connection], *, reusable: bool = False, now: float = -math.inf) -> None:
        """Give up a place, or leave the line; close its connection unless that is reusable.

        Also close an idle connection that has expired by `now`.
        """
        pool = self.pool
        nested = pool.is_interrupted
        try:
            with pool.lock:
                spent = pool.give_back(place, reusable=reusable, serve=not nested)
                expired = pool.drop_expired(now) if pool.idle else None
            if spent is not None:
                self._forget(spent)
            if expired is not None:
                self._forget(expired)
        except BaseException:
            self._close_lost()
            raise
        place.transport = None
        if place.sent is not None:
            place.sent()

    def _put_by(self, place: Place[Connection], *, reusable: bool = True) -> None:
        """Give back a place after its exchange."""
        if place.cancelled:
            raise cancelled()
        connection = place.connection
        assert connection is not None
        now = monotonic()
        connection.expires = min(now + self._max_idle, connection.dies)
        self.give_back(place, reusable=reusable, now=now)

    def interrupt(self, place: Place[Connection]) -> None:
        """Wake the thread that uses the connection of a place, which was cancelled."""
        # Under the lock nobody gives the connection back, which could then be another call's, or closes it.
        with self.pool.lock:
            connection = place.connection
            if connection is not None:
                connection.interrupt()

    def addresses(self, deadline: float | None) -> list[SocketAddress]:
        """Look up the addresses of the server's name."""
        try:
            return resolve(self._address, deadline)
        except TransportError as error:
            raise located(error, self._address) from error.__cause__

    @property
    def counts(self) -> Counts:
        """Counts since the transport was made; in a forked child, since the fork."""
        pool = self.pool
        with pool.lock:
            counts = self._counts.with_open(self._connections)
            counts.calls = pool.begun + self.repeater.ended
        return counts

    def close(self) -> None:
        """Close the idle connections now, and the others when their requests end; refuse waiting calls."""
        with self.pool.lock:
            idle = self.pool.close()
        for connection in idle:
            self._forget(connection)

    # -- carrying out the pool's decisions --

    def _hold(
        self,
        place: Place[Connection],
        deadline: float | None,
        *,
        reserved: bool = False,
        trace: Trace | None = None,
    ) -> None:
        """Wait until a place is served."""
        began = monotonic()
        if trace is not None:
            trace.start()
        if not self.pool.hold(place, deadline, reserved=reserved):
            assert deadline is not None
            raise wait_timeout(self._limit, monotonic() - began, deadline)
        if trace is not None:
            trace.mark("wait")

    def _take(
        self, place: Place[Connection], fresh: bool, deadline: float | None, trace: Trace | None
    ) -> bool:
        """See that a place has a usable connection; return False if a new one was opened for it."""
        connection = place.connection
        reused = connection is not None and (
            bool(connection.ahead)
            or (
                not fresh
                and monotonic() < connection.expires
                and connection.kind is socket.socket
                and not connection.is_stale(0)
            )
        )
        if not reused:
            if connection is not None:
                with self.pool.lock:
                    place.connection = None
                self._forget(connection)
            place.wake = making = Making(place)
            try:
                connection = self._open(deadline, trace, making)
            finally:
                place.wake = None
            with self.pool.lock:
                place.connection = connection
                self._connections.add(connection)
                self._counts.opened += 1
            making.check()
        if trace is not None and connection is not None:
            trace.take(connection, reused=reused)
        return reused

    def _open(self, deadline: float | None, trace: Trace | None, making: Making) -> Connection:
        address, route, context, timeouts = self._address, self._route, self._context, self._timeouts
        mark = marker(trace)
        began = monotonic()
        if timeouts.connection is not None:
            deadline = earliest(deadline, began + timeouts.connection)
        found = resolve(route.address, deadline, making.watch)
        mark("resolve")
        sock = connect(found, deadline, route.peer, making.watch)
        mark("connect")
        try:
            if not route.address.socket_path:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if route.tunnel is not None:
                open_tunnel(sock, route.tunnel, address, deadline)
                mark("proxy")
            if context is not None:
                sock = encrypt(sock, context, address, deadline, making.watch)
                mark("tls")
            limit = self._options.max_response_bytes
            connection = Connection(sock, context is not None, timeouts.network, limit)
        except BaseException:
            sock.close()
            raise
        connection.dies = began + self._max_age
        connection.reader.reusable = self._options.keep_alive
        return connection

    def _close_lost(self) -> None:
        with self.pool.lock:
            lost = self.pool.lost(self._connections)
        for connection in lost:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        connection.close()
        with self.pool.lock:
            if connection in self._connections:
                self._connections.discard(connection)
                self._counts.end(connection)


class Stream(StreamBase[BlockingTransport, Connection]):
    """The body of a response, as it comes. It keeps its connection until its end, or until it is closed."""

    def more(self, idle: float | None, deadline: float | None) -> bytes:
        """Return the next piece of the body, or b"" at its end.

        Parameters
        ----------
        idle : float or None
            How long to wait for it, in seconds.
        deadline : float or None
            When the call must end, on the monotonic clock.

        Raises
        ------
        TransportError, ProtocolError
            The connection was closed.
        """
        place = self._place
        connection = place.connection
        if connection is None:
            return b""
        reader = connection.reader
        try:
            while not (piece := reader.take()):
                if reader.ended:
                    self.close()
                    break
                place.owner = this_thread()[0]
                connection._receive(idle, deadline)
        except BaseException as error:
            self.close()
            if isinstance(error, (TransportError, ProtocolError)):
                raise located(error, self._transport._address, *self._request) from error.__cause__
            raise
        return piece

    def close(self) -> None:
        """Give the connection back if the body has ended, or close it. Idempotent."""
        place, transport = self._place, self._transport
        connection = place.connection
        if connection is None:
            return
        # A forked child has reset the transport, which no longer knows the place.
        if place in transport.pool.holders:
            transport._put_by(place, reusable=connection.reader.ended and connection.reader.reusable)

    def interrupt(self) -> None:
        """Wake a thread that waits in :meth:`more`: its call then ends or fails. Only it may close the stream."""
        connection = self._place.connection
        if connection is not None and connection in self._transport._connections:
            connection.interrupt()

    def __del__(self) -> None:
        # The garbage collector may run on any thread, in the middle of anything, so this must not wait for a lock.
        if self._place.connection is not None:
            lock = self._transport.pool.lock
            if lock.acquire(blocking=False):
                try:
                    self.close()
                finally:
                    lock.release()
            else:
                with contextlib.suppress(RuntimeError):  # the interpreter shuts down
                    threading.Thread(target=self.close, name="tritonhttp-close").start()
