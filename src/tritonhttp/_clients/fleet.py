"""The servers of a client, and who watches its calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._transport.address import Address, SocketAddress, parse_url
from .._transport.failures import closed
from .._transport.policy import seconds
from ..errors import InvalidRequest, raise_error
from ..plugins import InferenceServerClientPlugin

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._calls.dispatch import Dispatch
    from .._transport.trace import Counts
    from ..events import Call, Hooks, Stats

__all__ = ["ALONE", "Fleet"]

#: What a client for one of several servers is made with in place of its own arguments.
ALONE = {"retry": None, "on_request": None, "on_response": None, "on_retry": None, "resolve_every": None}


class Fleet:
    """The part of a client that knows its servers, each with a client of its own, and its observers."""

    #: What carries its requests; each client has its own kind.
    _transport: Any
    _address: Address
    _sharing: Any
    #: The arguments that make another client like this one.
    _configuration: dict[str, Any]

    def __init__(self) -> None:
        #: A client for each of several servers, by its URL as it was given; empty where there is one.
        self._servers: dict[str, Any] = {}
        #: Clients for addresses that the server's name had until it was last looked up.
        self._leaving: dict[str, Any] = {}
        #: Clients for further addresses of the server, such as that of its metrics, by URL and pinned address.
        self._further: dict[tuple[str, str], Any] = {}
        #: Counts of clients that are gone.
        self._past: list[Counts] = []
        #: Chooses the server, tries again and tells the hooks; None where nothing of that is wanted.
        self._dispatch: Dispatch | None = None
        self._hooks: Hooks | None = None
        #: The record of a call, whose module is imported with the dispatch.
        self._made_call: type[Call] | None = None
        self._plugin: InferenceServerClientPlugin | None = None

    if TYPE_CHECKING:  # each client defines it

        def _like(self, configuration: dict[str, Any]) -> Any: ...

    def _serve(self, kind: type[Any]) -> None:
        """Take up calls, when everything else of the client is made; `kind` makes one for each server."""
        given = self._configuration
        if len(given["url"]) > 1:
            self._servers = {each: kind(**{**given, **ALONE, "url": each}) for each in given["url"]}
        retry = given["retry"]
        if retry is not None:
            from .._calls.retry import Retry

            if not isinstance(retry, Retry):
                raise InvalidRequest(f"retry must be a Retry, such as Retry(attempts=3); got {retry!r}")
        told = self._told = [given[name] for name in ("on_request", "on_response", "on_retry")]
        if retry is not None or self._servers or told != [None, None, None]:
            self._new_dispatch()
        self._resolve_every = seconds(given["resolve_every"], "resolve_every")
        self._resolved: float | None = None
        if self._resolve_every is not None:
            if self._servers or self._sharing is not None or self._address.socket_path or given["proxy"]:
                raise InvalidRequest(
                    "resolve_every is for the name of one server: not with several URLs, shared_memory, a proxy or"
                    " a unix domain socket"
                )
            self._dispatch = self._dispatch or self._new_dispatch()
        self._made = frozenset((*self.__dict__, "_made"))

    def _new_dispatch(self) -> Dispatch:
        from .._calls.dispatch import Dispatch
        from ..events import Call, Hooks

        given, self._hooks = self._configuration, self._hooks or Hooks(*self._told)
        self._made_call = Call
        self._dispatch = Dispatch(self.servers, given["retry"], given["balancing"], self._hooks)
        return self._dispatch

    @property
    def hooks(self) -> Hooks:
        """The functions that are told about this client's calls; more can be added at any time."""
        return (self._dispatch or self._new_dispatch()).hooks

    @property
    def servers(self) -> tuple[str, ...]:
        """The URLs of the client's servers, as they were given."""
        urls: tuple[str, ...] = tuple(self._servers) or self._configuration["url"]
        return urls

    def stats(self) -> Stats:
        """Return counts of what the client did since it was made; in a forked child, since the fork."""
        from ..events import Stats

        counts = [*self._past, *self._counts()]
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
        server = self._like(self._configuration | ALONE)
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
        known: dict[str, Self] = {**self._leaving, **self._servers}
        if isinstance(url, str) and url in known:
            return known[url]
        ssl = self._configuration["ssl"]
        key = parse_url(url, ssl).key
        for each in self.servers:
            if each == url or parse_url(each, ssl).key == key:
                return known.get(each, self)
        raise InvalidRequest(f"{url!r} is none of this client's servers: {', '.join(self.servers)}")

    def _counts(self) -> Iterator[Counts]:
        yield self._transport.counts
        for each in self._inner():
            yield from each._counts()

    def _inner(self) -> tuple[Any, ...]:
        """Return the clients that this one has made, and closes."""
        return *self._servers.values(), *self._leaving.values(), *self._further.values()

    def _of_metrics(self, url: str | None, port: int) -> tuple[Any, str]:
        """Return a client with this one's options, plugin and hooks for where metrics are, and their path."""
        address, at = self._address, ""
        if url is not None:
            place = parse_url(url, address.tls and "://" not in str(url))
        elif len(self.servers) > 1:
            raise InvalidRequest(
                f"each of the {len(self.servers)} servers of this client has its own metrics: name one with"
                " client.server(url), or take all of them with client.on_each(…)"
            )
        elif address.socket_path:
            raise InvalidRequest(f"metrics are not served on unix://{address.socket_path}: give their URL")
        else:
            place, at = replace(address, port=port, base_path=""), self._transport.pinned
        origin = f"unix://{place.socket_path}" if place.socket_path else place.origin
        found = self._further.get((origin, at))
        if found is None:
            if self._transport.is_closed:
                raise closed()
            own = {"url": origin, "ssl": place.tls, "shared_memory": None, "resolve_every": None}
            found = self._like(self._configuration | own)
            if at:
                found._transport.pin(at)
            found = self._further.setdefault((origin, at), found)
        found._plugin = self._plugin
        if self._dispatch is not None:
            (found._dispatch or found._new_dispatch()).hooks = self._dispatch.hooks
        return found, place.base_path.lstrip("/") or "metrics"

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
        if not callable(plugin) or isinstance(plugin, type):
            advice = f": make an object of it, {plugin.__name__}(…)" if isinstance(plugin, type) else ""
            raise InvalidRequest(
                "a plugin must be callable with a Request, as those of tritonhttp.auth are; got"
                f" {plugin!r}{advice}"
            )
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
