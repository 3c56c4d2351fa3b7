"""Metrics from an address of their own: what goes wrong there, who is told, and nothing that stays open."""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import (
    ConnectError,
    ConnectRefused,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    ProtocolError,
    Retry,
    ServerError,
)

from .conftest import metadata
from .servers import Answers, Peer, Sends, Server, answer
from .test_resolving import FIRST, SECOND, addresses  # noqa: F401

TEXT = answer(b'a{b="c"} 1\n', headers="Content-Type: text/plain; version=0.0.4\r\n")


metrics = Answers(TEXT)


def told(server: Server) -> list[bytes]:
    """Return the request lines that a server was sent."""
    return [request.partition(b"\r\n")[0] for request in server.requests]


@pytest.fixture
def both(serve: Callable[..., Server]) -> tuple[Server, Server]:
    """A server of the protocol, and one of metrics on its first three connections."""
    return serve(), serve(*[metrics] * 3)


def test_metrics_come_from_a_port_of_their_own(both: Any, open_client: Callable[..., Any]) -> None:
    main, other = both
    client = open_client(f"{main.url}/base")
    metadata(client)
    (sample,) = client.metrics(port=other.port).find("a", b="c")
    assert sample.value == 1
    assert told(other) == [b"GET /metrics HTTP/1.1"]
    assert b"Accept: text/plain\r\n" in other.requests[0]
    assert len(main.requests) == 1
    stats = client.stats()
    assert (stats.requests, stats.connections_opened) == (2, 2)


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("http://127.0.0.1:{}", b"GET /metrics?x=1 HTTP/1.1"),
        ("127.0.0.1:{}/", b"GET /metrics?x=1 HTTP/1.1"),
        ("http://127.0.0.1:{}/own/place%20here", b"GET /own/place%20here?x=1 HTTP/1.1"),
    ],
)
def test_a_url_says_where_they_are(
    both: Any, open_client: Callable[..., Any], form: str, line: bytes
) -> None:
    client = open_client(both[0].url, expect_continue=True)
    found = client.metrics(form.format(both[1].port), {"X-Own": "1"}, {"x": 1})
    assert [each.name for each in found.samples] == ["a"]
    assert told(both[1]) == [line]
    assert b"X-Own: 1\r\n" in both[1].requests[0]


def test_the_connection_is_kept_and_closed_with_the_client(both: Any) -> None:
    main, other = both
    with tritonhttp.InferenceServerClient(main.url) as client:
        for _ in range(3):
            client.metrics(port=other.port)
        client.metrics(f"http://127.0.0.1:{other.port}/other")
        assert client.stats().connections_opened == client.stats().connections_open == 1
    assert client.stats().connections_open == 0
    for options in ({"port": other.port}, {"port": main.port}, {"url": f"localhost:{other.port}"}):
        with pytest.raises(InferenceServerException, match="the client is closed"):
            client.metrics(**options)


def test_the_connection_is_kept_and_closed_with_the_asyncio_client(both: Any) -> None:
    main, other = both

    async def run() -> None:
        async with tritonhttp.aio.InferenceServerClient(main.url) as client:
            for _ in range(3):
                await client.metrics(port=other.port)
            assert client.stats().connections_opened == client.stats().connections_open == 1
        assert client.stats().connections_open == 0
        for port in (other.port, main.port):
            with pytest.raises(InferenceServerException, match="the client is closed"):
                await client.metrics(port=port)

    asyncio.run(run())


def test_hooks_retries_and_plugin_are_the_clients(both: Any, open_client: Callable[..., Any]) -> None:
    main, other = both
    begun: list[Any] = []
    client = open_client(main.url, on_request=begun.append, retry=Retry(attempts=2, backoff=0.01))
    client.metrics(port=other.port)
    (call,) = begun
    assert (call.action, call.route, call.status) == ("metrics", "/metrics", 200)
    assert call.url == f"http://127.0.0.1:{other.port}/metrics"

    ended: list[Any] = []
    client.hooks.add(on_response=ended.append)

    class Plugin(tritonhttp.InferenceServerClientPlugin):
        def __call__(self, request: Any) -> None:
            request.headers["X-Plugin"] = "1"

    client.register_plugin(Plugin())
    client.metrics(port=other.port)
    assert len(ended) == 1
    assert b"X-Plugin: 1\r\n" in other.requests[-1]
    client.unregister_plugin()
    with pytest.raises(ConnectRefused) as caught:
        client.metrics("127.0.0.1:1")
    assert caught.value.attempts == 2
    assert b"X-Plugin" not in other.requests[0]


def test_hooks_that_are_added_later_are_told(both: Any, open_client: Callable[..., Any]) -> None:
    client = open_client(both[0].url)
    client.metrics(port=both[1].port)
    ended: list[Any] = []
    client.hooks.add(on_response=ended.append)
    client.metrics(port=both[1].port)
    client.hooks.remove(ended.append)
    assert [call.action for call in ended] == ["metrics"]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (answer({"name": "triton"}), ProtocolError, r"line 1 of the metrics: expected .*got '\{\"name\""),
        (answer(b"a 1\n<html>"), ProtocolError, "line 2 of the metrics"),
        (answer(b"a\xff 1"), ProtocolError, "expected UTF-8"),
        (answer({"error": "Not Found"}, "404 Not Found"), ServerError, "Not Found"),
        (answer(b"", "302 Found", "Location: /elsewhere\r\n"), ServerError, "redirect to /elsewhere"),
        (b"", tritonhttp.ConnectionLost, "connection"),
    ],
)
def test_what_is_no_metrics_is_an_error(
    serve: Callable[..., Server], open_client: Callable[..., Any], data: bytes, error: type, words: str
) -> None:
    server = serve(Sends(data))
    client = open_client("127.0.0.1:1")
    with pytest.raises(error, match=words):
        client.metrics(port=server.port)


def test_the_deadline_holds_there(serve: Callable[..., Server], open_client: Callable[..., Any]) -> None:
    server = serve(Sends(b"HTTP/1.1 200 OK\r\n", "hold"))
    with pytest.raises(DeadlineExceeded, match="/metrics: timed out"):
        open_client("127.0.0.1:1").metrics(port=server.port, deadline=0.2)


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("a:1", {"port": 0}, "a port from 1 to 65535, got 0"),
        ("a:1", {"port": 1 << 16}, "a port from 1 to 65535"),
        ("a:1", {"port": None}, "a URL of the form"),
        ("a:1", {"port": True}, "a URL of the form"),
        ("a:1", {"url": 5}, "a URL of the form"),
        ("a:1", {"url": "ftp://a"}, "a URL of http or https"),
        ("a:1", {"url": ""}, "a URL of the form"),
        ("unix:///a.sock", {}, "metrics are not served on unix:///a.sock: give their URL"),
        (["a:1", "b:1"], {}, r"each of the 2 servers .*client.server\(url\).*client.on_each"),
    ],
)
def test_a_place_that_cannot_be_is_refused(
    open_client: Callable[..., Any], url: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        open_client(url).metrics(**options)


def test_each_of_several_servers_has_its_own(
    serve: Callable[..., Server], open_client: Callable[..., Any]
) -> None:
    mains = [serve(), serve()]
    other = serve(*[metrics] * 4)
    client = open_client([server.url for server in mains])
    found = client.on_each(lambda one: one.metrics(port=other.port))
    assert [len(each.samples) for each in found.values()] == [1, 1]
    assert len(client.metrics(f"127.0.0.1:{other.port}").samples) == 1
    assert client.stats().requests == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")
def test_each_address_of_a_name_has_its_own(
    serve: Callable[..., Server],
    open_client: Callable[..., Any],
    addresses: list[str],  # noqa: F811
) -> None:
    first = serve(metrics, metrics)
    second = serve(metrics, metrics, at=(SECOND, first.port))
    client = open_client(f"triton.test:{first.port}", resolve_every=60)
    with pytest.raises(InvalidRequest, match="each of the 2 servers"):  # which it knows from this call on
        client.metrics(port=first.port)
    found = client.on_each(lambda one: one.metrics(port=first.port))
    assert [name.partition(":")[0] for name in found] == [FIRST, SECOND]
    assert told(first) == told(second) == [b"GET /metrics HTTP/1.1"]


def test_a_tls_client_does_not_fall_back_to_plain_text(
    serve: Callable[..., Server], open_client: Callable[..., Any]
) -> None:
    def plain(peer: Peer) -> None:
        peer.sock.recv(1 << 16)
        peer.send(TEXT)

    other = serve(plain, plain, metrics)
    client = open_client("https://127.0.0.1:1")
    for options in ({"port": other.port}, {"url": f"127.0.0.1:{other.port}"}):
        with pytest.raises(ConnectError, match="the TLS handshake"):
            client.metrics(**options)
    assert len(client.metrics(f"http://127.0.0.1:{other.port}").samples) == 1


class Own(tritonhttp.InferenceServerClient):
    """Sees each request, and has an attribute of its own."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.seen: list[str] = []

    def _get(self, request_uri: str, headers: Any, query_params: Any) -> Any:
        self.seen.append(request_uri)
        return super()._get(request_uri, headers, query_params)


def test_a_subclass_sees_them_and_copies_have_none(both: Any) -> None:
    with Own(both[0].url) as client:
        assert len(client.metrics(port=both[1].port).samples) == 1
        assert client.seen == ["metrics"]
        with copy.copy(client) as other:
            assert len(other.metrics(port=both[1].port).samples) == 1
