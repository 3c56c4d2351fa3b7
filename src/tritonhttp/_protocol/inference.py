"""An inference: one object from the arguments of `infer` to the JSON of the request and back to the result."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import orjson

from .._basics import hints
from .._basics.quantities import came, real
from .._repetition.answer import Repeated
from .._wire import compression, dtypes, jsonio
from .._wire.inference import RESERVED_PARAMETERS, RESERVED_PREFIX, flag, text, whole
from .._wire.requests import Buffer
from .._wire.responses import Response
from ..errors import InvalidRequest, ServerError
from .operations import (
    BINARY,
    JSON,
    Endpoint,
    Headers,
    Operation,
    Renew,
    check,
    model_path,
    stream_of,
    version_text,
)
from .refusals import placed
from .result import InferResult
from .tensors import InferInput, InferRequestedOutput, data_size

__all__ = ["Inference", "body_of", "buffers_of", "explained", "fits", "form_of", "forms_json", "refuse_size"]

#: Triton refuses a body from here on, in bytes, and does not survive twice that: it reads a 32-bit number.
_MOST = 1 << 31
#: Its default limit of JSON, and of compressed bodies before they are compressed.
_MOST_TEXT = 1 << 26
#: Room for the JSON that describes the tensors.
_HEAD = 1 << 16

#: A timeout below this, in microseconds, was probably meant in seconds.
_DOUBTFUL = 1000
#: What this process was warned of.
_warned: set[str] = set()

_JSON_SIZE = "Inference-Header-Content-Length"
#: Fields that say nothing to the server.
UNSENT = frozenset({"idempotent", "verbose", "renew"})


@dataclass(slots=True, eq=False)  # never changed, as any operation
class Inference(Operation[InferResult]):
    """What is asked for with `infer`, in the order of its arguments, and what its client adds.

    Its HTTP head and JSON are composed when it is sent, of what is remembered and of what these fields say; a new
    field belongs to :meth:`id_json`, :meth:`parameters_json` or `UNSENT`.

    Attributes
    ----------
    binary : bool
        Whether outputs that are not named shall be binary.
    verbose : bool
        Whether to show the answer's JSON.
    """

    model_name: str
    inputs: Sequence[InferInput]
    model_version: str = ""
    outputs: Sequence[InferRequestedOutput] | None = None
    request_id: str = ""
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    priority: int = 0
    timeout: int | None = None
    request_compression_algorithm: str | None = None
    response_compression_algorithm: str | None = None
    parameters: Mapping[str, Any] | None = None
    idempotent: bool | None = None
    binary: bool = True
    verbose: bool = False
    renew: Renew | None = None
    method: ClassVar[str] = "POST"  # type: ignore[misc]

    @property
    def path(self) -> str:  # type: ignore[override]
        return model_path(self.model_name, self.model_version, "/infer")

    @property
    def sequence(self) -> tuple[str, int | str, bool, bool] | None:  # type: ignore[override]
        if self.sequence_id in (0, ""):
            return None
        return self.model_name, self.sequence_id, bool(self.sequence_start), bool(self.sequence_end)

    @property
    def is_placed(self) -> bool:  # type: ignore[override]
        # A sub-class may make the JSON object itself.
        own = InferRequestedOutput._get_tensor
        return any(
            each._form[3] is not None
            if type(each)._get_tensor is own
            else "shared_memory_region" in each._get_tensor().get("parameters", ())
            for each in self.outputs or ()
        )

    def id_json(self) -> bytes:
        """Return the id as it begins the request's JSON, or nothing."""
        id: Any = self.request_id
        if type(id) is not str:
            id = "" if id is None else text(id, "request_id")
        if not id:
            return b""
        try:
            return b'"id":%b,' % orjson.dumps(id)
        except TypeError:
            return text(id, "request_id").encode()  # which refuses it

    def parameters_json(self) -> bytes | None:
        """Return the parameters as they end the request's JSON; None for those of an inference without options."""
        timeout, given, priority = self.timeout, self.parameters, self.priority
        try:
            numbered = self.sequence_id not in (0, "")
            if not (numbered or priority or given is not None or timeout is not None) and self.binary:
                return None
        except ValueError:  # an array, which is refused below
            numbered = True
        options: dict[str, Any] = {}
        if numbered:
            number = self.sequence_id
            if type(number) is not int or not 0 < number < 1 << 63:
                number = number if isinstance(number, str) else whole(number, "sequence_id")
                number = jsonio.plain(number, "sequence_id")
            options["sequence_id"] = number
            begins, ends = self.sequence_start, self.sequence_end
            options["sequence_start"] = begins if type(begins) is bool else flag(begins, "sequence_start")
            options["sequence_end"] = ends if type(ends) is bool else flag(ends, "sequence_end")
        if priority is not None and (
            level := priority if type(priority) is int and priority >= 0 else whole(priority, "priority")
        ):
            options["priority"] = level
        if timeout is not None:
            options["timeout"] = limit = whole(
                timeout, "timeout", " of microseconds (deadline= is in seconds)"
            )
            if 0 < limit < _DOUBTFUL and not _warned:
                _warn_of(limit)
        if self.binary and not self.outputs:
            options["binary_data_output"] = True
        if given is not None:
            if not isinstance(given, Mapping):
                raise InvalidRequest(f"parameters must be a mapping, got {type(given).__name__}")
            for name, value in given.items():
                key = text(name, "the name of a parameter")
                if key in RESERVED_PARAMETERS or key.startswith(RESERVED_PREFIX):
                    raise InvalidRequest(
                        f'Parameter "{key}" is a reserved parameter and cannot be specified.'
                    )
                options[key] = jsonio.plain(value, f"parameter {key!r}", text=True)
        return b',"parameters":%b' % jsonio.dumps(options) if options else b""

    def with_tensors(
        self, inputs: Sequence[InferInput], outputs: Sequence[InferRequestedOutput] | None
    ) -> Inference:
        """Return the same inference with other tensors; cheaper than `dataclasses.replace`."""
        other = Inference(*_values(self))
        other.inputs, other.outputs = inputs, outputs
        return other

    def sendable(self, snapshot: bool = False) -> Operation[InferResult]:
        """Return the operation to send: this, or where bodies are compressed one that is written already.

        With `snapshot` nothing of it is the caller's memory.
        """
        if self.request_compression_algorithm or self.response_compression_algorithm:
            return self.written(snapshot)
        return self.snapshot() if snapshot else self

    def written(self, snapshot: bool = False) -> Endpoint[InferResult]:
        """Return the operation with its body written; with `snapshot` that holds none of the caller's memory."""
        return self._endpoint(*body_of(self, snapshot))

    def raw(self, data: Any) -> Endpoint[InferResult]:
        """Return the operation whose whole body is the data of the model's only input."""
        return self._endpoint((_raw(data),), ((_JSON_SIZE, "0"),))

    def streamed_answers(self, idle: float | None) -> Endpoint[Response]:
        """Return the operation whose answers come as a stream; it holds none of the caller's memory."""
        body, headers = body_of(self, snapshot=True)
        return stream_of(
            model_path(self.model_name, self.model_version, "/infer_stream"),
            body,
            headers,
            BINARY if headers else JSON,
            self.idempotent,
            self.request_id,
            idle,
        )

    def _endpoint(self, body: tuple[Buffer, ...], headers: Headers) -> Endpoint[InferResult]:
        content_type = BINARY if headers else JSON
        codings: Headers = ()
        coding, wanted = self.request_compression_algorithm, self.response_compression_algorithm
        if coding:
            body = compression.compress(body, coding)
            codings = (("Content-Encoding", coding),)
        if wanted:
            if wanted not in compression.ALGORITHMS:
                raise InvalidRequest(
                    f"unsupported compression algorithm {wanted!r}: expected 'gzip', 'deflate' or None"
                )
            codings = (*codings, ("Accept-Encoding", wanted))
        return Endpoint(
            "POST",
            self.path,
            self.decode,
            body,
            (*codings, *headers),
            content_type,
            self.idempotent,
            request_id=self.request_id,
            sequence=self.sequence,
            renew=self.renew,
            is_placed=self.is_placed,
        )

    def snapshot(self) -> Inference:
        """Return the same inference with copies of all that its caller may change."""
        refuse_size(sum(map(data_size, self.inputs)))
        inputs = [copy.copy(each) for each in self.inputs]
        for each in inputs:
            if isinstance(each._binary, np.ndarray):
                each._binary = each._binary.copy()
        outputs = None if self.outputs is None else [copy.copy(each) for each in self.outputs]
        other = self.with_tensors(inputs, outputs)
        other.parameters = copy.deepcopy(self.parameters)
        return other

    def decode(self, response: Response) -> InferResult:
        if type(response) is Repeated and not self.verbose:
            answer = response.answer
            if answer.pattern is not None:
                repeated: InferResult = answer.pattern.alike(response.body)
                return repeated
        if response.status_code != 200:
            check(response)
        try:
            request_id = self.id_json()[5:-1] if self.request_id else b""
            result = InferResult(response, self.verbose, _request_id=request_id)
        except ServerError as error:
            error._status = str(response.status_code)
            placed(error, response)
            raise
        if type(response) is Repeated:
            if response.head.json_size is not None:
                response.answer.pattern = result.alike(b"")
        elif type(response) is not Response:
            result.attempts = getattr(response, "attempts", 1)
        return result


def _warn_of(timeout: int) -> None:
    """Warn once of a timeout that is probably meant in seconds."""
    _warned.add("timeout")
    hints.warn(
        f"timeout={timeout} is in microseconds, and limits only the wait in the server's queue; a call's limit in"
        f" seconds is deadline={timeout}"
    )


def fits(inference: Inference) -> bool:
    """Return whether an inference is small enough for a server with Triton's default limits."""
    inputs = inference.inputs
    texts = sum(len(each._json or b"") for each in inputs)
    limit = _MOST_TEXT if texts or inference.request_compression_algorithm else _MOST
    return texts + sum(map(data_size, inputs)) + _HEAD < limit


def refuse_size(size: int) -> None:
    """Refuse a body that would end a server.

    Raises
    ------
    InvalidRequest
        From 4 GiB on. From 2 GiB on Triton refuses it itself.
    """
    if size >= 2 * _MOST:
        raise InvalidRequest(
            f"expected a request of less than 2 GiB, got {size} bytes; Triton does not survive 4 GiB: send fewer"
            " rows, as a model's batched() does, or use shared memory"
        )


_values = attrgetter(*(each.name for each in fields(Inference)))


def forms_json(inference: Inference, apart: bool = False) -> tuple[bytes, bytes]:
    """Return inputs and outputs as members of the JSON, and the parameters where there are no options.

    With `apart` the members are a format: ``%b`` stands for the data that the JSON itself contains.
    """
    inputs, outputs = inference.inputs, inference.outputs
    descriptors = [tensor._descriptor() for tensor in inputs]
    for descriptor in descriptors:
        text(descriptor["name"], "the name of an input")
        text(descriptor["datatype"], f"the datatype of input {descriptor['name']!r}")
        for size in descriptor["shape"]:
            if real(size) is None:
                raise InvalidRequest(
                    f"the shape of input {descriptor['name']!r} must hold whole numbers, got {came(size)}"
                )
        if len(descriptor) == 3:
            raise InvalidRequest(
                f"input {descriptor['name']!r} has no data:"
                " call set_data_from_numpy() or set_shared_memory() first"
            )
    members: dict[str, Any] = {"inputs": descriptors}
    if outputs:
        members["outputs"] = tensors = [output._get_tensor() for output in outputs]
        for tensor in tensors:
            text(tensor.get("name"), "the name of an output")
    # Without it the server answers every output as JSON, ten times the size.
    end = b"" if outputs else b',"parameters":{"binary_data_output":true}'
    if not apart:
        return jsonio.dumps(members)[1:-1], end
    for descriptor in descriptors:
        if "data" in descriptor:
            descriptor["data"] = orjson.Fragment(b"\0")  # JSON contains none: it is escaped in strings
    return jsonio.dumps(members)[1:-1].replace(b"%", b"%%").replace(b"\0", b"%b"), end


def explained(operation: Operation[Any], error: Exception) -> InvalidRequest | None:
    """Return the refusal that an error comes to, without our frames; None if no argument is to blame.

    Checks on each call would take time, and most values of a wrong type fail somewhere by themselves.
    """
    try:
        if not isinstance(error, InvalidRequest) and isinstance(operation, Inference):
            _explain(operation)
    except InvalidRequest as refusal:
        error = refusal
    return error._bare() if isinstance(error, InvalidRequest) else None


def _explain(inference: Inference) -> None:
    """Raise InvalidRequest for the argument that is to blame for an error, if one is: nothing was sent then."""
    version_text(inference.model_version)
    text(inference.model_name, "model_name")
    check_tensors(inference)
    for name, unit in (("sequence_id", ""), ("priority", ""), ("timeout", " of microseconds")):
        value = getattr(inference, name)
        if value is not None and not (name == "sequence_id" and isinstance(value, str)):
            whole(value, name, unit)
    for name in ("request_compression_algorithm", "response_compression_algorithm"):
        value = getattr(inference, name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{name} must be 'gzip', 'deflate' or None, got {came(value)}")
    inference.id_json()
    inference.parameters_json()


def buffers_of(inputs: Sequence[InferInput], snapshot: bool = False) -> list[Buffer]:
    """Return the tensors that stand behind the JSON as they go out."""
    return [buffer for each in inputs if (buffer := each._buffer(snapshot)) is not None]


def body_of(inference: Inference, snapshot: bool = False) -> tuple[tuple[Buffer, ...], Headers]:
    """Return an inference's body, its JSON first, and the header that says where that ends.

    Where no binary tensors follow the JSON there is no such header.
    """
    form_of(inference)  # refuses what are no tensors
    refuse_size(sum(map(data_size, inference.inputs)))  # before anything is copied
    members, end = forms_json(inference)
    own = inference.parameters_json()
    json = b"{%b%b%b}" % (inference.id_json(), members, end if own is None else own)
    tensors = buffers_of(inference.inputs, snapshot)
    size = ((_JSON_SIZE, str(len(json))),) if tensors else ()
    return (json, *tensors), size


def _raw(data: Any) -> Buffer:
    """Return the bytes of a raw request: an array's elements as the server reads them, or a buffer as it is."""
    kind = type(data).__name__
    if isinstance(data, (np.ndarray, np.generic)):
        if dtypes.np_to_triton_dtype(data.dtype) not in (None, "BYTES"):
            return InferInput.from_numpy("data", data)._buffer() or b""
        kind = f"an array of {data.dtype}"
    else:
        try:
            view = memoryview(data)
            if "O" not in view.format:  # those are addresses
                return view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
        except (NotImplementedError, TypeError, ValueError):  # no buffer, or one of no simple elements
            pass
    raise InvalidRequest(f"data must be bytes or an array of numbers, got {kind}; text goes as text.encode()")


def form_of(inference: Inference) -> tuple[tuple[Any, ...] | None, list[Any], list[bytes]]:
    """Return what the JSON of an inference without options depends on, and the data as they were set.

    The data behind the JSON come first, then those within. Where a sub-class may make the JSON itself there is no
    such form; the data behind the JSON are then as they are sent, and there are none within.
    """
    inputs, outputs = inference.inputs, inference.outputs
    form: list[Any] = []
    data: list[Any] = []
    within: list[bytes] = []
    try:
        if type(inputs) is not list and _is_spent_by_use(inputs):
            raise TypeError
        for tensor in inputs:
            known = tensor._form
            if known is None:
                known = tensor._form_around_json
                if tensor._json is not None and known is not None:
                    within.append(tensor._json)
            form.append(known)
            if tensor._binary is not None:
                data.append(tensor._binary)
        plain = None not in form
        if outputs:
            if type(outputs) is not list and _is_spent_by_use(outputs):
                raise TypeError
            form.append(None)
            for output in outputs:
                form.append(output._form)
                if type(output) is not InferRequestedOutput:
                    if not isinstance(output, InferRequestedOutput):
                        raise TypeError  # an input has a form as well
                    # A sub-class may make the JSON object itself.
                    plain = plain and type(output)._get_tensor is InferRequestedOutput._get_tensor
    except (AttributeError, TypeError, ValueError):
        check_tensors(inference)
        raise
    # Without a form a sub-class may make the data itself.
    return (tuple(form), data, within) if plain else (None, buffers_of(inputs), [])


def _is_spent_by_use(given: Any) -> bool:
    """Whether it is an iterator: they are gone through more than once."""
    return iter(given) is given


def check_tensors(inference: Inference) -> None:
    """Raise an error that says so where inputs or outputs are something else."""
    text(inference.model_name, "model_name")
    for given, name, wanted in (
        (inference.inputs, "inputs", InferInput),
        (inference.outputs, "outputs", InferRequestedOutput),
    ):
        if given is None and name == "outputs":
            continue
        if not isinstance(given, Sequence):
            raise InvalidRequest(
                f"{name} must be a sequence of {wanted.__name__}, got {type(given).__name__}"
                f"{_instead(given, wanted, inference.model_name)}"
            )
        for item in given:
            if not isinstance(item, wanted):
                raise InvalidRequest(
                    f"{name} must hold {wanted.__name__} objects, got {type(item).__name__}"
                    f"{_instead(item, wanted, inference.model_name, given)}"
                )


def _instead(given: Any, wanted: type[Any], model: str, all: Any = None) -> str:
    """Return the way for what is no input or requested output, or no sequence of them."""
    if isinstance(given, wanted):
        return ": put it into a list"
    if isinstance(given, Iterator):
        return ": make a list of it"
    if wanted is InferRequestedOutput:
        name = all if isinstance(all, str) else given
        return f": InferRequestedOutput({name!r})" if isinstance(name, str) else ""
    if isinstance(given, Sequence) and not isinstance(given, (str, list, tuple)):
        return ""
    return f": make each with InferInput.from_numpy(name, array), or call client.model({model!r}) with the arrays"
