"""The handle of an inference under way, over whatever will give its response."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import operations
from .errors import InferenceServerException
from .tensors import InferResult

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["InferAsyncRequest", "Pending"]


class InferAsyncRequest:
    """A handle of an inference under way.

    Parameters
    ----------
    greenlet
        Anything whose ``get(block=…, timeout=…)`` gives the response: what `async_infer` makes, a
        ``gevent.Greenlet``, a queue.
    verbose : bool
        Show the response's JSON on stdout.
    """

    def __init__(self, greenlet: Any, verbose: bool = False) -> None:
        self._greenlet = greenlet
        self._verbose = verbose

    def get_result(self, block: bool = True, timeout: float | None = None) -> InferResult:
        """Return the inference's result; from any thread, any number of times.

        Parameters
        ----------
        block : bool
            Wait for it.
        timeout : float, optional
            How long to wait, in seconds; None: until it is there. Without meaning when `block` is False.

        Raises
        ------
        InferenceServerException
            If the inference failed, or its result is not there in time.
        """
        try:
            found = self._greenlet.get(block=block, timeout=timeout)
        except BaseException as error:
            if _is_timeout(error):
                raise InferenceServerException("failed to obtain inference response") from None
            raise
        if isinstance(found, InferResult):
            return found
        operations.check(found)
        return InferResult(found, self._verbose)


class _NotYet(Exception):
    """The result is not there in time."""


def _is_timeout(error: BaseException) -> bool:
    """Whether a greenlet's or a queue's `get` ran out of time; gevent's Timeout is no Exception."""
    if isinstance(error, InferenceServerException):
        return False
    if isinstance(error, (_NotYet, TimeoutError)):
        return True
    classes = (
        getattr(sys.modules.get("gevent"), "Timeout", None),
        getattr(sys.modules.get("queue"), "Empty", None),
    )
    return isinstance(error, tuple(each for each in classes if isinstance(each, type)))


class Pending:
    """A future as what :class:`InferAsyncRequest` expects."""

    def __init__(self, future: Future[InferResult]) -> None:
        self._future = future

    def get(self, block: bool = True, timeout: float | None = None) -> InferResult:
        if not self._future.done():
            from concurrent.futures import wait

            if not block or not wait([self._future], timeout).done:
                raise _NotYet
        return self._future.result()
