"""The sizes that outputs will have, so that they can be placed before the request.

A model's metadata declare them, or its answers to inputs of the same shapes have shown them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .._protocol import operations
from .._protocol.operations import Operation
from .._protocol.result import InferResult
from .._wire.inference import Layout, numeric_size
from ..errors import InferenceServerException, ProtocolError

__all__ = ["Form", "Model", "OutputSizes", "Sizes"]

#: Name and version, as the caller gave them.
Model = tuple[str, str]
#: Bytes of each output, by its name; 0 where unknown, for strings, and for JSON: these are not placed.
Sizes = dict[str, int]
#: An output in a model's metadata: name, bytes (0: not fixed), whether that is the size of one item of a batch.
Declared = tuple[str, int, bool]

#: After so many answers of the same sizes the next one is expected to have them.
_ANSWERS = 2
_MAX_FORMS = 1024


class Form(NamedTuple):
    """What the sizes of outputs are expected to depend on."""

    model: Model
    #: Name, datatype and shape of each.
    inputs: tuple[tuple[Any, ...], ...]
    #: What is asked for each; None for all outputs.
    outputs: tuple[Any, ...] | None

    @property
    def batch(self) -> int:
        """The size of the batch, if the model has batches."""
        return next((int(shape[0]) for *_, shape in self.inputs if shape), 1)


@dataclass
class _Learnt:
    """The sizes that answers to one form had; 0 once two answers differed."""

    sizes: Sizes
    answers: int = 0
    #: The layout of the last answer, if others share it.
    last: Layout | None = None


class OutputSizes:
    """What one client knows about the sizes of outputs."""

    def __init__(self) -> None:
        self._declared: dict[Model, list[Declared]] = {}
        self._learnt: dict[Form, _Learnt] = {}
        #: Models whose answers have outgrown what was learnt.
        self._unpredictable: set[Model] = set()

    def read(self, model: Model) -> Generator[Operation[Any], Any, None]:
        """Ask the server for a model's metadata, once."""
        if model in self._declared:
            return
        try:
            metadata = yield operations.get_model_metadata(*model)
            config = yield operations.get_model_config(*model)
            batches = config.get("max_batch_size", 0) > 0
            self._declared[model] = [_declared(output, batches) for output in metadata["outputs"]]
        except (InferenceServerException, AttributeError, KeyError, TypeError):
            self._declared[model] = []  # then its answers have to show the sizes

    def expected(self, form: Form, repeatable: bool) -> tuple[Sizes, bool]:
        """Return the size of every output, 0 if unknown, and whether any was learnt rather than declared."""
        model = form.model
        sizes = {
            name: size * form.batch if batched else size for name, size, batched in self._declared[model]
        }
        found = self._learnt.get(form)
        # If the answer outgrows what was learnt, the model has to run again.
        if found is None or found.answers < _ANSWERS or not repeatable or model in self._unpredictable:
            return sizes, False
        learnt = {name: size for name, size in found.sizes.items() if not sizes.get(name)}
        return sizes | learnt, any(learnt.values())

    def learn(self, form: Form, result: InferResult) -> None:
        """Remember the sizes of an answer's outputs."""
        layout = result._layout
        found = self._learnt.get(form)
        if found is None or found.last is not layout:
            sizes = {name: _output_size(output) for name, output in layout.outputs.items()}
            if found is None:
                if len(self._learnt) >= _MAX_FORMS:
                    self._learnt.clear()
                found = self._learnt[form] = _Learnt(sizes)
            found.sizes = {
                name: size if found.sizes.get(name) == size else 0
                for name, size in (found.sizes | sizes).items()
            }
            if result._json is None:  # a layout of its own would keep the answer's data
                found.last = layout
        found.answers += 1

    def distrust(self, model: Model, learnt: bool) -> None:
        """After an output that was larger: no longer use what was learnt about a model, or what it declares."""
        if learnt:
            self._unpredictable.add(model)
        else:
            self._declared[model] = []


def _declared(output: Mapping[str, Any], batches: bool) -> Declared:
    shape = list(output["shape"])
    batched = batches and shape[:1] == [-1]
    item = {**output, "shape": shape[1:] if batched else shape}
    return output["name"], 0 if -1 in item["shape"] else _output_size(item), batched


def _output_size(output: Mapping[str, Any]) -> int:
    try:
        return numeric_size(output)
    except ProtocolError:
        return 0  # reading that output raises the error
