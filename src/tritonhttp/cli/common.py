"""What every command has: options for the connection and the output, clients made of them, and exit codes.

A command is a function whose first parameter is a :class:`Setup`. ``command`` adds the common options to its own,
and turns whatever the function raises into one line and an exit code.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from ..errors import (
    ConnectError,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    NameResolutionError,
    ProtocolError,
    ServerError,
    TransportError,
)
from .output import one_line

if TYPE_CHECKING:
    from .. import InferenceServerClient
    from ..aio import InferenceServerClient as AioClient
    from ..plugins import Request

__all__ = [
    "BOUND",
    "INTERRUPTED",
    "REACH",
    "SERVER",
    "USAGE",
    "Ended",
    "Failure",
    "Setup",
    "command",
    "exit_code",
    "said_here",
]

T = TypeVar("T")

#: Exit codes: the server's error, wrong use, no way to the server, a bound that was missed.
SERVER, USAGE, REACH, BOUND = 1, 2, 3, 4
#: Exit codes after Ctrl-C, and where the reader of our output has left: 128 and the signal's number.
INTERRUPTED, CLOSED = 130, 141
_DEFAULT_URL = "localhost:8000"


class Failure(Exception):
    """What a command found wrong by itself: a message of one line, and the exit code."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


class Ended(Exception):  # not `typer.Exit`, which some versions of typer turn into a return value
    """A command is over, and has said why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The common options of a command, as given; each field is an option."""

    url: Annotated[
        list[str] | None,
        typer.Option("-u", "--url", metavar="URL", help="A server, host:port or a URL; several are allowed."),
    ] = None
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME:VALUE", help="Send a header with each request."),
    ] = None
    auth: Annotated[
        str | None, typer.Option("--auth", metavar="USER:PASSWORD", help="Authenticate (Basic).")
    ] = None
    ca_certs: Annotated[
        Path | None, typer.Option("--ca-certs", metavar="FILE", help="Trust these authorities (TLS).")
    ] = None
    cert: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="The client's own certificate (TLS).")
    ] = None
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The key of that certificate (TLS).")
    ] = None
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Do not compare the server's name with its certificate (TLS)."),
    ] = False
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="SECONDS", help="The most time for each call.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False

    @property
    def urls(self) -> list[str]:
        """The servers: of ``-u``, of TRITON_URL, or the default; with commas between several."""
        given = ",".join(self.url or ()) or os.environ.get("TRITON_URL", "")
        return [url.strip() for url in given.split(",") if url.strip()] or [_DEFAULT_URL]

    @property
    def headers(self) -> dict[str, str]:
        """The additional headers; values of a repeated name are joined."""
        found: dict[str, str] = {}
        for header in self.header or ():
            name, colon, value = (part.strip() for part in header.partition(":"))
            if not (name and colon):
                raise Failure(f"--header: expected NAME:VALUE, got {header!r}")
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User name and password of ``--auth``."""
        if self.auth is None:
            return None
        user, colon, password = self.auth.partition(":")
        if not (user and colon):
            raise Failure("--auth: expected USER:PASSWORD")  # not what was given: it may be a password
        return user, password

    @property
    def tls_files(self) -> dict[str, str]:
        """The files of the TLS options, by the names of `ssl_options`."""
        named = {"ca_certs": self.ca_certs, "certfile": self.cert, "keyfile": self.key}
        found = {name: str(path) for name, path in named.items() if path is not None}
        if "keyfile" in found and "certfile" not in found:
            raise Failure("--key needs --cert, the certificate that the key belongs to")
        for path in found.values():
            if not os.path.isfile(path):
                raise Failure(f"no such file: {path}")
        return found

    @property
    def is_tls(self) -> bool:
        """Whether an option is given that only TLS has."""
        return bool(self.tls_files or self.insecure)

    def client(self, url: str | None = None, **options: Any) -> InferenceServerClient:
        """Return a client of all servers, or of one.

        Parameters
        ----------
        url : str, optional
            The one.
        **options
            More arguments of the client.
        """
        from .. import InferenceServerClient

        urls = self.urls if url is None else [url]
        tls, files = self._tls(urls)
        client = InferenceServerClient(
            urls, ssl=tls, ssl_options=files, insecure=self.insecure, deadline=self.deadline, **options
        )
        self._register(client)
        return client

    def aio_client(self, **options: Any) -> AioClient:
        """Return an asyncio client of all servers; call it on the event loop."""
        from .._transport.tls import tls_context
        from ..aio import InferenceServerClient

        tls, files = self._tls(self.urls)
        context = tls_context(files, None, self.insecure) if tls else None
        if self.deadline is not None:
            options["deadline"] = self.deadline
        client = InferenceServerClient(self.urls, ssl=tls, ssl_context=context, **options)
        self._register(client)
        return client

    def _tls(self, urls: list[str]) -> tuple[bool, dict[str, str]]:
        files, tls = self.tls_files, self.is_tls
        for each in urls if tls else ():
            if "://" in each and not each.lower().startswith("https://"):
                raise Failure(f"the TLS options need a server with https://, got {each!r}")
        return tls, files

    def _register(self, client: InferenceServerClient | AioClient) -> None:
        headers, credentials = self.headers, self.credentials
        if headers or credentials:
            # No subclass of the plugins' base: that would be imported with every command.
            client.register_plugin(cast(Any, _Headers(headers, credentials)))

    def each(self, action: Callable[[InferenceServerClient], T]) -> dict[str, T]:
        """Do something with each server; return what came of it, by URL. What fails ends it."""
        found = {}
        for url in self.urls:
            with self.client(url) as client:
                found[url] = action(client)
        return found

    def alone(self, found: Mapping[str, T]) -> T | Mapping[str, T]:
        """Return what came of the only server; of several, all by URL. This is the form of the JSON."""
        return found if len(found) > 1 else next(iter(found.values()))


class _Headers:
    """A plugin that sends headers and credentials with every request of a client."""

    def __init__(self, headers: Mapping[str, str], credentials: tuple[str, str] | None) -> None:
        from ..auth import BasicAuth

        self._headers = headers
        self._auth = BasicAuth(*credentials) if credentials else None

    def __call__(self, request: Request) -> None:
        request.headers.update(self._headers)
        if self._auth is not None:
            self._auth(request)


# -- commands --


def command(
    app: typer.Typer, name: str | None = None, *, example: str
) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Add a command to an app, with the common options after its own.

    Parameters
    ----------
    name : str, optional
        Its name, if it is not the function's.
    example : str
        One that runs; a line each for several.
    """

    def add(function: Callable[..., int | None]) -> Callable[..., int]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        common = [
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hint
            )
            for each, hint in zip(fields(Setup), _hints(Setup), strict=True)
        ]
        names = [each.name for each in common]

        def run(**given: Any) -> int:
            setup = Setup(**{name: given.pop(name) for name in names})
            with _reported(setup.debug):
                return function(setup, **given) or 0

        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + common
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        lines = "\n".join(f"  {line}" for line in example.splitlines())
        app.command(name or function.__name__, epilog=f"\b\nExample:\n{lines}")(run)
        return run

    return add


@cache  # the same for each command, and not cheap
def _hints(kind: type) -> list[Any]:
    from typing import get_type_hints

    return list(get_type_hints(kind, include_extras=True).values())


@contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Turn an exception into one line on standard error and the end of the command."""
    try:
        yield
    except KeyboardInterrupt:
        raise Ended(INTERRUPTED) from None
    except BrokenPipeError:
        raise Ended(CLOSED) from None
    except Exception as error:
        if isinstance(error, (Ended, typer.Exit)):
            raise
        if debug:
            traceback.print_exc()
        print(f"tritonhttp: {one_line(describe(error))}", file=sys.stderr)
        raise Ended(exit_code(error)) from error


def exit_code(error: BaseException) -> int:
    """Return the exit code for an exception."""
    if isinstance(error, Failure):
        return error.code
    if isinstance(error, TransportError):
        return REACH
    # What is neither the server's nor the connection's is a wrong argument or file.
    return USAGE if isinstance(error, (InvalidRequest, OSError, ImportError)) else SERVER


def describe(error: BaseException) -> str:
    """Return what went wrong, and what to do about it."""
    words = str(error.message() if isinstance(error, TransportError) else error)
    if isinstance(error, ServerError) and error.url:
        words = f"{error.url}: {words}"
    words = said_here(words)
    if isinstance(error, (InferenceServerException, Failure)):
        advice = _advice(error)
        return f"{words}; {advice}" if advice else words
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return f"this needs the package {str(error.name).split('.')[0]}: pip install 'tritonhttp[cli]'"
    if isinstance(error, ImportError):  # the library's own words for an optional package
        return words
    return words if _is_ours(error) else f"{type(error).__name__}: {words} (--debug shows where)"


def said_here(words: str) -> str:
    """Return words of the library as the command line says them."""
    for python, here in _WORDS.items():
        words = words.replace(python, here)
    return words


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("tritonhttp.")


#: Python in messages of the library, and how it is said on the command line.
_WORDS = {
    "; batched() splits what is larger": "",
    "give outputs=[…]": "name them with --select",
    " (use generate_stream, which takes any number of answers)": " (use tritonhttp generate)",
    "; cast=True converts where the values fit": "",
    "cast=True rounds to that": "--cast rounds to that",
    "the same call": "the same command",
    "resume=True": "--resume",
    "overwrite=True": "--overwrite",
    'on_error="record"': "--on-error record",
}


def _advice(error: BaseException) -> str:
    if type(error).__name__ == "CertificateError":  # importing the class would import ssl with every command
        return "--ca-certs FILE names the authority to trust"
    if isinstance(error, NameResolutionError):
        return "check the host's name (-u)"
    if isinstance(error, DeadlineExceeded) and not isinstance(error, ConnectError):
        return "--deadline gives it more time"
    if isinstance(error, ConnectError):
        return "does the server run there? -u names another; `tritonhttp serve --demo` starts one"
    if isinstance(error, ProtocolError):
        return "is this an inference server's HTTP port?"
    if isinstance(error, ServerError):
        status = error.status()
        if status in ("401", "403"):
            return "--auth or --header gives credentials"
        if status in ("400", "404") and "nknown model" in str(error):
            return "`tritonhttp models` lists the models"
    return ""
