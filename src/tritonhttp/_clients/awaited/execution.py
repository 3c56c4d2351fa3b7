"""How a client carries an operation out: one text for both clients, written in `awaited/execution.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..._basics.log import logger
from ..._basics.redaction import without_secrets
from ..._calls.safety import may_run_twice
from ..._calls.turns import Turn, Turns
from ..._protocol.bodies import Unpacked
from ..._protocol.encoder import Message
from ..._protocol.inference import Inference, explained
from ..._protocol.operations import Endpoint, Operation
from ..._protocol.result import InferResult
from ..._transport.asyncio import AsyncioTransport
from ..._transport.asyncio_pool import AsyncioPool
from ..._transport.policy import UNSET, Deadline, Moment, call_limit, moment
from ..._transport.pool import Place
from ..._transport.trace import Trace
from ..._wire.requests import Buffer
from ..._wire.responses import Response, StreamedResponse
from ...errors import DeadlineExceeded, InferenceServerException, ProtocolError, ServerError, TransportError
from ...plugins import Request
from ..base import ClientBase
from ..overrides import DEBUG, undecoded
from .drive import drive
from .side import as_answer, finish_plugin, mark, pause, plain, rest

if TYPE_CHECKING:
    from ...events import Call

__all__ = ["Execution", "Headers", "QueryParams"]

T = TypeVar("T")

Headers = Mapping[str, Any] | None
QueryParams = Mapping[str, Any] | None


class Execution(ClientBase):
    """The way of a call from its operation to what its response means."""

    #: How a response looks to those who call `_get` or `_post`, and in what `verbose` shows.
    _as_answer = staticmethod(as_answer)
    _transport: AsyncioTransport
    _turns: Turns[AsyncioPool[None]]
    #: Limits of a call that gives none of its own, in seconds.
    _deadline: float | None

    if TYPE_CHECKING:  # each client defines these

        async def _drive_in_turn(
            self,
            turn: Turn[AsyncioPool[None]],
            flow: Operation[T] | Generator[Operation[Any] | float, Any, T],
            headers: Headers,
            query_params: QueryParams,
            until: Moment | None,
        ) -> T: ...

        async def _look_up(self, every: float, until: Moment | None) -> None: ...

        def _probe(self, url: str) -> None: ...

    async def _get(self, request_uri: str, headers: Headers, query_params: QueryParams) -> Response:
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
        handed = Endpoint("GET", request_uri, undecoded)
        operation, until, place = self._resumed(handed, self._until(UNSET))
        return self._as_answer(await self._exchange(operation, headers, query_params, until, place))

    async def _post(
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
        return self._as_answer(await self._exchange(operation, headers, query_params, until, place))

    async def _run(
        self, operation: Operation[T], headers: Headers, query_params: QueryParams, deadline: Deadline
    ) -> T:
        """Carry an operation out, whatever it is."""
        until = self._until(deadline)
        perform: Any = self._carry_out
        try:
            if isinstance(operation, Inference) and self._branches(operation):
                perform = self._branch
            outcome: T = await perform(operation, headers, query_params, until)
        except (TypeError, ValueError) as error:
            refusal = explained(operation, error)
            if refusal is None:
                raise
            raise refusal from refusal.__cause__
        return outcome

    async def _branch(
        self, inference: Inference, headers: Headers, query_params: QueryParams, until: Moment | None
    ) -> InferResult:
        """Run an inference that takes more than one request, or has to wait for another one."""
        flow = self._flow(inference)
        if inference.sequence_id in (0, ""):
            return await self._drive(flow, headers, query_params, until)
        turn = Turn(self._turns, (inference.model_name, inference.sequence_id))
        return await self._drive_in_turn(turn, flow, headers, query_params, until)

    async def _carry_out(
        self,
        operation: Operation[T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> T:
        """Carry an operation out: every call comes down to this, and most go straight to `_send`."""
        try:
            if self._is_watched():
                replaced = self._replaced(operation, headers, query_params)
                if replaced is not None:
                    with self._replacing(operation, until, place):
                        response = await plain(await replaced())
                else:
                    response = await self._exchange(operation, headers, query_params, until, place)
            elif self._dispatch is None:
                response = await self._send(operation, headers, query_params, until, place)
            else:
                response = await self._try(operation, headers, query_params, until, place)
        except TransportError as error:
            mark(error)
            raise
        try:
            if isinstance(response, Response) and response.head.encoding is not None:
                response = await self._unpacked(response, until)
            return operation.decode(response)
        except (ProtocolError, ServerError, DeadlineExceeded) as error:
            self._complete(error, response)
            raise

    async def _unpacked(self, response: Response, until: Moment | None) -> Response:
        """Return a response that is decompressed within the call's time, unless that is done as it arrives."""
        if isinstance(response, StreamedResponse):
            return response
        unpacked = Unpacked(response)
        for _ in unpacked.slices():
            await pause(response.asked, until)
        return unpacked

    def _until(self, deadline: Deadline) -> Moment | None:
        """Return when a call must end that begins now, unless that is known already."""
        if deadline is UNSET:
            limit = self._deadline
        elif deadline is None or isinstance(deadline, Moment):
            return deadline
        else:
            limit = call_limit(deadline, None)
        return None if limit is None else moment(asyncio.get_running_loop().time(), limit)

    async def _drive(
        self,
        flow: Operation[T] | Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> T:
        """Carry out an operation, or the operations of a flow, and return what they come to."""
        if isinstance(flow, Operation):
            return await self._carry_out(flow, headers, query_params, until, place)
        return await drive(
            flow, lambda operation: self._carry_out(operation, headers, query_params, until, place)
        )

    async def _exchange(
        self,
        operation: Operation[Any],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> Response:
        """Send a request that somebody watches: the plugin, a subclass, the log."""
        request = Request(self._encoder.call_headers(operation, headers)[0])
        outcome = self._call_plugin(request)
        if hasattr(outcome, "__await__"):
            await finish_plugin(outcome, until)
        self._validate_headers(request.headers)
        if self._dispatch is None and not logger.isEnabledFor(DEBUG):
            return await self._send(operation, request.headers, query_params, until, place)
        return await self._try(operation, request.headers, query_params, until, place)

    async def _try(
        self,
        operation: Operation[Any],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
    ) -> Response:
        """Send a request that may take several tries, to one of several servers, or that somebody is told of."""
        if self._resolve_every is not None:
            await self._look_up(self._resolve_every, until)
        dispatch = self._dispatch or self._new_dispatch()
        first: Response | InferenceServerException | None = None
        place = place or Place()
        resent = 0
        listens = dispatch.listens
        if not (listens or dispatch.chooses):
            try:
                first = await self._send(
                    operation, headers, query_params, until, place, last=dispatch.sends_once
                )
                if first.status_code < 400:
                    return first
            except InferenceServerException as error:
                first = error
            resent = place.resent
        call = self._record(operation, headers, whole=listens or first is not None)
        call.attempts = resent
        clock = asyncio.get_running_loop().time
        flow = dispatch.tries(
            operation,
            call,
            until,
            clock,
            self._probe,
            listens,
            asyncio.get_running_loop().call_soon_threadsafe,  # asyncio only
            # blocking: first=first,
            first,  # asyncio only
        )

        async def perform(step: Any) -> Any:
            if isinstance(step, Operation):
                return await self._carry_out(step, headers, query_params, until)
            name, tried, last = step
            given: Headers = call.headers
            if tried is not operation:
                given, call.request_bytes = self._encoder.call_headers(tried, given)
            trace = Trace() if listens else None
            server = (self._servers.get(name) or self.server(name)) if self._servers else self
            try:
                return await server._send(tried, given, query_params, until, place, call, trace, last=last)
            finally:
                call.attempts += place.resent
                if trace is not None:
                    call.phases = {phase: spent * 1e3 for phase, spent in trace.phases.items()}

        try:
            return await drive(flow, perform, partial(rest, place))
        finally:
            flow.close()  # wherever an exception comes

    async def _send(
        self,
        operation: Operation[Any],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
        place: Place[Any] | None = None,
        call: Call | None = None,
        trace: Trace | None = None,
        *,
        last: bool = False,
        message: Message | None = None,
    ) -> Response:
        """Send a request to this client's own server, and return the response.

        Parameters
        ----------
        call : Call, optional
            The record that shall have the URL.
        trace : Trace, optional
            Records how long each phase takes.
        last : bool
            Whether it must not be sent again unseen.
        message : Message, optional
            The request, where it is written already.
        """
        if message is None:
            message = self._encoder.encode(operation, headers, query_params)
        if self._verbose:
            self._show(operation, message, headers)
        if call is not None:
            call.url = without_secrets(f"{self._origin}{message.target}")
        if place is None:
            place = Place()
        place.resent = 0
        target, buffers, *_ = message  # asyncio only
        # blocking: target, buffers, _, answer, id_json = message
        repeatable = operation.idempotent is True and not last and operation.renew is None
        transport = self._transport
        try:
            response = await transport.exchange(
                operation.method,
                target,
                buffers,
                place,
                repeatable and may_run_twice(operation),
                until,
                trace,
                operation.streamed,
                # blocking: operation.idle,
                # blocking: answer,
                # blocking: id_json,
            )
        except InferenceServerException as error:
            error.attempts += place.resent
            raise
        # blocking: if transport.repeats and type(response) is Response:
        # blocking:     message.learn(response)
        if place.resent:
            from ..._calls.dispatch import counted

            response = counted(response, 1 + place.resent)
        if self._verbose:
            self._note(operation, response)
        return response
