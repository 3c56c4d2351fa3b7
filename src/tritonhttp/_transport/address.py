"""Where the server is: its URL taken apart, the addresses of its name, the TLS context for it."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import InvalidRequest, NameResolutionError
from .failures import resolve_timeout

if TYPE_CHECKING:
    import ssl

__all__ = [
    "Address",
    "SocketAddress",
    "as_context",
    "leave",
    "literal",
    "look_up",
    "parse_url",
    "resolve",
    "tls_context",
    "without_credentials",
]

_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://|(?![A-Za-z][A-Za-z0-9+.-]*://))"
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\s:/?#\[\]@\0-\x1f\x7f]+))"
    r"(?::(?P<port>[0-9]*))?"
    r"(?P<path>/+|/(?!/)[^\s?#\0-\x1f\x7f]*)?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A server's place.

    Attributes
    ----------
    host : str
        A name or an address literal, an IPv6 literal without its brackets.
    port : int
    tls : bool
        Whether the connection is encrypted.
    base_path : str
        What stands before every path: empty, or with a leading slash and without one at its end.
    socket_path : str
        The path of a unix domain socket that is connected to in place of host and port; empty: none.
    at : str
        The one of the host's addresses that is connected to, as a literal; empty: whichever it has.
    """

    host: str
    port: int
    tls: bool
    base_path: str
    socket_path: str = ""
    at: str = ""

    @property
    def peer(self) -> str:
        """What is connected to, for messages."""
        at = f" at {self.at}" if self.at else ""
        return self.socket_path or f"{self.host}{at} port {self.port}"

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server seems to run on this machine; a tunnel looks the same."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        from ipaddress import ip_address

        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def origin(self) -> str:
        """Scheme and authority, for messages and proxies."""
        if self.socket_path:
            return f"unix://{self.socket_path}:"
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def parse_url(url: str, ssl: bool) -> Address:
    """Take ``host:port/base-path`` apart, with or without ``http://`` or ``https://`` before it.

    ``unix:///path`` names a unix domain socket. All of it is the path: there is no base path.

    Raises
    ------
    InvalidRequest
        Where it has another form, or its scheme contradicts `ssl`.
    """
    if isinstance(url, str) and url.strip()[:7].lower() == "unix://":
        return _unix_address(url.strip()[7:], ssl)
    match = _URL.fullmatch(url.strip()) if isinstance(url, str) else None
    if match is None:
        raise InvalidRequest(
            f"expected a URL of the form host:port/base-path, got {without_credentials(url)!r}"
        )
    scheme = (match["scheme"] or ("https" if ssl else "http")).lower()
    if scheme not in ("http", "https"):
        raise InvalidRequest(f"expected a URL of http or https, got the scheme {scheme!r}")
    if ssl and scheme == "http":
        raise InvalidRequest(
            f"ssl=True contradicts the scheme of {url!r}: drop the scheme, or write https://"
        )
    port = int(match["port"]) if match["port"] else (443 if scheme == "https" else 80)
    if not 0 < port < 1 << 16:
        raise InvalidRequest(f"expected a port from 1 to 65535, got {port} in {url!r}")
    return Address(
        match["literal"] or match["host"], port, scheme == "https", (match["path"] or "").rstrip("/")
    )


def _unix_address(path: str, ssl: bool) -> Address:
    if not path.startswith("/") or not path.strip("/") or "\0" in path:
        raise InvalidRequest(f"expected a URL of the form unix:///path/to.sock, got {'unix://' + path!r}")
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidRequest(f"this system has no unix domain sockets: {'unix://' + path!r}")
    if ssl:
        raise InvalidRequest(
            f"ssl=True contradicts {'unix://' + path!r}: there is no TLS on a unix domain socket"
        )
    return Address("localhost", 80, False, "", path)


def without_credentials(url: object) -> str:
    """Return a URL fit for a message: neither a password nor a query, which may hold a token."""
    return re.sub(
        r"(?s)^([a-z]+://)?.*@", r"\1***@", re.sub(r"(?s)\?.*", "?…", str(url)), flags=re.IGNORECASE
    )


SocketAddress = tuple[int, Any]
"""An address family, and the address in its form for ``socket.connect``."""


def literal(address: Address) -> list[SocketAddress]:
    """Return the address of a unix domain socket, or the one that a literal is; empty where the host is a name."""
    if address.socket_path:
        return [(socket.AF_UNIX, address.socket_path)]
    try:
        return _look_up(address.at or address.host, address.port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # the latter where no name can be like that
        return []


#: Is called with the addresses of a name, or with why there are none.
Told: TypeAlias = Callable[[list[SocketAddress] | NameResolutionError], object]


class _LookUp:
    """A look-up under way, and who is to be told.

    Each step on it is one operation of a dict, so no lock is needed: a signal's handler may come in between, on a
    thread that is in the middle of any of this.
    """

    __slots__ = ("outcome", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Told, bool] = {}
        #: The addresses, or what the system said instead; None while it is asked.
        self.outcome: list[SocketAddress] | Exception | None = None

    def join(self, host: str, done: Told) -> None:
        self.waiting[done] = True
        # It may have ended meanwhile. Whoever takes `done` out calls it: this thread, or that of the look-up.
        if self.outcome is not None and self.waiting.pop(done, False):
            _tell(host, self.outcome, done)

    def end(self, host: str, outcome: list[SocketAddress] | Exception) -> None:
        self.outcome = outcome
        while self.waiting:
            try:
                done, _ = self.waiting.popitem()
            except KeyError:  # the last one was taken out meanwhile
                return
            _tell(host, outcome, done)


#: The look-ups under way, by host and port, of all clients.
_under_way: dict[tuple[str, int], _LookUp] = {}

if hasattr(os, "register_at_fork"):
    # Their threads are the parent's.
    os.register_at_fork(after_in_child=_under_way.clear)


def look_up(address: Address, done: Told) -> None:
    """Look a name up in a thread of its own, since that cannot be interrupted, and call `done` there.

    A look-up of the same name that is under way is joined. Who gives up waiting calls :func:`leave`; the thread
    ends by itself.
    """
    host, port = address.host, address.port
    found = _under_way.get((host, port))
    if found is not None:
        found.join(host, done)
        return

    def work() -> None:
        # The thread itself makes the entry: what interrupts the caller leaves none that nobody works on.
        mine = _LookUp()
        found = _under_way.setdefault((host, port), mine)
        found.join(host, done)
        if found is mine:
            outcome: list[SocketAddress] | Exception = OSError("the look-up was broken off")
            try:
                outcome = _outcome(host, port)
            finally:  # a greenlet may be killed
                _under_way.pop((host, port), None)
                mine.end(host, outcome)

    try:
        threading.Thread(target=work, name="tritonhttp-resolve", daemon=True).start()
    except RuntimeError as error:
        if "interpreter shutdown" in str(error):  # in CPython 3.12 and later; calls still work there
            _tell(host, _outcome(host, port), done)
            return
        message = f"cannot resolve the name {host!r}, which takes a thread: {error}"
        done(NameResolutionError(message, phase="resolve"))


def leave(address: Address, done: Told) -> None:
    """Wait for a look-up no more."""
    found = _under_way.get((address.host, address.port))
    if found is not None:
        found.waiting.pop(done, None)


def _outcome(host: str, port: int) -> list[SocketAddress] | Exception:
    try:
        return _look_up(host, port, 0)
    except Exception as error:  # OSError; UnicodeError where no name can be like that
        return error


def _tell(host: str, outcome: list[SocketAddress] | Exception, done: Told) -> None:
    """Tell one of those who wait: each gets an error of its own, since a call writes its URL into it."""
    if isinstance(outcome, Exception):
        done(NameResolutionError(f"cannot resolve the name {host!r}: {outcome}", phase="resolve"))
    else:
        done(list(outcome))


def resolve(address: Address, deadline: float | None) -> list[SocketAddress]:
    """Return the addresses of a server, in the order that the system prefers.

    Raises
    ------
    NameResolutionError
        If the name has no address.
    DeadlineExceeded
        If the answer takes too long.
    """
    found = literal(address)
    if found:
        return found
    began = time.monotonic()
    outcome: list[list[SocketAddress] | NameResolutionError] = []
    known = threading.Event()

    def note(answer: list[SocketAddress] | NameResolutionError) -> None:
        outcome.append(answer)
        known.set()

    try:
        look_up(address, note)
        if not known.wait(None if deadline is None else max(0.0, deadline - began)):
            raise resolve_timeout(address, time.monotonic() - began, deadline)
    finally:
        leave(address, note)
    if isinstance(outcome[0], NameResolutionError):
        raise outcome[0]
    return outcome[0]


def _look_up(host: str, port: int, flags: int) -> list[SocketAddress]:
    found: list[SocketAddress] = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
        if (family, address) not in found:
            found.append((family, address))
    return found


def tls_context(
    options: Mapping[str, Any] | None, factory: Callable[[], ssl.SSLContext] | None, insecure: bool
) -> ssl.SSLContext:
    """Return the context for a client's connections. The server's chain is verified always.

    Parameters
    ----------
    options : mapping, optional
        What ``ssl.wrap_socket`` took: keyfile, certfile, ca_certs, ciphers, ssl_version; and the context's
        `options` and `verify_flags`. `cert_reqs` and the options of its behaviour (do_handshake_on_connect,
        suppress_ragged_eofs) are accepted and change nothing.
    factory : callable, optional
        Returns a context, which is used as it is; `options` then add certificates and ciphers to it.
    insecure : bool
        Do not compare the server's name with its certificate.

    Raises
    ------
    InvalidRequest
        For an unknown option, or files that cannot be loaded.
    """
    import ssl

    given = {name: value for name, value in (options or {}).items() if value is not None}
    unknown = set(given) - _TLS_OPTIONS
    if unknown:
        raise InvalidRequest(
            f"unknown ssl_options {sorted(unknown)}: expected some of {sorted(_TLS_OPTIONS)}"
        )
    if "keyfile" in given and "certfile" not in given:
        raise InvalidRequest("ssl_options: a keyfile needs its certfile as well")
    context = ssl.create_default_context() if factory is None else _made(factory, given.get("ca_certs"))
    try:
        if "ca_certs" in given:
            context.load_verify_locations(cafile=given["ca_certs"])
        if "certfile" in given:
            context.load_cert_chain(given["certfile"], given.get("keyfile"), given.get("password"))
        if "ciphers" in given:
            context.set_ciphers(given["ciphers"])
        for option in ("options", "verify_flags"):
            if option in given:
                setattr(context, option, given[option])
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"ssl_options {sorted(given)} cannot be used: {error}") from error
    version = given.get("ssl_version")
    if version is not None and version not in (ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT):
        name = str(getattr(version, "name", version)).removeprefix("PROTOCOL_")
        exact = ssl.TLSVersion.__members__.get(name)
        if exact is None:
            raise InvalidRequest(f"ssl_version {version!r} is not supported")
        context.minimum_version = context.maximum_version = exact
    if insecure:
        context.check_hostname = False
    return context


def _made(factory: Callable[..., ssl.SSLContext], ca_certs: str | None) -> ssl.SSLContext:
    """Call a factory; the reference gives it `cafile`, and some cannot do without."""
    import inspect

    if not callable(factory):
        raise InvalidRequest(
            f"ssl_context_factory must be a function that returns a context, got {factory!r}"
        )
    try:
        inspect.signature(factory).bind()
    except TypeError:
        return as_context(factory(cafile=ca_certs), "what ssl_context_factory returns")
    except ValueError:  # nobody can tell what a function in C takes
        pass
    return as_context(factory(), "what ssl_context_factory returns")


def as_context(given: Any, what: str) -> ssl.SSLContext:
    """Return what a caller gave as a context, or refuse it."""
    import ssl

    if not isinstance(given, ssl.SSLContext):
        raise InvalidRequest(f"{what} must be an ssl.SSLContext, got {given!r}")
    return given


_TLS_OPTIONS = frozenset(
    (
        "ca_certs",
        "cert_reqs",
        "certfile",
        "ciphers",
        "do_handshake_on_connect",
        "keyfile",
        "options",
        "password",
        "server_side",
        "ssl_version",
        "suppress_ragged_eofs",
        "verify_flags",
    )
)
