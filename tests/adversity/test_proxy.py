"""A real Triton behind a proxy that delays, stalls and cuts. Triton itself says how often the model ran."""

import os

import numpy as np
import pytest

from tritonhttp import ConnectionLost, DeadlineExceeded, InferenceServerClient

from ..clients import tensor, wait_until
from ..live.conftest import start_module_server
from .servers import relays

__all__ = ["start_module_server"]  # the fixture

MODEL = "identity_fp32"
ARRAY = np.arange(100_000, dtype=np.float32)


@pytest.fixture(scope="module")
def url(request):
    """The address of a Triton, if it is our own of one with this model alone: each takes time to start."""
    if request.config.getoption("--triton-url") or os.environ.get("TRITON_URL"):
        return request.getfixturevalue("triton_server").url
    return request.getfixturevalue("start_module_server")(models=[MODEL]).url


@pytest.fixture
def triton(url):
    """Triton's address, and how often the model ran."""
    host, _, port = url.rpartition(":")

    def runs():
        with InferenceServerClient(url) as direct:
            (stats,) = direct.get_inference_statistics(MODEL)["model_stats"]
            return stats["execution_count"]

    return (host, int(port)), runs


def infer(client, array=ARRAY, **options):
    return client.infer(MODEL, [tensor("INPUT0", array)], **options).as_numpy("OUTPUT0")


@pytest.mark.parametrize(
    ("options", "array", "least"),
    [
        ({"step": 40_000, "pause": 0.02}, ARRAY, 0.2),
        ({"step": 1}, ARRAY[:100], 0),
        ({"pause": 0.1}, ARRAY[:100], 0.1),
    ],
    ids=["throttled", "one byte at a time", "far away"],
)
def test_slow_answers_arrive_whole(triton, serve, open_client, within, options, array, least):
    address, runs = triton
    server = serve(relays(*address, **options))
    client = open_client(server.url)
    before = runs()
    for _ in range(2):
        with within(least, 8):
            assert (infer(client, array, deadline=10) == array).all()
    assert server.connections == 1
    assert runs() == before + 2


PLACES = {
    "in the request's head": ({"request": 50}, 0),
    "in the request's body": ({"request": 200_000}, 0),
    "behind the request": ({"response": 0}, 1),
    "in the response's head": ({"response": 30}, 1),
    "in the response's body": ({"response": 200_000}, 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_stall_ends_with_the_deadline(triton, serve, open_client, within, place):
    address, runs = triton
    options, ran = PLACES[place]
    server = serve(relays(*address, **options), relays(*address))
    client = open_client(server.url)
    before = runs()
    with within(0.2), pytest.raises(DeadlineExceeded, match=r"timed out while (sending|receiving)"):
        infer(client, deadline=0.25)
    wait_until(lambda: runs() == before + ran)
    assert (infer(client, deadline=5) == ARRAY).all()
    assert server.connections == 2
    assert runs() == before + ran + 1


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("place", PLACES)
def test_a_cut_is_a_connection_lost_and_the_model_runs_once_at_most(triton, serve, open_client, place, then):
    address, runs = triton
    options, ran = PLACES[place]
    server = serve(relays(*address, **options, then=then), relays(*address))
    client = open_client(server.url)
    before = runs()
    with pytest.raises(ConnectionLost):  # and not the deadline
        infer(client, deadline=5)
    wait_until(lambda: runs() == before + ran)
    assert (infer(client, deadline=5) == ARRAY).all()
    assert server.connections == 2
    assert runs() == before + ran + 1
