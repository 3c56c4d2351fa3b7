"""Where the server is: URLs, TLS contexts, and the addresses of a name."""

from __future__ import annotations

import dataclasses
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import tritonhttp
import tritonhttp.aio
from tritonhttp import DeadlineExceeded, InvalidRequest, NameResolutionError
from tritonhttp._transport import resolver
from tritonhttp._transport.address import Address, parse_url
from tritonhttp._transport.resolver import leave, look_up, resolve
from tritonhttp._transport.route import bypasses
from tritonhttp._transport.tls import tls_context

from ..clients import wait_until

NAME = Address("name", 80, False, "")

# -- URLs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8000", Address("localhost", 8000, False, "")),
        ("localhost", Address("localhost", 80, False, "")),
        ("localhost:", Address("localhost", 80, False, "")),
        ("localhost:8000/", Address("localhost", 8000, False, "")),
        ("gateway:8000/triton", Address("gateway", 8000, False, "/triton")),
        ("localhost:8000//", Address("localhost", 8000, False, "")),
        ("gateway/a/b//", Address("gateway", 80, False, "/a/b")),
        ("http://gateway:8000/triton/", Address("gateway", 8000, False, "/triton")),
        ("HTTP://Gateway", Address("Gateway", 80, False, "")),
        ("https://gateway", Address("gateway", 443, True, "")),
        ("https://gateway:8443/t", Address("gateway", 8443, True, "/t")),
        ("127.0.0.1:8000", Address("127.0.0.1", 8000, False, "")),
        ("[::1]:8000", Address("::1", 8000, False, "")),
        ("[::1]", Address("::1", 80, False, "")),
        ("http://[fe80::1%eth0]:8000/t", Address("fe80::1%eth0", 8000, False, "/t")),
        ("[::ffff:127.0.0.1]:1", Address("::ffff:127.0.0.1", 1, False, "")),
        ("my_host-1.example.com.:65535", Address("my_host-1.example.com.", 65535, False, "")),
        ("  localhost:8000\n", Address("localhost", 8000, False, "")),
        ("host:080", Address("host", 80, False, "")),
    ],
)
def test_a_url_is_taken_apart(url: str, address: Address) -> None:
    assert parse_url(url, ssl=False) == address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("gateway", Address("gateway", 443, True, "")),
        ("gateway:8000/t", Address("gateway", 8000, True, "/t")),
        ("https://gateway", Address("gateway", 443, True, "")),
        ("HTTPS://gateway:1", Address("gateway", 1, True, "")),
    ],
)
def test_a_url_with_tls(url: str, address: Address) -> None:
    assert parse_url(url, ssl=True) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        ":8000",
        "/path",
        "http://",
        "http:///path",
        "host/\0",
        "ho\x7fst",
        "[::1]x:80",
        "host:port",
        "host:-1",
        "host:80:90",
        "::1",
        "[::1",
        "[host]:80",
        "[]:80",
        "host name:80",
        "host/a b",
        "host?x=y",
        "host/#fragment",
        "http://http://host",
        "host\r\nX: y",
        None,
        5,
        b"localhost:8000",
        ("localhost", 8000),
    ],
)
def test_urls_of_other_forms_are_refused(url: Any) -> None:
    with pytest.raises(InvalidRequest, match="expected a URL of the form host:port/base-path"):
        parse_url(url, ssl=False)


def test_a_url_with_a_query_is_refused_with_the_place_of_queries() -> None:
    with pytest.raises(
        InvalidRequest, match=r"'http://h/metrics\?…': a query goes .* query_params="
    ) as caught:
        parse_url("http://h/metrics?token=sesame", ssl=False)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("url", ["host:0", "host:65536", "http://host:99999/t", "[::1]:70000"])
def test_an_invalid_port_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="expected a port from 1 to 65535"):
        parse_url(url, ssl=False)


@pytest.mark.parametrize("url", ["ftp://host", "grpc://host:8001", "ws://host"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match=f"got the scheme '{url.split(':')[0]}'"):
        parse_url(url, ssl=False)


def test_tls_and_a_scheme_without_it_contradict_each_other() -> None:
    with pytest.raises(InvalidRequest, match="ssl=True contradicts the scheme"):
        parse_url("http://host:8000", ssl=True)


@pytest.mark.parametrize(
    "url",
    [
        "user:sesame@host:8000",
        "http://user:sesame@host",
        "https://sesame@host/path",
        "http://user:se/sesame@host",
        "http://user:pass sesame@host",
        "http://user:sesame@x@host",
        "http://host/path?token=sesame",
        "host?token=sesame@",
        "http://user:sesame\n@host",
    ],
)
@pytest.mark.parametrize("tls", [True, False])
def test_credentials_stay_out_of_the_message(url: str, tls: bool) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_url(url, ssl=tls)
    assert "sesame" not in str(caught.value)
    assert "host" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "authority", "origin"),
    [
        ("host:8000", "host:8000", "http://host:8000"),
        ("host:80", "host", "http://host"),
        ("http://host:443", "host:443", "http://host:443"),
        ("https://host:443", "host", "https://host"),
        ("https://host:80/t", "host:80", "https://host:80"),
        ("[::1]:8000", "[::1]:8000", "http://[::1]:8000"),
        ("https://[::1]", "[::1]", "https://[::1]"),
    ],
)
def test_authority_and_origin(url: str, authority: str, origin: str) -> None:
    address = parse_url(url, ssl=False)
    assert (address.authority, address.origin) == (authority, origin)


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("MÜNCHEN.de", "xn--mnchen-3ya.de"),
        ("mu\u0308nchen.de", "xn--mnchen-3ya.de"),
        ("m%C3%BCnchen.de", "xn--mnchen-3ya.de"),
        ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("faß.de", "xn--fa-hia.de"),  # IDNA2003 took it for fass.de
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("ａｂｃ．de", "abc.de"),
        ("127.1", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("123456789012", "123456789012"),
        ("1.example", "1.example"),
        ("[fe80::1%25eth0]", "fe80::1%eth0"),
        ("[fe80::1%25e%2D0]", "fe80::1%e-0"),
        ("[fe80::1%25]", "fe80::1%25"),
        ("[fe80::1%1]", "fe80::1%1"),
    ],
)
def test_a_host_is_ascii(given: str, host: str) -> None:
    assert parse_url(f"http://{given}:8000/", ssl=False) == Address(host, 8000, False, "")


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".a",
        ".",
        "a..",
        "x" * 64,
        "ü" * 64,
        f"{'x' * 63}." * 4,
        "a<b",
        "a%2Fb",
        "a%00b",
        "a%zz",
        "a%FF",
        "\u2100.com",  # compatible with a/c
        "\xad.de",
        "\ud800.de",
        "1.2.3.4.5",
        "256.1.1.1",
        "[:::]",
        "[1.2.3.4]",
        "[::1%]",
    ],
)
def test_what_can_be_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest, match=r"expected .* got"):
        parse_url(f"http://{host}:8000/path", ssl=False)


def test_a_base_path_is_percent_encoded() -> None:
    for path in ("/ü/a%20b/c%2Fd", "/%C3%BC/a%20b/c%2Fd"):
        assert parse_url(f"host{path}/", ssl=False).base_path == "/%C3%BC/a%20b/c%2Fd"
    assert parse_url('host/a"<b>', ssl=False).base_path == "/a%22%3Cb%3E"
    assert parse_url("host/a=b;c,d@e:f!(g)", ssl=False).base_path == "/a=b;c,d@e:f!(g)"
    with pytest.raises(InvalidRequest, match=r"the path of .* is not valid text"):
        parse_url("host/\ud800", ssl=False)


@pytest.mark.parametrize(
    ("url", "authority", "tls_name"),
    [
        ("https://münchen.de:1", "xn--mnchen-3ya.de:1", "xn--mnchen-3ya.de"),
        ("https://example.com.", "example.com.", "example.com"),
        ("https://[fe80::1%25eth0]", "[fe80::1]", "fe80::1"),
        ("https://[fe80::1%eth0]:1", "[fe80::1]:1", "fe80::1"),
        ("https://10.0.0.1", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_name_on_the_wire_has_no_zone_and_in_tls_no_dot_at_its_end(
    url: str, authority: str, tls_name: str
) -> None:
    address = parse_url(url, ssl=True)
    assert (address.authority, address.origin) == (authority, f"https://{authority}")
    assert address.tls_name == tls_name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[
            (name, True)
            for name in ("localhost", "LOCALHOST", "localhost.", "a.localhost", "127.1", "127.9.9.9")
        ],
        *[(name, True) for name in ("[::1]", "[::ffff:127.0.0.1]")],
        *[
            (name, False)
            for name in ("notlocalhost", "localhost.example", "10.0.0.1", "[fe80::1%lo]", "host")
        ],
    ],
)
def test_which_hosts_are_this_machine(host: str, loopback: bool) -> None:
    assert parse_url(host, ssl=False).is_loopback is loopback


SAME = [
    ("münchen.de", "http://XN--mnchen-3ya.DE:80/"),
    ("host:8000/a", "HTTP://HOST:8000/a/"),
    ("[::1]:8000", "[0:0:0:0:0:0:0:1]:8000"),
    ("127.1:8000", "127.0.0.1:8000"),
    ("[fe80::1%eth0]", "[FE80::1%25eth0]"),
]
OTHERS = [
    ("host:8000", "host:8001"),
    ("host/a", "host/A"),
    ("http://host:443", "https://host:443"),
    ("[fe80::1%eth0]", "[fe80::1%eth1]"),
    ("host", "host."),  # which is not completed with a search domain
    ("unix:///a", "unix:///b"),
]


@pytest.mark.parametrize("kind", [tritonhttp.InferenceServerClient, tritonhttp.aio.InferenceServerClient])
def test_spellings_of_one_server_are_one_server(kind: Any) -> None:
    for one, other in SAME:
        client = kind([one, other])
        assert client.servers == (one,)
        assert client.server(other) is client.server(one)
    for one, other in OTHERS:
        client = kind([one, other])
        assert client.servers == (one, other)
        assert client.server(other) is not client.server(one)
    client = kind(["a:1", "b:1", "A:1"])
    assert client.servers == ("a:1", "b:1")
    assert client.server("http://B:1/") is client.server("b:1")
    for url in ("c:1", "http://u:sesame@c", None, ["a:1"]):
        with pytest.raises(InvalidRequest) as caught:
            client.server(url)
        assert "sesame" not in str(caught.value)


# -- no_proxy ---------------------------------------------------------------------------------------

BYPASSED = [
    ("[::1]", "[::1]"),
    ("[::1]:8000", "::1"),
    ("[::1]:8000", "[::1]:8000"),
    ("[::1]", "0:0:0:0:0:0:0:1"),
    ("[fe80::1%eth0]", "fe80::1"),
    ("[fe80::1]", "fe80::1%eth0"),
    ("[::ffff:10.0.0.1]", "10.0.0.1"),
    ("example.com.", "example.com"),
    ("example.com", "example.com."),
    ("example.com", ".example.com."),
    ("a.example.com.", ".example.com"),
    ("a.example.com", "*.example.com"),
    ("EXAMPLE.com", "Example.COM"),
    ("example.com:8000", "example.com:8000"),
    ("example.com", "example.com:80"),
    ("https://example.com", "example.com:443"),
    ("münchen.de", "MÜNCHEN.de"),
    ("münchen.de", "xn--mnchen-3ya.de"),
    ("a.xn--mnchen-3ya.de", ".münchen.de"),
    ("127.1", "127.0.0.1"),
    ("127.0.0.1", "127.1"),
    ("10.1.2.3", "10.0.0.0/8"),
    ("10.1.2.3", "10.1.2.3/32"),
    ("[fd00::1]", "[fd00::]/8"),
    ("[fd00::1]", "fd00::/8"),
    ("host", "other, host"),
    ("host", "other host"),
    ("host", "other,*"),
]
PROXIED = [
    ("[::1]", "[::2]"),
    ("[::1]:8000", "[::1]:80"),
    ("example.com:8000", "example.com:80"),
    ("badexample.com", "example.com"),
    ("com", "example.com"),
    ("10.0.0.1", "0.0.1"),
    ("11.1.2.3", "10.0.0.0/8"),
    ("[::1]", "10.0.0.0/8"),
    ("name", "10.0.0.0/8"),
    ("host", ""),
    ("host", " , ., :, [], *., a..b, /8, http://host"),
]


@pytest.mark.parametrize(
    ("url", "no_proxy", "bypassed"),
    [*((*pair, True) for pair in BYPASSED), *((*pair, False) for pair in PROXIED)],
)
def test_no_proxy(url: str, no_proxy: str, bypassed: bool) -> None:
    assert bypasses(parse_url(url, ssl=False), no_proxy) is bypassed


def test_an_address_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_url("host", ssl=False).port = 5  # type: ignore[misc]


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_literal_needs_no_look_up(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: Any, **__: Any) -> None:
        raise AssertionError("a literal needs no thread")

    monkeypatch.setattr(threading, "Thread", no_thread)
    ((family, address),) = resolve(Address(host, 8000, False, ""), deadline=time.monotonic())
    assert family == (socket.AF_INET6 if ":" in host else socket.AF_INET)
    assert address[:2] == (host, 8000)


class Names:
    """Stands for the system's resolver."""

    def __init__(self) -> None:
        self.found: list[Any] | Exception = []
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def getaddrinfo(self, host: str, port: int, *_: Any, flags: int = 0, **__: Any) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a literal")
        self.asked += 1
        assert self.answers.wait(20)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    fake = Names()
    monkeypatch.setattr(socket, "getaddrinfo", fake.getaddrinfo)
    yield fake
    fake.answers.set()
    for thread in threading.enumerate():
        if thread.name == "tritonhttp-resolve":
            thread.join(20)


V4 = (socket.AF_INET, ("192.0.2.1", 80))
V6 = (socket.AF_INET6, ("2001:db8::1", 80, 0, 0))


def entry(found: tuple[int, Any]) -> tuple[int, int, int, str, Any]:
    return found[0], socket.SOCK_STREAM, 6, "", found[1]


def test_addresses_come_in_the_systems_order_and_once(names: Names) -> None:
    names.found = [entry(V6), entry(V4), entry(V6)]
    assert resolve(NAME, None) == [V6, V4]
    assert resolve(NAME, time.monotonic() + 5) == [V6, V4]


@pytest.mark.parametrize(
    "failure",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError("no resolver"),
        UnicodeError("label too long"),
    ],
)
def test_a_name_without_an_address(names: Names, failure: Exception) -> None:
    names.found = failure
    with pytest.raises(NameResolutionError, match="cannot resolve the name 'name'") as caught:
        resolve(NAME, None)
    assert caught.value.phase == "resolve"
    assert isinstance(caught.value, socket.gaierror)


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_an_impossible_name_has_no_address(host: str) -> None:
    with pytest.raises(NameResolutionError, match=f"cannot resolve the name '{host}'") as caught:
        resolve(Address(host, 8000, False, ""), None)
    assert caught.value.phase == "resolve"


def test_a_resolver_that_does_not_answer_is_given_up_in_time(names: Names) -> None:
    names.answers.clear()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="timed out while resolving the name 'name'") as caught:
        resolve(NAME, began + 0.1)
    assert 0.1 <= time.monotonic() - began < 3
    assert caught.value.phase == "resolve"


def test_a_look_up_for_which_no_thread_can_be_created_fails(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(
        NameResolutionError, match="cannot resolve the name 'name': that takes a thread: can't"
    ):
        resolve(NAME, None)


def test_a_deadline_that_has_passed(names: Names) -> None:
    names.answers.clear()
    with pytest.raises(DeadlineExceeded, match="timed out"):
        resolve(NAME, time.monotonic() - 5)


def resolving() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tritonhttp-resolve"]


def test_a_look_up_under_way_is_joined(names: Names) -> None:
    names.answers.clear()
    names.found = [entry(V4)]
    outcomes: list[Any] = []
    joining = [threading.Thread(target=lambda: outcomes.append(resolve(NAME, None))) for _ in range(8)]
    for thread in joining:
        thread.start()
    for _ in range(8):
        with pytest.raises(DeadlineExceeded):
            resolve(NAME, time.monotonic() + 0.02)
    assert len(resolving()) == 1
    names.answers.set()
    for thread in joining:
        thread.join(10)
    assert outcomes == [[V4]] * 8
    assert len({id(outcome) for outcome in outcomes}) == 8
    assert names.asked == 1
    wait_until(lambda: not resolver._look_ups)
    assert resolve(NAME, None) == [V4]
    assert names.asked == 2


def test_callers_that_share_a_look_up_get_errors_of_their_own(names: Names) -> None:
    names.answers.clear()
    names.found = OSError("no resolver")
    told: list[Any] = []

    def call() -> None:
        with pytest.raises(NameResolutionError) as caught:
            resolve(NAME, None)
        told.append(caught.value)

    calls = [threading.Thread(target=call) for _ in range(3)]
    calls[0].start()
    wait_until(lambda: names.asked == 1)
    for thread in calls[1:]:
        thread.start()
    wait_until(lambda: len(resolver._look_ups["name", 80].waiting) == 3)
    names.answers.set()
    for thread in calls:
        thread.join(10)
    assert names.asked == 1
    assert len({id(error) for error in told}) == 3
    assert {str(error) for error in told} == {"cannot resolve the name 'name': no resolver"}


def test_a_caller_that_gave_up_a_look_up_is_not_told(names: Names) -> None:
    names.answers.clear()
    told: list[Any] = []

    def first(outcome: Any) -> None:
        told.append("first")

    def second(outcome: Any) -> None:
        told.append("second")

    look_up(NAME, first)
    wait_until(lambda: names.asked == 1)
    look_up(NAME, second)
    leave(NAME, first)
    names.answers.set()
    wait_until(lambda: not resolving())
    assert told == ["second"]


def test_who_joins_a_look_up_that_ends_meanwhile_is_told_once() -> None:
    under_way, told = resolver._LookUp(), []
    under_way.end([V4])
    under_way.join(told.append)
    assert told == [[V4]]
    assert not under_way.waiting


def test_an_interrupt_leaves_no_look_up_that_nobody_works_on(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.found = [entry(V4)]
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    def interrupted_behind_that(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    for each in (interrupted, interrupted_behind_that):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", each)
            with pytest.raises(KeyboardInterrupt):
                resolve(NAME, None)
        assert resolve(NAME, time.monotonic() + 5) == [V4]


def test_a_call_at_the_interpreters_exit_looks_up_by_itself(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    names.found = [entry(V4)]
    assert resolve(NAME, None) == [V4]
    names.found = OSError("no resolver")
    with pytest.raises(NameResolutionError, match="cannot resolve the name 'name': no resolver"):
        resolve(NAME, None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_looks_up_anew(names: Names) -> None:
    names.answers.clear()
    names.found = [entry(V4)]
    with pytest.raises(DeadlineExceeded):
        resolve(NAME, time.monotonic() + 0.02)
    child = os.fork()
    if not child:
        try:
            names.answers = threading.Event()
            names.answers.set()
            os._exit(0 if resolve(NAME, time.monotonic() + 5) == [V4] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "nonsense.pem").write_text("nonsense")
    return {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key", "nonsense")}


def test_everything_is_verified_unless_told_otherwise() -> None:
    for options in (None, {}, {"cert_reqs": ssl.CERT_NONE}, {"ca_certs": None}):
        context = tls_context(options, None, insecure=False)
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


@pytest.mark.parametrize("cert_reqs", [None, ssl.CERT_NONE])
def test_insecure_leaves_the_chain_verified(cert_reqs: Any) -> None:
    context = tls_context({"cert_reqs": cert_reqs}, None, insecure=True)
    assert not context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_factorys_context_is_used_as_it_is() -> None:
    own = ssl.create_default_context()
    own.check_hostname = False
    own.verify_mode = ssl.CERT_NONE
    assert tls_context(None, lambda: own, insecure=False) is own
    assert own.verify_mode == ssl.CERT_NONE
    assert not own.check_hostname


def test_options_are_added_to_a_factorys_context(files: dict[str, str]) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert own.get_ca_certs() == []
    tls_context({"ca_certs": files["ca"]}, lambda: own, insecure=False)
    assert len(own.get_ca_certs()) == 1


def test_certificate_files_are_loaded(files: dict[str, str]) -> None:
    options = {"ca_certs": files["ca"], "certfile": files["cert"], "keyfile": files["key"]}
    before = dict(options)
    assert tls_context(options, None, insecure=False).get_ca_certs()
    assert options == before


def test_ciphers_are_set() -> None:
    context = tls_context({"ciphers": "ECDHE-RSA-AES256-GCM-SHA384"}, None, insecure=False)
    assert "ECDHE-RSA-AES256-GCM-SHA384" in [each["name"] for each in context.get_ciphers()]
    assert "ECDHE-RSA-AES128-GCM-SHA256" not in [each["name"] for each in context.get_ciphers()]


@pytest.mark.parametrize(
    "options",
    [
        {"ca_certs": "/does/not/exist.pem"},
        {"certfile": "/does/not/exist.pem"},
        {"ciphers": "NO-SUCH-CIPHER"},
        {"keyfile": "/does/not/exist.pem"},
    ],
)
def test_unusable_tls_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        tls_context(options, None, insecure=False)


def test_a_file_that_is_no_certificate_is_refused(files: dict[str, str]) -> None:
    for name in ("ca_certs", "certfile"):
        with pytest.raises(InvalidRequest, match=name):
            tls_context({name: files["nonsense"]}, None, insecure=False)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"unknown ssl_options \['verify'\]"):
        tls_context({"verify": False}, None, insecure=False)


@pytest.mark.parametrize("option", ["do_handshake_on_connect", "suppress_ragged_eofs", "server_side"])
def test_options_of_the_old_wrapper_are_accepted(option: str) -> None:
    assert tls_context({option: True}, None, insecure=False).check_hostname


@pytest.mark.parametrize("version", [ssl.PROTOCOL_TLS_CLIENT, None])
def test_any_tls_version_is_the_default(version: Any) -> None:
    plain, asked = tls_context(None, None, False), tls_context({"ssl_version": version}, None, False)
    assert (asked.minimum_version, asked.maximum_version) == (plain.minimum_version, plain.maximum_version)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_tls_version_can_be_asked_for() -> None:
    context = tls_context({"ssl_version": ssl.PROTOCOL_TLSv1_2}, None, insecure=False)
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_2


def test_an_unknown_tls_version_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="ssl_version"):
        tls_context({"ssl_version": "TLS 9"}, None, insecure=False)
