"""The asyncio client: the blocking client's methods, awaited."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .. import client, operations
from ..base import (
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
from ..encoder import call_headers
from ..errors import DeadlineExceeded, InferenceServerException, InvalidRequest, TransportError
from ..log import logger
from ..operations import Operation
from ..plugins import Request
from ..result import InferResult
from ..tensors import InferInput, InferRequestedOutput
from ..transport.address import as_context, parse_url, tls_context
from ..transport.asyncio import AsyncioPool, AsyncioTransport, timeout_at
from ..transport.failures import closed, over, turn_timeout
from ..transport.policy import UNSET, Connections, Deadline, Moment, call_limit, moment, seconds
from ..transport.trace import Trace
from ..transport.turns import Turn, Turns
from ..wire.http1 import Response, StreamedResponse
from ..wire.requests import Buffer
from .foreign import Answer, mark, plain
from .stream import GenerateStream

if TYPE_CHECKING:
    import ssl as ssl_module
    from types import TracebackType

    from typing_extensions import Self

    from .. import types
    from ..dispatch import Balancing
    from ..events import Call, CallHook, RetryHook
    from ..inferences import Known
    from ..regions import Region
    from ..transport.pool import Place
    from ..transport.retry import Retry
    from .model import Model

__all__ = ["InferenceServerClient"]

T = TypeVar("T")
Headers = Mapping[str, Any] | None
QueryParams = Mapping[str, Any] | None


class InferenceServerClient(ClientBase):
    """Talk to an inference server over HTTP, on an asyncio event loop.

    One client serves any number of tasks of one loop. It may be made outside of a loop; used on another loop after
    the first one has ended, it starts anew there. Cancelling a call closes its connection and touches no other
    call. Every method takes `headers`, `query_params` and `deadline`, as those of the blocking client do.

    Parameters
    ----------
    url : str, or sequence of str
        ``host:port`` with an optional base path; ``http://`` and ``https://`` may stand before it. Or
        ``unix:///path/to.sock``. Several: a call goes to one of them.
    verbose : bool
        Log every request and response on stdout.
    conn_limit : int
        The most connections, and so the most requests at a time; more wait in line for their turn.
    conn_timeout : float or None
        Seconds for a whole call, waiting for a connection included, unless `deadline` is given; None: no limit.
    ssl : bool
        Use TLS; the server's certificate is verified always.
    ssl_context : ssl.SSLContext, optional
        The context to use; without one, the system's certificates are trusted.
    deadline, retry, balancing, resolve_every, on_request, on_response, on_retry, max_idle, max_age, keep_alive,
    proxy, trust_env, max_response_bytes, expect_continue, shared_memory, shared_memory_threshold,
    shared_memory_limit, binary_data
        As for the blocking client.

    Raises
    ------
    InvalidRequest
        For arguments that cannot be used.
    """

    _shows_origin = True

    _transport: AsyncioTransport

    def __init__(
        self,
        url: str | Sequence[str],
        verbose: bool = False,
        conn_limit: int = 100,
        conn_timeout: float | None = 60.0,
        ssl: bool = False,
        ssl_context: ssl_module.SSLContext | None = None,
        *,
        deadline: Deadline = UNSET,
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
        self._probes: set[asyncio.Task[None]] = set()
        self._turns: Turns[AsyncioPool[None]] = Turns(AsyncioPool)
        self._deadline = seconds(conn_timeout, "conn_timeout")
        #: For streams, which may well take longer than a call: from one answer to the next, and as a whole.
        self._idle_timeout = self._deadline
        self._stream_deadline: float | None = None
        if deadline is not UNSET:
            self._deadline = self._stream_deadline = seconds(deadline, "deadline")
        context = None if ssl_context is None else as_context(ssl_context, "ssl_context")
        if address.tls and context is None:
            context = tls_context(None, None, False)
        limit = configuration["conn_limit"] = positive(conn_limit, "conn_limit")
        connections = Connections(
            max_idle=max_idle,
            max_age=max_age,
            keep_alive=keep_alive,
            proxy=proxy,
            trust_env=trust_env,
            max_response_bytes=max_response_bytes,
            expect_continue=expect_continue,
        )
        self._transport = AsyncioTransport(address, limit, context if address.tls else None, connections)
        servers = {
            each: InferenceServerClient(**{**configuration, **ALONE, "url": each}) for each in urls if others
        }
        self._serve(servers, retry, balancing, on_request, on_response, on_retry)
        renew_after_fork(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        transport = getattr(self, "_transport", None)
        if transport is not None:
            transport.abandon()

    async def close(self) -> None:
        """Close the client; calls under way end first, every later call fails. Idempotent."""
        sharing = self._sharing
        try:
            if sharing is not None:
                try:
                    await self._drive(sharing.close(), None, None, self._until(CLOSING))
                except Exception:  # of a plugin: what is left is swept by the next client
                    self._sharing = None
                    raise
                self._sharing = None  # not before: an interrupted close can be completed
        finally:
            for server in (*self._servers.values(), *self._leaving.values()):
                await server.close()
            await self._transport.close()

    def _start_anew(self) -> None:
        super()._start_anew()
        self._turns = Turns(AsyncioPool)
        self._transport.forget_loop()

    async def on_each(self, action: Callable[[Self], Awaitable[T]]) -> dict[str, T]:
        return {url: await action(self.server(url)) for url in self.servers}

    # -- health and metadata --

    async def is_server_live(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        return await self._run(operations.is_server_live(), headers, query_params, deadline)

    async def is_server_ready(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        return await self._run(operations.is_server_ready(), headers, query_params, deadline)

    async def is_model_ready(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> bool:
        return await self._run(
            operations.is_model_ready(model_name, model_version), headers, query_params, deadline
        )

    async def wait_until_ready(
        self,
        timeout: float | None = 60.0,
        model: str | None = None,
        *,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
    ) -> None:
        until = self._until(call_limit(timeout, None, "timeout"))
        clock = asyncio.get_running_loop().time

        def time_left() -> float:
            return math.inf if until is None else until - clock()

        await self._drive(
            operations.until_ready(model, model_version, time_left), headers, query_params, until
        )

    async def get_server_metadata(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.ServerMetadata:
        return await self._run(operations.get_server_metadata(), headers, query_params, deadline)

    async def get_model_metadata(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.ModelMetadata:
        return await self._run(
            operations.get_model_metadata(model_name, model_version), headers, query_params, deadline
        )

    async def get_model_config(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.ModelConfig:
        return await self._run(
            operations.get_model_config(model_name, model_version), headers, query_params, deadline
        )

    async def get_inference_statistics(
        self,
        model_name: str = "",
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.Statistics:
        operation = operations.get_inference_statistics(model_name, model_version)
        return await self._run(operation, headers, query_params, deadline)

    # -- model repository --

    async def get_model_repository_index(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> list[types.ModelIndexEntry]:
        return await self._run(operations.get_model_repository_index(), headers, query_params, deadline)

    async def load_model(
        self,
        model_name: str,
        headers: Headers = None,
        query_params: QueryParams = None,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        await self._run(operations.load_model(model_name, config, files), headers, query_params, deadline)

    async def unload_model(
        self,
        model_name: str,
        headers: Headers = None,
        query_params: QueryParams = None,
        unload_dependents: bool = False,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        await self._run(
            operations.unload_model(model_name, unload_dependents), headers, query_params, deadline
        )

    # -- trace and log settings --

    async def get_trace_settings(
        self,
        model_name: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.TraceSettings:
        return await self._run(operations.get_trace_settings(model_name), headers, query_params, deadline)

    async def update_trace_settings(
        self,
        model_name: str | None = None,
        settings: Mapping[str, Any] = {},
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.TraceSettings:
        return await self._run(
            operations.update_trace_settings(model_name, settings), headers, query_params, deadline
        )

    async def get_log_settings(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.LogSettings:
        return await self._run(operations.get_log_settings(), headers, query_params, deadline)

    async def update_log_settings(
        self,
        settings: Mapping[str, Any],
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.LogSettings:
        return await self._run(operations.update_log_settings(settings), headers, query_params, deadline)

    # -- shared memory --

    async def get_system_shared_memory_status(
        self,
        region_name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> list[types.SystemRegionStatus]:
        return await self._run(
            operations.get_shared_memory_status("system", region_name), headers, query_params, deadline
        )

    async def register_system_shared_memory(
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
        operation = operations.register_system_shared_memory(name, key, byte_size, offset)
        await self._run(operation, headers, query_params, deadline)

    async def unregister_system_shared_memory(
        self,
        name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        await self._run(operations.unregister_shared_memory("system", name), headers, query_params, deadline)

    async def get_cuda_shared_memory_status(
        self,
        region_name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> list[types.CudaRegionStatus]:
        return await self._run(
            operations.get_shared_memory_status("cuda", region_name), headers, query_params, deadline
        )

    async def register_cuda_shared_memory(
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
        operation = operations.register_cuda_shared_memory(name, raw_handle, device_id, byte_size)
        await self._run(operation, headers, query_params, deadline)

    async def unregister_cuda_shared_memory(
        self,
        name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        await self._run(operations.unregister_shared_memory("cuda", name), headers, query_params, deadline)

    @asynccontextmanager
    async def shared_memory(
        self,
        byte_size: int | None = None,
        *,
        key: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        deadline: Deadline = UNSET,
    ) -> AsyncIterator[Region]:
        from ..regions import Region

        call_limit(deadline, None)  # a spent one makes no region
        region = Region(byte_size, key)
        try:
            await self._drive(region._open(), headers, query_params, self._until(deadline))
            yield region
        finally:
            await self._drive(region._close(), headers, query_params, self._until(deadline))

    # -- inference --

    def model(self, name: str, version: str = "") -> Model:
        from .model import Model

        return Model(self, name, version)

    async def infer(
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
            return await self._infer_plain((model_name, model_version), plain, until)
        flow = self._infer_flow(asked)
        if sequence_id in (0, ""):
            return await self._drive(flow, headers, query_params, until)
        return await self._drive_in_turn(
            Turn(self._turns, (model_name, sequence_id)), flow, headers, query_params, until
        )

    async def generate(
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
        operation = operations.generate(model_name, inputs, model_version, parameters, request_id, idempotent)
        return await self._run(operation, headers, query_params, deadline)

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
        idle = self._idle_timeout if idle_timeout is UNSET else seconds(idle_timeout, "idle_timeout")
        operation = operations.generate_stream(
            model_name, inputs, model_version, parameters, request_id, idempotent, idle
        )
        limit = call_limit(deadline, self._stream_deadline)

        async def begin(until: Moment | None, place: Place[Any]) -> StreamedResponse | Response:
            return await self._carry_out(operation, headers, query_params, until, place)

        return GenerateStream(begin, limit, idle)

    # -- requests --

    async def _get(self, request_uri: str, headers: Headers, query_params: QueryParams) -> Response:
        handed = Operation("GET", request_uri, undecoded)
        operation, until, place = self._resumed(handed, self._until(UNSET))
        return Answer.of(await self._exchange(operation, headers, query_params, until, place))

    async def _post(
        self, request_uri: str, request_body: Buffer | str, headers: Headers, query_params: QueryParams
    ) -> Response:
        handed = self._posted(request_uri, request_body, headers)
        operation, until, place = self._resumed(handed, self._until(UNSET))
        return Answer.of(await self._exchange(operation, headers, query_params, until, place))

    async def _run(
        self, operation: Operation[T], headers: Headers, query_params: QueryParams, deadline: Deadline
    ) -> T:
        """Carry an operation out: what every public method comes down to."""
        return await self._carry_out(operation, headers, query_params, self._until(deadline))

    async def _carry_out(
        self,
        operation: Operation[T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> T:
        try:
            if headers or query_params or self._is_watched():
                replaced = self._replaced(operation, headers, query_params)
                if replaced is not None:
                    with self._replacing(operation, until, place):
                        return operation.decode(await plain(await replaced()))
                return operation.decode(await self._exchange(operation, headers, query_params, until, place))
            target, buffers = self._encoder.plain(operation)
            repeatable = operation.repeatable and operation.renew is None
            trace = Trace() if repeatable else None
            try:
                response = await self._transport.exchange(
                    operation.method,
                    target,
                    buffers,
                    repeatable=repeatable,
                    deadline=until,
                    trace=trace,
                    place=place,
                    streamed=operation.streamed,
                )
            except InferenceServerException as error:
                if trace is not None:
                    error.attempts += trace.resent
                raise
        except TransportError as error:
            mark(error)
            raise
        if trace is not None and trace.resent:
            from ..dispatch import counted

            response = counted(response, 1 + trace.resent)
        return operation.decode(response)

    def _until(self, deadline: Deadline) -> Moment | None:
        """Return when a call must end that begins now, unless that is known already."""
        if isinstance(deadline, Moment):
            return deadline
        limit = call_limit(deadline, self._deadline)
        return None if limit is None else moment(asyncio.get_running_loop().time(), limit)

    async def _drive(
        self,
        flow: Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> T:
        """Carry out the operations of a flow, and return what they come to."""
        return await drive(
            flow, lambda operation: self._carry_out(operation, headers, query_params, until, place)
        )

    async def _drive_in_turn(
        self,
        turn: Turn[AsyncioPool[None]],
        flow: Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
    ) -> T:
        """Carry out the operations of a flow when its sequence's earlier requests have ended."""
        with turn, turn:
            turn.join()
            assert turn.pool is not None
            clock = asyncio.get_running_loop().time
            began = clock()
            if not await turn.pool.hold(turn.place, until, reserved=True):
                raise turn_timeout(clock() - began, until)
            return await self._drive(flow, headers, query_params, until)

    async def _infer_plain(
        self, model: tuple[str, str], plain: tuple[Known, list[Buffer]], until: Moment | None
    ) -> InferResult:
        """Run an inference that takes the short way."""
        known, buffers = plain
        try:
            response = await self._transport.exchange("POST", known.target, buffers, deadline=until)
        except TransportError as error:
            mark(error)
            raise
        return self._decode_infer(model, response)

    async def _exchange(
        self,
        operation: Operation[Any],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> Response:
        request = Request(call_headers(operation, headers))
        outcome = self._call_plugin(request)
        if hasattr(outcome, "__await__"):
            limit = timeout_at(until)
            try:
                async with limit:
                    await outcome
            except TimeoutError:
                if until is None or not limit.expired():
                    raise  # the plugin's own
                raise DeadlineExceeded(
                    f"timed out while waiting for the plugin: {over(until)}", phase="plugin"
                ) from None
        if self._resolve_every is not None:
            await self._look_up(self._resolve_every, until)
        dispatch = self._dispatch
        if dispatch is None:
            if not logger.isEnabledFor(DEBUG):
                return await self._send(operation, request.headers, query_params, until, None, place)
            dispatch = self._new_dispatch()
        loop, url = asyncio.get_running_loop(), self._url_of(operation)
        flow = dispatch.tries(
            operation, request.headers, until, loop.time, self._probe, url, loop.call_soon_threadsafe
        )

        def perform(step: Any) -> Awaitable[Any]:
            if isinstance(step, Operation):
                return self._carry_out(step, headers, query_params, until)
            name, call, tried = step
            given = request.headers
            if tried.headers is not operation.headers:
                given = call_headers(tried, given)
            sent: Awaitable[Any] = self.server(name)._send(tried, given, query_params, until, call, place)
            return sent

        return await drive(flow, perform)

    async def _send(
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
            response = await self._transport.exchange(
                operation.method,
                target,
                buffers,
                repeatable=repeatable,
                deadline=until,
                trace=trace,
                place=place,
                streamed=operation.streamed,
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
            from ..dispatch import counted

            response = counted(response, 1 + trace.resent)
        return self._note(operation, response)

    async def _look_up(self, every: float, until: Moment | None) -> None:
        """See to it that the addresses of the server's name are known, and were looked up not long ago."""
        if self._transport.is_closed:
            raise closed()
        now = asyncio.get_running_loop().time()
        first, known = self._resolved is None, self._resolved
        if known is None or now - known > every:
            self._resolved = now
            if first:
                try:
                    await self._look_up_now(until)
                except BaseException:
                    self._resolved = None
                    raise
            else:
                self._beside(self._look_up_again())

    async def _look_up_now(self, until: Moment | None) -> None:
        for server in self._follow(await self._transport.addresses(until)):
            await server.close()

    async def _look_up_again(self) -> None:
        try:
            await self._look_up_now(self._until(PROBING))
        except InferenceServerException as error:
            self._log.info("the server's addresses stay as they are: %s", error)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    def _probe(self, url: str) -> None:
        """Find out, beside the call that is under way, whether a server that failed is ready again."""
        self._beside(self._look_at(url))

    async def _look_at(self, url: str) -> None:
        ready = False
        try:
            ready = await self.server(url).is_server_ready(deadline=PROBING)
        except InferenceServerException:
            pass
        finally:
            if self._dispatch is not None:
                self._dispatch.probed(url, asyncio.get_running_loop().time(), ready)


async def drive(flow: Generator[Any, Any, T], perform: Callable[[Any], Awaitable[Any]]) -> T:
    """Perform the steps of a flow, pause where a step is a number of seconds, and return what they come to."""
    try:
        step = next(flow)
        while True:
            try:
                answer = None
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    answer = await perform(step)
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

# What a method does is said once, in the blocking client.
for _name, _method in vars(InferenceServerClient).items():
    if callable(_method) and not _method.__doc__:
        _method.__doc__ = getattr(getattr(client.InferenceServerClient, _name, None), "__doc__", None)
