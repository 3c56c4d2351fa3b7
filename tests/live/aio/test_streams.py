"""Many streams at once, tasks that are cancelled, and loops that end: the asyncio client's own."""

import asyncio
import contextlib
import gc
import time

import pytest

from tritonhttp import DeadlineExceeded


async def values(client, numbers, **options):
    return [answer["OUT"] async for answer in client.generate_stream("repeat", {"IN": numbers}, **options)]


def test_200_streams_at_once_each_get_their_answers(run, make_client):
    async def main():
        async with make_client(conn_limit=50) as client:
            wanted = [list(range(number, number + 5)) for number in range(200)]
            assert await asyncio.gather(*(values(client, numbers) for numbers in wanted)) == wanted
            assert client.stats().connections_opened <= 50

    run(main())


def test_leaving_and_cancelling_streams_does_not_disturb_others(run, make_client):
    async def first(client, delay):
        async with client.generate_stream("repeat", {"IN": list(range(50)), "DELAY": delay}) as stream:
            return (await anext(stream))["OUT"]

    async def cancelled(client):
        task = asyncio.create_task(first(client, 0.05))
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return 0

    async def main():
        async with make_client(conn_limit=10) as client:
            calls = [
                call
                for _ in range(20)
                for call in (first(client, 0.001), cancelled(client), values(client, [7]))
            ]
            assert await asyncio.gather(*calls) == [0, 0, [7]] * 20
            assert await values(client, [1, 2]) == [1, 2]
            assert client._transport.pool.taken <= 10

    run(main())


def test_a_task_that_is_cancelled_while_it_waits_ends_its_stream(run, make_client):
    async def main():
        async with make_client(conn_limit=1) as client:
            stream = client.generate_stream("repeat", {"IN": [1, 2, 3], "DELAY": 0.3})
            assert (await anext(stream))["OUT"] == 1
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
            assert [each async for each in stream] == []
            before = time.monotonic()
            assert await values(client, [5]) == [5]
            assert time.monotonic() - before < 8

    run(main())


def test_a_dropped_stream_gives_its_place_back(run, make_client):
    async def main():
        async with make_client(conn_limit=1) as client:
            stream = client.generate_stream("repeat", {"IN": list(range(100)), "DELAY": 0.02})
            await anext(stream)
            del stream
            gc.collect()
            assert await values(client, [5], deadline=5) == [5]

    run(main())


def test_a_stream_of_an_ended_loop_takes_nothing_from_the_next(run, make_client):
    """It is of no more use; and its end, whenever it comes, takes nothing from the loops after it."""
    client = make_client(conn_limit=1)
    streams = []

    async def begin():
        stream = client.generate_stream("repeat", {"IN": list(range(100)), "DELAY": 0.02})
        await anext(stream)
        streams.append(stream)
        # asyncio tells of sockets that are still open when their loop ends
        await stream.close()

    async def go_on():
        streams.clear()
        gc.collect()
        for _ in range(2):
            assert await values(client, [5], deadline=5) == [5]
        assert client._transport.pool.taken == 1
        await client.close()

    run(begin())
    run(go_on())


def test_waiting_for_a_connection_counts_as_idle_time(run, make_client):
    async def main():
        async with make_client(conn_limit=1) as client:
            stream = client.generate_stream("repeat", {"IN": [1, 2], "DELAY": 0.3})
            assert (await anext(stream))["OUT"] == 1
            with pytest.raises(DeadlineExceeded, match="one of 1 connections"):
                await values(client, [1], idle_timeout=0.1)
            assert [answer["OUT"] async for answer in stream] == [2]

    run(main())


def test_the_end_of_a_client_lets_an_open_stream_end(run, make_client):
    async def main():
        client = make_client()
        stream = client.generate_stream("repeat", {"IN": list(range(10)), "DELAY": 0.01})
        assert (await anext(stream))["OUT"] == 0
        await client.close()
        assert [answer["OUT"] async for answer in stream] == list(range(1, 10))
        assert client._transport.pool.taken == 0

    run(main())
