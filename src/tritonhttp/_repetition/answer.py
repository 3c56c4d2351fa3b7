"""Answers that are expected to come again, for other data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._wire.requests import Buffer
from .._wire.responses import Response, ResponseHead

__all__ = ["Answer", "Repeated", "learn"]

#: The largest JSON that an answer is remembered with.
_MAX_JSON = 1 << 12


class Answer:
    """An answer as it may come again.

    Attributes
    ----------
    start : bytes
        How it began, its JSON included unless that holds the data.
    head : ResponseHead
    head_size, size : int
        Bytes in its HTTP head, and in all of it.
    at : int
        Where in `start` the request's id stands; -1: nowhere, so that `start` serves for every id.
    pattern : InferResult or None
        A result of such an answer, once there was one.
    """

    __slots__ = ("at", "head", "head_size", "pattern", "size", "start")

    def __init__(self, start: bytes, head: ResponseHead, size: int, at: int) -> None:
        self.start = start
        self.head = head
        self.head_size = len(head.raw)
        self.size = size
        self.at = at
        self.pattern: Any = None

    def start_with(self, id_json: bytes) -> bytes:
        """Return how such an answer begins to a request with another id of the same length."""
        at = self.at
        return b"%b%b%b" % (self.start[:at], id_json, self.start[at + len(id_json) :])


class Repeated(Response):
    """A response that began as an answer before it."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer, body: bytes, asked: tuple[str, ...]) -> None:
        self.answer = answer
        self.head = answer.head
        self.body = body
        self.limit = None
        self.asked = asked
        self._position = 0


def learn(buffers: Sequence[Buffer], response: Response, id_json: bytes) -> Answer | None:
    """Return an answer that is worth expecting again: small, as was the request."""
    head, body = response.head, response.body
    json_size = head.json_size
    if (
        len(buffers) > 1
        or head.status != 200
        or type(body) is not bytes
        or not head.keep_alive
        or head.content_length is None
        or head.encoding
    ):
        return None
    if json_size is None:  # its JSON holds the data, so that the head alone comes again
        return Answer(head.raw, head, len(head.raw) + len(body), -1)
    if type(json_size) is not int or not 0 < json_size <= min(len(body), _MAX_JSON):
        return None
    at = body.find(id_json, 0, json_size) if id_json else -1
    start = head.raw + body[:json_size]
    return Answer(start, head, len(head.raw) + len(body), at if at < 0 else at + len(head.raw))
