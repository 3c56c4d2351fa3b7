"""What went wrong at the edge, as errors of our tree: the same words whoever does the I/O."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .. import errors
from ..errors import (
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    InferenceServerException,
    ProtocolError,
    TransportError,
)
from .address import Address, SocketAddress

__all__ = ["closed", "connect_failure", "located", "tls_failure"]


def closed() -> InferenceServerException:
    """The client was closed before the call, or while it waited."""
    return InferenceServerException("the client is closed")


def connect_failure(address: Address, failures: Sequence[tuple[SocketAddress, OSError]]) -> ConnectError:
    """No address of the server could be connected to."""
    causes = [failure for _, failure in failures]
    reasons = "; ".join(f"{tried[0]}: {_reason(failure)}" for (_, tried), failure in failures)
    text = f"cannot connect to {address.host} port {address.port}: {reasons}"
    if all(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ConnectRefused(text)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return ConnectTimeout(text, phase="connect")
    return ConnectError(text, phase="connect")


def _reason(failure: OSError) -> str:
    if isinstance(failure, TimeoutError):
        return "timed out"
    # asyncio puts words of its own in place of the system's.
    return f"[Errno {failure.errno}] {os.strerror(failure.errno)}" if failure.errno else str(failure)


def tls_failure(address: Address, error: Exception) -> ConnectError:
    """The TLS handshake failed."""
    if isinstance(error, TimeoutError):
        return ConnectTimeout(f"timed out in the TLS handshake with {address.host}", phase="tls")
    import ssl

    kind = errors.CertificateError if isinstance(error, ssl.SSLCertVerificationError) else errors.TLSError
    return kind(f"the TLS handshake with {address.host} failed: {error}", phase="tls")


def located(
    error: TransportError | ProtocolError, address: Address, method: str, target: str
) -> TransportError | ProtocolError:
    """Return the error with the request named in it."""
    url = f"{address.origin}{target}"
    if isinstance(error, TransportError):
        error.locate(method, url)
        return error
    return ProtocolError(f"{method} {url}: {error.message()}", debug_details=error.debug_details())
