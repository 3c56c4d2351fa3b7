"""Requests on the wire: headers, query parameters, paths, content types, and their destination."""

import contextlib
import http.client
import json
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferRequestedOutput

from ...clients import tensor

FLOATS = np.array([1.5, -2, 0], np.float32)

#: Every method that asks the server something -> arguments with which it succeeds.
CALLS = {
    "is_server_live": (),
    "is_server_ready": (),
    "is_model_ready": ("add_sub",),
    "get_server_metadata": (),
    "get_model_metadata": ("add_sub",),
    "get_model_config": ("add_sub",),
    "get_inference_statistics": (),
    "get_model_repository_index": (),
    "load_model": ("identity_int16",),
    "unload_model": ("not_there",),
    "get_trace_settings": (),
    "update_trace_settings": (),
    "get_log_settings": (),
    "update_log_settings": ({"log_verbose_level": 0},),
    "get_system_shared_memory_status": (),
    "unregister_system_shared_memory": ("not_there",),
    "get_cuda_shared_memory_status": (),
    "unregister_cuda_shared_memory": ("not_there",),
    "infer": ("identity_fp32", [tensor("INPUT0", FLOATS)]),
}
FAILING_CALLS = {
    "register_system_shared_memory": ("not_there", "/tritonhttp_not_there", 8),
    "register_cuda_shared_memory": ("not_there", b"AAAA", 0, 8),
}


@pytest.mark.parametrize("method", [*CALLS, *FAILING_CALLS])
def test_every_method_takes_headers_and_query_params(watched, gateway, method):
    headers = {"X-Own": "1", "x-other": "two words"}
    query = {"a": 1, "b c": ["x&y", "ü/", ""], "d": True}
    arguments = CALLS.get(method) or FAILING_CALLS.get(method) or ()
    try:
        getattr(watched, method)(*arguments, headers=headers, query_params=query)
    except tritonhttp.ServerError:
        assert method in FAILING_CALLS
    assert len(gateway.seen) == 1
    assert (gateway.last.get("X-OWN"), gateway.last.get("X-Other")) == ("1", "two words")
    assert gateway.last.query == [("a", "1"), ("b c", "x&y"), ("b c", "ü/"), ("b c", ""), ("d", "True")]
    assert headers == {"X-Own": "1", "x-other": "two words"}
    assert query == {"a": 1, "b c": ["x&y", "ü/", ""], "d": True}


@pytest.mark.parametrize("method", ["infer", "get_server_metadata", "load_model"])
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Own": "a\r\nX-Smuggled: 1"},
        {"X-Own": "a\nb"},
        {"X-Own": "a\0b"},
        {"X-Own\r\nX-Smuggled": "1"},
        {"": "1"},
        {"X Own": "1"},
        {"transfer-ENCODING": "chunked"},
        {"Content-Length": "3"},
    ],
    ids=repr,
)
def test_headers_that_would_break_the_framing_are_refused_before_sending(watched, gateway, method, headers):
    with pytest.raises(tritonhttp.InvalidRequest):
        getattr(watched, method)(*CALLS[method], headers=headers)
    assert gateway.seen == []
    assert watched.is_server_live()


def test_the_refusal_of_transfer_encoding_is_the_references(client):
    with pytest.raises(
        tritonhttp.InferenceServerException, match="Unsupported HTTP header: 'Transfer-Encoding'"
    ):
        client._validate_headers({"Transfer-Encoding": "chunked"})
    client._validate_headers({"Accept": "x"})
    client._validate_headers({})


@pytest.mark.parametrize("query", [{"a": "x\ny"}, {"a\r": 1}, {"a": ["fine", "x\0"]}])
def test_query_params_with_control_characters_are_refused_before_sending(watched, gateway, query):
    with pytest.raises(tritonhttp.InvalidRequest, match="CR, LF or NUL"):
        watched.is_server_live(query_params=query)
    assert gateway.seen == []


def test_a_secret_in_a_refused_header_stays_out_of_the_message(client):
    with pytest.raises(tritonhttp.InvalidRequest) as caught:
        client.is_server_live(headers={"Authorization": "Bearer s3cret\r\n"})
    assert "s3cret" not in str(caught.value)
    assert "Authorization" in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "a b", "ü", "a?b=c", "a#b", "%2F", "...", "a:b;c,d", "a\\b"])
@pytest.mark.parametrize("version", ["", "1/2", "?"])
def test_names_and_versions_are_percent_encoded(watched, gateway, name, version):
    assert watched.is_model_ready(name, version) is False
    path = gateway.last.target
    assert path.startswith("/v2/models/")
    assert "?" not in path
    assert path.count("/") == (6 if version else 4)
    assert urlsplit(path).path == path
    for segment in path.split("/"):
        assert segment.isascii()


def test_a_name_that_is_none_is_refused(client):
    for name in ("", ".", "..", None, 7):
        with pytest.raises(tritonhttp.InvalidRequest, match="name"):
            client.get_model_metadata(name)


@pytest.mark.parametrize("binary_data", [True, False])
def test_the_content_type_says_whether_binary_follows(watched, gateway, binary_data):
    watched.infer("identity_fp32", [tensor("INPUT0", FLOATS, binary_data=binary_data)])
    if binary_data:
        assert gateway.last.get("Content-Type") == "application/octet-stream"
        size = int(gateway.last.get("Inference-Header-Content-Length"))
        assert len(gateway.last.body) == size + FLOATS.nbytes
        json.loads(gateway.last.body[:size])
    else:
        assert gateway.last.get("Content-Type") == "application/json"
        assert gateway.last.get("Inference-Header-Content-Length") is None
        json.loads(gateway.last.body)
    assert int(gateway.last.get("Content-Length")) == len(gateway.last.body)


@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
def test_the_callers_content_type_goes_first(watched, gateway, name):
    watched.infer("identity_fp32", [tensor("INPUT0", FLOATS)], headers={name: "application/own"})
    assert gateway.last.all("Content-Type") == ["application/own"]


def test_headers_of_the_body_cannot_be_replaced(watched, gateway):
    headers = {"inference-header-content-LENGTH": "3"}
    result = watched.infer("identity_fp32", [tensor("INPUT0", FLOATS)], headers=headers)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)
    assert gateway.last.get("Inference-Header-Content-Length") != "3"


@pytest.mark.parametrize("name", ["Host", "host", "User-Agent", "user-agent", "Content-Length"])
def test_the_clients_own_headers_come_once(watched, gateway, name):
    value = "0" if name == "Content-Length" else "own.example"
    watched.is_server_live(headers={name: value})
    if name != "Content-Length":
        assert gateway.last.get(name) == value
    assert len(gateway.last.all("Host")) == len(gateway.last.all("User-Agent")) == 1


def test_calls_share_one_connection(watched, gateway):
    for _ in range(5):
        watched.is_server_live()
        watched.infer("identity_fp32", [tensor("INPUT0", FLOATS)])
    assert gateway.connections == 1


def test_an_input_switched_between_forms_leaves_nothing_of_the_last_behind(watched, gateway):
    given = tensor("INPUT0", FLOATS)

    def sent():
        with contextlib.suppress(tritonhttp.ServerError):  # it knows no such region
            watched.infer("identity_fp32", [given])
        size = gateway.last.get("Inference-Header-Content-Length")
        (described,) = json.loads(gateway.last.body[: None if size is None else int(size)])["inputs"]
        return described

    fixed = {"name": "INPUT0", "shape": [3], "datatype": "FP32"}
    as_binary = {**fixed, "parameters": {"binary_data_size": 12}}
    as_json = {**fixed, "data": FLOATS.tolist()}
    region = {"shared_memory_region": "no_such_region", "shared_memory_byte_size": 12}
    in_region = {**fixed, "parameters": {**region, "shared_memory_offset": 4}}
    at_start = {**fixed, "parameters": region}
    forms = [
        (lambda: given.set_data_from_numpy(FLOATS), as_binary),
        (lambda: given.set_data_from_numpy(FLOATS, binary_data=False), as_json),
        (lambda: given.set_shared_memory("no_such_region", 12, offset=4), in_region),
        (lambda: given.set_shared_memory("no_such_region", 12), at_start),
    ]
    for first, _ in forms:
        for second, expected in forms:
            first()
            assert second() is given
            assert sent() == expected
            assert given._get_tensor() == expected


def test_an_output_switched_between_forms_leaves_nothing_of_the_last_behind():
    output = InferRequestedOutput("OUTPUT0")
    plain = {"name": "OUTPUT0", "parameters": {"binary_data": True}}
    assert output._get_tensor() == plain
    output.set_shared_memory("region", 12, offset=4)
    parameters = output._get_tensor()["parameters"]
    assert parameters.pop("binary_data", False) is False
    assert parameters == {
        "shared_memory_region": "region",
        "shared_memory_byte_size": 12,
        "shared_memory_offset": 4,
    }
    output.set_shared_memory("region", 12)
    assert "shared_memory_offset" not in output._get_tensor()["parameters"]
    output.unset_shared_memory()
    assert output._get_tensor() == plain


def test_a_thousand_and_more_inputs_go_out_whole(make_gateway, open_client):
    gateway = make_gateway()
    inputs = [tensor(f"INPUT{n}", np.full(40_000 if n % 100 == 0 else 3, n, np.int32)) for n in range(2000)]
    with pytest.raises(tritonhttp.ServerError, match="expected 2 inputs but got 2000 inputs"):
        open_client(gateway.url).infer("add_sub", inputs)
    size = int(gateway.last.get("Inference-Header-Content-Length"))
    binary = b"".join(each._get_binary_data() for each in inputs)
    assert gateway.last.body[size:] == binary


# -- where it goes


@pytest.mark.parametrize("base_path", ["/triton", "/a/b%20c", "/triton/"])
def test_a_base_path_stands_before_every_path(make_gateway, open_client, base_path):
    gateway = make_gateway(base_path=base_path.rstrip("/"))
    host_and_port = gateway.url.split("/")[0]
    client = open_client(host_and_port + base_path)
    assert client.is_server_live()
    result = client.infer("identity_fp32", [tensor("INPUT0", FLOATS)])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)
    assert gateway.last.path == f"{base_path.rstrip('/')}/v2/models/identity_fp32/infer"


def test_without_its_base_path_the_gateways_page_is_the_message(make_gateway, open_client):
    gateway = make_gateway(base_path="/triton")
    client = open_client(gateway.url.split("/")[0])
    assert client.is_server_live() is False
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.get_server_metadata()
    assert caught.value.status() == "404"
    assert caught.value.message().startswith(
        "no such gateway (the server has no such path: is the URL's base path right"
    )
    assert caught.value.debug_details() == "<html><h1>no such gateway</h1></html>"


@pytest.mark.parametrize("prefix", ["http://", "HTTP://", ""])
def test_the_scheme_may_stand_in_the_url(triton_server, open_client, prefix):
    assert open_client(f"{prefix}{triton_server.url}").is_server_live()


def test_ipv6_literals_work(make_gateway, open_client):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    gateway = make_gateway(host="::1")
    for prefix in ("", "http://"):
        assert open_client(prefix + gateway.url).is_server_live()
        assert gateway.last.get("Host") == gateway.url


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://localhost:8000", {"ssl": True}),
        ("ftp://localhost:8000", {}),
        ("localhost:port", {}),
        ("localhost:70000", {}),
        ("", {}),
        ("user:secret@localhost:8000", {}),
        ("localhost:8000/a?b", {}),
        ("::1:8000", {}),
        (None, {}),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_at_once(client_kind, open_client, url, options):
    with pytest.raises(tritonhttp.InvalidRequest) as caught:
        open_client(url, **options)
    assert "secret" not in str(caught.value)


# -- bodies made and read without the client's transport


@pytest.mark.parametrize("binary_data", [True, False])
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_generated_body_sent_by_other_means_is_answered(client, triton_server, binary_data, encoding):
    body, json_size = client.generate_request_body(
        [tensor("INPUT0", FLOATS, binary_data=binary_data)],
        outputs=[InferRequestedOutput("OUTPUT0", binary_data)],
        request_id="by hand",
        priority=0,
        timeout=None,
        parameters={"own": 1},
    )
    assert isinstance(body, bytes)
    assert (json_size is None) is not binary_data
    headers = {} if json_size is None else {"Inference-Header-Content-Length": str(json_size)}
    if encoding:
        headers["Accept-Encoding"] = encoding
    connection = http.client.HTTPConnection(triton_server.url, timeout=10)
    try:
        connection.request("POST", "/v2/models/identity_fp32/infer", body, headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    assert response.status == 200, answer
    length = response.headers.get("Inference-Header-Content-Length")
    result = client.parse_response_body(
        answer,
        header_length=None if length is None else int(length),
        content_encoding=response.headers.get("Content-Encoding"),
    )
    assert result.get_response()["id"] == "by hand"
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)
    assert result.as_numpy("OUTPUT0").flags.writeable


def test_a_generated_body_holds_every_option():
    generate = tritonhttp.InferenceServerClient.generate_request_body
    body, json_size = generate([tensor("X", FLOATS)], [], "id", "seq", True, False, 2, 3000, {"own": "x"})
    assert body[json_size:] == FLOATS.tobytes()
    assert json.loads(body[:json_size]) == {
        "id": "id",
        "inputs": [
            {"name": "X", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}},
        ],
        "parameters": {
            "sequence_id": "seq",
            "sequence_start": True,
            "sequence_end": False,
            "priority": 2,
            "timeout": 3000,
            "binary_data_output": True,
            "own": "x",
        },
    }
