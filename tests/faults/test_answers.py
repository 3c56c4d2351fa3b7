"""Whole HTTP answers with something wrong inside: errors of servers and gateways, and broken v2 answers."""

import gzip
import json
import zlib

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferResult, ProtocolError, ServerError

from ..clients import tensor
from .servers import HEALTHY, answer, sends

GONE = "502 Bad Gateway"
HTML = b"""<!DOCTYPE html><html><head><title>502</title><style>b { color: red }</style></head>
<body><h1>502 Bad Gateway</h1><script>track("you")</script><hr>nginx/1.25</body></html>"""

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
    error = fails(serve(sends(answer(body, GONE), "go on")), ServerError)
    assert error.message() == message
    assert error.status() == "502"
    assert error.debug_details() == body.decode("utf-8", "replace")
    assert str(error) == f"[502] {message}"


def test_an_empty_error_says_that_it_is_empty(serve, fails):
    error = fails(
        serve(sends(answer(b"", "503 Service Unavailable"), "go on")), ServerError, "empty response"
    )
    assert error.status() == "503"
    assert error.message() == "client received an empty response from the server."


def test_a_long_error_is_cut_in_the_message_and_whole_in_the_details(serve, fails):
    body = b"word " * 100_000
    error = fails(serve(sends(answer(body, GONE), "go on")), ServerError, "^.502. word word")
    assert len(error.message()) < 1000
    assert error.debug_details() == body.decode()


def test_the_headers_of_an_error_are_kept(serve, fails):
    reply = answer({"error": "later"}, "429 Too Many Requests", "Retry-After: 7\r\nX-Name: v\r\n")
    error = fails(serve(sends(reply, "go on")), ServerError, "later")
    assert (error.status(), error.headers["retry-after"], error.headers["x-name"]) == ("429", "7", "v")


@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "304 Not Modified", "400 No", "404 No", "599 Odd"]
)
def test_every_status_but_success_is_an_error(serve, fails, status):
    body = b"" if status.startswith("304") else b"see there"
    error = fails(serve(sends(answer(body, status), "go on")), ServerError)
    assert error.status() == status[:3]
    assert error.message()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_error_is_readable(serve, fails, coding):
    body = gzip.compress(b'{"error":"folded"}') if coding == "gzip" else zlib.compress(b'{"error":"folded"}')
    reply = answer(body, "500 Oops", f"Content-Encoding: {coding}\r\n")
    assert fails(serve(sends(reply, "go on")), ServerError).message() == "folded"


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_an_error_that_cannot_be_unfolded_is_still_an_error(serve, fails, coding):
    reply = answer(b"\x1f\x8bgarbage", "500 Oops", f"Content-Encoding: {coding}\r\n")
    assert fails(serve(sends(reply, "go on")), ServerError).status() == "500"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "generate expects one response"}, "generate expects one response"),
        ({"error": {"message": "nested"}}, "nested"),
    ],
)
def test_a_success_that_holds_an_error_is_an_error(serve, fails, body, message):
    error = fails(serve(sends(answer(body), "go on")), ServerError)
    assert error.message() == message
    assert error.status() == "200"
    assert "error" in error.debug_details()


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "expected JSON, got 0 bytes"),
        (b"<html>logged out</html>", "expected JSON, got 23 bytes that begin with '<html>"),
        (b'{"name":"heal', "expected JSON"),
        (b"{'name': 1}", "expected JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[" * 200_000, "expected JSON"),
    ],
    ids=range(6),
)
def test_a_success_that_is_no_json_is_a_protocol_error(serve, fails, body, match):
    fails(serve(sends(answer(body), "go on")), ProtocolError, match)


@pytest.mark.parametrize("status", ["400 No", "500 No", "302 Found"])
def test_health_is_false_on_any_other_status(serve, open_client, status):
    client = open_client(serve(sends(answer(b"x", status), "go on")).url)
    assert client.is_server_ready() is False
    assert client.is_server_ready() is True


# -- inference


OUTPUT = {"name": "O", "datatype": "INT32", "shape": [2], "parameters": {"binary_data_size": 8}}
BINARY = np.array([1, 2], np.int32).tobytes()


def infer(client):
    return client.infer("m", [tensor("INPUT0", np.zeros(3, np.float32))])


def binary_answer(outputs, binary=BINARY, header_length=None):
    head = json.dumps({"model_name": "m", "outputs": outputs}).encode()
    header_length = len(head) if header_length is None else header_length
    return answer(head + binary, headers=f"Inference-Header-Content-Length: {header_length}\r\n")


def test_the_answers_of_this_file_are_right_but_for_what_is_changed(serve, open_client):
    server = serve(sends(binary_answer([OUTPUT]), "go on"))
    assert infer(open_client(server.url)).as_numpy("O").tolist() == [1, 2]


@pytest.fixture
def is_refused(serve, open_client):
    """Check that an answer to infer is refused, at the latest when the output is read, and the next is fine."""

    def is_refused(reply, match, error=ProtocolError):
        client = open_client(serve(sends(reply, "go on")).url, network_timeout=5)
        with pytest.raises(error, match=match) as caught:
            infer(client).as_numpy("O")
        assert infer(client).get_response() == HEALTHY
        return caught.value

    return is_refused


@pytest.mark.parametrize("length", [-1, 10**6, 2**63, 2**200, "x", "", "1.5", "0x10", "12, 12", "+5x"])
def test_a_header_length_that_cannot_be_is_refused(is_refused, length):
    is_refused(binary_answer([OUTPUT], header_length=length), "Inference-Header-Content-Length")


@pytest.mark.parametrize("length", [0, 1, 10])
def test_a_header_length_that_cuts_the_json_is_refused(is_refused, length):
    is_refused(binary_answer([OUTPUT], header_length=length), "expected JSON")


@pytest.mark.parametrize("size", [0, 7, 9, 4, 2**31, 2**70, -8, 8.0, "8", True, [8], {}])
def test_a_binary_size_that_does_not_add_up_is_refused(is_refused, size):
    is_refused(binary_answer([{**OUTPUT, "parameters": {"binary_data_size": size}}]), "binary|body has")


@pytest.mark.parametrize("binary", [b"", BINARY[:-1], BINARY + b"x", BINARY * 2])
def test_binary_data_that_are_not_what_the_head_says_are_refused(is_refused, binary):
    is_refused(binary_answer([OUTPUT], binary), "bytes")


@pytest.mark.parametrize("twice", [[OUTPUT, OUTPUT], [OUTPUT, {**OUTPUT, "name": "P"}]])
def test_more_outputs_than_binary_data_are_refused(is_refused, twice):
    is_refused(binary_answer(twice), "binary_data_size|bytes")


def test_binary_data_without_a_header_length_are_refused(is_refused):
    is_refused(answer(json.dumps({"outputs": [OUTPUT]}).encode() + BINARY), "JSON|UTF-8")


@pytest.mark.parametrize("size", [-1, 3, "x"])
def test_bytes_tensors_whose_elements_do_not_add_up_are_refused(is_refused, size):
    strings = {**OUTPUT, "datatype": "BYTES"}
    framed = {-1: b"\xff\xff\xff\xffabcd", 3: b"\x03\0\0\0abcd", "x": b"\x01\0\0"}[size]
    strings["parameters"] = {"binary_data_size": len(framed)}
    is_refused(binary_answer([strings], framed), "'O'")


WRONG = [
    ([], "object, got list"),
    ("text", "object, got str"),
    (7, "object, got int"),
    (None, "object, got NoneType"),
    ({"outputs": {}}, "outputs to be a list, got dict"),
    ({"outputs": "O"}, "outputs to be a list, got str"),
    ({"outputs": [7]}, "output with a name, got 7"),
    ({"outputs": [None]}, "output with a name, got None"),
    ({"outputs": [[]]}, r"output with a name, got \[\]"),
    ({"outputs": [{}]}, "output with a name"),
    ({"outputs": [{"name": 7}]}, "output with a name"),
    ({"outputs": [{**OUTPUT, "parameters": []}]}, "'O'.*parameters"),
    ({"outputs": [{**OUTPUT, "parameters": "x"}]}, "'O'.*parameters"),
]


@pytest.mark.parametrize(("body", "match"), WRONG, ids=[json.dumps(body) for body, _ in WRONG])
def test_json_of_the_wrong_type_is_refused_and_names_the_place(is_refused, body, match):
    is_refused(answer(body), match)


RIGHT = {"name": "O", "datatype": "INT32", "shape": [2], "data": [1, 2]}
WRONG_OUTPUTS = [
    {"shape": None},
    {"shape": 2},
    {"shape": "2"},
    {"shape": [-2]},
    {"shape": [2.0]},
    {"shape": ["2"]},
    {"shape": [True, 2]},
    {"shape": [3]},
    {"shape": [2**62, 2**62]},
    {"shape": [0, 2**70]},
    {"shape": [[2]]},
    {"shape": [1] * 100},
    {"datatype": None},
    {"datatype": 7},
    {"datatype": "INT33"},
    {"datatype": "int32"},
    {"datatype": []},
    {"data": None},
    {"data": "12"},
    {"data": {"0": 1}},
    {"data": [1]},
    {"data": [1, 2, 3]},
    {"data": [1, "two"]},
    {"data": [1, None]},
    {"data": [1, {}]},
    {"data": [[1], [2, 3]]},
    {"data": [1, 2**40]},
    {"data": [1, 2**80]},
    {"data": 7},
]


@pytest.mark.parametrize("change", WRONG_OUTPUTS, ids=json.dumps)
def test_an_output_of_the_wrong_shape_type_or_data_is_refused_and_named(is_refused, change):
    error = is_refused(answer({"model_name": "m", "outputs": [{**RIGHT, **change}]}), "'O'")
    assert len(error.message()) < 1000


@pytest.mark.parametrize("missing", ["shape", "datatype"])
def test_an_output_without_shape_or_datatype_is_refused(is_refused, missing):
    output = {key: value for key, value in RIGHT.items() if key != missing}
    is_refused(answer({"outputs": [output]}), f"'O'.*{missing}")


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
def test_what_other_servers_add_is_accepted(serve, open_client, change):
    body = {"model_name": "m", "model_version": None, "id": None, "parameters": None, "unknown": 1}
    server = serve(sends(answer({**body, "outputs": [{**RIGHT, **change}]}), "go on"))
    assert infer(open_client(server.url)).as_numpy("O").tolist() == [1, 2]


@pytest.mark.parametrize("outputs", [{}, {"outputs": None}, {"outputs": []}])
def test_an_answer_without_outputs_holds_none(serve, open_client, outputs):
    client = open_client(serve(sends(answer({"model_name": "m", **outputs}), "go on")).url)
    result = infer(client)
    assert result.as_numpy("O") is None
    assert result.get_output("O") is None
    assert repr(result)


# -- compression of answers

FOLDED = gzip.compress(json.dumps({"model_name": "m", "outputs": [RIGHT]}).encode())


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (FOLDED, "gzip"),
        (FOLDED, "GZIP"),
        (FOLDED, "x-gzip"),
        (gzip.compress(FOLDED), "gzip, gzip"),
        (gzip.compress(b"") + FOLDED, "gzip"),
        (zlib.compress(gzip.decompress(FOLDED)), "deflate"),
        (zlib.compress(gzip.decompress(FOLDED))[2:-4], "deflate"),
        (gzip.decompress(FOLDED), "identity"),
        (gzip.decompress(FOLDED), ""),
    ],
    ids=range(9),
)
def test_every_coding_in_use_is_unfolded(serve, open_client, body, coding):
    reply = answer(body, headers=f"Content-Encoding: {coding}\r\n")
    assert infer(open_client(serve(sends(reply)).url)).as_numpy("O").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("body", "coding", "match"),
    [
        (FOLDED[:-9], "gzip", "truncated"),
        (FOLDED[:5], "gzip", "truncated"),
        (b"", "gzip", "truncated"),
        (b"garbage, not gzip", "gzip", "not valid gzip"),
        (FOLDED[:-8] + b"\0" * 8, "gzip", "not valid gzip"),
        (FOLDED + b"garbage", "gzip", "gzip"),
        (b"garbage", "deflate", "not valid deflate"),
        (b"x\x9c\x03", "deflate", "truncated"),
        (FOLDED, "br", "'br'"),
        (FOLDED, "gzip;q=1", "gzip;q=1"),
    ],
    ids=range(10),
)
def test_a_body_that_cannot_be_unfolded_is_refused(is_refused, body, coding, match):
    is_refused(answer(body, headers=f"Content-Encoding: {coding}\r\n"), match)


def test_a_body_received_by_other_means_is_judged_alike():
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
