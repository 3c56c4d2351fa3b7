"""Exchanges on an asyncio event loop (uvloop's too), by any number of tasks.

The transport belongs to the loop that uses it. On another loop it starts again without connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence

from .._wire.requests import Buffer, coalesce, host_of, without_expectation
from .._wire.responses import Response, StreamedResponse
from ..errors import ConnectionLost, InvalidRequest, ProtocolError, TransportError
from .address import SocketAddress
from .asyncio_connect import connect, open_tunnel, resolve, timeout_at
from .asyncio_connection import Connection
from .asyncio_pool import AsyncioPool
from .base import StreamBase, TransportBase
from .failures import connect_failure, located, tls_failure, wait_timeout
from .policy import StepMoment, earliest, may_resend, moment
from .pool import Place
from .trace import Counts, Trace, marker

__all__ = ["AsyncioTransport", "Stream"]

#: In a forked child: the connections of its parent.
_inherited: list[Connection] = []


class AsyncioTransport(TransportBase):
    """A pool of connections to one server, for use by any number of tasks of one event loop."""

    pool: AsyncioPool[Connection]
    _connections: set[Connection]
    _loop: asyncio.AbstractEventLoop | None = None

    def reset(self) -> None:
        """Start without connections: at first, on another loop, and in a forked child."""
        pool = AsyncioPool[Connection](self._limit)
        pool.closed = hasattr(self, "pool") and self.pool.closed
        self.pool = pool
        self._connections = set()

    async def exchange(
        self,
        method: str,
        target: str,
        buffers: Sequence[Buffer],
        place: Place[Connection] | None = None,
        repeatable: bool = False,
        deadline: float | None = None,
        trace: Trace | None = None,
        streamed: bool = False,
    ) -> Response:
        """Send a request and return its response, whatever its status.

        Parameters
        ----------
        method, target : str
            The request, for messages.
        buffers : sequence of buffers
            The whole request, its head first.
        place : Place, optional
            The call's. It keeps the connection of a streamed success, and counts how often the request was sent
            again.
        repeatable : bool
            Whether it may be sent again if a reused connection turns out closed.
        deadline : float or None
            When the call must end, on the event loop's clock.
        trace : Trace, optional
            Records how long each phase takes.
        streamed : bool
            Whether to return a success once its head has come: a StreamedResponse whose `stream` is a
            :class:`Stream`.

        Raises
        ------
        TransportError
            If no whole response came.
        ProtocolError
            If what came is not HTTP.
        """
        if place is None:
            place = Place()
        # Twice: if an interrupt ends the first `give_back`, the second completes it.
        try:
            try:
                return await self._exchange(
                    method,
                    target,
                    buffers,
                    place,
                    repeatable=repeatable,
                    deadline=deadline,
                    trace=trace,
                    streamed=streamed,
                )
            except BaseException:
                self.give_back(place)
                raise
        except (TransportError, ProtocolError) as error:
            self.give_back(place)
            raise located(error, self._address, method, target) from error.__cause__
        except BaseException:
            self.give_back(place)
            self._close_lost()
            raise

    async def _exchange(
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
    ) -> Response:
        """Carry out an exchange; if it raises, :meth:`exchange` gives the place back."""
        if len(buffers) > 1:
            buffers = coalesce(buffers)
        expects = False
        if self._prepare is not None:
            buffers, expects = self._prepare(buffers)
        loop = self._enter_loop()
        place.transport = self
        if trace is not None:
            trace.start()
        began = loop.time()
        if self.pool.take(place):
            place.served = True
        else:
            self.pool.join(place)
            if not await self.pool.hold(place, deadline, reserved=True):
                assert deadline is not None
                raise wait_timeout(self._limit, loop.time() - began, deadline)
        if trace is not None:
            trace.mark("wait")
        fresh = False
        while True:
            connection = place.connection
            reused = (
                connection is not None
                and not fresh
                and loop.time() < connection.expires
                and not connection.is_stale()
            )
            if connection is None or not reused:
                connection = await self._renew(place, loop, deadline, trace)
            if trace is not None:
                trace.take(connection, reused=reused)
            try:
                response = await connection.exchange(buffers, deadline, expects, trace, streamed)
                again = without_expectation(buffers) if response.status_code == 417 else None
                if again is None:
                    break
                buffers, expects = again, False
                fresh = not (connection.reader.reusable and connection.handed_over)
            except ConnectionLost as error:
                fresh = may_resend(
                    error,
                    reused=reused,
                    answered=not connection.reader.blank,
                    handed_over=connection.handed_over,
                    repeatable=repeatable,
                )
                if not fresh:
                    raise
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
        self._put_by(place, connection.reader.reusable and connection.handed_over)
        return response

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.pool.closed

    async def addresses(self, deadline: float | None) -> list[SocketAddress]:
        """Look up the addresses of the server's name."""
        try:
            return await resolve(asyncio.get_running_loop(), self._address, deadline)
        except TransportError as error:
            raise located(error, self._address) from error.__cause__

    @property
    def counts(self) -> Counts:
        """Counts since the transport was made; in a forked child, since the fork."""
        counts = self._counts.with_open(self._connections)
        counts.calls += self.pool.begun
        return counts

    async def close(self) -> None:
        """Close the idle connections now, and the others when their requests end; refuse waiting calls."""
        if self._loop is not asyncio.get_running_loop():
            self._leave_loop()  # raises if the other loop is running
        idle = self.pool.close()
        for connection in idle:
            self._forget(connection)
        await asyncio.gather(*(connection.gone for connection in idle))

    def forget_loop(self) -> None:
        """In a forked child: close the inherited sockets, and leave the parent's event loop untouched."""
        self._loop = None
        for connection in self._connections:
            number = connection.sock.detach()  # with uvloop, `close` leaves the descriptor open
            if number >= 0:
                os.close(number)
        # They must never be collected: uvloop would remove them from the epoll that the parent shares.
        _inherited.extend(self._connections)
        self.reset()
        self._counts = Counts()

    def abandon(self) -> None:
        """Close the connections without waiting, from any thread: for a client that was not closed."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections with it
                for connection in list(self._connections):
                    self._loop.call_soon_threadsafe(connection.abort)

    # -- the loop --

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._leave_loop()
            self._loop = loop
        return loop

    def _leave_loop(self) -> None:
        if self._loop is not None and self._loop.is_running():
            raise InvalidRequest(
                "this client is in use on another event loop, which is still running: make a client for each loop"
            )
        for connection in self._connections:
            if self._loop is None or self._loop.is_closed():
                connection.sock.close()
            else:
                connection.abort()
        self._counts.calls += self.pool.begun
        self.reset()

    # -- carrying out the pool's decisions --

    async def _renew(
        self,
        place: Place[Connection],
        loop: asyncio.AbstractEventLoop,
        deadline: float | None,
        trace: Trace | None,
    ) -> Connection:
        """Open a new connection for a place, in place of the one it has."""
        if place.connection is not None:
            self._forget(place.connection)
            place.connection = None
        address, route, context = self._address, self._route, self._context
        mark = marker(trace)
        began = loop.time()
        found = await resolve(loop, route.address, deadline)
        mark("resolve")
        connecting = loop.time()
        sock = await connect(loop, found, deadline, route.peer)
        mark("connect")
        connection = Connection(loop, sock, context is not None, self._options.max_response_bytes)
        connection.dies = began + self._max_age
        connection.reader.reusable = self._options.keep_alive
        try:
            if route.tunnel is not None:
                await open_tunnel(loop, sock, route.tunnel, address, deadline)
                mark("proxy")
            handshake = loop.time()
            try:
                async with timeout_at(deadline):
                    if address.socket_path:
                        await loop.create_unix_connection(lambda: connection, sock=sock)
                    else:
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                        name = None if context is None else address.tls_name
                        await loop.create_connection(
                            lambda: connection, sock=sock, ssl=context, server_hostname=name
                        )
            except (OSError, ValueError) as error:
                if context is None:
                    took = loop.time() - connecting
                    raise connect_failure(route.peer, [(None, error)], took, deadline) from error
                raise tls_failure(address, error, loop.time() - handshake, deadline) from error
            if context is not None:
                mark("tls")
            self._connections.add(connection)
            self._counts.opened += 1
        except BaseException:
            connection.abort()
            self._connections.discard(connection)
            raise
        place.connection = connection
        return connection

    def give_back(self, place: Place[Connection], *, reusable: bool = False) -> None:
        """Give up a place, or leave the line; close its connection unless that is reusable."""
        connection = place.connection
        fit = reusable and connection is not None and not connection.stale
        try:
            spent = self.pool.give_back(place, reusable=fit)
            if spent is not None:
                self._forget(spent)
        except BaseException:
            self._close_lost()
            raise
        place.transport = None

    def _end(self, place: Place[Connection]) -> None:
        """Give back the place of a stream, unless that is from another loop, or from before a fork."""
        connection = place.connection
        if connection is not None and connection in self._connections:
            self._put_by(place, connection.reader.ended and connection.reader.reusable)

    def _put_by(self, place: Place[Connection], reusable: bool) -> None:
        """Give back a place after its exchange."""
        connection = place.connection
        assert connection is not None
        now = connection.loop.time()
        connection.expires = min(now + self._max_idle, connection.dies)
        self.give_back(place, reusable=reusable)
        expired = self.pool.drop_expired(now) if self.pool.idle else None
        if expired is not None:
            self._forget(expired)

    def _close_lost(self) -> None:
        for connection in self.pool.lost(self._connections):
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:  # otherwise it belongs to a loop that the transport has left
            connection.abort()
            self._connections.discard(connection)
            self._counts.end(connection)


class Stream(StreamBase[AsyncioTransport, Connection]):
    """The body of a response, as it comes. It keeps its connection until its end, or until it is closed."""

    async def more(self, idle: float | None, deadline: float | None) -> bytes:
        """Return the next piece of the body, or b"" at its end.

        Parameters
        ----------
        idle : float or None
            How long to wait for it, in seconds.
        deadline : float or None
            When the call must end, on the event loop's clock.

        Raises
        ------
        TransportError, ProtocolError
            The connection was closed.
        """
        connection = self._place.connection
        if connection is None:
            return b""
        loop = asyncio.get_running_loop()
        if connection.loop is not loop or connection not in self._transport._connections:
            raise InvalidRequest(
                "this stream was begun on another event loop, or before a fork: it can only be read there"
            )
        limit = moment(loop.time(), idle, StepMoment)
        try:
            piece = await connection.more(earliest(limit, deadline))
        except BaseException as error:
            self.close()
            if isinstance(error, (TransportError, ProtocolError)):
                raise located(error, self._transport._address, *self._request) from error.__cause__
            raise
        if not piece:
            self.close()
        return piece

    def close(self) -> None:
        """Give the connection back if the body has ended, or close it. Idempotent."""
        self._transport._end(self._place)

    def __del__(self) -> None:
        connection = self._place.connection
        # A forked child must not touch the loop, which belongs to its parent.
        if connection is not None and connection in self._transport._connections:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections with it
                connection.loop.call_soon_threadsafe(self._transport._end, self._place)
