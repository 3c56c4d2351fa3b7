"""One connection on an asyncio event loop: a BufferedProtocol, one exchange at a time.

It receives into the memory that the result will use. Large tensors are written in slices under flow control, so
that asyncio never copies more than one slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import socket
from collections.abc import Iterator, Sequence
from typing import cast

from .._wire.http1 import ResponseReader
from .._wire.requests import Buffer
from .._wire.responses import Response
from ..errors import ConnectionLost, DeadlineExceeded, ProtocolError
from .failures import over
from .route import CONTINUE_WAIT
from .trace import Trace

__all__ = ["Connection"]

#: The size of a slice: asyncio copies what the socket does not take at once.
_SLICE = 1 << 18


def _slices(buffer: Buffer) -> Iterator[memoryview]:
    view = memoryview(buffer)
    return (view[start : start + _SLICE] for start in range(0, len(view), _SLICE))


class Connection(asyncio.BufferedProtocol):
    """A connection, and the reader of its responses."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, encrypted: bool, max_body: int | None
    ) -> None:
        self.loop = loop
        self.sock = sock
        self._encrypted = encrypted
        self._transport: asyncio.Transport | None = None
        self.reader = ResponseReader(max_body)
        #: When it will be too old, and when it will be too old or idle for too long.
        self.dies = self.expires = math.inf
        #: Since it was made: requests begun, and bytes.
        self.requests = self.sent = self.received = 0
        #: Whether the connection was closed, or received something unasked.
        self.stale = False
        self._poller = None
        if hasattr(select, "poll"):
            self._poller = select.poll()
            self._poller.register(sock, select.POLLIN)
        #: Done when the event loop has closed the connection.
        self.gone: asyncio.Future[None] = loop.create_future()
        self._written = self._skipped = False
        self._answer: asyncio.Future[Response] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._idle = bytearray(1)
        self._deadline: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._trace: Trace | None = None
        #: The error that came while nobody waited for more of an open body.
        self._broken: Exception | None = None

    @property
    def handed_over(self) -> bool:
        """Whether the kernel has taken the whole request."""
        return self._written and not self._paused

    @property
    def _streaming(self) -> bool:
        """Whether an open body is being received, even if nobody waits for it."""
        return self.reader.open and not self.reader.ended

    # -- called by the event loop --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Asyncio's own buffer must be empty before a slice is written. Plain sockets pause above the limit, TLS at
        # the limit: with 0 a TLS connection would stay paused with an empty buffer.
        self._transport.set_write_buffer_limits(high=1 if self._encrypted else 0)

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        if self._answer is not None or self._streaming:
            return self.reader.get_buffer()
        return self._idle

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None and not self._streaming:
            self.stale = True
            self.abort()
            return
        if self._trace is not None and "first_byte" not in self._trace.phases:
            self._trace.mark("first_byte")
        self.received += nbytes
        try:
            whole = self.reader.received(nbytes)
        except ProtocolError as error:
            self._fail(error)
            return
        if whole:
            self._succeed()
        elif self.reader.continued:
            self._wake_writer()

    def eof_received(self) -> bool:
        self.stale = True
        if self._answer is not None or self._streaming:
            try:
                if not self._cut() and self.reader.received_eof():
                    self._succeed()
                else:
                    self._fail(self._lost(None))
            except ProtocolError as error:
                self._fail(error)
        return False

    def _cut(self) -> bool:
        """Whether a TLS connection ended without close_notify, as anyone on the way can end it."""
        if not self._encrypted or self._transport is None:
            return False
        import ssl

        try:
            return bool(self._transport.get_extra_info("ssl_object").read(1))
        except ssl.SSLZeroReturnError:
            return False
        except OSError:  # it wants to read more
            return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.stale = True
        if self._answer is not None and exc is not None and not self._encrypted:
            self._salvage()
        elif exc is None and self._encrypted:
            self.eof_received()  # before Python 3.11 nothing else reports close_notify
        self._fail(self._lost(exc))
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake_writer()

    # -- called by the transport --

    def is_stale(self) -> bool:
        """Whether it was closed, or received something unasked; the loop may not have seen that yet."""
        return self.stale or (self._poller is not None and bool(self._poller.poll(0)))

    def abort(self) -> None:
        """Close at once, without sending what is buffered."""
        self.stale = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._transport is None:  # it could not be opened
            self.sock.close()
        else:
            self._transport.abort()  # the event loop watches the socket, and closes it

    async def exchange(
        self,
        buffers: Sequence[Buffer],
        deadline: float | None,
        expects: bool = False,
        trace: Trace | None = None,
        streamed: bool = False,
    ) -> Response:
        """Send the request and receive its response.

        With `expects`, only the first buffer is sent before the server's 100 Continue.

        Raises
        ------
        TransportError, ProtocolError
            The connection cannot be used afterwards.
        """
        transport = self._transport
        assert transport is not None
        if not self.reader.blank:
            self.reader.start()
        if streamed:
            self.reader.stream()
        self._written = self._skipped = False
        self.requests += 1
        self._trace = trace
        answer: asyncio.Future[Response] = self.loop.create_future()
        self._answer = answer
        try:
            self._watch(deadline)
            for buffer in buffers:
                for piece in (buffer,) if len(buffer) <= _SLICE else _slices(buffer):
                    if self._paused and not answer.done():
                        await self._drained()
                    elif self._encrypted:
                        # Asyncio's TLS does not say that it is closing, and after a failed write an early answer
                        # could not be read: let the loop receive first.
                        await asyncio.sleep(0)
                    if self._skipped or answer.done() or transport.is_closing():
                        self._skipped = True
                    else:
                        transport.write(piece)
                        self.sent += len(piece)
                if expects:
                    expects = False
                    self._skipped = await self._refused(answer)
            self._written = not self._skipped
            if trace is not None and self._written:
                trace.mark("send")
            response = await answer
            if trace is not None:
                trace.mark("receive")
            return response
        except BaseException:
            if answer.done() and not answer.cancelled():
                answer.exception()  # or asyncio would log that it was never retrieved
            raise
        finally:
            self._answer = None

    async def more(self, deadline: float | None) -> bytes:
        """Return the next piece of an open body, or b"" at its end.

        Raises
        ------
        TransportError, ProtocolError
            The connection cannot be used afterwards.
        """
        assert self._transport is not None
        while not (piece := self.reader.take()) and not self.reader.ended:
            if self._broken is not None:
                raise self._broken
            answer = self._answer = self.loop.create_future()
            try:
                self._watch(deadline)
                self._transport.resume_reading()
                await answer
            finally:
                self._answer = None
        return piece

    async def _refused(self, answer: asyncio.Future[Response]) -> bool:
        """Wait for 100 Continue; return whether the server answers instead, and needs no more of the request."""
        until = self.loop.time() + CONTINUE_WAIT
        timer = self.loop.call_at(until, self._wake_writer)
        try:
            while not (answer.done() or self.reader.continued or self.loop.time() >= until):
                await self._drained()
        finally:
            timer.cancel()
        return answer.done() or self.reader.answering

    async def _drained(self) -> None:
        """Wait until the kernel has taken what was written, or the exchange has ended."""
        self._writable = self.loop.create_future()
        try:
            await self._writable
        finally:
            self._writable = None

    def _watch(self, deadline: float | None) -> None:
        """End the exchange at its deadline; one timer serves all exchanges of the connection."""
        self._deadline = deadline
        if deadline is not None:
            if self._alarm is not None:
                if self._alarm.when() <= deadline:
                    return
                self._alarm.cancel()
            self._alarm = self.loop.call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._answer is None or self._deadline is None:
            return
        if self.loop.time() < self._deadline:
            self._alarm = self.loop.call_at(self._deadline, self._ring)
            return
        phase, doing = ("receive", "receiving") if self.handed_over else ("send", "sending")
        self._fail(
            DeadlineExceeded(
                f"timed out while {doing}: {over(self._deadline)}, after {self.reader.progress()}",
                phase=phase,
            )
        )

    def _salvage(self) -> None:
        """Read the answer of a server that closed the connection before it had read the whole request."""
        with contextlib.suppress(OSError, ProtocolError):
            while self._answer is not None:
                count = self.sock.recv_into(self.reader.get_buffer())
                if not count:
                    self.eof_received()
                    return
                self.buffer_updated(count)

    def _succeed(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done() and self.reader.response is not None:
            answer.set_result(self.reader.response)
        if self.reader.open and not self.reader.ended and not self.stale and self._transport is not None:
            self._transport.pause_reading()  # until `more` is called
        self._wake_writer()

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        elif self._broken is None:
            self._broken = error
        self._wake_writer()
        self.abort()

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _lost(self, error: Exception | None) -> ConnectionLost:
        reason = f"the connection broke: {error}" if error is not None else "the server closed the connection"
        phase = "receive" if self.handed_over else "send"
        return ConnectionLost(f"{reason}, after {self.reader.progress()}", phase=phase)
