"""Whole HTTP answers: every form of an error, and what else an answer may hold."""

import gzip
import json
import zlib

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferResult, ProtocolError, ServerError

from ..clients import tensor
from .faults import HTML, OUTPUT, binary_answer
from .servers import Sends, answer

GONE = "502 Bad Gateway"
RIGHT = {"name": "O", "datatype": "INT32", "shape": [2], "data": [1, 2]}
FOLDED = gzip.compress(json.dumps({"model_name": "m", "outputs": [RIGHT]}).encode())

ERRORS = {
    "Triton": (b'{"error":"model is busy"}', "model is busy"),
    "FastAPI, text": (b'{"detail":"Not Found"}', "Not Found"),
    "FastAPI, list": (
        b'{"detail":[{"loc":["body","inputs",0],"msg":"field required","type":"missing"},'
        b'{"loc":["body"],"msg":"too short"}]}',
        "body.inputs.0: field required; body: too short",
    ),
    "a gateway's JSON": (b'{"message":"no healthy upstream","code":14}', "no healthy upstream"),
    "an object as error": (b'{"error":{"code":503,"message":"overloaded"}}', "overloaded"),
    "JSON of another shape": (b'{"reason":"unknown"}', '{"reason":"unknown"}'),
    "a JSON list": (b'["unknown"]', '["unknown"]'),
    "an empty error": (b'{"error":""}', '{"error":""}'),
    "null": (b"null", "null"),
    "text": (b"  upstream connect error\r\n  or disconnect\n", "upstream connect error or disconnect"),
    "HTML": (HTML, "502 Bad Gateway nginx/1.25"),
    "bytes": (b"\xff\xfe broken", "\ufffd\ufffd broken"),
    "truncated JSON": (b'{"error":"model is b', '{"error":"model is b'),
    "nested beyond reason": (b"[" * 5000, "[" * 500 + "…"),
}


@pytest.mark.parametrize("kind", sorted(ERRORS))
def test_every_form_of_an_error_gives_a_readable_message(serve, fails, kind):
    body, message = ERRORS[kind]
    error = fails(serve(Sends(answer(body, GONE), "go on")), ServerError)
    assert error.message() == message
    assert error.status() == "502"
    assert error.debug_details() == body.decode("utf-8", "replace")
    assert str(error) == f"[502] {message}"


def test_a_long_error_is_cut_in_the_message_and_whole_in_the_details(serve, fails):
    body = b"word " * 100_000
    error = fails(serve(Sends(answer(body, GONE), "go on")), ServerError, "^.502. word word")
    assert len(error.message()) < 1000
    assert error.debug_details() == body.decode()


def test_the_headers_of_an_error_are_kept(serve, fails):
    reply = answer({"error": "later"}, "429 Too Many Requests", "Retry-After: 7\r\nX-Name: v\r\n")
    error = fails(serve(Sends(reply, "go on")), ServerError, "later")
    assert (error.status(), error.headers["retry-after"], error.headers["x-name"]) == ("429", "7", "v")


@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "304 Not Modified", "400 No", "404 No", "599 Odd"]
)
def test_every_status_but_success_is_an_error(serve, fails, status):
    body = b"" if status.startswith("304") else b"see there"
    error = fails(serve(Sends(answer(body, status), "go on")), ServerError)
    assert error.status() == status[:3]
    assert error.message()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_error_is_readable(serve, fails, coding):
    body = gzip.compress(b'{"error":"folded"}') if coding == "gzip" else zlib.compress(b'{"error":"folded"}')
    reply = answer(body, "500 Oops", f"Content-Encoding: {coding}\r\n")
    assert fails(serve(Sends(reply, "go on")), ServerError).message() == "folded"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "generate expects one response"}, "generate expects one response"),
        ({"error": {"message": "nested"}}, "nested"),
    ],
)
def test_a_success_that_holds_an_error_is_an_error(serve, fails, body, message):
    error = fails(serve(Sends(answer(body), "go on")), ServerError)
    assert error.message() == message
    assert error.status() == "200"
    assert "error" in error.debug_details()


@pytest.mark.parametrize("status", ["400 No", "500 No", "302 Found"])
def test_health_is_false_on_any_other_status(serve, open_client, status):
    client = open_client(serve(Sends(answer(b"x", status), "go on")).url)
    assert client.is_server_ready() is False
    assert client.is_server_ready() is True


def infer(client):
    return client.infer("m", [tensor("INPUT0", np.zeros(3, np.float32))])


def test_the_answer_that_the_faults_change_is_right(serve, open_client):
    server = serve(Sends(binary_answer([OUTPUT]), "go on"))
    assert infer(open_client(server.url)).as_numpy("O").tolist() == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": None},
        {"parameters": {}},
        {"parameters": {"binary_data_size": None}},
        {"unknown": [1, {"a": 2}]},
        {"data": [[1], [2]]},
    ],
    ids=json.dumps,
)
def test_fields_that_other_servers_add_are_accepted(serve, open_client, change):
    body = {"model_name": "m", "model_version": None, "id": None, "parameters": None, "unknown": 1}
    server = serve(Sends(answer({**body, "outputs": [{**RIGHT, **change}]}), "go on"))
    assert infer(open_client(server.url)).as_numpy("O").tolist() == [1, 2]


@pytest.mark.parametrize("outputs", [{}, {"outputs": None}, {"outputs": []}])
def test_an_answer_without_outputs_holds_none(serve, open_client, outputs):
    client = open_client(serve(Sends(answer({"model_name": "m", **outputs}), "go on")).url)
    result = infer(client)
    assert result.as_numpy("O") is None
    assert result.get_output("O") is None
    assert repr(result)


def test_an_error_in_a_body_received_by_other_means_is_raised():
    parse = tritonhttp.InferenceServerClient.parse_response_body
    assert parse(FOLDED, content_encoding="gzip").as_numpy("O").tolist() == [1, 2]
    assert InferResult.from_response_body(bytearray(gzip.decompress(FOLDED))).as_numpy("O").tolist() == [1, 2]
    for body, options, error in [
        (b"", {}, ProtocolError),
        (b"{}", {"header_length": 3}, ProtocolError),
        (b"{}", {"header_length": -1}, ProtocolError),
        (FOLDED[:-9], {"content_encoding": "gzip"}, ProtocolError),
        (b'{"error":"x"}', {}, ServerError),
    ]:
        with pytest.raises(error):
            parse(body, **options)
