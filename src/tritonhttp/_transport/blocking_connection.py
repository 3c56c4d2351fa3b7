"""One blocking connection: a socket, the reader of its responses, one exchange at a time.

The network timeout and the call's deadline bound each step, whichever ends first. Signals that are
handled meanwhile extend neither.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from .._repetition.repeater import REPEATS, Track
from .._wire.http1 import ResponseReader
from .._wire.requests import Buffer
from .._wire.responses import Response
from ..errors import ConnectionLost, DeadlineExceeded, InferenceServerException, TransportError
from .blocking_connect import interrupt
from .failures import over
from .policy import FOREVER, earliest, step_timeout
from .route import CONTINUE_WAIT
from .trace import Trace

__all__ = ["Connection"]

#: Linux takes at most 1,024 buffers in one sendmsg.
_MAX_VECTOR = 1024
#: TLS encrypts a whole buffer at once; slices keep that memory small.
_TLS_SLICE = 1 << 18
#: About the most bytes that the kernel has room for; a server that reads again must not hide a deadline.
_MOST_ROOM = 1 << 22
#: Seconds to wait for an answer after a send failed: the server may have answered before it stopped reading.
_EARLY_ANSWER = 1.0
#: Seconds after which a send without progress looks for an early answer, where poll cannot watch for both.
_LOOK = 0.1
#: Send without waiting: a send that waits must also watch for an early answer.
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)
#: Raised by calls that must not wait, and by a socket's timeout.
_TIMED_OUT = (BlockingIOError, TimeoutError)
_TIMEVAL = struct.Struct("ll")


class Connection(Track):
    """A socket, and the reader of its responses."""

    def __init__(
        self, sock: socket.socket, encrypted: bool, network: float | None, max_body: int | None = None
    ) -> None:
        super().__init__()
        self.sock = sock
        self.reader = ResponseReader(max_body)
        #: The socket class when it was made: gevent and eventlet may replace it later.
        self.kind = socket.socket
        #: Whether the kernel has taken the whole request.
        self.handed_over = False
        self._vectored = not encrypted and hasattr(sock, "sendmsg")
        # With a timeout Python's socket polls before every send and receive. Plain sockets, neither gevent's nor
        # under TLS, are polled here instead, only when a call must wait. With the extension SO_RCVTIMEO saves the
        # poll before a receive as well.
        self._polls = (
            self._vectored
            and type(sock).__module__ == "socket"
            and hasattr(select, "poll")
            and bool(_AT_ONCE)
        )
        self._kernel_waits = self._polls and REPEATS
        if self._polls:
            sock.settimeout(None)
        if self._kernel_waits:
            self.armed = math.inf if network is None else network
            if network is not None:
                seconds, fraction = divmod(network, 1.0)
                limit = _TIMEVAL.pack(int(seconds), min(int(fraction * 1e6) + 1, 999_999))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self.attach(sock.fileno(), self.reader.view)
        #: Called with 0, tells whether an idle connection was closed, or received something unasked.
        self.is_stale: Callable[[int], Any]
        if hasattr(select, "poll"):
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            self.is_stale = poller.poll
        else:
            self.is_stale = lambda seconds: select.select([sock], [], [], seconds)[0]
        #: What a send raises that must not wait, where there is no room.
        self._full: tuple[type[Exception], ...] = (BlockingIOError,)
        if encrypted:
            from ssl import SSLWantReadError, SSLWantWriteError

            self._full = SSLWantReadError, SSLWantWriteError
            # The socket does not show what TLS has decrypted already.
            look, pending = self.is_stale, sock.pending  # type: ignore[attr-defined]
            self.is_stale = lambda seconds: pending() or look(seconds)

    def __del__(self) -> None:
        # An exception between two instructions may have taken it from its call.
        sock = getattr(self, "sock", None)
        if sock is not None:
            sock.close()

    def close(self) -> None:
        self.detach()
        self.sock.close()

    def interrupt(self) -> None:
        """Wake the thread that uses it: its exchange then ends or fails. Only that thread may close it."""
        interrupt(self.sock)

    def exchange(
        self,
        buffers: Sequence[Buffer],
        network: float | None,
        deadline: float | None,
        expects: bool = False,
        trace: Trace | None = None,
        streamed: bool = False,
        handed: Callable[[], object] | None = None,
    ) -> Response:
        """Send the request and receive its response; resume an exchange that the extension left to Python.

        With `expects`, only the first buffer is sent before the server's 100 Continue. `handed` is called when
        the kernel has taken the whole request.

        Raises
        ------
        TransportError, ProtocolError
            The connection cannot be used afterwards.
        """
        reader = self.reader
        if not reader.blank:
            reader.start()
        if streamed:
            reader.stream()
        self.handed_over = False
        self.requests += 1
        sent, self.ahead = self.ahead, 0
        try:
            early = None
            if expects:
                early = self._send(buffers[:1], 0, network, deadline) or self._early(
                    CONTINUE_WAIT, network, deadline
                )
                buffers = buffers[1:]
            if early is None:
                if not sent and len(buffers) == 1 and self._vectored:
                    if not self._polls:
                        self._arm(network, deadline)
                    elif deadline is not None and deadline <= monotonic():
                        raise TimeoutError
                    try:
                        self.sent += (sent := self.sock.send(buffers[0], _AT_ONCE))
                    except BlockingIOError:
                        sent = 0
                if sent < len(buffers[0]):
                    early = self._send(buffers, sent, network, deadline)
            if early is not None:
                reader.reusable = False  # the server may still wait for the rest of the request
                return early
        except _TIMED_OUT:
            raise DeadlineExceeded(
                f"timed out while sending: {_limit(network, deadline)}", phase="send"
            ) from None
        except OSError as error:
            if isinstance(error, TransportError):
                raise
            # A server that refuses a large request may answer early and stop reading.
            try:
                reader.reusable = False
                return self._receive(_EARLY_ANSWER, earliest(deadline, monotonic() + _EARLY_ANSWER))
            except InferenceServerException:
                raise ConnectionLost(f"the connection broke while sending: {error}", phase="send") from error
        self.handed_over = True
        if handed is not None:
            handed()
        if trace is not None:
            trace.mark("send")
        return self._receive(network, deadline, trace)

    def _arm(self, limit: float | None, deadline: float | None) -> None:
        """Set the timeout of the next step, for a socket that is not polled here."""
        timeout = step_timeout(limit, deadline, monotonic())
        if timeout == 0:
            raise TimeoutError
        if timeout != self.armed:
            self.sock.settimeout(timeout)
            self.armed = math.inf if timeout is None else timeout

    def _poll(self, events: int, until: float) -> int:
        """Wait for the socket and return its events; 0 if the time is over."""
        poller = select.poll()
        poller.register(self.sock, events)
        left = until - monotonic()
        found = poller.poll(None if left > FOREVER else max(0, math.ceil(left * 1e3)))
        return found[0][1] if found else 0

    def _read(self, buffer: memoryview, network: float | None, deadline: float | None) -> int:
        """Receive once; raise TimeoutError if nothing comes in time."""
        if not self._polls:
            self._arm(network, deadline)
            return self.sock.recv_into(buffer)
        until = _end(monotonic(), network, deadline)
        if self._kernel_waits:
            return self.receive(buffer, until)
        while self._poll(select.POLLIN, until):
            with contextlib.suppress(BlockingIOError):  # poll may report data that the kernel then discards
                return self.sock.recv_into(buffer, 0, _AT_ONCE)
        raise TimeoutError

    def _send(
        self, buffers: Sequence[Buffer], sent: int, network: float | None, deadline: float | None
    ) -> Response | None:
        """Send the buffers from the byte `sent` on; return the answer if it comes before they are sent."""
        pending = [memoryview(buffers[0])[sent:], *buffers[1:]]
        first = 0
        progress = monotonic()
        while first < len(pending):
            # Under TLS look first: after a failed write OpenSSL cannot read what came before it.
            looks = not self._vectored and self.is_stale(0)
            if looks and (early := self._early(0.001, network, deadline)):
                return early
            try:
                sent = self._write(pending, first, network, deadline)
            except _TIMED_OUT:
                until = _end(progress, network, deadline)
                if until <= monotonic():
                    raise
                may = self._poll(select.POLLIN | select.POLLOUT, until) if self._polls else None
                # Readable: an early answer, or the connection's end.
                looks = may is None or may & ~select.POLLOUT
                if looks and (early := self._early(0.001, network, deadline)):
                    return early
                continue
            self.sent += sent
            progress = monotonic()
            while first < len(pending) and sent >= len(pending[first]):
                sent -= len(pending[first])
                first += 1
            if sent:
                pending[first] = memoryview(pending[first])[sent:]
        return None

    def _write(
        self, pending: Sequence[Buffer], first: int, network: float | None, deadline: float | None
    ) -> int:
        """Send once and return how many bytes; TimeoutError or BlockingIOError if none could be sent."""
        if self._polls:
            if deadline is not None and deadline <= monotonic():
                raise TimeoutError
            return self.sock.sendmsg(pending[first : first + _MAX_VECTOR], (), _AT_ONCE)
        look = _LOOK if network is None else min(_LOOK, network)
        self._arm(look, deadline)
        if self._vectored:
            return self.sock.sendmsg(pending[first : first + _MAX_VECTOR])
        view = memoryview(pending[first])
        try:
            return self.sock.send(view[:_TLS_SLICE])
        except TimeoutError:
            # Python has waited until a third of the kernel's buffer is free. Fill the rest now: a signal ends that
            # wait, and would let one more piece go out each time.
            if sent := self._fill(view[:_MOST_ROOM]):
                return sent
            raise

    def _fill(self, view: memoryview) -> int:
        """Send what the kernel has room for; return how many bytes that is."""
        self.sock.settimeout(0)
        self.armed = 0
        sent = 0
        with contextlib.suppress(*self._full):
            while piece := self.sock.send(
                view[sent : sent + _TLS_SLICE]
            ):  # gevent returns 0 in place of raising
                sent += piece
        return sent

    def _early(self, seconds: float, network: float | None, deadline: float | None) -> Response | None:
        """Return the whole answer if it begins within so many seconds.

        None if it does not, or if the server asks for the rest of the request, which is then sent.
        """
        reader = self.reader
        until = earliest(deadline, monotonic() + seconds)
        try:
            while not reader.answering:
                count = self._read(reader.get_buffer(), None, until)
                self.received += count
                if reader.received(count) if count else reader.received_eof():
                    return reader.response
                if not count:
                    raise self._closed_early("send")
                if reader.continued and not reader.answering:
                    return None
        except _TIMED_OUT:
            return None
        return self._receive(network, deadline)

    def _receive(self, network: float | None, deadline: float | None, trace: Trace | None = None) -> Response:
        reader = self.reader
        count, self.came, problem, self.problem = self.came, -1, self.problem, 0
        try:
            if problem:
                raise OSError(problem, os.strerror(problem))
            while True:
                if count < 0:
                    buffer = reader.view if reader.blank else reader.get_buffer()
                    count = self._read(buffer, network, deadline)
                if trace is not None and "first_byte" not in trace.phases:
                    trace.mark("first_byte")
                self.received += count
                if reader.received(count) if count else reader.received_eof():
                    break
                if not count:
                    raise self._closed_early("receive")
                count = -1
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
        if trace is not None:
            trace.mark("receive")
        response = reader.response
        assert response is not None
        return response

    def _closed_early(self, phase: str) -> ConnectionLost:
        return ConnectionLost(f"the server closed the connection after {self.reader.progress()}", phase=phase)


def _end(now: float, network: float | None, deadline: float | None) -> float:
    """Return when a step that begins now must end."""
    until = math.inf if network is None else now + network
    return until if deadline is None or until < deadline else deadline


def _limit(network: float | None, deadline: float | None) -> str:
    if deadline is not None and deadline <= monotonic():
        return over(deadline)
    return f"no progress for {network:g} s" if network is not None else "no progress"
