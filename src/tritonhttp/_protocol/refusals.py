"""What an error answer means: the server's words, or a gateway's, and advice where these do not say what to do."""

from __future__ import annotations

import re
from typing import Any

from .._basics import hints
from .._basics.redaction import without_secrets
from .._wire import inference, jsonio
from .._wire.responses import Response
from ..errors import ProtocolError, ServerError
from .bodies import plain_body, status_of, taken

__all__ = [
    "METRICS_PORT",
    "check",
    "of_metrics",
    "own_words",
    "placed",
    "server_error",
    "shares_nothing",
    "twice_v2",
]

METRICS_PORT = "is this the port of the metrics, 8002 on Triton? Its HTTP port is usually 8000"
_OF_METRICS = {"content-type": "text/plain; charset=utf-8", "content-length": "0"}
_STREAM = "use generate_stream, which takes any number of answers"
#: Advice for messages of Triton's, by a pattern whose groups it may repeat.
_ADVICE = [
    (re.compile(words), advice)
    for words, advice in (
        ("HTTP end point doesn't support models with decoupled", _STREAM),
        ("generate expects model to produce exactly 1", _STREAM),
        (
            "^Request for unknown model: .* has no available versions",
            "it is not loaded: client.load_model(…) loads it, client.wait_until_ready(model=…) waits until it is;"
            " if that failed, client.get_model_repository_index() has the reason",
        ),
        (
            "^Request for unknown model ?: '?(?!.*(?:' version |has no available versions))",
            "client.get_model_repository_index() lists the models; those that are not loaded client.load_model(…)"
            " loads",
        ),
        (
            "^Request for unknown model: '(.*?)' version ",
            r"client.get_model_metadata('\1') lists its versions; without one the server chooses",
        ),
        (
            "unexpected inference (?:in|out)put '.*' for model '(.*)'|Got input\\(s\\) .* for model '(.*)'",
            "client.get_model_metadata(…) names the model's inputs and outputs, as client.model(…) does by itself",
        ),
        (
            "failed to poll from model repository",
            "the repository has no such folder, or its configuration is not valid: the server's log says which",
        ),
        (
            "^requested model '.*' is not available",
            "client.models() lists the models; those that are not loaded client.load_model(…) loads",
        ),
        (
            "^Unable to find (?:system|cuda)? ?shared memory region: '",
            "regions are found by the name that register_system_shared_memory(name, key, byte_size) gave them on"
            " this server: client.get_system_shared_memory_status() lists them",
        ),
        (
            "^Unable to open shared memory region: '",
            "that is no key in /dev/shm of the server's machine or container; register_system_shared_memory takes"
            " the region's name first, then its key",
        ),
        ("Request timeout expired", "timeout= is in microseconds, deadline= in seconds"),
        (
            "^Client shared memory is disabled",
            "from Triton 2.68 (26.04) on a server has to be started with --allow-client-shm=true for that",
        ),
        (
            "^Shared memory (manager )?is not (supported|available)",
            "a server that Python started has none; tritonserver has, from 2.68 (26.04) on if it is started with"
            " --allow-client-shm=true",
        ),
        (
            "API is restricted, expecting header '(.*?)'",
            r"the server was started with --http-restricted-api: send the header and its value with"
            r" headers={'\1': …}, or with a plugin: tritonhttp.auth.ApiKeyAuth('\1', …)",
        ),
        (
            "--http-max-input-size",
            "a limit of JSON, and of compressed bodies before they are compressed; 64 MiB by default. Tensors"
            " can go as binary data without compression, or in fewer rows, as a model's batched() sends them",
        ),
        # Up to 2.51 at least it takes a size of 2 GiB for a negative number, later it refuses it.
        (
            r"header size should be in range \(0, -|Unable to parse Content-Length",
            "Triton takes bodies of less than 2 GiB: send fewer rows, as a model's batched() does, or use shared"
            " memory",
        ),
    )
]
#: Advice for statuses of answers that do not explain themselves.
_UNEXPLAINED = {
    404: "the server has no such path: is the URL's base path right, is the model's version a number, does this"
    " server have the extension",
    405: f"does the server have the extension? {METRICS_PORT}",
    407: "a proxy wants a user and a password: proxy='user:password@host:port'",
    413: "the server, or a gateway in front of it, limits the size of bodies: send fewer rows, or raise the limit"
    " (nginx: client_max_body_size)",
}
_TWICE = re.compile("/v2/(?:.*/)?v2(?:/|$)")
_JSON_ONLY = " (the server seems to take JSON only: set_data_from_numpy(…, binary_data=False))"


def check(response: Response) -> None:
    """Raise a :class:`ServerError` with a readable message unless the response's status is a success."""
    if 200 <= status_of(response) < 300:
        return
    ours = response if isinstance(response, Response) else taken(response)
    try:
        raw = plain_body(ours)
    except ProtocolError:
        raw = ours.body  # show it as it came
    text = bytes(raw).decode("utf-8", "replace")
    message, explained = _error_text(text)
    if 300 <= response.status_code < 400 and response.get("Location"):
        message = f"redirect to {response.get('Location')}, which is not followed: {message}"
    explained = explained or not hints.advises()
    if not explained and (advice := twice_v2(ours)):
        message = f"{message} ({advice})"
    elif not explained and response.status_code in _UNEXPLAINED:
        message = f"{message} ({_UNEXPLAINED[response.status_code]}{_routed(response)})"
    raise server_error(message, response, text)


def of_metrics(response: Response) -> bool:
    """Return whether a success without a body is that of Triton's port for metrics, which has it for every path.

    Its HTTP port names no charset in it, and servers and gateways in front of one add a date.
    """
    found = response.headers if isinstance(response, Response) else {}  # not one of a replaced `_get`
    return response.status_code == 200 and found == _OF_METRICS


def twice_v2(response: Response) -> str:
    """Return advice where the URL of a client ends in /v2, or lower, which is in each path already."""
    asked: tuple[str, ...] = getattr(response, "asked", ())
    if len(asked) < 3 or response.status_code != 404 or not _TWICE.search(asked[2]):
        return ""
    return "the client's URL has /v2, which it adds itself: drop /v2, and what follows it, from the URL"


def _routed(response: Response) -> str:
    """Return the end of the advice for a path that nobody has: a gateway may look for another Host."""
    asked: tuple[str, ...] = getattr(response, "asked", ())
    if response.status_code != 404:
        return ""
    return f", does a gateway expect another Host than {asked[3]!r}?" if len(asked) > 3 else "?"


def server_error(message: str, response: Response, text: str) -> ServerError:
    """Return the error of an answer, with advice where there is any for its message."""
    for words, advice in _ADVICE if hints.advises() else ():
        if found := words.search(message):
            message = f"{message} ({found.expand(advice)})"
    # A redirect, or a gateway that quotes the request, shows its query.
    message = without_secrets(message)
    error = ServerError(message, str(response.status_code), text, getattr(response, "headers", None))
    return placed(error, response)


def placed(error: ServerError, response: Any) -> ServerError:
    """Add the answered request and its number of attempts to an error, and return the error."""
    error.attempts = getattr(response, "attempts", 1)  # the response may be another library's
    error.method, origin, target, *_ = getattr(response, "asked", ("", "", ""))
    error.url = without_secrets(f"{origin}{target}")
    error._names_server = getattr(response, "names_server", False)
    return error


def own_words(error: ServerError) -> str | None:
    """Return what a server said, which speaks JSON; None if the error may be a gateway's."""
    try:
        body = jsonio.loads(str(error.debug_details() or "").encode(), "error")
    except (ProtocolError, UnicodeError):
        return None
    words = body.get("error") if isinstance(body, dict) else None
    return words if isinstance(words, str) else None


def shares_nothing(error: ServerError) -> bool:
    """Return whether the server itself says that it shares no memory with any client.

    Triton does so since 2.68 unless it is started with a flag (501), and where Python started it (503).
    """
    words = own_words(error) if str(error.status()) in ("501", "503") else None
    return words is not None and "shared memory" in words.lower()


def _error_text(text: str) -> tuple[str, bool]:
    """Extract a readable message from an error: a server's JSON, or a gateway's HTML, text or empty body.

    Returns
    -------
    words : str
    explained : bool
        Whether a server itself says what is wrong.
    """
    try:
        found = jsonio.loads(text.encode(), "error")
    except ProtocolError:
        found = None
    if isinstance(found, dict):
        for key in ("error", "detail", "message"):
            if found.get(key):
                words = inference.error_message({"error": found[key]}) or text
                # For an unknown model servers say more. "message" is what gateways send.
                explained = words not in ("Not Found", "Method Not Allowed") and key != "message"
                return f"{words}{_JSON_ONLY if _is_body_itself(found[key]) else ''}", explained
    if "<html" in text[:1024].lower() or "<!doctype" in text[:1024].lower():
        # Only its beginning, because the pattern takes quadratic time on tags that are never closed.
        text = re.sub(r"(?is)<(script|style|head)\b.*?</\1>|<[^>]*>", " ", text[:8192])
    words = " ".join(text.split())
    if not words:
        words = "client received an empty response from the server."
    return words if len(words) <= 500 else f"{words[:500]}…", False


def _is_body_itself(detail: Any) -> bool:
    """Return whether FastAPI read the body as text or bytes, as it does if tensors follow the JSON head."""
    first = detail[0] if isinstance(detail, list) and len(detail) == 1 else None
    return isinstance(first, dict) and first.get("loc") == ["body"] and isinstance(first.get("input"), str)
