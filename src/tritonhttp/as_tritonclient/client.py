"""The reference's blocking client: it shows responses as geventhttpclient does, and is ours otherwise."""

from __future__ import annotations

from .._basics.redaction import masked
from .._clients.blocking import client
from .._wire.http1 import Response

__all__ = ["InferenceServerClient"]


class HTTPSocketPoolResponse(Response):
    """A response whose text programs know: ``status=404`` stands in it."""

    __slots__ = ("attempts",)

    @classmethod
    def of(cls, response: Response) -> HTTPSocketPoolResponse:
        answer = cls(response.head, response.body, response.limit)
        answer.attempts, answer.asked = response.attempts, response.asked
        return answer

    def items(self) -> list[tuple[str, str]]:
        """Return each header line's name, as it was received, and value."""
        lines = self.head.raw.decode("latin-1").split("\r\n")[1:-2]
        return [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]

    headers = property(items)  # pyright: ignore[reportIncompatibleMethodOverride]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} status={self.status_code} headers={masked(self.items())}>"


class InferenceServerClient(client.InferenceServerClient):
    """The blocking client; see :class:`tritonhttp.InferenceServerClient`."""

    _as_answer = staticmethod(HTTPSocketPoolResponse.of)
