"""The names of ``tritonclient.http.aio``: the asyncio client, and otherwise those of ``tritonclient.http``."""

from urllib.parse import quote

from .._clients.awaited.client import InferenceServerClient
from .names import (
    InferAsyncRequest,
    InferenceServerClientBase,
    InferenceServerClientPlugin,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
    InferResult,
    Request,
    _get_inference_request,
    _get_query_string,
)

__all__ = [
    "InferAsyncRequest",
    "InferInput",
    "InferRequestedOutput",
    "InferResult",
    "InferenceServerClient",
    "InferenceServerClientBase",
    "InferenceServerClientPlugin",
    "InferenceServerException",
    "Request",
    "_get_inference_request",
    "_get_query_string",
    "quote",
]
