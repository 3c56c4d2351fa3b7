"""The HTTP client for Triton Inference Server and every server of the Open Inference Protocol.

Its names are those of ``tritonclient.http``::

    import tritonhttp as httpclient

    with httpclient.InferenceServerClient("localhost:8000") as client:
        image = httpclient.InferInput("IMAGE", [1, 64], "FP32").set_data_from_numpy(pixels)
        client.infer("digits", [image]).as_numpy("SCORES")
"""

from typing import TYPE_CHECKING

from . import _names
from ._basics.lazy import lazily as _lazily
from ._clients.blocking.client import InferenceServerClient as InferenceServerClient
from ._names import *  # noqa: F403  what both clients share is listed there
from ._version import __version__ as __version__

if TYPE_CHECKING:  # type checkers read the imports in place of `__all__`
    from ._calls.retry import Retry as Retry
    from ._clients.blocking.async_request import InferAsyncRequest as InferAsyncRequest
    from ._clients.blocking.model import Model as Model
    from ._clients.blocking.model import Outputs as Outputs
    from ._clients.blocking.stream import GenerateStream as GenerateStream
    from ._protocol.classes import Classification as Classification
    from ._protocol.probes import Health as Health
    from ._protocol.probes import ModelList as ModelList
    from ._protocol.probes import ModelStatus as ModelStatus
    from ._protocol.signature import Signature as Signature
    from ._regions.region import Region as Region
    from .errors import CertificateError as CertificateError
    from .errors import RequestCancelled as RequestCancelled
    from .errors import ResultNotReady as ResultNotReady
    from .errors import TLSError as TLSError
    from .events import Stats as Stats
else:
    # What few programs use does not make the import longer for all.
    _HOMES = {
        **_names._HOMES,
        "GenerateStream": "._clients.blocking.stream",
        "Model": "._clients.blocking.model",
        "Outputs": "._clients.blocking.model",
    }
    __all__ = [
        "InferenceServerClient",
        "__version__",
        "install_as_tritonclient",
        *_names._SHARED,
        *_HOMES,
    ]
    _MODULES = "aio auth errors events metrics model plugins regions stream testing types utils"
    __getattr__, __dir__ = _lazily(__name__, __all__, _HOMES, _MODULES.split())


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
