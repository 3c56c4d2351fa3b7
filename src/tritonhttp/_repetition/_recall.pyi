from collections.abc import Sequence
from typing import Any

from .._protocol.tensors import InferInput, InferRequestedOutput
from .._wire.requests import Buffer
from .known import Known

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
