"""What is known of inferences without options that differ in their data only, and the search for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._basics.implementation import check_c_is_wanted, fall_back
from .._protocol.result import InferResult
from .._wire.http1 import Response
from .._wire.requests import Buffer

__all__ = ["Answer", "Known", "recall"]


class Answer(NamedTuple):
    """An answer as it may come again, for other data."""

    #: How it began, the JSON included; the size of its head, which is no part of the body; and that of all of it.
    start: bytes
    head_size: int
    size: int
    result: InferResult


class Known:
    """What is known of inferences without options that differ in their data only.

    Parameters
    ----------
    target : str
        Their path.
    head : bytes
        How the request begins, its JSON included.
    size : int
        Bytes in the whole request.
    """

    __slots__ = ("answer", "head", "size", "target")

    def __init__(self, target: str, head: bytes, size: int) -> None:
        self.target = target
        self.head = head
        self.size = size
        #: The last one; None: there was none that is worth expecting again.
        self.answer: Answer | None = None

    def learn(self, buffers: Sequence[Buffer], response: Response, result: InferResult) -> None:
        """Take note of an answer, where it, its JSON and the request are small and its tensors binary."""
        head, body = response.head, response.body
        if (
            len(buffers) == 1
            and type(body) is bytes
            and head.keep_alive
            and head.content_length is not None
            and type(head.json_size) is int
            and not head.encoding
            and result._json is None  # or its layout is made of what the caller gets
        ):
            start = head.raw + body[: head.json_size]
            self.answer = Answer(start, len(head.raw), len(head.raw) + len(body), result.alike(b""))


try:
    check_c_is_wanted()
    from ._recall import recall
except ImportError as error:
    fall_back("tritonhttp._repetition._recall", error)
    #: Finds what is known of an inference: in a table, by model, version and the form that :func:`infer_form`
    #: returns. Returns that, and the request in one piece; None where nothing is known, or more than a look is
    #: needed: other types than those two, more than `limit` bytes, an array that was changed.
    recall = None  # type: ignore[assignment]
