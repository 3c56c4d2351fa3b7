"""The HTTP client for Triton Inference Server and every server of the Open Inference Protocol.

Its names are those of ``tritonclient.http``::

    import tritonhttp as httpclient

    with httpclient.InferenceServerClient("localhost:8000") as client:
        image = httpclient.InferInput("IMAGE", [1, 64], "FP32").set_data_from_numpy(pixels)
        client.infer("digits", [image]).as_numpy("SCORES")
"""

from typing import TYPE_CHECKING

from ._clients.blocking.async_request import InferAsyncRequest
from ._clients.blocking.client import InferenceServerClient
from ._protocol.result import InferResult
from ._protocol.tensors import InferInput, InferRequestedOutput, TensorInfo
from ._version import __version__
from .errors import (
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
from .plugins import InferenceServerClientPlugin, Request
from .utils import (
    TRITON_RESERVED_REQUEST_PARAMS,
    TRITON_RESERVED_REQUEST_PARAMS_PREFIX,
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    raise_error,
    serialize_byte_tensor,
    serialized_byte_size,
    triton_to_np_dtype,
)

if TYPE_CHECKING:
    from ._calls.retry import Retry
else:

    def __getattr__(name):
        # What few programs use does not make the import longer for all.
        if name == "Retry":
            from ._calls.retry import Retry

            return globals().setdefault(name, Retry)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING"})


def install_as_tritonclient() -> None:
    """Register this library as ``tritonclient`` in this process, before anything imports that; again does nothing.

    Its modules are ``tritonclient``, ``tritonclient.http`` with ``aio``, ``auth`` and ``aio.auth``,
    ``tritonclient.utils`` with ``shared_memory`` and ``cuda_shared_memory``, and the old names
    ``tritonhttpclient``, ``tritonclientutils`` and ``tritonshmutils``. Where a real tritonclient is installed, its
    ``tritonclient.grpc`` is imported from there.

    Raises
    ------
    ImportError
        If the real package was imported before.
    """
    from .as_tritonclient import install

    install()


__all__ = [
    "TRITON_RESERVED_REQUEST_PARAMS",
    "TRITON_RESERVED_REQUEST_PARAMS_PREFIX",
    "ConnectError",
    "ConnectRefused",
    "ConnectTimeout",
    "ConnectionLost",
    "DeadlineExceeded",
    "InferAsyncRequest",
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
    "__version__",
    "deserialize_bytes_tensor",
    "install_as_tritonclient",
    "np_to_triton_dtype",
    "raise_error",
    "serialize_byte_tensor",
    "serialized_byte_size",
    "triton_to_np_dtype",
]
