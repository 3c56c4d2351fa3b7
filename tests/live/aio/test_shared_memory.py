"""Shared memory on asyncio: calls that are cancelled, that time out, that are under way at the end."""

import asyncio
import gc
import sys
import time

import numpy as np
import pytest

import tritonhttp

from ...clients import tensor, wait_until
from ..regions import files, idle, load_sizes, nothing_left, placed, registered, sizes_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")

ONES = np.ones(1000, np.float32)


@pytest.fixture(scope="module")
def sizes(triton_server):
    _ = triton_server.running  # skips where the server may be on another machine
    with tritonhttp.InferenceServerClient(triton_server.url) as client:
        load_sizes(client)
        yield
        client.unload_model("sizes")


@pytest.fixture(autouse=True)
def _nothing_stays(triton_server, sizes, _nothing_is_left):
    with nothing_left(triton_server.url), tritonhttp.InferenceServerClient(triton_server.url) as client:
        before = registered(triton_server.url)
        yield

        def swept():
            with client.shared_memory(64):  # removes what was in use when its client closed
                gc.collect()
            return registered(triton_server.url) <= before

        wait_until(swept)


@pytest.fixture
def make_auto(make_client):
    return lambda **options: make_client(shared_memory="auto", shared_memory_threshold=1, **options)


async def infer(client, factor=1, delay=None):
    result = await client.infer("sizes", sizes_inputs(1, [ONES * factor], delay))
    assert result.as_numpy("JOINED").tobytes() == (ONES * factor).tobytes()
    return result


def test_many_tasks_share_the_blocks(make_auto, run):
    async def work():
        async with make_auto() as client:
            results = await asyncio.gather(*(infer(client, n) for n in range(40)))
            assert all(map(placed, results))

    run(work())


def test_a_cancelled_call_leaves_its_blocks_unused(make_auto, run, triton_server):
    async def work():
        async with make_auto() as client:
            await infer(client)
            before = {block.name for block in idle(client)}
            task = asyncio.create_task(infer(client, delay=0.5))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for n in range(4):
                await infer(client, n)
            await asyncio.sleep(0.5)
            await infer(client, 7)
            assert before
            assert not before & {block.name for block in idle(client)}
            assert not before & registered(triton_server.url)

    run(work())


@pytest.mark.parametrize("pauses", range(12))
def test_a_call_may_be_cancelled_at_any_step(make_auto, pauses):
    async def work():
        async with make_auto() as client:
            task = asyncio.create_task(infer(client))
            for _ in range(pauses):
                await asyncio.sleep(0.0005)
            task.cancel()
            await asyncio.wait([task])
            del task  # with its result, where it was faster
            for n in range(3):
                await infer(client, n)
            pool = client._sharing.pool
            blocks = idle(client)
            assert pool._leased == {}
            assert pool.taken == sum(block.byte_size for block in [*blocks, *pool._doomed])
            assert files() == set()

    asyncio.run(work())


def test_conn_timeout_is_the_time_of_the_whole_call(make_auto, make_gateway):
    # Each of the call's requests is slow, none slower than the limit.
    gateway = make_gateway(meddle=lambda seen: time.sleep(0.25))

    async def work():
        client = tritonhttp.aio.InferenceServerClient(
            gateway.url, shared_memory="auto", shared_memory_threshold=1, conn_timeout=0.4
        )
        before = time.monotonic()
        with pytest.raises(tritonhttp.DeadlineExceeded):
            await infer(client)
        assert time.monotonic() - before > 0.35
        await client.close()

    asyncio.run(work())


def test_closing_waits_for_calls_and_leaves_no_region(make_auto):
    async def work():
        client = make_auto()
        await infer(client)
        tasks = [asyncio.create_task(infer(client, n, delay=0.3)) for n in range(3)]
        await asyncio.sleep(0.1)
        await client.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for each in results:  # the calls that had their connection ended well
            assert isinstance(each, tritonhttp.InferResult) or "closed" in str(each)
        assert any(isinstance(each, tritonhttp.InferResult) for each in results)

    asyncio.run(work())


def test_a_region_ends_with_a_block_that_is_cancelled(make_client, run, triton_server):
    before = registered(triton_server.url)

    async def work():
        async with make_client() as client:

            async def block():
                async with client.shared_memory(64) as region:
                    region.write(np.zeros(3))
                    await asyncio.sleep(10)

            task = asyncio.create_task(block())
            await asyncio.sleep(0.1)
            assert len(registered(triton_server.url) - before) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert registered(triton_server.url) == before

    run(work())


@pytest.mark.filterwarnings("ignore:unclosed (transport|resource):ResourceWarning")  # of loops that ended
def test_a_client_goes_on_on_the_next_loop(make_auto):
    client = make_auto()
    for _ in range(3):
        result = asyncio.run(infer(client))
    assert placed(result)
    kept = result.as_numpy("JOINED")
    asyncio.run(client.close())
    assert kept.tobytes() == ONES.tobytes()
    with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
        asyncio.run(client.infer("sizes", [tensor("COUNT", np.ones(1, np.int32))]))
