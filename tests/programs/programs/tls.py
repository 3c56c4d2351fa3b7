"""TLS: trusted authorities, none, no check of the name, contexts and options."""

import os
import ssl

import gevent.ssl
import tritonclient.http as httpclient

CA = os.environ["CA"]


def trusting():
    context = ssl.create_default_context(cafile=CA)
    return context


def blind():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


CASES = {
    "options": {"ssl_options": {"ca_certs": CA}},
    "all options": {
        "ssl_options": {
            "ca_certs": CA,
            "cert_reqs": ssl.CERT_REQUIRED,
            "ssl_version": ssl.PROTOCOL_TLS_CLIENT,
            "ciphers": "ECDHE+AESGCM",
        }
    },
    "gevent's context": {
        "ssl_options": {"ca_certs": CA},
        "ssl_context_factory": gevent.ssl.create_default_context,
    },
    "insecure, trusted": {"ssl_options": {"ca_certs": CA}, "insecure": True},
    "insecure, not trusted": {"insecure": True},
    "not trusted": {},
    "cert_reqs none": {"ssl_options": {"cert_reqs": ssl.CERT_NONE}},
    "blind and insecure": {"ssl_context_factory": blind, "insecure": True},
    "client certificate": {
        "ssl_options": {"ca_certs": CA, "certfile": os.environ["CERT"], "keyfile": os.environ["CERT"]}
    },
}
for place in ("SECURE", "ELSEWHERE"):
    for name, options in CASES.items():
        client = httpclient.InferenceServerClient(os.environ[place], ssl=True, **options)
        try:
            print(place, name, client.is_server_live())
        except ssl.SSLCertVerificationError:
            print(place, name, "certificate")
        except ssl.SSLError:
            print(place, name, "TLS")
        client.close()
try:
    httpclient.InferenceServerClient(
        os.environ["PEER"], ssl=True, ssl_options={"ca_certs": CA}
    ).is_server_live()
except ssl.SSLError:
    print("no TLS there")
