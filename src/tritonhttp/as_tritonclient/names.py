"""The names of ``tritonclient.http``: ours, an InferInput that copies, and private helpers that programs use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tritonhttp

from .._clients.base import ClientBase as InferenceServerClientBase
from .._protocol import operations
from .client import InferenceServerClient
from .infer_input import InferInput

__all__ = ["InferInput", "InferenceServerClient", "InferenceServerClientBase"]


def __getattr__(name: str) -> Any:
    return getattr(tritonhttp, name)


_get_query_string = operations.query_string


def _get_inference_request(
    inputs: Sequence[InferInput],
    request_id: str,
    outputs: Sequence[tritonhttp.InferRequestedOutput] | None,
    sequence_id: int | str,
    sequence_start: bool,
    sequence_end: bool,
    priority: int,
    timeout: int | None,
    custom_parameters: Mapping[str, Any] | None = None,
) -> tuple[bytes, int | None]:
    return tritonhttp.InferenceServerClient.generate_request_body(
        inputs,
        outputs,
        request_id,
        sequence_id,
        sequence_start,
        sequence_end,
        priority,
        timeout,
        custom_parameters,
    )


def _raise_if_error(response: Any) -> None:
    operations.check(response)


def _get_error(response: Any) -> tritonhttp.InferenceServerException | None:
    try:
        operations.check(response)
    except tritonhttp.InferenceServerException as error:
        return error
    return None
