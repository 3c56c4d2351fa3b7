"""Plugins that authenticate. Register one with ``client.register_plugin(…)`` on either client.

Credentials never appear in logs, representations or errors. They are sent only to the client's own servers,
because the library does not follow redirects.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from ._wire.requests import header_line
from .errors import InvalidRequest
from .plugins import InferenceServerClientPlugin, Request

__all__ = ["ApiKeyAuth", "BasicAuth", "BearerAuth"]


class BasicAuth(InferenceServerClientPlugin):
    """Authenticate with a user name and a password (RFC 7617).

    Both must be ASCII, as in the reference, because servers do not agree on another encoding.

    Parameters
    ----------
    username, password : str

    Raises
    ------
    InvalidRequest
        For non-ASCII characters, and for a colon in the user name.
    """

    def __init__(self, username: str, password: str) -> None:
        for field, text in (("username", username), ("password", password)):
            if not isinstance(text, str) or not text.isascii():
                raise InvalidRequest(f"the {field} of BasicAuth must be a str of ASCII characters")
        if ":" in username:
            raise InvalidRequest("the username of BasicAuth must not hold a colon")
        self._value = "Basic " + b64encode(f"{username}:{password}".encode("ascii")).decode("ascii")

    def __call__(self, request: Request) -> None:
        request.headers["authorization"] = self._value


class BearerAuth(InferenceServerClientPlugin):
    """Authenticate with a token (RFC 6750).

    Parameters
    ----------
    token : str or callable
        The token, or a function that returns it. The function is called before each request, so it can refresh the
        token. With the asyncio client it can be a coroutine function.
    """

    def __init__(self, token: str | Callable[[], str] | Callable[[], Awaitable[str]]) -> None:
        if isinstance(token, str):
            _checked_token(token)
        elif not callable(token):
            raise InvalidRequest(
                f"the token of BearerAuth must be a str or callable, got {type(token).__name__}"
            )
        self._token: Any = token

    def __call__(self, request: Request) -> Awaitable[None] | None:
        token = self._token if isinstance(self._token, str) else self._token()
        if isinstance(token, Awaitable):
            return _PendingToken(token, request)
        _set_bearer(request, token)
        return None


class _PendingToken:
    """Sets the header when the token is awaited; the blocking client closes it instead."""

    def __init__(self, token: Awaitable[str], request: Request) -> None:
        self._token = token
        self._request = request

    def __await__(self) -> Generator[Any, None, None]:
        _set_bearer(self._request, (yield from self._token.__await__()))

    def close(self) -> None:
        if isinstance(self._token, Coroutine):
            self._token.close()


def _set_bearer(request: Request, token: str) -> None:
    request.headers["authorization"] = f"Bearer {_checked_token(token)}"


def _checked_token(token: Any) -> str:
    """Refuse a token that is not valid in a header, or comes with the scheme that is put before it."""
    found = _check(token, "the token of BearerAuth")
    if found[:7].lower() == "bearer ":
        raise InvalidRequest("the token of BearerAuth must be the token alone, without 'Bearer ' before it")
    return found


class _Key(str):
    """A secret header value, which its representation hides."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class ApiKeyAuth(InferenceServerClientPlugin):
    """Authenticate with a key in a header.

    Parameters
    ----------
    header : str
        The header's name, for example ``"X-API-Key"``.
    value : str
        The key.
    """

    def __init__(self, header: str, value: str) -> None:
        header_line(header, _check(value, "the value of ApiKeyAuth"))
        self._header = header
        self._value = _Key(value)

    def __call__(self, request: Request) -> None:
        request.headers[self._header] = self._value

    def __repr__(self) -> str:
        return f"ApiKeyAuth({self._header!r}, '***')"


def _check(value: Any, what: str) -> str:
    """Refuse a value that is not valid in a header. The error does not contain the value."""
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise InvalidRequest(f"{what} must be a str of printable ASCII characters")
    return value
