"""Models as functions of arrays: what both clients share, which is everything but waiting.

A call is a generator of steps: operations, inferences, and several inferences in flight. Its driver sends their
results into it, and throws their errors into it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from .._basics.log import logger
from .._basics.quantities import integer
from .._calls.safety import may_be_asked_again
from .._protocol import operations
from .._protocol.inference import Inference, fits
from .._protocol.operations import Operation
from .._protocol.result import InferResult
from .._protocol.signature import Arrays, Joined, Signature, requested, rows_of, split, tensors
from .._transport.policy import Deadline, positive
from ..errors import ConnectError, InferenceServerException, InvalidRequest, ServerError
from .base import CLOSING

__all__ = [
    "CallOptions",
    "Flow",
    "ModelBase",
    "Outputs",
    "SequenceBase",
    "SequenceOptions",
    "Several",
    "Step",
    "in_flight_or",
    "iterator",
    "sort",
]

T = TypeVar("T")

#: How many classes to request of each output, by its name; 0: its numbers.
Classes = dict[str, int]


class CallOptions(TypedDict, total=False):
    """The options of a call.

    `outputs` are the names of the outputs to return; None returns all. `classes` is the number of classes to
    return in place of an output's numbers, best first, as BYTES ``"score:index:label"``: of the named outputs, or
    of all that are integers, FP32 or FP64 and have elements (the others come whole). `cast` converts arrays
    of another dtype if values change only by rounding to a float. The others are those of the client's `infer`.
    """

    outputs: Items[str] | None
    classes: int
    cast: bool
    request_id: str
    priority: int
    timeout: int | None
    headers: Mapping[str, Any] | None
    query_params: Mapping[str, Any] | None
    request_compression_algorithm: str | None
    response_compression_algorithm: str | None
    parameters: Mapping[str, Any] | None
    idempotent: bool | None
    deadline: Deadline


class SequenceOptions(CallOptions, total=False):
    """The options of a call in a sequence, with `end` for the last call."""

    end: bool


_OWN_OPTIONS = ("outputs", "classes", "cast", "deadline", "end", "headers", "query_params")

#: Statuses with which a server without binary tensors refuses them, before the model runs.
_NOT_UNDERSTOOD = ("400", "415", "422")
#: MLServer's error handler crashes echoing bytes that are not UTF-8. A model's own error has another message.
_BROKEN = ("500", "Internal Server Error")
#: Statuses of a server without model configurations.
_NO_CONFIG = ("400", "404", "405", "501")
#: The default maximum of items read ahead; each keeps its arrays alive.
_MOST_AHEAD = 32
#: Part of Triton's message about a sequence that it does not have, or no longer has.
_NO_SEQUENCE = "must specify the START flag"


class Outputs(Mapping[str, npt.NDArray[Any]]):
    """A model's outputs: a read-only mapping of names to arrays.

    Attributes
    ----------
    result : InferResult
        The inference's result, which holds them.
    """

    __slots__ = ("result",)

    def __init__(self, result: InferResult) -> None:
        self.result = result

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.result[name]

    def __contains__(self, name: object) -> bool:
        return name in self.result

    def __iter__(self) -> Iterator[str]:
        return iter(self.result)

    def __len__(self) -> int:
        return len(self.result)

    def __repr__(self) -> str:
        return f"<Outputs {', '.join(map(str, self.result.outputs))}>"


@dataclass(frozen=True, slots=True)
class Several:
    """Inferences to run concurrently, each with its rows, made one by one; `add` takes the results."""

    inferences: Iterable[tuple[slice, Inference]]
    #: About how many they are.
    count: int
    add: Callable[[slice, InferResult], None]


Step = Operation[Any] | Several
Flow = Generator[Step, Any, T]


class ModelBase:
    """The part of a model that does not depend on how its client waits."""

    _client: Any

    def __init__(self, client: Any, name: str, version: str = "") -> None:
        operations.get_model_metadata(name, version)  # refuses an invalid name
        self._client = client
        self.name = name
        self.version = operations.version_text(version)
        self._signature: Signature | None = None
        #: Whether the model may have changed since its signature was read.
        self._doubtful = False
        #: The version that answered last.
        self._served: str | None = None

    @property
    def signature(self) -> Signature | None:
        """The model's inputs and outputs; None until the first call or :meth:`refresh` has read them."""
        return self._signature

    def __repr__(self) -> str:
        version = f" version {self.version}" if self.version else ""
        return f"<Model {self.name!r}{version}: {self._signature or 'not read yet'}>"

    def _repr_html_(self) -> str:
        from html import escape

        signature = self._signature
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

    def _read(self) -> Flow[Signature]:
        """Read the model's signature, and whether the server supports binary tensors."""
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
        self._signature, self._doubtful, self._served = found, False, None
        return found

    def _checked(
        self, given: Mapping[str, Any], options: CallOptions, parts: bool = False
    ) -> Flow[tuple[Signature, Arrays, Classes]]:
        """Return the signature, the inputs as arrays, and what to request of each output.

        A call that does not fit a signature read earlier reads it again.
        """
        signature = known = None if self._doubtful else self._signature
        if signature is None:
            signature = yield from self._read()
        try:
            return self._check(signature, given, options, parts)
        except InvalidRequest:
            if known is None:
                raise
            try:
                signature = yield from self._read()  # the model may have changed
            except InferenceServerException:
                signature = known
            if signature == known:
                raise
        return self._check(signature, given, options, parts)

    def _check(
        self, signature: Signature, given: Mapping[str, Any], options: CallOptions, parts: bool
    ) -> tuple[Signature, Arrays, Classes]:
        classes = integer(options.get("classes", 0)) if options else 0
        if classes is None or classes < 0:
            raise InvalidRequest(f"classes must be a whole number, got {options.get('classes')!r}")
        for info in signature.inputs:
            if info.name in options and info.name not in given:
                raise InvalidRequest(
                    f"model {self.name!r}: input {info.name!r} has the name of an option; give the inputs as a"
                    f" mapping, {{{info.name!r}: …}}"
                )
        arrays = signature.arrays(given, bool(options.get("cast")), parts)
        return signature, arrays, signature.classes(options.get("outputs"), classes, arrays)

    def _inference(
        self,
        arrays: Arrays,
        classes: Classes,
        options: CallOptions,
        binary: bool,
        place: Mapping[str, Any],
        copy: bool = False,
    ) -> Inference:
        outputs = None
        if not binary or options.get("outputs") or options.get("classes"):
            outputs = requested(classes, binary) or None
        own: dict[str, Any] = {}
        if options:
            own = {key: value for key, value in options.items() if key not in _OWN_OPTIONS}
        inputs = tensors(arrays, binary, copy)
        verbose = self._client._verbose
        return Inference(
            self.name, inputs, self.version, outputs, binary=binary, verbose=verbose, **place, **own
        )

    def _infer(
        self, arrays: Arrays, classes: Classes, options: CallOptions, place: Mapping[str, Any] = {}
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
        if version and version != self._served:
            if self._served is not None and not self.version:
                self._doubtful = True  # the server has switched to another version
            self._served = version
        return result

    def _doubt(self, error: ServerError) -> None:
        """Read the signature again at the next call, if the error may mean that the model has changed."""
        if error.status() in ("400", "404"):
            self._doubtful = True

    def _call(self, given: Mapping[str, Any], options: CallOptions) -> Flow[Outputs]:
        _, arrays, classes = yield from self._checked(given, options)
        return Outputs((yield from self._infer(arrays, classes, options)))

    def _batched(
        self, given: Mapping[str, Any], max_batch: int | None, options: CallOptions
    ) -> Flow[dict[str, npt.NDArray[Any]]]:
        signature, arrays, classes = yield from self._checked(given, options, parts=True)
        rows, limit = signature.rows(arrays, max_batch)
        joined = Joined(rows)

        def make(part: Arrays) -> Inference:
            return self._inference(part, classes, options, self._client._binary is not False, {})

        parts = split(arrays, rows, limit, make, fits)
        part, inference = next(parts)
        count = -(-rows // part.stop)
        if self._client._binary is None:  # the first part finds out
            result = yield from self._infer(rows_of(arrays, part), classes, options)
            joined.add(part, Outputs(result))
        else:
            parts = chain([(part, inference)], parts)
        try:
            yield Several(parts, count, lambda part, result: joined.add(part, Outputs(result)))
        except ServerError as error:
            self._doubt(error)
            raise
        return joined.arrays

    def _item(self, item: Any, copy: bool, options: CallOptions) -> Flow[Inference | Outputs]:
        """Return an item's inference, or its outputs if it had to run to find out about binary tensors."""
        if not isinstance(item, Mapping):
            raise InvalidRequest(f"expected mappings of input names to arrays, got {type(item).__name__}")
        _, arrays, classes = yield from self._checked(item, options)
        binary = self._client._binary
        if binary is None:
            return Outputs((yield from self._infer(arrays, classes, options)))
        return self._inference(arrays, classes, options, binary, {}, copy)

    def _failed(self, error: Exception, wanted: bool) -> InferenceServerException:
        """Return an item's error if the caller wants it, and raise it otherwise."""
        if isinstance(error, ServerError):
            self._doubt(error)
        if wanted and isinstance(error, InferenceServerException):
            return error
        raise error


def iterator(items: Iterable[T]) -> Iterator[T]:
    """Return an iterator, or refuse a value that is not iterable."""
    try:
        return iter(items)
    except TypeError:
        raise InvalidRequest(
            f"expected an iterable of mappings of input names to arrays, got {type(items).__name__}"
        ) from None


def in_flight_or(connections: int, in_flight: int | None) -> int:
    """Return how many items to read ahead: as many as given, or enough to keep the connections busy."""
    return min(2 * connections, _MOST_AHEAD) if in_flight is None else positive(in_flight, "in_flight")


def sort(
    inputs: Mapping[str, Any] | None, keywords: Mapping[str, Any], known: type = CallOptions
) -> tuple[Mapping[str, Any], Any]:
    """Return the inputs and the options of a call.

    Raises
    ------
    InvalidRequest
        If there are inputs both in a mapping and as keywords.
    """
    options: dict[str, Any] = {}
    named = keywords
    if not keywords.keys().isdisjoint(known.__annotations__):
        options = {name: value for name, value in keywords.items() if name in known.__annotations__}
        named = {name: value for name, value in keywords.items() if name not in options}
    if inputs is None:
        return named, options
    if not isinstance(inputs, Mapping):
        raise InvalidRequest(
            f"expected a mapping of input names to arrays, or a keyword for each input;"
            f" got {type(inputs).__name__}"
        )
    if named:
        raise InvalidRequest(
            f"{', '.join(map(repr, named))}: no such option; beside a mapping of inputs all keywords are"
            f" options: {', '.join(known.__annotations__)}"
        )
    return inputs, options


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
        self._options: CallOptions = {}

    def _place(self, end: bool) -> dict[str, Any]:
        return {"sequence_id": self.id, "sequence_start": not self._started, "sequence_end": end}

    def _call(self, given: Mapping[str, Any], options: SequenceOptions) -> Flow[Outputs]:
        if self._ended:
            raise InvalidRequest(f"sequence {self.id!r} of model {self._model.name!r} has ended")
        end = bool(options.get("end"))
        _, arrays, classes = yield from self._model._checked(given, options)
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

    def _end_options(self, error: BaseException | None) -> CallOptions:
        """Return the options of the request that ends the sequence."""
        options: CallOptions = {
            "headers": self._options.get("headers"),
            "query_params": self._options.get("query_params"),
        }
        if error is not None:
            options["deadline"] = CLOSING
        return options

    def _end(self) -> Flow[None]:
        """End the sequence, if it still runs, with an inference on zeros, which is the only way to end one."""
        if self._ended or not self._begun:
            return
        self._ended = True
        try:
            yield from self._model._infer(self._zeros, {}, {}, self._place(True))
        except ServerError as error:
            if _NO_SEQUENCE not in str(error.message()):
                raise

    def _not_ended(self, error: Exception) -> None:
        logger.warning("sequence %r of model %r could not be ended: %s", self.id, self._model.name, error)


def _zeros(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind in "OSUT":
        return np.full(array.shape, b"", dtype=object)
    return np.zeros(array.shape, array.dtype)
