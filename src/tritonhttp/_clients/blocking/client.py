"""The blocking client, safe to share between threads: what differs from the asyncio client, beside `_calls`."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..._calls.turns import Turn, Turns
from ..._protocol.encoder import Message
from ..._protocol.inference import Inference, explained
from ..._protocol.operations import Operation, mapping
from ..._protocol.result import InferResult
from ..._protocol.tensors import InferInput, InferRequestedOutput
from ..._transport.blocking import BlockingTransport
from ..._transport.blocking_pool import Bell, BlockingPool, is_owned, this_thread
from ..._transport.failures import closed, turn_timeout, wait_timeout
from ..._transport.policy import UNSET, Deadline, Moment, Timeouts, positive, seconds
from ..._transport.pool import Place, cancel, release
from ..._transport.tls import tls_context
from ...errors import DeadlineExceeded, InferenceServerException, ProtocolError, ServerError
from ..advice import checked
from ..base import (
    CLOSING,
    SHARED_MEMORY_LIMIT,
    SHARED_MEMORY_THRESHOLD,
    renew_after_fork,
)
from .calls import Calls
from .execution import Headers, QueryParams
from .executor import Executor
from .side import guarded

if TYPE_CHECKING:
    import ssl as ssl_module
    from types import TracebackType

    from typing_extensions import Self

    from ..._calls.dispatch import Balancing
    from ..._calls.retry import Retry
    from ...events import CallHook, RetryHook
    from .async_request import InferAsyncRequest, Pending

__all__ = ["InferenceServerClient"]

T = TypeVar("T")

#: How long `async_infer` waits under gevent for its request to be sent, in seconds.
_HEAD_START = 1.0


@guarded
class InferenceServerClient(Calls):
    """Talk to an inference server over HTTP.

    One client may be used by any number of threads at a time. Every method takes `headers`, a mapping of
    additional HTTP headers, and `query_params`, a mapping of query parameters (a list as a value gives its
    name several times); neither is changed. It takes `deadline`, the seconds that the call may take as a whole, in
    place of the client's own (None: no limit; 0 or less: `DeadlineExceeded` at once). What fails raises an
    :class:`InferenceServerException`; `tritonhttp.errors` has the tree.

    Parameters
    ----------
    url : str, or sequence of str
        ``host:port`` with an optional base path, for example ``"localhost:8000"`` or
        ``"gateway:443/triton"``; ``http://`` and ``https://`` may stand before it. IPv6 literals in brackets.
        Or ``unix:///path/to.sock``, a unix domain socket.
        Several: a call goes to one of them, a sequence always to the same.
    verbose : bool
        Log every request and response on stdout.
    concurrency : int
        The most connections to a server, and so the most requests at a time; more wait for their turn.
    connection_timeout : float or None
        Seconds for making a connection.
    network_timeout : float or None
        Seconds for each send or receive without progress.
    max_greenlets : int or None
        The most requests of `async_infer` at a time, if fewer than `concurrency`.
    ssl : bool
        Use TLS; the server's certificate chain is verified always. The options below mean nothing without it.
    ssl_options : dict, optional
        What ``ssl.wrap_socket`` took: keyfile, certfile, ca_certs, ciphers, …
    ssl_context_factory : callable, optional
        Returns the ``ssl.SSLContext`` to use.
    insecure : bool
        Do not compare the server's name with its certificate.
    deadline : float or None
        Seconds for each call as a whole: waiting for a connection, connecting, sending, waiting, receiving, and
        sending again. None: no limit beside those above.
    retry : Retry, optional
        When calls are tried again. None: never, but with several servers what did not reach one goes to another.
    resolve_every : float, optional
        Look the server's name up again after so many seconds, and spread calls over all the addresses that it has,
        as over several servers. None: connect to the first one that answers.
    balancing : str
        How one of several servers is chosen: ``"least_outstanding"`` or ``"round_robin"``.
    on_request, on_response, on_retry : callable, optional
        Told about each call: see :class:`tritonhttp.events.Hooks`.
    max_idle, max_age : float or None
        Seconds after which a connection is not used again: since its last request, and since it was made. The
        first should be less than what servers and load balancers on the way allow.
    keep_alive : bool
        Whether a connection carries more than one request.
    proxy : str, optional
        ``http://user:password@host:port`` of a proxy to go through.
    trust_env : bool
        Go through the proxy that the environment names, if there is no `proxy`: http_proxy, https_proxy,
        all_proxy, no_proxy.
    max_response_bytes : int, optional
        The most bytes of a response's body, as it comes and decompressed; more is a :class:`ProtocolError`.
    expect_continue : bool
        Ask the server before a body of more than 1 MiB is sent, so that one which refuses it need not read it.
    shared_memory : "auto", optional
        Let large tensors travel through shared memory where the server runs on the same machine and can be given
        it; otherwise, and whatever stands in the way, over HTTP. Results are the same.
    shared_memory_threshold : int
        From which size on a tensor does, in bytes.
    shared_memory_limit : int
        How much shared memory the client takes at most, in bytes; results that are kept count.
    binary_data : bool or None
        Whether the server speaks binary tensors: how models send, and the form of outputs that `infer` does not
        name. None: it does, unless a model's first call finds out that it takes JSON only.

    Raises
    ------
    InvalidRequest
        For arguments that cannot be used.
    """

    __module__ = "tritonhttp"

    _transport: BlockingTransport

    @checked
    def __init__(
        self,
        url: str | Sequence[str],
        verbose: bool = False,
        concurrency: int = 1,
        connection_timeout: float | None = 60.0,
        network_timeout: float | None = 60.0,
        max_greenlets: int | None = None,
        ssl: bool = False,
        ssl_options: Mapping[str, Any] | None = None,
        ssl_context_factory: Callable[[], ssl_module.SSLContext] | None = None,
        insecure: bool = False,
        *,
        deadline: float | None = None,
        retry: Retry | None = None,
        balancing: Balancing = "least_outstanding",
        resolve_every: float | None = None,
        on_request: CallHook | None = None,
        on_response: CallHook | None = None,
        on_retry: RetryHook | None = None,
        max_idle: float | None = 45.0,
        max_age: float | None = None,
        keep_alive: bool = True,
        proxy: str | None = None,
        trust_env: bool = False,
        max_response_bytes: int | None = None,
        expect_continue: bool = False,
        shared_memory: Literal["auto"] | None = None,
        shared_memory_threshold: int = SHARED_MEMORY_THRESHOLD,
        shared_memory_limit: int = SHARED_MEMORY_LIMIT,
        binary_data: bool | None = None,
    ) -> None:
        configuration = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        # Here, since it imports concurrent.futures, and a signal's handler must not meet a first import half done.
        from . import async_request

        self._handles = async_request
        self._executor: Executor | None = None
        super().__init__(configuration)
        context = tls_context(ssl_options, ssl_context_factory, insecure) if self._address.tls else None
        self._limit = limit = positive(concurrency, "concurrency")
        timeouts = Timeouts(connection=connection_timeout, network=network_timeout)
        self._workers = (
            limit if max_greenlets is None else min(limit, positive(max_greenlets, "max_greenlets"))
        )
        self._transport = BlockingTransport(self._address, limit, timeouts, context, self._options)
        #: Whether all calls stand in one line: with one server, and as many threads as connections.
        self._has_line = len(self.servers) == 1 and resolve_every is None and self._workers == limit
        self._deadline = self._stream_deadline = seconds(deadline, "deadline")
        self._idle_timeout = timeouts.network
        #: Re-entrant, and nothing that may block runs under it: see BlockingPool.
        self._lock = threading.RLock()
        self._turns: Turns[BlockingPool[None]] = Turns(BlockingPool, partial(_hire_for, weakref.ref(self)))
        self._closed = False
        self._serve(InferenceServerClient)
        renew_after_fork(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # May run on any thread, a worker's too: nothing here waits.
        executor = getattr(self, "_executor", None)
        if executor is not None:
            executor.shutdown(wait=False)
        transport = getattr(self, "_transport", None)
        if transport is not None:
            transport.close()

    def close(self) -> None:
        """Close the client, after the inferences that `async_infer` began; every later call fails. Idempotent."""
        nested = is_owned(self._lock)  # in a signal's handler: what it interrupted cannot be waited for
        with self._lock:
            self._closed = True
        executor, sharing = self._executor, self._sharing
        try:
            if executor is not None:
                executor.shutdown(wait=not nested)
            if sharing is not None:
                try:
                    self._drive(sharing.close(), None, None, self._until(CLOSING))
                except Exception:  # of a plugin: what is left is swept by the next client
                    self._sharing = None
                    raise
                self._sharing = None  # not before: an interrupted close can be completed
        finally:
            for server in self._inner():
                server.close()
            self._transport.close()

    def _start_anew(self) -> None:
        super()._start_anew()
        self._lock = threading.RLock()
        self._turns = Turns(BlockingPool, partial(_hire_for, weakref.ref(self)))
        self._executor = None
        self._transport.reset()

    def async_infer(
        self,
        model_name: str,
        inputs: Sequence[InferInput],
        model_version: str = "",
        outputs: Sequence[InferRequestedOutput] | None = None,
        request_id: str = "",
        sequence_id: int | str = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
        priority: int = 0,
        timeout: int | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        request_compression_algorithm: str | None = None,
        response_compression_algorithm: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotent: bool | None = None,
        deadline: Deadline = UNSET,
        copy: bool = True,
    ) -> InferAsyncRequest:
        """Start an inference and return its handle at once.

        At most `concurrency` requests are under way at a time; more wait in line, in the order in which they
        were started, and hold their data meanwhile.

        Parameters
        ----------
        model_name, inputs, model_version, outputs, request_id, sequence_id, sequence_start, sequence_end,
        priority, timeout, headers, query_params, request_compression_algorithm,
        response_compression_algorithm, parameters, idempotent
            As for :meth:`infer`.
        copy : bool
            True: the arrays of the inputs may be changed as soon as this returns. False: nothing is copied,
            and they must stay as they are until the result is there.

        Returns
        -------
        InferAsyncRequest
            Its ``get_result()`` gives the result, or raises what went wrong. It is a future of
            :mod:`concurrent.futures`, and its ``cancel()`` ends the inference at once.

        Raises
        ------
        InvalidRequest
            For arguments that cannot be sent.
        """
        inference = Inference(
            model_name,
            inputs,
            model_version,
            outputs,
            request_id,
            sequence_id,
            sequence_start,
            sequence_end,
            priority,
            timeout,
            request_compression_algorithm,
            response_compression_algorithm,
            parameters,
            idempotent,
            self._binary is not False,
            self._verbose,
        )
        try:
            return self._start(inference, headers, query_params, self._until(deadline), copy=copy)
        except (TypeError, ValueError) as error:
            refusal = explained(inference, error)
            if refusal is None:
                raise
            raise refusal from refusal.__cause__

    def _start(
        self,
        inference: Inference,
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        *,
        copy: bool,
    ) -> InferAsyncRequest:
        """Start an inference, and return its handle."""
        task: Callable[[], InferResult]
        place: Place[Any] = Place()
        turn = None
        seen = self._verbose or self._dispatch is not None or self._is_watched()
        if seen or self._branches(inference):
            self._encoder.describe(inference)  # refuses what cannot be sent
            flow = self._flow(inference, snapshot=copy)
            if inference.sequence is not None:
                turn = Turn(self._turns, inference.sequence[:2])
            given = None if headers is None else dict(mapping(headers, "headers"))
            query = None if query_params is None else dict(mapping(query_params, "query_params"))
            task = partial(self._drive_in_turn, turn, flow, given, query, until, place)
        else:
            message = self._encoder.encode(inference, headers, query_params, snapshot=copy)
            task = partial(self._finish, inference, message, until, place)
        if seen:
            # The hooks, the plugin and the log see the caller's context, not that of a thread of ours.
            task = partial(copy_context().run, task)
        late = None if until is None else partial(_too_late, self._limit, time.monotonic(), until)
        pending = self._handles.Pending(task, until, late, partial(self._stop, place, turn))
        self._submit(pending, place, turn)
        if self._verbose:
            id = inference.request_id
            self._log.debug("Sent request%s", f" '{id}'" if id else "")
        return self._handles.InferAsyncRequest(pending, self._verbose)

    def _finish(
        self, inference: Inference, message: Message, until: Moment | None, place: Place[Any]
    ) -> InferResult:
        """Carry out an inference that is written already."""
        response = self._send(inference, None, None, until, place, message=message)
        try:
            if response.head.encoding is not None:
                response = self._unpacked(response, until)
            return inference.decode(response)
        except (ProtocolError, ServerError, DeadlineExceeded) as error:
            self._complete(error, response)
            raise

    def _submit(self, pending: Pending, place: Place[Any], turn: Turn[BlockingPool[None]] | None) -> None:
        """Let a thread carry out an inference that takes its place in the line now."""
        sent = None
        if socket.socket.__module__ != "socket":  # gevent's or eventlet's: no thread runs by itself
            place.sent = sent = Bell()
        nested = is_owned(self._lock)  # in a signal's handler
        # Twice: an interrupt in the first taking back leaves it to the second.
        try:
            try:
                with self._lock:  # the threads take the inferences in the order of their places
                    if self._closed:
                        raise InferenceServerException("the client is closed")
                    executor = self._executor
                    if executor is not None and executor.kind is not socket.socket:
                        executor.shutdown(wait=False)
                        executor = None
                    if executor is None:
                        executor = self._executor = Executor(self._workers)
                    place.owner, place.exceeds = threading.get_ident(), nested
                    if turn is None:
                        if self._has_line and not nested:
                            self._transport.reserve(place)
                        executor.submit(pending.run)
                    else:
                        executor.accept(pending.run)
                        turn.place.owner = place.owner
                        turn.join(partial(self._begin, executor, pending, place), first=nested)
                        turn.place.owner = 0
                    place.owner = 0
                executor.hire()
                if sent is not None and self._transport.has_room(place):
                    sent.wait(_HEAD_START)
            except BaseException:
                pending.cancel()
                raise
        except BaseException:
            pending.cancel()
            raise

    def _begin(self, executor: Executor, pending: Pending, place: Place[Any]) -> None:
        """Let an inference join the line, and a thread come for it."""
        if not pending.is_begun:
            if self._has_line and not place.exceeds:
                self._transport.reserve(place)
            executor.put(pending.run)
            if pending.is_withdrawn:  # meanwhile; a thread gives the place back, since a lock is held here
                executor.put(partial(release, place))

    def _withdraw(self, pending: Pending, place: Place[Any], turn: Turn[BlockingPool[None]] | None) -> None:
        """Take an inference back, unless a thread has begun to carry it out."""
        if pending.withdraw():
            release(place)
            if self._executor is not None:
                self._executor.drop(pending.run)
            if turn is not None:
                turn.leave()

    def _stop(self, place: Place[Any], turn: Turn[BlockingPool[None]] | None, pending: Pending) -> None:
        """Take an inference back, or have the thread end it that carries it out."""
        self._withdraw(pending, place, turn)
        if turn is not None:
            cancel(turn.place)
        cancel(place)

    def _drive_in_turn(
        self,
        turn: Turn[BlockingPool[None]] | None,
        flow: Operation[T] | Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> T:
        """Carry out the operations of a flow, behind the earlier ones of its sequence; give the place back."""
        if place is not None:
            place.owner = this_thread()[0]
        try:
            if turn is None:
                return self._drive(flow, headers, query_params, until, place)
            with turn, turn:
                begun, began = False, time.monotonic()
                if turn.pool is None:
                    turn.place.owner = this_thread()[0]
                    if is_owned(self._turns.lock):
                        turn.join(first=True)
                    else:
                        begun = turn.begin()
                assert turn.pool is not None
                if not begun and not turn.pool.hold(turn.place, until, reserved=True):
                    raise turn_timeout(turn.behind, time.monotonic() - began, until)
                return self._drive(flow, headers, query_params, until, place)
        finally:
            release(place)

    def _look_up(self, every: float, until: Moment | None) -> None:
        """See to it that the addresses of the server's name are known, and were looked up not long ago."""
        with self._lock:
            if self._closed:
                raise closed()
            first = self._resolved is None
            if self._resolved is not None and time.monotonic() - self._resolved <= every:
                return
            self._resolved = time.monotonic()
        if not first:
            with suppress(RuntimeError):  # no thread to be had: the addresses stay as they are
                threading.Thread(target=self._look_up_again, name="tritonhttp-resolve", daemon=True).start()
            return
        try:  # calls beside this one go to whichever address answers meanwhile
            self._look_up_now(until)
        except BaseException:
            self._resolved = None
            raise

    def _look_up_now(self, until: Moment | None) -> None:
        found = self._transport.addresses(until)
        with self._lock:  # close() waits, and leaves nothing behind
            for server in [] if self._closed else self._follow(found):
                server.close()

    def _probe(self, url: str) -> None:
        """Find out, beside the call that is under way, whether a server that failed is ready again."""
        try:
            threading.Thread(target=self._look_at, args=(url,), name="tritonhttp-probe", daemon=True).start()
        except RuntimeError:  # no thread to be had: the server is as it was
            if self._dispatch is not None:
                self._dispatch.probed(url, time.monotonic(), False)


def _too_late(limit: int, began: float, until: Moment) -> InferenceServerException:
    """Return the error of an inference whose time was over before it was begun."""
    return wait_timeout(limit, time.monotonic() - began, until)


def _hire_for(known: weakref.ref[InferenceServerClient]) -> None:
    """Start threads for a client's inferences whose turn has come; it is not kept alive for that."""
    client = known()
    if client is not None and client._executor is not None:
        client._executor.hire()


InferenceServerClient._originals = {"_get": InferenceServerClient._get, "_post": InferenceServerClient._post}
