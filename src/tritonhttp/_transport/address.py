"""Where a server is: its URL, parsed."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Any

from .._basics.redaction import without_credentials
from ..errors import InvalidRequest

__all__ = ["Address", "SocketAddress", "parse_url"]

#: An address family, and the address as ``socket.connect`` takes it.
SocketAddress = tuple[int, Any]

_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://|(?![A-Za-z][A-Za-z0-9+.-]*://))"
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\s:/?#\[\]@\0-\x1f\x7f]+))"
    r"(?::(?P<port>[0-9]*))?"
    r"(?P<path>/+|/(?!/)[^\s?#\0-\x1f\x7f]*)?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server.

    Attributes
    ----------
    host : str
        A name or an address literal, an IPv6 literal without its brackets.
    port : int
    tls : bool
        Whether the connection is encrypted.
    base_path : str
        Prefix of every path: empty, or with a leading slash and no trailing one.
    socket_path : str
        A unix domain socket to connect to in place of host and port; empty: none.
    at : str
        The one of the host's addresses to connect to, as a literal; empty: any.
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
    """Parse ``host:port/base-path``, with or without ``http://`` or ``https://`` before it.

    ``unix:///path`` names a unix domain socket; it has no base path.

    Raises
    ------
    InvalidRequest
        If it has another form, or its scheme contradicts `ssl`.
    """
    stripped = url.strip() if isinstance(url, str) else ""
    if stripped[:7].lower() == "unix://":
        return _unix_address(stripped[7:], ssl)
    match = _URL.fullmatch(stripped)
    if match is None:
        shown = without_credentials(url)
        raise InvalidRequest(f"expected a URL of the form host:port/base-path, got {shown!r}")
    scheme = (match["scheme"] or ("https" if ssl else "http")).lower()
    if scheme not in ("http", "https"):
        raise InvalidRequest(f"expected a URL of http or https, got the scheme {scheme!r}")
    tls = scheme == "https"
    if ssl and not tls:
        raise InvalidRequest(
            f"ssl=True contradicts the scheme of {url!r}: drop the scheme, or write https://"
        )
    port = int(match["port"] or (443 if tls else 80))
    if not 0 < port < 1 << 16:
        raise InvalidRequest(f"expected a port from 1 to 65535, got {port} in {url!r}")
    return Address(match["literal"] or match["host"], port, tls, (match["path"] or "").rstrip("/"))


def _unix_address(path: str, ssl: bool) -> Address:
    url = f"unix://{path}"
    if not path.startswith("/") or not path.strip("/") or "\0" in path:
        raise InvalidRequest(f"expected a URL of the form unix:///path/to.sock, got {url!r}")
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidRequest(f"this system has no unix domain sockets: {url!r}")
    if ssl:
        raise InvalidRequest(f"ssl=True contradicts {url!r}: there is no TLS on a unix domain socket")
    return Address("localhost", 80, False, "", path)
