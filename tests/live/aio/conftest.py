"""Fixtures for what only the asyncio client has: loops, tasks, cancelling, coroutine plugins."""

import asyncio
import functools
import gc
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest

from tritonhttp.aio import InferenceServerClient

from ...clients import tensor
from ..api.gateway import Gateway


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on a new event loop, as asyncio.run does."""
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop", reason="uvloop is not installed").run


@pytest.fixture(scope="session")
def _pipes_of_libuv():
    """Libuv opens a pair of pipes with a process's first loop, and keeps them."""
    with suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def _nothing_is_left(triton_server, _pipes_of_libuv, open_descriptors):
    """No test may leave a descriptor open, or a transport for the collector to close."""
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


@pytest.fixture
def make_client(triton_server):
    """Make clients of the server; the tests close them, on the loop that used them."""
    return functools.partial(InferenceServerClient, triton_server.url)


@pytest.fixture
def make_gateway(triton_server, _nothing_is_left):
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Gateway(triton_server.url, **options))


@pytest.fixture
def instances(make_client):
    """Wait until the slow model's four instances are idle: the server ends cancelled requests in its own time."""

    async def ask():
        async with make_client() as client:
            delay = [tensor("DELAY", np.array([0.1], np.float32))]
            for _ in range(50):
                before = time.monotonic()
                await asyncio.gather(*(client.infer("slow", delay) for _ in range(4)))
                if time.monotonic() - before < 0.18:
                    return
        pytest.fail("the slow model never came to rest")

    asyncio.run(ask())
