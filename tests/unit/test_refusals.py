"""Error answers: the words of servers and gateways, and the advice beside them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tritonhttp import ServerError
from tritonhttp._protocol.refusals import check, own_words, shares_nothing
from tritonhttp._wire.responses import Response, ResponseHead, StreamedResponse

SWITCHED_OFF = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
IN_PROCESS = (
    "Shared memory is not supported in this server configuration. This can occur when the frontend is started"
    " through the in-process Python bindings (tritonfrontend); start the server with the tritonserver executable"
    " to use shared memory."
)
HTML = b"<html><head><title>x</title></head><body><h1>%s</h1><hr>nginx</body></html>"


def refusal(status: int, body: Any, asked: tuple[str, ...] = ()) -> ServerError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = Response(ResponseHead(status, {}, ""), raw)
    if asked:
        response.asked = asked
    with pytest.raises(ServerError) as caught:
        check(response)
    assert caught.value.status() == str(status)
    return caught.value


@pytest.mark.parametrize(
    ("status", "words", "advice"),
    [
        (501, SWITCHED_OFF, "--allow-client-shm=true for that)"),
        (503, IN_PROCESS, "if it is started with --allow-client-shm=true)"),
        (503, "Shared memory manager is not available", "if it is started with --allow-client-shm=true)"),
        (
            403,
            "This API is restricted, expecting header 'infer-key'",
            "--http-restricted-api: send the header and its value with headers={'infer-key': …}, or with a plugin:"
            " tritonhttp.auth.ApiKeyAuth('infer-key', …))",
        ),
        (
            400,
            "request JSON size of 68000084 bytes exceeds the maximum allowed input size of 67108864 bytes. Use"
            " --http-max-input-size to increase the limit.",
            "64 MiB by default. Tensors can go as binary data without compression",
        ),
        (
            400,
            "Decompressed data size exceeds the maximum allowed value of 67108864 bytes. Use"
            " --http-max-input-size to increase the limit.",
            "64 MiB by default. Tensors can go as binary data without compression",
        ),
        (400, "inference header size should be in range (0, -2147483436), got: 108", "less than 2 GiB"),
        (
            400,
            "Unable to parse Content-Length, value is out of range [ -2147483648, 2147483647 ], got: 2147487866",
            "less than 2 GiB",
        ),
    ],
)
def test_a_servers_words_are_kept_and_followed_by_advice(status: int, words: str, advice: str) -> None:
    message = str(refusal(status, {"error": words}).message())
    assert message.startswith(f"{words} (")
    assert advice in message


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "inference header size should be in range (0, 100), got: 108"),
        (403, "This API is not for you"),
        (404, "no region 'x' is registered"),
        (413, "too much of model x"),
        (503, "server is not ready"),
        (400, "Invalid shared memory region: 'x'"),
    ],
)
def test_words_that_explain_themselves_stay_alone(status: int, words: str) -> None:
    assert refusal(status, {"error": words}).message() == words


@pytest.mark.parametrize(
    "body",
    [
        b"",
        {"error": "Not Found"},
        {"detail": "Not Found"},
        {"message": "no Route matched with those values"},
        b"404 page not found\n",
        HTML % b"404 Not Found",
    ],
)
def test_a_bare_404_asks_for_the_path_and_names_the_host(body: Any) -> None:
    advice = "the server has no such path: is the URL's base path right, is the model's version a number"
    error = refusal(404, body, ("GET", "http://a:8000", "/v2", "models.example"))
    assert advice in str(error)
    assert str(error).endswith("does a gateway expect another Host than 'models.example'?)")
    assert (error.method, error.url) == ("GET", "http://a:8000/v2")
    assert str(refusal(404, body)).endswith("does this server have the extension?)")


@pytest.mark.parametrize("body", [b"", HTML % b"413 Request Entity Too Large"])
def test_a_gateways_413_says_whose_limit_it_may_be(body: bytes) -> None:
    assert "nginx: client_max_body_size)" in str(refusal(413, body))


@pytest.mark.parametrize(
    ("status", "body", "nothing"),
    [
        (501, {"error": SWITCHED_OFF}, True),
        (503, {"error": IN_PROCESS}, True),
        (503, {"error": "Shared memory manager is not available"}, True),
        (503, {"error": "server is not ready"}, False),
        (503, HTML % b"Shared memory is not supported", False),
        (503, b"", False),
        (503, {"message": IN_PROCESS}, False),
        (500, {"error": "Unable to open shared memory region: 'x'"}, False),
        (501, {"error": "models with decoupled transaction policy"}, False),
    ],
)
def test_only_the_server_itself_says_that_it_shares_nothing(status: int, body: Any, nothing: bool) -> None:
    assert shares_nothing(refusal(status, body)) is nothing


def test_advice_is_not_taken_for_the_servers_words() -> None:
    words = "Decompressed data size exceeds it. Use --http-max-input-size"
    assert own_words(refusal(400, {"error": words})) == words


@pytest.mark.parametrize("body", [b"", HTML % b"407 Proxy Authentication Required"])
def test_a_proxys_407_says_where_its_password_goes(body: bytes) -> None:
    assert "proxy='user:password@host:port')" in str(refusal(407, body))


@pytest.mark.parametrize("several", [False, True])
def test_an_error_of_a_stream_names_the_server_if_there_are_several(several: bool) -> None:
    response = StreamedResponse(ResponseHead(400, {}), b'{"error": "no"}')
    response.asked = ("POST", "http://host:8000", "/v2", "host")
    if several:
        response.names_server = True
    with pytest.raises(ServerError) as caught:
        check(response)
    assert ("the answer to POST http://host:8000/v2" in str(caught.value)) == several
