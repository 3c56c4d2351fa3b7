"""What callers give to models: options, and inputs by name or by position. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from typing import Any, NamedTuple, TypedDict, TypeVar

from .._basics.hints import nearest
from .._transport.policy import UNSET, Deadline
from ..errors import InvalidRequest

__all__ = [
    "DEFAULTS",
    "KEYWORDS",
    "CallOptions",
    "Options",
    "SequenceOptions",
    "Sole",
    "inputs_of",
    "iterator",
    "refuse_named",
]

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """The options of a call, for functions that pass them on.

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


class Options(NamedTuple):
    """The options of a call, in the order of the methods' parameters."""

    outputs: Items[str] | None = None
    classes: int = 0
    cast: bool = False
    request_id: str = ""
    priority: int = 0
    timeout: int | None = None
    headers: Mapping[str, Any] | None = None
    query_params: Mapping[str, Any] | None = None
    request_compression_algorithm: str | None = None
    response_compression_algorithm: str | None = None
    parameters: Mapping[str, Any] | None = None
    idempotent: bool | None = None
    deadline: Deadline = UNSET


DEFAULTS = Options()
#: What calls of all kinds take beside inputs, and what callers take for it, with what to write.
KEYWORDS = {
    **{name: f"the option {name!r}" for name in (*Options._fields, "end", "max_batch", "progress")},
    **dict.fromkeys(("class_count", "top_k", "topk"), "the option 'classes'"),
    **dict.fromkeys(("client_timeout", "conn_timeout", "network_timeout"), "the option 'deadline'"),
    **dict.fromkeys(("output_names", "requested_outputs"), "the option 'outputs'"),
    "batch_size": "the option 'max_batch' of batched()",
    "compression": "the option 'request_compression_algorithm'",
    "concurrency": "the client's option of that name",
    "inputs": "the inputs themselves: model({'name': array}), or model(name=array)",
    "model_version": "client.model(name, version)",
    "version": "client.model(name, version)",
    **dict.fromkeys(("sequence_id", "sequence_start", "sequence_end"), "model.sequence()"),
}


class Sole(NamedTuple):
    """A value for the only input of a model, whose name the caller did not give."""

    value: Any


def iterator(items: Iterable[T]) -> Iterator[T]:
    """Return an iterator, or refuse a mapping and a value that is not iterable."""
    if isinstance(items, Mapping):
        raise InvalidRequest(
            f"map takes an iterable of inputs, of one inference each, got a {type(items).__name__}: for one"
            " inference call the model; batched() splits arrays of any length"
        )
    try:
        return iter(items)
    except TypeError:
        raise InvalidRequest(
            f"expected an iterable of mappings of input names to arrays, or of arrays; got {type(items).__name__}"
        ) from None


def inputs_of(
    inputs: Any, named: Mapping[str, Any], others: tuple[Any, ...] = ()
) -> Mapping[str, Any] | Sole:
    """Return what a call gave as inputs: a mapping, keywords, or a value for a model's only input.

    Raises
    ------
    InvalidRequest
        If there are inputs both by position and as keywords, or several by position.
    """
    if others:
        raise InvalidRequest(
            f"got {1 + len(others)} inputs by position: several inputs need their names, model(name=array, …) or"
            " model({'name': array, …}), and options are given by name"
        )
    if inputs is None:
        return named
    if named:
        near = nearest(next(iter(named)), KEYWORDS)
        meant = "" if near is None else f"; did you mean {KEYWORDS[near]}?"
        raise InvalidRequest(
            f"{', '.join(map(repr, named))}: no such option, and there are inputs by position too{meant};"
            f" options are {', '.join(Options._fields)}"
        )
    return inputs if isinstance(inputs, Mapping) else Sole(inputs)


def refuse_named(named: Mapping[str, Any]) -> None:
    """Refuse keywords of `map` that are no options.

    Raises
    ------
    InvalidRequest
        If there are any.
    """
    if named:
        name = next(iter(named))
        near = nearest(name, KEYWORDS)
        meant = f"did you mean {KEYWORDS[near]}? map" if near is not None else "it"
        raise InvalidRequest(
            f"map has no option {name!r}: {meant} takes one iterable, of the inputs of one inference each, such as"
            " map({'name': each} for each in …); batched() splits one array"
        )
