"""Messages for mistakes that need no Triton: another port, another client, options that do not exist."""

from __future__ import annotations

import contextlib
import pickle
import socket
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from typing import Any

import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import ConnectRefused, InvalidCall, InvalidRequest, ProtocolError
from tritonhttp._protocol import inference

from ..framing import answer
from .conftest import infer
from .servers import Answers, Server

#: What gRPC's servers begin with: SETTINGS; some begin with GOAWAY.
SETTINGS = bytes.fromhex("000018040000000000000400400000000500400000000600002000fe0300000001")
GOAWAY = bytes.fromhex("0000080700000000000000000000000001")

CLIENTS = {"blocking": tritonhttp.InferenceServerClient, "asyncio": tritonhttp.aio.InferenceServerClient}
#: Options that clients do not have, and what the message must say, for both or for one of them.
OPTIONS = {
    "timeout": {"blocking": ["deadline=", "network_timeout="], "asyncio": ["deadline=", "conn_timeout="]},
    "deadlin": ["mean 'deadline'?"],
    "verbos": ["mean 'verbose'?"],
    "concurency": {"blocking": ["mean 'concurrency'?"], "asyncio": ["conn_limit="]},
    "conn_limit": {"blocking": ["concurrency="]},
    "concurrency": {"asyncio": ["conn_limit="]},
    "network_timeout": {"asyncio": ["conn_timeout="]},
    "ssl_context": {"blocking": ["ssl_context_factory="]},
    "insecure": {"asyncio": ["ssl_context="]},
    "verify": {"blocking": ["insecure=True"], "asyncio": ["ssl_context=False"]},
    "retries": ["retry=tritonhttp.Retry(attempts=3)"],
    "headers": ["each call", "register_plugin"],
    "api_key": ["tritonhttp.auth"],
    "port": ["url='host:port'"],
    "qqq": ["it has url, verbose"],
}


@pytest.mark.parametrize("start", [SETTINGS, GOAWAY, SETTINGS[:20]])
def test_the_port_of_grpc_says_so(serve: Any, open_client: Any, start: bytes) -> None:
    server: Server = serve(Answers(start))
    client = open_client(server.url)
    with pytest.raises(
        ProtocolError, match=r"got HTTP/2: is this the gRPC port, 8001 on Triton\? HTTP is usually on 8000"
    ):
        client.get_server_metadata()


def _refuses(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("url", "said"), [("127.0.0.1", True), ("http://127.0.0.1/a", True), ("127.0.0.1:80", False)]
)
def test_a_url_without_a_port_says_so(open_client: Any, url: str, said: bool) -> None:
    if not _refuses(80):
        pytest.skip("something listens at port 80")
    with pytest.raises(ConnectRefused) as caught:
        open_client(url).get_server_metadata()
    assert ("no port given; Triton's is usually 8000" in str(caught.value)) is said
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value))) == caught.value.args[0]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("grpc://localhost:8001", "does not speak gRPC: Triton's HTTP port is usually 8000"),
        (8000, "an int: a URL is a str"),
        (("localhost", 8000), "an int: a URL is a str"),
        (None, "a NoneType: a URL is a str"),
        ("localhost:1,localhost:2", "a list of URLs"),
        ("localhost:1;localhost:2", "a list of URLs"),
        (b"localhost:8000", "a bytes: a URL is a str"),
        ("http:/localhost:8000", "a scheme ends with ://"),
        ("HTTPS:localhost:8000", "a scheme ends with ://"),
        (":8000", "the host is missing"),
        ("http://:8000/v2", "the host is missing"),
        ("::1:8000", r"an IPv6 address goes into brackets, '\[::1\]:8000'"),
        ("fe80::1", "an IPv6 address goes into brackets"),
        ("http://me:secret@localhost:8000", "credentials go to a plugin"),
    ],
)
def test_what_is_no_url_says_what_is(open_client: Any, url: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        open_client(url)


@pytest.mark.parametrize("url", ["http:8000", "http:", "https", "http:8000/base", "httpd:/a"])
def test_a_host_may_be_named_like_a_scheme(open_client: Any, url: str) -> None:
    open_client(url)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", CLIENTS)
def test_an_option_that_does_not_exist_names_the_one_that_does(kind: str, option: str) -> None:
    words: Any = OPTIONS[option]
    if isinstance(words, dict):
        if kind not in words:
            pytest.skip("this client has it")
        words = words[kind]
    with pytest.raises(TypeError) as caught:
        CLIENTS[kind]("localhost:8000", **{option: 5})  # type: ignore[arg-type]
    assert isinstance(caught.value, InvalidCall)
    assert caught.value.__suppress_context__
    assert [each for each in (f"no option {option!r}", *words) if each not in str(caught.value)] == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_without_a_url_says_what_one_is(kind: str) -> None:
    with pytest.raises(InvalidCall, match=r"missing .*'url'; it takes a url such as 'localhost:8000'"):
        CLIENTS[kind]()  # type: ignore[call-arg]


def test_a_type_error_of_what_a_constructor_calls_stays_as_it_is() -> None:
    def refuse() -> Any:
        raise TypeError("unexpected keyword argument 'own'")

    with pytest.raises(TypeError, match="'own'") as caught:
        tritonhttp.InferenceServerClient("localhost:8000", ssl=True, ssl_context_factory=refuse)
    assert not isinstance(caught.value, InvalidCall)


async def _closed(found: Any) -> None:
    outcome = found.close()
    if outcome is not None:
        await outcome


def _run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


PARTS: dict[str, Callable[[Any], Any]] = {
    "client": lambda client: client,
    "sequence": lambda client: client.model("m").sequence(),
    "stream": lambda client: client.generate_stream("m", {}),
    "region": lambda client: client.shared_memory(64),
}


@pytest.mark.parametrize("part", PARTS)
def test_with_on_the_asyncio_client_says_async_with(part: str) -> None:
    client = tritonhttp.aio.InferenceServerClient("localhost:8000")
    found = PARTS[part](client)
    with (
        pytest.raises(InvalidCall, match=r"`async with`.*tritonhttp\.InferenceServerClient, for `with`"),
        found,
    ):
        pass
    assert not hasattr(found, "__enter__")
    assert not isinstance(found, AbstractContextManager)
    assert isinstance(found, AbstractAsyncContextManager)
    with ExitStack() as stack, pytest.raises((TypeError, AttributeError)):  # Python 3.10 raises the latter
        stack.enter_context(found)
    _run(client.close())


@pytest.mark.parametrize("part", PARTS)
def test_async_with_on_the_blocking_client_says_with(part: str) -> None:
    async def enter(found: Any) -> None:
        async with found:
            pass

    with tritonhttp.InferenceServerClient("localhost:8000") as client:
        found = PARTS[part](client)
        with pytest.raises(
            InvalidCall, match=r"`with`.*tritonhttp\.aio\.InferenceServerClient, for `async with`"
        ):
            _run(enter(found))
        assert not hasattr(found, "__aenter__")
        assert not isinstance(found, AbstractAsyncContextManager)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_region_comes_with_its_block(kind: str) -> None:
    client = CLIENTS[kind]("localhost:8000")
    block: Any = client.shared_memory(64)
    with pytest.raises(InvalidCall, match=r"the region comes with its block: `with client\.shared_memory"):
        _ = block.write
    with pytest.raises(AttributeError, match=r"no attribute 'another'$"):
        _ = block.another
    _run(_closed(client))


def test_a_block_makes_one_region(serve: Any) -> None:
    answers = [Answers(answer(b"{}")), Answers(answer(b"[]")), Answers(answer(b"{}"))]
    with tritonhttp.InferenceServerClient(serve(*answers).url) as client:
        block = client.shared_memory(64)
        with block:
            pass
        with pytest.raises(InvalidCall, match="this block has a region"), block:
            pass


def test_a_timeout_in_seconds_is_warned_of_once(serve: Any, open_client: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(inference, "_warned", set())
    client = open_client(serve().url)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for timeout in (1000, 0, 5, 5, 6):
            infer(client, timeout=timeout)
    (only,) = caught
    assert "timeout=5 is in microseconds" in str(only.message)
    assert "deadline=5" in str(only.message)
    assert "/src/tritonhttp/" not in only.filename


MODULES = {
    "Client": "it is tritonhttp.InferenceServerClient",
    "AsyncInferenceServerClient": "it is tritonhttp.aio.InferenceServerClient",
    "BearerAuth": "it is in tritonhttp.auth",
    "otel": "a module of its own: import tritonhttp.otel",
    "InferenceServerClinet": "did you mean 'InferenceServerClient'?",
    "infer_input": "has no attribute 'infer_input'",
}


@pytest.mark.parametrize("name", MODULES)
def test_a_name_that_the_package_does_not_have(name: str, monkeypatch: Any) -> None:
    monkeypatch.delattr(tritonhttp, name, raising=False)  # another test may have imported a module
    with pytest.raises(AttributeError) as caught:
        getattr(tritonhttp, name)
    assert MODULES[name] in str(caught.value)
    with pytest.raises(AttributeError, match=r"has no attribute '__nothing__'$"):
        _ = tritonhttp.__nothing__


def test_a_handle_in_place_of_its_result_says_how_to_get_that() -> None:
    handle: Any = tritonhttp.InferAsyncRequest(object())
    with pytest.raises(InvalidCall, match=r"get_result\(\)\.as_numpy"):
        _ = handle.as_numpy
    with pytest.raises(InvalidCall, match="did you mean 'get_result'"):
        _ = handle.get_reslt


def test_an_error_in_a_property_of_a_subclass_stays_as_it_is() -> None:
    class Own(tritonhttp.InferenceServerClient):
        @property
        def mine(self) -> Any:
            return self._not_there

    with Own("localhost:8000") as client, pytest.raises(AttributeError, match="'_not_there'"):
        _ = client.mine
