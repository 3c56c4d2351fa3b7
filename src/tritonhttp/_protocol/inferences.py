"""The operation of an inference: from tensors and options to a body, its JSON head remembered by their forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .._wire import compression, inference
from .._wire.http1 import Response
from .._wire.requests import Buffer
from ..errors import InvalidRequest
from .operations import BINARY, JSON, Headers, Operation, model_path
from .result import InferResult
from .tensors import InferInput, InferRequestedOutput

__all__ = [
    "NO_OPTIONS",
    "Inference",
    "infer",
    "infer_body",
    "infer_form",
    "is_placed",
]


class Inference(NamedTuple):
    """What is asked for with `infer`, in the order of its arguments."""

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


#: What stands behind model, inputs, version and outputs where no option is given.
NO_OPTIONS = Inference("", ())[4:]


def infer(
    asked: Inference,
    decode: Callable[[Response], InferResult],
    *,
    binary_outputs: bool = True,
    snapshot: bool = False,
) -> Operation[InferResult]:
    """Return the inference's operation; with `snapshot` its body holds none of the caller's memory.

    `binary_outputs` is for outputs that are not named. An inference whose outputs are placed in shared memory is
    not repeatable, whatever the caller says: a first run may still write there when the second has ended.
    """
    path = model_path(asked.model_name, asked.model_version, "/infer")
    body, headers = infer_body(asked, binary_outputs, snapshot)
    content_type = BINARY if headers else JSON
    codings: Headers = ()
    coding, wanted = asked.request_compression_algorithm, asked.response_compression_algorithm
    if coding:
        body = compression.compress(body, coding)
        codings = (("Content-Encoding", coding),)
    if wanted:
        if wanted not in compression.ALGORITHMS:
            raise InvalidRequest(
                f"unsupported compression algorithm {wanted!r}: expected 'gzip', 'deflate' or None"
            )
        codings = (*codings, ("Accept-Encoding", wanted))
    sequence = None
    if asked.sequence_id not in (0, ""):
        sequence = asked.model_name, asked.sequence_id, bool(asked.sequence_start), bool(asked.sequence_end)
    repeatable = asked.idempotent is True and sequence is None and not is_placed(asked.outputs)
    return Operation(
        "POST",
        path,
        decode,
        body,
        (*codings, *headers),
        content_type,
        repeatable,
        sequence=sequence,
        request_id=asked.request_id,
    )


def is_placed(outputs: Sequence[InferRequestedOutput] | None) -> bool:
    """Return whether any of the outputs shall lie in shared memory."""
    # A sub-class may make the JSON object itself.
    own = InferRequestedOutput._get_tensor
    return any(
        each._form[3] is not None
        if type(each)._get_tensor is own
        else "shared_memory_region" in each._get_tensor().get("parameters", ())
        for each in outputs or ()
    )


def infer_body(
    asked: Inference, binary_outputs: bool = True, snapshot: bool = False
) -> tuple[tuple[Buffer, ...], Headers]:
    """Return an inference's body, its JSON head first, and the header that says where the head ends.

    Where no binary tensors follow the head there is no such header.
    """
    inputs, outputs = asked.inputs, asked.outputs
    form, _ = infer_form(inputs, outputs)
    if not binary_outputs or any(asked[4:10]) or asked.timeout is not None or asked.parameters:
        form = None
    body = [buffer for each in inputs if (buffer := each._buffer(snapshot)) is not None]
    size = sum(map(len, body))
    known = None if form is None else _heads.get(form)
    if known is None or known[2] != size:  # an array may be resized behind the form's back
        head = inference.encode_request(
            _descriptors(inputs),
            [output._get_tensor() for output in outputs] if outputs else None,
            *asked[4:10],
            asked.parameters,
            binary_outputs,
        )
        known = head, ((("Inference-Header-Content-Length", str(len(head))),) if body else ()), size
        if form is not None:
            if len(_heads) >= _MAX_HEADS:
                _heads.clear()
            _heads[form] = known
    return (known[0], *body), known[1]


def infer_form(
    inputs: Sequence[InferInput], outputs: Sequence[InferRequestedOutput] | None
) -> tuple[tuple[Any, ...] | None, list[Any]]:
    """Return what the head of an inference without options depends on, and the data behind it as they were set.

    There is no such form where data are in the head itself.
    """
    form: list[Any] = []
    data: list[Any] = []
    try:
        if type(inputs) is not list and _is_spent_by_use(inputs):
            raise TypeError
        for tensor in inputs:
            form.append(tensor._form)
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
    except (AttributeError, TypeError):
        _refuse_others(inputs, outputs)
        raise
    return tuple(form) if plain else None, data


def _is_spent_by_use(given: Any) -> bool:
    """Whether it is an iterator: they are gone through more than once."""
    return iter(given) is given


#: Heads of inferences by their form: a program sends the same few again and again.
_heads: dict[tuple[Any, ...], tuple[bytes, Headers, int]] = {}
_MAX_HEADS = 256


def _descriptors(inputs: Sequence[InferInput]) -> list[dict[str, Any]]:
    descriptors = [tensor._descriptor() for tensor in inputs]
    for descriptor in descriptors:
        if len(descriptor) == 3:
            raise InvalidRequest(
                f"input {descriptor['name']!r} has no data:"
                " call set_data_from_numpy() or set_shared_memory() first"
            )
    return descriptors


def _refuse_others(inputs: Any, outputs: Any) -> None:
    """Raise an error that says so where inputs or outputs are something else."""
    for given, name, wanted in (
        (inputs, "inputs", InferInput),
        (outputs or (), "outputs", InferRequestedOutput),
    ):
        if not isinstance(given, Sequence):
            raise InvalidRequest(
                f"{name} must be a sequence of {wanted.__name__}, got {type(given).__name__}"
            )
        for item in given:
            if not isinstance(item, wanted):
                raise InvalidRequest(f"{name} must hold {wanted.__name__} objects, got {type(item).__name__}")
