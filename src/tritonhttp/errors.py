"""Every error of the library, one tree under the reference's single class.

::

    InferenceServerException            message(), status(), debug_details(), as in the reference
    ├── ServerError                     the server answered, with an error; has method and URL of the request
    ├── TransportError                  nothing usable came back; names method, URL and phase
    │   ├── ConnectError                also ConnectionError
    │   │   ├── ConnectRefused          also ConnectionRefusedError
    │   │   ├── ConnectTimeout          also DeadlineExceeded
    │   │   ├── NameResolutionError     also socket.gaierror
    │   │   └── TLSError                also ssl.SSLError
    │   │       └── CertificateError    also ssl.SSLCertVerificationError
    │   ├── ConnectionLost              also ConnectionError: it broke while in use
    │   └── DeadlineExceeded            also TimeoutError (on 3.10 also asyncio.TimeoutError)
    ├── ProtocolError                   the answer is not valid HTTP, or not a valid v2 answer
    └── InvalidRequest                  also ValueError: refused before anything was sent

A program that catches the built-in error, as programs for the reference do, still catches ours.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from errno import ECONNREFUSED
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = [
    "CertificateError",
    "ConnectError",
    "ConnectRefused",
    "ConnectTimeout",
    "ConnectionLost",
    "DeadlineExceeded",
    "InferenceServerException",
    "InvalidRequest",
    "NameResolutionError",
    "ProtocolError",
    "ServerError",
    "TLSError",
    "TransportError",
    "raise_error",
]


class InferenceServerException(Exception):
    """Indicate that a call did not end in success.

    Parameters
    ----------
    msg : str
        What happened.
    status : str, optional
        The status that the server answered with, for example ``"404"``; None where there was no answer.
    debug_details : optional
        More for debugging: the raw body of an error answer.
    """

    #: How often the call was tried.
    attempts = 1

    def __init__(self, msg: str | None, status: str | None = None, debug_details: Any = None) -> None:
        super().__init__(msg)
        self._msg = msg
        self._status = status
        self._debug_details = debug_details

    def __str__(self) -> str:
        text = str(self._msg)
        return text if self._status is None else f"[{self._status}] {text}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the instance's dict, since subclasses take other arguments than those in `args`.
        return _rebuild, (type(self), self.args), self.__dict__.copy()

    def message(self) -> str | None:
        """Return what happened, without the status."""
        return self._msg

    def status(self) -> str | None:
        """Return the status as a string, for example ``"404"``, or None where no answer came."""
        return self._status

    def debug_details(self) -> Any:
        """Return details for debugging (the raw body of an error answer), or None."""
        return self._debug_details


def _rebuild(cls: type[InferenceServerException], args: tuple[Any, ...]) -> InferenceServerException:
    error = cls.__new__(cls)
    error.args = args
    return error


class ServerError(InferenceServerException):
    """The server, or a gateway before it, answered with an error.

    ``status()`` is the HTTP status as a string and ``debug_details()`` the raw body as text; ``headers`` maps
    the answer's header names, in lower case, to their values. ``method`` and ``url`` are the request's that was
    answered, with several servers that of the one that did; empty where the response was not this client's own.
    """

    method = ""
    url = ""

    def __init__(
        self, msg: str, status: str, debug_details: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(msg, status, debug_details)
        self.headers = dict(headers or {})


class TransportError(InferenceServerException):
    """No usable answer came back.

    Parameters
    ----------
    reason : str
        What went wrong.
    method, url : str
        The request that it happened to; empty where there was none yet.
    phase : str
        What was being done: ``"start"`` (the call's time was over before it began), ``"wait for a connection"``,
        ``"resolve"``, ``"connect"``, ``"proxy"``, ``"tls"``, ``"send"``, ``"receive"``, ``"plugin"``.
    """

    def __init__(self, reason: str, *, method: str = "", url: str = "", phase: str = "") -> None:
        self.method = method
        self.url = url
        self.phase = phase
        super().__init__(f"{method} {url}: {reason}" if url else reason)

    def locate(self, method: str, url: str) -> None:
        """Name the request, where the error was made before it was known."""
        self.method, self.url = method, url
        self._msg = f"{method} {url}: {self._msg}"
        self.args = (self._msg,)


class ConnectError(TransportError, ConnectionError):
    """No connection could be made."""


class ConnectRefused(ConnectError, ConnectionRefusedError):
    """Nothing listens at the server's address."""

    errno = ECONNREFUSED  # of the class: OSError's own slot is lost in pickling

    def __init__(self, reason: str, *, method: str = "", url: str = "", phase: str = "connect") -> None:
        super().__init__(reason, method=method, url=url, phase=phase)


class NameResolutionError(ConnectError, socket.gaierror):
    """The server's name has no address."""


class ConnectionLost(TransportError, ConnectionError):
    """The connection broke while a request or its answer was under way.

    Attributes
    ----------
    resendable : bool
        Whether a connection that was used before broke without an answer, so that sending again is likely to help.
    """

    resendable: bool = False


if sys.version_info >= (3, 11):
    _Timeouts = TimeoutError
else:
    # Before 3.11 asyncio had a class of its own, which callers of the asyncio client catch.
    from asyncio import TimeoutError as _AsyncioTimeoutError

    class _Timeouts(TimeoutError, _AsyncioTimeoutError):
        pass


class DeadlineExceeded(TransportError, _Timeouts):
    """A time limit passed; the message holds "timed out", the phase and the limit."""


class ConnectTimeout(ConnectError, DeadlineExceeded):
    """No connection could be made in time."""


class ProtocolError(InferenceServerException):
    """The answer is not valid HTTP, or not a valid answer of the v2 protocol."""


class InvalidRequest(InferenceServerException, ValueError):
    """The request was refused before anything was sent; the message says what was expected and what came."""


if TYPE_CHECKING:
    import ssl

    class TLSError(ConnectError, ssl.SSLError):
        """The TLS handshake failed: no common protocol, a certificate that does not verify, a wrong host."""

    class CertificateError(TLSError, ssl.SSLCertVerificationError):
        """The server's certificate does not verify, or is another host's."""

else:

    def __getattr__(name: str) -> Any:
        # ssl costs more to import than the rest of this library, and only TLS needs it.
        if name in ("TLSError", "CertificateError"):
            import ssl

            tls_error = type(
                "TLSError",
                (ConnectError, ssl.SSLError),
                {"__doc__": "The TLS handshake failed.", "__module__": __name__},
            )
            tls_error = globals().setdefault("TLSError", tls_error)
            certificate_error = type(
                "CertificateError",
                (tls_error, ssl.SSLCertVerificationError),
                {"__doc__": "The server's certificate does not verify.", "__module__": __name__},
            )
            globals().setdefault("CertificateError", certificate_error)
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def raise_error(msg: str) -> NoReturn:
    """Raise an :class:`InferenceServerException` with the message (the reference's helper)."""
    raise InferenceServerException(msg=msg) from None
