"""The blocking client: one line per endpoint over :mod:`tritonhttp.operations`, safe to share between threads."""

from __future__ import annotations

import math
import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from . import operations
from .async_request import InferAsyncRequest, Pending
from .base import (
    ALONE,
    CLOSING,
    DEBUG,
    PROBING,
    SHARED_MEMORY_LIMIT,
    SHARED_MEMORY_THRESHOLD,
    ClientBase,
    one_or_more,
    positive,
    renew_after_fork,
    undecoded,
)
from .encoder import call_headers
from .errors import InferenceServerException, InvalidRequest
from .executor import Executor
from .log import logger
from .operations import Operation
from .plugins import Request
from .result import InferResult
from .tensors import InferInput, InferRequestedOutput
from .transport.address import parse_url, tls_context
from .transport.blocking import Bell, BlockingPool, BlockingTransport, is_owned, this_thread
from .transport.failures import closed, turn_timeout, wait_timeout
from .transport.policy import UNSET, Connections, Deadline, Moment, Timeouts, call_limit, moment, seconds
from .transport.pool import Place, release
from .transport.trace import Trace
from .transport.turns import Turn, Turns
from .wire.http1 import Response, StreamedResponse
from .wire.requests import Buffer

if TYPE_CHECKING:
    import ssl as ssl_module
    from types import TracebackType

    from typing_extensions import Self

    from . import types
    from .dispatch import Balancing
    from .events import Call, CallHook, RetryHook
    from .inferences import Known
    from .model import Model
    from .regions import Region
    from .stream import GenerateStream
    from .transport.retry import Retry

__all__ = ["InferenceServerClient"]

T = TypeVar("T")

#: How long `async_infer` waits under gevent for its request to be sent, in seconds.
_HEAD_START = 1.0

Headers = Mapping[str, Any] | None
QueryParams = Mapping[str, Any] | None


class InferenceServerClient(ClientBase):
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

    _transport: BlockingTransport

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
        self._executor: Executor | None = None
        urls = one_or_more(url)
        first, *others = urls
        if others and shared_memory:
            raise InvalidRequest("shared_memory='auto' is for a client with one server")
        address = parse_url(first, ssl)
        configuration["url"] = urls
        super().__init__(
            address,
            verbose,
            shared_memory,
            shared_memory_threshold,
            shared_memory_limit,
            binary_data,
            configuration,
        )
        context = tls_context(ssl_options, ssl_context_factory, insecure) if address.tls else None
        self._limit = limit = positive(concurrency, "concurrency")
        timeouts = Timeouts(connection=connection_timeout, network=network_timeout)
        self._workers = (
            limit if max_greenlets is None else min(limit, positive(max_greenlets, "max_greenlets"))
        )
        connections = Connections(
            max_idle=max_idle,
            max_age=max_age,
            keep_alive=keep_alive,
            proxy=proxy,
            trust_env=trust_env,
            max_response_bytes=max_response_bytes,
            expect_continue=expect_continue,
        )
        self._transport = BlockingTransport(address, limit, timeouts, context, connections)
        #: Whether all calls stand in one line: with one server, and as many threads as connections.
        self._has_line = len(urls) == 1 and resolve_every is None and self._workers == limit
        self._deadline = seconds(deadline, "deadline")
        self._idle_timeout = timeouts.network
        #: Re-entrant, and nothing that may block runs under it: see BlockingPool.
        self._lock = threading.RLock()
        self._turns: Turns[BlockingPool[None]] = Turns(BlockingPool, partial(_hire_for, weakref.ref(self)))
        self._closed = False
        servers = {
            each: InferenceServerClient(**{**configuration, **ALONE, "url": each}) for each in urls if others
        }
        self._serve(servers, retry, balancing, on_request, on_response, on_retry)
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
            for server in (*self._servers.values(), *self._leaving.values()):
                server.close()
            self._transport.close()

    def _start_anew(self) -> None:
        super()._start_anew()
        self._lock = threading.RLock()
        self._turns = Turns(BlockingPool, partial(_hire_for, weakref.ref(self)))
        self._executor = None
        self._transport.reset()

    def on_each(self, action: Callable[[Self], T]) -> dict[str, T]:
        """Do something with the client of each server in turn: ``on_each(lambda one: one.load_model("m"))``.

        Returns
        -------
        dict
            What came of it, by the server's URL. What fails ends it, and later servers are not reached.
        """
        return {url: action(self.server(url)) for url in self.servers}

    # -- health and metadata --

    def is_server_live(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        """Return whether the server is alive."""
        return self._run(operations.is_server_live(), headers, query_params, deadline)

    def is_server_ready(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        """Return whether the server is ready to infer."""
        return self._run(operations.is_server_ready(), headers, query_params, deadline)

    def is_model_ready(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> bool:
        """Return whether a model is ready; without a version, one that the server chooses."""
        return self._run(
            operations.is_model_ready(model_name, model_version), headers, query_params, deadline
        )

    def wait_until_ready(
        self,
        timeout: float | None = 60.0,
        model: str | None = None,
        *,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
    ) -> None:
        """Wait until the server, or a model on it, is ready to infer, however often it has to be asked.

        A server that cannot be connected to, and one that answers with an error, is not ready yet.

        Parameters
        ----------
        timeout : float or None
            The most seconds to wait; None: for ever; 0 or less: it raises without asking.
        model : str, optional
            The model to wait for.
        model_version : str
            Its version; empty: one that the server chooses.
        headers, query_params
            See the class.

        Raises
        ------
        DeadlineExceeded
            When it is not ready in time; with the answer that came last.
        """
        until = self._until(call_limit(timeout, None, "timeout"))
        clock = time.monotonic

        def time_left() -> float:
            return math.inf if until is None else until - clock()

        self._drive(operations.until_ready(model, model_version, time_left), headers, query_params, until)

    def get_server_metadata(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.ServerMetadata:
        """Return the server's name, version and extensions."""
        return self._run(operations.get_server_metadata(), headers, query_params, deadline)

    def get_model_metadata(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.ModelMetadata:
        """Return a model's versions, platform, inputs and outputs."""
        return self._run(
            operations.get_model_metadata(model_name, model_version), headers, query_params, deadline
        )

    def get_model_config(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.ModelConfig:
        """Return a model's configuration."""
        return self._run(
            operations.get_model_config(model_name, model_version), headers, query_params, deadline
        )

    def get_inference_statistics(
        self,
        model_name: str = "",
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.Statistics:
        """Return the statistics of a model, or of all models where no name is given."""
        operation = operations.get_inference_statistics(model_name, model_version)
        return self._run(operation, headers, query_params, deadline)

    # -- model repository --

    def get_model_repository_index(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> list[types.ModelIndexEntry]:
        """Return the models of the repository: a list of name, version, state and reason."""
        return self._run(operations.get_model_repository_index(), headers, query_params, deadline)

    def load_model(
        self,
        model_name: str,
        headers: Headers = None,
        query_params: QueryParams = None,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Load or reload a model.

        Parameters
        ----------
        model_name : str
            The model.
        headers, query_params, deadline
            See the class.
        config : str, optional
            A configuration as JSON, in place of the one in the repository.
        files : mapping of str to bytes, optional
            Files in place of the model's directory: paths with ``file:`` before them, for example
            ``"file:1/model.onnx"``, and their contents. Needs `config`.
        """
        self._run(operations.load_model(model_name, config, files), headers, query_params, deadline)

    def unload_model(
        self,
        model_name: str,
        headers: Headers = None,
        query_params: QueryParams = None,
        unload_dependents: bool = False,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Unload a model; with `unload_dependents` also the models that only it needed."""
        self._run(operations.unload_model(model_name, unload_dependents), headers, query_params, deadline)

    # -- trace and log settings --

    def get_trace_settings(
        self,
        model_name: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.TraceSettings:
        """Return the trace settings of a model, or the global ones."""
        return self._run(operations.get_trace_settings(model_name), headers, query_params, deadline)

    def update_trace_settings(
        self,
        model_name: str | None = None,
        settings: Mapping[str, Any] = {},
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.TraceSettings:
        """Change trace settings of a model, or global ones; None clears a setting. Return all of them."""
        return self._run(
            operations.update_trace_settings(model_name, settings), headers, query_params, deadline
        )

    def get_log_settings(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.LogSettings:
        """Return the server's log settings."""
        return self._run(operations.get_log_settings(), headers, query_params, deadline)

    def update_log_settings(
        self,
        settings: Mapping[str, Any],
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.LogSettings:
        """Change log settings of the server; return all of them."""
        return self._run(operations.update_log_settings(settings), headers, query_params, deadline)

    # -- shared memory --

    def get_system_shared_memory_status(
        self,
        region_name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> list[types.SystemRegionStatus]:
        """Return the registered system shared memory regions, or the one of that name."""
        return self._run(
            operations.get_shared_memory_status("system", region_name), headers, query_params, deadline
        )

    def register_system_shared_memory(
        self,
        name: str,
        key: str,
        byte_size: int,
        offset: int = 0,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make a system shared memory region known to the server.

        Parameters
        ----------
        name : str
            The name for it in requests.
        key : str
            The key of the memory object that holds it.
        byte_size : int
            Its size in bytes.
        offset : int
            Where in the memory object it starts, in bytes.
        headers, query_params, deadline
            See the class.
        """
        operation = operations.register_system_shared_memory(name, key, byte_size, offset)
        self._run(operation, headers, query_params, deadline)

    def unregister_system_shared_memory(
        self,
        name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make the server forget a system shared memory region, or all of them where no name is given."""
        self._run(operations.unregister_shared_memory("system", name), headers, query_params, deadline)

    def get_cuda_shared_memory_status(
        self,
        region_name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> list[types.CudaRegionStatus]:
        """Return the registered CUDA shared memory regions, or the one of that name."""
        return self._run(
            operations.get_shared_memory_status("cuda", region_name), headers, query_params, deadline
        )

    def register_cuda_shared_memory(
        self,
        name: str,
        raw_handle: bytes,
        device_id: int,
        byte_size: int,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make a CUDA shared memory region known to the server.

        Parameters
        ----------
        name : str
            The name for it in requests.
        raw_handle : bytes
            The serialized cudaIPC handle as base64.
        device_id : int
            The GPU on which the handle was made.
        byte_size : int
            Its size in bytes.
        headers, query_params, deadline
            See the class.
        """
        operation = operations.register_cuda_shared_memory(name, raw_handle, device_id, byte_size)
        self._run(operation, headers, query_params, deadline)

    def unregister_cuda_shared_memory(
        self,
        name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make the server forget a CUDA shared memory region, or all of them where no name is given."""
        self._run(operations.unregister_shared_memory("cuda", name), headers, query_params, deadline)

    @contextmanager
    def shared_memory(
        self,
        byte_size: int | None = None,
        *,
        key: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        deadline: Deadline = UNSET,
    ) -> Iterator[Region]:
        """Make a shared memory region, known to the server for the length of a ``with`` block.

        Whatever ends the block, the server forgets the region and its memory is given back; arrays over it stay
        valid. A process that is killed leaves nothing of it behind, unless others may attach to it.

        Parameters
        ----------
        byte_size : int, optional
            Its size in bytes; None: attach to the one that has the key.
        key : str, optional
            A key for other processes to attach to it by. Without one nobody can, and the key that it needs for a
            moment is removed as soon as the server has the region.
        headers, query_params, deadline
            See the class; the deadline holds for each of the two requests.

        Returns
        -------
        context manager of Region

        Raises
        ------
        SharedMemoryException
            When the region cannot be made or found.
        ServerError
            When the server does not take it, for example because it runs on another machine.
        """
        from .regions import Region

        call_limit(deadline, None)  # a spent one makes no region
        region = Region(byte_size, key)
        try:
            self._drive(region._open(), headers, query_params, self._until(deadline))
            yield region
        finally:
            self._drive(region._close(), headers, query_params, self._until(deadline))

    # -- inference --

    def model(self, name: str, version: str = "") -> Model:
        """Return a model as a function of arrays; nothing is asked of the server yet.

        Parameters
        ----------
        name : str
            The model.
        version : str
            Its version; empty: the server chooses.

        Raises
        ------
        InvalidRequest
            For what can be no name or version.
        """
        from .model import Model

        return Model(self, name, version)

    def infer(
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
    ) -> InferResult:
        """Run an inference and return its result.

        Parameters
        ----------
        model_name : str
            The model.
        inputs : sequence of InferInput
            Its inputs. Numeric arrays are read here, when they are sent, not when they were set.
        model_version : str
            The version; empty: the server chooses.
        outputs : sequence of InferRequestedOutput, optional
            The outputs to return, and how; None: all, as binary.
        request_id : str
            An identifier that comes back in the response.
        sequence_id : int or str
            The sequence that the request belongs to; 0 or "": none.
        sequence_start, sequence_end : bool
            Whether it is the sequence's first, and its last; without meaning where there is none.
        priority : int
            1 is the highest; 0: the model's default.
        timeout : int, optional
            How long the request may wait in the server's queue, in microseconds; only for models with dynamic
            batching. It says nothing of how long this call may take.
        headers, query_params
            See the class.
        request_compression_algorithm, response_compression_algorithm : str, optional
            ``"gzip"`` or ``"deflate"``: how to compress the request; what the server may use for the
            response.
        parameters : mapping, optional
            Further parameters of the request, for the model.
        idempotent : bool, optional
            Whether running it twice does no more than running it once, so that the client may send it again. None:
            it may where the server has refused to take it or its result, not where nobody knows whether it ran.
            An inference with outputs in a shared memory region of yours is not sent again where it may still run:
            it could write there when this has returned.

        Raises
        ------
        InferenceServerException
            See `tritonhttp.errors` for which.
        """
        asked = (
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
        )
        plain = self._encode_plain_infer(asked, headers, query_params)
        until = self._until(deadline)
        if plain is not None:
            return self._infer_plain((model_name, model_version), plain, until)
        flow = self._infer_flow(asked)
        if sequence_id in (0, ""):
            return self._drive(flow, headers, query_params, until)
        return self._drive_in_turn(
            Turn(self._turns, (model_name, sequence_id)), flow, headers, query_params, until, None
        )

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
            Its ``get_result()`` gives the result, or raises what went wrong.

        Raises
        ------
        InvalidRequest
            For arguments that cannot be sent.
        """
        asked = (
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
        )
        until = self._until(deadline)
        plain = self._encode_plain_infer(asked, headers, query_params, snapshot=copy)
        task: Callable[[], InferResult]
        place: Place[Any] = Place()
        turn = None
        if plain is not None:
            task = partial(self._infer_plain, (model_name, model_version), plain, until, place)
        else:
            flow = self._infer_flow(asked, snapshot=copy)
            if sequence_id not in (0, ""):
                turn = Turn(self._turns, (model_name, sequence_id))
            given = dict(headers) if headers else None
            query = dict(query_params) if query_params else None
            task = partial(self._drive_in_turn, turn, flow, given, query, until, place)
        if self._is_watched():
            # The hooks, the plugin and the log see the caller's context, not that of a thread of ours.
            task = partial(copy_context().run, task)
        late = None if until is None else partial(self._too_late, time.monotonic(), until, place, turn)
        pending = Pending(task, until, late)
        self._submit(pending, place, turn)
        if self._verbose:
            self._log.debug("Sent request%s", f" '{request_id}'" if request_id else "")
        return InferAsyncRequest(pending, self._verbose)

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
                self._withdraw(pending, place, turn)
                raise
        except BaseException:
            self._withdraw(pending, place, turn)
            raise

    def _begin(self, executor: Executor, pending: Pending, place: Place[Any]) -> None:
        """Let an inference join the line, and a thread come for it."""
        if not pending.is_begun:
            if self._has_line and not place.exceeds:
                self._transport.reserve(place)
            executor.put(pending.run)

    def _withdraw(self, pending: Pending, place: Place[Any], turn: Turn[BlockingPool[None]] | None) -> None:
        """Take an inference back, unless a thread has begun to carry it out."""
        if pending.withdraw():
            release(place)
            if self._executor is not None:
                self._executor.drop(pending.run)
            if turn is not None:
                turn.leave()

    def _too_late(
        self,
        began: float,
        until: Moment,
        place: Place[Any],
        turn: Turn[BlockingPool[None]] | None,
        pending: Pending,
    ) -> InferenceServerException:
        """Take an inference back whose time was over before it was begun."""
        self._withdraw(pending, place, turn)
        return wait_timeout(self._limit, time.monotonic() - began, until)

    def _drive_in_turn(
        self,
        turn: Turn[BlockingPool[None]] | None,
        flow: Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None,
    ) -> T:
        """Carry out the operations of a flow, behind the earlier ones of its sequence; give the place back."""
        if place is not None:
            place.owner = this_thread()[0]
        try:
            if turn is None:
                return self._drive(flow, headers, query_params, until, place)
            with turn, turn:
                if turn.pool is None:
                    turn.place.owner = this_thread()[0]
                    turn.join(first=is_owned(self._turns.lock))
                assert turn.pool is not None
                began = time.monotonic()
                if not turn.pool.hold(turn.place, until, reserved=True):
                    raise turn_timeout(time.monotonic() - began, until)
                return self._drive(flow, headers, query_params, until, place)
        finally:
            release(place)

    def generate(
        self,
        model_name: str,
        inputs: Mapping[str, Any],
        model_version: str = "",
        parameters: Mapping[str, Any] | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        request_id: str = "",
        idempotent: bool | None = None,
        deadline: Deadline = UNSET,
    ) -> dict[str, Any]:
        """Run a model on JSON inputs and return its one answer: Triton's generate extension.

        Parameters
        ----------
        model_name : str
            The model.
        inputs : mapping of str to value
            Values by the names of inputs: numbers, strings, lists, numpy scalars and arrays; bytes go as UTF-8.
        model_version : str
            The version; empty: the server chooses.
        parameters : mapping, optional
            Further parameters of the request, for the model.
        headers, query_params, deadline
            See the class.
        request_id : str
            An identifier of the request.
        idempotent : bool, optional
            Whether running it twice does no more than running it once, so that the client may send it again.

        Returns
        -------
        dict
            The answer: outputs by name, and model_name and model_version.

        Raises
        ------
        ServerError
            Also for a model that gives more than one answer: :meth:`generate_stream` is for those.
        """
        operation = operations.generate(model_name, inputs, model_version, parameters, request_id, idempotent)
        return self._run(operation, headers, query_params, deadline)

    def generate_stream(
        self,
        model_name: str,
        inputs: Mapping[str, Any],
        model_version: str = "",
        parameters: Mapping[str, Any] | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        request_id: str = "",
        idempotent: bool | None = None,
        idle_timeout: Deadline = UNSET,
        deadline: Deadline = UNSET,
    ) -> GenerateStream:
        """Run a model on JSON inputs and iterate over its answers as they come.

        The request goes out at the first step of the iteration, or where a ``with`` block begins. Leaving the
        block, or closing the stream early, closes its connection; a model that looks for that ends its work.

        Parameters
        ----------
        model_name, inputs, model_version, parameters, headers, query_params, request_id, idempotent
            As for :meth:`generate`. Nothing is sent again once the answer has begun.
        idle_timeout : float or None
            Seconds to wait for the answer to begin, and then each time until more of it comes, be it a comment
            that only says that the server is there; None: any time. Not given: the client's network_timeout
            (asyncio: conn_timeout; there the wait for a connection counts).
        deadline : float or None
            Seconds for the whole stream. Not given: the client's own deadline.

        Returns
        -------
        GenerateStream
            An iterator of dicts, and a context manager.
        """
        from .stream import GenerateStream

        idle = self._idle_timeout if idle_timeout is UNSET else seconds(idle_timeout, "idle_timeout")
        operation = operations.generate_stream(
            model_name, inputs, model_version, parameters, request_id, idempotent, idle
        )
        limit = call_limit(deadline, self._deadline)

        def begin(until: Moment | None, place: Place[Any]) -> StreamedResponse | Response:
            return self._carry_out(operation, headers, query_params, until, place)

        return GenerateStream(begin, limit, idle)

    # -- requests --

    def _get(self, request_uri: str, headers: Headers, query_params: QueryParams) -> Response:
        """Send a GET request and return its response.

        Calls go through this method where a subclass or the instance has its own.

        Parameters
        ----------
        request_uri : str
            The path below the server's base path.
        headers, query_params
            See the class.

        Returns
        -------
        Response
            With ``status_code``, ``get(header)`` and ``read()``.
        """
        handed = Operation("GET", request_uri, undecoded)
        operation, until, place = self._resumed(handed, self._until(UNSET))
        return self._exchange(operation, headers, query_params, until, place)

    def _post(
        self, request_uri: str, request_body: Buffer | str, headers: Headers, query_params: QueryParams
    ) -> Response:
        """Send a POST request and return its response; as :meth:`_get`.

        Parameters
        ----------
        request_uri : str
            The path below the server's base path.
        request_body : bytes or str
            The whole body.
        headers, query_params
            See the class.
        """
        handed = self._posted(request_uri, request_body, headers)
        operation, until, place = self._resumed(handed, self._until(UNSET))
        return self._exchange(operation, headers, query_params, until, place)

    def _run(
        self, operation: Operation[T], headers: Headers, query_params: QueryParams, deadline: Deadline
    ) -> T:
        """Carry an operation out: what every public method comes down to."""
        return self._carry_out(operation, headers, query_params, self._until(deadline))

    def _carry_out(
        self,
        operation: Operation[T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> T:
        if headers or query_params or self._is_watched():
            replaced = self._replaced(operation, headers, query_params)
            if replaced is not None:
                with self._replacing(operation, until, place):
                    return operation.decode(replaced())
            return operation.decode(self._exchange(operation, headers, query_params, until, place))
        target, buffers = self._encoder.plain(operation)
        repeatable = operation.repeatable and operation.renew is None
        trace = Trace() if repeatable else None
        try:
            response = self._transport.exchange(
                operation.method,
                target,
                buffers,
                repeatable=repeatable,
                deadline=until,
                trace=trace,
                place=place,
                streamed=operation.streamed,
                idle_timeout=operation.idle,
            )
        except InferenceServerException as error:
            if trace is not None:
                error.attempts += trace.resent
            raise
        if trace is not None and trace.resent:
            from .dispatch import counted

            response = counted(response, 1 + trace.resent)
        return operation.decode(response)

    def _until(self, deadline: Deadline) -> Moment | None:
        """Return when a call must end that begins now, unless that is known already."""
        if isinstance(deadline, Moment):
            return deadline
        limit = call_limit(deadline, self._deadline)
        return None if limit is None else moment(time.monotonic(), limit)

    def _drive(
        self,
        flow: Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> T:
        """Carry out the operations of a flow, and return what they come to."""
        return drive(flow, lambda operation: self._carry_out(operation, headers, query_params, until, place))

    def _infer_plain(
        self,
        model: tuple[str, str],
        plain: tuple[Known, list[Buffer]],
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> InferResult:
        """Run an inference that takes the short way."""
        known, buffers = plain
        transport, answer = self._transport, known.answer
        response = transport.exchange(
            "POST", known.target, buffers, deadline=until, place=place, answer=answer
        )
        if answer is not None and isinstance(response, bytes):
            return answer.result.alike(response)
        assert isinstance(response, Response)
        result = self._decode_infer(model, response)
        if transport.repeats:
            known.learn(buffers, response, result)
        return result

    def _exchange(
        self,
        operation: Operation[Any],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> Response:
        """Send a request that somebody watches: the plugin, the log."""
        request = Request(call_headers(operation, headers))
        outcome = self._call_plugin(request)
        if hasattr(outcome, "__await__"):
            if hasattr(outcome, "close"):
                outcome.close()
            raise InvalidRequest(
                "the plugin is a coroutine, which needs tritonhttp.aio: use a plain function here"
            )
        if self._resolve_every is not None:
            self._look_up(self._resolve_every, until)
        dispatch = self._dispatch
        if dispatch is None:
            if not logger.isEnabledFor(DEBUG):
                return self._send(operation, request.headers, query_params, until, None, place)
            dispatch = self._new_dispatch()
        clock = time.monotonic
        flow = dispatch.tries(operation, request.headers, until, clock, self._probe, self._url_of(operation))

        def perform(step: Any) -> Any:
            if isinstance(step, Operation):
                return self._carry_out(step, headers, query_params, until)
            name, call, tried = step
            given = request.headers
            if tried.headers is not operation.headers:
                given = call_headers(tried, given)
            return self.server(name)._send(tried, given, query_params, until, call, place)

        return drive(flow, perform)

    def _send(
        self,
        operation: Operation[Any],
        headers: Mapping[str, Any],
        query_params: QueryParams,
        until: Moment | None,
        call: Call | None = None,
        place: Place[Any] | None = None,
    ) -> Response:
        """Send a request to this client's own server."""
        target, buffers = self._encode(operation, headers, query_params)
        repeatable = operation.repeatable and operation.renew is None
        trace = Trace() if repeatable or call is not None else None
        try:
            response = self._transport.exchange(
                operation.method,
                target,
                buffers,
                repeatable=repeatable,
                deadline=until,
                trace=trace,
                place=place,
                streamed=operation.streamed,
                idle_timeout=operation.idle,
            )
        except InferenceServerException as error:
            if call is None and trace is not None:
                error.attempts += trace.resent
            raise
        finally:
            if call is not None and trace is not None:
                call.attempts += trace.resent
                call.url = f"{self._address.origin}{target}"
                call.phases = {phase: spent * 1e3 for phase, spent in trace.phases.items()}
        if call is None and trace is not None and trace.resent:
            from .dispatch import counted

            response = counted(response, 1 + trace.resent)
        return self._note(operation, response)

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

    def _look_up_again(self) -> None:
        try:
            self._look_up_now(self._until(PROBING))
        except InferenceServerException as error:
            self._log.info("the server's addresses stay as they are: %s", error)

    def _probe(self, url: str) -> None:
        """Find out, beside the call that is under way, whether a server that failed is ready again."""
        try:
            threading.Thread(target=self._look_at, args=(url,), name="tritonhttp-probe", daemon=True).start()
        except RuntimeError:  # no thread to be had: the server is as it was
            if self._dispatch is not None:
                self._dispatch.probed(url, time.monotonic(), False)

    def _look_at(self, url: str) -> None:
        ready = False
        try:
            ready = self.server(url).is_server_ready(deadline=PROBING)
        except InferenceServerException:
            pass
        finally:
            if self._dispatch is not None:
                self._dispatch.probed(url, time.monotonic(), ready)


def _hire_for(known: weakref.ref[InferenceServerClient]) -> None:
    """Start threads for a client's inferences whose turn has come; it is not kept alive for that."""
    client = known()
    if client is not None and client._executor is not None:
        client._executor.hire()


def drive(flow: Generator[Any, Any, T], perform: Callable[[Any], Any]) -> T:
    """Perform the steps of a flow, pause where a step is a number of seconds, and return what they come to."""
    try:
        step = next(flow)
        while True:
            try:
                answer = None
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    answer = perform(step)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        found: T = end.value
        return found
    except BaseException:  # an interrupt here, between two steps
        flow.close()
        raise


InferenceServerClient._originals = {"_get": InferenceServerClient._get, "_post": InferenceServerClient._post}
