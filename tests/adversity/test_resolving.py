"""A server's name with several addresses, which change: calls are spread over those that it has."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import tritonhttp
from tritonhttp.errors import DeadlineExceeded, InvalidRequest, NameResolutionError

from ..clients import KINDS, wait_until
from .conftest import metadata
from .servers import Server, answer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")

FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of the name triton.test, to be changed; none: it does not exist."""
    found = [FIRST, SECOND]
    ask = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host != "triton.test":
            return ask(host, *args, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no literal")
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [entry for literal in found for entry in ask(literal, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


@pytest.fixture
def three(serve: Callable[..., Server]) -> dict[str, Server]:
    """Servers at three addresses, on one port."""
    servers = {FIRST: serve()}
    servers |= {literal: serve(at=(literal, servers[FIRST].port)) for literal in (SECOND, THIRD)}
    return servers


def spread(client: Any, servers: dict[str, Server]) -> dict[str, int]:
    before = {literal: len(server.requests) for literal, server in servers.items()}
    for _ in range(12):
        metadata(client)
    return {literal: len(server.requests) - before[literal] for literal, server in servers.items()}


def test_calls_are_spread_over_all_addresses(
    three: dict[str, Server], addresses: list[str], open_client: Callable[..., Any]
) -> None:
    port = three[FIRST].port
    client = open_client(f"triton.test:{port}", resolve_every=60)
    assert spread(client, three) == {FIRST: 6, SECOND: 6, THIRD: 0}
    assert client.servers == (f"{FIRST}:{port}", f"{SECOND}:{port}")
    assert all(b"Host: triton.test:%d\r\n" % port in request for request in three[SECOND].requests)
    assert client.stats().connections_opened == 2


def test_the_name_is_looked_up_again(
    three: dict[str, Server], addresses: list[str], open_client: Callable[..., Any]
) -> None:
    client = open_client(f"triton.test:{three[FIRST].port}", resolve_every=0.05)
    for _ in range(2):  # which of the two the first call asks is left to chance
        metadata(client)
    assert three[FIRST].connections == 1
    addresses[:] = [SECOND, THIRD]

    def follows() -> bool:
        time.sleep(0.06)
        metadata(client)
        return any(server.startswith(THIRD) for server in client.servers)

    wait_until(follows, 5)
    assert spread(client, three) == {FIRST: 0, SECOND: 6, THIRD: 6}
    requests = client.stats().requests
    wait_until(lambda: follows() and client.stats().connections_closed >= 1, 5)
    assert client.stats().requests > requests  # what the closed ones did still counts


def test_a_failed_look_up_keeps_the_known_addresses(
    three: dict[str, Server], addresses: list[str], open_client: Callable[..., Any]
) -> None:
    client = open_client(f"triton.test:{three[FIRST].port}", resolve_every=0.05)
    metadata(client)
    addresses.clear()
    time.sleep(0.06)
    metadata(client)
    time.sleep(0.06)
    assert spread(client, three) == {FIRST: 6, SECOND: 6, THIRD: 0}


def test_a_name_that_is_not_known_yet_is_looked_up_by_each_call(
    three: dict[str, Server], addresses: list[str], open_client: Callable[..., Any]
) -> None:
    addresses.clear()
    client = open_client(f"triton.test:{three[FIRST].port}", resolve_every=60)
    for _ in range(2):
        with pytest.raises(NameResolutionError, match=r"triton\.test"):
            metadata(client)
    addresses.append(THIRD)
    assert spread(client, three) == {FIRST: 0, SECOND: 0, THIRD: 12}


def test_an_address_where_nothing_listens_is_left_alone(
    serve: Callable[..., Server], addresses: list[str], open_client: Callable[..., Any]
) -> None:
    server = serve()
    addresses[:] = [FIRST, SECOND]
    client = open_client(f"triton.test:{server.port}", resolve_every=60)
    for _ in range(12):
        metadata(client)
    assert len(server.requests) == 12


def test_a_closed_client_looks_nothing_up(three: dict[str, Server], addresses: list[str]) -> None:
    client = tritonhttp.InferenceServerClient(f"triton.test:{three[FIRST].port}", resolve_every=60)
    client.close()
    with pytest.raises(tritonhttp.InferenceServerException, match="the client is closed"):
        metadata(client)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (["localhost:1", "localhost:2"], {}),
        ("unix:///run/triton.sock", {}),
        ("localhost:1", {"proxy": "http://localhost:2"}),
        ("localhost:1", {"resolve_every": 0}),
    ],
)
def test_options_that_exclude_resolve_every_are_refused(
    url: Any, options: Any, open_client: Callable[..., Any]
) -> None:
    with pytest.raises(InvalidRequest, match="resolve_every"):
        open_client(url, **{"resolve_every": 1.0, **options})


def test_a_hook_sees_the_phases_of_a_call(
    serve: Callable[..., Server], open_client: Callable[..., Any]
) -> None:
    calls: list[Any] = []
    server = serve(lambda peer: peer.read_request() and peer.send(answer({})))
    client = open_client(server.url, on_response=calls.append)
    metadata(client)
    phases = calls[0].phases
    assert list(phases) == ["wait", "resolve", "connect", "send", "first_byte", "receive"]
    assert 0 < sum(phases.values()) <= calls[0].seconds * 1e3


def test_stats_count_requests_and_connections(
    serve: Callable[..., Server], open_client: Callable[..., Any]
) -> None:
    server = serve()
    client = open_client(server.url)
    assert client.stats().requests == 0
    for _ in range(3):
        metadata(client)
    stats = client.stats()
    assert (stats.requests, stats.retries, stats.resent) == (3, 0, 0)
    assert (stats.connections_opened, stats.connections_reused, stats.connections_closed) == (1, 2, 0)
    assert stats.connections_open == 1
    assert stats.bytes_sent == sum(map(len, server.requests))
    assert stats.bytes_received > 0


# -- look-ups ---------------------------------------------------------------------------------------


def resolving() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tritonhttp-resolve"]


def test_a_resolver_that_hangs_costs_one_thread(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, go, asked = serve(), threading.Event(), []
    ask = socket.getaddrinfo

    def hangs(host: Any, *args: Any, flags: int = 0, **options: Any) -> Any:
        if host != "triton.test":
            return ask(host, *args, flags=flags, **options)
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "no literal")
        asked.append(host)
        assert go.wait(20)
        return ask(FIRST, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    clients = [kind(f"triton.test:{server.port}", concurrency=2) for kind in KINDS.values()]
    try:
        for _ in range(10):
            for client in clients:
                with pytest.raises(
                    DeadlineExceeded, match=r"resolving the name .*the call's 0\.02 s"
                ) as caught:
                    metadata(client, deadline=0.02)
                assert caught.value.phase == "resolve"
        assert (len(resolving()), len(asked)) == (1, 1)
        go.set()
        wait_until(lambda: not resolving())
        for client in clients:
            assert metadata(client)
        assert len(asked) == 3
    finally:
        go.set()
        for client in clients:
            client.close()


AT_EXIT = """
import asyncio, atexit, sys
import tritonhttp, tritonhttp.aio
url = sys.argv[1]

async def ask():
    async with tritonhttp.aio.InferenceServerClient(url) as client:
        assert await client.is_server_live()

def last():
    with tritonhttp.InferenceServerClient(url) as client:
        assert client.is_server_live()
    asyncio.run(ask())
    sys.stdout.write("fine")
    sys.stdout.flush()

atexit.register(last)
"""


def test_a_call_at_the_interpreters_exit_works(serve: Callable[..., Server]) -> None:
    url = f"localhost:{serve().port}"
    ran = subprocess.run([sys.executable, "-c", AT_EXIT, url], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "fine", ran.stderr


def test_a_call_works_where_no_thread_can_be_created(
    serve: Callable[..., Server], open_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, words = threading.Thread.start, "can't create new thread at interpreter shutdown"

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "tritonhttp-resolve":
            raise RuntimeError(words)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    client = open_client(f"localhost:{serve().port}")
    words = "can't start new thread"
    with pytest.raises(NameResolutionError, match=r"that takes a thread: can't start new thread"):
        metadata(client)
    words = "can't create new thread at interpreter shutdown"
    assert metadata(client)
