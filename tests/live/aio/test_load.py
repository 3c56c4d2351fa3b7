"""Many calls, large tensors, both at a time."""

import asyncio
import resource
import sys
import time

import numpy as np
import pytest

from ...clients import tensor


def small(n):
    return [tensor(name, np.full((1, 16), n, np.int32)) for name in ("INPUT0", "INPUT1")]


def test_sixteen_tasks_overlap(run, make_client, instances):
    async def body():
        async with make_client() as client:
            delay = [tensor("DELAY", np.array([0.2], np.float32))]
            before = time.monotonic()
            results = await asyncio.gather(*(client.infer("slow", delay) for _ in range(16)))
            # The model has four instances.
            assert time.monotonic() - before >= 0.8
            assert client.stats().connections_opened == 16
            assert [result.as_numpy("OUTPUT").tolist() for result in results] == [[np.float32(0.2)]] * 16

    run(body())


def resident():
    """Return the bytes that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_ten_thousand_calls_share_a_hundred_connections(make_client, open_descriptors):
    """Each call keeps a task, its input and its request while it waits: 20 KB, 200 MB in all, are plenty."""

    async def body():
        before, memory = len(open_descriptors()), resident()
        most = 0

        async def call(client, n):
            nonlocal most
            result = await client.infer("add_sub", small(n))
            if n % 50 == 0:
                most = max(most, len(open_descriptors()) - before)
            return int(result.as_numpy("OUTPUT0")[0, 0]) == 2 * n

        async with make_client(conn_limit=100, conn_timeout=None) as client:
            right = await asyncio.gather(*(call(client, n) for n in range(10_000)))
        assert len(right) == 10_000
        assert all(right)
        assert 50 < most <= 100
        assert resident() - memory < 200 << 20

    asyncio.run(body())


@pytest.mark.parametrize("wrap", [False, True], ids=["as it is", "with an id"])
def test_a_large_tensor_comes_back_equal_and_aligned(run, make_client, wrap):
    array = np.random.default_rng(3).standard_normal(16 << 20, np.float32)

    async def body():
        async with make_client() as client:
            options = {"request_id": "an id"} if wrap else {}
            result = await client.infer("identity_fp32", [tensor("INPUT0", array)], **options)
            found = result.as_numpy("OUTPUT0")
            assert found.flags.aligned
            assert found.ctypes.data % 64 == 0
            assert np.array_equal(found, array)

    run(body())


def test_large_and_small_calls_run_beside_each_other(run, make_client):
    large = np.arange(2 << 20, dtype=np.float32)

    async def body():
        async with make_client(conn_limit=8) as client:
            large_done = 0

            async def send_large(n):
                nonlocal large_done
                result = await client.infer("identity_fp32", [tensor("INPUT0", large + n)])
                assert np.array_equal(result.as_numpy("OUTPUT0"), large + n)
                large_done += 1

            async def send_small(n):
                result = await client.infer("add_sub", small(n), request_id=str(n))
                assert result.get_response()["id"] == str(n)
                assert result.as_numpy("OUTPUT0").tolist() == [[2 * n] * 16]
                return large_done

            calls = [asyncio.create_task(send_large(n)) for n in range(4)]
            seen = await asyncio.gather(*(send_small(n) for n in range(200)))
            assert min(seen) < 4, "small calls end while large ones are under way"
            await asyncio.gather(*calls)
            assert large_done == 4

    run(body())
