"""A client's requests as buffers: its header lines, the caller's, and what is remembered of others like them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._protocol import inferences, operations
from .._protocol.operations import Operation
from .._protocol.tensors import InferInput, InferRequestedOutput
from .._version import __version__
from .._wire.requests import COALESCE, Buffer, encode_head, header_line
from ..errors import InvalidRequest
from .known import Known

__all__ = ["Encoder", "call_headers"]

_MAX_HEADS = 256


def call_headers(operation: Operation[Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a call's headers: the caller's, and over them those that belong to the operation's body."""
    own = {name.lower() for name, _ in operation.headers}
    given = operations.mapping(given, "headers") if given else {}
    headers = {name: value for name, value in given.items() if str(name).lower() not in own}
    headers.update((name, int(value) if value.isdecimal() else value) for name, value in operation.headers)
    return headers


class Encoder:
    """Makes the requests to one server.

    Parameters
    ----------
    authority, base_path : str
        Of the server.
    """

    def __init__(self, authority: str, base_path: str) -> None:
        self._base_path = base_path
        #: Header lines of every request, by their names in lower case.
        self._own_headers = {
            "host": header_line("Host", authority),
            "user-agent": header_line("User-Agent", f"tritonhttp/{__version__}"),
        }
        #: Targets and heads of plain requests, by all that they depend on.
        self._heads: dict[tuple[Any, ...], tuple[str, bytes]] = {}
        #: What is known of plain inferences, by model, version and form.
        self.known: dict[tuple[Any, ...], Known] = {}

    def encode(
        self, operation: Operation[Any], headers: Mapping[str, Any], query_params: Mapping[str, Any] | None
    ) -> tuple[str, list[Buffer], int]:
        """Return the target and the buffers of a request, and the size of its body."""
        method, body = operation.method, operation.body
        target = f"{self._base_path}/{operation.path}"
        if query_params:
            target = f"{target}?{operations.query_string(query_params)}"
        length = sum(map(len, body))
        head = encode_head(method, target, self._lines(headers, operation.content_type, length), length)
        return target, [head, *body], length

    def plain(self, operation: Operation[Any]) -> tuple[str, list[Buffer]]:
        """Return the target and the buffers of a request without headers or query of the caller's."""
        target, head, length = self._plain_head(operation)
        body = operation.body
        return target, [b"".join((head, *body))] if length <= COALESCE else [head, *body]

    def _plain_head(self, operation: Operation[Any]) -> tuple[str, bytes, int]:
        """Return the target and the head of such a request, and the size of its body."""
        length = sum(map(len, operation.body))
        form = (operation.method, operation.path, operation.headers, operation.content_type, length)
        known = self._heads.get(form)
        if known is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            target = f"{self._base_path}/{operation.path}"
            lines = self._lines(call_headers(operation, None), operation.content_type, length)
            known = self._heads[form] = target, encode_head(operation.method, target, lines, length)
        return *known, length

    def inference(
        self,
        model: tuple[str, str],
        inputs: Sequence[InferInput],
        outputs: Sequence[InferRequestedOutput] | None,
        make: Callable[[], Operation[Any]],
        snapshot: bool,
    ) -> tuple[Known, list[Buffer]]:
        """Return what is known of an inference without options, and its buffers.

        Parameters
        ----------
        model : tuple of str
            Its name and version.
        make : callable
            Makes the operation, where not enough is known.
        snapshot : bool
            Whether the buffers must hold none of the caller's memory.
        """
        form, data = inferences.infer_form(inputs, outputs)
        key = *model, form
        try:
            known = self.known[key]
            if known.size <= COALESCE:
                buffers: list[Buffer] = [b"".join((known.head, *data))]
            else:
                buffers = [
                    known.head,
                    *(tensor._buffer(snapshot) or b"" for tensor in inputs if tensor._binary is not None),
                ]
            if sum(map(len, buffers)) == known.size:
                return known, buffers
        except (KeyError, TypeError):  # not known, no key, or an array that is not in one piece
            pass
        operation = make()
        target, head, _ = self._plain_head(operation)
        json, *body = operation.body
        head = b"".join((head, json))
        buffers = [head, *body]
        known = Known(target, head, sum(map(len, buffers)))
        if form is not None and all(_goes_out_as_it_is(each) for each in data):
            if len(self.known) >= _MAX_HEADS:
                self.known.clear()
            self.known[key] = known
        return known, [b"".join(buffers)] if known.size <= COALESCE else buffers

    def _lines(self, headers: Mapping[str, Any], content_type: str | None, length: int) -> str:
        """Return the header lines; of names that differ in case only, the last one."""
        lines = dict(self._own_headers)
        if content_type is not None:
            lines["content-type"] = header_line("Content-Type", content_type)
        for name, value in headers.items():
            line = header_line(name, value)
            lowered = name.lower()
            if lowered != "content-length":
                lines[lowered] = line
            elif str(value) != str(length):
                raise InvalidRequest(f"header Content-Length: {value!r}, but the body has {length} bytes")
        return "".join(lines.values())


def _goes_out_as_it_is(data: Any) -> bool:
    return not isinstance(data, np.ndarray) or (data.dtype.isnative and sys.byteorder == "little")
