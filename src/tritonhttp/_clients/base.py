"""What the blocking and the asyncio client share: everything but the waiting."""

from __future__ import annotations

import os
import pickle
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .._basics import hints, log
from .._basics.redaction import masked, without_secrets
from .._basics.table import Table
from .._protocol import operations
from .._protocol.encoder import Encoder, Message
from .._protocol.inference import Inference, body_of
from .._protocol.operations import Operation
from .._protocol.result import InferResult
from .._protocol.tensors import InferInput, InferRequestedOutput
from .._transport.address import parse_url
from .._transport.policy import Connections, positive
from .._wire.requests import Buffer
from .._wire.responses import Response
from ..errors import DeadlineExceeded, InvalidRequest, ProtocolError, ServerError
from ..plugins import InferenceServerClientPlugin
from .advice import meant, no_attribute_of_client
from .fleet import Fleet
from .overrides import Overrides

if TYPE_CHECKING:
    from .._regions.auto import Sharing
    from ..events import Call

__all__ = [
    "CLOSING",
    "PROBING",
    "SHARED_MEMORY_LIMIT",
    "SHARED_MEMORY_THRESHOLD",
    "ClientBase",
    "one_or_more",
    "renew_after_fork",
]

#: In bytes. From here on a tensor in and out takes less time and no more CPU than over HTTP, one that only goes in
#: less time (benchmarks/micro/shared_memory_threshold.py).
SHARED_MEMORY_THRESHOLD = 1 << 18
SHARED_MEMORY_LIMIT = 1 << 30
#: How long closing may take to have the server forget the client's shared memory, in seconds.
CLOSING = 2.0
#: How long a server that failed has to say that it is ready, in seconds.
PROBING = 2.0
T = TypeVar("T")

_clients: weakref.WeakSet[ClientBase] = weakref.WeakSet()


def _in_child() -> None:
    for client in list(_clients):
        client._start_anew()


def _in_parent() -> None:
    for client in list(_clients):
        sharing = client._sharing
        if sharing is not None:
            sharing.pool.retire_leased()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child, after_in_parent=_in_parent)


def renew_after_fork(client: ClientBase) -> None:
    """Let a client, once it is whole, start anew in every child that this process forks."""
    _clients.add(client)


class ClientBase(Fleet, Overrides):
    """The part of a client that does no I/O.

    Parameters
    ----------
    configuration : dict
        The arguments of the client, which make another one like it.
    """

    #: Whether `verbose` shows whole URLs, as the reference's asyncio client does.
    _shows_origin: ClassVar[bool] = False
    #: See `Execution`.
    _as_answer: Callable[[Response], Response]

    def __init__(self, configuration: dict[str, Any]) -> None:
        # A signal's handler that calls a client must not meet a first import half done.
        import queue  # noqa: F401
        import urllib.parse  # noqa: F401

        Fleet.__init__(self)
        Overrides.__init__(self)
        self._configuration = given = configuration
        given["url"] = urls = one_or_more(given["url"], given["ssl"])
        if len(urls) > 1 and given["shared_memory"]:
            raise InvalidRequest("shared_memory='auto' is for a client with one server")
        self._address = address = parse_url(next(iter(urls)), given["ssl"])
        self._origin = address.origin
        self._encoder = Encoder(address.authority, address.base_path)
        #: Whether the server speaks binary tensors, as it was said or found out.
        self._binary: bool | None = given["binary_data"]
        #: The models that the server's index named last.
        self._names: frozenset[str] = frozenset()
        #: What is known of models, by name and version: a :class:`.model_base.Known` each.
        self._models: Table[tuple[str, str], Any] = Table()
        for name, known in (("binary_data", (True, False, None)), ("shared_memory", ("auto", None))):
            if given[name] not in known:
                *others, last = map(repr, known)
                raise InvalidRequest(f"{name} must be {', '.join(others)} or {last}, got {given[name]!r}")
        self._verbose: bool = given["verbose"]
        self._log = log.verbose_logger() if self._verbose else log.logger
        self._sharing_limits = [
            positive(given[name], name) for name in ("shared_memory_threshold", "shared_memory_limit")
        ]
        self._sharing = self._new_sharing() if given["shared_memory"] else None
        self._options = Connections(**{each.name: given[each.name] for each in fields(Connections)})

    def _distrust_models(self) -> None:
        """Read every model again at its next call: one was loaded or unloaded, and others may depend on it."""
        for known in list(self._models.values()):
            known.distrust()

    def _note_names(self, index: Any) -> None:
        """Note the names of an index, to know the nearest one of a name that the server does not know."""
        names = (each.get("name") for each in index if isinstance(each, dict))
        self._names = frozenset(name for name in names if isinstance(name, str))

    def _complete(self, error: ProtocolError | ServerError | DeadlineExceeded, response: Response) -> None:
        """Add to an answer's error what is known here: tries, nearest names, which server it was."""
        error.attempts = getattr(response, "attempts", 1)
        if not hints.advises() or isinstance(error, DeadlineExceeded):
            return
        if not isinstance(error, ServerError):
            method, origin, target, *_ = getattr(response, "asked", ("", "", ""))
            if origin:
                error._msg = f"{method} {without_secrets(f'{origin}{target}')}: {error.message()}"
                error.args = (error._msg,)
            return
        error._names_server = bool(self._servers)
        signatures = [known.signature for known in list(self._models.values()) if known.signature is not None]
        known = {*self._names, *(each.name for each in signatures)}
        error._msg = f"{error.message()}{meant(str(error.message()), known, signatures)}"
        error.args = (error._msg,)

    def _start_anew(self) -> None:
        """In a forked child: the parent's connections, threads and regions are not ours."""
        if self._sharing is not None:
            self._sharing = self._new_sharing()
        if self._dispatch is not None:
            self._dispatch.renew()

    def _new_sharing(self) -> Sharing | None:
        """Return the transparent path of shared memory, where the server seems to run on this machine."""
        if not self._address.is_loopback or not os.path.isdir("/dev/shm"):
            self._log.debug("no shared memory with %s: not on this machine", self._address.origin)
            return None
        from .._regions.auto import Sharing

        return Sharing(*self._sharing_limits)

    if not TYPE_CHECKING:
        __getattr__ = no_attribute_of_client

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__} {', '.join(self.servers)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        own = self._own()
        for name, value in (*self._configuration.items(), ("plugin", self._plugin), *own.items()):
            try:
                pickle.dumps(value)
            except Exception as error:
                raise TypeError(f"cannot pickle this client because of its {name}: {error}") from error
        return _made_again, (type(self), self._configuration, self._plugin, own)

    # -- bodies, without sending them --

    @staticmethod
    def generate_request_body(
        inputs: Sequence[InferInput],
        outputs: Sequence[InferRequestedOutput] | None = None,
        request_id: str = "",
        sequence_id: int | str = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
        priority: int = 0,
        timeout: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> tuple[bytes, int | None]:
        """Return an inference's request body, to be sent by other means.

        Parameters
        ----------
        inputs, outputs, request_id, sequence_id, sequence_start, sequence_end, priority, timeout, parameters
            As for :meth:`infer`.

        Returns
        -------
        body : bytes
            The whole body.
        json_size : int or None
            The value for Inference-Header-Content-Length; None where the body is JSON alone.
        """
        inference = Inference(
            "",
            inputs,
            "",
            outputs,
            request_id,
            sequence_id,
            sequence_start,
            sequence_end,
            priority,
            timeout,
            parameters=parameters,
        )
        body, headers = body_of(inference)
        return b"".join(body), len(body[0]) if headers else None

    @staticmethod
    def parse_response_body(
        response_body: Buffer | str,
        verbose: bool = False,
        header_length: int | None = None,
        content_encoding: str | None = None,
    ) -> InferResult:
        """Make a result from a response's body, as :meth:`InferResult.from_response_body` does."""
        return InferResult.from_response_body(response_body, verbose, header_length, content_encoding)

    # -- from an operation to what a transport sends --

    def _branches(self, inference: Inference) -> bool:
        """Return whether an inference takes more than one request, or has to wait for another one."""
        return (
            self._sharing is not None
            or inference.sequence_id not in (0, "")
            or bool(inference.request_compression_algorithm)
            or bool(inference.response_compression_algorithm)
        )

    def _flow(
        self, inference: Inference, *, snapshot: bool = False
    ) -> Operation[InferResult] | Generator[Operation[Any], Any, InferResult]:
        """Return what such an inference takes; with `snapshot` its arguments may be changed afterwards."""
        sharing = self._sharing  # another thread may close the client meanwhile
        if sharing is None:
            return inference.sendable(snapshot)
        flow = sharing.infer(inference, snapshot=snapshot)
        return _noted(sharing, inference, flow or _alone(inference.sendable(snapshot)))

    def _show(self, operation: Operation[Any], message: Message, headers: Mapping[str, Any] | None) -> None:
        """Log a request for `verbose`."""
        target = f"{self._origin}{message.target}" if self._shows_origin else message.target
        given, size = self._encoder.call_headers(operation, headers)
        self._log.debug("%s %s, headers %s", operation.method, without_secrets(target), masked(given.items()))
        if size:
            self._log.debug("<%d bytes>", size)

    def _note(self, operation: Operation[Any], response: Response) -> None:
        """Log a response for `verbose`, and in the reference's words what it means."""
        for line in repr(self._as_answer(response)).split("\n"):  # the reference's on asyncio has two
            if line:
                self._log.debug("%s", line)
        if operation.done and 200 <= response.status_code < 300:
            self._log.debug("%s", operation.done)

    def _record(self, operation: Operation[Any], headers: Mapping[str, Any] | None, *, whole: bool) -> Call:
        """Return the record of a call that begins; the whole of it, or what nobody sees."""
        make = self._made_call
        assert make is not None  # by `_new_dispatch`
        if not whole:
            return make(operation.method, "", headers=headers)  # type: ignore[arg-type]
        given, size = self._encoder.call_headers(operation, headers)
        url, meaning = self._url_of(operation), operations.purpose(operation.path)
        call = make(operation.method, url, *meaning, operation.request_id, given)
        call.request_bytes = size
        return call

    def _url_of(self, operation: Operation[Any]) -> str:
        """Return the URL of a request; with several servers it is empty, as none is chosen yet."""
        return "" if self._servers else f"{self._origin}{self._address.base_path}/{operation.path}"

    def _own(self) -> dict[str, Any]:
        """Return the attributes that a subclass or a program has added."""
        return {name: value for name, value in self.__dict__.items() if name not in self._made}

    def _like(self, configuration: dict[str, Any]) -> Any:
        """Return a client like this one, but for its configuration and its own `_get` and `_post`."""
        own = {name: value for name, value in self._own().items() if name not in self._originals}
        return _made_again(type(self), configuration, self._plugin, own)


def _alone(operation: Operation[T]) -> Generator[Operation[T], Any, T]:
    """Return a flow of one operation."""
    result: T = yield operation
    return result


def _noted(
    sharing: Sharing, inference: Inference, flow: Generator[T, Any, InferResult]
) -> Generator[T, Any, InferResult]:
    """Return a flow whose result the client's shared memory learns from."""
    result = yield from flow
    sharing.note((inference.model_name, inference.model_version), result)
    return result


def _made_again(
    kind: type[Any],
    configuration: dict[str, Any],
    plugin: InferenceServerClientPlugin | None,
    own: dict[str, Any],
) -> Any:
    """Make a client as the pickled one was; a subclass's attributes come back, and its __init__ is not run."""
    client: Any = object.__new__(kind)
    maker: Any = next(each for each in kind.__mro__ if "_originals" in vars(each) and each is not ClientBase)
    maker.__init__(client, **configuration)
    if plugin is not None:
        client.register_plugin(plugin)
    client.__dict__.update(own)
    return client


def one_or_more(url: str | Sequence[str], ssl: bool) -> tuple[str, ...]:
    """Return the URLs as they were given, one for each server."""
    urls = (url,) if isinstance(url, (str, bytes)) or not isinstance(url, Sequence) else tuple(url)
    if not urls:
        raise InvalidRequest("expected the URL of a server, or several; got none")
    servers: dict[tuple[object, ...], str] = {}
    for each in urls if len(urls) > 1 else ():
        servers.setdefault(parse_url(each, ssl).key, each)
    return tuple(servers.values()) or urls
