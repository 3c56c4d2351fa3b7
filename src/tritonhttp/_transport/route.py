"""How requests reach a server: directly or through a proxy, and what that adds to their heads.

A proxy forwards requests to an http server, and opens a tunnel (CONNECT) to an https one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._basics.redaction import without_credentials
from .._wire.http1 import ResponseReader
from .._wire.requests import Buffer, amended
from .._wire.responses import Response
from ..errors import ConnectError, ConnectTimeout, InferenceServerException, InvalidRequest
from .address import Address, ascii_host, ip_address, parse_url
from .failures import timed_out
from .policy import Connections

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

__all__ = ["CONTINUE_WAIT", "Proxy", "Route", "TunnelReader", "bypasses", "choose", "parse"]

#: Requests with more bytes than this may ask for 100 Continue, and wait so many seconds for it.
_EXPECT_FROM = 1 << 20
CONTINUE_WAIT = 1.0
#: The most bytes of the body with which a proxy refuses a tunnel.
_MAX_REFUSAL = 1 << 20


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's address, and its Proxy-Authorization header line (empty, or with its line end)."""

    address: Address
    authorization: bytes = field(repr=False)

    @property
    def peer(self) -> str:
        """What is connected to, for messages."""
        return f"the proxy {self.address.peer}"

    def connect_request(self, server: Address) -> bytes:
        """Return the request for a tunnel to a server."""
        # RFC 9110, 9.3.6 requires the port, which an authority may leave out.
        place = f"{server.uri_host}:{server.port}".encode()
        return b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (place, place, self.authorization)

    def check_tunnel(self, server: Address, response: Response) -> None:
        """Raise ConnectError with the proxy's words if its answer opens no tunnel."""
        from .._protocol.operations import check

        try:
            check(response)
        except InferenceServerException as refusal:
            error = self.failure(server, refusal, 0, None)
            error.proxy_status = response.status_code
            raise error from None

    def failure(
        self, server: Address, error: Exception, seconds: float, deadline: float | None
    ) -> ConnectError:
        """Return the error for a request for a tunnel that failed."""
        if isinstance(error, TimeoutError):
            doing = f"while {self.peer} opened a tunnel to {server.peer}"
            return timed_out(ConnectTimeout, doing, "proxy", seconds, deadline)
        return ConnectError(f"{self.peer} opened no tunnel to {server.peer}: {error}", phase="proxy")


class TunnelReader(ResponseReader):
    """Reads a proxy's answer to a request for a tunnel."""

    def __init__(self) -> None:
        super().__init__(_MAX_REFUSAL, tunnel=True)

    def feed(self, count: int) -> None:
        """Take what was received, 0 bytes at the end; raise ConnectionResetError if that came early."""
        if count:
            self.received(count)
        elif not self.received_eof():
            raise ConnectionResetError(f"it closed the connection after {self.progress()}")


def parse(url: str) -> Proxy:
    """Parse ``http://user:password@host:port``; the scheme may be left out.

    Raises
    ------
    InvalidRequest
        For another form or scheme; the message shows no password.
    """
    shown = without_credentials(url)
    refusal = InvalidRequest(f"expected a proxy as http://user:password@host:port, got {shown!r}")
    if not isinstance(url, str):
        raise refusal
    scheme, mark, rest = url.strip().rpartition("://")
    user, at, place = rest.rpartition("@")
    if mark and scheme.lower() != "http":
        raise refusal
    try:
        address = parse_url(place, ssl=False)
    except InvalidRequest as error:
        raise InvalidRequest(f"proxy {shown!r}: {error.message()}") from None
    if address.base_path or address.socket_path:
        raise refusal
    if not at:
        return Proxy(address, b"")
    import base64
    from urllib.parse import unquote_to_bytes  # slow to import

    name, _, password = user.partition(":")
    try:
        secret = base64.b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password))
    except UnicodeEncodeError:  # a lone surrogate
        raise refusal from None
    return Proxy(address, b"Proxy-Authorization: Basic %b\r\n" % secret)


def choose(server: Address, options: Connections) -> Proxy | None:
    """Return the proxy to a server: the option's, the environment's, or None.

    Raises
    ------
    InvalidRequest
        For a proxy that cannot be used, or one together with a unix domain socket.
    """
    if options.proxy is not None:
        if server.socket_path:
            raise InvalidRequest(f"no proxy leads to the unix domain socket {server.socket_path}")
        return parse(options.proxy)
    if not options.trust_env or server.socket_path:
        return None
    # Slow to import. It ignores HTTP_PROXY under CGI, where a request's Proxy header sets that.
    from urllib.request import getproxies_environment

    found = getproxies_environment()
    url = found.get("https" if server.tls else "http") or found.get("all")
    if not url or bypasses(server, found.get("no", "")):
        return None
    try:
        return parse(url)
    except InvalidRequest as error:
        raise InvalidRequest(f"the environment's proxy (trust_env=True): {error.message()}") from None


def bypasses(server: Address, no_proxy: str) -> bool:
    """Return whether a list in the form of ``no_proxy`` says that no proxy leads to a server.

    An entry is a name, which includes its subdomains, an address, a network such as ``10.0.0.0/8``, or ``*``.
    Names and addresses may have a port. Case, dots around a name and the spelling of an address do not matter.
    """
    name, address = server.tls_name.lower(), ip_address(server.host)
    for entry in re.split(r"[,\s]+", no_proxy):
        if entry == "*":
            return True
        network = _network(entry)
        if network is not None:
            if address is not None and address in network:
                return True
            continue
        if entry.count(":") < 2 or entry.startswith("["):
            found = re.fullmatch(r"(.*?)(?::([0-9]+))?", entry)
            assert found is not None
            entry = found[1].strip("[]")
            if found[2] and int(found[2]) != server.port:
                continue
        try:
            host = entry if ":" in entry else ascii_host(entry.removeprefix("*").lstrip("."))
        except InvalidRequest:
            continue
        wanted = ip_address(host)
        if wanted is not None or address is not None:
            if wanted == address:
                return True
        elif f".{name}".endswith(f".{host.lower().removesuffix('.')}"):
            return True
    return False


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    from ipaddress import ip_network

    try:
        return ip_network(entry.replace("[", "").replace("]", ""), strict=False) if "/" in entry else None
    except ValueError:
        return None


class Route:
    """How a transport's requests reach its server.

    Parameters
    ----------
    server : Address
        The server.
    options : Connections
        The caller's.

    Raises
    ------
    InvalidRequest
        For a proxy that cannot be used.
    """

    def __init__(self, server: Address, options: Connections) -> None:
        proxy = choose(server, options)
        #: The proxy that has to open a tunnel, or None.
        self.tunnel = proxy if server.tls else None
        #: What is connected to, and its name in messages.
        self.address = server if proxy is None else proxy.address
        self.peer = server.peer if proxy is None else proxy.peer
        self._origin = ""
        self._lines = b"" if options.keep_alive else b"Connection: close\r\n"
        if proxy is not None and not server.tls:
            self._origin = server.origin
            self._lines += proxy.authorization
        self._expects = options.expect_continue
        #: Whether :meth:`prepare` changes nothing.
        self.plain = not (self._origin or self._lines or self._expects)

    def prepare(self, buffers: Sequence[Buffer]) -> tuple[Sequence[Buffer], bool]:
        """Return the buffers to send, and whether to wait for 100 Continue after the first."""
        expects = self._expects and sum(map(len, buffers)) > _EXPECT_FROM
        lines = self._lines
        if expects:
            lines += b"Expect: 100-continue\r\n"
        elif not (lines or self._origin):
            return buffers, False
        head, behind = amended(buffers[0], self._origin, lines)
        if expects:
            return [head, behind, *buffers[1:]] if behind else [head, *buffers[1:]], True
        return [head + behind, *buffers[1:]], False
