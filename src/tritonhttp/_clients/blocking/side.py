"""How the blocking client differs where one text serves both clients; the twin of `awaited/side.py`."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from ..._protocol.bodies import status_of
from ..._transport.blocking_pool import Bell
from ..._transport.failures import cancelled, unpack_timeout
from ..._transport.policy import Moment
from ..._transport.pool import Place
from ..._wire.responses import Response
from ...errors import InvalidRequest, TransportError
from ..advice import Instead

if TYPE_CHECKING:
    from ..._protocol.generation import StreamBase

__all__ = ["as_answer", "finish_plugin", "guarded", "leave", "mark", "pause", "plain", "rest"]

K = TypeVar("K", bound=Any)


def as_answer(response: Response) -> Response:
    """Return a response for those who call `_get` or `_post`: as it is."""
    return response


def plain(response: Any) -> Any:
    """Return what a replaced `_get` or `_post` gave, as it is if it has a status."""
    if not isinstance(response, Response):
        status_of(response)
    return response


def mark(error: TransportError) -> None:
    """Leave an error as it is: only the reference's asyncio client raises errors of another library."""


def finish_plugin(outcome: Any, until: Moment | None) -> None:
    """Refuse a plugin that is a coroutine."""
    if hasattr(outcome, "close"):
        outcome.close()
    raise InvalidRequest("the plugin is a coroutine, which needs tritonhttp.aio: use a plain function here")


def pause(asked: tuple[str, ...], until: Moment | None) -> None:
    """Raise between two slices of an answer's body if the call's time is over."""
    if until is not None and monotonic() >= until:
        raise unpack_timeout(asked, until)


def leave(stream: StreamBase) -> None:
    """End a stream: at once, or through the thread that has the turn."""
    asker = object()
    try:
        stream._askers.append(asker)
        if stream._askers[0] is asker:
            stream._close()
        elif stream._stream is not None:
            stream._stream.interrupt()
        stream._end_turn(asker)
    except BaseException as error:
        stream._failed(asker, error)
        raise


def rest(place: Place[Any], seconds: float) -> None:
    """Pause a call between two tries; raise RequestCancelled if it is cancelled meanwhile."""
    place.wake = bell = Bell()
    try:
        if not place.cancelled:
            bell.wait(seconds)
    finally:
        place.wake = None
    if place.cancelled:
        raise cancelled()


def guarded(kind: K) -> K:
    """Let a class say which block it is for where it is used with the other one."""
    kind.__aenter__ = Instead(
        "this is the blocking client's: write `with`,"
        " or take the asyncio client, tritonhttp.aio.InferenceServerClient, for `async with`"
    )
    return kind
