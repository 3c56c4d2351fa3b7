"""Models as functions of arrays: ``client.model("digits")`` makes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sized
from collections.abc import Sequence as Names
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

import numpy.typing as npt

from ..._calls.flow import Throttle, first_of, in_flight_or
from ..._calls.turns import Turn
from ..._protocol.operations import Operation
from ..._transport.policy import UNSET, Deadline, call_limit
from ...errors import InferenceServerException, InvalidRequest
from ..given import CallOptions, Options, SequenceOptions, inputs_of, refuse_named
from ..model_base import Flow, ModelBase, Outputs, Reading, SequenceBase, Step
from ..progress import Progress, reporting
from .drive import drive
from .parallel import Ends, Running, carry_out, is_done, iterated, result, settle, start
from .side import guarded

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

__all__ = ["CallOptions", "Model", "Outputs", "Sequence", "SequenceOptions"]

T = TypeVar("T")


class Model(ModelBase):
    """A model as a function of arrays, made by ``client.model(name)``.

    Calling it gives the outputs for inputs::

        model = client.model("add_sub")
        outputs = await model(INPUT0=a, INPUT1=b)
        outputs = await model({"INPUT0": a, "INPUT1": b}, outputs=["OUTPUT0"])
        outputs["OUTPUT0"]

    What the model takes and gives is read at the first call, and again by :meth:`refresh`, when a call does not
    fit what was read, and when the server has refused one or answered with another version.

    Inputs are numpy arrays, numbers, text, lists of these, and whatever has ``__array__`` or speaks DLPack and is
    not on a GPU. An array has the input's datatype, unless ``cast=True``; what has no dtype of its own takes the
    input's, if the values fit. Shapes include the batch dimension; a single value serves where every dimension
    may be 1. None leaves an optional input out.

    Keywords with the names of options are options, and all others are inputs; an input that is named like an
    option needs the mapping. A model with one input takes its value by position too: ``model(image)``.

    Attributes
    ----------
    name, version : str
    signature : Signature or None
    """

    async def __call__(
        self,
        inputs: Any = None,
        /,
        *others: NoReturn,
        outputs: Names[str] | None = None,
        classes: int = 0,
        cast: bool = False,
        request_id: str = "",
        priority: int = 0,
        timeout: int | None = None,
        headers: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        request_compression_algorithm: str | None = None,
        response_compression_algorithm: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        deadline: Deadline = UNSET,
        **named: Any,
    ) -> Outputs:
        """Run the model, and return its outputs.

        Parameters
        ----------
        inputs : mapping, or anything that an input takes
            The inputs by name; or the value of a model's only input, any optional ones left out.
        outputs : sequence of str, optional
            The names of the outputs to return; None: all.
        classes : int
            How many classes to return in place of an output's numbers, best first, as BYTES
            ``"score:index:label"``: of the named outputs, or of all that are integers, FP32 or FP64 and have
            elements (the others come whole).
        cast : bool
            Convert arrays of another dtype if values change only by rounding to a float.
        request_id, priority, timeout, headers, query_params, request_compression_algorithm,
        response_compression_algorithm, parameters, idempotent, deadline
            As for the client's `infer`: `timeout` is the server's, in microseconds; `deadline` is the call's, in
            seconds, and holds for the reading of the signature too.
        **named
            The inputs by name, in place of `inputs`.

        Returns
        -------
        Outputs
            A read-only mapping of arrays by the outputs' names; its `result` is the :class:`InferResult`. Of a
            batch without rows: empty arrays, without a request.

        Raises
        ------
        InvalidRequest
            Before the inference is sent, for what does not fit the model; says what was expected.
        InferenceServerException
            As for the client's `infer`.
        """
        options = Options(
            outputs,
            classes,
            cast,
            request_id,
            priority,
            timeout,
            headers,
            query_params,
            request_compression_algorithm,
            response_compression_algorithm,
            parameters,
            idempotent,
            deadline,
        )
        return await self._drive(self._call(inputs_of(inputs, named, others), options), options)

    async def batched(
        self,
        inputs: Any = None,
        /,
        *others: NoReturn,
        max_batch: int | None = None,
        progress: Progress = False,
        outputs: Names[str] | None = None,
        classes: int = 0,
        cast: bool = False,
        request_id: str = "",
        priority: int = 0,
        timeout: int | None = None,
        headers: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        request_compression_algorithm: str | None = None,
        response_compression_algorithm: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        deadline: Deadline = UNSET,
        **named: Any,
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the model on any number of rows, in parts, and return the joined outputs.

        As many parts are in flight as the client has connections: its `concurrency`, on asyncio its `conn_limit`.

        Parameters
        ----------
        inputs : mapping, or anything that an input takes
            As for a call, as keywords too; all have the same length along their first axis.
        max_batch : int, optional
            The most rows for one inference; None: the model's max_batch_size. Parts have fewer where these would
            take 2 GiB, or 64 MiB as JSON or before compression: Triton refuses that by default.
        progress : bool or callable
            Called with the numbers of rows done and of all rows; True: show a bar, of tqdm or rich.
        outputs, classes, cast, request_id, priority, timeout, headers, query_params,
        request_compression_algorithm, response_compression_algorithm, parameters, idempotent
            As for a call.
        deadline
            That of all parts together.
        **named
            As for a call.

        Returns
        -------
        dict of str to numpy.ndarray
            The outputs by name, their rows in the order of the inputs' rows.

        Raises
        ------
        InvalidRequest
            For what does not fit the model or cannot be split.
        ProtocolError
            Where outputs have not one row for each row of the inputs.
        InferenceServerException
            What a part failed with; the other parts are cancelled. Some may have run.
        """
        options = Options(
            outputs,
            classes,
            cast,
            request_id,
            priority,
            timeout,
            headers,
            query_params,
            request_compression_algorithm,
            response_compression_algorithm,
            parameters,
            idempotent,
            deadline,
        )
        with reporting(progress, self.name, "row") as report:
            flow = self._batched(inputs_of(inputs, named, others), max_batch, options, report)
            return await self._drive(flow, options)

    @overload
    def map(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        in_flight: int | Literal["auto"] | None = None,
        ordered: bool = True,
        copy: bool = True,
        return_exceptions: Literal[False] = False,
        progress: Progress = False,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outputs, None]: ...

    @overload
    def map(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        in_flight: int | Literal["auto"] | None = None,
        ordered: bool = True,
        copy: bool = True,
        return_exceptions: bool,
        progress: Progress = False,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outputs | InferenceServerException, None]: ...

    def map(
        self,
        items: Any = None,
        /,
        *,
        in_flight: int | Literal["auto"] | None = None,
        ordered: bool = True,
        copy: bool = True,
        return_exceptions: bool = False,
        progress: Progress = False,
        outputs: Names[str] | None = None,
        classes: int = 0,
        cast: bool = False,
        request_id: str = "",
        priority: int = 0,
        timeout: int | None = None,
        headers: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        request_compression_algorithm: str | None = None,
        response_compression_algorithm: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        deadline: Deadline = UNSET,
        **named: Any,
    ) -> AsyncGenerator[Outputs | InferenceServerException, None]:
        """Run the model on each item of an iterable, and yield the outputs in the items' order::

            async for outputs in model.map({"IMAGE": pixels} for pixels in batches):
                outputs["SCORES"]

        As many inferences are under way as the client has connections (its `concurrency`, on asyncio its
        `conn_limit`), and no more than `in_flight`. Items are read one by one, as outputs are taken: the iterable
        may be longer than memory, or without an end. It is read on the caller's thread; outputs that are there
        wait while the next item is read. When the generator is closed or dropped, as where a loop is left, the
        inferences under way are cancelled.

        Parameters
        ----------
        items : iterable
            The inputs of one inference each, as for a call: mappings, or values of a model's only input. On
            asyncio an asynchronous iterable too.
        in_flight : int or "auto", optional
            The most items read whose outputs are not taken yet. None: twice the connections, 32 at most. "auto":
            as many as raise the throughput, up to twice the connections, and fewer where the server refuses calls
            for its load, where they run out of time, or where more only take longer.
        ordered : bool
            False: yield outputs as soon as they are there; `index`, an attribute of outputs and errors, is the
            number of the item, from 0.
        copy : bool
            True: an item's arrays may be changed when the next item is read. False: not before its outputs are
            there.
        return_exceptions : bool
            True: where an inference fails, or an item does not fit the model, yield the error in the place of
            the outputs, and go on. False: raise it there, and cancel the other inferences; those may have run.
        progress : bool or callable
            Called with the number of items whose outputs were taken, and of all, None if that is not known; True:
            show a bar, of tqdm or rich.
        outputs, classes, cast, request_id, priority, timeout, headers, query_params,
        request_compression_algorithm, response_compression_algorithm, parameters, idempotent
            As for a call.
        deadline
            That of each item.

        Yields
        ------
        Outputs
            As a call returns them.

        Raises
        ------
        InvalidRequest
            For an item that does not fit the model, when the outputs before it are taken.
        InferenceServerException
            What an inference failed with, in its place. What the iterable itself raises comes in its place too.
        """
        options = Options(
            outputs,
            classes,
            cast,
            request_id,
            priority,
            timeout,
            headers,
            query_params,
            request_compression_algorithm,
            response_compression_algorithm,
            parameters,
            idempotent,
            deadline,
        )
        refuse_named(named)
        call_limit(deadline, None)  # refused at once, and not item by item
        limit = in_flight_or(self._client._workers, in_flight)
        if not isinstance(ordered, bool):
            raise InvalidRequest(f"ordered must be True or False, got {ordered!r:.80}")
        each = iterated(items)
        total = len(items) if isinstance(items, Sized) else None
        return self._map(each, limit, ordered, copy, return_exceptions, progress, total, options)

    def sequence(self, id: int | str | None = None) -> Sequence:
        """Return a sequence of inferences on a model that keeps state between them.

        Parameters
        ----------
        id : int or str, optional
            The number, above 0, or text that tells it from other sequences of the model; None: one at random.
        """
        return Sequence(self, id)

    async def refresh(
        self,
        *,
        headers: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        deadline: Deadline = UNSET,
    ) -> Self:
        """Read again what the model takes and gives; return the model."""
        options = Options(headers=headers, query_params=query_params, deadline=deadline)
        await self._drive(self._read(), options)
        return self

    async def _drive(self, flow: Flow[T], options: Options) -> T:
        client = self._client
        until = client._until(options.deadline)
        headers, query_params = options.headers, options.query_params

        async def perform(step: Step) -> Any:
            if isinstance(step, Operation):
                return await client._run(step, headers, query_params, until)
            if isinstance(step, Reading):
                turn = Turn(client._turns, step.key, "another call that reads the model")
                return await client._drive_in_turn(turn, step.flow(until), headers, query_params, until)
            return await carry_out(client, step, headers, query_params, until)

        try:
            return await drive(flow, perform)
        except InvalidRequest as error:
            raise error._bare() from error.__cause__

    async def _map(
        self,
        items: AsyncIterator[Any],
        limit: int | Throttle,
        ordered: bool,
        copy: bool,
        return_exceptions: bool,
        progress: Progress,
        total: int | None,
        options: Options,
    ) -> AsyncGenerator[Outputs | InferenceServerException, None]:
        waiting: dict[int, Running | Outputs | Exception] = {}
        throttle = None if isinstance(limit, int) else limit
        ends = None if ordered and throttle is None else Ends(throttle)
        more, begun, done = True, 0, 0
        try:
            with reporting(progress, self.name, "item") as report:
                while True:
                    while more and len(waiting) < (limit if isinstance(limit, int) else limit.limit):
                        if ends if ends and not ordered else waiting and is_done(first_of(waiting)[1]):
                            break
                        found = await self._begin(items, copy, options)
                        if found is not None:
                            waiting[begun] = found
                            if ends is not None:
                                ends.watch(begun, found)
                            begun += 1
                        more = found is not None and (return_exceptions or not isinstance(found, Exception))
                    if not waiting:
                        return
                    number = first_of(waiting)[0] if ordered or ends is None else await ends.first()
                    outcome = await self._outcome(waiting.pop(number), return_exceptions)
                    if ordered and ends is not None:
                        ends.tell_all()
                    outcome.index = number
                    done += 1
                    if report is not None:
                        report(done, total)
                    yield outcome
        except BaseException as error:
            await settle(waiting.values(), error, items)
            raise

    async def _begin(
        self, items: AsyncIterator[Any], copy: bool, options: Options
    ) -> Running | Outputs | Exception | None:
        """Start the next item's inference; return None after the last item."""
        try:
            async for item in items:
                step = await self._drive(self._item(item, copy, options), options)
                if isinstance(step, Outputs):
                    return step
                until = self._client._until(options.deadline)
                return start(self._client, step, options.headers, options.query_params, until)
        except Exception as error:
            return error
        return None

    async def _outcome(
        self, found: Running | Outputs | Exception, return_exceptions: bool
    ) -> Outputs | InferenceServerException:
        try:
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, Outputs) else Outputs(await result(found))
        except Exception as error:
            return self._failed(error, return_exceptions)


@guarded
class Sequence(SequenceBase):
    """Inferences on a model that keeps state between them, one after the other::

        async with model.sequence() as sequence:
            for chunk in chunks:
                outputs = await sequence(INPUT=chunk)

    The first call starts it. A call with ``end=True`` ends it. Where none did, leaving the block ends it, also
    after an exception: a server ends a sequence with an inference only, so one more is sent, on zeros of the
    shapes that the last call had (empty strings for BYTES), and what it gives is dropped. Say ``end=True`` where
    the model would take that amiss. A block without a call that got to the server sends nothing.

    An exception of the block is never replaced: where the sequence cannot be ended then, that is logged, and the
    server forgets it after the model's max_sequence_idle_microseconds.

    Attributes
    ----------
    id : int or str
    """

    _model: Model

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._model._drive(self._end(), self._end_options(value))
        except Exception as error:
            if value is None:
                raise
            self._not_ended(error)

    async def __call__(
        self,
        inputs: Any = None,
        /,
        *others: NoReturn,
        end: bool = False,
        outputs: Names[str] | None = None,
        classes: int = 0,
        cast: bool = False,
        request_id: str = "",
        priority: int = 0,
        timeout: int | None = None,
        headers: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        request_compression_algorithm: str | None = None,
        response_compression_algorithm: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        deadline: Deadline = UNSET,
        **named: Any,
    ) -> Outputs:
        """Run the sequence's next inference.

        Parameters
        ----------
        end : bool
            True: it is the sequence's last one.
        inputs, outputs, classes, cast, request_id, priority, timeout, headers, query_params,
        request_compression_algorithm, response_compression_algorithm, parameters, idempotent, deadline, **named
            As for a call of the model.

        Returns
        -------
        Outputs
            As a call of the model does.
        """
        options = Options(
            outputs,
            classes,
            cast,
            request_id,
            priority,
            timeout,
            headers,
            query_params,
            request_compression_algorithm,
            response_compression_algorithm,
            parameters,
            idempotent,
            deadline,
        )
        flow = self._call(inputs_of(inputs, named, others), options, bool(end))
        return await self._model._drive(flow, options)
