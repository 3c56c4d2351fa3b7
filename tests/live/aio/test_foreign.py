"""Errors that are aiohttp's as well, where the program has imported aiohttp."""

import pickle

import pytest

import tritonhttp.aio
from tritonhttp import ConnectRefused

aiohttp = pytest.importorskip("aiohttp", reason="a dependency of the tests only")


async def refusal(of=lambda client: client.is_server_live()):
    async with tritonhttp.aio.InferenceServerClient("127.0.0.1:9") as client:
        with pytest.raises(ConnectRefused) as caught:
            await of(client)
    return caught.value


def test_an_inference_fails_with_aiohttps_error_too(run):
    error = run(refusal(lambda client: client.infer("m", [])))
    assert isinstance(error, aiohttp.ClientConnectorError)


def test_a_refused_connection_is_aiohttps_too_and_pickles_as_ours(run):
    error = run(refusal())
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert (error.host, error.port) == ("127.0.0.1", 9)
    assert type(error).__name__ == "ConnectRefused"
    assert str(error).startswith("GET http://127.0.0.1:9/v2/health/live: cannot connect")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is ConnectRefused
    assert (str(twin), twin.phase) == (str(error), error.phase)


def test_without_aiohttp_it_is_ours_alone(run, monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, "aiohttp")
    assert type(run(refusal())) is ConnectRefused
