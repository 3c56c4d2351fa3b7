"""What is said of calls that do not exist, and of answers about names that the server does not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn, TypeVar

from .._basics.hints import ask, nearest
from .._protocol.attributes import no_attribute
from .._protocol.signature import Signature
from ..errors import InvalidCall

__all__ = ["Instead", "checked", "meant"]

F = TypeVar("F", bound=Callable[..., None])

_UNEXPECTED = re.compile("unexpected keyword argument '(.+?)'")
_LIMITS = (
    "deadline= limits a whole call, in seconds; connection_timeout= limits making a connection, network_timeout="
    " each step without progress"
)
_AUTH = "client.register_plugin(tritonhttp.auth.BearerAuth(…)), or headers= of each call"
_TLS = "ssl=True, and ssl_context_factory= or insecure=True"
#: What to write in place of options that people try, for a client that has the first of these options.
_OPTIONS = {
    "network_timeout": {
        "timeout": _LIMITS,
        "conn_timeout": _LIMITS,
        "conn_limit": "concurrency= is the most connections",
        "ssl_context": "ssl_context_factory= is a function that returns it",
        "verify": _TLS,
    },
    "conn_timeout": {
        "timeout": "deadline= limits a whole call, in seconds, as conn_timeout= does",
        "connection_timeout": "conn_timeout= and deadline= limit a whole call, in seconds",
        "network_timeout": "conn_timeout= and deadline= limit a whole call, in seconds",
        "concurrency": "conn_limit= is the most connections",
        "max_greenlets": "conn_limit= is the most connections",
        "ssl_context_factory": "ssl_context= takes the ssl.SSLContext",
        "ssl_options": "ssl_context= takes an ssl.SSLContext",
        "insecure": "ssl_context=False verifies nothing; an ssl.SSLContext can leave out the host's name alone",
        "verify": "ssl_context=False verifies nothing",
    },
    "url": {
        "retries": "retry=tritonhttp.Retry(attempts=3)",
        "max_retries": "retry=tritonhttp.Retry(attempts=3)",
        "headers": "headers= is an option of each call; client.register_plugin(…) adds them to all",
        "api_key": _AUTH,
        "auth": _AUTH,
        "token": _AUTH,
        "host": "url='host:port'",
        "port": "url='host:port'",
        "protocol": "url='https://host:port'",
    },
}


def checked(make: F) -> F:
    """Let a constructor refuse arguments that it does not have with an error of ours, which names others."""
    code = make.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

    @wraps(make)
    def checking(self: Any, *args: Any, **options: Any) -> None:
        try:
            make(self, *args, **options)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # of what it does
            refusal = InvalidCall(_refusal(type(self).__name__, str(error), names))
            raise refusal from None

    return checking  # type: ignore[return-value]


def _refusal(kind: str, words: str, names: tuple[str, ...]) -> str:
    """Return what is wrong with the arguments of a constructor, from Python's words."""
    unexpected = _UNEXPECTED.search(words)
    if unexpected is None:
        reason = words.partition(") ")[2] or words
        return f"{kind}() {reason}; it takes a url such as 'localhost:8000', and options by name"
    name = unexpected[1]
    others = {
        each: words for first, table in _OPTIONS.items() if first in names for each, words in table.items()
    }
    near = name if name in others else nearest(name, (*names, *others))
    if near in others:
        return f"{kind} has no option {name!r}: {others[near]}"
    return f"{kind} has no option {name!r}{ask(name, names)}; it has {', '.join(names)}"


class Instead:
    """Stands for a method that a class does not have: `hasattr` finds none, and a use of it says what to write."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __get__(self, instance: object, owner: type[Any]) -> NoReturn:
        raise InvalidCall(self._words)


#: What to write in place of attributes that people try, of each class.
_CALL = "call the model itself with its inputs, such as model(NAME=array)"
_OF_MODEL = {
    **dict.fromkeys(("execute", "forward", "infer", "predict", "run"), _CALL),
    **dict.fromkeys(
        ("inputs", "outputs", "metadata"), "model.signature has its inputs and outputs, once it is read"
    ),
    "config": "use client.get_model_config(model.name)",
    "generate": "use client.generate(model.name, {…})",
    **dict.fromkeys(("stream", "generate_stream"), "use client.generate_stream(model.name, {…})"),
    "batch": "use model.batched(…)",
    **dict.fromkeys(("load", "unload"), "use client.load_model(model.name), client.unload_model(model.name)"),
    **dict.fromkeys(("ready", "is_ready"), "use client.is_model_ready(model.name)"),
}
_OF_CLIENT = {
    **dict.fromkeys(
        ("execute", "forward", "predict", "run"),
        "use client.model(name)(NAME=array), or client.infer(name, inputs)",
    ),
    **dict.fromkeys(
        ("async_stream_infer", "start_stream", "stop_stream", "stream_infer"),
        "gRPC has streams of inferences; over HTTP generate_stream(…) has streams of answers, and"
        " client.model(name).sequence() has sequences",
    ),
    **dict.fromkeys(("get_models", "list_models"), "use client.models()"),
    **dict.fromkeys(("health", "ping", "status"), "use client.check()"),
    "is_live": "use client.is_server_live()",
    "is_ready": "use client.is_server_ready()",
    "metadata": "use client.get_server_metadata(), client.get_model_metadata(name)",
    "config": "use client.get_model_config(name)",
}
_OF_OUTPUTS = {
    name: f"use outputs[name], or outputs.result.{name}(name)"
    for name in ("as_numpy", "as_torch", "as_dlpack")
}


def no_attribute_of_client(client: Any, name: str) -> NoReturn:
    """Refuse an attribute that a client does not have."""
    no_attribute(client, name, _OF_CLIENT)


def no_attribute_of_block(block: Any, name: str) -> NoReturn:
    """Refuse an attribute of a region that its block has not begun yet."""
    from .._regions.region import Region

    begin = (
        "the region comes with its block: `with client.shared_memory(…) as region`, on asyncio `async with`"
    )
    no_attribute(block, name, {name: begin} if hasattr(Region, name) else {})


def no_attribute_of_model(model: Any, name: str) -> NoReturn:
    """Refuse an attribute that a model does not have."""
    no_attribute(model, name, _OF_MODEL)


def no_attribute_of_outputs(outputs: Any, name: str) -> NoReturn:
    """Refuse an attribute that a model's outputs do not have."""
    if not name.startswith("_") and name != "result" and name in outputs:
        raise InvalidCall(f"outputs have no attribute {name!r}: write outputs[{name!r}]")
    no_attribute(outputs, name, _OF_OUTPUTS)


_UNKNOWN_MODEL = re.compile(
    r"(?:unknown model: |requested model )'(.+?)' (?:is not found|is not available)|unknown model : ([^ ]+)"
)
_UNKNOWN_TENSOR = re.compile("unexpected inference (input|output) '(.*?)' for model '(.*?)'")


def meant(message: str, models: Iterable[str], signatures: Iterable[Signature]) -> str:
    """Return the nearest of the known names for one that the server does not know, as the end of its message."""
    if found := _UNKNOWN_MODEL.search(message):
        return ask(found[found.lastindex or 1], [name for name in models if name not in found.groups()])
    if found := _UNKNOWN_TENSOR.search(message):
        kind, name, model = found.groups()
        for signature in signatures:
            if signature.name == model:
                known = signature.inputs if kind == "input" else signature.outputs
                return ask(name, [info.name for info in known])
    return ""
