"""How the blocking client runs a model's inferences side by side: on threads; twin of `awaited/parallel.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ..._transport.policy import UNSET, Moment
from ...errors import InferenceServerException
from ..model_base import CallOptions, Flow, ModelBase, Outputs, Several
from ..model_base import iterator as iterated
from .async_request import InferAsyncRequest

__all__ = ["Parallel", "iterated"]

T = TypeVar("T")


class Parallel(ModelBase):
    """The part of a model that has several inferences under way."""

    if TYPE_CHECKING:  # the model defines it

        def _drive(self, flow: Flow[T], options: CallOptions) -> T: ...

    def _map(
        self, items: Iterator[Any], limit: int, copy: bool, return_exceptions: bool, options: CallOptions
    ) -> Generator[Outputs | InferenceServerException, None, None]:
        waiting: deque[InferAsyncRequest | Outputs | Exception] = deque()
        more = True
        try:
            while True:
                while more and len(waiting) < limit and not (waiting and _is_there(waiting[0])):
                    found = self._begin(items, copy, options)
                    if found is not None:
                        waiting.append(found)
                    more = found is not None and (return_exceptions or not isinstance(found, Exception))
                if not waiting:
                    return
                yield self._outcome(waiting.popleft(), return_exceptions)
        except Exception:
            for each in waiting:
                if isinstance(each, InferAsyncRequest):
                    with suppress(Exception):
                        each.get_result()
            raise

    def _begin(
        self, items: Iterator[Any], copy: bool, options: CallOptions
    ) -> InferAsyncRequest | Outputs | Exception | None:
        """Start the next item's inference; return None behind the last one."""
        client = self._client
        try:
            for item in items:
                step = self._drive(self._item(item, copy, options), options)
                if isinstance(step, Outputs):
                    return step
                until = client._until(options.get("deadline", UNSET))
                headers, query_params = options.get("headers"), options.get("query_params")
                started: InferAsyncRequest = client._start(step, headers, query_params, until, copy=False)
                return started
        except Exception as error:
            return error
        return None

    def _outcome(
        self, found: InferAsyncRequest | Outputs | Exception, return_exceptions: bool
    ) -> Outputs | InferenceServerException:
        try:
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, Outputs) else Outputs(found.get_result())
        except Exception as error:
            return self._failed(error, return_exceptions)

    def _carry_out(
        self,
        several: Several,
        headers: Mapping[str, Any] | None,
        query_params: Mapping[str, Any] | None,
        until: Moment | None,
    ) -> None:
        client = self._client
        waiting: deque[tuple[int, Any]] = deque()
        try:
            for start, inference in several.inferences:
                # More than there are threads, so that no thread waits for who waits for an older one.
                if len(waiting) >= 2 * client._workers:
                    first, handle = waiting.popleft()
                    several.add(first, handle.get_result())
                handle = client._start(inference, headers, query_params, until, copy=False)
                waiting.append((start, handle))
            while waiting:
                first, handle = waiting.popleft()
                several.add(first, handle.get_result())
        finally:
            for _, handle in waiting:
                with suppress(InferenceServerException):
                    handle.get_result()


def _is_there(found: InferAsyncRequest | Outputs | Exception) -> bool:
    return not isinstance(found, InferAsyncRequest) or found.done()
