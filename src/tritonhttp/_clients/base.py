"""What the blocking and the asyncio client share: everything but the waiting.

Servers and who watches them; the plugin; what is replaced; which way a call takes; the verbose log.
"""

from __future__ import annotations

import os
import pickle
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .._basics import log
from .._basics.quantities import integer
from .._protocol import inferences, operations
from .._protocol.inferences import NO_OPTIONS, Inference
from .._protocol.operations import Operation
from .._protocol.result import InferResult
from .._protocol.tensors import InferInput, InferRequestedOutput
from .._repetition.encoder import Encoder, call_headers
from .._repetition.known import Known, recall
from .._transport.address import Address, SocketAddress
from .._transport.policy import seconds
from .._wire.http1 import Response
from .._wire.requests import COALESCE, Buffer
from ..errors import InvalidRequest, ServerError, raise_error
from ..plugins import InferenceServerClientPlugin, Request

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._calls.dispatch import Balancing, Dispatch
    from .._calls.retry import Retry
    from .._regions.auto import Flow, Sharing
    from .._transport.policy import Moment
    from .._transport.pool import Place
    from .._transport.trace import Counts
    from ..events import Hooks, Stats

__all__ = [
    "CLOSING",
    "DEBUG",
    "PROBING",
    "SHARED_MEMORY_LIMIT",
    "SHARED_MEMORY_THRESHOLD",
    "ClientBase",
    "one_or_more",
    "positive",
    "renew_after_fork",
    "undecoded",
]

#: In bytes. From here on a tensor in and out takes less time and no more CPU than over HTTP, one that only goes in
#: less time (benchmarks/micro/shared_memory_threshold.py).
SHARED_MEMORY_THRESHOLD = 1 << 18
SHARED_MEMORY_LIMIT = 1 << 30
#: How long closing may take to have the server forget the client's shared memory, in seconds.
CLOSING = 2.0
#: How long a server that failed has to say that it is ready, in seconds.
PROBING = 2.0
#: What a client for one of several servers is made with in place of its own arguments.
ALONE = {"retry": None, "on_request": None, "on_response": None, "on_retry": None, "resolve_every": None}

DEBUG = 10  # logging's level

T = TypeVar("T")

#: The operation that a replaced `_get` or `_post` carries out, when it must end, and the call's place.
_replaced_for: ContextVar[tuple[Operation[Any], Moment | None, Place[Any] | None] | None] = ContextVar(
    "_replaced_for", default=None
)

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


class ClientBase:
    """The part of a client that does no I/O.

    Parameters
    ----------
    address : Address
        The server.
    verbose : bool
        Log every request and response on stdout.
    shared_memory : "auto" or None
        Whether large tensors travel through shared memory.
    shared_memory_threshold, shared_memory_limit : int
        In bytes: from which size on, and how much in all.
    binary_data : bool or None
        Whether the server speaks binary tensors; None: to be found out.
    configuration : dict
        The arguments that make another client like this one.
    """

    #: What carries its requests; each client has its own kind.
    _transport: Any
    #: The library's own `_get` and `_post`.
    _originals: ClassVar[dict[str, Any]]
    #: Whether `verbose` shows whole URLs, as the reference's asyncio client does.
    _shows_origin: ClassVar[bool] = False

    def __init__(
        self,
        address: Address,
        verbose: bool,
        shared_memory: str | None,
        shared_memory_threshold: int,
        shared_memory_limit: int,
        binary_data: bool | None,
        configuration: dict[str, Any],
    ) -> None:
        # A signal's handler that calls a client must not meet a first import half done.
        import queue  # noqa: F401
        import urllib.parse  # noqa: F401

        self._configuration = configuration
        if binary_data not in (None, True, False):
            raise InvalidRequest(f"binary_data must be True, False or None, got {binary_data!r}")
        #: Whether the server speaks binary tensors, as it was said or found out.
        self._binary = binary_data
        #: A client for each of several servers, by its URL as it was given; empty where there is one.
        self._servers: dict[str, Any] = {}
        #: Clients for addresses that the server's name had until it was last looked up.
        self._leaving: dict[str, Any] = {}
        #: What those did that came before.
        self._past: list[Counts] = []
        #: Who chooses the server, tries again and tells the hooks; None where nothing of that is wanted.
        self._dispatch: Dispatch | None = None
        self._hooks: Hooks | None = None
        self._address = address
        self._verbose = verbose
        self._log = log.verbose_logger() if verbose else log.logger
        self._plugin: InferenceServerClientPlugin | None = None
        #: Whether a subclass wants to see each request, or somebody has asked for the hooks, retries and the like.
        self._customized = (
            type(self)._call_plugin is not ClientBase._call_plugin
            or type(self)._validate_headers is not ClientBase._validate_headers
        )
        if shared_memory not in (None, "auto"):
            raise InvalidRequest(f"shared_memory must be 'auto' or None, got {shared_memory!r}")
        self._sharing_limits = (
            positive(shared_memory_threshold, "shared_memory_threshold"),
            positive(shared_memory_limit, "shared_memory_limit"),
        )
        self._sharing = self._new_sharing() if shared_memory else None
        self._encoder = Encoder(address.authority, address.base_path)

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

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__} {', '.join(self.servers)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        own = {name: value for name, value in self.__dict__.items() if name not in self._made}
        for name, value in (*self._configuration.items(), ("plugin", self._plugin), *own.items()):
            try:
                pickle.dumps(value)
            except Exception as error:
                raise TypeError(f"cannot pickle this client because of its {name}: {error}") from error
        return _made_again, (type(self), self._configuration, self._plugin, own)

    # -- servers and observers --

    def _serve(
        self,
        servers: dict[str, Any],
        retry: Retry | None,
        balancing: Balancing,
        *hooks: Any,
    ) -> None:
        """Take up calls, when everything else of the client is made."""
        self._servers = servers
        if retry is not None:
            from .._calls.retry import Retry

            if not isinstance(retry, Retry):
                raise InvalidRequest(f"retry must be a Retry, such as Retry(attempts=3); got {retry!r}")
        self._retry, self._told = retry, hooks
        self._balancing: Balancing = balancing
        if retry is not None or servers or any(hook is not None for hook in hooks):
            self._watch()
        self._resolve_every = seconds(self._configuration["resolve_every"], "resolve_every")
        self._resolved: float | None = None
        if self._resolve_every is not None:
            if (
                servers
                or self._sharing is not None
                or self._address.socket_path
                or self._configuration["proxy"]
            ):
                raise InvalidRequest(
                    "resolve_every is for the name of one server: not with several URLs, shared_memory, a proxy or"
                    " a unix domain socket"
                )
            self._watch()
        self._made = frozenset((*self.__dict__, "_made"))

    def _new_dispatch(self) -> Dispatch:
        from .._calls.dispatch import Dispatch
        from ..events import Hooks

        self._hooks = self._hooks or Hooks(*self._told)
        self._dispatch = Dispatch(self.servers, self._retry, self._balancing, self._hooks)
        return self._dispatch

    def _watch(self) -> Dispatch:
        """See to it that no call takes the short way any more."""
        self._customized = True
        return self._dispatch or self._new_dispatch()

    @property
    def hooks(self) -> Hooks:
        """The functions that are told about this client's calls; more can be added at any time."""
        return self._watch().hooks

    @property
    def servers(self) -> tuple[str, ...]:
        """The URLs of the client's servers, as they were given."""
        urls: tuple[str, ...] = tuple(self._servers) or self._configuration["url"]
        return urls

    def stats(self) -> Stats:
        """Return counts of what the client did since it was made; in a forked child, since the fork."""
        from ..events import Stats

        present = (*self._servers.values(), *self._leaving.values(), self)
        counts = [*self._past, *(each._transport.counts for each in present)]
        return Stats(
            requests=sum(each.calls for each in counts),
            retries=0 if self._dispatch is None else self._dispatch.retries,
            resent=sum(each.resent for each in counts),
            connections_opened=sum(each.opened for each in counts),
            connections_reused=sum(each.reused for each in counts),
            connections_closed=sum(each.closed for each in counts),
            bytes_sent=sum(each.sent for each in counts),
            bytes_received=sum(each.received for each in counts),
        )

    def _follow(self, found: Sequence[SocketAddress]) -> list[Self]:
        """Serve the addresses that the server's name has now; return the clients that are done with."""
        done, self._leaving = list(self._leaving.values()), {}
        self._past += [replace(each._transport.counts, closed=each._transport.counts.opened) for each in done]
        present: dict[str, Any] = {}
        for _, (host, port, *_) in found:
            name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            present[name] = self._servers.get(name) or self._at(host)
        # A call may have picked one of these a moment ago.
        self._leaving = {name: each for name, each in self._servers.items() if name not in present}
        self._servers = present
        (self._dispatch or self._new_dispatch()).serve(present)
        return done

    def _at(self, literal: str) -> Self:
        """Return a client for one of the addresses of the server's name."""
        server = _made_again(type(self), self._configuration | ALONE, self._plugin, {})
        server._transport.pin(literal)
        found: Self = server
        return found

    def server(self, url: str) -> Self:
        """Return the client for one of the servers, for what is meant for that one alone; this client closes it.

        Raises
        ------
        InvalidRequest
            For a URL that is none of them.
        """
        found: Self | None = self._servers.get(url) or self._leaving.get(url)
        if found is not None:
            return found
        if self._servers or url not in self.servers:
            raise InvalidRequest(f"{url!r} is none of this client's servers: {', '.join(self.servers)}")
        return self

    # -- plugins --

    def register_plugin(self, plugin: InferenceServerClientPlugin) -> None:
        """Call a plugin before each request from now on.

        Raises
        ------
        InvalidRequest
            For what cannot be called.
        InferenceServerException
            If there is one already.
        """
        if not callable(plugin):
            raise InvalidRequest(f"a plugin must be callable with a Request, got {plugin!r}")
        if self._plugin is not None:
            raise_error(
                "A plugin is already registered. Please unregister the previous plugin first before"
                " registering a new plugin."
            )
        self._plugin = plugin
        for server in self._servers.values():
            server._plugin = plugin

    def plugin(self) -> InferenceServerClientPlugin | None:
        """Return the registered plugin, or None."""
        return self._plugin

    def unregister_plugin(self) -> None:
        """Stop calling the plugin.

        Raises
        ------
        InferenceServerException
            If there is none.
        """
        if self._plugin is None:
            raise_error("No plugin has been registered.")
        self._plugin = None
        for server in self._servers.values():
            server._plugin = None

    def _call_plugin(self, request: Request) -> Any:
        """Let the plugin change the request, if there is one; return what it returned."""
        return None if self._plugin is None else self._plugin(request)

    def _validate_headers(self, headers: Mapping[str, Any] | None) -> None:
        """Refuse headers that the client has to write itself.

        Raises
        ------
        InferenceServerException
            For Transfer-Encoding, which would contradict the body's framing.
        """
        for name in headers or ():
            if isinstance(name, str) and name.lower() == "transfer-encoding":
                raise InvalidRequest(
                    "Unsupported HTTP header: 'Transfer-Encoding' is not supported in the Python client library."
                    " Use raw HTTP request libraries or the C++ client instead for this header."
                )

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
        asked = Inference(
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
        body, headers = inferences.infer_body(asked)
        return b"".join(body), len(body[0]) if headers else None

    @staticmethod
    def parse_response_body(
        response_body: Buffer,
        verbose: bool = False,
        header_length: int | None = None,
        content_encoding: str | None = None,
    ) -> InferResult:
        """Make a result from a response's body, as :meth:`InferResult.from_response_body` does."""
        return InferResult.from_response_body(response_body, verbose, header_length, content_encoding)

    # -- from an operation to what a transport sends --

    def _infer_flow(self, asked: tuple[Any, ...], *, snapshot: bool = False) -> Flow:
        """Return what an inference takes that cannot take the short way: one operation, or those of shared memory.

        What is asked for stands as in :class:`inferences.Inference`; with `snapshot` it may be changed afterwards.
        """
        inference = Inference(*asked)
        flow = None
        sharing = self._sharing  # another thread may close the client meanwhile
        if sharing is not None:
            flow = sharing.infer(inference, self._infer_operation, snapshot=snapshot)
        return _alone(self._infer_operation(inference, snapshot=snapshot)) if flow is None else flow

    def _infer_operation(self, asked: Inference, *, snapshot: bool = False) -> Operation[InferResult]:
        return inferences.infer(
            asked,
            partial(self._decode_infer, (asked.model_name, asked.model_version)),
            binary_outputs=self._binary is not False,
            snapshot=snapshot,
        )

    def _decode_infer(self, model: tuple[str, str], response: Response) -> InferResult:
        if response.status_code != 200:
            operations.check(response)
        try:
            result = InferResult(response, self._verbose)
        except ServerError as error:
            operations.placed(error, response)
            raise
        if type(response) is not Response:
            result.attempts = getattr(response, "attempts", 1)
        sharing = self._sharing
        if sharing is not None:
            sharing.note(model, result)
        return result

    def _replaced(
        self,
        operation: Operation[Any],
        headers: Mapping[str, Any] | None,
        query_params: Mapping[str, Any] | None,
    ) -> Callable[[], Any] | None:
        """Return the call of the `_get` or `_post` that a subclass, the instance or a test brings, or None."""
        name = "_get" if operation.method == "GET" else "_post"
        if name not in self.__dict__ and getattr(type(self), name) is self._originals[name]:
            return None
        arguments: dict[str, Any] = {
            "request_uri": operation.path,
            "headers": call_headers(operation, headers) or None,
            "query_params": query_params,
        }
        if name == "_post":
            arguments["request_body"] = b"".join(operation.body)
        return partial(getattr(self, name), **arguments)

    @staticmethod
    @contextmanager
    def _replacing(
        operation: Operation[Any], until: Moment | None, place: Place[Any] | None
    ) -> Iterator[None]:
        """Let our own `_get` and `_post` know what it is that a replaced one hands to them."""
        token = _replaced_for.set((operation, until, place))
        try:
            yield
        finally:
            _replaced_for.reset(token)

    @staticmethod
    def _resumed(
        handed: Operation[Response], default: Moment | None
    ) -> tuple[Operation[Response], Moment | None, Place[Any] | None]:
        """Recover the original operation, its deadline and its place behind a replaced `_get` or `_post`."""
        meant, until, place = _replaced_for.get() or (None, None, None)
        if meant is None or (meant.method, meant.path) != (handed.method, handed.path):
            return handed, default, None
        known = {name: getattr(meant, name) for name in ("anywhere", "sequence", "request_id")}
        # What was handed over may have been changed, so that there is no renewing it.
        repeatable = meant.repeatable and meant.renew is None
        return replace(handed, repeatable=repeatable, **known), until, place

    @staticmethod
    def _posted(
        request_uri: str, request_body: Buffer | str, headers: Mapping[str, Any] | None
    ) -> Operation[Response]:
        """Return the operation of a body that somebody else made: what ends its JSON head says what it is."""
        body = request_body.encode() if isinstance(request_body, str) else request_body
        content_type = operations.JSON if body else None
        if any(str(name).lower() == "inference-header-content-length" for name in headers or ()):
            content_type = operations.BINARY
        return Operation("POST", request_uri, undecoded, (body,), (), content_type)

    def _is_watched(self) -> bool:
        """Return whether anybody wants to see, change or carry out this client's requests."""
        kind, own, mine = type(self), self._originals, self.__dict__
        return (
            self._plugin is not None
            or self._customized
            or kind._post is not own["_post"]  # type: ignore[attr-defined]
            or kind._get is not own["_get"]  # type: ignore[attr-defined]
            or "_post" in mine
            or "_get" in mine
            or "_call_plugin" in mine
            or "_validate_headers" in mine
            or self._log.isEnabledFor(DEBUG)
        )

    def _encode_plain_infer(
        self,
        asked: tuple[Any, ...],
        headers: Mapping[str, Any] | None,
        query_params: Mapping[str, Any] | None,
        snapshot: bool = False,
    ) -> tuple[Known, list[Buffer]] | None:
        """Return what is known of an inference and its buffers, or None where it cannot take the short way.

        That is for what is asked for most: tensors and no options, over HTTP, and nobody watches. What is
        asked for stands as in :class:`inferences.Inference`.
        """
        model_name, inputs, model_version, outputs = asked[:4]
        if asked[4:] != NO_OPTIONS or headers or query_params or self._binary is False or self._is_watched():
            return None
        found = None
        if recall is not None:
            found = recall(
                self._encoder.known,
                model_name,
                model_version,
                inputs,
                outputs,
                InferInput,
                InferRequestedOutput,
                COALESCE,
            )
        sharing = self._sharing
        if sharing is not None:
            size = None if found is None else found[0].size
            if sharing.concerns((model_name, model_version), inputs, size):
                return None
        if found is not None:
            return found
        return self._encoder.inference(
            (model_name, model_version),
            inputs,
            outputs,
            lambda: self._infer_operation(Inference(*asked), snapshot=snapshot),
            snapshot,
        )

    def _encode(
        self, operation: Operation[Any], headers: Mapping[str, Any], query_params: Mapping[str, Any] | None
    ) -> tuple[str, list[Buffer]]:
        """Return the target and the buffers of a request, its headers as the plugin left them."""
        self._validate_headers(headers)
        target, buffers, length = self._encoder.encode(operation, headers, query_params)
        if self._verbose:
            size = f"\n<{length} bytes>" if operation.body else ""
            shown = f"{self._address.origin}{target}" if self._shows_origin else target
            self._log.debug("%s %s, headers %s%s", operation.method, shown, log.masked(headers.items()), size)
        return target, buffers

    def _url_of(self, operation: Operation[Any]) -> str:
        """Return where a request goes, as far as that is known before a server is chosen."""
        if self._servers:
            return ""
        return f"{self._address.origin}{self._address.base_path}/{operation.path}"

    def _note(self, operation: Operation[Any], response: Response) -> Response:
        """Show a response, and in the reference's words what it means."""
        if self._verbose:
            self._log.debug("%r", response)
            if operation.done and 200 <= response.status_code < 300:
                self._log.debug("%s", operation.done)
        return response


def _alone(operation: Operation[T]) -> Generator[Operation[T], Any, T]:
    """Return a flow of one operation."""
    result: T = yield operation
    return result


def undecoded(response: Response) -> Response:
    return response


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


def one_or_more(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the URLs, each once."""
    urls = (url,) if isinstance(url, str) or not isinstance(url, Sequence) else tuple(dict.fromkeys(url))
    if not urls:
        raise InvalidRequest("expected the URL of a server, or several; got none")
    return urls


def positive(value: int, name: str) -> int:
    """Return a whole number above 0, or refuse it."""
    number = integer(value)
    if number is None or number < 1:
        raise InvalidRequest(f"{name} must be a whole number above 0, got {value!r}")
    return number
