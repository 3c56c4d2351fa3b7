"""The asyncio client: the names of ``tritonclient.http.aio``, and those of ``tritonhttp`` that go with it.

::

    import tritonhttp.aio as httpclient

    async with httpclient.InferenceServerClient("localhost:8000") as client:
        result = await client.infer("digits", [image])
"""

from typing import TYPE_CHECKING

from .. import _names
from .._calls.retry import Retry as Retry
from .._clients.awaited.client import InferenceServerClient as InferenceServerClient
from .._names import *  # noqa: F403  what both clients share is listed there

if not TYPE_CHECKING:  # type checkers read the imports
    __all__ = ["InferenceServerClient", "Retry", *_names._SHARED]
