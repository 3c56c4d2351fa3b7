"""Every error of the library, one tree under the reference's single class.

::

    InferenceServerException            message(), status(), debug_details(), as in the reference
    ├── ServerError                     the server answered with an error; has the request's method and URL
    ├── TransportError                  no usable answer; names method, URL and phase
    │   ├── ConnectError                also ConnectionError
    │   │   ├── ConnectRefused          also ConnectionRefusedError
    │   │   ├── ConnectTimeout          also DeadlineExceeded
    │   │   ├── NameResolutionError     also socket.gaierror
    │   │   └── TLSError                also ssl.SSLError
    │   │       └── CertificateError    also ssl.SSLCertVerificationError
    │   ├── ConnectionLost              also ConnectionError: the connection broke while in use
    │   └── DeadlineExceeded            also TimeoutError (on 3.10 also those of asyncio and futures)
    ├── ProtocolError                   the answer is not valid HTTP, or not a valid v2 answer
    ├── MissingDependency               also ImportError: an extra is not installed
    ├── RequestCancelled                also concurrent.futures.CancelledError: the call's handle was cancelled
    ├── ResultNotReady                  also TimeoutError: a handle was not waited for long enough
    └── InvalidRequest                  also ValueError: refused before anything was sent
        ├── BulkError                   a run over a dataset cannot go on; names file, row and column
        └── InvalidCall                 also TypeError, AttributeError: a call that does not exist

Programs for the reference catch the built-in errors; these catch ours too.
"""

from __future__ import annotations

import copy
import copyreg
import socket
import sys
from collections.abc import Mapping
from errno import ECONNREFUSED
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "BulkError",
    "CertificateError",
    "ConnectError",
    "ConnectRefused",
    "ConnectTimeout",
    "ConnectionLost",
    "DeadlineExceeded",
    "InferenceServerException",
    "InvalidCall",
    "InvalidRequest",
    "MissingDependency",
    "NameResolutionError",
    "ProtocolError",
    "RequestCancelled",
    "ResultNotReady",
    "ServerError",
    "TLSError",
    "TransportError",
    "raise_error",
]

_PACKAGE = __name__.partition(".")[0]


class InferenceServerException(Exception):
    """Base of every error of a call.

    Parameters
    ----------
    msg : str
        What happened.
    status : str, optional
        The HTTP status of the answer, for example ``"404"``; None if there was no answer.
    debug_details : optional
        Details for debugging: the raw body of an error answer.
    """

    #: How often the request was sent.
    attempts = 1
    #: Of an error that a model's `map` yields: the number of the item, from 0.
    index: int | None = None

    def __init__(self, msg: str | None, status: str | None = None, debug_details: Any = None) -> None:
        # As in the reference, `args` are the positional arguments, which Exception has taken already.
        self._msg = msg
        self._status = status
        self._debug_details = debug_details

    def __str__(self) -> str:
        text = Exception.__str__(self) if self._msg is None else str(self._msg)
        return text if self._status is None else f"[{self._status}] {text}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Restore the attributes without a call of the constructor, because those of subclasses do not take `args`.
        return copyreg.__newobj__, (type(self),), {**self.__dict__, "args": self.args}  # type: ignore[attr-defined]

    def message(self) -> str | None:
        """Return what happened, without the status."""
        return self._msg

    def status(self) -> str | None:
        """Return the HTTP status as a string, for example ``"404"``, or None if no answer came."""
        return self._status

    def debug_details(self) -> Any:
        """Return details for debugging (the raw body of an error answer), or None."""
        return self._debug_details

    def _bare(self) -> Self:
        """Return this error, to be raised again, without the frames of the library that it came through."""
        return self if _is_debugged() else self.with_traceback(_users_frames(self.__traceback__))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython and Jupyter show: the program's own frames, and the message."""
        shell: Any = sys.modules["IPython"].get_ipython()
        shown = self if _is_debugged() else _shortened(self)
        lines: list[str] = shell.InteractiveTB.structured_traceback(
            type(shown), shown, shown.__traceback__, tb_offset=1
        )
        return lines


def _is_debugged() -> bool:
    """Whether tracebacks are wanted whole: the log of the library is on."""
    import logging

    return logging.getLogger(_PACKAGE).isEnabledFor(logging.DEBUG)


def _users_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback without frames of this library and of Python's; callbacks and plugins stay."""
    from types import TracebackType

    frames = []
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if module != _PACKAGE and module not in sys.stdlib_module_names:
            frames.append(traceback)
        traceback = traceback.tb_next
    found = None
    for each in reversed(frames):
        found = TracebackType(found, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return found


def _shortened(error: InferenceServerException) -> InferenceServerException:
    """Return a copy of an error with the program's frames only, and the first of its causes that has any."""
    found = copy.copy(error).with_traceback(_users_frames(error.__traceback__) or error.__traceback__)
    cause: BaseException | None = error
    seen = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        if cause is not None and _users_frames(cause.__traceback__) is not None:
            break  # raised, or passed on, by the program
    else:
        cause = None
    found.__context__ = cause
    if error.__cause__ is not None:
        found.__cause__ = cause
    return found


class ServerError(InferenceServerException):
    """The server, or a gateway in front of it, answered with an error.

    ``status()`` is the HTTP status as a string, and ``debug_details()`` the raw body as text. ``headers`` maps the
    answer's header names, in lower case, to their values. ``method`` and ``url`` are those of the answered
    request; with several servers the URL is that of the server that answered. They are empty if the response does
    not come from this client.
    """

    method = ""
    url = ""
    #: Whether the client has several servers, so that the text has to name the one that answered.
    _names_server = False

    def __init__(
        self, msg: str, status: str, debug_details: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(msg, status, debug_details)
        self.args = (msg,)
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} (the answer to {self.method} {self.url})" if self._names_server and self.url else text


class TransportError(InferenceServerException):
    """No usable answer came back.

    Parameters
    ----------
    reason : str
        What went wrong.
    method, url : str
        The failed request; empty if there was none yet.
    phase : str
        The phase that failed: ``"start"`` (the deadline had passed before the call began),
        ``"wait for a connection"``, ``"resolve"``, ``"connect"``, ``"proxy"``, ``"tls"``, ``"send"``,
        ``"receive"``, ``"plugin"``.
    """

    def __init__(self, reason: str, *, method: str = "", url: str = "", phase: str = "") -> None:
        self.method = method
        self.url = url
        self.phase = phase
        super().__init__(f"{method} {url}: {reason}" if url else reason)
        self.args = (self._msg,)

    def locate(self, method: str, url: str) -> None:
        """Add the request's method and URL to an error that was created without them."""
        self.method, self.url = method, url
        self._msg = f"{method} {url}: {self._msg}"
        self.args = (self._msg,)


class ConnectError(TransportError, ConnectionError):
    """No connection could be made.

    Attributes
    ----------
    proxy_status : int or None
        The status with which a proxy refused a tunnel to the server, such as 407; None: it was something else.
    """

    proxy_status: int | None = None


class ConnectRefused(ConnectError, ConnectionRefusedError):
    """Nothing listens at the server's address."""

    errno = ECONNREFUSED  # a class attribute, because pickling loses OSError's own slot

    def __init__(self, reason: str, *, method: str = "", url: str = "", phase: str = "connect") -> None:
        super().__init__(reason, method=method, url=url, phase=phase)


class NameResolutionError(ConnectError, socket.gaierror):
    """The server's name has no address."""


class ConnectionLost(TransportError, ConnectionError):
    """The connection broke while a request was sent or its answer received.

    Attributes
    ----------
    resendable : bool
        Whether a reused connection broke without an answer, so that sending again is likely to succeed.
    """

    resendable: bool = False


if sys.version_info >= (3, 11):
    _Timeouts = TimeoutError
else:
    # Before 3.11 asyncio and concurrent.futures have classes of their own, which callers catch.
    from asyncio import TimeoutError as _AsyncioTimeoutError
    from concurrent.futures import TimeoutError as _FuturesTimeoutError

    class _Timeouts(TimeoutError, _AsyncioTimeoutError, _FuturesTimeoutError):
        pass


class DeadlineExceeded(TransportError, _Timeouts):
    """A time limit passed. The message contains "timed out", the phase and the limit."""


class ConnectTimeout(ConnectError, DeadlineExceeded):
    """No connection was made in time."""


class ResultNotReady(InferenceServerException, _Timeouts):
    """The time to wait for the result of `async_infer` was over before it came. The inference goes on."""

    def __init__(self, msg: str, status: str | None = None, debug_details: Any = None) -> None:
        super().__init__(msg, status, debug_details)
        self.args = (msg,)  # OSError keeps none


class ProtocolError(InferenceServerException):
    """The answer is not valid HTTP, or not a valid answer of the v2 protocol."""


class InvalidRequest(InferenceServerException, ValueError):
    """The request was refused before anything was sent. The message says what was expected and what was given."""


class BulkError(InvalidRequest):
    """A run of ``tritonhttp.bulk`` cannot go on: a row cannot be computed, or it is not the run that was begun.

    Attributes
    ----------
    file, row, column : str, int, str; None
        The first row that cannot be computed: its file, its number there from 0, and its column.
    """

    file: str | None = None
    row: int | None = None
    column: str | None = None


class InvalidCall(InvalidRequest, TypeError, AttributeError):
    """Something was called with arguments that it does not have, or used as what it is not. Says what to write."""


class MissingDependency(InferenceServerException, ImportError):
    """A package that an extra installs is missing. The message has the command that installs it."""


if TYPE_CHECKING:
    import ssl
    from concurrent.futures import CancelledError

    class RequestCancelled(InferenceServerException, CancelledError):
        """The handle of the inference was cancelled. The server may have carried it out nevertheless."""

    class TLSError(ConnectError, ssl.SSLError):
        """The TLS handshake failed: no common protocol, or a certificate that does not verify."""

    class CertificateError(TLSError, ssl.SSLCertVerificationError):
        """The server's certificate does not verify, or belongs to another host."""

else:

    def __getattr__(name: str) -> Any:
        made = globals().setdefault  # another thread may make them at the same time
        if name == "RequestCancelled":  # importing concurrent.futures takes a millisecond
            from concurrent.futures import CancelledError

            members = {"__doc__": "The handle of the inference was cancelled.", "__module__": __name__}
            return made(name, type(name, (InferenceServerException, CancelledError), members))
        if name not in ("TLSError", "CertificateError"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Importing ssl costs more than the rest of this library, and only TLS needs it.
        import ssl

        members = {"__doc__": "The TLS handshake failed.", "__module__": __name__}
        tls_error = made("TLSError", type("TLSError", (ConnectError, ssl.SSLError), members))
        members = {"__doc__": "The server's certificate does not verify.", "__module__": __name__}
        made("CertificateError", type("CertificateError", (tls_error, ssl.SSLCertVerificationError), members))
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def raise_error(msg: str) -> NoReturn:
    """Raise an :class:`InferenceServerException` with the message (the reference's helper)."""
    raise InferenceServerException(msg=msg) from None
