"""The asyncio client: the names of ``tritonclient.http.aio``, and those of ``tritonhttp`` that go with it.

::

    import tritonhttp.aio as httpclient

    async with httpclient.InferenceServerClient("localhost:8000") as client:
        result = await client.infer("digits", [image])
"""

from .._calls.retry import Retry
from .._clients.awaited.client import InferenceServerClient
from .._protocol.result import InferResult
from .._protocol.tensors import InferInput, InferRequestedOutput, TensorInfo
from ..errors import (
    ConnectError,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    NameResolutionError,
    ProtocolError,
    ServerError,
    TransportError,
)
from ..plugins import InferenceServerClientPlugin, Request
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

__all__ = [
    "TRITON_RESERVED_REQUEST_PARAMS",
    "TRITON_RESERVED_REQUEST_PARAMS_PREFIX",
    "ConnectError",
    "ConnectRefused",
    "ConnectTimeout",
    "ConnectionLost",
    "DeadlineExceeded",
    "InferInput",
    "InferRequestedOutput",
    "InferResult",
    "InferenceServerClient",
    "InferenceServerClientPlugin",
    "InferenceServerException",
    "InvalidRequest",
    "NameResolutionError",
    "ProtocolError",
    "Request",
    "Retry",
    "ServerError",
    "TensorInfo",
    "TransportError",
    "deserialize_bytes_tensor",
    "np_to_triton_dtype",
    "raise_error",
    "serialize_byte_tensor",
    "serialized_byte_size",
    "triton_to_np_dtype",
]
