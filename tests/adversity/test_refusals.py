"""Servers and gateways that refuse, on both clients: what callers are told, and how often servers are asked."""

import json
import re
import sys

import numpy as np
import pytest

from tritonhttp import DeadlineExceeded, InvalidRequest, ServerError

from ..clients import tensor
from ..unit.test_refusals import IN_PROCESS, SWITCHED_OFF
from .conftest import CALLS
from .servers import HEALTHY, Answers, answer

NO_MEMORY = [("501 Not Implemented", SWITCHED_OFF), ("503 Service Unavailable", IN_PROCESS)]


def without_memory(status, body):
    """Answer what is asked of shared memory with an error, and everything else correctly."""

    def script(peer):
        while peer.read_request():
            refused = b"sharedmemory" in peer.server.requests[-1].split(b"\r\n")[0]
            peer.send(answer(body, status) if refused else answer(HEALTHY))

    return script


def of_memory(server):
    return [
        head.split()[1].decode().rpartition("/")[2] for head in server.requests if b"sharedmemory" in head
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")
@pytest.mark.parametrize(("status", "words"), NO_MEMORY)
def test_a_server_without_shared_memory_is_asked_for_it_once(serve, open_client, caplog, status, words):
    server = serve(without_memory(status, {"error": words}))
    client = open_client(server.url, shared_memory="auto", shared_memory_threshold=1)
    for _ in range(4):
        client.infer("m", [tensor("INPUT0", np.zeros(8, np.float32))])
    client.close()
    assert of_memory(server) == ["register"]
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert words in record.getMessage()
    assert "--allow-client-shm=true" in record.getMessage()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")
def test_a_gateways_503_is_not_taken_for_the_servers(serve, open_client):
    server = serve(without_memory("503 Service Unavailable", b"<html>shared memory</html>"))
    client = open_client(server.url, shared_memory="auto", shared_memory_threshold=1)
    for _ in range(3):
        client.infer("m", [tensor("INPUT0", np.zeros(8, np.float32))])
    assert of_memory(server).count("register") == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")
@pytest.mark.parametrize(("status", "words"), NO_MEMORY)
def test_explicit_registrations_say_what_the_server_needs(serve, open_client, status, words):
    server = serve(without_memory(status, {"error": words}))
    client = open_client(server.url)

    def managed():
        with client.shared_memory(64):
            pass

    for call in (
        lambda: client.register_system_shared_memory("a", "/a", 64),
        lambda: client.register_cuda_shared_memory("a", b"aaaa", 0, 64),
        lambda: client.unregister_system_shared_memory("a"),
        managed,
    ):
        with pytest.raises(ServerError, match=re.escape(words)) as caught:
            call()
        assert str(caught.value).count("--allow-client-shm=true") > (words == SWITCHED_OFF)
        assert json.loads(caught.value.debug_details()) == {"error": words}


@pytest.mark.parametrize("headers", [None, {"hOST": "models.example", "x": "y"}], ids=["own", "given"])
@pytest.mark.parametrize("call", CALLS)
def test_an_empty_404_names_the_host_that_was_sent(serve, open_client, headers, call):
    server = serve(Answers(answer(b"", "404 Not Found")))
    host = "models.example" if headers else server.url
    with pytest.raises(ServerError, match=f"is the URL's base path right.*another Host than '{host}'"):
        CALLS[call](open_client(server.url), headers=headers)
    assert f"\r\nhost: {host}\r\n".encode() in server.requests[0].lower()


@pytest.mark.parametrize(
    "options", [{}, {"headers": {"x": "y"}}, {"request_compression_algorithm": "gzip"}, {"sequence_id": 3}]
)
@pytest.mark.parametrize("shared_memory", [None, "auto"])
def test_a_request_that_would_end_the_server_is_not_sent(serve, open_client, options, shared_memory):
    server = serve()
    client = open_client(server.url, shared_memory=shared_memory)
    data = np.broadcast_to(np.uint8(0), (1 << 32,))  # which takes no memory
    calls = [client.infer] + ([client.async_infer] if hasattr(client, "async_infer") else [])
    for call in calls:
        with pytest.raises(InvalidRequest, match="expected a request of less than 2 GiB, got 4294967"):
            getattr(call("m", [tensor("X", data)], **options), "get_result", lambda: None)()
    assert not any(b"/infer" in head for head in server.requests)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("inference header size should be in range (0, -2147478492), got: 156", "less than 2 GiB"),
        ("request JSON size of 68000084 bytes exceeds … Use --http-max-input-size", "64 MiB by default"),
    ],
)
@pytest.mark.parametrize("call", ["infer", "stream"])
def test_answers_to_requests_that_are_too_large_say_what_to_do(serve, open_client, call, words, advice):
    server = serve(Answers(answer({"error": words}, "400 Bad Request")))
    with pytest.raises(ServerError, match=f"{re.escape(words)} .*{advice}"):
        CALLS[call](open_client(server.url))


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("404 Not Found", b"", "is the URL's base path right"),
        ("403 Forbidden", {"error": "This API is restricted, expecting header 'k'"}, "headers={'k': …}"),
        ("400 Bad Request", b"", "the last answer: not ready"),
    ],
)
def test_waiting_for_a_server_ends_with_what_it_refuses(serve, open_client, status, body, words):
    client = open_client(serve(Answers(answer(body, status))).url)
    for model in (None, "m"):
        with pytest.raises(DeadlineExceeded, match=re.escape(words)):
            client.wait_until_ready(0.04, model)
