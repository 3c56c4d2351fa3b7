"""The asyncio client: the names of ``tritonclient.http.aio``.

::

    import tritonhttp.aio as httpclient

    async with httpclient.InferenceServerClient("localhost:8000") as client:
        result = await client.infer("digits", [image])
"""

from ..errors import InferenceServerException
from ..plugins import InferenceServerClientPlugin, Request
from ..tensors import InferInput, InferRequestedOutput, InferResult
from ..utils import (
    TRITON_RESERVED_REQUEST_PARAMS,
    TRITON_RESERVED_REQUEST_PARAMS_PREFIX,
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    raise_error,
    serialize_byte_tensor,
    serialized_byte_size,
    triton_to_np_dtype,
)
from .client import InferenceServerClient

__all__ = [
    "TRITON_RESERVED_REQUEST_PARAMS",
    "TRITON_RESERVED_REQUEST_PARAMS_PREFIX",
    "InferInput",
    "InferRequestedOutput",
    "InferResult",
    "InferenceServerClient",
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
