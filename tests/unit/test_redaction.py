"""What may be shown: the rule for names, and the texts it is applied to."""

from __future__ import annotations

import re
import time

import pytest

from tritonhttp._basics.redaction import is_secret, masked, without_credentials, without_secrets
from tritonhttp.auth import ApiKeyAuth
from tritonhttp.plugins import Request

SECRET = re.findall(
    r"\S+",
    """
    key access_key passwd jwt session sig signature credential token password secret auth bearer cookie hmac
    sas otp code api_key apiKey APIKey apikey accessToken access_token id_token refresh_token oauth_token
    csrf-token sastoken authtoken client_secret clientSecret secret_value password_hash user_pass PassWord
    pwd passphrase credentials session_id sessionId JSESSIONID PHPSESSID accesskey secretkey subscriptionKey
    subscription_key SECRET_ACCESS_KEY token2 api_keys AWSAccessKeyId Signature X-Amz-Signature
    X-Amz-Credential X-Amz-Security-Token X-Goog-Signature Authorization Proxy-Authorization Cookie
    Set-Cookie X-API-Key XApiKey Ocp-Apim-Subscription-Key X-Goog-Api-Key X-Auth-Token X-Functions-Key
    X-Hub-Signature-256 Private-Token X-Goog-IAP-JWT-Assertion SharedAccessSignature csrf _csrf X-XSRF-TOKEN
    pin PINCODE code_verifier SAMLResponse ticket jws auth_code mfa_code device_code gatewaykey sshkey writekeys
    basicauth X-Pass X-Code X-PIN X-Amzn-OIDC-Data X-Amzn-OIDC-AccessToken GoogleAccessId connectionString dsn
""",
)
PLAIN = re.findall(
    r"\S+",
    """
    token_count max_tokens num_tokens tokens eos_token pad_token_id stop_token token_type tokenizer keyboard
    keyword monkey key_count key_type author authority authenticate WWW-Authenticate design assign sign
    signal signature_name session_length session_timeout password_length passage compass secretary cache_key
    country_code error_code spin opinion ticket_count turkey forward_pass x model_id client_id
    Idempotency-Key sequence_id status_code language_code decode Content-Type User-Agent Traceparent
    Inference-Header-Content-Length X-Request-Id id
""",
)


@pytest.mark.parametrize("name", SECRET)
def test_a_name_of_a_secret(name: str) -> None:
    assert is_secret(name)
    assert is_secret(name.upper()) or name != name.lower(), "words in camelCase need their case"
    assert masked([(name, "sesame")]) == {name: "***"}


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_only_looks_like_one(name: str) -> None:
    assert not is_secret(name)
    assert masked([(name, "1")]) == {name: "1"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET http://h/v2?a=1&token=x failed", "GET http://h/v2?a=1&token=*** failed"),
        ("/v2?token=x;y&a=1", "/v2?token=***&a=1"),
        ("/v2?a=1;token=x", "/v2?a=1;token=***"),
        ("/v2?api%5Fkey=x&api+key=y", "/v2?api%5Fkey=***&api+key=***"),
        ("https://h/#access_token=x", "https://h/#access_token=***"),
        ("https://h/?next=https://i/?sig=x", "https://h/?next=https://i/?sig=***"),
        ("http://u:p@h/ and http://u@i", "http://***@h/ and http://***@i"),
        ("http://u:p@ss@h", "http://***@h"),
        ("http://u:p/ss@h", "http://***@h"),
        ("http://u:@h http://:p@h", "http://***@h http://***@h"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://h:80: lost @ once", "http://h:80: lost @ once"),
        ("a = b & token = c", "a = b & token = c"),
        ("", ""),
    ],
)
def test_a_text_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


def test_headers_whose_values_are_urls() -> None:
    assert masked([("Referer", "http://u:p@h/?key=x"), ("Length", 5)]) == {
        "Referer": "http://***@h/?key=***",
        "Length": 5,
    }


def test_a_header_that_hides_itself_stays_hidden() -> None:
    request = Request({})
    ApiKeyAuth("X-Own", "a?sesame=")(request)
    assert repr(masked(request.headers.items())) == "{'X-Own': '***'}"


def test_a_hostile_text_takes_no_quadratic_time() -> None:
    for piece in ("://", "://a:b/", "?a=", "&token=", ";", "://a:b@"):
        began = time.thread_time()
        without_secrets(piece * (300_000 // len(piece)))
        assert time.thread_time() - began < 5, piece  # it takes a tenth of a second


@pytest.mark.parametrize("url", ["u:sesame@h", "http://u:se/sesame@h?x=sesame", "h?x=sesame@", 5, None])
def test_a_refused_url_without_credentials(url: object) -> None:
    assert "sesame" not in without_credentials(url)
