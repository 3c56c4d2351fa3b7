"""Where a server is: its URL, parsed.

A host is ASCII from here on: international names are A-labels (IDNA), so that all who see it see the same name.
"""

from __future__ import annotations

import dataclasses
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._basics.redaction import without_credentials
from ..errors import InvalidRequest

__all__ = ["Address", "SocketAddress", "ascii_host", "ip_address", "parse_url"]

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

#: An address family, and the address as ``socket.connect`` takes it.
SocketAddress = tuple[int, Any]

_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://|(?![A-Za-z][A-Za-z0-9+.-]*://))"
    # RFC 6874: %25 begins a zone; a bare % is what everybody writes.
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]+)(?:%(?:25)?(?P<zone>(?:[\w.~-]|%[0-9A-Fa-f]{2})+))?\]"
    r"|(?P<host>[^\s:/?#\[\]@\0-\x1f\x7f]+))"
    r"(?::(?P<port>[0-9]*))?"
    r"(?P<path>/+|/(?!/)[^\s?#\0-\x1f\x7f]*)?"
)
#: A scheme without its slashes, http:/localhost, which reads as the name of a host.
_SCHEME_ALONE = re.compile(r"https?:(?!//|\d)", re.IGNORECASE)
#: Characters that URLs do not have in a host.
_NO_HOST = re.compile(r"[\0-\x20\x7f\"#%/:<>?@\[\\\]^`{|}]")
#: What IDNA takes for a dot, and the characters that it once lost: IDNA2008 has kept them.
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_KEPT = re.compile("([\xdf\u03c2\u200c\u200d])")
#: An IPv4 address as systems take it: up to four numbers, in octal or hexadecimal too.
_NUMBERS = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+))*\.?")
_SAFE_IN_PATH = "!$%&'()*+,-./:;=@[]_~"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server.

    Attributes
    ----------
    host : str
        What to connect to: a name in ASCII, or an address literal; an IPv6 literal without its brackets, and with
        its zone, which means something on this machine only.
    port : int
    tls : bool
        Whether the connection is encrypted.
    base_path : str
        Prefix of every path, percent-encoded: empty, or with a leading slash and no trailing one.
    socket_path : str
        A unix domain socket to connect to in place of host and port; empty: none.
    at : str
        The one of the host's addresses to connect to, as a literal; empty: any.
    has_port : bool
        Whether the port was given, for messages.
    """

    host: str
    port: int
    tls: bool
    base_path: str
    socket_path: str = ""
    at: str = ""
    has_port: bool = dataclasses.field(default=True, compare=False)

    @property
    def peer(self) -> str:
        """What is connected to, for messages."""
        at = f" at {self.at}" if self.at else ""
        return self.socket_path or f"{self.host}{at} port {self.port}"

    @property
    def key(self) -> tuple[object, ...]:
        """What tells servers apart: two spellings of one name are one server."""
        literal, _, zone = self.host.partition("%")
        return ip_address(literal) or literal.lower(), zone, *dataclasses.astuple(self)[1:-1]

    @property
    def uri_host(self) -> str:
        """The host as URIs have it: an IPv6 literal in brackets, without its zone (RFC 6874, 4)."""
        host = self.host.partition("%")[0]
        return f"[{host}]" if ":" in host else host

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = self.uri_host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def tls_name(self) -> str:
        """The name to send and to compare with the certificate: neither has a zone, or the dot at the end."""
        return self.host.partition("%")[0].removesuffix(".")

    @property
    def is_loopback(self) -> bool:
        """Whether the server seems to run on this machine; a tunnel looks the same."""
        address = ip_address(self.host)
        if address is not None:
            return bool(address.is_loopback)
        return f".{self.host.lower().removesuffix('.')}".endswith(".localhost")

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
    if match is None or (match["path"] and _SCHEME_ALONE.match(stripped)):
        shown = without_credentials(url)
        raise InvalidRequest(f"expected a URL of the form host:port/base-path, got {shown!r}{_advice(url)}")
    scheme = (match["scheme"] or ("https" if ssl else "http")).lower()
    if scheme not in ("http", "https"):
        advice = "; this client does not speak gRPC: Triton's HTTP port is usually 8000" * ("grpc" in scheme)
        raise InvalidRequest(f"expected a URL of http or https, got the scheme {scheme!r}{advice}")
    tls = scheme == "https"
    if ssl and not tls:
        raise InvalidRequest(
            f"ssl=True contradicts the scheme of {url!r}: drop the scheme, or write https://"
        )
    port = int(match["port"] or (443 if tls else 80))
    if not 0 < port < 1 << 16:
        raise InvalidRequest(f"expected a port from 1 to 65535, got {port} in {url!r}")
    from urllib.parse import quote, unquote  # slow to import

    host = match["literal"]
    if host is None:
        host = ascii_host(match["host"])
    elif ":" not in host or ip_address(host) is None:
        raise InvalidRequest(f"expected an IPv6 address in the brackets, got {host!r} in {stripped!r}")
    elif match["zone"]:
        host = f"{host}%{unquote(match['zone'])}"
    path = (match["path"] or "").rstrip("/")
    try:
        return Address(host, port, tls, quote(path, safe=_SAFE_IN_PATH), has_port=bool(match["port"]))
    except UnicodeEncodeError as error:  # a lone surrogate
        raise InvalidRequest(f"the path of {stripped!r} is not valid text: {error}") from error


def _advice(url: Any) -> str:
    """Return the end of the message about something that is no URL, for usual mistakes."""
    if not isinstance(url, str):
        return f", {_article(type(url).__name__)}: a URL is a str, such as 'localhost:8000'"
    if "," in url or ";" in url:
        return ": several servers go as a list of URLs"
    if re.match(r"(?:https?://)?[^/?#]*@", url):
        return (
            ": credentials go to a plugin, client.register_plugin(tritonhttp.auth.BasicAuth(user, password))"
        )
    if _SCHEME_ALONE.match(url.strip()):
        return ": a scheme ends with ://"
    if re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", url.strip()):
        return ": an IPv6 address goes into brackets, '[::1]:8000'"
    if url.strip()[:1] == ":" or re.match(r"https?://:", url):
        return ": the host is missing, such as in 'localhost:8000'"
    if "?" in url:
        return ": a query goes with each call, as query_params={…}"
    return ""


def _article(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiouAEIOU' else 'a'} {word}"


def ascii_host(given: str) -> str:
    """Return a name with its international labels as A-labels (RFC 5890), an IPv4 address in its usual form.

    Raises
    ------
    InvalidRequest
        For what can be no name: an empty label, one of more than 63 characters, characters that names do not have.
    """
    try:
        name = given
        if "%" in given:
            from urllib.parse import unquote

            name = unquote(given, errors="strict")
        *labels, last = map(_a_label, _DOTS.split(name))
        host = ".".join((*labels, last))
        if _NO_HOST.search(host):
            raise UnicodeError("it has characters that names do not have")
        if "" in labels or not (labels or last):
            raise UnicodeError("a label between the dots is empty")
        if max(map(len, (*labels, last))) > 63:
            raise UnicodeError("a label between the dots has more than 63 characters")
        if len(host.removesuffix(".")) > 253:
            raise UnicodeError("it has more than 253 characters")
    except UnicodeError as error:
        raise InvalidRequest(f"expected the name of a host, got {given!r}: {error}") from error
    if _NUMBERS.fullmatch(host):
        try:
            return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
        except OSError:
            if not labels:
                return host  # a container may have such a name
            raise InvalidRequest(f"expected an IPv4 address or a name, got {given!r}") from None
    return host


def _a_label(label: str) -> str:
    if label.isascii():
        return label
    from encodings.idna import ToASCII, nameprep

    if not _KEPT.search(label):
        return ToASCII(label).decode("ascii")
    kept = "".join(part if _KEPT.match(part) else nameprep(part) for part in _KEPT.split(label))
    return f"xn--{kept.encode('punycode').decode('ascii')}"


def ip_address(host: str) -> IPv4Address | IPv6Address | None:
    """Return an address literal as an address, without its zone; None for a name."""
    from ipaddress import IPv6Address, ip_address

    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _unix_address(path: str, ssl: bool) -> Address:
    url = f"unix://{path}"
    if not path.startswith("/") or not path.strip("/") or "\0" in path:
        raise InvalidRequest(f"expected a URL of the form unix:///path/to.sock, got {url!r}")
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidRequest(f"this system has no unix domain sockets: {url!r}")
    if ssl:
        raise InvalidRequest(f"ssl=True contradicts {url!r}: there is no TLS on a unix domain socket")
    return Address("localhost", 80, False, "", path)
