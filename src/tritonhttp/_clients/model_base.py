"""Models as functions of arrays: what both clients share, which is everything but waiting.

A call is a generator of steps: operations, inferences, and several inferences in flight. Its driver sends their
results into it, and throws their errors into it.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from .._basics.log import logger
from .._basics.quantities import integer
from .._basics.table import Table
from .._calls.safety import may_be_asked_again
from .._protocol import operations
from .._protocol.inference import Inference, fits
from .._protocol.operations import Operation
from .._protocol.result import InferResult
from .._protocol.signature import Arrays, Joined, Signature, requested, rows_of, split, tensors
from .._transport.policy import UNSET, Moment
from ..errors import (
    ConnectError,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    ServerError,
    TransportError,
)
from .advice import no_attribute_of_model, no_attribute_of_outputs
from .base import CLOSING
from .given import DEFAULTS, KEYWORDS, Options, Sole, inputs_of

__all__ = [
    "Flow",
    "Known",
    "ModelBase",
    "Outputs",
    "Reading",
    "SequenceBase",
    "Several",
    "Step",
]

T = TypeVar("T")

#: An inference's place in a sequence: its id, start and end.
Place = tuple[int | str, bool, bool]
#: How many classes to request of each output, by its name; 0: its numbers.
Classes = dict[str, int]


#: Statuses with which a server without binary tensors refuses them, before the model runs.
_NOT_UNDERSTOOD = ("400", "415", "422")
#: MLServer's error handler crashes echoing bytes that are not UTF-8. A model's own error has another message.
_BROKEN = ("500", "Internal Server Error")
#: Statuses that another call's credentials, or patience, may not meet.
_OWN_REFUSALS = ("401", "403", "407", "429")
#: Seconds between two readings of a model that nobody asked for.
_LEAST_INTERVAL = 1.0
#: Statuses of a server without model configurations.
_NO_CONFIG = ("400", "404", "405", "501")
#: Part of Triton's message about a sequence that it does not have, or no longer has.
_NO_SEQUENCE = "must specify the START flag"


class Outputs(Mapping[str, npt.NDArray[Any]]):
    """A model's outputs: a read-only mapping of names to arrays.

    Attributes
    ----------
    result : InferResult
        The inference's result, which holds them.
    index : int or None
        Of outputs that `map` yields: the number of the item, from 0.
    """

    __slots__ = ("index", "result")

    def __init__(self, result: InferResult) -> None:
        self.result = result
        self.index: int | None = None

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.result[name]

    def __contains__(self, name: object) -> bool:
        return name in self.result

    def __iter__(self) -> Iterator[str]:
        return iter(self.result)

    def __len__(self) -> int:
        return len(self.result)

    def classes(self, name: str) -> list[Any]:
        """Return the best classes of an output, as :meth:`InferResult.classes` does."""
        return self.result.classes(name)

    if not TYPE_CHECKING:
        __getattr__ = no_attribute_of_outputs

    def __repr__(self) -> str:
        return f"<Outputs {', '.join(map(str, self.result.outputs))}>"


@dataclass(frozen=True, slots=True)
class Several:
    """Inferences to run concurrently, each with its rows, made one by one; `add` takes the results."""

    inferences: Iterable[tuple[slice, Inference]]
    #: About how many they are.
    count: int
    add: Callable[[slice, InferResult], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """A flow that one call at a time carries out; others with this key wait. It takes the call's deadline."""

    key: tuple[str, str, str]
    flow: Callable[[Moment | None], Flow[Any]]


Step = Operation[Any] | Several | Reading
Flow = Generator[Step, Any, T]


@dataclass(slots=True)
class Known:
    """What a client knows of a model; all its objects for that model share it."""

    signature: Signature | None = None
    #: Whether the model may have changed since.
    doubtful: bool = False
    #: The version that answered last.
    served: str | None = None
    #: How many readings have ended.
    readings: int = 0
    #: The error of the last reading, and the deadline that it had.
    failure: InferenceServerException | None = None
    failed_by: float = math.inf
    #: When a reading began last that nobody had asked for, on the monotonic clock.
    looked: float = -math.inf

    def may_look(self) -> bool:
        """Whether the model may be read again without having been asked: each refused call might want that."""
        now = time.monotonic()
        if now - self.looked < _LEAST_INTERVAL:
            return False
        self.looked = now
        return True

    def distrust(self) -> None:
        """Read the model again at the next call: this client has loaded or unloaded it."""
        self.doubtful, self.looked = True, -math.inf

    def raise_shared(self, until: Moment | None) -> None:
        """Raise the error of the reading that this call waited for, unless it is that call's own affair."""
        failure = self.failure
        if isinstance(failure, ServerError):
            shared = failure.status() not in _OWN_REFUSALS
        elif isinstance(failure, DeadlineExceeded):
            shared = self.failed_by >= (math.inf if until is None else until)
        else:
            shared = isinstance(failure, TransportError)
        if shared and failure is not None:
            raise copy.copy(failure)


class ModelBase:
    """The part of a model that does not depend on how its client waits."""

    _client: Any

    def __init__(self, client: Any, name: str, version: str = "") -> None:
        operations.get_model_metadata(name, version)  # refuses an invalid name
        self._client = client
        self.name = name
        self.version = version = operations.version_text(version)
        models: Table[tuple[str, str], Known] = client._models
        self._known = models.get((name, version)) or models.keep((name, version), Known())

    @property
    def signature(self) -> Signature | None:
        """The model's inputs and outputs; None until a call or :meth:`refresh` of the client has read them."""
        return self._known.signature

    if not TYPE_CHECKING:
        __getattr__ = no_attribute_of_model

    def __repr__(self) -> str:
        version = f" version {self.version}" if self.version else ""
        return f"<Model {self.name!r}{version}: {self.signature or 'not read yet'}>"

    def _repr_html_(self) -> str:
        from html import escape

        signature = self.signature
        if signature is None:
            return f"<p>{escape(repr(self))}</p>"
        rows = [
            (kind, info.name, info.datatype, str(list(info.shape)), "optional" if info.optional else "")
            for kind, infos in (("input", signature.inputs), ("output", signature.outputs))
            for info in infos
        ]
        batches = f", batches of at most {signature.max_batch_size}" if signature.max_batch_size else ""
        title = f"{self.name} {', '.join(signature.versions)} ({signature.platform}{batches})"
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><caption>{escape(title)}</caption><tbody>{body}</tbody></table>"

    # -- the steps of a call --

    def _read(self, asked: bool = True) -> Flow[Signature]:
        """Read the model's signature; of several calls that want that, one does it.

        Parameters
        ----------
        asked : bool
            True: a reading that is under way may have begun before a change that the caller knows of, so it is not
            enough.
        """
        enough = self._known.readings + 1 + asked
        key = "the model", self.name, self.version
        signature: Signature = yield Reading(key, lambda until: self._read_now(enough, until))
        return signature

    def _read_now(self, enough: int, until: Moment | None) -> Flow[Signature]:
        """Read the signature, and whether the server knows binary tensors, unless so many readings have ended."""
        known = self._known
        if known.readings >= enough:
            known.raise_shared(until)
            if known.failure is None and known.signature is not None:
                return known.signature
        try:
            metadata = yield operations.get_model_metadata(self.name, self.version)
            try:
                config = yield operations.get_model_config(self.name, self.version)
            except ServerError as error:
                if error.status() not in _NO_CONFIG:
                    raise
                config = {}
            found = Signature.read(metadata, config)
            if self._client._binary is None:
                try:
                    server = yield operations.get_server_metadata()
                except ServerError:
                    server = {}
                if "binary_tensor_data" in (server.get("extensions") or ()):
                    self._client._binary = True
        except InferenceServerException as error:
            known.failure = copy.copy(error)  # without the frames of its traceback
            known.failed_by = math.inf if until is None else until
            known.readings += 1
            raise
        known.signature, known.doubtful, known.served, known.failure = found, False, None, None
        known.readings += 1
        return found

    def _checked(
        self, given: Mapping[str, Any] | Sole, options: Options, parts: bool = False
    ) -> Flow[tuple[Signature, Arrays, Classes]]:
        """Return the signature, the inputs as arrays, and what to request of each output.

        A call that does not fit a signature read earlier reads it again, but not too often.
        """
        known = self._known
        signature = known.signature
        fresh = signature is None or (known.doubtful and known.may_look())
        if signature is None or fresh:
            signature = yield from self._read(asked=False)
        try:
            return self._check(signature, given, options, parts)
        except InvalidRequest:
            if fresh or not known.may_look():
                raise
            before = signature
            try:
                signature = yield from self._read(asked=False)  # the model may have changed
            except InferenceServerException:
                signature = before
            if signature == before:
                raise
        return self._check(signature, given, options, parts)

    def _check(
        self, signature: Signature, given: Mapping[str, Any] | Sole, options: Options, parts: bool
    ) -> tuple[Signature, Arrays, Classes]:
        classes = integer(options.classes) if options.classes else 0
        if classes is None or classes < 0:
            raise InvalidRequest(f"classes must be a whole number, 0 or more; got {options.classes!r}")
        if isinstance(given, Sole):
            given = {signature.sole_input(given.value): given.value}
        for name in signature.clashing(Options._fields):
            if name not in given and getattr(options, name) is not getattr(DEFAULTS, name):
                raise InvalidRequest(
                    f"model {self.name!r}: input {name!r} has the name of an option; give the inputs as a"
                    f" mapping, {{{name!r}: …}}"
                )
        arrays = signature.arrays(given, bool(options.cast), parts, KEYWORDS)
        return signature, arrays, signature.classes(options.outputs, classes, arrays)

    def _inference(
        self,
        arrays: Arrays,
        classes: Classes,
        options: Options,
        binary: bool,
        place: Place | None = None,
        copy: bool = False,
    ) -> Inference:
        outputs = None
        if not binary or options.outputs or options.classes:
            outputs = requested(classes, binary) or None
        inference = Inference(
            self.name,
            tensors(arrays, binary, copy),
            self.version,
            outputs,
            options.request_id,
            0,
            False,
            False,
            options.priority,
            options.timeout,
            options.request_compression_algorithm,
            options.response_compression_algorithm,
            options.parameters,
            options.idempotent,
            binary,
            self._client._verbose,
        )
        if place is not None:
            inference.sequence_id, inference.sequence_start, inference.sequence_end = place
        return inference

    def _infer(
        self, arrays: Arrays, classes: Classes, options: Options, place: Place | None = None
    ) -> Flow[InferResult]:
        """Run one inference. If the server turns out not to support binary tensors, repeat it as JSON."""
        client = self._client
        known = client._binary
        inference = self._inference(arrays, classes, options, known is not False, place)
        binary = may_be_asked_again(inference) if known is None else known
        if not binary:
            inference = self._inference(arrays, classes, options, False, place)
        try:
            result: InferResult = yield inference
            if known is None and binary:
                client._binary = True
        except ServerError as error:
            answer = error.status(), error.message()
            understood = answer[0] not in _NOT_UNDERSTOOD and answer != _BROKEN
            if known is not None or not binary or understood:
                self._doubt(error)
                raise
            client._binary = False
            try:
                result = yield self._inference(arrays, classes, options, False, place)
            except BaseException as second:
                client._binary = None
                if isinstance(second, InvalidRequest):
                    raise error from second  # JSON cannot represent the inputs
                raise
        version = result._layout.version
        model = self._known
        if version and version != model.served:
            if model.served is not None and not self.version:
                model.doubtful = True  # the server has switched to another version
            model.served = version
        return result

    def _doubt(self, error: ServerError) -> None:
        """Read the signature again at the next call, if the error may mean that the model has changed."""
        if error.status() in ("400", "404"):
            self._known.doubtful = True

    def _call(self, given: Mapping[str, Any] | Sole, options: Options) -> Flow[Outputs]:
        signature, arrays, classes = yield from self._checked(given, options)
        if signature.has_no_rows(arrays):
            return Outputs(signature.empty_result(classes))
        return Outputs((yield from self._infer(arrays, classes, options)))

    def _batched(
        self,
        given: Mapping[str, Any] | Sole,
        max_batch: int | None,
        options: Options,
        report: Callable[[int, int | None], object] | None,
    ) -> Flow[dict[str, npt.NDArray[Any]]]:
        signature, arrays, classes = yield from self._checked(given, options, parts=True)
        rows, limit = signature.rows(arrays, max_batch)
        if not rows:
            return dict(Outputs(signature.empty_result(classes)))
        joined = Joined(rows)

        def add(part: slice, result: InferResult) -> None:
            joined.add(part, Outputs(result))
            if report is not None:
                report(joined.done, rows)

        def make(part: Arrays) -> Inference:
            return self._inference(part, classes, options, self._client._binary is not False)

        parts = split(arrays, rows, limit, make, fits)
        part, inference = next(parts)
        count = -(-rows // part.stop)
        if self._client._binary is None:  # the first part finds out
            result = yield from self._infer(rows_of(arrays, part), classes, options)
            add(part, result)
        else:
            parts = chain([(part, inference)], parts)
        try:
            yield Several(parts, count, add)
        except ServerError as error:
            self._doubt(error)
            raise
        return joined.arrays

    def _item(self, item: Any, copy: bool, options: Options) -> Flow[Inference | Outputs]:
        """Return an item's inference, or its outputs if it had to run to find out about binary tensors."""
        signature, arrays, classes = yield from self._checked(inputs_of(item, {}), options)
        if signature.has_no_rows(arrays):
            return Outputs(signature.empty_result(classes))
        binary = self._client._binary
        if binary is None:
            return Outputs((yield from self._infer(arrays, classes, options)))
        return self._inference(arrays, classes, options, binary, None, copy)

    def _failed(self, error: Exception, wanted: bool) -> InferenceServerException:
        """Return an item's error if the caller wants it, and raise it otherwise."""
        if isinstance(error, ServerError):
            self._doubt(error)
        if wanted and isinstance(error, InferenceServerException):
            return error
        raise error


class SequenceBase:
    """The part of a sequence of inferences that does not depend on how its client waits."""

    _model: Any

    def __init__(self, model: Any, id: int | str | None) -> None:
        if id is None:
            # No two clients of a server may use the same id, and `random` may have the same seed in all of them.
            id = int.from_bytes(os.urandom(8), "little") >> 1 or 1
        known = id if isinstance(id, str) else integer(id)
        if not known or (isinstance(known, int) and not 0 < known < 1 << 64):
            raise InvalidRequest(
                f"a sequence's id must be a 64-bit number above 0, or a str that is not empty; got {id!r}"
            )
        self.id: int | str = known
        self._model = model
        #: Whether the server may know the sequence, knows it, and has been told its end.
        self._begun = self._started = self._ended = False
        self._zeros: Arrays = {}
        self._options = Options()

    def _place(self, end: bool) -> Place:
        return self.id, not self._started, end

    def _call(self, given: Mapping[str, Any] | Sole, options: Options, end: bool) -> Flow[Outputs]:
        if self._ended:
            raise InvalidRequest(f"sequence {self.id!r} of model {self._model.name!r} has ended")
        signature, arrays, classes = yield from self._model._checked(given, options)
        if signature.has_no_rows(arrays):
            raise InvalidRequest(f"model {self._model.name!r}: an inference of a sequence needs rows, got 0")
        before, self._begun = self._begun, True
        self._options = options
        self._zeros = {name: _zeros(array) for name, array in arrays.items()}
        try:
            result = yield from self._model._infer(arrays, classes, options, self._place(end))
        except (ConnectError, InvalidRequest):
            self._begun = before  # nothing reached the server
            raise
        self._started = True
        self._ended = end
        return Outputs(result)

    def _end_options(self, error: BaseException | None) -> Options:
        """Return the options of the request that ends the sequence."""
        given = self._options
        deadline = UNSET if error is None else CLOSING
        return Options(headers=given.headers, query_params=given.query_params, deadline=deadline)

    def _end(self) -> Flow[None]:
        """End the sequence, if it still runs, with an inference on zeros, which is the only way to end one."""
        if self._ended or not self._begun:
            return
        self._ended = True
        try:
            yield from self._model._infer(self._zeros, {}, Options(), self._place(True))
        except ServerError as error:
            if _NO_SEQUENCE not in str(error.message()):
                raise

    def _not_ended(self, error: Exception) -> None:
        logger.warning("sequence %r of model %r could not be ended: %s", self.id, self._model.name, error)


def _zeros(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind in "OSUT":
        return np.full(array.shape, b"", dtype=object)
    return np.zeros(array.shape, array.dtype)
