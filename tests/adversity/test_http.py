"""Answers that are right, and large, slow or late."""

import time

import pytest

from tritonhttp import DeadlineExceeded

from ..framing import chunks
from .faults import CHUNKED, JSON
from .servers import HEALTHY, Sends, Trickles, answer


@pytest.mark.parametrize("client_kind", ["blocking"])  # whose network_timeout is for each step
def test_a_server_that_trickles_makes_progress(serve, open_client, call, recovers):
    data = answer(HEALTHY)
    server = serve(Trickles(data, pause=0.03, step=6))
    client = open_client(server.url, network_timeout=0.35)
    before = time.monotonic()
    assert call(client) == HEALTHY
    assert time.monotonic() - before > 0.35
    recovers(client)


def test_a_server_that_trickles_too_slowly_is_a_deadline(serve, fails):
    server = serve(Trickles(answer(HEALTHY), pause=1, step=10))
    fails(server, DeadlineExceeded, "timed out.*bytes of the response's head", network_timeout=0.6)


def test_a_body_until_the_end_may_be_large(serve, open_client):
    filler = b" " * 3_000_000
    client = open_client(serve(Sends(b"HTTP/1.1 200 OK\r\n\r\n" + filler + JSON)).url)
    assert client.get_server_metadata() == HEALTHY
    assert client.get_server_metadata() == HEALTHY


def test_a_chunked_body_may_be_large(serve, open_client):
    pieces = [b" " * 100_000] * 20
    client = open_client(serve(Sends(CHUNKED + b"\r\n" + chunks(*pieces, JSON), "go on")).url)
    assert client.get_server_metadata() == HEALTHY
    assert client.get_server_metadata() == HEALTHY
