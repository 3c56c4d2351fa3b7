"""Plugins that authenticate: what they send and refuse, and that their secrets stay hidden."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import re
import warnings
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import InferenceServerClientPlugin, InferenceServerException, InvalidRequest, Request
from tritonhttp.auth import ApiKeyAuth, BasicAuth, BearerAuth

from ..adversity.servers import Server, healthy
from ..clients import KINDS

SECRET = "sesame-open"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server((healthy,)) as server:
        yield server


@pytest.fixture(params=sorted(KINDS))
def make(server: Server, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    clients: list[Any] = []

    def make(plugin: Any, **options: Any) -> Any:
        clients.append(KINDS[request.param](server.url, **options))
        clients[-1].register_plugin(plugin)
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def sent(server: Server, name: str) -> list[str]:
    """Return the values of a header in the last request."""
    lines = server.requests[-1].decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(": ") for line in lines)
    return [value for key, _, value in pairs if key.lower() == name]


@pytest.mark.parametrize("token", ["Bearer abc", "bearer abc", lambda: "Bearer abc"])
def test_a_token_with_its_scheme_is_refused(token: Any) -> None:
    with pytest.raises(InvalidRequest, match="the token alone, without 'Bearer ' before it"):
        ask(BearerAuth(token))
    assert ask(BearerAuth("BearerOfNews"))["authorization"] == "Bearer BearerOfNews"


def ask(plugin: Any, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a request's headers as the plugin leaves them."""
    request = Request(headers)
    assert plugin(request) is None
    return request.headers


# -- basic


def test_basic_auth_is_the_example_of_rfc_7617() -> None:
    assert ask(BasicAuth("Aladdin", "open sesame")) == {"authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}


@pytest.mark.parametrize(
    ("user", "password"), [("", ""), ("u", ""), ("", "p"), ("u", "a:b:"), ("u" * 99, "p" * 99)]
)
def test_basic_auth_of_any_ascii(user: str, password: str) -> None:
    value = ask(BasicAuth(user, password))["authorization"]
    assert b64decode(value.removeprefix("Basic ")).decode() == f"{user}:{password}"
    assert "\n" not in value


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("üser-x", "p"), "username"),
        (("u", "pässword-x"), "password"),
        (("a:b-x", "p"), "username"),
        ((b"bytes-x", "p"), "username"),
        (("u", None), "password"),
    ],
)
def test_basic_auth_names_the_field_never_the_value(arguments: tuple[Any, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{field} of BasicAuth") as caught:
        BasicAuth(*arguments)
    assert "-x" not in str(caught.value)
    assert caught.value.__cause__ is None


# -- bearer


def test_bearer_auth_of_a_string() -> None:
    assert ask(BearerAuth(SECRET), {"X": "1"}) == {"X": "1", "authorization": f"Bearer {SECRET}"}


def test_bearer_auth_asks_for_its_token_before_each_request(server: Server, make: Callable[..., Any]) -> None:
    tokens = iter(["one", "two"])
    client = make(BearerAuth(lambda: next(tokens)))
    for token in ("one", "two"):
        client.get_server_metadata()
        assert sent(server, "authorization") == [f"Bearer {token}"]
    with pytest.raises((StopIteration, RuntimeError)):  # a coroutine cannot raise StopIteration
        client.get_server_metadata()
    assert len(server.requests) == 2


async def late() -> str:
    await asyncio.sleep(0)
    return SECRET


class Late:
    async def __call__(self) -> str:
        return await late()


SOURCES: list[Any] = [late, Late(), lambda: late()]


@pytest.mark.parametrize("source", SOURCES, ids=["function", "object", "lambda"])
def test_bearer_auth_may_be_awaited(server: Server, source: Any) -> None:
    async def body() -> None:
        async with tritonhttp.aio.InferenceServerClient(server.url) as client:
            client.register_plugin(BearerAuth(source))
            await client.get_server_metadata()

    asyncio.run(body())
    assert sent(server, "authorization") == [f"Bearer {SECRET}"]


class Coroutine(InferenceServerClientPlugin):
    async def __call__(self, request: Request) -> None:
        raise AssertionError("never runs")


@pytest.mark.parametrize(
    "plugin", [Coroutine(), *map(BearerAuth, SOURCES)], ids=["plugin", "function", "object", "lambda"]
)
def test_the_blocking_client_refuses_what_has_to_be_awaited(server: Server, plugin: Any) -> None:
    with (
        warnings.catch_warnings(record=True) as caught,
        tritonhttp.InferenceServerClient(server.url) as client,
    ):
        warnings.simplefilter("always")
        client.register_plugin(plugin)
        for _ in range(2):
            with pytest.raises(InvalidRequest, match=r"plugin is a coroutine.*tritonhttp\.aio"):
                client.get_server_metadata()
        gc.collect()
        client.unregister_plugin()
        client.get_server_metadata()
    assert [str(each.message) for each in caught if "never awaited" in str(each.message)] == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("token", ["", f"{SECRET}\r\nX: y", f"ü{SECRET}", f"{SECRET}\n"])
def test_a_token_that_fits_in_no_header_is_refused_unseen(
    server: Server, make: Callable[..., Any], token: str
) -> None:
    client = make(BearerAuth(lambda: token))
    for give in (lambda: BearerAuth(token), client.get_server_metadata, lambda: ApiKeyAuth("X-K", token)):
        with pytest.raises(InvalidRequest, match=r"of (BearerAuth|ApiKeyAuth)") as caught:
            give()
        assert SECRET not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("token", [None, 7, b"bytes"])
def test_a_token_of_another_type_is_refused(token: Any) -> None:
    with pytest.raises(InvalidRequest, match="token of BearerAuth"):
        BearerAuth(token)
    with pytest.raises(InvalidRequest, match="token of BearerAuth"):
        ask(BearerAuth(lambda: token))


# -- key


def test_api_key_auth_sends_its_header(server: Server, make: Callable[..., Any]) -> None:
    make(ApiKeyAuth("X-Own", SECRET)).get_server_metadata()
    assert sent(server, "x-own") == [SECRET]


@pytest.mark.parametrize("header", ["", "a b", "a:", "ü", "a\r\nb"])
def test_a_header_that_is_no_token_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest, match="header name") as caught:
        ApiKeyAuth(header, SECRET)
    assert SECRET not in str(caught.value)


# -- all of them

PLUGINS: list[Callable[[], Any]] = [
    lambda: BasicAuth("user", SECRET),
    lambda: BearerAuth(SECRET),
    lambda: BearerAuth(lambda: SECRET),
    lambda: ApiKeyAuth("X-API-Key", SECRET),
    lambda: ApiKeyAuth("X-Anything", SECRET),
]
HIDDEN = (SECRET, "dXNlcjpz")  # the start of the Base64 of "user:s…"


@pytest.mark.parametrize("make_plugin", PLUGINS)
@pytest.mark.parametrize("verbose", [True, False])
def test_nobody_sees_the_secret(
    server: Server,
    make: Callable[..., Any],
    make_plugin: Callable[[], Any],
    verbose: bool,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    plugin = make_plugin()
    client = make(plugin, verbose=verbose)
    client.get_server_metadata()
    assert any(hidden.encode() in server.requests[-1] for hidden in HIDDEN)
    with pytest.raises(InferenceServerException) as caught:
        client.get_server_metadata(headers={"Transfer-Encoding": "chunked"})
    out, err = capfd.readouterr()
    assert ("/v2, headers" in out) == verbose
    assert re.search(r"GET http://\S+/v2; ", caplog.text)
    shown = f"{out}{err}{caplog.text}{plugin!r}{plugin}{client!r}{caught.value!r}{caught.value}"
    for hidden in HIDDEN:
        assert hidden not in shown


@pytest.mark.parametrize(
    "plugin", [BasicAuth("u", SECRET), BearerAuth(SECRET), ApiKeyAuth("AUTHORIZATION", SECRET)]
)
@pytest.mark.parametrize("name", ["Authorization", "authorization", "AuThOrIzAtIoN"])
def test_a_plugins_header_replaces_the_callers_whatever_its_case(
    server: Server, make: Callable[..., Any], plugin: Any, name: str
) -> None:
    given = {name: "the caller's"}
    make(plugin).get_server_metadata(headers=given)
    (value,) = sent(server, "authorization")
    assert value == str(next(iter(ask(plugin).values())))
    assert given == {name: "the caller's"}


@pytest.mark.parametrize("plugin", [BasicAuth("u", SECRET), BearerAuth(SECRET), ApiKeyAuth("X-K", SECRET)])
def test_plugins_can_be_pickled(plugin: Any) -> None:
    again = pickle.loads(pickle.dumps(plugin))
    assert ask(again) == ask(plugin)
    assert SECRET not in repr(again)


@pytest.mark.parametrize("kind", [tritonhttp.InferenceServerClient, tritonhttp.aio.InferenceServerClient])
def test_one_plugin_at_a_time(kind: Any) -> None:
    client, first = kind("localhost:8000"), BearerAuth(SECRET)
    with pytest.raises(InferenceServerException, match="No plugin has been registered"):
        client.unregister_plugin()
    client.register_plugin(first)
    with pytest.raises(
        InferenceServerException, match=r"already registered.*unregister the previous"
    ) as caught:
        client.register_plugin(BearerAuth("other"))
    assert SECRET not in str(caught.value)
    assert client.plugin() is first
    client.unregister_plugin()
    assert client.plugin() is None


def test_a_plugin_without_a_call_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (InferenceServerClientPlugin,), {})()
