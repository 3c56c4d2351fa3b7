"""The bodies of responses without their content codings: of this library's responses, and of other objects.

A response of this library can be decompressed in slices first (:class:`Unpacked`), so that its call can look at
the time in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import iscoroutine
from typing import Any

from .._basics.quantities import integer
from .._wire import compression
from .._wire.requests import Buffer
from .._wire.responses import Response, ResponseHead
from ..errors import ProtocolError

__all__ = ["Unpacked", "octets", "plain_body", "status_of", "taken"]

#: The most bytes of an error's text.
_MAX_ERROR = 1 << 24


def plain_body(response: Any) -> Buffer:
    """Return a response's body without its content codings.

    Raises
    ------
    ProtocolError
        If it cannot be decompressed, or exceeds the limit, or the object is no response.
    """
    if isinstance(response, Unpacked):
        if response.failure is not None:
            raise response.failure
        return response.plain
    ours = response if isinstance(response, Response) else taken(response)
    encoding = ours.head.encoding
    return compression.decompress(ours.body, encoding, _limit(ours)) if encoding else ours.body


def _limit(response: Response) -> int | None:
    limit = response.limit
    if 200 <= response.head.status < 300:
        return limit
    return _MAX_ERROR if limit is None else min(limit, _MAX_ERROR)


class Unpacked(Response):
    """A response that is decompressed in slices. It looks as it came; :func:`plain_body` gives what was in it."""

    __slots__ = ("attempts", "failure", "plain")

    def __init__(self, response: Response) -> None:
        super().__init__(response.head, response.body, response.limit)
        self.asked, self.attempts = response.asked, response.attempts
        self.plain: Buffer = b""
        #: Why it cannot be decompressed. Not every operation reads the body.
        self.failure: ProtocolError | None = None

    def slices(self) -> Iterator[None]:
        """Decompress the body, yielding between two slices of bounded work."""
        pieces: list[Buffer] = []
        try:
            for piece in compression.slices(self.body, self.head.encoding or "", _limit(self)):
                if pieces:
                    yield
                pieces.append(piece)
        except ProtocolError as error:
            self.failure = error
        else:
            self.plain = pieces[0] if len(pieces) == 1 else b"".join(pieces)


# -- objects that are used as responses -------------------------------------------------------------


def status_of(response: Any) -> int:
    """Return the status of any object that is used as a response, or raise ProtocolError."""
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):
        raise ProtocolError(
            "expected a response with status_code, get(name) and read(), got"
            f" {type(response).__name__} with status_code {status!r:.100}"
        )
    return status


def taken(response: Any) -> Response:
    """Return any object with ``get(name)`` and ``read()`` as a response of this library.

    Raises
    ------
    ProtocolError
        If it is no such object, or these return something else than a header and a body.
    """
    if not (callable(getattr(response, "get", None)) and callable(getattr(response, "read", None))):
        raise ProtocolError(
            f"expected a response with get(name) and read(), got {type(response).__name__}"
            " (for a body there is InferResult.from_response_body)"
        )
    headers = {}
    for name in ("Content-Encoding", "Inference-Header-Content-Length"):
        value = response.get(name)
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if value is None:
            continue
        if not isinstance(value, str) and (name == "Content-Encoding" or integer(value) is None):
            _close(value)
            raise ProtocolError(
                f"{type(response).__name__}.get({name!r}): expected the header as text, or None;"
                f" got {type(value).__name__}"
            )
        headers[name.lower()] = str(value)
    status = getattr(response, "status_code", 200)
    head = ResponseHead(status if isinstance(status, int) else 200, headers)
    return Response(head, octets(response.read(), f"{type(response).__name__}.read()", head))


def octets(body: Any, source: str, head: ResponseHead) -> Buffer:
    """Return a body as bytes, or as a view of them; text only where it cannot be anything but JSON.

    Raises
    ------
    ProtocolError
        For anything else.
    """
    if isinstance(body, (bytes, bytearray)):
        return body
    if isinstance(body, str):
        if head.json_size is None and not compression.is_coded(head.encoding or ""):
            return body.encode("utf-8", "surrogatepass")
        raise ProtocolError(
            f"{source}: expected bytes, got str: a body with"
            f" {'tensors behind its JSON' if head.json_size is not None else 'a content coding'} is not text"
        )
    if hasattr(body, "__await__"):
        _close(body)
        raise ProtocolError(
            f"{source}: expected bytes, got {type(body).__name__}: await it, and give the body to"
            " InferResult.from_response_body"
        )
    try:
        view = memoryview(body)
        if not view.nbytes:
            return b""
        return view.cast("B") if view.c_contiguous else view.tobytes()
    except (TypeError, ValueError):
        raise ProtocolError(f"{source}: expected bytes, got {type(body).__name__}") from None


def _close(value: Any) -> None:
    """Keep Python from warning that a coroutine was never awaited."""
    if iscoroutine(value):
        value.close()
