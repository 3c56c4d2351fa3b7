"""The asyncio client: what differs from the blocking client, beside `_calls`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from ..._calls.turns import Turn, Turns
from ..._protocol.operations import Operation
from ..._transport.asyncio import AsyncioTransport
from ..._transport.asyncio_pool import AsyncioPool
from ..._transport.failures import closed, turn_timeout
from ..._transport.policy import UNSET, Deadline, Moment, positive, seconds
from ..._transport.tls import aiohttp_context, tls_context
from ..advice import checked
from ..base import (
    CLOSING,
    SHARED_MEMORY_LIMIT,
    SHARED_MEMORY_THRESHOLD,
    renew_after_fork,
)
from .calls import Calls
from .execution import Headers, QueryParams
from .side import guarded

if TYPE_CHECKING:
    import ssl as ssl_module
    from types import TracebackType

    from typing_extensions import Self

    from ..._calls.dispatch import Balancing
    from ..._calls.retry import Retry
    from ...events import CallHook, RetryHook

    class Fingerprint(Protocol):  # aiohttp's, which need not be installed
        @property
        def fingerprint(self) -> bytes: ...


__all__ = ["InferenceServerClient"]

T = TypeVar("T")


@guarded
class InferenceServerClient(Calls):
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
        Use TLS. The server's certificate is verified unless `ssl_context` says otherwise.
    ssl_context : ssl.SSLContext, bool or aiohttp.Fingerprint, optional
        The context to use. None or True: the system's certificates are trusted. False: nothing is verified,
        neither the certificate's chain nor its host name, so anybody on the way can read and change the traffic.
        A fingerprint: only the certificate of that fingerprint is accepted, and nothing else of it is verified.
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

    __module__ = "tritonhttp.aio"

    _transport: AsyncioTransport

    @checked
    def __init__(
        self,
        url: str | Sequence[str],
        verbose: bool = False,
        conn_limit: int = 100,
        conn_timeout: float | None = 60.0,
        ssl: bool = False,
        ssl_context: ssl_module.SSLContext | bool | Fingerprint | None = None,
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
        super().__init__(configuration)
        self._probes: set[asyncio.Task[None]] = set()
        self._turns: Turns[AsyncioPool[None]] = Turns(AsyncioPool)
        self._deadline = seconds(conn_timeout, "conn_timeout")
        # A stream may well take longer than a call.
        self._idle_timeout = self._deadline
        self._stream_deadline: float | None = None
        if deadline is not UNSET:
            self._deadline = self._stream_deadline = seconds(deadline, "deadline")
        context = aiohttp_context(ssl_context)
        if self._address.tls:
            context = context or tls_context(None, None, False)
        else:
            context = None
        self._workers = limit = configuration["conn_limit"] = positive(conn_limit, "conn_limit")
        self._transport = AsyncioTransport(self._address, limit, context, self._options)
        self._serve(InferenceServerClient)
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
            for server in self._inner():
                await server.close()
            await self._transport.close()

    def _start_anew(self) -> None:
        super()._start_anew()
        self._turns = Turns(AsyncioPool)
        self._transport.forget_loop()

    async def _drive_in_turn(
        self,
        turn: Turn[AsyncioPool[None]],
        flow: Operation[T] | Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
    ) -> T:
        """Carry out the operations of a flow when its sequence's earlier requests have ended."""
        with turn, turn:
            if not turn.begin():
                assert turn.pool is not None
                clock = asyncio.get_running_loop().time
                began = clock()
                if not await turn.pool.hold(turn.place, until, reserved=True):
                    raise turn_timeout(turn.behind, clock() - began, until)
            perform: Any = self._carry_out if isinstance(flow, Operation) else self._drive
            result: T = await perform(flow, headers, query_params, until)
            return result

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

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    def _probe(self, url: str) -> None:
        """Find out, beside the call that is under way, whether a server that failed is ready again."""
        self._beside(self._look_at(url))


InferenceServerClient._originals = {"_get": InferenceServerClient._get, "_post": InferenceServerClient._post}
