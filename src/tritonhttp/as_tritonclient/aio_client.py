"""The reference's asyncio client: it shows responses as aiohttp does, and is ours otherwise."""

from __future__ import annotations

from .._basics.redaction import masked
from .._clients.awaited import client
from .._clients.awaited.aiohttp_forms import Answer

__all__ = ["InferenceServerClient"]


class ClientResponse(Answer):
    """A response whose text programs know: ``[404 Not Found]`` stands in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        headers = ", ".join(f"{name!r}: {value!r}" for name, value in masked(self.items()).items())
        first = f"<{type(self).__name__}({self.url}) [{self.status} {self.reason}]>"
        return f"{first}\n<CIMultiDictProxy({headers})>\n"


class InferenceServerClient(client.InferenceServerClient):
    """The asyncio client; see :class:`tritonhttp.aio.InferenceServerClient`."""

    _as_answer = staticmethod(ClientResponse.of)
