"""The errors of both transports, so that their messages are the same."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .. import errors
from ..errors import (
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    DeadlineExceeded,
    InferenceServerException,
    ProtocolError,
    TransportError,
)
from .address import Address, SocketAddress
from .policy import IdleMoment, Moment

__all__ = [
    "WAITING",
    "NotTried",
    "closed",
    "connect_failure",
    "lasted",
    "located",
    "over",
    "resolve_timeout",
    "set_up_failure",
    "tls_failure",
    "turn_timeout",
    "wait_timeout",
]

#: The phase in which a call has no connection yet, so that the server is not the cause of a delay.
WAITING = "wait for a connection"


def lasted(seconds: float, deadline: float | None = None) -> str:
    """Say how long something took, and which limit of the call ended it, if one did."""
    text = f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{text}: {over(deadline)}" if isinstance(deadline, Moment) else text


def over(deadline: float) -> str:
    """Say that a call's deadline has passed."""
    if isinstance(deadline, IdleMoment):
        return f"the stream's idle_timeout of {deadline.limit:g} s is over"
    if isinstance(deadline, Moment):
        return f"the call's {deadline.limit:g} s are over"
    return "the call's deadline passed"


def closed() -> InferenceServerException:
    """The client was closed before the call, or while the call waited."""
    return InferenceServerException("the client is closed")


def wait_timeout(limit: int, seconds: float, deadline: float) -> DeadlineExceeded:
    """No connection became free in time."""
    return DeadlineExceeded(
        f"timed out while waiting for one of {limit} connections, after {lasted(seconds)}: {over(deadline)}",
        phase=WAITING,
    )


def turn_timeout(seconds: float, deadline: float | None) -> DeadlineExceeded:
    """The earlier requests of a sequence did not end in time."""
    return DeadlineExceeded(
        f"timed out while waiting for the sequence's earlier requests, after {lasted(seconds, deadline)}",
        phase=WAITING,
    )


def resolve_timeout(address: Address, seconds: float, deadline: float | None) -> DeadlineExceeded:
    """The system did not resolve a name in time."""
    return DeadlineExceeded(
        f"timed out while resolving the name {address.host!r}, after {lasted(seconds, deadline)}",
        phase="resolve",
    )


class NotTried(TimeoutError):
    """The time was over before an address was tried."""


def connect_failure(
    peer: str,
    failures: Sequence[tuple[SocketAddress, OSError]],
    seconds: float,
    deadline: float | None,
) -> ConnectError:
    """No connection to any of a peer's addresses succeeded."""
    causes = [failure for _, failure in failures]
    reasons = "; ".join(
        f"{tried[0] if isinstance(tried, tuple) else tried}: {_reason(failure)}"
        for (_, tried), failure in failures
    )
    text = f"cannot connect to {peer}: {reasons}"
    if all(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ConnectRefused(text)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return ConnectTimeout(f"{text}, after {lasted(seconds, deadline)}", phase="connect")
    return ConnectError(text, phase="connect")


def set_up_failure(peer: str, error: Exception, seconds: float, deadline: float | None) -> ConnectError:
    """A plain socket connected, but could not be set up."""
    text = f"cannot connect to {peer}: {_reason(error)}"
    if isinstance(error, TimeoutError):
        return ConnectTimeout(f"{text}, after {lasted(seconds, deadline)}", phase="connect")
    return ConnectError(text, phase="connect")


def _reason(failure: Exception) -> str:
    if isinstance(failure, NotTried):
        return "not tried in that time"
    if isinstance(failure, TimeoutError):
        return "timed out"
    # The system's words, in place of asyncio's.
    number = failure.errno if isinstance(failure, OSError) else None
    return f"[Errno {number}] {os.strerror(number)}" if number else str(failure)


def tls_failure(address: Address, error: Exception, seconds: float, deadline: float | None) -> ConnectError:
    """The TLS handshake failed."""
    if isinstance(error, TimeoutError):
        return ConnectTimeout(
            f"timed out in the TLS handshake with {address.host}, after {lasted(seconds, deadline)}",
            phase="tls",
        )
    import ssl

    kind = errors.CertificateError if isinstance(error, ssl.SSLCertVerificationError) else errors.TLSError
    # A server without TLS closes the connection, or answers in plain text.
    plain = not isinstance(error, ssl.SSLError) or "EOF" in str(error) or "WRONG_VERSION" in str(error)
    advice = f" (does port {address.port} speak TLS, or is it http://?)" if plain else ""
    return kind(f"the TLS handshake with {address.host} failed: {error}{advice}", phase="tls")


def located(
    error: TransportError | ProtocolError, address: Address, method: str, target: str
) -> TransportError | ProtocolError:
    """Return the error with the request in its message."""
    url = f"{address.origin}{target}"
    if isinstance(error, TransportError):
        error.locate(method, url)
        return error
    return ProtocolError(f"{method} {url}: {error.message()}", debug_details=error.debug_details())
