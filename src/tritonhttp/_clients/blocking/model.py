# Generated from awaited/model.py by tools/async_to_sync.py: edit that, then run `make generate`.
"""Models as functions of arrays: ``client.model("digits")`` makes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy.typing as npt

from ..._protocol.operations import Operation
from ..._transport.policy import UNSET, Deadline, call_limit
from ...errors import InferenceServerException
from ..model_base import (
    CallOptions,
    Flow,
    ModelBase,
    Outputs,
    SequenceBase,
    SequenceOptions,
    Step,
    in_flight_or,
    sort,
)
from .drive import drive
from .parallel import Running, carry_out, is_done, iterated, result, settle, start

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

__all__ = ["CallOptions", "Model", "Outputs", "Sequence", "SequenceOptions"]

T = TypeVar("T")


class Model(ModelBase):
    """A model as a function of arrays, made by ``client.model(name)``.

    Calling it gives the outputs for inputs::

        model = client.model("add_sub")
        outputs = model(INPUT0=a, INPUT1=b)
        outputs = model({"INPUT0": a, "INPUT1": b}, outputs=["OUTPUT0"])
        outputs["OUTPUT0"]

    What the model takes and gives is read at the first call, and again by :meth:`refresh`, when a call does not
    fit what was read, and when the server has refused one or answered with another version.

    Inputs are numpy arrays, numbers, text, lists of these, and whatever has ``__array__`` or speaks DLPack and is
    not on a GPU. An array has the input's datatype, unless ``cast=True``; what has no dtype of its own takes the
    input's, if the values fit. Shapes include the batch dimension; a single value serves where every dimension
    may be 1. None leaves an optional input out.

    Beside a mapping of inputs, keywords are options, those of :class:`CallOptions`. Otherwise keywords with the
    names of options are options, and all others are inputs; an input that is named like an option needs the
    mapping.

    Attributes
    ----------
    name, version : str
    signature : Signature or None
    """

    @overload
    def __call__(self, inputs: Mapping[str, Any], /, **options: Unpack[CallOptions]) -> Outputs: ...

    @overload
    def __call__(self, /, **inputs_and_options: Any) -> Outputs: ...

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **keywords: Any) -> Outputs:
        """Run the model, and return its outputs.

        Returns
        -------
        Outputs
            A read-only mapping of arrays by the outputs' names; its `result` is the :class:`InferResult`.

        Raises
        ------
        InvalidRequest
            Before the inference is sent, for what does not fit the model; says what was expected.
        InferenceServerException
            As for the client's `infer`.
        """
        given, options = sort(inputs, keywords)
        return self._drive(self._call(given, options), options)

    @overload
    def batched(
        self,
        inputs: Mapping[str, Any],
        /,
        *,
        max_batch: int | None = None,
        **options: Unpack[CallOptions],
    ) -> dict[str, npt.NDArray[Any]]: ...

    @overload
    def batched(
        self, /, *, max_batch: int | None = None, **inputs_and_options: Any
    ) -> dict[str, npt.NDArray[Any]]: ...

    def batched(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        max_batch: int | None = None,
        **keywords: Any,
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the model on any number of rows, in parts, and return the joined outputs.

        As many parts are in flight as the client has connections: its `concurrency`, on asyncio its `conn_limit`.

        Parameters
        ----------
        inputs : mapping
            As for a call, as keywords too; all have the same length along their first axis.
        max_batch : int, optional
            The most rows for one inference; None: the model's max_batch_size. Parts have fewer where these would
            take 2 GiB, or 64 MiB as JSON or before compression: Triton refuses that by default.
        **keywords
            As for a call; the deadline is that of all parts together.

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
            What a part failed with, when no other part is under way any more. Some may have run.
        """
        given, options = sort(inputs, keywords)
        return self._drive(self._batched(given, max_batch, options), options)

    @overload
    def map(
        self,
        items: Iterable[Mapping[str, Any]],
        /,
        *,
        in_flight: int | None = None,
        copy: bool = True,
        return_exceptions: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Generator[Outputs, None, None]: ...

    @overload
    def map(
        self,
        items: Iterable[Mapping[str, Any]],
        /,
        *,
        in_flight: int | None = None,
        copy: bool = True,
        return_exceptions: bool,
        **options: Unpack[CallOptions],
    ) -> Generator[Outputs | InferenceServerException, None, None]: ...

    def map(
        self,
        items: Iterable[Mapping[str, Any]],
        /,
        *,
        in_flight: int | None = None,
        copy: bool = True,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> Generator[Outputs | InferenceServerException, None, None]:
        """Run the model on each item of an iterable, and yield the outputs in the items' order::

            for outputs in model.map({"IMAGE": pixels} for pixels in batches):
                outputs["SCORES"]

        As many inferences are under way as the client has connections (its `concurrency`, on asyncio its
        `conn_limit`), and no more than `in_flight`. Items are read one by one, as outputs are taken: the iterable
        may be longer than memory, or without an end. It is read on the caller's thread; outputs that are there
        wait while the next item is read.

        Parameters
        ----------
        items : iterable of mapping
            The inputs of one inference each, as for a call; on asyncio an asynchronous iterable too.
        in_flight : int, optional
            The most items read whose outputs are not taken yet. None: twice the connections, 32 at most.
        copy : bool
            True: an item's arrays may be changed when the next item is read. False: not before its outputs are
            there.
        return_exceptions : bool
            True: where an inference fails, or an item does not fit the model, yield the error in the place of
            the outputs, and go on. False: raise it there, when no other inference is under way any more; those
            may have run.
        **options
            As for a call; the deadline is that of each item.

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
        _, kept = sort({}, options)
        call_limit(kept.get("deadline", UNSET), None)  # refused at once, and not item by item
        limit = in_flight_or(self._client._workers, in_flight)
        return self._map(iterated(items), limit, copy, return_exceptions, kept)

    def sequence(self, id: int | str | None = None) -> Sequence:
        """Return a sequence of inferences on a model that keeps state between them.

        Parameters
        ----------
        id : int or str, optional
            The number, above 0, or text that tells it from other sequences of the model; None: one at random.
        """
        return Sequence(self, id)

    def refresh(
        self,
        *,
        headers: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        deadline: Deadline = UNSET,
    ) -> Self:
        """Read again what the model takes and gives; return the model."""
        options: CallOptions = {"headers": headers, "query_params": query_params, "deadline": deadline}
        self._drive(self._read(), options)
        return self

    def _drive(self, flow: Flow[T], options: CallOptions) -> T:
        client = self._client
        until = client._until(options.get("deadline", UNSET))
        headers, query_params = options.get("headers"), options.get("query_params")

        def perform(step: Step) -> Any:
            if isinstance(step, Operation):
                return client._run(step, headers, query_params, until)
            return carry_out(client, step, options, until)

        return drive(flow, perform)

    def _map(
        self, items: Iterator[Any], limit: int, copy: bool, return_exceptions: bool, options: CallOptions
    ) -> Generator[Outputs | InferenceServerException, None, None]:
        waiting: deque[Running | Outputs | Exception] = deque()
        more = True
        try:
            while True:
                while more and len(waiting) < limit and not (waiting and is_done(waiting[0])):
                    found = self._begin(items, copy, options)
                    if found is not None:
                        waiting.append(found)
                    more = found is not None and (return_exceptions or not isinstance(found, Exception))
                if not waiting:
                    return
                yield self._outcome(waiting.popleft(), return_exceptions)
        except BaseException as error:
            settle(waiting, error, items)
            raise

    def _begin(
        self, items: Iterator[Any], copy: bool, options: CallOptions
    ) -> Running | Outputs | Exception | None:
        """Start the next item's inference; return None after the last item."""
        try:
            for item in items:
                step = self._drive(self._item(item, copy, options), options)
                if isinstance(step, Outputs):
                    return step
                until = self._client._until(options.get("deadline", UNSET))
                return start(self._client, step, options, until)
        except Exception as error:
            return error
        return None

    def _outcome(
        self, found: Running | Outputs | Exception, return_exceptions: bool
    ) -> Outputs | InferenceServerException:
        try:
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, Outputs) else Outputs(result(found))
        except Exception as error:
            return self._failed(error, return_exceptions)


class Sequence(SequenceBase):
    """Inferences on a model that keeps state between them, one after the other::

        with model.sequence() as sequence:
            for chunk in chunks:
                outputs = sequence(INPUT=chunk)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._model._drive(self._end(), self._end_options(value))
        except Exception as error:
            if value is None:
                raise
            self._not_ended(error)

    @overload
    def __call__(self, inputs: Mapping[str, Any], /, **options: Unpack[SequenceOptions]) -> Outputs: ...

    @overload
    def __call__(self, /, **inputs_and_options: Any) -> Outputs: ...

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **keywords: Any) -> Outputs:
        """Run the sequence's next inference; as a call of the model, and ``end=True`` for the last one."""
        given, options = sort(inputs, keywords, SequenceOptions)
        return self._model._drive(self._call(given, options), options)
