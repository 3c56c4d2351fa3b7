"""What a subclass, an instance or a test has replaced of a client, and its plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from .._basics.log import logger
from .._calls.safety import may_run_twice
from .._protocol import operations
from .._protocol.encoder import Encoder, refuse_framing
from .._protocol.inference import Inference
from .._protocol.operations import Endpoint, Operation
from .._wire.requests import Buffer
from .._wire.responses import Response
from ..plugins import InferenceServerClientPlugin, Request

if TYPE_CHECKING:
    from .._transport.policy import Moment
    from .._transport.pool import Place

__all__ = ["DEBUG", "Overrides", "undecoded"]

DEBUG = 10  # logging's level

#: The operation that a replaced `_get` or `_post` carries out, when it must end, and the call's place.
_replaced_for: ContextVar[tuple[Operation[Any], Moment | None, Place[Any] | None] | None] = ContextVar(
    "_replaced_for", default=None
)


class Overrides:
    """The part of a client that finds out what is replaced of it."""

    #: The library's own `_get` and `_post`.
    _originals: ClassVar[dict[str, Any]]
    _plugin: InferenceServerClientPlugin | None
    _encoder: Encoder

    def __init__(self) -> None:
        kind = type(self)
        #: Whether a subclass wants to see each request.
        self._customized = (
            kind._call_plugin is not Overrides._call_plugin
            or kind._validate_headers is not Overrides._validate_headers
        )

    def _call_plugin(self, request: Request) -> Any:
        """Let the plugin change the request, if there is one; return what it returned."""
        return None if self._plugin is None else self._plugin(request)

    def _validate_headers(self, headers: Mapping[str, Any] | None) -> None:
        """Refuse headers that the client has to write itself.

        Raises
        ------
        InferenceServerException
            For Transfer-Encoding, which would contradict the body's framing.
        """
        for name in headers or ():
            if isinstance(name, str) and name.lower() == "transfer-encoding":
                raise refuse_framing()

    def _replaced(
        self,
        operation: Operation[Any],
        headers: Mapping[str, Any] | None,
        query_params: Mapping[str, Any] | None,
    ) -> Callable[[], Any] | None:
        """Return the call of the `_get` or `_post` that a subclass, the instance or a test brings, or None."""
        name = "_get" if operation.method == "GET" else "_post"
        if name not in self.__dict__ and getattr(type(self), name) is self._originals[name]:
            return None
        arguments: dict[str, Any] = {
            "request_uri": operation.path,
            "headers": self._encoder.call_headers(operation, headers)[0] or None,
            "query_params": query_params,
        }
        if name == "_post":
            written = operation.written() if isinstance(operation, Inference) else operation
            arguments["request_body"] = b"".join(written.body)
        return partial(getattr(self, name), **arguments)

    @staticmethod
    @contextmanager
    def _replacing(
        operation: Operation[Any], until: Moment | None, place: Place[Any] | None
    ) -> Iterator[None]:
        """Let our own `_get` and `_post` know what it is that a replaced one hands to them."""
        token = _replaced_for.set((operation, until, place))
        try:
            yield
        finally:
            _replaced_for.reset(token)

    @staticmethod
    def _resumed(
        handed: Endpoint[Response], default: Moment | None
    ) -> tuple[Operation[Response], Moment | None, Place[Any] | None]:
        """Recover the original operation, its deadline and its place behind a replaced `_get` or `_post`."""
        meant, until, place = _replaced_for.get() or (None, None, None)
        if meant is None or (meant.method, meant.path) != (handed.method, handed.path):
            return handed, default, None
        # What was handed over may have been changed, so that there is no renewing it.
        idempotent = may_run_twice(meant) and meant.renew is None
        known = {name: getattr(meant, name) for name in ("anywhere", "sequence", "request_id")}
        return replace(handed, idempotent=idempotent, **known), until, place

    @staticmethod
    def _posted(
        request_uri: str, request_body: Buffer | str, headers: Mapping[str, Any] | None
    ) -> Endpoint[Response]:
        """Return the operation of a body that somebody else made: what ends its JSON head says what it is."""
        body = request_body.encode() if isinstance(request_body, str) else request_body
        content_type = operations.JSON if body else None
        if any(str(name).lower() == "inference-header-content-length" for name in headers or ()):
            content_type = operations.BINARY
        return Endpoint("POST", request_uri, undecoded, (body,), (), content_type)

    def _is_watched(self) -> bool:
        """Return whether anybody wants to see, change or carry out this client's requests."""
        kind, own, mine = type(self), self._originals, self.__dict__
        return (
            self._plugin is not None
            or self._customized
            or kind._post is not own["_post"]  # type: ignore[attr-defined]
            or kind._get is not own["_get"]  # type: ignore[attr-defined]
            or "_post" in mine
            or "_get" in mine
            or "_call_plugin" in mine
            or "_validate_headers" in mine
            or logger.isEnabledFor(DEBUG)
        )


def undecoded(response: Response) -> Response:
    return response
