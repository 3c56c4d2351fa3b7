"""The names of ``tritonclient.http``: ours, an InferInput that copies, and private helpers that programs use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._clients.base import ClientBase
from .._clients.blocking.async_request import InferAsyncRequest
from .._clients.blocking.client import InferenceServerClient
from .._protocol import operations
from .._protocol.result import InferResult
from .._protocol.tensors import InferRequestedOutput
from ..errors import InferenceServerException, raise_error
from ..plugins import InferenceServerClientPlugin, Request
from ..utils import (
    TRITON_RESERVED_REQUEST_PARAMS,
    TRITON_RESERVED_REQUEST_PARAMS_PREFIX,
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    serialized_byte_size,
    triton_to_np_dtype,
)
from .infer_input import InferInput

__all__ = [
    "TRITON_RESERVED_REQUEST_PARAMS",
    "TRITON_RESERVED_REQUEST_PARAMS_PREFIX",
    "InferAsyncRequest",
    "InferInput",
    "InferRequestedOutput",
    "InferResult",
    "InferenceServerClient",
    "InferenceServerClientBase",
    "InferenceServerClientPlugin",
    "InferenceServerException",
    "Request",
    "deserialize_bytes_tensor",
    "np_to_triton_dtype",
    "raise_error",
    "serialize_byte_tensor",
    "serialized_byte_size",
    "triton_to_np_dtype",
]

InferenceServerClientBase = ClientBase

_get_query_string = operations.query_string


def _get_inference_request(
    inputs: Sequence[InferInput],
    request_id: str,
    outputs: Sequence[InferRequestedOutput] | None,
    sequence_id: int | str,
    sequence_start: bool,
    sequence_end: bool,
    priority: int,
    timeout: int | None,
    custom_parameters: Mapping[str, Any] | None = None,
) -> tuple[bytes, int | None]:
    return InferenceServerClient.generate_request_body(
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


def _get_error(response: Any) -> InferenceServerException | None:
    try:
        operations.check(response)
    except InferenceServerException as error:
        return error
    return None
