"""The public names that ``tritonhttp`` and ``tritonhttp.aio`` share."""

from ._protocol.result import InferResult as InferResult
from ._protocol.tensors import InferInput as InferInput
from ._protocol.tensors import InferRequestedOutput as InferRequestedOutput
from ._protocol.tensors import TensorInfo as TensorInfo
from .errors import ConnectError as ConnectError
from .errors import ConnectionLost as ConnectionLost
from .errors import ConnectRefused as ConnectRefused
from .errors import ConnectTimeout as ConnectTimeout
from .errors import DeadlineExceeded as DeadlineExceeded
from .errors import InferenceServerException as InferenceServerException
from .errors import InvalidCall as InvalidCall
from .errors import InvalidRequest as InvalidRequest
from .errors import MissingDependency as MissingDependency
from .errors import NameResolutionError as NameResolutionError
from .errors import ProtocolError as ProtocolError
from .errors import ServerError as ServerError
from .errors import TransportError as TransportError
from .plugins import InferenceServerClientPlugin as InferenceServerClientPlugin
from .plugins import Request as Request
from .utils import TRITON_RESERVED_REQUEST_PARAMS as TRITON_RESERVED_REQUEST_PARAMS
from .utils import TRITON_RESERVED_REQUEST_PARAMS_PREFIX as TRITON_RESERVED_REQUEST_PARAMS_PREFIX
from .utils import deserialize_bytes_tensor as deserialize_bytes_tensor
from .utils import np_to_triton_dtype as np_to_triton_dtype
from .utils import raise_error as raise_error
from .utils import serialize_byte_tensor as serialize_byte_tensor
from .utils import serialized_byte_size as serialized_byte_size
from .utils import triton_to_np_dtype as triton_to_np_dtype

#: The modules of those that are imported when they are asked for, relative to ``tritonhttp``.
_HOMES = {
    "CertificateError": ".errors",
    "Classification": "._protocol.classes",
    "Health": "._protocol.probes",
    "InferAsyncRequest": "._clients.blocking.async_request",
    "ModelList": "._protocol.probes",
    "ModelStatus": "._protocol.probes",
    "Region": "._regions.region",
    "RequestCancelled": ".errors",
    "ResultNotReady": ".errors",
    "Retry": "._calls.retry",
    "Signature": "._protocol.signature",
    "Stats": ".events",
    "TLSError": ".errors",
}
_SHARED = [name for name in vars() if name[0].isalpha()]  # pytest adds names that begin with @
