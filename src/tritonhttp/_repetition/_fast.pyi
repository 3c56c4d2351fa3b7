from collections.abc import Sequence
from typing import Any

from .template import Template

def find(
    table: dict[tuple[Any, ...], Template],
    model_name: str,
    model_version: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any] | None,
    input_type: type,
    output_type: type,
    /,
) -> tuple[Template, list[Any]] | None: ...
def write(
    template: Template,
    data: list[Any],
    piece: int,
    whole: int,
    query: bytes,
    lines: bytes,
    id_json: bytes,
    parameters: bytes | None,
    /,
) -> bytes | None: ...
