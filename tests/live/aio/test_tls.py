"""TLS on each loop, before the real server."""

import asyncio
import hashlib
import pickle
import ssl

import numpy as np
import pytest
import trustme

from tritonhttp._transport.asyncio_connection import Connection
from tritonhttp.aio import InferenceServerClient
from tritonhttp.errors import CertificateError, TLSError

from ...clients import tensor


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def secure(make_gateway, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return make_gateway(context=context)


@pytest.fixture
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_trusted_server_answers_over_one_connection(run, secure, trusting):
    large = np.random.default_rng(5).standard_normal(1 << 20, np.float32)

    async def body():
        async with InferenceServerClient(secure.url, ssl=True, ssl_context=trusting) as client:
            assert await client.is_server_live()
            for array in (large, large[:3]):
                result = await client.infer("identity_fp32", [tensor("INPUT0", array)])
                assert np.array_equal(result.as_numpy("OUTPUT0"), array)

    run(body())
    assert secure.connections == 1


@pytest.mark.parametrize("context", [None, ssl.create_default_context()], ids=["no context", "the default"])
def test_an_unknown_authority_is_refused(run, secure, context):
    async def body():
        async with InferenceServerClient(secure.url, ssl=True, ssl_context=context) as client:
            with pytest.raises(TLSError, match="certificate verify failed"):
                await client.is_server_live()

    run(body())
    assert secure.seen == []


def test_aiohttps_false_verifies_nothing(run, make_gateway, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    url = make_gateway(context=context).url

    async def body():
        async with InferenceServerClient(url, ssl=True, ssl_context=False) as client:
            assert await client.is_server_live()
        for verifying in (True, None):
            async with InferenceServerClient(url, ssl=True, ssl_context=verifying) as client:
                with pytest.raises(TLSError, match="certificate verify failed"):
                    await client.is_server_live()

    run(body())


def test_aiohttps_fingerprint_accepts_one_certificate(run, make_gateway, authority):
    aiohttp = pytest.importorskip("aiohttp")
    certificate = authority.issue_cert("elsewhere.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    url = make_gateway(context=context).url
    encoded = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    got = hashlib.sha256(encoded).digest()

    async def body():
        pinned = aiohttp.Fingerprint(got)
        async with InferenceServerClient(url, ssl=True, ssl_context=pinned) as client:
            assert await client.is_server_live()
        expected = bytes(32)
        other = aiohttp.Fingerprint(expected)
        async with InferenceServerClient(url, ssl=True, ssl_context=other) as client:
            with pytest.raises(
                aiohttp.ServerFingerprintMismatch, match=f"is {got.hex()}, expected 00"
            ) as caught:
                await client.is_server_live()
        assert isinstance(caught.value, CertificateError)
        assert (caught.value.got, caught.value.expected, caught.value.host) == (got, expected, "127.0.0.1")
        assert type(pickle.loads(pickle.dumps(caught.value))) is CertificateError

    run(body())


@pytest.mark.parametrize("steps", range(0, 12, 3))
def test_a_call_cancelled_in_the_handshake_leaves_nothing(run, secure, trusting, steps):
    async def body():
        async with InferenceServerClient(secure.url, ssl=True, ssl_context=trusting) as client:
            task = asyncio.create_task(client.is_server_live())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await asyncio.gather(*(client.is_server_live() for _ in range(3))) == [True] * 3

    run(body())


def test_a_call_cancelled_just_when_the_handshake_ends_leaves_nothing(run, secure, trusting, monkeypatch):
    made = Connection.connection_made

    async def body():
        async with InferenceServerClient(secure.url, ssl=True, ssl_context=trusting) as client:
            task = asyncio.create_task(client.is_server_live())

            def connection_made(connection, transport):
                made(connection, transport)
                task.cancel()

            monkeypatch.setattr(Connection, "connection_made", connection_made)
            await asyncio.wait([task])
            assert task.cancelled()
            monkeypatch.undo()
            assert await asyncio.gather(*(client.is_server_live() for _ in range(3))) == [True] * 3

    run(body())
