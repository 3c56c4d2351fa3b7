"""Models on the asyncio client: cancelling, and calls at the same time."""

import asyncio
import contextlib

import numpy as np
import pytest

import tritonhttp
from tritonhttp import ServerError

from ...clients import tensor


def test_calls_run_beside_each_other(run, make_client):
    async def body():
        async with make_client() as client:
            model = await client.model("slow").refresh()
            found = await asyncio.gather(*(model(DELAY=0.3) for _ in range(4)))
            assert client.stats().connections_opened == 4
            assert [outputs["OUTPUT"].tolist() for outputs in found] == [[np.float32(0.3)]] * 4

    run(body())


def test_parts_of_a_batch_are_in_flight_together(run, make_client):
    async def body():
        async with make_client() as client:
            found = await client.model("batched").batched(
                {"DELAY": np.full((12, 1), 0.1, np.float32)}, max_batch=1
            )
            assert found["BATCH_SIZE"].max() > 1, "the server had several of them at a time"

    run(body())


def test_a_cancelled_batch_leaves_nothing_running(run, make_client):
    async def body():
        async with make_client() as client:
            model = await client.model("batched").refresh()
            rows = np.full((40, 1), 0.1, np.float32)
            task = asyncio.create_task(model.batched({"DELAY": rows}, max_batch=1))
            await asyncio.sleep(0.15)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


def test_a_part_that_fails_ends_the_others(run, make_client):
    async def body():
        async with make_client(conn_limit=4) as client:
            client.register_plugin(Fails())
            with pytest.raises(ServerError, match="the third"):
                await client.model("batched").batched(
                    {"DELAY": np.full((40, 1), 0.1, np.float32)}, max_batch=1
                )
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


def test_a_map_reads_an_async_iterable_as_it_comes(run, make_client):
    async def numbers():
        for number in range(50):
            await asyncio.sleep(0)
            yield {"INPUT0": [number]}

    async def body():
        async with make_client(conn_limit=4) as client:
            found = [each["OUTPUT0"].item() async for each in client.model("identity_fp32").map(numbers())]
            assert found == list(range(50))

    run(body())


@pytest.mark.parametrize("how", ["left", "cancelled"])
def test_a_map_that_is_left_leaves_nothing_running(run, make_client, how):
    ended = []

    async def delays():
        try:
            while True:
                yield {"DELAY": np.full((1, 1), 0.1, np.float32)}
        finally:
            ended.append(True)

    async def body():
        async with make_client() as client:
            model = await client.model("batched").refresh()

            async def work():
                async with contextlib.aclosing(model.map(delays())) as found:
                    async for _ in found:
                        if how == "left":
                            break

            task = asyncio.create_task(work())
            if how == "cancelled":
                await asyncio.sleep(0.25)
                task.cancel()
            await asyncio.wait([task], timeout=30)
            assert task.cancelled() == (how == "cancelled")
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert ended == [True]

    run(body())


def test_an_item_that_fails_ends_the_others(run, make_client):
    async def body():
        async with make_client(conn_limit=4) as client:
            client.register_plugin(Fails())
            rows = ({"DELAY": np.full((1, 1), 0.1, np.float32)} for _ in range(40))
            found = client.model("batched").map(rows)
            with pytest.raises(ServerError, match="the third"):
                async for _ in found:
                    pass
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


class Fails(tritonhttp.InferenceServerClientPlugin):
    """A plugin that fails at the third inference."""

    def __init__(self):
        self.calls = 0

    async def __call__(self, request):
        self.calls += "Inference-Header-Content-Length" in request.headers
        if self.calls == 3:
            await asyncio.sleep(0.01)
            raise ServerError("the third", "500")


def test_a_sequence_is_ended_when_its_block_is_cancelled(run, make_client):
    async def body():
        async with make_client() as client:
            model = client.model("sequence_accumulate")

            async def work():
                async with model.sequence(4711) as sequence:
                    await sequence(INPUT=1)
                    await asyncio.sleep(60)

            task = asyncio.create_task(work())
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ServerError, match="must specify the START flag"):
                await client.infer(
                    "sequence_accumulate", [tensor("INPUT", np.ones((1, 1), np.int32))], sequence_id=4711
                )

    run(body())
