"""The reference's blocking client: it shows responses as geventhttpclient does, and is ours otherwise."""

from __future__ import annotations

import re

from .._basics.redaction import masked
from .._clients.blocking import client
from .._wire.responses import Response

__all__ = ["InferenceServerClient", "lines_of"]


def lines_of(response: Response) -> list[tuple[str, str]]:
    """Return each header line's name, as it was received, and value."""
    text = re.sub(r"\r\n[ \t]+", " ", response.head.raw.decode("latin-1"))
    pairs = (line.partition(":") for line in text.split("\r\n")[1:-2])
    return [(name, value.strip(" \t")) for name, _, value in pairs]


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
        return lines_of(self)

    headers = property(items)  # pyright: ignore[reportIncompatibleMethodOverride]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} status={self.status_code} headers={masked(self.items())}>"


class InferenceServerClient(client.InferenceServerClient):
    """The blocking client; see :class:`tritonhttp.InferenceServerClient`."""

    _as_answer = staticmethod(HTTPSocketPoolResponse.of)
