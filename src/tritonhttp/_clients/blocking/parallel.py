"""Runs a model's inferences concurrently, on threads. The twin of `awaited/parallel.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ..._protocol.inference import Inference
from ..._protocol.result import InferResult
from ..._transport.policy import Moment
from ..model_base import Several
from ..model_base import iterator as iterated
from .async_request import InferAsyncRequest as Running

__all__ = ["Running", "carry_out", "is_done", "iterated", "result", "settle", "start"]

Headers = Mapping[str, Any] | None


def start(
    client: Any, inference: Inference, headers: Headers, query_params: Headers, until: Moment | None
) -> Running:
    """Start an inference."""
    started: Running = client._start(inference, headers, query_params, until, copy=False)
    return started


def is_done(found: object) -> bool:
    """Return False for an inference that is still running."""
    return not isinstance(found, Running) or found.done()


def result(running: Running) -> InferResult:
    """Wait for an inference and return its result; cancel it if an interrupt ends the wait."""
    try:
        return running.get_result()
    except BaseException:
        running.cancel()
        raise


def settle(started: Iterable[Any], error: BaseException, items: object) -> None:
    """Cancel the inferences among these. Wait for those that cannot be, unless the error is an interrupt."""
    for each in reversed([*started]):  # first those in line, which would take the places of the others
        if isinstance(each, Running) and not each.cancel() and isinstance(error, Exception):
            with suppress(Exception):
                each.get_result()


def carry_out(
    client: Any, several: Several, headers: Headers, query_params: Headers, until: Moment | None
) -> None:
    """Run several inferences, as many at a time as the client has threads."""
    waiting: deque[tuple[slice, Running]] = deque()
    try:
        for rows, inference in several.inferences:
            # Submit twice as many inferences as threads, so that none idles behind a slow one.
            if len(waiting) >= 2 * client._workers:
                done, handle = waiting.popleft()
                several.add(done, result(handle))
            waiting.append((rows, start(client, inference, headers, query_params, until)))
        while waiting:
            done, handle = waiting.popleft()
            several.add(done, result(handle))
    except BaseException as error:
        settle([handle for _, handle in waiting], error, None)
        raise
