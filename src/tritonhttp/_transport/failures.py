"""The errors of both transports, so that their messages are the same."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import TypeVar

from .. import errors
from .._basics.redaction import without_secrets
from .address import Address, SocketAddress
from .policy import IdleMoment, Moment, StepMoment

__all__ = [
    "WAITING",
    "NotTried",
    "cancelled",
    "closed",
    "connect_failure",
    "located",
    "over",
    "resolve_timeout",
    "timed_out",
    "tls_failure",
    "turn_timeout",
    "unpack_timeout",
    "wait_timeout",
]

#: The phase in which a call has no connection yet, so that the server is not the cause of a delay.
WAITING = "wait for a connection"


def _lasted(seconds: float, deadline: float | None = None) -> str:
    """Say how long something took, and which limit of the call ended it, if one did."""
    text = f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{text}: {over(deadline)}" if isinstance(deadline, Moment) else text


def over(deadline: float) -> str:
    """Say which limit has passed."""
    if isinstance(deadline, IdleMoment):
        return f"the stream's idle_timeout of {deadline.limit:g} s is over"
    if isinstance(deadline, StepMoment):
        return f"no progress for {deadline.limit:g} s"
    if isinstance(deadline, Moment):
        return f"the call's {deadline.limit:g} s are over"
    return "the call's deadline passed"


def closed() -> errors.InferenceServerException:
    """The client was closed before the call, or while the call waited."""
    return errors.InferenceServerException("the client is closed")


def cancelled() -> errors.RequestCancelled:
    """The call's handle was cancelled."""
    return errors.RequestCancelled("the inference was cancelled")


E = TypeVar("E", bound=errors.DeadlineExceeded)


def timed_out(kind: type[E], doing: str, phase: str, seconds: float, deadline: float | None) -> E:
    """A phase did not end in time."""
    return kind(f"timed out {doing}, after {_lasted(seconds, deadline)}", phase=phase)


def wait_timeout(limit: int, seconds: float, deadline: float) -> errors.DeadlineExceeded:
    """No connection became free in time."""
    doing = f"while waiting for one of {limit} connections"
    return timed_out(errors.DeadlineExceeded, doing, WAITING, seconds, deadline)


def turn_timeout(behind: str, seconds: float, deadline: float | None) -> errors.DeadlineExceeded:
    """What a turn waits for did not end in time."""
    doing = f"while waiting for {behind}"
    return timed_out(errors.DeadlineExceeded, doing, WAITING, seconds, deadline)


def resolve_timeout(address: Address, seconds: float, deadline: float | None) -> errors.DeadlineExceeded:
    """The system did not resolve a name in time."""
    doing = f"while resolving the name {address.host!r}"
    return timed_out(errors.DeadlineExceeded, doing, "resolve", seconds, deadline)


def unpack_timeout(asked: tuple[str, ...], deadline: float) -> errors.DeadlineExceeded:
    """The body of an answer was not decompressed in time."""
    method, origin, target, *_ = asked
    reason = f"timed out while decompressing the answer: {over(deadline)}"
    return errors.DeadlineExceeded(reason, method=method, url=f"{origin}{target}", phase="receive")


class NotTried(TimeoutError):
    """The time was over before an address was tried."""


def connect_failure(
    peer: str,
    failures: Sequence[tuple[SocketAddress | None, Exception]],
    seconds: float,
    deadline: float | None,
) -> errors.ConnectError:
    """No address of a peer could be connected to; without an address, a connected socket could not be set up."""
    causes = [failure for _, failure in failures]
    text = f"cannot connect to {peer}: {'; '.join(itertools.starmap(_reason, failures))}"
    if all(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return errors.ConnectRefused(text)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return errors.ConnectTimeout(f"{text}, after {_lasted(seconds, deadline)}", phase="connect")
    return errors.ConnectError(text, phase="connect")


def _reason(place: SocketAddress | None, failure: Exception) -> str:
    if isinstance(failure, NotTried):
        text = "not tried in that time"
    elif isinstance(failure, TimeoutError):
        text = "timed out"
    else:
        # The system's words, in place of asyncio's.
        number = failure.errno if isinstance(failure, OSError) else None
        text = f"[Errno {number}] {os.strerror(number)}" if number else str(failure)
    if place is None:
        return text
    tried = place[1]
    return f"{tried[0] if isinstance(tried, tuple) else tried}: {text}"


def tls_failure(
    address: Address, error: Exception, seconds: float, deadline: float | None
) -> errors.ConnectError:
    """The TLS handshake failed."""
    if isinstance(error, TimeoutError):
        doing = f"in the TLS handshake with {address.host}"
        return timed_out(errors.ConnectTimeout, doing, "tls", seconds, deadline)
    import ssl

    kind = errors.CertificateError if isinstance(error, ssl.SSLCertVerificationError) else errors.TLSError
    # A server without TLS closes the connection, or answers in plain text.
    plain = not isinstance(error, ssl.SSLError) or "EOF" in str(error) or "WRONG_VERSION" in str(error)
    advice = f" (does port {address.port} speak TLS, or is it http://?)" if plain else ""
    return kind(
        f"the TLS handshake with {address.host} failed: {error or 'the connection was closed'}{advice}",
        phase="tls",
    )


def located(
    error: errors.InferenceServerException, address: Address, method: str = "", target: str = ""
) -> errors.InferenceServerException:
    """Return the error with the request in its message."""
    url = without_secrets(f"{address.origin}{target}")
    if isinstance(error, errors.TransportError):
        if not address.has_port and f"connect to {address.peer}:" in str(error):
            error._msg = f"{error.message()} (no port given; Triton's is usually 8000)"
        error.locate(method, url)
        return error
    return errors.ProtocolError(f"{method} {url}: {error.message()}", debug_details=error.debug_details())
