"""TLS before the real server, with certificates made on the fly. The chain is verified always."""

import contextlib
import ssl

import numpy as np
import pytest
import trustme

import tritonhttp
from tritonhttp.errors import ConnectError, TLSError

from ...clients import tensor


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def make_tls_gateway(make_gateway, authority):
    def make(*names, client_certificate=False, **options):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        if client_certificate:
            authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return make_gateway(context=context, **options)

    return make


@pytest.fixture
def secure(make_tls_gateway):
    return make_tls_gateway("127.0.0.1")


@pytest.fixture
def trusting(authority):
    """A factory of contexts that trust our authority."""

    def factory():
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    return factory


def check_traffic(client):
    assert client.is_server_live()
    array = np.random.default_rng(5).standard_normal(300_000, np.float32)
    result = client.infer("identity_fp32", [tensor("INPUT0", array)])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)
    small = [tensor(name, np.full((1, 16), 3, np.int32)) for name in ("INPUT0", "INPUT1")]
    assert client.infer("add_sub", small).as_numpy("OUTPUT0").tolist() == [[6] * 16]


@pytest.mark.parametrize("prefix", ["", "https://"])
def test_a_chain_that_the_factorys_context_trusts_is_fine(secure, open_client, trusting, prefix):
    check_traffic(open_client(prefix + secure.url, ssl=True, ssl_context_factory=trusting))
    assert secure.connections == 1


def test_a_chain_that_ca_certs_trusts_is_fine(secure, open_client, ca_file):
    check_traffic(open_client(secure.url, ssl=True, ssl_options={"ca_certs": ca_file}))


def test_https_in_the_url_is_enough(secure, open_client, ca_file):
    check_traffic(open_client(f"https://{secure.url}", ssl_options={"ca_certs": ca_file}))


def test_factory_and_options_add_up(secure, open_client, ca_file):
    options = {"ca_certs": ca_file, "ciphers": "ECDHE+AESGCM"}
    client = open_client(
        secure.url, ssl=True, ssl_context_factory=ssl.create_default_context, ssl_options=options
    )
    check_traffic(client)


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("options", [{}, {"ssl_options": {"cert_reqs": ssl.CERT_NONE}}], ids=repr)
def test_an_unknown_authority_is_refused_always(secure, open_client, insecure, options):
    client = open_client(secure.url, ssl=True, insecure=insecure, **options)
    for _ in range(2):
        with pytest.raises(TLSError, match=r"(?i)certificate verify failed") as caught:
            client.is_server_live()
        assert isinstance(caught.value, ssl.SSLError)
        assert isinstance(caught.value, ConnectError)
        assert isinstance(caught.value, ConnectionError)
        assert isinstance(caught.value, tritonhttp.InferenceServerException)
        assert f"https://{secure.url}/v2/health/live" in caught.value.message()
        assert caught.value.phase == "tls"
    assert secure.seen == []


def test_another_hosts_certificate_is_refused_unless_insecure(make_tls_gateway, open_client, trusting):
    gateway = make_tls_gateway("elsewhere.example")
    client = open_client(gateway.url, ssl=True, ssl_context_factory=trusting)
    with pytest.raises(TLSError, match=r"(?i)certificate is not valid for '127.0.0.1'|IP address mismatch"):
        client.is_server_live()
    assert gateway.seen == []
    check_traffic(open_client(gateway.url, ssl=True, ssl_context_factory=trusting, insecure=True))


def test_a_name_is_compared_with_the_certificate(make_tls_gateway, open_client, ca_file):
    gateway = make_tls_gateway("localhost")
    url = f"localhost:{gateway.port}"
    assert open_client(url, ssl=True, ssl_options={"ca_certs": ca_file}).is_server_live()


@pytest.fixture
def own_certificate(authority, tmp_path):
    issued = authority.issue_cert("client@example.org")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    issued.private_key_pem.write_to_path(key)
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate, append=number > 0)
    return {"certfile": str(certificate), "keyfile": str(key)}


def test_a_client_certificate_is_shown_where_the_server_asks(
    make_tls_gateway, open_client, ca_file, own_certificate
):
    gateway = make_tls_gateway("127.0.0.1", client_certificate=True)
    check_traffic(open_client(gateway.url, ssl=True, ssl_options={"ca_certs": ca_file, **own_certificate}))
    assert ("email", "client@example.org") in gateway.peer_names[0]["subjectAltName"]


def test_without_a_client_certificate_such_a_server_refuses(make_tls_gateway, open_client, ca_file):
    gateway = make_tls_gateway("127.0.0.1", client_certificate=True)
    client = open_client(gateway.url, ssl=True, ssl_options={"ca_certs": ca_file})
    # With TLS 1.3 the refusal comes after the handshake, in place of the answer.
    with pytest.raises((TLSError, tritonhttp.ConnectionLost)) as caught:
        client.is_server_live()
    assert gateway.url in caught.value.message()
    assert gateway.seen == []


def test_an_older_tls_than_the_client_takes_is_refused(make_gateway, authority, open_client, trusting):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    gateway = make_gateway(context=context)

    def only_13():
        newest = trusting()
        newest.minimum_version = ssl.TLSVersion.TLSv1_3
        return newest

    with pytest.raises(TLSError, match=r"(?i)version"):
        open_client(gateway.url, ssl=True, ssl_context_factory=only_13).is_server_live()
    assert open_client(gateway.url, ssl=True, ssl_context_factory=trusting).is_server_live()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"no_such_option": 1}, "no_such_option"),
        ({"ca_certs": "/no/such/file"}, "ca_certs"),
        ({"ciphers": "no such cipher"}, "ciphers"),
    ],
)
def test_options_that_cannot_be_used_are_refused_at_once(open_client, options, match):
    with pytest.raises(tritonhttp.InvalidRequest, match=match):
        open_client("localhost:8000", ssl=True, ssl_options=options)


def test_the_options_dict_is_neither_changed_nor_kept(secure, open_client, ca_file):
    options = {"ca_certs": ca_file}
    client = open_client(secure.url, ssl=True, ssl_options=options)
    options["ca_certs"] = "/no/such/file"
    assert client.is_server_live()
    assert options == {"ca_certs": "/no/such/file"}


def test_without_ssl_the_tls_options_mean_nothing(triton_server, open_client):
    client = open_client(triton_server.url, ssl_options={"ca_certs": "/no/such/file"}, insecure=True)
    assert client.is_server_live()


def test_a_context_of_the_callers_own_may_verify_nothing(secure, open_client):
    def unverified():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    with contextlib.closing(open_client(secure.url, ssl=True, ssl_context_factory=unverified)) as client:
        check_traffic(client)
