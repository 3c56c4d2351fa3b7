"""Calls that end before their answer: cancelled, out of time. The others never notice."""

import asyncio
import pickle
import socket
import statistics
import sys
import time

import numpy as np
import pytest

import tritonhttp
from tritonhttp.aio import InferenceServerClient

from ...clients import tensor

#: Seconds in which a cancelled call ends: by its median, since other work may delay a single one.
AT_ONCE = 0.3
#: What a limit must not exceed where the next longer one is that of a minute.
SOON = 8


def slow(client, seconds, **options):
    return client.infer("slow", [tensor("DELAY", np.array([seconds], np.float32))], **options)


async def check(client):
    result = await client.infer("identity_fp32", [tensor("INPUT0", np.ones(3, np.float32))])
    assert result.as_numpy("OUTPUT0").tolist() == [1, 1, 1]


async def settled(look, wanted):
    """Let the loop finish its work, for a second at most."""
    for _ in range(100):
        if look() == wanted:
            break
        await asyncio.sleep(0.01)
    assert look() == wanted


def test_a_cancelled_call_ends_at_once_and_closes_its_connection_only(
    run, make_client, open_descriptors, instances
):
    async def body():
        async with make_client() as client:
            others = [asyncio.create_task(slow(client, 0.8)) for _ in range(2)]
            await asyncio.sleep(0.1)
            alone = set(open_descriptors())
            took = []
            for _ in range(5):
                task = asyncio.create_task(slow(client, 0.7))
                await asyncio.sleep(0.05)
                assert len(open_descriptors()) == len(alone) + 1
                before = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                took.append(time.monotonic() - before)
                await settled(lambda: set(open_descriptors()), alone)
            assert statistics.median(took) < AT_ONCE
            assert asyncio.all_tasks() == {asyncio.current_task(), *others}
            for other in others:
                assert (await other).as_numpy("OUTPUT") == np.float32(0.8)
            await check(client)

    run(body())


def test_a_call_that_is_cancelled_while_it_sends_ends_at_once(run, open_descriptors):
    """A server that takes no more: the request is half written."""
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def body():
            before = set(open_descriptors())
            url = f"127.0.0.1:{silent.getsockname()[1]}"
            async with InferenceServerClient(url) as client:
                large = [tensor("INPUT0", np.ones(8 << 20, np.float32))]
                task = asyncio.create_task(client.infer("identity_fp32", large))
                await asyncio.sleep(0.2)
                assert not task.done()
                task.cancel()
                start = time.monotonic()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - start < SOON
                await settled(lambda: set(open_descriptors()), before)
                assert asyncio.all_tasks() == {asyncio.current_task()}

        run(body())


def test_a_call_may_be_cancelled_before_it_began_and_in_each_step_of_its_way(run, make_client):
    async def body():
        async with make_client(conn_limit=2) as client:
            for steps in range(40):
                task = asyncio.create_task(check(client))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.exception() is None
            await asyncio.gather(*(check(client) for _ in range(6)))
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


def test_wait_for_ends_a_call(run, make_client):
    async def body():
        async with make_client() as client:
            before = time.monotonic()
            with pytest.raises(asyncio.TimeoutError) as caught:
                await asyncio.wait_for(slow(client, 1.5), 0.2)
            assert 0.19 < time.monotonic() - before < 1.4
            assert not isinstance(caught.value, tritonhttp.InferenceServerException)
            await asyncio.wait_for(check(client), 10)

    run(body())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with Python 3.11")
def test_a_timeout_around_any_call_is_the_callers_own(run, make_client, instances):
    async def body():
        async with make_client(conn_limit=1) as client:
            for call in (slow, lambda client, _: client.get_server_metadata()):
                blocker = asyncio.create_task(slow(client, 0.6))
                await asyncio.sleep(0.05)
                with pytest.raises(TimeoutError) as caught:
                    async with asyncio.timeout(0.1):
                        await call(client, 0.5)  # waits in line
                assert not isinstance(caught.value, tritonhttp.InferenceServerException)
                await blocker
            async with asyncio.timeout(0.2) as scope:
                with pytest.raises(asyncio.CancelledError):
                    await slow(client, 0.8)
                assert scope.expired()
                raise asyncio.CancelledError
        pytest.fail("the timeout of the caller raises")

    with pytest.raises(TimeoutError):
        run(body())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="task groups came with Python 3.11")
def test_a_task_group_ends_its_calls_when_one_fails(run, make_client):
    async def body():
        async with make_client() as client:
            before = time.monotonic()

            async def calls():
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(slow(client, 2))
                    group.create_task(client.get_model_metadata("no_such_model"))

            with pytest.raises(BaseExceptionGroup) as caught:  # noqa: F821  not before 3.11
                await calls()
            assert time.monotonic() - before < 1.8
            (error,) = caught.value.exceptions
            assert isinstance(error, tritonhttp.ServerError)
            await check(client)

    run(body())


# -- conn_timeout


def test_conn_timeout_bounds_a_call_and_says_how_long_it_was(run, make_client, instances):
    async def body():
        async with make_client(conn_timeout=0.4) as client:
            before = time.monotonic()
            with pytest.raises(
                tritonhttp.DeadlineExceeded, match=r"timed out while receiving.*0\.4 s"
            ) as caught:
                await slow(client, 2)
            assert 0.39 < time.monotonic() - before < 1.9
            assert isinstance(caught.value, asyncio.TimeoutError)
            assert caught.value.phase == "receive"
            assert "/v2/models/slow/infer" in caught.value.message()
            await check(client)

    run(body())


def test_conn_timeout_holds_in_the_line_too(run, make_client, instances):
    async def body():
        async with make_client(conn_timeout=0.8, conn_limit=1) as client:
            blocker = asyncio.create_task(slow(client, 0.25))
            await asyncio.sleep(0.05)
            before = time.monotonic()
            waits = [asyncio.create_task(slow(client, 2, deadline=1.4)), asyncio.create_task(check(client))]
            # The first gets the connection in time and keeps it, the second never does.
            with pytest.raises(
                tritonhttp.DeadlineExceeded, match=r"one of 1 connections.*0\.8\d* s"
            ) as second:
                await waits[1]
            assert 0.79 < time.monotonic() - before < 1.4
            with pytest.raises(tritonhttp.DeadlineExceeded, match=r"1\.4\d* s") as first:
                await waits[0]
            assert (first.value.phase, second.value.phase) == ("receive", "wait for a connection")
            assert (await blocker).as_numpy("OUTPUT") == np.float32(0.25)
            await check(client)

    run(body())


def test_conn_timeout_holds_while_a_connection_is_made(run):
    """The backlog of a listener that never accepts is full: the handshake of TCP never ends."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.socket() as one,
        socket.socket() as two,
    ):
        for sock in (one, two):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())

        async def body():
            url = f"127.0.0.1:{full.getsockname()[1]}"
            async with InferenceServerClient(url, conn_timeout=0.3) as client:
                before = time.monotonic()
                with pytest.raises(tritonhttp.DeadlineExceeded, match="timed out") as caught:
                    await client.is_server_live()
                assert 0.29 < time.monotonic() - before < SOON
                assert caught.value.phase in ("connect", "receive")

        run(body())


@pytest.mark.parametrize("limit", [None, float("inf"), 1e9])
def test_without_conn_timeout_a_call_takes_its_time(run, make_client, limit):
    async def body():
        async with make_client(conn_timeout=limit, conn_limit=1) as client:
            blocker = asyncio.create_task(slow(client, 0.3))
            await asyncio.sleep(0)
            await check(client)
            assert (await blocker).as_numpy("OUTPUT") == np.float32(0.3)

    run(body())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"conn_limit": 0}, "conn_limit.*0"),
        ({"conn_limit": 1.5}, r"conn_limit.*1\.5"),
        ({"conn_timeout": 0}, "conn_timeout.*0"),
        ({"conn_timeout": -1}, "conn_timeout.*-1"),
        ({"conn_timeout": float("nan")}, "conn_timeout.*nan"),
        ({"conn_timeout": "1"}, "conn_timeout.*'1'"),
    ],
    ids=repr,
)
def test_constructor_arguments_that_cannot_be_used_are_named(make_client, options, match):
    with pytest.raises(tritonhttp.InvalidRequest, match=match):
        make_client(**options)


# -- the line for a connection


def test_waiting_calls_are_served_in_order(run, make_client):
    async def body():
        async with make_client(conn_limit=1) as client:
            served = []

            async def call(n):
                await check(client)
                served.append(n)

            blocker = asyncio.create_task(slow(client, 0.2))
            await asyncio.sleep(0.05)
            await asyncio.gather(*(call(n) for n in range(30)))
            assert served == list(range(30))
            await blocker

    run(body())


@pytest.mark.parametrize("which", ["all", "every other one", "the first", "the last"])
def test_cancelled_waiters_lose_no_place_and_no_turn(run, make_client, which):
    chosen = {
        "all": range(40),
        "every other one": range(0, 40, 2),
        "the first": range(20),
        "the last": range(20, 40),
    }[which]

    async def body():
        async with make_client(conn_limit=1) as client:
            served = []

            async def call(n):
                await check(client)
                served.append(n)

            blocker = asyncio.create_task(slow(client, 0.2))
            await asyncio.sleep(0.05)
            tasks = [asyncio.create_task(call(n)) for n in range(40)]
            await asyncio.sleep(0.05)
            for n in chosen:
                tasks[n].cancel()
            await asyncio.wait(tasks)
            assert served == [n for n in range(40) if n not in chosen]
            assert [n for n in range(40) if tasks[n].cancelled()] == list(chosen)
            await blocker
            await asyncio.wait_for(check(client), 10)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


def test_a_waiter_that_is_cancelled_when_its_turn_comes_hands_it_on(run, make_client):
    """The connection is given to the waiter, and the waiter cancelled before it runs."""

    async def body():
        async with make_client(conn_limit=1) as client:
            for _ in range(10):
                holder = asyncio.create_task(check(client))
                await asyncio.sleep(0)
                waiting = asyncio.create_task(check(client))
                behind = asyncio.create_task(check(client))
                await asyncio.sleep(0)
                # Done before the waiter's wake-up, which the end of the call schedules.
                holder.add_done_callback(lambda _, waiting=waiting: waiting.cancel())
                await asyncio.wait([holder, waiting])
                await asyncio.wait_for(behind, 10)
            await asyncio.wait_for(check(client), 10)

    run(body())


def test_cancelling_wins_over_a_deadline_in_the_same_moment(run, make_client):
    """The waiter is turned away, and its task cancelled before it runs."""

    async def body():
        async with make_client(conn_limit=1) as client:
            blocker = asyncio.create_task(slow(client, 0.3))
            await asyncio.sleep(0.05)
            task = asyncio.create_task(check(client))
            await asyncio.sleep(0)
            (place,) = client._transport.pool.line
            place.wake()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await blocker
            await asyncio.wait_for(check(client), 10)

    run(body())


# -- errors


def test_errors_survive_pickling(run, make_client):
    async def body():
        async with make_client(conn_limit=1, conn_timeout=0.3) as client:
            for call in (
                lambda: slow(client, 0.8),
                lambda: client.get_model_metadata("no_such_model"),
                lambda: client.infer("identity_fp32", [tritonhttp.InferInput("INPUT0", [1], "FP32")]),
            ):
                with pytest.raises(tritonhttp.InferenceServerException) as caught:
                    await call()
                error = caught.value
                again = pickle.loads(pickle.dumps(error))
                assert type(again) is type(error)
                assert (str(again), again.status()) == (str(error), error.status())
                assert vars(again) == vars(error)

    run(body())
