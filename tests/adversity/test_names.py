"""Hosts' names on the wire: in Host, for a proxy, in TLS, and to connect to."""

import socket
import ssl

import pytest
import trustme

from tritonhttp.errors import CertificateError, InferenceServerException, TLSError

from .servers import HEALTHY, Sends, answer, healthy

#: What is given, what is connected to, what URIs have, and what TLS has.
HOSTS = {
    "international": ("Bücher.test", "xn--bcher-kva.test", "xn--bcher-kva.test", "xn--bcher-kva.test"),
    "a dot at the end": ("triton.test.", "triton.test.", "triton.test.", "triton.test"),
    "a zone": ("[fe80::1%25eth9]", "fe80::1%eth9", "[fe80::1]", "fe80::1"),
    "a zone behind a bare %": ("[fe80::1%eth9]", "fe80::1%eth9", "[fe80::1]", "fe80::1"),
}


@pytest.fixture(params=HOSTS)
def host(request):
    return HOSTS[request.param]


@pytest.fixture
def resolved(monkeypatch):
    """All hosts but addresses of this machine resolve to it; the names that were asked for."""
    asked, ask = [], socket.getaddrinfo

    def getaddrinfo(host, port, *args, **options):
        if host.startswith("127."):
            return ask(host, port, *args, **options)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def secure(authority):
    def factory():
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    return {"ssl": True, "ssl_context_factory": factory}


@pytest.fixture
def context_for(authority):
    """Make a server's context with a certificate for a name; `indicated` are the names that clients sent."""

    def make(name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _, indicated, __: make.indicated.append(indicated)
        return context

    make.indicated = []
    return make


def header(head, name):
    lines = head.decode("ascii").split("\r\n")
    return [line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name}:")]


def test_the_host_header_and_what_is_connected_to(serve, open_client, call, resolved, host):
    given, connected, named, _ = host
    server = serve()
    client = open_client(f"{given}:{server.port}/bäse")
    assert call(client) == HEALTHY
    assert resolved == [connected]
    assert header(server.requests[0], "host") == [f"{named}:{server.port}"]
    assert server.requests[0].split()[1].startswith(b"/b%C3%A4se/v2")


def test_the_name_in_tls(serve, open_client, call, resolved, host, secure, context_for):
    given, connected, named, compared = host
    server = serve(context=context_for(compared))
    client = open_client(f"{given}:{server.port}", **secure)
    assert call(client) == HEALTHY
    assert resolved == [connected]
    assert context_for.indicated == [None if ":" in compared else compared]
    assert header(server.requests[0], "host") == [f"{named}:{server.port}"]


def test_another_certificate_is_refused(serve, open_client, call, resolved, host, secure, context_for):
    server = serve(context=context_for("other.test"))
    client = open_client(f"{host[0]}:{server.port}", **secure)
    with pytest.raises(CertificateError):
        call(client)


def test_a_proxy_that_forwards_gets_the_name(serve, open_client, call, resolved, host):
    given, _, named, _ = host
    proxy = serve()
    client = open_client(f"{given}:8000/bäse", proxy=proxy.url)
    assert call(client) == HEALTHY
    assert resolved == []
    assert header(proxy.requests[0], "host") == [f"{named}:8000"]
    assert proxy.requests[0].split()[1].startswith(f"http://{named}:8000/b%C3%A4se/v2".encode("ascii"))


def test_a_proxy_that_opens_a_tunnel_gets_the_name(
    serve, open_client, call, resolved, host, secure, context_for
):
    given, _, named, compared = host

    def tunnel(peer):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.encrypt(context_for(compared))
        healthy(peer)

    proxy = serve(tunnel)
    client = open_client(given, proxy=proxy.url, **secure)
    assert call(client) == HEALTHY
    head, behind = proxy.requests
    assert head.startswith(f"CONNECT {named}:443 HTTP/1.1\r\nHost: {named}:443\r\n".encode("ascii"))
    assert header(behind, "host") == [named]


@pytest.mark.parametrize("kind", ["another name", "another authority"])
def test_a_tunnel_is_no_reason_to_trust(serve, open_client, call, resolved, secure, context_for, kind):
    """Whoever owns the proxy could answer in the server's place."""
    if kind == "another name":
        context, expected = context_for("other.test"), CertificateError
    else:
        context, expected = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), TLSError
        trustme.CA().issue_cert("triton.test").configure_cert(context)

    def tunnel(peer):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.encrypt(context)
        healthy(peer)

    proxy = serve(*[tunnel] * 3)
    client = open_client("triton.test", proxy=proxy.url, **secure)
    with pytest.raises(expected, match=r"(?i)certificate"):
        call(client, headers={"Authorization": "sesame"})
    assert all(head.startswith(b"CONNECT ") and b"sesame" not in head for head in proxy.requests)


def test_a_proxys_own_name(serve, open_client, call, resolved, host):
    given, connected, _, _ = host
    proxy = serve()
    assert call(open_client("127.0.0.1:8000", proxy=f"http://u:p@{given}:{proxy.port}")) == HEALTHY
    assert resolved == [connected]


def test_no_proxy_of_the_environment(serve, open_client, call, resolved, host, monkeypatch):
    given, _, named, _ = host
    server = serve()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for no_proxy in (given, named, f"x, {named}:{server.port}"):
        monkeypatch.setenv("no_proxy", no_proxy)
        assert call(open_client(f"{given}:{server.port}", trust_env=True)) == HEALTHY


def test_an_error_has_a_url_that_others_can_read(serve, open_client, call, resolved, host):
    server = serve(Sends(b"", "close"), Sends(answer(b"no", "400 No")))
    client = open_client(f"{host[0]}:{server.port}/ü")
    for _ in range(2):
        with pytest.raises(InferenceServerException) as caught:
            call(client)
        assert caught.value.url.startswith(f"http://{host[2]}:{server.port}/%C3%BC/v2")


def test_a_path_by_hand_is_percent_encoded(serve, open_client):
    server = serve(*[healthy] * 2)
    client = open_client(server.url)
    for path in ("v2/models/ü", "v2/models/%C3%BC"):
        client._get(path, headers=None, query_params={"ö": "ä"})
        assert server.requests[-1].startswith(b"GET /v2/models/%C3%BC?%C3%B6=%C3%A4 HTTP/1.1\r\n")
