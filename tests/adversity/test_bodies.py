"""Compressed bodies that take long to read, and objects in the place of responses, on both clients."""

import asyncio
import gzip
import time
from functools import partial

import numpy as np
import pytest

from tritonhttp import DeadlineExceeded, ProtocolError, Retry, ServerError
from tritonhttp._wire import compression

from ..clients import tensor
from .servers import HEALTHY, Sends, answer

#: A body of 2 GiB of spaces, in members of 16 MiB, and one of nothing.
SPACES = gzip.compress(b" " * (1 << 24)) * 128
EMPTY = gzip.compress(b"") * 1_000_000


def folded(body, status="200 OK", headers=""):
    return answer(body, status, f"{headers}Content-Encoding: gzip\r\n")


@pytest.fixture(autouse=True)
def limit(monkeypatch):
    monkeypatch.setattr(compression, "MAX_DECOMPRESSED", 1 << 40)


def infer(client, **options):
    return client.infer("m", [tensor("INPUT0", np.zeros(3, np.float32))], **options)


def infer_compressed(client, **options):
    return infer(client, response_compression_algorithm="gzip", **options)


def infer_beside(client, **options):
    inputs = [tensor("INPUT0", np.zeros(3, np.float32))]
    if not hasattr(client, "async_infer"):
        pytest.skip("only the blocking client has it")
    return client.async_infer("m", inputs, **options).get_result()


def stream(client, **options):
    return list(client.generate_stream("m", {}, **options))


def metadata(client, **options):
    return client.get_server_metadata(**options)


CALLS = [infer, infer_compressed, infer_beside, stream, metadata]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("body", [SPACES, EMPTY], ids=["bomb", "empty members"])
def test_a_body_that_expands_for_long_ends_with_its_call(serve, open_client, call, body):
    headers = "Content-Type: text/event-stream\r\n" if call is stream else ""
    if call is stream and body is SPACES:
        body = gzip.compress(b": beat\n" * (1 << 20)) * 300
    expands = Sends(folded(body, headers=headers), "go on")
    server = serve(*[expands] * 9)
    client = open_client(server.url)
    error = decompressing(partial(call, client))
    assert "the call's 0.3 s" in error.message()
    assert (error.phase, error.method, error.attempts) == (
        "receive",
        "GET" if call is metadata else "POST",
        1,
    )
    assert error.url.startswith(f"http://{server.url}/v2")
    expands.data = answer(HEALTHY)
    assert client.get_server_metadata() == HEALTHY


def test_a_body_that_expands_for_long_tells_of_its_tries(serve, open_client):
    busy = Sends(answer(b"{}", "503 Busy", "Connection: close\r\n"))
    server = serve(busy, Sends(folded(EMPTY), "go on"))
    client = open_client(server.url, retry=Retry(attempts=2, backoff=0))
    with pytest.raises(DeadlineExceeded, match="decompressing") as caught:
        infer(client, deadline=2, idempotent=True)
    assert caught.value.attempts == 2


def decompressing(call):
    """Return the error of a call that is out of time while it decompresses: a busy machine may still receive."""
    for _ in range(8):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            call(deadline=0.3)
        assert 0.3 <= time.monotonic() - began < 8
        if "timed out while decompressing " in caught.value.message():
            return caught.value
    raise caught.value


def test_an_error_that_expands_for_long_ends_with_its_call(serve, open_client):
    client = open_client(serve(*[Sends(folded(EMPTY, "500 No"), "go on")] * 9).url)
    decompressing(partial(infer, client))
    reply = folded(gzip.compress(b'{"error":"folded"}'), "500 No")
    with pytest.raises(ServerError, match="folded"):
        infer(open_client(serve(Sends(reply)).url), deadline=5)


@pytest.mark.parametrize("kind", ["infer", "stream"])
def test_other_tasks_run_while_a_body_is_decompressed(serve, client_kind, kind):
    if client_kind != "asyncio":
        pytest.skip("of the event loop")
    import tritonhttp.aio

    headers = "Content-Type: text/event-stream\r\n" if kind == "stream" else ""
    body = gzip.compress(b": beat\n" * (1 << 20)) * 30 if kind == "stream" else SPACES
    url = serve(Sends(folded(body, headers=headers))).url

    async def work():
        async with tritonhttp.aio.InferenceServerClient(url) as client:
            if kind == "infer":
                return await client.infer("m", [tensor("INPUT0", np.zeros(3, np.float32))], deadline=1)
            async with client.generate_stream("m", {}, deadline=1) as answers:
                return [each async for each in answers]

    async def watch():
        task = asyncio.create_task(work())
        # In time of the processor, which other programs take none of.
        longest, before = 0.0, time.thread_time()
        while not task.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
        with pytest.raises(DeadlineExceeded):
            await task
        return longest

    assert asyncio.run(watch()) < 0.5


def test_a_stream_may_be_left_in_the_middle_of_a_slice(serve, open_client, within):
    body = gzip.compress(b'data: {"a": 1}\n\n' + b": beat\n" * (1 << 20)) * 300
    head = "Content-Type: text/event-stream\r\n"
    client = open_client(serve(Sends(folded(body, headers=head), "go on")).url)
    with within(0, 5), client.generate_stream("m", {}) as answers:
        assert next(answers) == {"a": 1}
    assert client.get_server_metadata() == HEALTHY


# -- a replaced `_get` or `_post` that gives something else


class Theirs:
    def __init__(self, body, status_code=200):
        self.body, self.status_code = body, status_code

    def get(self, name):
        return None

    def read(self):
        return self.body


@pytest.fixture
def replaced(serve, open_client, client_kind):
    """Return a client whose `_get` and `_post` give this."""

    def replaced(given):
        client = open_client(serve().url)

        def give(**_):
            return given

        async def give_later(**_):
            return given

        inner = getattr(client, "_client", client)
        inner._get = inner._post = give_later if client_kind == "asyncio" else give
        return client

    return replaced


@pytest.mark.parametrize("kind", [str, bytes, bytearray, memoryview])
def test_the_body_of_another_object_is_text_or_bytes(replaced, kind):
    text = '{"name":"healthy","model_name":"healthy","outputs":[]}'
    client = replaced(Theirs(text if kind is str else kind(text.encode())))
    assert infer(client).get_response() == HEALTHY
    assert metadata(client) == HEALTHY
    with pytest.raises(ServerError, match=r"^\[500\] healthy"):
        metadata(replaced(Theirs("healthy" if kind is str else kind(b"healthy"), 500)))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Theirs(None), "Theirs.read.*expected bytes, got NoneType"),
        (Theirs(5), "expected bytes, got int"),
        (Theirs(None, 500), "expected bytes, got NoneType"),
        (Theirs(b"", "200"), "got Theirs with status_code '200'"),
        ("text", "got str with status_code None"),
        (None, "got NoneType"),
        ({"name": "m"}, "got dict"),
    ],
)
@pytest.mark.parametrize("call", [infer, metadata, stream], ids=lambda call: call.__name__)
def test_what_is_no_response_is_one_clear_error(replaced, call, given, says):
    with pytest.raises(ProtocolError, match=says):
        call(replaced(given))
