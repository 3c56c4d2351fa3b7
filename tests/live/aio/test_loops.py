"""A client's life on event loops: none yet, one, the next, two at a time, another process's."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tritonhttp
from tritonhttp.aio import InferenceServerClient

from ...clients import tensor
from ...processes import exit_status, in_child, needs_fork

#: A loop that ends before its client is closed leaves connections, which asyncio and uvloop tell of.
left_open = pytest.mark.filterwarnings("ignore:unclosed (transport|resource):ResourceWarning")

ONES = np.ones(3, np.float32)


async def check(client, value=1.0):
    array = np.full(5, value, np.float32)
    result = await client.infer("identity_fp32", [tensor("INPUT0", array)])
    assert result.as_numpy("OUTPUT0").tolist() == array.tolist()
    assert await client.is_server_live()


@left_open
def test_a_client_made_outside_of_a_loop_serves_one_loop_after_the_other(run, make_client):
    client = make_client()

    async def on_a_loop(value):
        await check(client, value)
        await asyncio.gather(*(check(client, value + n) for n in range(4)))

    async def last():
        async with client:
            await check(client, 9)

    for value in (1, 2, 3):
        run(on_a_loop(value))
    run(last())


@left_open
def test_a_client_that_is_closed_on_another_loop_than_it_was_used_on(run, make_client, open_descriptors):
    client = make_client()
    before = open_descriptors()
    run(check(client))
    run(client.close())
    gc.collect()
    assert open_descriptors() == before
    with pytest.raises(tritonhttp.InferenceServerException, match="the client is closed"):
        run(check(client))


def test_two_loops_at_a_time_are_refused_and_the_first_goes_on(run, make_client):
    client = make_client()
    ready, done = threading.Event(), threading.Event()
    failures = []

    async def first():
        async with client:
            await check(client, 1)
            ready.set()
            while not done.is_set():
                await check(client, 2)
            await check(client, 3)

    def in_thread():
        try:
            asyncio.run(first())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    try:
        assert ready.wait(20)
        for call in (client.is_server_live, lambda: check(client), client.close):

            async def second(call=call):
                await call()

            with pytest.raises(tritonhttp.InvalidRequest, match=r"another event loop.*client for each loop"):
                run(second())
    finally:
        done.set()
        thread.join()
    assert failures == []


def test_async_with_closes_also_behind_an_error(run, make_client, open_descriptors):
    before = open_descriptors()

    async def body():
        inside = open_descriptors()
        client = make_client()

        async def block():
            async with client as entered:
                assert entered is client
                await check(client)
                assert len(open_descriptors()) > len(inside)
                raise RuntimeError("of the block")

        with pytest.raises(RuntimeError, match="of the block"):
            await block()
        assert open_descriptors() == inside, "close returns when the sockets are closed"
        with pytest.raises(tritonhttp.InferenceServerException, match="the client is closed"):
            await client.is_server_live()

    run(body())
    assert open_descriptors() == before


def test_close_is_idempotent_and_every_later_call_says_so(run, make_client):
    async def body():
        client = make_client()
        await check(client)
        await asyncio.gather(client.close(), client.close())
        await client.close()
        for call in (
            client.is_server_live,
            client.get_model_repository_index,
            lambda: client.infer("identity_fp32", [tensor("INPUT0", ONES)]),
        ):
            with pytest.raises(tritonhttp.InferenceServerException, match="the client is closed"):
                await call()

    run(body())


def test_a_client_that_was_never_used_closes(run, make_client):
    run(make_client().close())
    make_client()


def test_close_lets_calls_under_way_end_and_refuses_waiting_ones(
    run, make_client, instances, open_descriptors
):
    async def body():
        before = open_descriptors()
        client = make_client(conn_limit=1)
        delay = [tensor("DELAY", np.array([0.3], np.float32))]
        under_way = asyncio.create_task(client.infer("slow", delay))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(client.is_server_live()) for _ in range(3)]
        await asyncio.sleep(0)
        await client.close()
        for task in waiting:
            with pytest.raises(tritonhttp.InferenceServerException, match="the client is closed"):
                await task
        assert (await under_way).as_numpy("OUTPUT") == np.float32(0.3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert open_descriptors() == before

    run(body())


def test_a_client_that_is_dropped_closes_its_sockets_and_leaves_no_task(run, make_client, open_descriptors):
    async def body():
        before = open_descriptors()
        client = make_client()
        await asyncio.gather(*(check(client) for _ in range(4)))
        assert len(open_descriptors()) > len(before)
        del client
        gc.collect()
        await asyncio.sleep(0.05)
        assert open_descriptors() == before
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


def test_a_program_that_just_ends_ends_well(triton_server):
    program = f"""
import asyncio
import tritonhttp.aio
client = tritonhttp.aio.InferenceServerClient({triton_server.url!r})
print(asyncio.run(client.is_server_live()))
"""
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert time.monotonic() - before < 10


# -- fork


def sockets(open_descriptors):
    return {target for target in open_descriptors().values() if target.startswith("socket:")}


@needs_fork
def test_a_child_forked_inside_of_the_loop_makes_its_own_connections(run, make_client, open_descriptors):
    client = make_client()

    async def twice(value):
        for _ in range(10):
            await check(client, value)

    def child(inherited):
        assert not inherited & sockets(open_descriptors), "the parent's connections are closed here"
        asyncio.run(twice(2))
        asyncio.run(client.close())

    async def parent():
        before = sockets(open_descriptors)
        await asyncio.gather(*(check(client) for _ in range(3)))
        mine = sockets(open_descriptors) - before
        assert mine
        pid = in_child(lambda: child(mine))
        await twice(1)
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            await check(client)
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        assert sockets(open_descriptors) - before == mine, "the parent goes on with its connections"
        await client.close()

    run(parent())


@needs_fork
@left_open
def test_a_child_forked_behind_the_loop_starts_anew(run, make_client):
    client = make_client()
    run(check(client))

    def child():
        run(check(client, 2))
        run(client.close())

    assert exit_status(in_child(child)) == 0
    run(check(client, 3))
    run(client.close())


@needs_fork
def test_a_child_leaves_calls_under_way_to_the_parent(make_client):
    client = make_client(conn_limit=1)

    def child():
        asyncio.run(check(client, 2))

    async def parent():
        delay = [tensor("DELAY", np.array([0.5], np.float32))]
        slow = asyncio.create_task(client.infer("slow", delay))
        waits = asyncio.create_task(check(client, 3))
        await asyncio.sleep(0.1)
        pid = in_child(child)
        assert (await slow).as_numpy("OUTPUT") == np.float32(0.5)
        await waits
        assert exit_status(pid) == 0
        await client.close()

    asyncio.run(parent())


def test_a_name_is_looked_up_beside_the_loop(run, triton_server):
    port = triton_server.url.rpartition(":")[2]
    try:
        socket.getaddrinfo("localhost", port)
    except OSError:
        pytest.skip("this machine does not know localhost")

    async def body():
        async with InferenceServerClient(f"localhost:{port}") as client:
            await asyncio.gather(*(check(client) for _ in range(5)))

    run(body())
