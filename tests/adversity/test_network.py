"""The network as it is: connections that grow old, unix sockets, proxies, limits, answers that come early."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import logging
import os
import pickle
import select
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import trustme

import tritonhttp._transport.asyncio_connection
import tritonhttp._transport.blocking_connection
from tritonhttp import ConnectionLost, DeadlineExceeded, InvalidRequest, ProtocolError, Retry, ServerError
from tritonhttp._transport import route
from tritonhttp._transport.pool import Place
from tritonhttp._transport.trace import Trace
from tritonhttp._wire.requests import encode_head
from tritonhttp.auth import BearerAuth
from tritonhttp.errors import ConnectError, ConnectRefused, ConnectTimeout, TLSError

from ..clients import tensor, wait_until
from ..processes import needs_fork, run_program
from ..proxies import Proxy
from .servers import HEALTHY, Sends, answer, healthy

LARGE = np.zeros(8_000_000, np.float32)
BRIEF = {"name": "n", "outputs": []}
BRIEF_TEXT = b'{"name":"n","outputs":[]}'
SMALL = np.zeros(3, np.float32)


def infer(client, array=SMALL):
    return client.infer("healthy", [tensor("INPUT0", array)])


def counts(client):
    return client._transport.counts


def exchange(client, *buffers, **options):
    """Call the transport's own `exchange`, whichever it is."""
    outcome = client._transport.exchange("POST", "/v2", list(buffers), **options)
    if asyncio.iscoroutine(outcome):
        return asyncio.run_coroutine_threadsafe(outcome, client._loop).result(30)
    return outcome


@pytest.fixture
def refused_sockets(monkeypatch):
    """Address families of which the system makes no socket, and the error that it gives."""
    refused = {}

    class Socket(socket.socket):
        def __init__(self, family=-1, *args, **options):
            if family in refused:
                raise OSError(refused[family], os.strerror(refused[family]))
            super().__init__(family, *args, **options)

    monkeypatch.setattr(socket, "socket", Socket)
    return refused


def test_a_system_without_ipv6_goes_on_with_the_next_address(
    serve, open_client, call, monkeypatch, refused_sockets
):
    server = serve()
    ask = socket.getaddrinfo

    def both(host, port, *args, **options):
        if host != "triton.test":
            return ask(host, port, *args, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no literal")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    refused_sockets[socket.AF_INET6] = errno.EAFNOSUPPORT
    assert call(open_client(f"triton.test:{server.port}")) == HEALTHY


def test_running_out_of_descriptors_is_a_connect_error(serve, open_client, call, refused_sockets):
    client = open_client(serve().url)
    refused_sockets[socket.AF_INET] = errno.EMFILE
    with pytest.raises(ConnectError, match=r"cannot connect to .*Too many open files") as caught:
        call(client)
    assert caught.value.phase == "connect"
    refused_sockets.clear()
    assert call(client) == HEALTHY


@pytest.fixture
def nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def secure(authority):
    """Options of a client that trusts our authority."""

    def factory():
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    return {"ssl": True, "ssl_context_factory": factory}


# -- how long a connection is used


def test_a_connection_that_was_idle_for_long_is_not_used_again(serve, open_client, call):
    server = serve(healthy)
    client = open_client(server.url, max_idle=0.3)
    for _ in range(3):
        assert call(client) == HEALTHY
    assert server.connections == 1
    time.sleep(0.4)
    assert call(client) == HEALTHY
    assert server.connections == 2
    assert (counts(client).opened, counts(client).closed, counts(client).reused) == (2, 1, 2)


def test_a_connection_ends_with_its_age_however_busy(serve, open_client, call):
    server = serve(healthy)
    client = open_client(server.url, max_age=0.25)
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        assert call(client) == HEALTHY
    assert server.connections == 2


def test_idle_connections_below_the_busy_one_are_closed_too(serve, open_client):
    together = threading.Barrier(3)

    def script(peer):
        first = True
        while peer.read_request():
            if first:
                together.wait(10)
            first = False
            peer.send(answer(HEALTHY))

    client = open_client(serve(*[script] * 3).url, concurrency=3, max_idle=0.3)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: infer(client), range(3)))
    assert counts(client).opened == 3
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        infer(client)
        time.sleep(0.02)
    assert (counts(client).opened, counts(client).closed) == (3, 2)


def test_without_keep_alive_each_call_has_a_connection_of_its_own(serve, open_client, call):
    server = serve(*[Sends(answer(HEALTHY), "hold")] * 3)
    client = open_client(server.url, keep_alive=False)
    for number in range(1, 4):
        assert call(client) == HEALTHY
        assert server.connections == number
        assert b"\r\nConnection: close\r\n" in server.requests[-1]


def test_a_server_that_ignores_connection_close_is_left_all_the_same(serve, open_client, call):
    server = serve(healthy)
    client = open_client(server.url, keep_alive=False)
    for number in range(1, 4):
        assert call(client) == HEALTHY
        assert server.connections == number


@pytest.mark.parametrize(
    "options",
    [
        {"max_idle": 0},
        {"max_age": -1},
        {"max_idle": "45"},
        {"keep_alive": 1},
        {"trust_env": "yes"},
        {"expect_continue": None},
        {"max_response_bytes": 0},
        {"max_response_bytes": 1.5},
        {"proxy": ""},
        {"proxy": "socks5://proxy:1080"},
        {"proxy": "https://proxy:1080"},
        {"proxy": "http://proxy:3128/path"},
        {"proxy": 3128},
    ],
    ids=repr,
)
def test_options_that_cannot_be_used_are_refused_at_once(open_client, options):
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        open_client("127.0.0.1:1", **options)


# -- unix domain sockets


def test_calls_go_over_a_unix_domain_socket(serve, open_client, call, tmp_path):
    server = serve(path=f"{tmp_path}/to a.sock")
    client = open_client(server.url)
    for _ in range(3):
        assert call(client) == HEALTHY
    infer(client, LARGE)
    assert server.connections == 1
    assert all(b"\r\nHost: localhost\r\n" in head for head in server.requests)
    assert b"/v2" in server.requests[0].split(b"\r\n")[0]


def test_a_missing_unix_domain_socket_is_named(open_client, call, tmp_path):
    path = f"{tmp_path}/none.sock"
    with pytest.raises(ConnectError, match=f"unix://{path}:/v2.*cannot connect to {path}.*No such file"):
        call(open_client(f"unix://{path}"))


def test_a_unix_domain_socket_that_nobody_serves_refuses(open_client, call, tmp_path):
    path = f"{tmp_path}/left.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    with pytest.raises(ConnectRefused, match=path):
        call(open_client(f"unix://{path}"))


def test_too_long_a_path_of_a_unix_domain_socket_is_refused(open_client, call, tmp_path):
    path = f"{tmp_path}/{'x' * 120}"
    with pytest.raises(ConnectError, match=f"{path}.*too long"):
        call(open_client(f"unix://{path}"))


@pytest.mark.parametrize("url", ["unix://", "unix:///", "unix://relative.sock", "unix:///a\0b"])
def test_other_forms_of_unix_urls_are_refused(open_client, url):
    with pytest.raises(InvalidRequest, match="expected a URL of the form unix:"):
        open_client(url)


def test_a_unix_domain_socket_goes_with_neither_tls_nor_a_proxy(open_client, monkeypatch, serve, tmp_path):
    with pytest.raises(InvalidRequest, match="no TLS on a unix domain socket"):
        open_client("unix:///a.sock", ssl=True)
    with pytest.raises(InvalidRequest, match=r"no proxy leads to the unix domain socket /a\.sock"):
        open_client("unix:///a.sock", proxy="http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    server = serve(path=f"{tmp_path}/a.sock")
    assert open_client(server.url, trust_env=True).get_server_metadata() == HEALTHY


# -- proxies


@pytest.fixture
def proxy(_nothing_is_left):
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def guarded(_nothing_is_left):
    with Proxy("us er:p@ss:word/") as proxy:
        yield proxy


def test_a_proxy_forwards(serve, proxy, open_client, call):
    server = serve(*[healthy] * 9)
    client = open_client(f"{server.url}/base", proxy=proxy.url)
    for _ in range(3):
        assert call(client) == HEALTHY
    assert all(line.split()[1].startswith(f"http://{server.url}/base/v2") for line in proxy.seen)
    assert proxy.hosts == [server.url] * 3
    assert counts(client).opened == 1


def test_a_proxy_opens_a_tunnel(serve, proxy, open_client, call, server_context, secure):
    server = serve(context=server_context)
    client = open_client(server.url, proxy=f"http://{proxy.url}", **secure)
    for _ in range(3):
        assert call(client) == HEALTHY
    infer(client, LARGE)
    assert proxy.seen == [f"CONNECT {server.url} HTTP/1.1"]
    assert proxy.hosts == [server.url]
    assert server.connections == 1
    assert all(b"Proxy-" not in head for head in server.requests)


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_gets_user_and_password_and_the_server_does_not(
    serve, guarded, open_client, call, server_context, secure, tls
):
    server = serve(*[healthy] * 9, context=server_context if tls else None)
    url = f"http://us%20er:p%40ss:word%2F@{guarded.url}"
    client = open_client(server.url, proxy=url, **(secure if tls else {}))
    for _ in range(2):
        assert call(client) == HEALTHY
    assert all(b"Proxy-" not in head for head in server.requests)


def test_a_proxy_that_opens_a_tunnel_gets_no_headers_of_calls(
    serve, proxy, open_client, call, server_context, secure
):
    server = serve(context=server_context)
    client = open_client(server.url, proxy=proxy.url, **secure)
    client.register_plugin(BearerAuth("sesame"))
    assert call(client, headers={"X-Api-Key": "sesame"}) == HEALTHY
    assert proxy.headers == [["Host"]]
    assert b"Bearer sesame" in server.requests[0]


def test_a_proxy_that_forwards_refuses_with_its_own_answer(serve, guarded, open_client, call, caplog):
    server = serve()
    caplog.set_level(logging.DEBUG)
    client = open_client(server.url, proxy=f"http://wrong:secret@{guarded.url}")
    with pytest.raises(ServerError, match="who are you") as caught:
        call(client)
    assert caught.value.status() == "407"
    assert server.connections == 0
    assert "secret" not in f"{caught.value!r} {caplog.text} {vars(client._transport)}"


def test_a_tunnel_is_refused_in_the_proxys_words(serve, guarded, open_client, call, secure, caplog):
    caplog.set_level(logging.DEBUG)
    client = open_client("127.0.0.1:1", proxy=f"http://wrong:secret@{guarded.url}", **secure)
    for _ in range(2):
        with pytest.raises(
            ConnectError, match=r"no tunnel to 127.0.0.1 port 1: \[407\] who are you"
        ) as caught:
            call(client)
    assert not isinstance(caught.value, TLSError)
    assert caught.value.phase == "proxy"
    assert guarded.url.replace(":", " port ") in caught.value.message()
    assert "secret" not in f"{caught.value!r} {caplog.text}"


@pytest.mark.parametrize("servers", [1, 2])
def test_a_proxy_that_asks_for_credentials_is_not_asked_again(guarded, open_client, call, secure, servers):
    retry = Retry(attempts=3, backoff=0)
    for options, error in ((secure, ConnectError), ({}, ServerError)):
        guarded.seen.clear()
        urls = [f"127.0.0.1:{port}" for port in range(1, servers + 1)]
        client = open_client(urls if servers > 1 else urls[0], proxy=guarded.url, retry=retry, **options)
        with pytest.raises(error, match="who are you") as caught:
            call(client)
        assert caught.value.attempts == len(guarded.seen) == 1
        assert getattr(caught.value, "proxy_status", 407) == 407
        assert pickle.loads(pickle.dumps(caught.value)).__dict__ == caught.value.__dict__
    again = Retry(attempts=2, backoff=0, on=(407,))
    with pytest.raises(ConnectError) as caught:
        open_client("127.0.0.1:1", proxy=guarded.url, retry=again, **secure).get_server_metadata()
    assert caught.value.attempts == 2


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_proxy_that_leads_nowhere_is_not_asked_again(serve, open_client, call, secure, status):
    proxy = serve(*[Sends(answer(b"not there", f"{status} No"), "close")] * 3)
    retry = Retry(attempts=3, backoff=0)
    client = open_client("127.0.0.1:1", proxy=proxy.url, retry=retry, **secure)
    with pytest.raises(ConnectError, match="not there") as caught:
        call(client)
    assert (caught.value.attempts, caught.value.proxy_status, proxy.connections) == (1, status, 1)


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (403, 2)])
@pytest.mark.parametrize("retry", [None, Retry(attempts=5, backoff=0)], ids=["alone", "retry"])
def test_a_proxy_that_leads_not_to_one_server_is_asked_for_another(
    serve, open_client, call, secure, status, asked, retry
):
    proxy = serve(*[Sends(answer(b"not there", f"{status} No"), "close")] * 5)
    client = open_client(["127.0.0.1:1", "127.0.0.1:2"], proxy=proxy.url, retry=retry, **secure)
    with pytest.raises(ConnectError, match="not there") as caught:
        call(client)
    assert caught.value.attempts == asked
    connects = [head.split()[1] for head in proxy.requests if head.startswith(b"CONNECT")]
    assert len(connects[:asked]) == len(set(connects[:asked])) == asked


def test_a_proxy_that_fails_for_now_is_asked_again(serve, open_client, call, secure):
    refusal = Sends(answer(b"wait", "503 Wait"), "close")
    proxy = serve(*[refusal] * 3)
    client = open_client("127.0.0.1:1", proxy=proxy.url, retry=Retry(attempts=3, backoff=0), **secure)
    with pytest.raises(ConnectError, match="wait") as caught:
        call(client)
    assert (caught.value.attempts, caught.value.proxy_status, proxy.connections) == (3, 503, 3)


def test_a_proxy_that_cannot_reach_the_server_is_quoted(proxy, open_client, call, secure, nobody_listens):
    client = open_client(nobody_listens, proxy=proxy.url, **secure)
    with pytest.raises(ConnectError, match=r"\[502\] cannot reach 127.0.0.1.*refused") as caught:
        call(client)
    assert caught.value.phase == "proxy"


def test_a_proxy_that_is_not_there_is_named(open_client, call, secure, nobody_listens):
    for options in ({}, secure):
        client = open_client("127.0.0.1:1", proxy=f"u:secret@{nobody_listens}", **options)
        with pytest.raises(ConnectRefused, match="cannot connect to the proxy 127") as caught:
            call(client)
        assert "secret" not in caught.value.message()


TUNNELS = {
    "closes": (b"", "close", ConnectError, "closed the connection after no byte"),
    "another protocol": (b"SSH-2.0-OpenSSH\r\n", "hold", ConnectError, "SSH-2.0"),
    "half an answer": (b"HTTP/1.1 200 OK\r\nX: ", "close", ConnectError, "bytes of the response's head"),
    "an endless refusal": (b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 2_000_000, "hold", ConnectError, "limit"),
    "a redirect": (answer(b"elsewhere", "302 Found"), "hold", ConnectError, "302.*elsewhere"),
    "nothing": (
        b"",
        "hold",
        ConnectTimeout,
        r"timed out while the proxy .* opened a tunnel .*, after \d",
    ),
}


@pytest.mark.parametrize("kind", sorted(TUNNELS))
def test_a_proxy_that_opens_no_tunnel_is_an_error(serve, open_client, call, secure, within, kind):
    data, then, error, match = TUNNELS[kind]
    server = serve(Sends(data, then))
    client = open_client("127.0.0.1:1", proxy=server.url, connection_timeout=0.3, **secure)
    with within(0), pytest.raises(error, match=match) as caught:
        call(client)
    assert caught.value.phase == "proxy"


def test_a_body_announced_with_a_connects_success_is_ignored(serve, open_client, call, secure, authority):
    """A success to CONNECT has no body, even with a Content-Length."""

    def script(peer):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        peer.sock = context.wrap_socket(peer.sock, server_side=True)
        with peer.sock:
            peer.sock.settimeout(10)
            healthy(peer)

    client = open_client("127.0.0.1:1", proxy=serve(script).url, **secure)
    assert call(client) == HEALTHY


@pytest.fixture
def environment(monkeypatch):
    """Set the variables of a proxy, and no others."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
            monkeypatch.delenv(name)
    return lambda **variables: [monkeypatch.setenv(*pair) for pair in variables.items()]


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({"http_proxy": "http://PROXY"}, True),
        ({"HTTP_PROXY": "PROXY"}, True),
        ({"HTTP_PROXY": "PROXY", "REQUEST_METHOD": "GET"}, False),  # in CGI it may be a client's header
        ({"all_proxy": "http://PROXY"}, True),
        ({"https_proxy": "http://PROXY"}, False),
        ({"http_proxy": "PROXY", "no_proxy": "127.0.0.1"}, False),
        ({"http_proxy": "PROXY", "NO_PROXY": "example.org,127.0.0.1"}, False),
        ({"http_proxy": "PROXY", "no_proxy": "*"}, False),
        ({"http_proxy": "PROXY", "no_proxy": "example.org"}, True),
        ({"http_proxy": "", "all_proxy": ""}, False),
    ],
    ids=str,
)
def test_the_proxy_of_the_environment_is_used(serve, proxy, open_client, environment, variables, used):
    environment(**{name: value.replace("PROXY", proxy.url) for name, value in variables.items()})
    server = serve(*[healthy] * 9)
    assert open_client(server.url).get_server_metadata() == HEALTHY
    assert proxy.seen == []
    assert open_client(server.url, trust_env=True).get_server_metadata() == HEALTHY
    assert len(proxy.seen) == used


def test_the_https_proxy_of_the_environment_is_used(
    serve, proxy, open_client, environment, server_context, secure
):
    environment(https_proxy=f"http://{proxy.url}")
    client = open_client(serve(context=server_context).url, trust_env=True, **secure)
    assert client.get_server_metadata() == HEALTHY
    assert len(proxy.seen) == 1


def test_an_unusable_proxy_of_the_environment_is_named(open_client, environment):
    environment(all_proxy="socks5://user:secret@proxy:1080")
    with pytest.raises(InvalidRequest, match="the environment's proxy") as caught:
        open_client("127.0.0.1:1", trust_env=True)
    assert "secret" not in str(caught.value)
    open_client("127.0.0.1:1", trust_env=False)
    open_client("127.0.0.1:1", trust_env=True, proxy="127.0.0.1:2")


# -- answers that are too large


HEAD = "HTTP/1.1 200 OK\r\n"
TOO_LARGE = {
    "announced": answer(b"x" * 1001),
    "chunked": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{'x' * 1001}\r\n0\r\n\r\n".encode(),
    "to the end": f"{HEAD}\r\n{'x' * 70_000}".encode(),
    "announced, and never sent": answer(b"", length=1 << 40),
    "gzip": answer(gzip.compress(b" " * 100_000), headers="Content-Encoding: gzip\r\n"),
    "an error": answer(b"x" * 1001, "500 No"),
}


@pytest.mark.parametrize("kind", sorted(TOO_LARGE))
def test_an_answer_beyond_the_limit_is_refused(serve, fails, kind):
    fails(
        serve(Sends(TOO_LARGE[kind], "go on")), ProtocolError, "limit (is|of) 1000", max_response_bytes=1000
    )


@pytest.mark.parametrize("kind", ["length", "gzip"])
def test_an_answer_within_the_limit_is_fine(serve, open_client, call, kind):
    body = BRIEF_TEXT.ljust(1000)
    reply = answer(body)
    if kind == "gzip":
        reply = answer(gzip.compress(body), headers="Content-Encoding: gzip\r\n")
    client = open_client(serve(Sends(reply, "go on")).url, max_response_bytes=1000)
    assert call(client) == BRIEF


# -- asking before a large body is sent


REFUSALS = ["401 Unauthorized", "403 Forbidden", "413 Payload Too Large"]


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("then", ["holds", "closes", "in two parts"])
def test_a_server_may_refuse_before_the_body_is_sent(serve, open_client, status, then):
    left = []

    def script(peer):
        head = peer.read_head()
        assert b"\r\nExpect: 100-continue\r\n" in head
        if then == "in two parts":
            reply = answer(b"not from you", status)
            peer.send(reply[:10])
            time.sleep(0.1)
            peer.send(reply[10:60])
            time.sleep(0.1)
            peer.send(reply[60:])
        else:
            peer.send(answer(b"not from you", status))
        if then == "holds":
            left.append(peer.sock.recv(1 << 16))

    client = open_client(serve(script).url, network_timeout=5, expect_continue=True)
    with pytest.raises(ServerError, match="not from you") as caught:
        infer(client, LARGE)
    assert caught.value.status() == status[:3]
    assert infer(client).get_response() == HEALTHY
    wait_until(lambda: left == [b""] or then != "holds")
    assert counts(client).sent < 2000, "no byte of the body was sent, and the connection was not used again"


@pytest.fixture
def short_wait(monkeypatch):
    """Let clients wait 0.3 s for the server's word, in place of a second."""
    assert route.CONTINUE_WAIT == 1
    for transport in (tritonhttp._transport.blocking_connection, tritonhttp._transport.asyncio_connection):
        monkeypatch.setattr(transport, "CONTINUE_WAIT", 0.3)


@pytest.mark.parametrize("word", ["100", "102, then 100", "none", "late"])
def test_the_body_follows_a_100_or_the_end_of_the_wait(serve, open_client, word, within, short_wait):
    def script(peer):
        for _ in range(2):
            head = peer.read_head()
            if word.startswith("102"):
                peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
                time.sleep(0.1)
            if word.endswith("100"):
                peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            patience = 5 if word.endswith("100") else 0.2
            assert bool(select.select([peer.sock], [], [], patience)[0]) == word.endswith("100")
            if word == "late":
                time.sleep(0.2)
                peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            peer.read_body(head)
            peer.send(answer(HEALTHY))

    client = open_client(serve(script).url, expect_continue=True)
    with within(0, 5) if word.endswith("100") else within(0.55, 10):
        for _ in range(2):
            assert infer(client, LARGE).get_response() == HEALTHY
    assert counts(client).opened == 1


def test_only_a_large_body_expects_a_100(serve, open_client):
    server = serve()
    client = open_client(server.url, expect_continue=True)
    assert infer(client).get_response() == HEALTHY
    assert client.get_server_metadata() == HEALTHY
    assert open_client(server.url).infer("healthy", [tensor("INPUT0", LARGE)]).get_response() == HEALTHY
    assert all(b"Expect" not in head for head in server.requests)


def test_a_body_that_was_not_sent_goes_out_on_another_connection(serve, open_client, short_wait):
    def script(peer):
        peer.read_request()
        peer.send(answer(HEALTHY))
        peer.read_head()

    server = serve(script)
    client = open_client(server.url, expect_continue=True)
    infer(client)
    assert infer(client, LARGE).get_response() == HEALTHY, "though an inference is not sent twice"
    assert server.connections == 2
    assert counts(client).resent == 1


UNEXPECTED = "417 Expectation Failed"


@pytest.mark.parametrize("then", ["holds", "closes"])
def test_a_417_before_the_body_lets_it_go_out_unasked(serve, open_client, within, then):
    def script(peer):
        assert b"\r\nExpect: 100-continue\r\n" in peer.read_head()
        peer.send(answer(b"what?", UNEXPECTED))
        if then == "holds":
            assert peer.sock.recv(1 << 16) == b""

    server = serve(script)
    client = open_client(server.url, network_timeout=5, expect_continue=True)
    with within(0, 5):
        result = infer(client, LARGE)
    assert result.get_response() == HEALTHY
    assert result.attempts == 1  # its body went out once
    assert [b"Expect" in head for head in server.requests] == [True, False]


@pytest.mark.parametrize("idempotent", [None, False])
@pytest.mark.parametrize("size", [3, 8_000_000])
@pytest.mark.parametrize("close", ["", "Connection: close\r\n"])
def test_a_417_to_the_callers_own_expectation(serve, open_client, close, size, idempotent):
    def script(peer):
        peer.read_request()
        peer.send(answer(b"what?", UNEXPECTED, close))
        if not close:
            peer.go_on(peer)

    server = serve(script)
    client = open_client(server.url)
    given = {"expect": "100-Continue", "X-Other": "1"}
    inputs = [tensor("INPUT0", np.zeros(size, np.float32))]
    result = client.infer("healthy", inputs, headers=given, idempotent=idempotent)
    assert result.get_response() == HEALTHY
    assert result.attempts == 2
    assert given == {"expect": "100-Continue", "X-Other": "1"}
    assert [b"expect" in head.lower() for head in server.requests] == [True, False]
    assert all(b"X-Other: 1\r\n" in head for head in server.requests)
    assert server.connections == (2 if close else 1)


def test_a_417_to_a_stream_and_to_a_request_without_a_body(serve, open_client):
    def script(peer):
        for _ in range(2):
            peer.read_request()
            peer.send(answer(b"what?", UNEXPECTED))
            peer.read_request()
            peer.send(answer(HEALTHY))

    client = open_client(serve(script).url)
    expect = {"Expect": "100-continue"}
    assert list(client.generate_stream("m", {}, headers=expect)) == [HEALTHY]
    assert client.get_server_metadata(headers=expect) == HEALTHY


@pytest.mark.parametrize("expects", [True, False])
def test_a_417_to_what_expects_nothing_is_the_answer(serve, open_client, expects):
    def script(peer):
        for _ in range(1 + expects):
            peer.read_request()
            peer.send(answer(b"what?", UNEXPECTED))

    server = serve(script)
    client = open_client(server.url)
    with pytest.raises(ServerError, match="what\\?"):
        client.get_server_metadata(headers={"Expect": "100-continue"} if expects else None)
    assert len(server.requests) == 1 + expects


# -- an answer that comes while the request is being sent


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("end", ["holds", "shuts down", "closes", "in two parts"])
def test_an_early_answer_ends_a_request_that_nobody_reads(
    serve, open_client, server_context, secure, within, tls, end
):
    done = threading.Event()

    def script(peer):
        peer.read_head()
        reply = answer(b"too large for us", "413 Payload Too Large")
        if end == "in two parts":
            peer.send(reply[:60])
            time.sleep(0.25)  # longer than a send waits before it looks for an answer
            peer.send(reply[60:])
        else:
            peer.send(reply)
        if end == "closes" and tls:
            time.sleep(0.2)  # a TLS connection whose write has failed is not read any more
        if end == "shuts down":
            peer.sock.shutdown(socket.SHUT_WR)
        if end != "closes":
            assert done.wait(10)

    options = secure if tls else {}
    server = serve(script, context=server_context if tls else None)
    client = open_client(server.url, network_timeout=20, **options)
    try:
        with within(0), pytest.raises(ServerError, match="too large for us") as caught:
            infer(client, LARGE)
    finally:
        done.set()
    assert caught.value.status() == "413"
    assert client.get_server_metadata() == HEALTHY
    assert server.connections == 2


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_reads_slowly_gets_everything(serve, open_client, server_context, secure, tls):
    def script(peer):
        head = peer.read_head()
        time.sleep(0.3)  # a send looks for an answer after 0.1 s
        peer.read_body(head, left=LARGE.nbytes // 2)
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        time.sleep(0.3)
        peer.read_body(b"\r\nContent-Length: %d" % (LARGE.nbytes // 2))
        peer.send(answer(HEALTHY))

    server = serve(script, context=server_context if tls else None)
    client = open_client(server.url, network_timeout=3, **(secure if tls else {}))
    assert infer(client, LARGE).get_response() == HEALTHY


# -- time limits


def drips(data, pause=0.02):
    def script(peer):
        while True:
            peer.send(data)
            time.sleep(pause)

    return script


def test_a_handshake_that_trickles_is_bounded(serve, open_client, call, secure, within):
    def script(peer):
        peer.send(b"\x16\x03\x03\x40\x00")  # the head of a long TLS record
        drips(b"\0")(peer)

    client = open_client(serve(script).url, connection_timeout=0.4, **secure)
    with (
        within(0.3),
        pytest.raises(ConnectTimeout, match=r"TLS handshake with 127.0.0.1, after \d[\d.]* s") as caught,
    ):
        call(client)
    assert caught.value.phase == "tls"


def test_a_proxy_that_trickles_is_bounded(serve, open_client, call, secure, within):
    def script(peer):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        drips(b"x")(peer)

    client = open_client("127.0.0.1:1", proxy=serve(script).url, connection_timeout=0.4, **secure)
    with within(0.3), pytest.raises(ConnectTimeout, match=r"tunnel.*, after \d[\d.]* s") as caught:
        call(client)
    assert caught.value.phase == "proxy"


@pytest.mark.parametrize("part", ["head", "body", "chunks", "interim", "to the end"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("call", ["infer"], indirect=True)
def test_an_answer_that_trickles_is_bounded(
    serve, open_client, call, server_context, secure, within, part, tls
):
    def script(peer):
        peer.read_request()
        if part == "interim":
            drips(b"HTTP/1.1 102 Processing\r\n\r\n")(peer)
        peer.send(HEAD.encode())
        if part == "head":
            peer.send(b"X: ")
        elif part == "body":
            peer.send(b"Content-Length: 5000\r\n\r\n")
        elif part == "chunks":
            peer.send(b"Transfer-Encoding: chunked\r\n\r\n1388\r\n")
        else:
            peer.send(b"\r\n")
        drips(b"x")(peer)

    server = serve(script, context=server_context if tls else None)
    client = open_client(server.url, deadline=0.25, **(secure if tls else {}))
    with within(0.2), pytest.raises(DeadlineExceeded, match=r"the call's 0\.25 s are over") as caught:
        call(client)
    assert caught.value.phase == "receive"
    assert call(client) == HEALTHY


def test_a_slow_look_up_is_bounded(open_client, call, within, monkeypatch):
    known = threading.Event()

    def getaddrinfo(*_, flags=0, **__):
        if not flags & socket.AI_NUMERICHOST:
            known.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = open_client("name:80", deadline=0.3)
    try:
        with (
            within(0.2),
            pytest.raises(DeadlineExceeded, match=r"'name', after \d[\d.]* s: the call's 0\.3 s") as caught,
        ):
            call(client)
        assert caught.value.phase == "resolve"
    finally:
        known.set()
        for thread in threading.enumerate():
            if thread.name == "tritonhttp-resolve":
                thread.join(5)


def test_waiting_for_a_connection_is_bounded(serve, open_client, within):
    over = threading.Event()
    client = open_client(serve(lambda peer: over.wait(10)).url, concurrency=1)
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(infer, client)
        wait_until(lambda: counts(client).calls == 1)
        with (
            within(0.2),
            pytest.raises(DeadlineExceeded, match=r"one of 1 connections, after \d[\d.]* s") as caught,
        ):
            client.infer("healthy", [tensor("INPUT0", SMALL)], deadline=0.3)
        assert caught.value.phase == "wait for a connection"
        assert not busy.done()
        over.set()
        with pytest.raises(ConnectionLost):
            busy.result(10)


# -- framing


@pytest.mark.parametrize("kind", ["a trailer", "trailers", "an extension"])
def test_a_chunked_answer_without_an_end_is_bounded(serve, fails, within, kind):
    start = HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    data = {
        "a trailer": b"0\r\nX: " + b"x" * 1_000_000,
        "trailers": b"0\r\n" + b"X: x\r\n" * 200_000,
        "an extension": b"1;x=" + b"x" * 1_000_000,
    }[kind]
    with within(0):
        fails(serve(Sends(start + data, "hold")), ProtocolError, "trailers|header lines", network_timeout=5)


def test_small_chunks_with_extensions_and_trailers_are_fine(serve, open_client, call):
    body = b"".join(b"1;some=extension\r\n%c\r\n" % byte for byte in BRIEF_TEXT.ljust(20_000))
    data = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + body + b"0\r\nX: y\r\n\r\n"
    assert call(open_client(serve(Sends(data, "go on")).url)) == BRIEF


@pytest.mark.parametrize("kind", ["length", "chunked", "to the end"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_tls_body_that_is_cut_is_no_answer(serve, open_client, call, server_context, secure, kind, whole):
    """Anything on the way can close a connection; only close_notify proves that the server did."""

    def script(peer):
        peer.read_request()
        if kind == "length":
            peer.send(answer(BRIEF_TEXT + b" " * (not whole)))
        elif kind == "chunked":
            peer.send(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n19\r\n".encode() + BRIEF_TEXT + b"\r\n")
            if whole:
                peer.send(b"0\r\n\r\n")
        else:
            peer.send(HEAD.encode() + b"\r\n" + BRIEF_TEXT)
            if whole:
                peer.sock.settimeout(0.1)
                with contextlib.suppress(OSError, ValueError):  # the client need not answer
                    peer.sock.unwrap()

    client = open_client(serve(script, context=server_context).url, network_timeout=3, **secure)
    if whole or kind == "length":
        assert call(client) == BRIEF
    else:
        with pytest.raises(ConnectionLost):
            call(client)


# -- TLS


def test_the_servers_name_is_sent(serve, open_client, authority, secure):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    names = []
    context.sni_callback = lambda _, name, __: names.append(name)
    server = serve(*[healthy] * 9, context=context)
    client = open_client(server.url.replace("127.0.0.1", "localhost"), **secure)
    assert client.get_server_metadata() == HEALTHY
    assert names == ["localhost"]


def test_an_expired_certificate_is_refused(serve, open_client, call, secure, authority):
    import datetime

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    authority.issue_cert("127.0.0.1", not_before=past, not_after=past).configure_cert(context)
    with pytest.raises(TLSError, match="expired"):
        call(open_client(serve(*[healthy] * 3, context=context).url, **secure))


# -- observers


def test_a_trace_times_the_phases_of_an_exchange(serve, open_client, server_context, secure):
    def script(peer):
        while peer.read_request():
            time.sleep(0.1)
            peer.send(answer(b"{}"))

    client = open_client(serve(script, context=server_context).url, **secure)
    head = encode_head("POST", "/v2", "Host: h\r\n", 4)
    first, second = Trace(), Trace()
    for trace in (first, second):
        exchange(client, head, b"body", trace=trace)
        assert 0.09 < trace.phases["first_byte"] < 2
        assert all(seconds >= 0 for seconds in trace.phases.values())
        assert (trace.sent, trace.received) == (len(head) + 4, len(answer(b"{}")))
    assert list(first.phases) == ["wait", "resolve", "connect", "tls", "send", "first_byte", "receive"]
    assert list(second.phases) == ["wait", "send", "first_byte", "receive"]
    assert (first.reused, second.reused) == (False, True)


def test_a_trace_times_the_phases_through_a_proxy(serve, proxy, open_client, server_context, secure):
    client = open_client(serve(context=server_context).url, proxy=proxy.url, **secure)
    trace = Trace()
    exchange(client, encode_head("POST", "/v2", "Host: h\r\n", 0), trace=trace)
    assert list(trace.phases)[1:5] == ["resolve", "connect", "proxy", "tls"]


def test_counts_include_resent_requests(serve, open_client):
    def dies(peer):
        if peer.read_request():
            peer.send(answer(HEALTHY))
            peer.read_request()

    client = open_client(serve(dies).url)
    for _ in range(4):
        assert client.get_server_metadata() == HEALTHY
    seen = counts(client)
    assert (seen.calls, seen.resent, seen.opened, seen.closed) == (4, 1, 2, 1)
    assert seen.reused == 3
    assert seen.received == 4 * len(answer(HEALTHY))
    assert seen.sent > 4 * 50


def dies_under_the_second(peer):
    """Answer one request as a server should, and close when the next one has come."""
    if peer.read_request():
        peer.send(answer(HEALTHY))
        peer.read_request()


def test_what_is_sent_again_after_it_was_handed_over_is_counted_in_the_place(serve, open_client):
    client = open_client(serve(dies_under_the_second).url)
    head = encode_head("POST", "/v2", "Host: h\r\n", 0)
    place = Place()
    exchange(client, head, place=place)
    assert place.resent == 0
    trace = Trace()
    exchange(client, head, place=place, repeatable=True, trace=trace)
    assert (place.resent, trace.reused) == (1, False)


def test_a_request_not_handed_over_whole_is_not_traced_as_resent(serve, open_client, short_wait):
    def script(peer):
        peer.read_request()
        peer.send(answer(HEALTHY))
        peer.read_head()

    client = open_client(serve(script).url, expect_continue=True)
    infer(client)
    place = Place()
    body = bytes(4 << 20)
    exchange(client, encode_head("POST", "/v2", "Host: h\r\n", len(body)), body, place=place, repeatable=True)
    assert (place.resent, counts(client).resent) == (0, 1)


@pytest.mark.parametrize("begun", ["used before", "new", "answered"])
def test_an_error_says_whether_a_repeatable_request_would_have_been_sent_again(serve, open_client, begun):
    def in_the_answer(peer):
        peer.read_request()
        peer.send(answer(HEALTHY))
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK")

    def at_once(peer):
        peer.read_request()

    script = {"used before": dies_under_the_second, "new": at_once, "answered": in_the_answer}[begun]
    client = open_client(serve(script).url)
    head = encode_head("POST", "/v2", "Host: h\r\n", 0)
    if begun != "new":
        exchange(client, head)
    with pytest.raises(ConnectionLost) as caught:
        exchange(client, head, repeatable=begun == "answered")
    assert caught.value.resendable == (begun == "used before")


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(
    ("retry", "attempts"),
    [(None, 2), (Retry(attempts=1), 1), (Retry(attempts=2, backoff=0), 2), (Retry(attempts=3, backoff=0), 3)],
    ids=["none", "1", "2", "3"],
)
def test_a_request_goes_out_as_often_as_retries_allow(serve, open_client, watched, retry, attempts):
    def dies(peer):
        peer.read_request()

    server = serve(dies_under_the_second, dies, dies, dies)
    calls = []
    client = open_client(server.url, retry=retry, on_response=calls.append if watched else None)
    infer(client)
    with pytest.raises(ConnectionLost) as caught:
        client.infer("healthy", [tensor("INPUT0", SMALL)], idempotent=True)
    assert (caught.value.attempts, len(server.requests) - 1) == (attempts, attempts)
    if watched:
        assert calls[-1].attempts == attempts


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("retry", [None, Retry(attempts=2, backoff=0)], ids=["none", "2"])
def test_a_result_tells_of_what_was_sent_again_unseen(serve, open_client, watched, retry):
    client = open_client(
        serve(dies_under_the_second).url, retry=retry, on_request=(lambda call: None) if watched else None
    )
    infer(client)
    assert client.infer("healthy", [tensor("INPUT0", SMALL)], idempotent=True).attempts == 2
    assert counts(client).resent == 1
    assert client.infer("healthy", [tensor("INPUT0", SMALL)], idempotent=True).attempts == 1


#: Answers that cannot be used, and how those of streams begin.
UNUSABLE = {
    "no JSON": answer(b"no JSON"),
    "more JSON than there is": answer(b"{}", headers="Inference-Header-Content-Length: 9\r\n"),
    "no gzip": answer(b"no gzip", headers="Content-Encoding: gzip\r\n"),
    "an error": answer(b'{"error":"refused"}', "400 Bad Request"),
    "an error in a success": answer(b'{"error":"refused"}'),
}
_STREAMED = "Content-Type: text/event-stream\r\n"
CUT = {
    "cut": answer(b'data: {"OUT": 1}\n\n', headers=_STREAMED, length=100),
    "no event": answer(b"data: no JSON\n\n", headers=_STREAMED),
    "an error": answer(b'data: {"error":"refused"}\n\n', headers=_STREAMED),
}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("retry", [None, Retry(attempts=2, backoff=0)], ids=["none", "2"])
@pytest.mark.parametrize("then", UNUSABLE)
def test_an_answer_that_cannot_be_used_tells_of_what_was_sent_again(serve, open_client, watched, retry, then):
    client = open_client(
        serve(dies_under_the_second, Sends(UNUSABLE[then])).url,
        retry=retry,
        on_request=(lambda call: None) if watched else None,
    )
    infer(client)
    with pytest.raises((ProtocolError, ServerError)) as caught:
        client.infer("healthy", [tensor("INPUT0", SMALL)], idempotent=True)
    assert caught.value.attempts == 2


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("then", CUT)
def test_a_broken_stream_tells_of_what_was_sent_again(serve, open_client, watched, then):
    client = open_client(
        serve(dies_under_the_second, Sends(CUT[then])).url,
        on_request=(lambda call: None) if watched else None,
    )
    infer(client)
    with pytest.raises((ConnectionLost, ProtocolError, ServerError)) as caught:
        list(client.generate_stream("healthy", {}, idempotent=True))
    assert caught.value.attempts == 2


# -- forks


FORKING = """
import threading, time
import tritonhttp
from tests.adversity.servers import HEALTHY, Server, answer
from tests.processes import exit_status, in_child

def slow(peer):
    while peer.read_request():
        time.sleep(0.02)
        peer.send(answer(HEALTHY))

with Server((slow,)) as server:
    client = tritonhttp.InferenceServerClient(server.url, concurrency=3, network_timeout=5)
    done = threading.Event()
    failures = []

    def work():
        while not done.is_set():
            try:
                assert client.get_server_metadata() == HEALTHY
            except BaseException as error:
                failures.append(error)

    def asks():
        for _ in range(3):
            assert client.get_server_metadata() == HEALTHY
        counts = client._transport.counts
        assert (counts.calls, counts.opened) == (3, 1), counts
        client.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    lock = client._transport.pool.lock
    for number in range(20):
        if number % 2:  # another thread may hold the lock
            held, go = threading.Event(), threading.Event()
            def hold():
                with lock:
                    held.set()
                    go.wait(5)
            holder = threading.Thread(target=hold)
            holder.start()
            held.wait(5)
        child = in_child(asks)
        if number % 2:
            go.set()
            holder.join()
        assert exit_status(child) == 0
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    client.close()
print("fine")
"""


@needs_fork
def test_a_process_may_fork_while_its_threads_are_in_calls():
    done = run_program(FORKING, timeout=120)
    assert (done.stdout, done.stderr) == ("fine\n", "")
