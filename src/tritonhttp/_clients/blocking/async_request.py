"""Handles of running inferences, and the task behind a handle of `async_infer`."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..._basics.quantities import real
from ..._protocol import operations
from ..._protocol.result import InferResult
from ...errors import InferenceServerException, InvalidRequest

__all__ = ["InferAsyncRequest", "Pending"]


class InferAsyncRequest:
    """A handle of a running inference.

    Parameters
    ----------
    greenlet
        An object whose ``get(block=…, timeout=…)`` returns the response: the object that `async_infer` makes, a
        ``gevent.Greenlet``, or a queue.
    verbose : bool
        Show the response's JSON on stdout.
    """

    def __init__(self, greenlet: Any, verbose: bool = False) -> None:
        self._greenlet = greenlet
        self._verbose = verbose

    def get_result(self, block: bool = True, timeout: float | None = None) -> InferResult:
        """Return the inference's result. Any thread may call this, any number of times.

        Parameters
        ----------
        block : bool
            Whether to wait for the result.
        timeout : float, optional
            The longest wait in seconds; None waits without limit. Ignored if `block` is False.

        Raises
        ------
        InferenceServerException
            If the inference failed, or its result did not arrive in time.
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

    def done(self) -> bool:
        """Return whether the inference has ended, with a result or an error, so that `get_result` does not wait.

        For another library's greenlet this is its ``ready()``.
        """
        return bool(self._greenlet.ready())


def _is_timeout(error: BaseException) -> bool:
    """Return whether the `get` of a greenlet or queue timed out. gevent's Timeout is not an Exception."""
    optional = (("gevent", "Timeout"), ("queue", "Empty"))
    kinds = [getattr(sys.modules.get(module), name, None) for module, name in optional]
    known = (TimeoutError, *(kind for kind in kinds if isinstance(kind, type)))
    return isinstance(error, known) and not isinstance(error, InferenceServerException)


class Pending:
    """A task and its result, in the form that :class:`InferAsyncRequest` expects.

    Parameters
    ----------
    task : callable
        Returns the result, or raises.
    until : float or None
        The task's deadline on the monotonic clock.
    late : callable, optional
        Called if the deadline passes before the task has begun; returns the error.
    """

    def __init__(
        self,
        task: Callable[[], InferResult],
        until: float | None = None,
        late: Callable[[Pending], BaseException] | None = None,
    ) -> None:
        self._until, self._late = until, late
        #: None after the task has ended.
        self._task: Callable[[], InferResult] | None = task
        self._result: InferResult | None = None
        self._error: BaseException | None = None
        #: Claims on the task; the first one wins.
        self._claims: list[str] = []
        #: Held until the task has ended.
        self._running = threading.Lock()
        self._running.acquire()

    def run(self) -> None:
        """Run the task once, unless it was withdrawn."""
        task = self._task
        if self._claim("run") or task is None:
            return
        try:
            self._result = task()
        except BaseException as error:
            self._error = error
        finally:
            self._task = None
            self._end()
            del self, task  # the error's traceback holds this frame

    def _end(self) -> None:
        try:  # noqa: SIM105  contextlib's suppress would take three frames of each call
            self._running.release()
        except RuntimeError:  # a waiting thread has released it already
            pass

    def withdraw(self) -> bool:
        """Prevent the task from running; return False if it has begun."""
        return not self._claim("withdraw")

    def _claim(self, name: str) -> bool:
        """Claim the task; return whether another claim came first."""
        self._claims.append(name)
        return self._claims[0] != name

    def ready(self) -> bool:
        return self._task is None

    @property
    def is_begun(self) -> bool:
        """Whether the task was started or withdrawn."""
        return bool(self._claims)

    def get(self, block: bool = True, timeout: float | None = None) -> InferResult:
        if self._task is not None:
            limit = math.inf
            if not block:
                limit = 0.0
            elif timeout is not None:
                seconds = real(timeout)
                if seconds is None or seconds != seconds:
                    raise InvalidRequest(f"timeout must be a number of seconds, or None; got {timeout!r}")
                limit = max(seconds, 0.0)
            if not self._wait(limit):
                raise TimeoutError
        try:
            if self._error is not None:
                raise self._error
            assert self._result is not None
            return self._result
        finally:
            del self

    def _wait(self, seconds: float) -> bool:
        """Wait for the task's end. A task that has not begun by its deadline is ended here."""
        end = monotonic() + seconds
        if self._until is not None and self._until <= end:
            if self._acquire(max(0.0, self._until - monotonic())):
                return True
            if self._late is not None and self.withdraw():
                self._error = self._late(self)
                self._task = None
                self._end()
                return True
        return self._acquire(max(0.0, end - monotonic()))

    def _acquire(self, seconds: float) -> bool:
        limit = -1 if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX)
        try:
            return self._running.acquire(timeout=limit)
        finally:
            if self._task is None:
                self._end()  # wakes the next waiting thread
