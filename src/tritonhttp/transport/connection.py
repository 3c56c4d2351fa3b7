"""One blocking connection: a socket, the reader of its responses, and one exchange after the other.

Each step is bounded by the network timeout and by the call's deadline, whichever comes first. What the kernel can
watch by itself it watches.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionLost, DeadlineExceeded, InferenceServerException, TransportError
from ..wire.http1 import Response, ResponseReader
from .failures import over
from .policy import earliest, step_timeout
from .repeater import Track
from .route import CONTINUE_WAIT

if TYPE_CHECKING:
    from ..wire.requests import Buffer
    from .trace import Trace

__all__ = ["Connection"]

#: Linux takes at most 1,024 buffers in one sendmsg.
_MAX_VECTOR = 1024
#: TLS encrypts what it is given at once; slices keep that memory small.
_TLS_SLICE = 1 << 18
#: How long an answer may take that a server sent before it stopped reading.
_EARLY_ANSWER = 1.0
#: How often a send that makes no progress is interrupted for a look whether the answer is there already.
_LOOK = 0.1
#: Take what fits, without waiting: what waits may also have to read.
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)
#: How a time limit of the kernel (SO_RCVTIMEO) ends a call, and how one of Python's socket does.
_TIMED_OUT = (BlockingIOError, TimeoutError)
_TIMEVAL = struct.Struct("ll")


class Connection(Track):
    """One socket, and the reader of its responses."""

    __slots__ = (
        "_kernel_waits",
        "_vectored",
        "handed_over",
        "is_stale",
        "reader",
        "sock",
    )

    def __init__(self, sock: socket.socket, encrypted: bool, max_body: int | None = None) -> None:
        super().__init__()
        self.sock = sock
        self.reader = ResponseReader(max_body)
        #: Whether the kernel has taken the whole request.
        self.handed_over = False
        self._vectored = not encrypted and hasattr(sock, "sendmsg")
        # A socket with a timeout polls before every send and receive. Where it is the kernel's own, not gevent's
        # and not under TLS, the kernel can watch the time itself. But its time starts anew behind each signal that
        # the program handles, and would never be over with a timer of less.
        self._kernel_waits = (
            not encrypted
            and sys.platform == "linux"
            and type(sock).__module__ == "socket"
            and signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
        )
        if self._kernel_waits:
            sock.settimeout(None)
            self.attach(sock.fileno(), self.reader.view)
        #: Says of an idle connection, when called with 0, whether it was closed, or something came on it unasked.
        self.is_stale: Callable[[int], Any]
        if hasattr(select, "poll"):
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            self.is_stale = poller.poll
        else:
            self.is_stale = lambda seconds: select.select([sock], [], [], seconds)[0]
        if encrypted:
            # What TLS has deciphered already is seen on the socket no more.
            look, pending = self.is_stale, sock.pending  # type: ignore[attr-defined]
            self.is_stale = lambda seconds: pending() or look(seconds)

    def close(self) -> None:
        self.sock.close()

    def exchange(
        self,
        buffers: Sequence[Buffer],
        network: float | None,
        deadline: float | None,
        expects: bool = False,
        trace: Trace | None = None,
        streamed: bool = False,
    ) -> Response:
        """Send the request and receive its response.

        With `expects`, the first buffer waits for the server's word before the others follow. A repetition that
        took another course is gone on with.

        Raises
        ------
        TransportError, ProtocolError
            The connection is of no use afterwards.
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
                early = self._send(buffers[:1], 0, network, deadline)
                if early is None:
                    early = self._early(CONTINUE_WAIT, network, deadline)
                buffers = buffers[1:]
            if early is None:
                if not sent and len(buffers) == 1 and self._vectored:
                    if deadline is not None or network != self.armed:
                        self._arm(network, deadline)
                    try:
                        self.sent += (sent := self.sock.send(buffers[0], _AT_ONCE))
                    except BlockingIOError:
                        sent = 0
                if sent < len(buffers[0]):
                    early = self._send(buffers, sent, network, deadline)
            if early is not None:
                reader.reusable = False  # the server may wait for the rest of the request
                return early
        except _TIMED_OUT:
            raise DeadlineExceeded(
                f"timed out while sending: {_limit(network, deadline)}", phase="send"
            ) from None
        except OSError as error:
            if isinstance(error, TransportError):
                raise
            # A server that refuses a large request may answer at once and stop reading.
            try:
                reader.reusable = False
                return self._receive(_EARLY_ANSWER, earliest(deadline, monotonic() + _EARLY_ANSWER))
            except InferenceServerException:
                raise ConnectionLost(f"the connection broke while sending: {error}", phase="send") from error
        self.handed_over = True
        if trace is not None:
            trace.mark("send")
        return self._receive(network, deadline, trace)

    def _arm(self, network: float | None, deadline: float | None) -> None:
        if deadline is None:
            timeout = network
        else:
            timeout = step_timeout(network, deadline, monotonic())
            if timeout == 0:
                raise TimeoutError
        if timeout != self.armed:
            if self._kernel_waits:
                seconds, fraction = divmod(timeout or 0.0, 1.0)
                microseconds = 0 if timeout is None else min(int(fraction * 1e6) + 1, 999_999)
                limit = _TIMEVAL.pack(int(seconds), microseconds)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            else:
                self.sock.settimeout(timeout)
            self.armed = math.inf if timeout is None else timeout

    def _send(
        self, buffers: Sequence[Buffer], sent: int, network: float | None, deadline: float | None
    ) -> Response | None:
        """Send what is left of the buffers behind the first `sent` bytes; return the answer if it comes before."""
        pending = [memoryview(buffers[0])[sent:], *buffers[1:]]
        first = 0
        look = _LOOK if network is None else min(_LOOK, network)
        progress = monotonic()
        while first < len(pending):
            try:
                self._arm(look, deadline)
                if not self._vectored:
                    # What came before a write fails can't be read behind it: OpenSSL has given up then.
                    if self.is_stale(0) and (early := self._early(0.001, network, deadline)) is not None:
                        return early
                    self._arm(look, deadline)
                    sent = self.sock.send(memoryview(pending[first])[:_TLS_SLICE])
                elif len(pending) - first == 1:
                    sent = self.sock.send(pending[first])
                else:
                    sent = self.sock.sendmsg(pending[first : first + _MAX_VECTOR])
            except _TIMED_OUT:
                now = monotonic()
                if deadline is None or now < deadline:
                    early = self._early(0.001, network, deadline)
                    if early is not None:
                        return early
                    if network is None or now - progress < network:
                        continue
                raise
            self.sent += sent
            progress = monotonic()
            while first < len(pending) and sent >= len(pending[first]):
                sent -= len(pending[first])
                first += 1
            if sent:
                pending[first] = memoryview(pending[first])[sent:]
        return None

    def _early(self, seconds: float, network: float | None, deadline: float | None) -> Response | None:
        """Return the answer, received to its end, if it begins within so many seconds.

        None, and the request goes on, where the time is over, or the server asks for the rest.
        """
        reader = self.reader
        until = earliest(deadline, monotonic() + seconds)
        try:
            while not reader.answering:
                self._arm(None, until)
                count = self.sock.recv_into(reader.get_buffer())
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
        receive = self.sock.recv_into
        came, self.came, problem, self.problem = self.came, -1, self.problem, 0
        try:
            if problem:
                raise OSError(problem, os.strerror(problem))
            while True:
                if came < 0:
                    if deadline is not None or network != self.armed:
                        self._arm(network, deadline)
                    count = receive(reader.view if reader.blank else reader.get_buffer())
                else:
                    count, came = came, -1
                if trace is not None and "first_byte" not in trace.phases:
                    trace.mark("first_byte")
                self.received += count
                if count:
                    if reader.received(count):
                        break
                elif reader.received_eof():
                    break
                else:
                    raise self._closed_early("receive")
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


def _limit(network: float | None, deadline: float | None) -> str:
    if deadline is not None and deadline <= monotonic():
        return over(deadline)
    return f"no progress for {network:g} s" if network is not None else "no progress"
