"""How the asyncio client differs where one text serves both clients; the twin of `blocking/side.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from ..._transport.asyncio_connect import timeout_at
from ..._transport.failures import over, unpack_timeout
from ..._transport.policy import Moment
from ..._transport.pool import Place
from ...errors import DeadlineExceeded
from ..advice import Instead
from .aiohttp_forms import Answer, mark, plain

if TYPE_CHECKING:
    from ..._protocol.generation import StreamBase

__all__ = ["as_answer", "finish_plugin", "guarded", "leave", "mark", "pause", "plain", "rest"]

K = TypeVar("K", bound=Any)

#: How a response looks to those who call `_get` or `_post`.
as_answer = Answer.of


async def finish_plugin(outcome: Awaitable[Any], until: Moment | None) -> None:
    """Wait for a plugin that is a coroutine."""
    limit = timeout_at(until)
    try:
        async with limit:
            await outcome
    except TimeoutError:
        if until is None or not limit.expired():
            raise  # the plugin's own
        raise DeadlineExceeded(
            f"timed out while waiting for the plugin: {over(until)}", phase="plugin"
        ) from None


async def pause(asked: tuple[str, ...], until: Moment | None) -> None:
    """Let other tasks run between two slices of an answer's body, and raise if the call's time is over."""
    await asyncio.sleep(0)
    if until is not None and asyncio.get_running_loop().time() >= until:
        raise unpack_timeout(asked, until)


def leave(stream: StreamBase) -> None:
    """End a stream: at once, or when the task that opens it has got so far."""
    if not stream._askers or stream._stream is not None:
        try:
            stream._close()
        except BaseException as error:
            stream._close(error)
            raise


async def rest(place: Place[Any], seconds: float) -> None:
    """Pause a call between two tries."""
    await asyncio.sleep(seconds)


def guarded(kind: K) -> K:
    """Let a class say which block it is for where it is used with the other one."""
    kind.__enter__ = Instead(
        "this is asyncio's: write `async with`,"
        " or take the blocking client, tritonhttp.InferenceServerClient, for `with`"
    )
    return kind
