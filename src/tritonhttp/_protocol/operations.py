"""Every endpoint of the server: a pure function that returns the request and how to read its response.

Sources: the Open Inference Protocol (health, metadata, infer) and Triton's extensions for the model
repository, configuration, statistics, tracing, logging, shared memory and binary tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from .._basics import hints
from .._basics.quantities import came, integer
from .._wire import inference, jsonio, prometheus
from .._wire.prometheus import Metrics
from .._wire.requests import Buffer, plain_text
from .._wire.responses import Response
from ..errors import InvalidRequest, ProtocolError
from .bodies import plain_body
from .refusals import METRICS_PORT, check, of_metrics, server_error, twice_v2

if TYPE_CHECKING:
    from .. import types

# The endpoints are used as `operations.name`.
__all__ = [
    "BINARY",
    "JSON",
    "Endpoint",
    "Headers",
    "Operation",
    "Renew",
    "check",
    "model_path",
    "stream_of",
]

T = TypeVar("T")

JSON = "application/json"
BINARY = "application/octet-stream"

#: A query parameter that needs no quoting.
_UNQUOTED = re.compile("[A-Za-z0-9_.~-]*=[A-Za-z0-9_.~-]*")

Headers = tuple[tuple[str, str], ...]
#: See `Operation.renew`.
Renew: TypeAlias = Callable[["int | BaseException"], "Generator[Operation[Any], Any, Operation[Any]]"]


class Operation(Generic[T]):
    """A request and how to read its response: an :class:`Endpoint` or an inference.

    Attributes
    ----------
    method, path : str
        The path is percent-encoded, relative to the server's base path, without a leading slash.
    body : tuple of buffers
        The buffers to send, in this order. They are joined only where a caller needs one body.
    headers : tuple of (name, value)
        Headers that describe the body; the caller's headers do not replace them.
    content_type : str or None
        The Content-Type unless the caller's headers have one.
    idempotent : bool or None
        Whether sending it twice has the same effect as sending it once; None if unknown.
    done : str
        What `verbose` shows after a success, in the reference's words.
    anywhere : bool
        Whether it may go to any of several servers.
    sequence : tuple or None
        Model, id, start and end flag of a sequence's request.
    request_id : str
        The caller's id for the request.
    streamed : bool
        Whether the body of a success is read as it arrives.
    idle : float or None
        A streamed operation ends after this many seconds without progress.
    is_placed : bool
        Whether the server writes results to shared memory.
    renew : callable or None
        Makes the operation for the next try, if an earlier try may still use our memory on the server. It takes
        the outcome of a try (a status or an exception) and returns a flow of operations, whose result is the
        operation to send next. The transport does not repeat such an operation by itself.
    """

    __slots__ = ()

    method: str
    path: str
    body: tuple[Buffer, ...]
    headers: Headers
    content_type: str | None
    idempotent: bool | None
    sequence: tuple[str, int | str, bool, bool] | None
    request_id: str
    renew: Renew | None
    is_placed: bool
    done: str = ""
    anywhere: bool = True
    streamed: bool = False
    idle: float | None = None

    def decode(self, response: Response) -> T:
        """Return the call's result, or raise."""
        raise NotImplementedError


@dataclass(slots=True)  # never changed; frozen=True would make creating one five times slower
class Endpoint(Operation[T]):
    """A request to one of the server's endpoints, with its body already encoded."""

    method: str
    path: str
    read: Callable[[Response], T]
    body: tuple[Buffer, ...] = ()
    headers: Headers = ()
    content_type: str | None = None
    idempotent: bool | None = None
    done: str = ""
    anywhere: bool = True
    request_id: str = ""
    streamed: bool = False
    idle: float | None = None
    sequence: tuple[str, int | str, bool, bool] | None = None
    renew: Renew | None = None
    is_placed: bool = False

    def decode(self, response: Response) -> T:
        return self.read(response)


# -- health and metadata ----------------------------------------------------------------------------


def is_server_live() -> Operation[bool]:
    return _get("v2/health/live", _is_ok)


def is_server_ready() -> Operation[bool]:
    return _get("v2/health/ready", _is_ok)


def is_model_ready(model_name: str, model_version: str) -> Operation[bool]:
    return _get(model_path(model_name, model_version, "/ready"), _is_ok)


def get_server_metadata() -> Operation[types.ServerMetadata]:
    return _get("v2", _object)


def get_model_metadata(model_name: str, model_version: str) -> Operation[types.ModelMetadata]:
    return _get(model_path(model_name, model_version), _object)


def get_model_config(model_name: str, model_version: str) -> Operation[types.ModelConfig]:
    return _get(model_path(model_name, model_version, "/config"), _object)


def get_inference_statistics(model_name: str, model_version: str) -> Operation[types.Statistics]:
    path = model_path(model_name, model_version, "/stats") if _named(model_name) else "v2/models/stats"
    return _get(path, _object)


def metrics(path: str) -> Operation[Metrics]:
    """Return the operation, for a client of the address where the metrics are."""
    accept = (("Accept", "text/plain"),)
    return Endpoint("GET", path, _metrics, headers=accept, idempotent=True)


def _metrics(response: Response) -> Metrics:
    check(response)
    raw = bytes(plain_body(response))
    try:
        return prometheus.parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the metrics: expected UTF-8: {error}", debug_details=raw) from error


# -- model repository -------------------------------------------------------------------------------


def get_model_repository_index(ready: bool = False) -> Operation[list[types.ModelIndexEntry]]:
    return _post(
        "v2/repository/index", {"ready": True} if ready else {}, _list, idempotent=True, anywhere=True
    )


def load_model(model_name: str, config: str | None, files: Mapping[str, bytes] | None) -> Operation[None]:
    parameters: dict[str, str] = {}
    if config is not None:
        parameters["config"] = inference.text(_text(config, "config", "that holds JSON"), "config")
    if files is not None and mapping(files, "files"):
        from base64 import b64encode

        if config is None:
            raise InvalidRequest("files override the model's directory and need its config as well")
        for path, content in files.items():
            if not isinstance(path, str) or not path.startswith("file:"):
                raise InvalidRequest(f"a path in files must begin with 'file:', got {path!r}")
            if not isinstance(content, (bytes, bytearray, memoryview)):
                raise InvalidRequest(f"files[{path!r}] must be bytes, got {type(content).__name__}")
            parameters[inference.text(path, "a path in files")] = b64encode(content).decode("ascii")
    return _control(model_name, "load", parameters)


def unload_model(model_name: str, unload_dependents: bool) -> Operation[None]:
    dependents = inference.flag(unload_dependents, "unload_dependents")
    return _control(model_name, "unload", {"unload_dependents": dependents})


def _control(model_name: str, action: str, parameters: Mapping[str, Any]) -> Operation[None]:
    body = {"parameters": parameters} if parameters else {}
    # The reference says "Loaded" after both.
    done = f"Loaded model '{model_name}'"
    return _post(f"v2/repository/models/{_quoted(model_name, 'model_name')}/{action}", body, check, done=done)


# -- trace and log settings -------------------------------------------------------------------------


def get_trace_settings(model_name: str | None) -> Operation[types.TraceSettings]:
    return _get(_trace(model_name), _object)


def update_trace_settings(
    model_name: str | None, settings: Mapping[str, Any]
) -> Operation[types.TraceSettings]:
    return _post(_trace(model_name), _plain(settings, "settings"), _object)


def get_log_settings() -> Operation[types.LogSettings]:
    return _get("v2/logging", _object)


def update_log_settings(settings: Mapping[str, Any]) -> Operation[types.LogSettings]:
    return _post("v2/logging", _plain(settings, "settings"), _object)


# -- shared memory; `kind` is "system" or "cuda" ----------------------------------------------------


def get_shared_memory_status(kind: str, region_name: str) -> Operation[Any]:
    return _get(f"{_regions(kind, region_name)}/status", _list, anywhere=False)


def register_system_shared_memory(name: str, key: str, byte_size: int, offset: int) -> Operation[None]:
    key = inference.text(_text(key, "key"), "key")
    return _register("system", name, {"key": key}, offset=offset, byte_size=byte_size)


def register_cuda_shared_memory(
    name: str, raw_handle: bytes, device_id: int, byte_size: int
) -> Operation[None]:
    handle = (
        str(raw_handle, "latin-1") if isinstance(raw_handle, (bytes, bytearray, memoryview)) else raw_handle
    )
    if not isinstance(handle, str) or not _BASE64.fullmatch(handle):
        # The message omits the handle, which gives access to the memory.
        raise InvalidRequest(
            "raw_handle must be a CUDA IPC handle encoded in base64, as cuda_shared_memory.get_raw_handle()"
            f" returns it; got {type(raw_handle).__name__} of another form"
        )
    return _register("cuda", name, {"raw_handle": {"b64": handle}}, device_id=device_id, byte_size=byte_size)


_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}\s*")


def _register(kind: str, name: str, body: dict[str, Any], **numbers: int) -> Operation[None]:
    body |= {each: inference.whole(number, each) for each, number in numbers.items()}
    done = f"Registered {kind} shared memory with name '{name}'"
    return _post(f"{_region(kind, name)}/register", body, check, done=done)


def unregister_shared_memory(kind: str, name: str) -> Operation[None]:
    path = f"{_regions(kind, name)}/unregister"
    what = f"{kind} shared memory with name '{name}'" if name else f"all {kind} shared memory regions"
    return Endpoint("POST", path, check, anywhere=False, done=f"Unregistered {what}")


_MODEL = re.compile(r"v2/models/([^/]+)(?:/versions/([^/]+))?(?:/([a-z_]+(?:/[a-z_]+)?))?")
_LOADING = re.compile(r"v2/repository/models/([^/]+)/([a-z]+)")
_REGION = re.compile(r"v2/([a-z]+sharedmemory)(?:/region/([^/]+))?/([a-z]+)")
#: Paths without variable parts, and their actions.
_FIXED = {
    "v2": "metadata",
    "v2/health/live": "live",
    "v2/health/ready": "ready",
    "v2/models/stats": "stats",
    "v2/repository/index": "repository/index",
    "v2/trace/setting": "trace/setting",
    "v2/logging": "logging",
    "metrics": "metrics",
}


@lru_cache(maxsize=1024)
def purpose(path: str) -> tuple[str, str, str, str]:
    """Return what a path means, for observers.

    Returns
    -------
    action, route, model_name, model_version : str
        The route is the path with ``{model}``, ``{version}`` and ``{region}`` for its variable parts. Action and
        route are empty for an unknown path.
    """
    from urllib.parse import unquote

    if path in _FIXED:
        return _FIXED[path], f"/{path}", "", ""
    if found := _MODEL.fullmatch(path):
        name, version, action = found.groups()
        versions = "/versions/{version}" if version else ""
        route = f"/v2/models/{{model}}{versions}{f'/{action}' if action else ''}"
        return action or "metadata", route, unquote(name), unquote(version or "")
    if found := _LOADING.fullmatch(path):
        return found[2], f"/v2/repository/models/{{model}}/{found[2]}", unquote(found[1]), ""
    if found := _REGION.fullmatch(path):
        kind, region, action = found.groups()
        return f"{kind}/{action}", f"/v2/{kind}{'/region/{region}' if region else ''}/{action}", "", ""
    return "", "", "", ""


# -- generation -------------------------------------------------------------------------------------


def generate(
    model_name: str,
    inputs: Mapping[str, Any],
    model_version: str,
    parameters: Mapping[str, Any] | None,
    request_id: str,
    idempotent: bool | None,
) -> Operation[dict[str, Any]]:
    path = model_path(model_name, model_version, "/generate")
    body = _generation(inputs, parameters, request_id)
    return Endpoint("POST", path, _object, body, (), JSON, idempotent, request_id=request_id)


def generate_stream(
    model_name: str,
    inputs: Mapping[str, Any],
    model_version: str,
    parameters: Mapping[str, Any] | None,
    request_id: str,
    idempotent: bool | None,
    idle: float | None,
) -> Operation[Response]:
    """Return the operation. Its result is a streamed response, or the error that :func:`check` raises."""
    path = model_path(model_name, model_version, "/generate_stream")
    body = _generation(inputs, parameters, request_id)
    return stream_of(path, body, (), JSON, idempotent, request_id, idle)


def stream_of(
    path: str,
    body: tuple[Buffer, ...],
    headers: Headers,
    content_type: str,
    idempotent: bool | None,
    request_id: str,
    idle: float | None,
) -> Endpoint[Response]:
    """Return an operation that is answered by server-sent events."""
    headers = (*headers, ("Accept", "text/event-stream"))
    return Endpoint(
        "POST",
        path,
        _checked,
        body,
        headers,
        content_type,
        idempotent,
        request_id=request_id,
        streamed=True,
        idle=idle,
    )


def _checked(response: Response) -> Response:
    check(response)
    return response


def _generation(
    inputs: Mapping[str, Any], parameters: Mapping[str, Any] | None, request_id: str
) -> tuple[Buffer, ...]:
    id = inference.text("" if request_id is None else request_id, "request_id")
    body: dict[str, Any] = {"id": id} if id else {}
    for name, value in mapping(inputs, "inputs").items():
        if not isinstance(name, str) or name in ("id", "parameters"):
            raise InvalidRequest(
                f"{name!r} cannot be the name of an input: expected a str beside 'id' and 'parameters'"
            )
        if value is not None:
            named = inference.text(name, "the name of an input")
            body[named] = jsonio.plain(value, f"input {name!r}", text=True)
    if parameters is not None and mapping(parameters, "parameters"):
        body["parameters"] = _plain(parameters, "parameters")
    return (jsonio.dumps(body),)


# -- shared by the endpoints -----------------------------------------------------------------------


def query_string(parameters: Mapping[str, Any]) -> str:
    """Return encoded query parameters. A list repeats its name for each value.

    Raises
    ------
    InvalidRequest
        For a value that has no text form, or contains CR, LF, NUL or a lone surrogate.
    """
    pairs: list[str] = []
    for name, value in mapping(parameters, "query_params").items():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            key, text = plain_text(name), "None" if item is None else plain_text(item)
            if key is None:
                raise InvalidRequest(
                    f"the name of a query parameter must be text without lone surrogates, got {came(name)}"
                )
            if text is None:
                raise InvalidRequest(
                    f"query parameter {came(name)} must be text without lone surrogates or a number, or a list of"
                    f" such, got {type(item).__name__}"
                )
            pair = f"{key}={text}"
            if not _UNQUOTED.fullmatch(pair):
                from urllib.parse import quote_plus

                if re.search(r"[\r\n\0]", pair):
                    raise InvalidRequest(f"query parameter {name!r} must be text without CR, LF or NUL")
                key, text = (quote_plus(each.encode("utf-8", "surrogateescape")) for each in (key, text))
                pair = f"{key}={text}"
            pairs.append(pair)
    return "&".join(pairs)


def mapping(given: Any, name: str) -> Mapping[str, Any]:
    """Return a caller's mapping, or refuse anything else."""
    if type(given) is not dict and not isinstance(given, Mapping):
        raise InvalidRequest(f"{name} must be a mapping of names to values, got {type(given).__name__}")
    return given


def _text(given: Any, name: str, form: str = "") -> str:
    """Return a caller's text, which may be given as bytes, as the reference's JSON encoder takes it."""
    found = jsonio.plain(given, name, text=True)
    if not isinstance(found, str):
        raise InvalidRequest(
            " ".join(filter(None, (f"{name} must be a str", form))) + f", got {type(given).__name__}"
        )
    return found


def _plain(given: Any, name: str) -> dict[str, Any]:
    """Return a caller's mapping, ready for JSON."""
    return {
        inference.text(key, f"a name in {name}"): jsonio.plain(value, f"{name}[{key!r}]", text=True)
        for key, value in mapping(given, name).items()
    }


def _get(path: str, decode: Callable[[Response], T], anywhere: bool = True) -> Operation[T]:
    return Endpoint("GET", path, decode, idempotent=True, anywhere=anywhere)


def _post(
    path: str,
    body: Mapping[str, Any],
    decode: Callable[[Response], T],
    *,
    idempotent: bool | None = None,
    anywhere: bool = False,
    done: str = "",
) -> Operation[T]:
    return Endpoint("POST", path, decode, (jsonio.dumps(body),), (), JSON, idempotent, done, anywhere)


def _is_ok(response: Response) -> bool:
    if response.status_code == 404 and (advice := twice_v2(response)):
        hints.warn(f"not ready: {advice}")
    elif of_metrics(response):
        hints.warn(f"this answer says nothing of a server: {METRICS_PORT}")
    return response.status_code == 200


def _json(response: Response, kind: type[T], name: str) -> T:
    check(response)
    raw = bytes(plain_body(response))
    if not raw.strip() or raw.lstrip()[:2] == b"# ":  # as Triton answers there, and as Prometheus reads
        advice = f" ({METRICS_PORT})" if hints.advises() and response.status_code == 200 else ""
        raise ProtocolError(
            f"the server's response: expected JSON, got {_start(raw)}{advice}", debug_details=raw
        )
    answer = jsonio.loads(raw, "the server's response")
    message = inference.error_message(answer)
    if message is not None:
        raise server_error(message, response, raw.decode("utf-8", "replace"))
    if not isinstance(answer, kind):
        raise ProtocolError(
            f"the server's response: expected a JSON {name}, got {type(answer).__name__}", debug_details=raw
        )
    return answer


def _start(raw: bytes) -> str:
    return f"text that begins with {raw[:40]!r}" if raw.strip() else "0 bytes"


_object: Callable[[Response], Any] = partial(_json, kind=dict, name="object")
_list: Callable[[Response], Any] = partial(_json, kind=list, name="list")


def _quoted(name: str, what: str) -> str:
    if inference.text(name, what) in ("", ".", ".."):
        raise InvalidRequest(f"{what} must be a name that a path may hold, got {name!r}")
    from urllib.parse import quote  # imported here because it takes a good part of this library's import time

    return quote(name, safe="")


def _named(name: str, what: str = "model_name") -> bool:
    """Return whether a name is given where "" stands for all. What is no name must not stand for all."""
    return inference.text(name, what) != ""


def version_text(version: Any) -> str:
    """Return a model's version as the path has it; the reference accepts a whole number for some methods."""
    number = None if isinstance(version, str) else integer(version)
    if number is None and not isinstance(version, str):
        raise InvalidRequest(f"model version must be a string or a whole number, got {came(version)}")
    return version if number is None else str(number)


def model_path(name: str, version: str | int, tail: str = "") -> str:
    # Before the cache, for which 1, 1.0 and True are one key.
    version = version if type(version) is str else version_text(version)
    try:
        return _model_path(name, version, tail)
    except TypeError:  # unhashable, so no str
        return _quoted(name, "model_name")  # which refuses it


@lru_cache(maxsize=1024)
def _model_path(name: str, version: str, tail: str) -> str:
    versions = f"/versions/{_quoted(version, 'model_version')}" if version else ""
    return f"v2/models/{_quoted(name, 'model_name')}{versions}{tail}"


def _trace(model_name: str | None) -> str:
    named = model_name is not None and _named(model_name)
    return model_path(str(model_name), "", "/trace/setting") if named else "v2/trace/setting"


def _regions(kind: str, name: str) -> str:
    return _region(kind, name) if _named(name, "name") else f"v2/{kind}sharedmemory"


def _region(kind: str, name: str) -> str:
    return f"v2/{kind}sharedmemory/region/{_quoted(name, 'name')}"
