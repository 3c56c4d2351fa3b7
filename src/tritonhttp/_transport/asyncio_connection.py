"""One connection on an asyncio event loop: a BufferedProtocol, and one exchange after the other.

It receives into the memory which the result will use. Large tensors are written in slices under flow control, so
that no more than one slice of them is ever copied.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import socket
from collections.abc import Iterator, Sequence
from typing import cast

from .._wire.http1 import Response, ResponseReader
from .._wire.requests import Buffer
from ..errors import ConnectionLost, DeadlineExceeded, ProtocolError
from .failures import over
from .route import CONTINUE_WAIT
from .trace import Trace

__all__ = ["Connection"]

#: What asyncio may have to copy when the socket takes no more.
_SLICE = 1 << 18


def _slices(buffer: Buffer) -> Iterator[memoryview]:
    view = memoryview(buffer)
    return (view[start : start + _SLICE] for start in range(0, len(view), _SLICE))


class Connection(asyncio.BufferedProtocol):
    """One connection, and the reader of its responses; one exchange at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        encrypted: bool,
        max_body: int | None = None,
    ) -> None:
        self.loop = loop
        self.sock = sock
        self._encrypted = encrypted
        self._transport: asyncio.Transport | None = None
        self.reader = ResponseReader(max_body)
        #: Until when it may be used again: by its age, and, while it is idle, by that as well.
        self.dies = self.expires = math.inf
        #: Since it was made: requests begun, and bytes.
        self.requests = self.sent = self.received = 0
        #: Whether the connection was closed, or something came that nobody asked for.
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
        #: What became of a connection while nobody waited for more of an open body.
        self._broken: Exception | None = None

    @property
    def handed_over(self) -> bool:
        """Whether the kernel has taken the whole request."""
        return self._written and not self._paused

    @property
    def _streaming(self) -> bool:
        """Whether what comes is part of an open body, also while nobody waits for it."""
        return self.reader.open and not self.reader.ended

    # -- what the event loop calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Nothing may lie in asyncio's own buffer while a slice is written. Its TLS pauses at the limit, plain
        # sockets above it: with 0 a TLS connection would stay paused with an empty buffer.
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
        """Whether a TLS connection ended without close_notify: anybody on the way can end it like that."""
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
        if self._alarm is not None:
            self._alarm.cancel()
        if self._answer is not None and exc is not None and not self._encrypted:
            self._salvage()
        elif exc is None and self._encrypted:
            self.eof_received()  # before Python 3.11 close_notify is told in no other way
        self._fail(self._lost(exc))
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake_writer()

    # -- what the pool calls --

    def is_stale(self) -> bool:
        """Look whether it was closed, or something came; a call behind another is ahead of the event loop."""
        return self.stale or (self._poller is not None and bool(self._poller.poll(0)))

    def abort(self) -> None:
        """Close at once; what was not sent yet is dropped."""
        self.stale = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._transport is not None:
            self._transport.abort()

    def discard(self) -> None:
        """Close a connection that did not come about."""
        if self._transport is None:
            self.sock.close()
        else:
            self.abort()  # the event loop watches the socket, and closes it

    async def exchange(
        self,
        buffers: Sequence[Buffer],
        deadline: float | None,
        expects: bool = False,
        trace: Trace | None = None,
        streamed: bool = False,
    ) -> Response:
        """Send the request and receive its response.

        With `expects`, the first buffer waits for the server's word before the others follow.

        Raises
        ------
        TransportError, ProtocolError
            The connection is of no use afterwards.
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
        self._watch(deadline)
        try:
            for buffer in buffers:
                for piece in (buffer,) if len(buffer) <= _SLICE else _slices(buffer):
                    if self._paused and not answer.done():
                        await self._drained()
                    elif self._encrypted:
                        # asyncio's TLS does not tell that it is closing, and a write that fails would keep the
                        # answer from being read that came before: let the loop look first.
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
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                answer.exception()  # nobody else will look at it, and asyncio would complain
            raise
        finally:
            self._answer = None

    async def more(self, deadline: float | None) -> bytes:
        """Return the next piece of an open body, or b"" where it has ended.

        Raises
        ------
        TransportError, ProtocolError
            The connection is of no use afterwards.
        """
        assert self._transport is not None
        while not (piece := self.reader.take()) and not self.reader.ended:
            if self._broken is not None:
                raise self._broken
            answer = self._answer = self.loop.create_future()
            self._watch(deadline)
            self._transport.resume_reading()
            try:
                await answer
            finally:
                self._answer = None
        return piece

    async def _refused(self, answer: asyncio.Future[Response]) -> bool:
        """Wait for the server's word; return whether it answers already, and wants no more of the request."""
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
        """See to it that the exchange ends in time; one timer serves all exchanges of the connection."""
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
        """Read what a server sent before it hung up on a request that it would not read to the end."""
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
            self._transport.pause_reading()  # until somebody wants more
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
