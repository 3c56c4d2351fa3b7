"""The methods that run a model: one text for both clients, written in `awaited/calls.py`.

An endpoint is one line over :mod:`tritonhttp._protocol.operations`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..._protocol import operations
from ..._protocol.inference import Inference, explained
from ..._protocol.operations import Operation
from ..._protocol.result import InferResult
from ..._protocol.tensors import InferInput, InferRequestedOutput
from ..._transport.policy import UNSET, Deadline, Moment, call_limit, seconds
from ..._transport.pool import Place
from ..._wire.requests import Buffer
from ..._wire.responses import Response, StreamedResponse
from ...errors import InvalidRequest
from .execution import Headers, QueryParams
from .inspection import Inspection

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Self

    from .model import Model
    from .stream import GenerateStream, InferStream

__all__ = ["Calls"]

T = TypeVar("T")


class Calls(Inspection):
    """The methods of a client; `InferenceServerClient` adds what differs between the two."""

    #: For streams: from one answer to the next, and as a whole.
    _idle_timeout: float | None
    _stream_deadline: float | None

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
