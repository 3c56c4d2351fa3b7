"""The handle of an inference under way, over whatever will give its response."""

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

    def done(self) -> bool:
        """Return whether the inference has ended, well or not: `get_result` does not wait any more.

        For another greenlet than ours, whether its ``ready()`` is true.
        """
        return bool(self._greenlet.ready())


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


def _seconds(timeout: Any) -> float:
    limit = real(timeout)
    if limit is None or limit != limit:
        raise InvalidRequest(f"timeout must be a number of seconds, or None; got {timeout!r}")
    return limit


class Pending:
    """A task and its result, as what :class:`InferAsyncRequest` expects.

    Parameters
    ----------
    task : callable
        Returns the result, or raises.
    until : float or None
        When the task must end, on the monotonic clock.
    late : callable, optional
        Is called if that time passes before the task was begun; returns the error.
    """

    def __init__(
        self,
        task: Callable[[], InferResult],
        until: float | None = None,
        late: Callable[[Pending], BaseException] | None = None,
    ) -> None:
        self._until, self._late = until, late
        #: None once it has ended.
        self._task: Callable[[], InferResult] | None = task
        self._result: InferResult | None = None
        self._error: BaseException | None = None
        #: Who has come for the task; the first one has it.
        self._claims: list[str] = []
        #: Held until the task has ended.
        self._running = threading.Lock()
        self._running.acquire()

    def run(self) -> None:
        """Carry the task out, once, unless it was withdrawn."""
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
        except RuntimeError:  # whoever waited has let go of it
            pass

    def withdraw(self) -> bool:
        """See to it that the task is not carried out; return False where that has begun."""
        return not self._claim("withdraw")

    def _claim(self, name: str) -> bool:
        """Claim the task; return whether another one has it."""
        self._claims.append(name)
        return self._claims[0] != name

    def ready(self) -> bool:
        return self._task is None

    @property
    def is_begun(self) -> bool:
        """Whether somebody has come to carry the task out, or has withdrawn it."""
        return bool(self._claims)

    def get(self, block: bool = True, timeout: float | None = None) -> InferResult:
        if self._task is not None:
            limit = math.inf
            if not block:
                limit = 0.0
            elif timeout is not None:
                limit = max(_seconds(timeout), 0.0)
            if not self._wait(limit):
                raise _NotYet
        try:
            if self._error is not None:
                raise self._error
            assert self._result is not None
            return self._result
        finally:
            del self

    def _wait(self, seconds: float) -> bool:
        """Wait for the end of the task; one that was not begun in time ends here."""
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
        try:
            return self._running.acquire(
                True, -1 if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX)
            )
        finally:
            if self._task is None:
                self._end()  # for others that wait
