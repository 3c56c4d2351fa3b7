"""What programs for the reference know of aiohttp: the form of its responses, and the classes of its errors.

Nothing here imports aiohttp; its errors count where the program has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from ... import errors
from ..._wire import jsonio
from ..._wire.http1 import Response, ResponseHead
from ...errors import ConnectError, ConnectionLost, DeadlineExceeded, NameResolutionError, TransportError

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
        head = ResponseHead(response.status_code, _Headers(response.headers), response.reason)
        answer = cls(head, response.body, response.limit)
        answer.attempts, answer.asked = response.attempts, response.asked
        return answer

    @property
    def status(self) -> int:
        return self.status_code

    def read(self, length: int | None = -1) -> _Read:
        return _Read(super().read(length))

    async def text(self) -> str:
        return bytes(self.body).decode()

    async def json(self, **options: Any) -> Any:
        return jsonio.loads(self.body, "the server's response")


async def plain(response: Any) -> Any:
    """Return what a replaced `_get` or `_post` gave, a response in aiohttp's form as one of ours."""
    if isinstance(response, Response) or not hasattr(response, "status"):
        return response
    body = response.read()
    headers = getattr(response, "headers", {})
    head = ResponseHead(response.status, {str(name).lower(): value for name, value in headers.items()})
    return Response(head, await body if hasattr(body, "__await__") else body)


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


def _name(error: TransportError) -> str:
    if isinstance(error, DeadlineExceeded):
        return ""  # there too, what takes too long is asyncio.TimeoutError
    if isinstance(error, NameResolutionError):
        return "ClientConnectorDNSError"
    if isinstance(error, ConnectError):
        if isinstance(error, errors.CertificateError):
            return "ClientConnectorCertificateError"
        return "ClientConnectorSSLError" if isinstance(error, errors.TLSError) else "ClientConnectorError"
    return "ServerDisconnectedError" if isinstance(error, ConnectionLost) else ""


_THEIRS = ("_conn_key", "_os_error", "_certificate_error")


@lru_cache(maxsize=32)
def _both(ours: type[TransportError], theirs: type[Exception]) -> type[TransportError]:
    def reduce(self: TransportError) -> tuple[Any, ...]:
        # Another process gets ours: it may not have aiohttp.
        state = {name: value for name, value in vars(self).items() if name not in _THEIRS}
        return ours.__new__, (ours, *self.args), state

    return type(ours.__name__, (ours, theirs), {"__module__": ours.__module__, "__reduce__": reduce})
