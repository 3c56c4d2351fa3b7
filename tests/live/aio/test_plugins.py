"""Plugins that await, as one does that refreshes a token."""

import asyncio
import functools
import time

import pytest

import tritonhttp
from tritonhttp.aio import InferenceServerClient, InferenceServerClientPlugin
from tritonhttp.aio.auth import BearerAuth


class Refreshes(InferenceServerClientPlugin):
    def __init__(self):
        self.tokens = 0

    async def __call__(self, request):
        await asyncio.sleep(0.01)
        self.tokens += 1
        request.headers["authorization"] = f"Bearer {self.tokens}"


def test_a_coroutine_plugin_is_awaited_before_each_request(run, make_gateway):
    gateway = make_gateway()

    async def body():
        async with InferenceServerClient(gateway.url) as client:
            client.register_plugin(Refreshes())
            for _ in range(2):
                assert await client.is_server_live(headers={"Authorization": "the caller's"})
            await client.get_model_repository_index()

    run(body())
    assert [seen.all("Authorization") for seen in gateway.seen] == [["Bearer 1"], ["Bearer 2"], ["Bearer 3"]]


async def token(first="Bearer's", second="own"):
    await asyncio.sleep(0)
    return f"{first}-{second}"


class Source:
    async def __call__(self):
        return await token()


@pytest.mark.parametrize(
    "source", [token, functools.partial(token, second="own"), lambda: token(), Source()], ids=repr
)
def test_bearer_auth_awaits_whatever_gives_its_token(run, make_gateway, source):
    gateway = make_gateway()

    async def body():
        async with InferenceServerClient(gateway.url) as client:
            client.register_plugin(BearerAuth(source))
            assert await client.is_server_live()

    run(body())
    assert gateway.last.all("Authorization") == ["Bearer Bearer's-own"]


def test_a_plugins_errors_are_the_callers_also_its_own_timeout(run, make_client):
    class Fails(InferenceServerClientPlugin):
        error = KeyError("of the plugin")

        async def __call__(self, request):
            await asyncio.sleep(0)
            raise self.error

    async def body():
        async with make_client() as client:
            plugin = Fails()
            client.register_plugin(plugin)
            for error in (plugin.error, TimeoutError("of the plugin"), asyncio.TimeoutError("of the plugin")):
                plugin.error = error
                with pytest.raises(type(error)) as caught:
                    await client.is_server_live()
                assert caught.value is error
            client.unregister_plugin()
            assert await client.is_server_live()

    run(body())


def test_conn_timeout_bounds_the_plugin_too(run, make_client):
    class Hangs(InferenceServerClientPlugin):
        async def __call__(self, request):
            await asyncio.sleep(20)

    async def body():
        async with make_client(conn_timeout=0.2) as client:
            client.register_plugin(Hangs())
            before = time.monotonic()
            with pytest.raises(tritonhttp.DeadlineExceeded, match=r"timed out.*plugin.*0\.2 s") as caught:
                await client.is_server_live()
            assert 0.19 < time.monotonic() - before < 8
            assert caught.value.phase == "plugin"
            task = asyncio.create_task(client.is_server_live())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(body())
