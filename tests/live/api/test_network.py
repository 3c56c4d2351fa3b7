"""A real Triton behind proxies and a unix domain socket, asked before large bodies, and with limits."""

import contextlib
import socket
import ssl
import threading

import numpy as np
import pytest
import trustme

import tritonhttp

from ...clients import tensor
from ...proxies import Proxy, relay

LARGE = np.random.default_rng(7).standard_normal(2_000_000, np.float32)


def check_traffic(client):
    assert client.is_server_live()
    result = client.infer("identity_fp32", [tensor("INPUT0", LARGE)])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LARGE)
    small = [tensor(name, np.full((1, 16), 3, np.int32)) for name in ("INPUT0", "INPUT1")]
    assert client.infer("add_sub", small).as_numpy("OUTPUT0").tolist() == [[6] * 16]
    with pytest.raises(tritonhttp.ServerError, match="unknown model"):
        client.get_model_metadata("no_such_model")


@pytest.fixture
def proxy():
    with Proxy("user:pass word") as proxy:
        yield proxy


def test_calls_go_through_a_proxy(proxy, make_client):
    client = make_client(proxy=f"http://user:pass%20word@{proxy.url}")
    check_traffic(client)
    assert len(proxy.seen) == 4
    assert client._transport.counts.opened == 1


def test_calls_go_through_a_tunnel(proxy, make_gateway, open_client):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def trusting():
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    gateway = make_gateway(context=context, base_path="/triton")
    options = {"ssl": True, "ssl_context_factory": trusting}
    client = open_client(gateway.url, proxy=f"http://user:pass%20word@{proxy.url}", **options)
    check_traffic(client)
    assert proxy.seen == [f"CONNECT 127.0.0.1:{gateway.port} HTTP/1.1"]
    with pytest.raises(tritonhttp.errors.ConnectError, match=r"\[407\] who are you"):
        open_client(gateway.url, proxy=proxy.url, **options).is_server_live()


@pytest.fixture
def unix_url(triton_server, tmp_path):
    """The URL of a unix domain socket that leads to the server."""
    path = f"{tmp_path}/triton.sock"
    host, _, port = triton_server.url.rpartition(":")
    threads = []

    def serve(near):
        with (
            near,
            socket.create_connection((host, int(port)), timeout=30) as far,
            contextlib.suppress(OSError),
        ):
            relay(near, far)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                threads[-1].start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        threads.append(threading.Thread(target=accept))
        threads[0].start()
        yield f"unix://{path}"
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_calls_go_over_a_unix_domain_socket(unix_url, open_client):
    client = open_client(unix_url)
    check_traffic(client)
    assert client._transport.counts.opened == 1
    client.close()  # before the relay ends


def test_triton_is_asked_before_a_large_body(make_client):
    client = make_client(expect_continue=True, network_timeout=20)
    for _ in range(3):
        check_traffic(client)
    assert client._transport.counts.opened == 1


def test_without_keep_alive_each_call_has_a_connection(make_client):
    client = make_client(keep_alive=False)
    check_traffic(client)
    counts = client._transport.counts
    assert (counts.calls, counts.opened, counts.reused, counts.closed) == (4, 4, 0, 4)


@pytest.mark.parametrize("algorithm", [None, "gzip"])
def test_max_response_bytes_limits_answers(make_client, algorithm):
    client = make_client(max_response_bytes=100_000)
    zeros = np.zeros(100_000, np.float32)
    with pytest.raises(tritonhttp.ProtocolError, match=r"limit (is|of) 100000"):
        client.infer(
            "identity_fp32", [tensor("INPUT0", zeros)], response_compression_algorithm=algorithm
        ).as_numpy("OUTPUT0")
    few = client.infer(
        "identity_fp32", [tensor("INPUT0", zeros[:9])], response_compression_algorithm=algorithm
    )
    assert few.as_numpy("OUTPUT0").tolist() == [0.0] * 9
