from typing import Any

from .._wire.requests import Buffer
from .template import Template

def find(
    table: dict[tuple[Any, ...], Template], inference: Any, input_type: type, output_type: type, /
) -> tuple[Template, list[Any]] | None: ...
def compose(
    table: dict[tuple[Any, ...], Template],
    inference: Any,
    input_type: type,
    output_type: type,
    piece: int,
    whole: int,
    query: bytes,
    lines: bytes,
    id_json: bytes,
    parameters: bytes | None,
    /,
) -> tuple[Template, list[Buffer]] | None: ...
