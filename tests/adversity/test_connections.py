"""Connections that break or stay silent during a call, beyond the table of faults."""

import asyncio
import contextlib
import gc
import json
import socket
import weakref

import pytest

import tritonhttp.aio
from tritonhttp import ConnectionLost, DeadlineExceeded

from ..clients import tensor
from ..framing import inference_answer
from .conftest import LARGE, SMALL
from .faults import identity, reads_one, trusting
from .servers import HEALTHY, Sends, answer, behind_a_good_answer, healthy, over_tls


def test_a_silent_server_is_a_deadline(serve, fails, within, client_kind):
    server = serve(lambda peer: peer.hold())
    with within(0.25):
        error = fails(server, DeadlineExceeded, "timed out.*no byte of a response", network_timeout=0.3)
    # The blocking client's limit is for each step, and named; the asyncio client's for the whole call.
    assert ("no progress for 0.3 s" in error.message()) is (client_kind == "blocking")
    assert isinstance(error, TimeoutError)
    assert f"http://{server.url}/v2" in error.message()
    assert error.phase == "receive"


def test_a_large_answer_to_a_large_request_arrives(serve, open_client):
    body = b"x" * 3_000_000
    head = b'{"model_name":"m","outputs":[{"name":"O","datatype":"UINT8","shape":[3000000],'
    head += b'"parameters":{"binary_data_size":3000000}}]}'
    client = open_client(serve(Sends(inference_answer(head, body), "go on")).url)
    result = client.infer("healthy", [tensor("INPUT0", LARGE)])
    assert result.as_numpy("O").tobytes() == body


def test_a_server_that_always_dies_is_not_asked_forever(open_client, serve):
    server = serve(*[behind_a_good_answer(reads_one)] * 2, *[lambda peer: None] * 3)
    client = open_client(server.url)
    assert client.get_server_metadata() == HEALTHY
    assert client.get_server_metadata() == HEALTHY  # its second try is a first request
    with pytest.raises(ConnectionLost):
        client.get_server_metadata()
    assert server.connections == 3


def infer_often(client, count):
    """Infer one time after the other; on asyncio with nothing between that lets the event loop look."""
    tensors = [tensor("INPUT0", SMALL)]
    if not hasattr(client, "_loop"):
        return [client.infer("healthy", tensors).get_response() for _ in range(count)]

    async def infer():
        return [(await client._client.infer("healthy", tensors)).get_response() for _ in range(count)]

    return asyncio.run_coroutine_threadsafe(infer(), client._loop).result(30)


@pytest.mark.parametrize("tls", [False, True])
def test_bytes_after_a_large_answer_are_not_the_next_answer(serve, open_client, tls):
    pad = b" " * 200_000
    script = Sends(answer(json.dumps(HEALTHY).encode() + pad) + answer({**HEALTHY, "name": "wrong"}), "go on")
    server = serve(over_tls(identity(), script), over_tls(identity(), healthy)) if tls else serve(script)
    options = {"ssl": True, "ssl_context_factory": trusting} if tls else {}
    assert infer_often(open_client(server.url, **options), 2) == [HEALTHY] * 2
    assert server.connections == 2


def test_an_idle_connection_does_not_keep_the_answer(serve, open_client):
    client = open_client(serve(Sends(answer(json.dumps(HEALTHY).encode() + b" " * 1_000_000), "go on")).url)
    memory = weakref.ref(client.infer("healthy", [tensor("INPUT0", SMALL)])._body.obj)
    gc.collect()
    assert client._transport.pool.idle
    assert memory() is None
    assert client.infer("healthy", [tensor("INPUT0", SMALL)]).get_response() == HEALTHY


def test_a_call_abandoned_on_one_loop_takes_no_place_on_the_next(serve):
    server = serve(lambda peer: peer.hold())
    client = tritonhttp.aio.InferenceServerClient(server.url, conn_limit=2)
    with (
        contextlib.closing(asyncio.new_event_loop()) as left,
        contextlib.closing(asyncio.new_event_loop()) as loop,
    ):
        task = left.create_task(client.get_server_metadata())
        while not client._transport._connections:
            left.run_until_complete(asyncio.sleep(0.01))
        assert loop.run_until_complete(client.get_server_metadata()) == HEALTHY
        with pytest.raises(ConnectionLost):
            left.run_until_complete(task)
        pool = client._transport.pool
        assert (pool.taken, len(pool.idle)) == (1, 1)
        loop.run_until_complete(client.close())


@pytest.mark.skipif(not hasattr(socket, "MSG_MORE"), reason="needs an answer and its FIN in one segment")
def test_a_server_may_close_after_each_answer_without_announcing_it(serve, open_client):
    def once(peer):
        peer.read_request()
        peer.sock.send(answer(HEALTHY), socket.MSG_MORE)

    server = serve(*[once] * 5)
    assert infer_often(open_client(server.url), 5) == [HEALTHY] * 5
    assert server.connections == 5


def test_many_calls_under_tls_share_a_connection(serve, open_client, call):
    server = serve(over_tls(identity(), healthy))
    client = open_client(server.url, ssl=True, ssl_context_factory=trusting)
    for _ in range(10):
        assert call(client) == HEALTHY
    assert server.connections == 1
