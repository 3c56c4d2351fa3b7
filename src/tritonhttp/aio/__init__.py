"""The asyncio client: the names of ``tritonclient.http.aio``, and those of ``tritonhttp`` that go with it.

::

    import tritonhttp.aio as httpclient

    async with httpclient.InferenceServerClient("localhost:8000") as client:
        result = await client.infer("digits", [image])
"""

from typing import TYPE_CHECKING

from .. import _names
from .._basics.lazy import lazily as _lazily
from .._clients.awaited.client import InferenceServerClient as InferenceServerClient
from .._clients.base import ClientBase as InferenceServerClientBase
from .._names import *  # noqa: F403  what both clients share is listed there

if TYPE_CHECKING:  # type checkers read the imports
    from .._calls.retry import Retry as Retry
    from .._clients.awaited.model import Model as Model
    from .._clients.awaited.model import Outputs as Outputs
    from .._clients.awaited.stream import GenerateStream as GenerateStream
    from .._clients.blocking.async_request import InferAsyncRequest as InferAsyncRequest
    from .._protocol.classes import Classification as Classification
    from .._protocol.probes import Health as Health
    from .._protocol.probes import ModelList as ModelList
    from .._protocol.probes import ModelStatus as ModelStatus
    from .._protocol.signature import Signature as Signature
    from .._regions.region import Region as Region
    from ..errors import CertificateError as CertificateError
    from ..errors import RequestCancelled as RequestCancelled
    from ..errors import ResultNotReady as ResultNotReady
    from ..errors import TLSError as TLSError
    from ..events import Stats as Stats
else:
    _HOMES = {
        **{name: f".{home}" for name, home in _names._HOMES.items()},
        "GenerateStream": ".._clients.awaited.stream",
        "Model": ".._clients.awaited.model",
        "Outputs": ".._clients.awaited.model",
    }
    __all__ = [
        "InferenceServerClient",
        "InferenceServerClientBase",
        *_names._SHARED,
        *_HOMES,
    ]
    __getattr__, __dir__ = _lazily(__name__, __all__, _HOMES, ["auth", "model", "stream"])
