"""Runs a model's inferences concurrently, on threads. The twin of `awaited/parallel.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import Any

from ..._calls.flow import Throttle, is_overload
from ..._protocol.inference import Inference
from ..._protocol.result import InferResult
from ..._transport.policy import Moment
from ..given import iterator as iterated
from ..model_base import Several
from .async_request import InferAsyncRequest as Running

__all__ = ["Ends", "Running", "carry_out", "is_done", "iterated", "result", "settle", "start"]

Headers = Mapping[str, Any] | None


class Ends:
    """The ends of a map's inferences, in their order; its control is told of each."""

    def __init__(self, throttle: Throttle | None) -> None:
        self._throttle = throttle
        self._ended: SimpleQueue[tuple[int, float, float, object]] = SimpleQueue()

    def __len__(self) -> int:
        return self._ended.qsize()

    def watch(self, number: int, found: object) -> None:
        """Wait for the end of an inference that has begun just now; what is no inference has ended."""
        begun = monotonic()
        if isinstance(found, Running):
            found.add_done_callback(lambda ended: self._end(number, begun, ended))
        else:
            self._ended.put((number, begun, begun, None))

    def _end(self, number: int, begun: float, ended: Future[InferResult]) -> None:
        error = None if ended.cancelled() else ended.exception()
        self._ended.put((number, begun, monotonic(), error))

    def first(self) -> int:
        """Wait for an inference to end; return its number."""
        return self._tell(*self._ended.get())

    def tell_all(self) -> None:
        """Tell the control of all that have ended."""
        while self._ended.qsize():
            self._tell(*self._ended.get())

    def _tell(self, number: int, begun: float, now: float, error: object) -> int:
        if self._throttle is not None and now > begun:
            self._throttle.finished(now, now - begun, error is None, is_overload(error))
        return number


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
