"""What programs for the reference know of aiohttp: the form of its responses, and the classes of its errors.

Nothing here imports aiohttp; its errors count where the program has imported it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Generator
from email.message import Message
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ... import errors
from ..._protocol import operations
from ..._protocol.bodies import octets, status_of
from ..._wire import jsonio
from ..._wire.responses import Response, ResponseHead
from ...errors import ConnectError, ConnectionLost, DeadlineExceeded, NameResolutionError, TransportError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Answer", "mark", "plain"]


class _Read(bytes):
    """A body that is there, for those who await it."""

    def __await__(self) -> Generator[Any, None, bytes]:
        return bytes(self)
        yield


class _Headers(dict[str, str]):
    """Headers that are found under their names in any case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class Answer(Response):
    """A response for those who call `_get` or `_post`: as ours, and as the reference's, which is aiohttp's."""

    __slots__ = ("attempts",)

    @classmethod
    def of(cls, response: Response) -> Answer:
        head = copy.copy(response.head)
        head.headers = _Headers(head.headers)
        answer = cls(head, response.body, response.limit)
        answer.attempts, answer.asked = response.attempts, response.asked
        return answer

    @property
    def status(self) -> int:
        return self.status_code

    @property
    def ok(self) -> bool:
        return self.status_code < 400

    @property
    def content_type(self) -> str:
        return self._content_type.get_content_type()

    @property
    def charset(self) -> str | None:
        return self._content_type.get_content_charset()

    @property
    def _content_type(self) -> Message:
        message = Message()
        message["Content-Type"] = self.get("Content-Type", "application/octet-stream")
        return message

    @property
    def url(self) -> str:
        return "".join(self.asked[1:3])

    @property
    def host(self) -> str | None:
        return urlsplit(self.url).hostname

    #: It has been received as a whole, and not by way of other URLs.
    closed, history = True, ()

    def get_encoding(self) -> str:
        return self.charset or "utf-8"

    def raise_for_status(self) -> None:
        if not self.ok:
            operations.check(self)

    def read(self, length: int | None = -1) -> _Read:
        """Return the next bytes of the body, or the rest of it; behind its end all of it again, as there."""
        if self._position == len(self.body):
            self._position = 0
        return _Read(super().read(length))

    async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
        return bytes(self.body).decode(encoding or self.get_encoding(), errors)

    async def json(self, *, loads: Callable[[str], Any] | None = None, **options: Any) -> Any:
        if loads is not None:
            return loads(await self.text(options.get("encoding")))
        if not bytes(self.body).strip():
            return None
        return jsonio.loads(self.body, "the server's response")

    def release(self) -> _Read:
        """Return something that may be awaited, as there: the connection is free already."""
        return _Read()

    def close(self) -> None:
        """Do nothing: the connection is free already."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


async def plain(response: Any) -> Any:
    """Return what a replaced `_get` or `_post` gave, a response in aiohttp's form as one of ours."""
    if isinstance(response, Response):
        return response
    if not hasattr(response, "status"):
        status_of(response)
        return response
    body = response.read()
    headers = getattr(response, "headers", {})
    head = ResponseHead(response.status, {str(name).lower(): value for name, value in headers.items()})
    if hasattr(body, "__await__"):
        body = await body
    return Response(head, octets(body, f"{type(response).__name__}.read()", head))


def mark(error: TransportError) -> None:
    """Let an error be aiohttp's as well, where the program has imported that and may name it in ``except``."""
    aiohttp = sys.modules.get("aiohttp")
    base = None if aiohttp is None else getattr(aiohttp, _name(error), None)
    if base is not None and not isinstance(error, base):
        place = urlsplit(error.url)
        tls = place.scheme == "https"
        key = SimpleNamespace(
            host=place.hostname, port=place.port or (443 if tls else 80), ssl=tls, is_ssl=tls
        )
        error.__class__ = _both(type(error), base)  # type: ignore[arg-type,unused-ignore]
        # What aiohttp's own properties look into.
        error.__dict__.update(_conn_key=key, _os_error=error, _certificate_error=error)
        if _is_mismatch(error):
            found = vars(error.__cause__)
            error.__dict__.update(expected=found["expected"], got=found["got"], host=key.host, port=key.port)


def _name(error: TransportError) -> str:
    if isinstance(error, DeadlineExceeded):
        return ""  # there too, what takes too long is asyncio.TimeoutError
    if isinstance(error, NameResolutionError):
        return "ClientConnectorDNSError"
    if isinstance(error, ConnectError):
        if isinstance(error, errors.CertificateError):
            return "ServerFingerprintMismatch" if _is_mismatch(error) else "ClientConnectorCertificateError"
        return "ClientConnectorSSLError" if isinstance(error, errors.TLSError) else "ClientConnectorError"
    return "ServerDisconnectedError" if isinstance(error, ConnectionLost) else ""


def _is_mismatch(error: TransportError) -> bool:
    """Return whether a certificate had another fingerprint than the caller's; see `tls.aiohttp_context`."""
    return hasattr(error.__cause__, "expected")


_THEIRS = ("_conn_key", "_os_error", "_certificate_error", "expected", "got", "host", "port")


@lru_cache(maxsize=32)
def _both(ours: type[TransportError], theirs: type[Exception]) -> type[TransportError]:
    def reduce(self: TransportError) -> tuple[Any, ...]:
        # Another process gets ours: it may not have aiohttp.
        state = {name: value for name, value in vars(self).items() if name not in _THEIRS}
        return ours.__new__, (ours, *self.args), state

    return type(ours.__name__, (ours, theirs), {"__module__": ours.__module__, "__reduce__": reduce})
