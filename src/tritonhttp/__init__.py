"""The HTTP client for Triton Inference Server and every server of the Open Inference Protocol.

Its names are those of ``tritonclient.http``::

    import tritonhttp as httpclient

    with httpclient.InferenceServerClient("localhost:8000") as client:
        image = httpclient.InferInput("IMAGE", [1, 64], "FP32").set_data_from_numpy(pixels)
        client.infer("digits", [image]).as_numpy("SCORES")
"""

from typing import TYPE_CHECKING

from . import _names
from ._clients.blocking.async_request import InferAsyncRequest as InferAsyncRequest
from ._clients.blocking.client import InferenceServerClient as InferenceServerClient
from ._names import *  # noqa: F403  what both clients share is listed there
from ._version import __version__ as __version__

if TYPE_CHECKING:  # type checkers read the imports in place of `__all__`
    from ._calls.retry import Retry as Retry
else:
    __all__ = [
        "InferAsyncRequest",
        "InferenceServerClient",
        "Retry",
        "__version__",
        "install_as_tritonclient",
        *_names._SHARED,
    ]

    def __getattr__(name):
        # What few programs use does not make the import longer for all.
        if name == "Retry":
            from ._calls.retry import Retry

            return globals().setdefault(name, Retry)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
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
