"""Handles of running inferences, and the task behind a handle of `async_infer`.

A handle is a future of `concurrent.futures`, but without its lock: each step that decides something is one step of
C, so an interrupt leaves nothing half decided. A client loads this module when it is made.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from time import monotonic
from typing import Any, NoReturn, TypeAlias

from ..._basics.log import logger
from ..._basics.quantities import real
from ..._protocol import operations
from ..._protocol.attributes import no_attribute
from ..._protocol.result import InferResult
from ..._transport.failures import cancelled
from ...errors import InferenceServerException, InvalidRequest, ResultNotReady
from .lateness import watch

__all__ = ["InferAsyncRequest", "Pending"]

Outcome: TypeAlias = "tuple[InferResult | None, BaseException | None]"

#: Which process this is: another object in each forked child.
_process = object()


def _in_child() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class InferAsyncRequest(Future[InferResult]):
    """A handle of a running inference: a future of `concurrent.futures`.

    The handles that `async_infer` returns work in :func:`concurrent.futures.wait`,
    :func:`concurrent.futures.as_completed` and :func:`asyncio.wrap_future`. Any thread may use them.

    Parameters
    ----------
    greenlet
        An object whose ``get(block=…, timeout=…)`` returns the response: the object that `async_infer` makes, a
        ``gevent.Greenlet``, or a queue. Only the handles of `async_infer` can be cancelled and take callbacks.
    verbose : bool
        Show the response's JSON on stdout.
    """

    def __init__(self, greenlet: Any, verbose: bool = False) -> None:
        # Not Future's: a lock and lists for each handle would take longer than all else here. See __getattr__.
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
        ResultNotReady
            If the result did not arrive in time. It is a TimeoutError, too.
        RequestCancelled
            If the inference was cancelled.
        InferenceServerException
            If it failed.
        """
        try:
            found = self._greenlet.get(block=block, timeout=timeout)
        except BaseException as error:
            if _is_timeout(error):
                raise ResultNotReady("failed to obtain inference response") from None
            raise
        if isinstance(found, InferResult):
            return found
        operations.check(found)
        return InferResult(found, self._verbose)

    def result(self, timeout: float | None = None) -> InferResult:
        """Return the inference's result, as :meth:`get_result` does."""
        return self.get_result(timeout=timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the inference failed with, or None if it has a result.

        Parameters
        ----------
        timeout : float, optional
            The longest wait in seconds; None waits without limit.

        Raises
        ------
        ResultNotReady
            If it did not end in time.
        RequestCancelled
            If it was cancelled.
        """
        if isinstance(self._greenlet, Pending):
            try:
                error = self._greenlet.outcome(timeout=timeout)[1]
            except TimeoutError:
                raise ResultNotReady("failed to obtain inference response") from None
            if isinstance(error, CancelledError):
                raise error
            return error
        try:
            self.get_result(timeout=timeout)
        except ResultNotReady:
            raise
        except Exception as error:
            return error
        return None

    def done(self) -> bool:
        """Return whether the inference has ended: with a result or an error, or cancelled.

        `get_result` does not wait then. For another library's greenlet this is its ``ready()``.
        """
        return bool(self._greenlet.ready())

    def running(self) -> bool:
        """Return whether a thread carries the inference out, rather than that it waits in line or has ended."""
        greenlet = self._greenlet
        return not greenlet.ready() and (not isinstance(greenlet, Pending) or greenlet.is_begun)

    def cancel(self) -> bool:
        """Cancel the inference.

        If it was not sent yet, it is not sent at all. Otherwise its connection is closed, which a server may
        notice or not; nothing is sent again. In both cases its place is free for other calls, and whoever waits
        for the result gets :class:`RequestCancelled` at once, whose `attempts` do not tell how often the request
        had been sent.

        Returns
        -------
        bool
            Whether it is cancelled now; False if it had ended before.
        """
        return isinstance(self._greenlet, Pending) and self._greenlet.cancel()

    def cancelled(self) -> bool:
        """Return whether the inference was cancelled."""
        return isinstance(self._greenlet, Pending) and self._greenlet.is_cancelled

    def add_done_callback(self, fn: Callable[[Future[InferResult]], object]) -> None:
        """Have a function called with this handle when the inference has ended, or now if it has.

        The thread that ends it makes the call: one of the client's, or the one that cancels it. So a callback
        should be short, and must not wait for another inference of the client. What it raises is logged.

        Parameters
        ----------
        fn : callable
            The function. Several are called in the order in which they were added.
        """
        self._own("add_done_callback").listen(partial(self._call, fn))

    def _call(self, fn: Callable[[Future[InferResult]], object]) -> None:
        try:
            fn(self)
        except Exception:
            logger.exception("a callback of %r raised", self)

    def _refuse(self, *arguments: object) -> NoReturn:
        raise InvalidRequest("the client alone begins and ends the inferences of async_infer")

    set_running_or_notify_cancel = set_result = set_exception = _refuse  # type: ignore[assignment]

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "running" if self.running() else "waiting"
        if state == "waiting" and self.done():
            failed = isinstance(self._greenlet, Pending) and self._greenlet.outcome()[1]
            state = f"failed with {type(failed).__name__}" if failed else "done"
        return f"<tritonhttp.InferAsyncRequest at {id(self):#x}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "cannot pickle or copy the handle of a running inference: take its get_result(), which can be"
        )

    def _own(self, asked: str) -> Pending:
        """Return the task of `async_infer`."""
        if isinstance(self._greenlet, Pending):
            return self._greenlet
        kind = type(self._greenlet).__qualname__
        raise InvalidRequest(
            f"{asked} needs a handle that async_infer returned; this one was made of a {kind}"
        )

    # -- what concurrent.futures and asyncio look at --

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that Future's constructor would have made; most handles are never asked for it."""
        if name not in ("_state", "_result", "_exception", "_condition", "_waiters"):
            later = f"get_result() waits for the result, which has it: get_result().{name}"
            no_attribute(self, name, {name: later} if hasattr(InferResult, name) else {})
        pending = self._own("concurrent.futures")
        if name == "_state":
            if self.done():
                return "CANCELLED_AND_NOTIFIED" if pending.is_cancelled else "FINISHED"
            return "RUNNING" if pending.is_begun else "PENDING"
        if name in ("_result", "_exception"):
            return pending.outcome()[name == "_exception"] if self.done() else None
        if name == "_waiters":
            return self.__dict__.setdefault(name, [])
        # Before anybody has it, so that an interrupt cannot leave a waiter that nobody tells; twice does no harm.
        pending.listen(self._tell, first=True)
        return self.__dict__.setdefault(name, threading.Condition())

    _told = False

    def _tell(self) -> None:
        """Tell those who wait for several futures."""
        condition = self.__dict__.setdefault("_condition", threading.Condition())
        with condition:
            if self._told:
                return
            self._told = True
            for waiter in self._waiters:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self._exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            condition.notify_all()


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
        Returns the error if the deadline passes before the task has begun.
    stop : callable, optional
        Withdraws the task, or has the thread that runs it end it; may be called more than once.
    """

    def __init__(
        self,
        task: Callable[[], InferResult],
        until: float | None = None,
        late: Callable[[], BaseException] | None = None,
        stop: Callable[[Pending], object] | None = None,
    ) -> None:
        self._until, self._late = until, late
        #: Both None after the task has ended.
        self._task: Callable[[], InferResult] | None = task
        self._stop = stop
        #: Claims on the task, and its outcomes; the first one wins.
        self._claims: list[object] = []
        self._outcomes: list[Outcome] = []
        #: Each is called once by whoever takes it out, after the end.
        self._listeners: list[Callable[[], object]] = []
        self._process = _process
        #: Held until the task has ended.
        self._running = threading.Lock()
        self._running.acquire()

    def run(self) -> None:
        """Run the task once, unless it was withdrawn."""
        task, claim = self._task, object()
        if self._claim(claim) or task is None:  # a claim of its own: it may be in the queue twice
            return
        outcome: Outcome
        try:
            outcome = task(), None
        except BaseException as error:
            outcome = None, error
        try:
            self._decide(outcome)
            self._end()
        except BaseException:  # of a callback, as SystemExit: the thread goes on
            logger.exception("a callback of an inference raised")
        finally:
            del self, task, outcome  # the error's traceback holds this frame

    def _decide(self, outcome: Outcome) -> None:
        """End the task with an outcome, unless it has one."""
        self._outcomes.append(outcome)
        if len(self._outcomes) > 1:
            del self._outcomes[1:]

    def _end(self) -> None:
        """Tell everybody that the task has an outcome. Idempotent."""
        self._task = self._stop = None
        self._release()
        if self._listeners:
            self._tell()

    def _tell(self) -> None:
        while self._listeners:
            try:
                listener = self._listeners.pop(0)
            except IndexError:  # another thread was faster
                return
            listener()

    def _release(self) -> None:
        try:  # noqa: SIM105  contextlib's suppress would take three frames of each call
            self._running.release()
        except RuntimeError:  # a waiting thread has released it already
            pass

    def withdraw(self) -> bool:
        """Prevent the task from running; return False if it has begun."""
        return not self._claim("withdraw")

    def _claim(self, claim: object) -> bool:
        """Claim the task; return whether another claim came first."""
        self._claims.append(claim)
        return self._claims[0] != claim

    def cancel(self) -> bool:
        """End the task now, and have the thread that runs it end it soon; return False if it has ended."""
        return self._twice(self._cancel)

    def _cancel(self) -> bool:
        if not self.ready():
            self._decide((None, cancelled()))
        return self.is_cancelled and self._stopped()

    def expire(self) -> bool:
        """End the task, whose deadline is over, unless it has begun; return whether that was done."""
        return self._twice(self._expire)

    def _expire(self) -> bool:
        if self._late is None or not self.withdraw():
            return False
        self._decide((None, self._late()))
        return self._stopped()

    def _stopped(self) -> bool:
        stop = self._stop
        if stop is not None:
            stop(self)
        self._end()
        return True

    def _twice(self, step: Callable[[], bool]) -> bool:
        """Take a step that ends the task; if an interrupt ends the step, the second completes it."""
        try:
            return step()
        except BaseException:
            try:
                step()
            finally:
                if self._outcomes:
                    self._end()
            raise

    def listen(self, listener: Callable[[], object], *, first: bool = False) -> None:
        """Have a function called once after the task's end."""
        self._listeners.insert(0 if first else len(self._listeners), listener)
        if self.ready():
            self._tell()
        elif self._until is not None and not self.is_begun:
            watch(self._until, self)  # nobody may wait for it in `get`

    def ready(self) -> bool:
        """Return whether the task has ended. One that a parent process runs has, for a forked child."""
        if not self._outcomes and self._process is not _process:
            self._decide((None, InferenceServerException(_OF_PARENT)))
            self._end()
        return bool(self._outcomes)

    @property
    def is_begun(self) -> bool:
        """Whether the task was started or withdrawn."""
        return bool(self._claims)

    @property
    def is_withdrawn(self) -> bool:
        """Whether the task will never run."""
        return self._claims[:1] == ["withdraw"]

    @property
    def is_cancelled(self) -> bool:
        """Whether :meth:`cancel` has ended the task."""
        return bool(self._outcomes) and isinstance(self._outcomes[0][1], CancelledError)

    def get(self, block: bool = True, timeout: float | None = None) -> InferResult:
        """Return the task's result, or raise its error; TimeoutError if it does not end in time."""
        result, error = self.outcome(block, timeout)
        try:
            if error is not None:
                raise error
            assert result is not None
            return result
        finally:
            del self, error

    def outcome(self, block: bool = True, timeout: float | None = None) -> Outcome:
        """Return the task's result and its error, one of them None; TimeoutError if it does not end in time."""
        if not self.ready():
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
        return self._outcomes[0]

    def _wait(self, seconds: float) -> bool:
        """Wait for the task's end. A task that has not begun by its deadline is ended here."""
        end = monotonic() + seconds
        if self._until is not None and self._until <= end:
            if self._acquire(max(0.0, self._until - monotonic())):
                return True
            if self.expire():
                return True
        return self._acquire(max(0.0, end - monotonic()))

    def _acquire(self, seconds: float) -> bool:
        limit = -1 if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX)
        try:
            return self._running.acquire(timeout=limit)
        finally:
            if self._outcomes:
                self._release()  # wakes the next waiting thread


#: What a forked child gets, in which nobody carries the inference out.
_OF_PARENT = (
    "this inference was begun before the fork and belongs to the parent process: begin another one here"
)
