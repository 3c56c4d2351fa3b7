"""The requests to one server: its header lines, the caller's, and what is remembered of others like them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._basics.table import Table
from .._repetition.answer import Answer, learn
from .._repetition.template import LARGEST, Template, compose, find
from .._version import __version__
from .._wire.requests import COALESCE, Buffer, encode_head, header_line, is_token
from .._wire.responses import Response
from ..errors import InvalidRequest
from . import operations
from .inference import Inference, buffers_of, form_of, forms_json, refuse_size
from .operations import BINARY, JSON, Headers, Operation
from .tensors import InferInput, InferRequestedOutput

__all__ = ["Encoder", "Message", "refuse_framing"]

_JSON_SIZE = "inference-header-content-length"
#: Headers that this library writes, or refuses to.
_OURS = frozenset({"host", "user-agent", "content-type", "content-length", "transfer-encoding", _JSON_SIZE})


class Message(NamedTuple):
    """A request as it goes out.

    Attributes
    ----------
    target : str
        Path and query.
    buffers : list of buffers
        The whole request, its head first.
    template : Template or None
        What it was made of.
    answer : Answer or None
        The answer that is expected, if one is.
    id_json : bytes
        The id, as the request and the answer have it.
    """

    target: str
    buffers: list[Buffer]
    template: Template | None = None
    answer: Answer | None = None
    id_json: bytes = b""

    def learn(self, response: Response) -> None:
        """Expect this answer the next time, where it is worth that."""
        if self.template is not None:
            answer = learn(self.buffers, response, self.id_json)
            if answer is not None:
                self.template.answers.keep(len(self.id_json), answer)


#: What :meth:`Template.opening` takes of a call's own: query, header lines, id, parameters.
_Own: TypeAlias = "tuple[bytes, bytes, bytes, bytes | None]"

#: Headers that a request has once.
_ONCE = frozenset(("host", "content-type"))

#: What `infer` has by default; another empty text is no other object in CPython, and costs little elsewhere.
_NO_ID = ""
#: NamedTuple's own __new__ is a function of Python's.
_tuple: Any = tuple.__new__


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
        #: The header lines of inferences, behind the request line: of JSON alone, and with tensors behind it.
        self._template_lines = [
            f" HTTP/1.1\r\n{self._lines({}, content_type, 0)}".encode() for content_type in (JSON, BINARY)
        ]
        #: Targets and heads of requests without headers of the caller's, by all that they depend on.
        self._heads: Table[tuple[Any, ...], tuple[str, bytes]] = Table()
        #: By model, version and form.
        self.templates: Table[tuple[Any, ...], Template] = Table()
        #: The same where the JSON contains data.
        self._around_json: Table[tuple[Any, ...], Template] = Table()
        #: Names of headers that may be sent, in lower case, by the names as they were given.
        self._names: Table[str, str] = Table()

    # -- inferences --

    def _find(self, inference: Inference) -> tuple[Template, list[bytes]]:
        """Return the template of an inference, and the data that its JSON contains."""
        found = find(self.templates, inference, InferInput, InferRequestedOutput)
        if found is not None:
            return found[0], []
        form, data, within = form_of(inference)
        key = *_key(inference), form
        table = self._around_json if within else self.templates
        try:
            return table[key], within
        except (KeyError, TypeError):  # not known, or no key
            return self._learn(inference, form, data, within), within

    def _learn(
        self, inference: Inference, form: tuple[Any, ...] | None, data: list[Any], within: list[bytes]
    ) -> Template:
        """Make a template, and remember it where another inference may use it."""
        target = f"{self._base_path}/{inference.path}"
        members, end = forms_json(inference, bool(within))
        size = sum(each.nbytes if isinstance(each, np.ndarray) else len(each) for each in data)
        refuse_size(size + len(members))
        template = Template(target, self._template_lines[bool(data)], members, end, size, bool(data))
        if form is not None and all(map(_goes_out_as_it_is, data)):
            table = self._around_json if within else self.templates
            table.keep((*_key(inference), form), template)
        return template

    def _pieces(self, inference: Inference, snapshot: bool, own: _Own) -> tuple[Template, list[Buffer]]:
        """Return a request as Python makes it: in one piece where it is small, as buffers otherwise."""
        template, within = self._find(inference)
        tensors = buffers_of(inference.inputs, snapshot) if template.binary else []
        if sum(map(len, tensors)) != template.size:  # an array was resized behind the form's back
            template = self._learn(inference, *form_of(inference))
        opening = template.opening(*own, within)
        if max(map(len, tensors), default=0) <= COALESCE and len(opening) + template.size <= LARGEST:
            return template, [b"".join((opening, *tensors))]
        return template, [opening, *tensors]

    def _given_lines(self, headers: Mapping[str, Any]) -> bytes | None:
        """Return the caller's header lines; None where that takes more than writing them."""
        text = ""
        seen = set()
        if type(headers) is not dict:
            headers = operations.mapping(headers, "headers")
        for name, value in headers.items():
            lowered = self._names.get(name)
            if lowered is None:
                if not is_token(name):
                    return None
                lowered = self._names.keep(name, name.lower())
            if lowered in _OURS:
                if lowered == _JSON_SIZE and type(value) is int:
                    continue  # ours, which a plugin or a hook has seen
                return None
            if type(value) is not str or not value.isprintable() or lowered in seen:
                return None
            seen.add(lowered)
            text = f"{text}{name}: {value}\r\n"
        return text.encode("utf-8", "surrogateescape")

    # -- any operation --

    def call_headers(
        self, operation: Operation[Any], given: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], int]:
        """Return a call's headers, and the size of its body: the caller's, and over them those of the body."""
        own, size = self.describe(operation)
        headers = {} if given is None else dict(operations.mapping(given, "headers"))
        if own and headers:
            names = {name.lower() for name, _ in own}
            headers = {name: value for name, value in headers.items() if str(name).lower() not in names}
        for name, value in own:
            headers[name] = int(value) if value.isdecimal() else value
        return headers, size

    def describe(self, operation: Operation[Any]) -> tuple[Headers, int]:
        """Return the headers that belong to an operation's body, and the body's size."""
        if not isinstance(operation, Inference):
            return operation.headers, sum(map(len, operation.body))
        template, within = self._find(operation)
        size = template.json_size(operation.id_json(), operation.parameters_json(), within)
        headers = (("Inference-Header-Content-Length", str(size)),) if template.binary else ()
        return headers, size + template.size

    def encode(
        self,
        operation: Operation[Any],
        headers: Mapping[str, Any] | None,
        query_params: Mapping[str, Any] | None,
        snapshot: bool = False,
    ) -> Message:
        """Return an operation's request; with `snapshot` it holds none of the caller's memory."""
        if type(operation) is Inference:
            query = b""
            given: bytes | None = b""
            if query_params is not None and (text := operations.query_string(query_params)):
                query = b"?%b" % text.encode()
            if headers is not None:
                given = self._given_lines(headers)
            if given is not None:
                id_json = b"" if operation.request_id is _NO_ID else operation.id_json()
                parameters = operation.parameters_json()
                found = compose(
                    self.templates,
                    operation,
                    InferInput,
                    InferRequestedOutput,
                    COALESCE,
                    LARGEST,
                    query,
                    given,
                    id_json,
                    parameters,
                )
                if found is None:
                    found = self._pieces(operation, snapshot, (query, given, id_json, parameters))
                template, buffers = found
                target = f"{template.target}{query.decode()}" if query else template.target
                answers = template.answers
                answer = answers.get(len(id_json)) if answers else None
                message: Message = _tuple(Message, (target, buffers, template, answer, id_json))
                return message
            # A header of the caller's takes the place of one of ours.
            operation = operation.written(snapshot)
        target, head, length = self._head(operation, headers, query_params)
        body = operation.body
        return Message(target, [b"".join((head, *body))] if length <= COALESCE else [head, *body])

    def _head(
        self,
        operation: Operation[Any],
        headers: Mapping[str, Any] | None,
        query_params: Mapping[str, Any] | None,
    ) -> tuple[str, bytes, int]:
        """Return the target and the head of a request, and the size of its body."""
        length = sum(map(len, operation.body))
        refuse_size(length)
        method, content_type = operation.method, operation.content_type
        form = (method, operation.path, operation.headers, content_type, length)
        plain = _is_empty(headers) and _is_empty(query_params)
        known = self._heads.get(form) if plain else None
        if known is None:
            target = f"{self._base_path}/{operation.path}"
            if query_params is not None and (text := operations.query_string(query_params)):
                target = f"{target}?{text}"
            if not target.isascii() and target.isprintable():  # a path of the caller's own
                from urllib.parse import quote

                target = quote(target, safe=bytes(range(128)))
            lines = self._lines(self.call_headers(operation, headers)[0], content_type, length)
            known = target, encode_head(method, target, lines, length)
            if plain:
                self._heads.keep(form, known)
        return *known, length

    def _lines(self, headers: Mapping[str, Any], content_type: str | None, length: int) -> str:
        """Return the header lines; of names that differ in case only, the last one."""
        lines = dict(self._own_headers)
        if content_type is not None:
            lines["content-type"] = header_line("Content-Type", content_type)
        for name, value in headers.items():
            line = header_line(name, value)
            lowered = name.lower()
            if lowered == "transfer-encoding":
                raise refuse_framing()
            if lowered in _ONCE and line.count("\n") != 1:  # servers and gateways could each take another one
                raise InvalidRequest(f"header {name}: expected one value, got {len(value)}")
            if lowered != "content-length":
                lines[lowered] = line
            elif str(value) != str(length):
                raise InvalidRequest(f"header Content-Length: {value!r}, but the body has {length} bytes")
        return "".join(lines.values())


def refuse_framing() -> InvalidRequest:
    return InvalidRequest(
        "Unsupported HTTP header: 'Transfer-Encoding' is not supported in the Python client library."
        " Use raw HTTP request libraries or the C++ client instead for this header."
    )


def _is_empty(given: Any) -> bool:
    return given is None or (type(given) is dict and not given)


def _key(inference: Inference) -> tuple[str, str]:
    """Return what templates are known by beside the form. As keys, 1, 1.0 and True would be one version."""
    version = inference.model_version
    return inference.model_name, version if type(version) is str else operations.version_text(version)


def _goes_out_as_it_is(data: Any) -> bool:
    return not isinstance(data, np.ndarray) or (data.dtype.isnative and sys.byteorder == "little")
