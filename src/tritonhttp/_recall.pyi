from collections.abc import Sequence
from typing import Any

from .inferences import Known
from .tensors import InferInput, InferRequestedOutput
from .wire.requests import Buffer

def recall(
    table: dict[tuple[Any, ...], Known],
    model_name: str,
    model_version: str,
    inputs: Sequence[InferInput],
    outputs: Sequence[InferRequestedOutput] | None,
    input_type: type[InferInput],
    output_type: type[InferRequestedOutput],
    limit: int,
    /,
) -> tuple[Known, list[Buffer]] | None: ...
