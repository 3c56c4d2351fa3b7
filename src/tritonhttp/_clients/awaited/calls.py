"""The methods that are one text for both clients but for ``await``, written in `awaited/calls.py`.

An endpoint is one line over :mod:`tritonhttp._protocol.operations`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..._basics.log import logger
from ..._basics.redaction import without_secrets
from ..._calls.safety import may_run_twice
from ..._calls.turns import Turn, Turns
from ..._protocol import operations
from ..._protocol.bodies import Unpacked
from ..._protocol.encoder import Message
from ..._protocol.inference import Inference, explained
from ..._protocol.operations import Endpoint, Operation
from ..._protocol.result import InferResult
from ..._protocol.tensors import InferInput, InferRequestedOutput
from ..._transport.asyncio import AsyncioTransport
from ..._transport.asyncio_pool import AsyncioPool
from ..._transport.policy import UNSET, Deadline, Moment, call_limit, moment, seconds
from ..._transport.pool import Place
from ..._transport.trace import Trace
from ..._wire.requests import Buffer
from ..._wire.responses import Response, StreamedResponse
from ...errors import (
    DeadlineExceeded,
    InferenceServerException,
    InvalidCall,
    InvalidRequest,
    ProtocolError,
    ServerError,
    TransportError,
)
from ...plugins import Request
from ..advice import no_attribute_of_block
from ..base import PROBING, ClientBase
from ..overrides import DEBUG, undecoded
from .drive import drive
from .side import as_answer, finish_plugin, guarded, mark, pause, plain, rest

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt
    from typing_extensions import Self

    from ... import types
    from ..._protocol.probes import Health, ModelList
    from ..._regions.region import Region
    from ..._wire.prometheus import Metrics
    from ...events import Call
    from .model import Model
    from .stream import GenerateStream, InferStream

__all__ = ["Calls", "Headers", "QueryParams"]

T = TypeVar("T")

Headers = Mapping[str, Any] | None
QueryParams = Mapping[str, Any] | None


class Calls(ClientBase):
    """The methods of a client; `InferenceServerClient` adds what differs between the two."""

    #: How a response looks to those who call `_get` or `_post`, and in what `verbose` shows.
    _as_answer = staticmethod(as_answer)
    _transport: AsyncioTransport
    _turns: Turns[AsyncioPool[None]]
    #: Limits of a call that gives none of its own, in seconds.
    _deadline: float | None
    #: For streams: from one answer to the next, and as a whole.
    _idle_timeout: float | None
    _stream_deadline: float | None

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

        async def _look_up_now(self, until: Moment | None) -> None: ...

        def _probe(self, url: str) -> None: ...

    async def on_each(self, action: Callable[[Self], Awaitable[T]]) -> dict[str, T]:
        """Do something with the client of each server in turn: ``on_each(lambda one: one.load_model("m"))``.

        Returns
        -------
        dict
            What came of it, by the server's URL. What fails ends it, and later servers are not reached.
        """
        if not callable(action):
            raise InvalidRequest(
                f"on_each takes a function of one server's client, such as lambda one: one.load_model('m');"
                f" got {action!r:.80}"
            )
        return {url: await action(self.server(url)) for url in self.servers}

    # -- health and metadata --

    async def is_server_live(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        """Return whether the server is alive."""
        return await self._run(operations.is_server_live(), headers, query_params, deadline)

    async def is_server_ready(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        """Return whether the server is ready to infer."""
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
        """Return whether a model is ready; without a version, one that the server chooses."""
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
        """Wait until the server, or a model on it, is ready to infer, however often it has to be asked.

        A server that cannot be connected to, and one that answers with an error, is not ready yet. A model whose
        name is not in the server's repository is an error at once, if the server has an index of it.

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
            When it is not ready in time; with the answer that came last, and the model's state and its reason.
        ServerError
            When the repository has no such model, with status 404 and the nearest names; with several servers,
            when none has it.
        """
        from ..._protocol import probes

        until = self._until(call_limit(timeout, None, "timeout"))
        clock = asyncio.get_running_loop().time

        def time_left() -> float:
            return math.inf if until is None else until - clock()

        flow = probes.until_ready(model, model_version, time_left)
        await self._probing(flow, headers, query_params, until)

    async def check(
        self,
        model: str | None = None,
        *,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        deadline: Deadline = UNSET,
    ) -> Health:
        """Find out whether the server, or a model on it, can be used, and if not, why; nothing of that is raised.

        It asks whether the server is live and ready, for its metadata, whether the model is ready, and where that
        is not so for the repository's index.

        Parameters
        ----------
        model : str, optional
            A model that must be ready. The server need not be then: another model may keep it from that.
        model_version : str
            The model's version; empty: one that the server chooses.
        headers, query_params, deadline
            See the class; the deadline is for all requests together.

        Returns
        -------
        Health
            True if all is well. Its `reason` says in one sentence what stands in the way.

        Raises
        ------
        InvalidRequest
            For arguments that cannot be used. No other error, whatever the server, the network or a plugin does.
        """
        from ..._protocol import probes

        clock = asyncio.get_running_loop().time
        version = operations.version_text(model_version)
        flow = probes.check(model, version, clock)
        # Refuse what cannot be sent.
        self._encoder.encode(operations.is_server_live(), headers, query_params)
        if model is not None:
            operations.is_model_ready(model, version)
        try:
            until = self._until(deadline)
        except DeadlineExceeded as error:
            return probes.unreachable(error, model, version)
        return await self._probing(flow, headers, query_params, until)

    async def _probing(
        self,
        flow: Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
    ) -> T:
        """Carry out a probe. Of several servers it gets all models, since any of them may have the one."""
        from ..._protocol import probes

        async def perform(step: Operation[Any]) -> Any:
            if step.path != probes.INDEX or not self._servers:
                return await self._carry_out(step, headers, query_params, until)
            found = probes.ModelList()
            for server in list(self._servers.values()):
                found += await server._carry_out(step, headers, query_params, until)
            return found

        return await drive(flow, perform)

    async def get_server_metadata(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.ServerMetadata:
        """Return the server's name, version and extensions."""
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
        """Return a model's versions, platform, inputs and outputs."""
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
        """Return a model's configuration."""
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
        """Return the statistics of a model, or of all models where no name is given."""
        operation = operations.get_inference_statistics(model_name, model_version)
        return await self._run(operation, headers, query_params, deadline)

    async def metrics(
        self,
        url: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        port: int = 8002,
        deadline: Deadline = UNSET,
    ) -> Metrics:
        """Return the server's metrics, which Prometheus reads: on Triton from a port of their own.

        Parameters
        ----------
        url : str, optional
            Where they are, such as ``"http://monitoring:9000/metrics"``; without a path ``/metrics``, without a
            scheme the client's. None: ``/metrics`` on the server's host. The client's options, plugin and hooks
            apply there too, and it keeps its connections to each such address until it is closed.
        headers, query_params, deadline
            See the class.
        port : int
            The port on the server's host: 8002 is Triton's, 8082 MLServer's.

        Returns
        -------
        tritonhttp.metrics.Metrics
            The samples, and the text.

        Raises
        ------
        InvalidRequest
            With several servers and no `url`: each has its own; take :meth:`server` or :meth:`on_each`.
        ProtocolError
            If there is something other than metrics.
        """
        until = self._until(deadline)
        if url is None and self._resolve_every is not None:
            await self._look_up(self._resolve_every, until)
        place, path = self._of_metrics(url, port)
        found: Metrics = await place._run(operations.metrics(path), headers, query_params, until)
        return found

    # -- model repository --

    async def models(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> ModelList:
        """Return the models of the repository, each version with its state, as a list that shows as a table.

        Returns
        -------
        list of ModelStatus
            By name and version. Models that were never loaded are in it, with an empty version and state.

        Raises
        ------
        ServerError
            Also by a server without Triton's extension for repositories.
        """
        from ..._protocol.probes import index

        return await self._run(index(), headers, query_params, deadline)

    async def get_model_repository_index(
        self,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        ready: bool = False,
        deadline: Deadline = UNSET,
    ) -> list[types.ModelIndexEntry]:
        """Return the models of the repository, or with `ready` the ready ones: name, version, state and reason."""
        found = await self._run(operations.get_model_repository_index(ready), headers, query_params, deadline)
        self._note_names(found)
        return found

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
            ``"file:1/model.onnx"``, and their contents. Needs `config`. Triton silently keeps a loaded model's old
            files if the configuration is the same: change something in it, or unload the model first.
        """
        operation = operations.load_model(model_name, config, files)
        try:
            await self._run(operation, headers, query_params, deadline)
        finally:
            self._distrust_models()

    async def unload_model(
        self,
        model_name: str,
        headers: Headers = None,
        query_params: QueryParams = None,
        unload_dependents: bool = False,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Unload a model; with `unload_dependents` also the models that only it needed."""
        operation = operations.unload_model(model_name, unload_dependents)
        try:
            await self._run(operation, headers, query_params, deadline)
        finally:
            self._distrust_models()

    # -- trace and log settings --

    async def get_trace_settings(
        self,
        model_name: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.TraceSettings:
        """Return the trace settings of a model, or the global ones."""
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
        """Change trace settings of a model, or global ones; None clears a setting. Return all of them."""
        return await self._run(
            operations.update_trace_settings(model_name, settings), headers, query_params, deadline
        )

    async def get_log_settings(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.LogSettings:
        """Return the server's log settings."""
        return await self._run(operations.get_log_settings(), headers, query_params, deadline)

    async def update_log_settings(
        self,
        settings: Mapping[str, Any],
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.LogSettings:
        """Change log settings of the server; return all of them."""
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
        """Return the registered system shared memory regions, or the one of that name."""
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
            Where in the memory object it starts, in bytes. Triton adds any but 0 twice to the offsets of tensors,
            so it reads and writes elsewhere: register from the start, and give the tensors offsets.
        headers, query_params, deadline
            See the class.

        Raises
        ------
        ServerError
            Also when the server shares no memory: Triton 2.68 and later need ``--allow-client-shm=true``.
        """
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
        """Make the server forget a system shared memory region, or all of them where no name is given."""
        await self._run(operations.unregister_shared_memory("system", name), headers, query_params, deadline)

    async def get_cuda_shared_memory_status(
        self,
        region_name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> list[types.CudaRegionStatus]:
        """Return the registered CUDA shared memory regions, or the one of that name."""
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

        Raises
        ------
        ServerError
            Also when the server shares no memory: Triton 2.68 and later need ``--allow-client-shm=true``.
        """
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
        """Make the server forget a CUDA shared memory region, or all of them where no name is given."""
        await self._run(operations.unregister_shared_memory("cuda", name), headers, query_params, deadline)

    def shared_memory(
        self,
        byte_size: int | None = None,
        *,
        key: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        deadline: Deadline = UNSET,
    ) -> AbstractAsyncContextManager[Region]:
        """Make a shared memory region, known to the server for the length of an ``async with`` block.

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
            When the server does not take it, for example because it runs on another machine, or because it is
            Triton 2.68 or later without ``--allow-client-shm=true``.
        """

        async def run(flow: Generator[Operation[Any], Any, None]) -> None:
            await self._drive(flow, headers, query_params, self._until(deadline))

        def make() -> Region:
            from ..._regions.region import Region

            call_limit(deadline, None)  # a spent one makes no region
            return Region(byte_size, key)

        return RegionBlock(make, run)

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
            See `tritonhttp.errors` for which. A body of 4 GiB, which ends a Triton, is an :class:`InvalidRequest`.
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
        until = self._until(deadline)
        try:
            if (  # `_branches` without a call of it
                self._sharing is not None
                or sequence_id
                or request_compression_algorithm
                or response_compression_algorithm
            ):
                return await self._branch(inference, headers, query_params, until)
            return await self._carry_out(inference, headers, query_params, until)
        except (TypeError, ValueError) as error:
            refusal = explained(inference, error)
            if refusal is None:
                raise
            raise refusal from refusal.__cause__

    async def infer_raw(
        self,
        model_name: str,
        data: Buffer | npt.NDArray[Any],
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        request_compression_algorithm: str | None = None,
        response_compression_algorithm: str | None = None,
        *,
        idempotent: bool | None = None,
        deadline: Deadline = UNSET,
    ) -> InferResult:
        """Run a model of one input on its bytes alone, without JSON: Triton's raw binary request.

        The server knows datatype and shape from the model's configuration. So the model must have one input, and
        its shape at most one dimension of any size, which follows from the size of the data. With batches they
        are one item. BYTES must be of shape [1]: the data are its one element, as they are. All outputs come back,
        as binary. What only JSON carries cannot be said: outputs, a request id, a sequence, priority, timeout and
        parameters. The data do not go through shared memory.

        Parameters
        ----------
        model_name : str
            The model.
        data : bytes-like or numpy.ndarray
            The elements in C order, little-endian; an array of numbers is sent so in any order. Not copied above
            64 KiB if it lies in memory as it is sent.
        model_version : str
            The version; empty: the server chooses.
        headers, query_params, deadline
            See the class.
        request_compression_algorithm, response_compression_algorithm, idempotent
            As for :meth:`infer`.

        Raises
        ------
        InvalidRequest
            For data that are neither, such as a str or an object array.
        ServerError
            Also with the size that the server expected.
        """
        inference = Inference(
            model_name,
            (),
            model_version,
            request_compression_algorithm=request_compression_algorithm,
            response_compression_algorithm=response_compression_algorithm,
            idempotent=idempotent,
            verbose=self._verbose,
        )
        return await self._run(inference.raw(data), headers, query_params, deadline)

    async def _branch(
        self, inference: Inference, headers: Headers, query_params: QueryParams, until: Moment | None
    ) -> InferResult:
        """Run an inference that takes more than one request, or has to wait for another one."""
        flow = self._flow(inference)
        if inference.sequence_id in (0, ""):
            return await self._drive(flow, headers, query_params, until)
        turn = Turn(self._turns, (inference.model_name, inference.sequence_id))
        return await self._drive_in_turn(turn, flow, headers, query_params, until)

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
        """Run a model on JSON inputs and return its one answer: Triton's generate extension.

        Parameters
        ----------
        model_name : str
            The model.
        inputs : mapping of str to value
            Values by the names of inputs: numbers, strings, lists, numpy scalars and arrays; bytes go as UTF-8;
            None leaves an input out.
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
        """Run a model on JSON inputs and iterate over its answers as they come.

        The request goes out at the first step of the iteration, or where an ``async with`` block begins. Leaving
        the block, or closing the stream early, closes its connection; a model that looks for that ends its work.

        Parameters
        ----------
        model_name, inputs, model_version, parameters, headers, query_params, request_id, idempotent
            As for :meth:`generate`. Nothing is sent again once the answer has begun.
        idle_timeout : float or None
            Seconds to wait for the answer to begin, and then each time until more of it comes, be it a comment
            that only says that the server is there; None: any time. Not given: the client's conn_timeout;
            the wait for a connection counts.
        deadline : float or None
            Seconds for the whole stream. Not given: the client's own deadline.

        Returns
        -------
        GenerateStream
            An iterator of dicts, and a context manager.
        """
        from .stream import GenerateStream

        idle = self._idle_limit(idle_timeout)
        operation = operations.generate_stream(
            model_name, inputs, model_version, parameters, request_id, idempotent, idle
        )
        limit = call_limit(deadline, self._stream_deadline)
        begin = self._beginning(operation, headers, query_params)
        return GenerateStream(begin, limit, idle, model_name, self._url_of(operation))

    def infer_stream(
        self,
        model_name: str,
        inputs: Sequence[InferInput],
        model_version: str = "",
        outputs: Sequence[InferRequestedOutput] | None = None,
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        idempotent: bool | None = None,
        idle_timeout: Deadline = UNSET,
        deadline: Deadline = UNSET,
    ) -> InferStream:
        """Run an inference and iterate over its results as they come: MLServer's streaming.

        Triton has :meth:`generate_stream` instead. MLServer takes JSON: set inputs with ``binary_data=False``.

        Parameters
        ----------
        model_name, model_version, outputs, request_id, parameters, headers, query_params, idempotent
            As for :meth:`infer`.
        inputs : sequence of InferInput
            Its inputs; they are read here, and may be changed at once.
        idle_timeout, deadline
            As for :meth:`generate_stream`.

        Returns
        -------
        InferStream
            An iterator of InferResult, and a context manager.
        """
        from .stream import InferStream

        idle = self._idle_limit(idle_timeout)
        inference = Inference(
            model_name,
            inputs,
            model_version,
            outputs,
            request_id,
            parameters=parameters,
            idempotent=idempotent,
            binary=False,
        )
        limit = call_limit(deadline, self._stream_deadline)
        operation = inference.streamed_answers(idle)
        begin = self._beginning(operation, headers, query_params)
        return InferStream(begin, limit, idle, model_name, self._url_of(operation))

    def _idle_limit(self, given: Deadline) -> float | None:
        return self._idle_timeout if given is UNSET else seconds(given, "idle_timeout")

    def _beginning(
        self, operation: Operation[Response], headers: Headers, query_params: QueryParams
    ) -> Callable[[Moment | None, Place[Any]], Awaitable[Response]]:
        """Return the function that sends a stream's request."""

        async def begin(until: Moment | None, place: Place[Any]) -> Response:
            response = await self._carry_out(operation, headers, query_params, until, place)
            if self._servers and isinstance(response, StreamedResponse):
                response.names_server = True
            return response

        return begin

    # -- requests --

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

    async def _look_up_again(self) -> None:
        try:
            await self._look_up_now(self._until(PROBING))
        except InferenceServerException as error:
            self._log.info("the server's addresses stay as they are: %s", error)

    async def _look_at(self, url: str) -> None:
        ready = False
        try:
            ready = await self.server(url).is_server_ready(deadline=PROBING)
        except InferenceServerException:
            pass
        finally:
            if self._dispatch is not None:
                self._dispatch.probed(url, asyncio.get_running_loop().time(), ready)


@guarded
class RegionBlock:
    """A shared memory region for the length of a block."""

    _region: Region | None = None

    def __init__(
        self,
        make: Callable[[], Region],
        run: Callable[[Generator[Operation[Any], Any, None]], Awaitable[None]],
    ) -> None:
        self._make, self._run = make, run

    async def __aenter__(self) -> Region:
        if self._region is not None:
            raise InvalidCall("this block has a region: make another one with client.shared_memory(…)")
        self._region = region = self._make()
        try:
            await self._run(region._open())
            return region
        except BaseException:
            await self._run(region._close())
            raise

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._region is not None
        await self._run(self._region._close())

    if not TYPE_CHECKING:
        __getattr__ = no_attribute_of_block
