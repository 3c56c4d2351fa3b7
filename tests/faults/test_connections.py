"""Servers that are not there, say nothing, stop reading, go away, or speak another protocol."""

import contextlib
import socket
import ssl
import time

import numpy as np
import pytest
import trustme

import tritonhttp
from tritonhttp import ConnectionLost, DeadlineExceeded, InferenceServerException, ProtocolError
from tritonhttp.errors import ConnectError, ConnectRefused, ConnectTimeout, NameResolutionError, TLSError

from ..clients import tensor
from .servers import HEALTHY, answer, healthy, sends

LARGE = np.zeros(8_000_000, np.float32)


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_nothing_listens(open_client, call, within):
    url = f"127.0.0.1:{unused_port()}"
    client = open_client(url)
    for _ in range(2):
        with within(0, 2), pytest.raises(ConnectRefused, match=f"http://{url}/v2.*(?i:refused)") as caught:
            call(client)
        assert isinstance(caught.value, ConnectionRefusedError)
        assert isinstance(caught.value, ConnectError)
        assert isinstance(caught.value, ConnectionError)
        assert isinstance(caught.value, InferenceServerException)
        assert caught.value.status() is None


def test_a_name_without_address(open_client, call):
    client = open_client("no-such-host.invalid:8000", connection_timeout=10)
    with pytest.raises(NameResolutionError, match=r"'no-such-host\.invalid'") as caught:
        call(client)
    assert isinstance(caught.value, socket.gaierror)
    assert isinstance(caught.value, ConnectionError)


def test_a_server_that_does_not_accept(open_client, call, within):
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fill the line
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        time.sleep(0.05)
        client = open_client(f"127.0.0.1:{listener.getsockname()[1]}", connection_timeout=0.3)
        with within(0.25, 1.5), pytest.raises(ConnectTimeout, match="timed out") as caught:
            call(client)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, DeadlineExceeded)
        assert isinstance(caught.value, ConnectError)
        assert caught.value.phase == "connect"


def test_a_server_that_says_nothing(serve, fails, within, client_kind):
    server = serve(lambda peer: peer.hold())
    with within(0.25, 1.5):
        error = fails(server, DeadlineExceeded, "timed out.*no byte of a response", network_timeout=0.3)
    # The blocking client's limit is for each step, and named; the asyncio client's for the whole call.
    assert ("no progress for 0.3 s" in error.message()) is (client_kind == "blocking")
    assert isinstance(error, TimeoutError)
    assert isinstance(error, InferenceServerException)
    assert f"http://{server.url}/v2" in error.message()
    assert error.phase == "receive"


@pytest.mark.parametrize(
    ("sent", "progress"),
    [
        (b"HTTP/1.1 200", "12 bytes of the response's head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "1 of 10 bytes of the response's body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "incomplete body"),
        (b"HTTP/1.1 200 OK\r\n\r\n{", "incomplete body"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "no byte of a response"),
    ],
)
def test_a_server_that_stops_in_the_middle(serve, fails, within, sent, progress):
    server = serve(sends(sent, then="hold"))
    with within(0.2, 1.5):
        fails(server, DeadlineExceeded, f"timed out.*{progress}", network_timeout=0.25)


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    ("sent", "progress"),
    [
        (b"", "no byte of a response"),
        (b"HTTP/1.1 20", "11 bytes of the response's head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n", "37 bytes of the response's head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "0 of 10 bytes of the response's body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "2 of 10 bytes of the response's body"),
        (answer(b"x" * 100_000, length=1_000_000), "100000 of 1000000 bytes of the response's body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "incomplete body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "incomplete body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "incomplete body"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "no byte of a response"),
    ],
    ids=range(10),
)
def test_a_server_that_goes_away(serve, fails, sent, progress, then):
    server = serve(sends(sent, then))
    error = fails(server, ConnectionLost, progress)
    assert isinstance(error, ConnectionError)
    assert isinstance(error, tritonhttp.TransportError)
    assert (error.method, error.url.split("/v2")[0]) == (error.message().split()[0], f"http://{server.url}")
    assert error.phase == "receive"


def test_a_server_that_closes_at_once(serve, fails):
    fails(serve(lambda peer: None), ConnectionLost, "closed the connection|broke")


def test_a_server_that_does_not_read(serve, open_client, within):
    server = serve(lambda peer: (time.sleep(1), peer.reset()))
    client = open_client(server.url, network_timeout=0.3)
    with within(0.25, 1.5), pytest.raises(DeadlineExceeded, match="timed out while sending") as caught:
        client.infer("healthy", [tensor("INPUT0", LARGE)])
    assert caught.value.phase == "send"
    assert client.get_server_metadata() == HEALTHY


def test_a_server_that_goes_away_while_we_send(serve, open_client):
    def script(peer):
        peer.read_head()
        peer.sock.recv(100_000)
        peer.reset()

    client = open_client(serve(script).url, network_timeout=5)
    with pytest.raises(
        ConnectionLost, match=r"/v2/models/healthy/infer.*(?i:reset|broken pipe|closed)"
    ) as caught:
        client.infer("healthy", [tensor("INPUT0", LARGE)])
    assert caught.value.phase == "send"
    assert client.get_server_metadata() == HEALTHY


@pytest.mark.parametrize("end", ["closes at once", "drains", "resets"])
def test_an_early_refusal_of_a_large_request_is_shown(serve, open_client, end):
    def script(peer):
        peer.read_head()
        peer.send(answer({"error": "too large for us"}, "413 Content Too Large", "Connection: close\r\n"))
        if end == "drains":
            peer.sock.shutdown(socket.SHUT_WR)
            peer.hold()
        elif end == "resets":
            time.sleep(0.1)
            peer.reset()

    client = open_client(serve(script).url, network_timeout=5)
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.infer("healthy", [tensor("INPUT0", LARGE)])
    assert (caught.value.status(), caught.value.message()) == ("413", "too large for us")
    assert client.get_server_metadata() == HEALTHY


def test_a_large_answer_under_a_large_request(serve, open_client):
    body = b"x" * 3_000_000
    head = b'{"model_name":"m","outputs":[{"name":"O","datatype":"UINT8","shape":[3000000],'
    head += b'"parameters":{"binary_data_size":3000000}}]}'
    reply = answer(head + body, headers=f"Inference-Header-Content-Length: {len(head)}\r\n")
    client = open_client(serve(sends(reply, "go on")).url)
    result = client.infer("healthy", [tensor("INPUT0", LARGE)])
    assert result.as_numpy("O").tobytes() == body


# -- idle connections


@pytest.mark.parametrize("goodbye", ["close", "reset", "408", "garbage"])
def test_an_idle_connection_that_the_server_gave_up_is_not_used_again(
    serve, open_client, call, recovers, goodbye
):
    def script(peer):
        peer.read_request()
        peer.send(answer(HEALTHY))
        time.sleep(0.05)
        if goodbye == "reset":
            peer.reset()
        elif goodbye == "408":
            peer.send(answer(b"too slow", "408 Request Timeout", "Connection: close\r\n"))
        elif goodbye == "garbage":
            peer.send(answer({"name": "not yours"}))
            peer.hold()

    server = serve(script)
    client = open_client(server.url)
    assert call(client) == HEALTHY
    time.sleep(0.2)
    recovers(client)
    assert server.connections == 2
    assert len(server.requests) == 3


def dies_on_the_second_request(peer):
    if peer.read_request():
        peer.send(answer(HEALTHY))
        peer.read_request()


def test_a_request_that_is_safe_to_repeat_goes_out_again(serve, open_client):
    server = serve(dies_on_the_second_request)
    client = open_client(server.url)
    for _ in range(3):
        assert client.get_server_metadata() == HEALTHY
    assert server.connections == 2
    assert len(server.requests) == 4


def test_an_inference_never_goes_out_twice(serve, open_client):
    server = serve(dies_on_the_second_request)
    client = open_client(server.url)
    given = [tensor("INPUT0", np.zeros(3, np.float32))]
    client.infer("healthy", given)
    with pytest.raises(ConnectionLost, match="no byte of a response"):
        client.infer("healthy", given)
    assert len(server.requests) == 2
    assert client.infer("healthy", given).get_response() == HEALTHY


def test_a_server_that_always_dies_is_not_asked_forever(open_client, serve):
    server = serve(*[dies_on_the_second_request] * 2, *[lambda peer: None] * 3)
    client = open_client(server.url)
    assert client.get_server_metadata() == HEALTHY
    assert client.get_server_metadata() == HEALTHY  # its second try is a first request
    with pytest.raises(ConnectionLost):
        client.get_server_metadata()
    assert server.connections == 3


def test_connection_close_is_respected(serve, open_client, call, recovers):
    server = serve(*[sends(answer(HEALTHY, headers="Connection: close\r\n"), then="hold")] * 2)
    client = open_client(server.url)
    assert call(client) == HEALTHY
    assert call(client) == HEALTHY
    recovers(client)
    assert server.connections == 3


# -- TLS


@pytest.fixture(scope="module")
def tls():
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def trusting():
        trusts = ssl.create_default_context()
        authority.configure_trust(trusts)
        return trusts

    return context, trusting


@pytest.mark.parametrize("then", ["answers", "closes"])
def test_tls_to_a_plain_server(serve, open_client, call, tls, then):
    def script(peer):
        peer.sock.recv(100)
        if then == "answers":
            peer.send(answer(b"plain HTTP only", "400 Bad Request", "Connection: close\r\n"))

    server = serve(*[script] * 9)
    client = open_client(server.url, ssl=True, ssl_context_factory=tls[1])
    for _ in range(2):
        with pytest.raises(TLSError, match=f"https://{server.url}/v2.*handshake") as caught:
            call(client)
        assert isinstance(caught.value, ssl.SSLError)
        assert isinstance(caught.value, ConnectError)


def test_tls_to_a_server_that_says_nothing(serve, open_client, call, tls, within):
    server = serve(lambda peer: peer.hold())
    client = open_client(server.url, ssl=True, ssl_context_factory=tls[1], connection_timeout=0.3)
    with within(0.25, 1.5), pytest.raises(ConnectTimeout, match="timed out in the TLS handshake"):
        call(client)


def test_plain_to_a_tls_server(serve, open_client, call, tls):
    server = serve(context=tls[0])
    client = open_client(server.url, network_timeout=2)
    for _ in range(2):
        with pytest.raises((ProtocolError, ConnectionLost), match=f"http://{server.url}/v2"):
            call(client)


@pytest.mark.parametrize(
    ("sent", "error", "match"),
    [
        (b"", ConnectionLost, "no byte of a response"),
        (answer(b"{}", length=10), ConnectionLost, "2 of 10 bytes"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", ProtocolError, "SSH-2.0"),
    ],
)
def test_faults_under_tls(serve, fails, tls, sent, error, match):
    server = serve(sends(sent), context=tls[0])
    fails(server, error, match, ssl=True, ssl_context_factory=tls[1])


def test_a_slow_answer_under_tls(serve, fails, tls, within):
    server = serve(lambda peer: peer.hold(), context=tls[0])
    with within(0.25, 2):
        fails(
            server, DeadlineExceeded, "timed out", ssl=True, ssl_context_factory=tls[1], network_timeout=0.3
        )


@pytest.mark.parametrize("goodbye", ["close", "reset"])
def test_an_idle_tls_connection_that_the_server_gave_up_is_not_used_again(
    serve, open_client, call, recovers, tls, goodbye
):
    def script(peer):
        peer.read_request()
        peer.send(answer(HEALTHY))
        time.sleep(0.05)
        if goodbye == "reset":
            peer.reset()

    server = serve(script, context=tls[0])
    client = open_client(server.url, ssl=True, ssl_context_factory=tls[1])
    assert call(client) == HEALTHY
    time.sleep(0.15)
    recovers(client)
    assert server.connections == 2


def test_many_calls_under_tls_share_a_connection(serve, open_client, call, tls):
    server = serve(healthy, context=tls[0])
    client = open_client(server.url, ssl=True, ssl_context_factory=tls[1])
    for _ in range(10):
        assert call(client) == HEALTHY
    assert server.connections == 1
