"""The life of a call that may take several tries: which server, whether again and when, and who is told.

Written once for both clients, as a generator: it yields the server to be tried and what to send it, the seconds to
pause, or an operation that the next try needs first, and is sent what came of it, or thrown the error. It does no
I/O. The call of a stream goes on behind its response, which has its :class:`Ending`.

An exception may come at every step, a signal's or one that another thread raises here. So a try has a ticket with
the balancer, which counts for no longer than the ticket lives.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Literal, TypeAlias

from .._basics.log import logger
from .._basics.redaction import without_secrets
from .._protocol.operations import Operation
from .._transport.failures import WAITING
from .._transport.policy import Moment
from .._wire.responses import Response, StreamedResponse
from ..errors import ConnectionLost, DeadlineExceeded, InferenceServerException, InvalidRequest
from ..events import Call, Hooks, Observers
from .balance import NOT_STARTED, SERVER_LOST, Balancer, Ticket, server_failed
from .retry import Retry, is_barred, parse_retry_after
from .safety import may_run_twice

__all__ = ["Balancing", "Dispatch", "Ending", "Step", "counted"]

#: asyncio's timers may come early by as much as its clock is coarse.
_TICK = 1e-3

Balancing = Literal["least_outstanding", "round_robin"]
#: A server's name, what to send, and whether only once; an operation to carry out beside; seconds to pause.
Step: TypeAlias = "tuple[str, Operation[Any], bool] | Operation[Any] | float"


class Tried(Response):
    """A response that took more than one try."""

    __slots__ = ("attempts",)


def counted(response: Response, attempts: int) -> Response:
    """Return a response that knows how often its call was tried."""
    if attempts == 1:
        return response
    if isinstance(response, StreamedResponse):
        response.attempts = attempts
        return response
    tried = Tried(response.head, response.body, response.limit)
    tried.attempts, tried.asked = attempts, response.asked
    return tried


class Ending:
    """What is left of a call whose answer is a stream, carried out once when that has ended.

    Where nobody says so, when the collector finds that it was dropped.
    """

    __slots__ = ("_end", "_later", "_owner", "call")

    def __init__(
        self,
        call: Call,
        end: Callable[[BaseException | None, Moment | None], None],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        #: Whoever reads the stream counts its bytes here.
        self.call = call
        self._later = later
        self._owner = os.getpid()
        self._end: Callable[[BaseException | None, Moment | None], None] | None = end

    def __call__(self, error: BaseException | None = None, until: Moment | None = None) -> None:
        """End the call: with what broke the stream, if anything did, and when its time was to be over."""
        end, self._end = self._end, None
        if end is not None and self._owner == os.getpid():  # in a forked child it is the parent's
            end(error, until)

    def __del__(self) -> None:
        # The collector may run on a thread that holds the lock which a hook waits for. When the interpreter ends,
        # no thread can be started.
        end = getattr(self, "_end", None)  # an exception may have come while this was made
        if end is not None and self._owner == os.getpid() and not sys.is_finalizing():
            try:
                self._later(self)
            except RuntimeError:  # the event loop is closed
                beside(self)


def beside(work: Callable[[], None]) -> None:
    """Do something on a thread of its own."""
    threading.Thread(target=work, name="tritonhttp-end").start()


class Dispatch:
    """Carries calls to one or several servers.

    Parameters
    ----------
    servers : iterable of str
        The names of the servers.
    retry : Retry or None
        When calls are tried again. None: never with one server; with several only what did not reach one.
    balancing : str
        How a server is chosen.
    hooks : Hooks
        Who is told.
    """

    def __init__(
        self, servers: Iterable[str], retry: Retry | None, balancing: Balancing, hooks: Hooks
    ) -> None:
        self.servers = tuple(servers)
        self.hooks = hooks
        self.retries = 0
        self._balancing: Balancing = balancing
        self._retry = retry
        self.renew()

    def serve(self, servers: Iterable[str]) -> None:
        """Carry calls to these servers from now on; those that stay are known as before."""
        with self._lock:
            self.servers = tuple(servers)
            if self._balancer is not None:
                self._balancer.update(self.servers)
            else:
                self._balance()

    def renew(self) -> None:
        """Start anew, in a forked child: the calls that are under way, and the sequences, are the parent's."""
        # Reentrant: a signal handler may use the client in the middle of what this guards.
        self._lock = threading.RLock()
        self._balancer: Balancer[str] | None = None
        self._balance()

    def _balance(self) -> None:
        if len(self.servers) > 1:
            self._balancer = Balancer(self.servers, policy=self._balancing, first=random.randrange(1 << 16))

    @property
    def chooses(self) -> bool:
        """Whether there are several servers to choose from."""
        return self._balancer is not None

    @property
    def sends_once(self) -> bool:
        """Whether a call has one try only."""
        return self._retry is not None and self._retry.attempts == 1

    @property
    def listens(self) -> bool:
        """Whether anybody wants to know of calls that succeed: hooks, or the log."""
        return bool(self.hooks) or logger.isEnabledFor(logging.DEBUG)

    def tries(
        self,
        operation: Operation[Any],
        call: Call,
        until: Moment | None,
        clock: Callable[[], float],
        probe: Callable[[str], None],
        listens: bool = True,
        later: Callable[[Callable[[], None]], object] = beside,
        first: Response | InferenceServerException | None = None,
    ) -> Generator[Step, Any, Response]:
        """Yield the steps of a call: servers to try, each with what to send, and more.

        Whoever sends it adds to the record's `attempts` how often the transport sent it once more.

        Parameters
        ----------
        operation : Operation
        call : Call
            The record of the call; hooks may change its headers.
        until : Moment or None
            When the call must end, on the clock.
        clock : callable
            Tells the time in seconds.
        probe : callable
            Begins to find out whether the server of that name is ready, and says so to :meth:`probed`.
        listens : bool
            Whether anybody wants to know of a call that succeeds, and the record has to be whole.
        later : callable
            Carries a function out soon, not from within the collector: the end of a stream that was dropped.
        first : Response or InferenceServerException, optional
            What came of a first try that was made unseen.
        """
        observers = self.hooks.observers
        begun, ticket = clock(), Ticket()
        try:
            if observers.request:
                observers.begins(call)
            response, balancer = yield from self._tries(
                operation, call, ticket, observers, until, clock, probe, first
            )
            call.status = response.status_code
            if listens:
                call.response_headers = dict(response.headers)
                call.response_bytes = len(response.body)
        except BaseException as error:
            ticket.drop()  # where another one came while it was handed back
            self._tell(call, observers, clock() - begun, error)
            raise
        if isinstance(response, StreamedResponse):
            head = clock()

            def end(error: BaseException | None, until: Moment | None) -> None:
                now = clock()
                call.phases["receive"] = call.phases.get("receive", 0.0) + (now - head) * 1e3
                failed = False if error is None else _speaks_against(error, until, now)
                try:
                    self._done(balancer, ticket, now, failed, keeps_state=False)
                finally:
                    ticket.drop()
                self._tell(call, observers, now - begun, error)

            response.attempts = call.attempts
            response.ending = Ending(call, end, later)
            return response
        if listens:
            self._tell(call, observers, clock() - begun)
        return response if call.attempts == 1 else counted(response, call.attempts)

    def _tell(
        self, call: Call, observers: Observers, seconds: float, error: BaseException | None = None
    ) -> None:
        """Tell who watches that a call has ended."""
        call.seconds = seconds
        call.error = error
        if isinstance(error, InferenceServerException):
            error.attempts = call.attempts
        observers.ended(call)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", call, extra={"call": call})

    def _tries(
        self,
        operation: Operation[Any],
        call: Call,
        ticket: Ticket,
        observers: Observers,
        until: Moment | None,
        clock: Callable[[], float],
        probe: Callable[[str], None],
        first: Response | InferenceServerException | None,
    ) -> Generator[Step, Any, tuple[Response, Balancer[str] | None]]:
        """Return the response and, for a stream, whom its ticket is handed back to when that has ended."""
        tried: set[str] = set()
        resent, retry = False, self._retry
        while True:
            balancer = self._balancer
            failed: bool | None = None
            silent = False
            response: Response | None = None
            try:
                if balancer is None:
                    name = self.servers[0]
                else:
                    name = self._pick(balancer, ticket, operation, tried, clock(), probe)
                tried.add(name)
                call.attempts += 1
                try:
                    if first is None:
                        answer: Response = yield (
                            name,
                            operation,
                            retry is not None and call.attempts >= retry.attempts,
                        )
                    else:
                        known, first = first, None
                        answer = _outcome(known)
                    response = answer
                    outcome: int | BaseException = answer.status_code
                    failed = answer.status_code >= 400 and server_failed(outcome)
                except InferenceServerException as error:
                    outcome = error
                    if _is_over(error, until, clock()):
                        silent = getattr(error, "phase", "") != WAITING
                        raise
                    failed = _speaks_against(error, until, clock())
            finally:
                if balancer is not None and not isinstance(response, StreamedResponse):
                    self._done(
                        balancer, ticket, clock(), failed, keeps_state=response is not None, silent=silent
                    )
            if response is not None and isinstance(outcome, int) and outcome < 400:
                if balancer is not None and operation.sequence is not None:
                    model, number, _, ends = operation.sequence
                    if ends:
                        self._end((model, number))
                return response, balancer
            pause = None
            if not resent and self._may_resend(operation, call, outcome):
                pause, resent = 0.0, True
            else:
                pause = self._pause(operation, call, outcome, response, tried, until, clock)
            if pause is None:
                if response is None:
                    assert isinstance(outcome, BaseException)
                    if isinstance(outcome, ConnectionLost) and (operation.renew or self._retry):
                        outcome.resendable = False  # nobody else shall
                    raise outcome
                return response, balancer
            self.retries += 1
            reason = f"status {outcome}" if isinstance(outcome, int) else without_secrets(str(outcome))
            logger.info(
                "%s %s is sent again in %.3g s, try %d: %s",
                call.method,
                without_secrets(call.url),
                pause,
                call.attempts + 1,
                reason,
            )
            observers.repeats(call, reason, pause)
            if pause:
                yield pause
            if operation.renew is not None:
                operation = yield from operation.renew(outcome)

    def _may_resend(self, operation: Operation[Any], call: Call, outcome: int | BaseException) -> bool:
        """Say whether to do at once what a transport, which cannot renew the operation, has left undone."""
        return (
            operation.renew is not None
            and may_run_twice(operation)
            and isinstance(outcome, ConnectionLost)
            and outcome.resendable
            and (self._retry is None or call.attempts < self._retry.attempts)
        )

    def _pause(
        self,
        operation: Operation[Any],
        call: Call,
        outcome: int | BaseException,
        response: Response | None,
        tried: set[str],
        until: Moment | None,
        clock: Callable[[], float],
    ) -> float | None:
        """Return how long to wait before the next try, or None where there is none."""
        retry = self._retry
        if retry is None and self._balancer is not None:
            retry = Retry(attempts=len(self.servers), on=("connect",), backoff=0)
        if retry is None or not retry.applies(outcome, may_run_twice(operation)):
            return None
        asked = None if response is None else parse_retry_after(response.get("Retry-After"), time.time())
        pause = retry.delay(call.attempts, random.random(), now=clock(), deadline=until, retry_after=asked)
        if pause is None or self._balancer is None or operation.sequence is not None:
            return None if is_barred(outcome) else pause
        with self._lock:
            others = any(name not in tried and self._balancer.in_rotation(name) for name in self.servers)
        if others:
            return 0.0  # nobody asked the next server for patience
        return None if is_barred(outcome) else pause

    def probed(self, name: str, now: float, ready: bool) -> None:
        """Say whether a server is ready."""
        if self._balancer is not None:
            with self._lock:
                self._balancer.probed(name, now, ready)

    def _pick(
        self,
        balancer: Balancer[str],
        ticket: Ticket,
        operation: Operation[Any],
        tried: set[str],
        now: float,
        probe: Callable[[str], None],
    ) -> str:
        if not operation.anywhere and len(self.servers) > 1:
            raise InvalidRequest(
                f"{operation.method} {operation.path} is for one server, and this client has {len(self.servers)}:"
                " name it with client.server(url), or take all of them with client.on_each(…)"
            )
        with self._lock:
            due = balancer.due(now)
            if operation.sequence is None:
                name = balancer.pick(ticket, tried)
            else:
                model, number, start, _ = operation.sequence
                found = balancer.pick_for(ticket, (model, number), start=start, exclude=tried)
                if found is SERVER_LOST:
                    raise ConnectionLost(
                        f"the server {balancer.sticky((model, number))} of sequence {number!r} of model {model!r}"
                        " failed since its last request, and its state is lost: start the sequence anew",
                        phase="choose a server",
                    )
                if found is NOT_STARTED:
                    raise InvalidRequest(
                        f"sequence {number!r} of model {model!r} was not started through this client, which has"
                        f" {len(self.servers)} servers and cannot know which of them has it"
                    )
                name = str(found)
        for other in due:
            probe(other)
        return name

    def _done(
        self,
        balancer: Balancer[str] | None,
        ticket: Ticket,
        now: float,
        failed: bool | None,
        *,
        keeps_state: bool,
        silent: bool = False,
    ) -> None:
        # Another one since then: in a forked child, which ends calls that its parent began.
        if balancer is not None and balancer is self._balancer:
            with self._lock:
                balancer.done(ticket, now, failed, keeps_state=keeps_state, silent=silent)

    def _end(self, key: tuple[Any, ...]) -> None:
        if self._balancer is not None:
            with self._lock:
                self._balancer.end(key)


def _outcome(first: Response | InferenceServerException) -> Response:
    """Return the response of a first try, or raise what it ended with."""
    if isinstance(first, InferenceServerException):
        raise first
    return first


def _is_over(error: BaseException, until: Moment | None, now: float) -> bool:
    """Say whether it was the call's own time that ended it, which says nothing of the server."""
    return isinstance(error, DeadlineExceeded) and until is not None and until - now < _TICK


def _speaks_against(error: BaseException, until: Moment | None, now: float) -> bool | None:
    """Say whether an error is the server's failure; None where it says nothing of it."""
    # What is no failure of the server's, as a refused argument, is no success of its either.
    return None if _is_over(error, until, now) else server_failed(error) or None
