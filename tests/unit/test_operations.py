"""Every endpoint as data: what is sent, whether it may be sent twice, and how each kind of answer is read."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from array import array
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tritonhttp import (
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
    InferResult,
    InvalidRequest,
    ProtocolError,
    ServerError,
)
from tritonhttp._protocol import operations
from tritonhttp._protocol.encoder import Encoder
from tritonhttp._protocol.inference import Inference, body_of
from tritonhttp._protocol.operations import Operation, check, query_string
from tritonhttp._wire.responses import Response, ResponseHead

JSON = "application/json"


def answer(body: Any = b"", status: int = 200, reason: str = "", **headers: str) -> Response:
    raw = body if isinstance(body, (bytes, bytearray, memoryview)) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(ResponseHead(status, named, reason), raw)


#: Operation, its method and path, its body as JSON (None: there is none), whether it may be repeated
ENDPOINTS: dict[str, tuple[Operation[Any], str, Any, bool]] = {
    "is_server_live": (operations.is_server_live(), "GET v2/health/live", None, True),
    "is_server_ready": (operations.is_server_ready(), "GET v2/health/ready", None, True),
    "is_model_ready": (operations.is_model_ready("m", ""), "GET v2/models/m/ready", None, True),
    "is_model_ready, version": (
        operations.is_model_ready("m", "2"),
        "GET v2/models/m/versions/2/ready",
        None,
        True,
    ),
    "get_server_metadata": (operations.get_server_metadata(), "GET v2", None, True),
    "get_model_metadata": (operations.get_model_metadata("m", ""), "GET v2/models/m", None, True),
    "get_model_metadata, version": (
        operations.get_model_metadata("m", "2"),
        "GET v2/models/m/versions/2",
        None,
        True,
    ),
    "get_model_config": (operations.get_model_config("m", ""), "GET v2/models/m/config", None, True),
    "get_model_config, version": (
        operations.get_model_config("m", "2"),
        "GET v2/models/m/versions/2/config",
        None,
        True,
    ),
    "get_inference_statistics": (
        operations.get_inference_statistics("", ""),
        "GET v2/models/stats",
        None,
        True,
    ),
    "get_inference_statistics, model": (
        operations.get_inference_statistics("m", ""),
        "GET v2/models/m/stats",
        None,
        True,
    ),
    "get_inference_statistics, version": (
        operations.get_inference_statistics("m", "2"),
        "GET v2/models/m/versions/2/stats",
        None,
        True,
    ),
    "get_model_repository_index, ready": (
        operations.get_model_repository_index(True),
        "POST v2/repository/index",
        {"ready": True},
        True,
    ),
    "get_model_repository_index": (
        operations.get_model_repository_index(),
        "POST v2/repository/index",
        {},
        True,
    ),
    "load_model": (
        operations.load_model("m", None, None),
        "POST v2/repository/models/m/load",
        {},
        False,
    ),
    "load_model, config": (
        operations.load_model("m", '{"max_batch_size":4}', None),
        "POST v2/repository/models/m/load",
        {"parameters": {"config": '{"max_batch_size":4}'}},
        False,
    ),
    "load_model, files": (
        operations.load_model("m", "{}", {"file:1/model.py": b"\0\xff"}),
        "POST v2/repository/models/m/load",
        {"parameters": {"config": "{}", "file:1/model.py": "AP8="}},
        False,
    ),
    "unload_model": (
        operations.unload_model("m", False),
        "POST v2/repository/models/m/unload",
        {"parameters": {"unload_dependents": False}},
        False,
    ),
    "unload_model, dependents": (
        operations.unload_model("m", True),
        "POST v2/repository/models/m/unload",
        {"parameters": {"unload_dependents": True}},
        False,
    ),
    "get_trace_settings": (operations.get_trace_settings(None), "GET v2/trace/setting", None, True),
    "get_trace_settings, empty": (operations.get_trace_settings(""), "GET v2/trace/setting", None, True),
    "get_trace_settings, model": (
        operations.get_trace_settings("m"),
        "GET v2/models/m/trace/setting",
        None,
        True,
    ),
    "update_trace_settings": (
        operations.update_trace_settings(None, {"trace_rate": "1", "trace_file": None}),
        "POST v2/trace/setting",
        {"trace_rate": "1", "trace_file": None},
        False,
    ),
    "update_trace_settings, model": (
        operations.update_trace_settings("m", {}),
        "POST v2/models/m/trace/setting",
        {},
        False,
    ),
    "get_log_settings": (operations.get_log_settings(), "GET v2/logging", None, True),
    "update_log_settings": (
        operations.update_log_settings({"log_verbose_level": 1}),
        "POST v2/logging",
        {"log_verbose_level": 1},
        False,
    ),
    "get_system_shared_memory_status": (
        operations.get_shared_memory_status("system", ""),
        "GET v2/systemsharedmemory/status",
        None,
        True,
    ),
    "get_system_shared_memory_status, region": (
        operations.get_shared_memory_status("system", "r"),
        "GET v2/systemsharedmemory/region/r/status",
        None,
        True,
    ),
    "register_system_shared_memory": (
        operations.register_system_shared_memory("r", "/key", 64, 8),
        "POST v2/systemsharedmemory/region/r/register",
        {"key": "/key", "offset": 8, "byte_size": 64},
        False,
    ),
    "unregister_system_shared_memory": (
        operations.unregister_shared_memory("system", ""),
        "POST v2/systemsharedmemory/unregister",
        None,
        False,
    ),
    "unregister_system_shared_memory, region": (
        operations.unregister_shared_memory("system", "r"),
        "POST v2/systemsharedmemory/region/r/unregister",
        None,
        False,
    ),
    "get_cuda_shared_memory_status": (
        operations.get_shared_memory_status("cuda", ""),
        "GET v2/cudasharedmemory/status",
        None,
        True,
    ),
    "register_cuda_shared_memory": (
        operations.register_cuda_shared_memory("r", b"aGFuZGxl", 1, 64),
        "POST v2/cudasharedmemory/region/r/register",
        {"raw_handle": {"b64": "aGFuZGxl"}, "device_id": 1, "byte_size": 64},
        False,
    ),
    "unregister_cuda_shared_memory, region": (
        operations.unregister_shared_memory("cuda", "r"),
        "POST v2/cudasharedmemory/region/r/unregister",
        None,
        False,
    ),
}


@pytest.mark.parametrize(
    ("operation", "line", "body", "idempotent"), list(ENDPOINTS.values()), ids=list(ENDPOINTS)
)
def test_an_endpoint_sends(operation: Operation[Any], line: str, body: Any, idempotent: bool) -> None:
    assert f"{operation.method} {operation.path}" == line
    assert (operation.idempotent is True) == idempotent
    assert operation.headers == ()
    if body is None:
        assert operation.body == ()
        assert operation.content_type is None
    else:
        assert json.loads(b"".join(operation.body)) == body
        assert operation.content_type == JSON


def test_metrics_are_text() -> None:
    operation = operations.metrics("metrics")
    assert (operation.method, operation.path, operation.idempotent) == ("GET", "metrics", True)
    assert operation.headers == (("Accept", "text/plain"),)
    assert operation.decode(answer(b"a 1\n")).find("a")[0].value == 1
    packed = answer(gzip.compress(b"a 1\n"), content_encoding="gzip")
    assert operation.decode(packed).text == "a 1\n"
    with pytest.raises(ProtocolError, match="the metrics: expected UTF-8"):
        operation.decode(answer(b"\xff 1"))
    with pytest.raises(ProtocolError, match="line 1 of the metrics"):
        operation.decode(answer({"name": "triton"}))
    with pytest.raises(ServerError, match="gone") as caught:
        operation.decode(answer({"error": "gone"}, 404))
    assert caught.value.status() == "404"


def test_sizes_of_regions_are_whole_numbers() -> None:
    number: Any = np.int64(8)
    found = operations.register_system_shared_memory("r", "/k", number, number).body
    assert found == operations.register_system_shared_memory("r", "/k", 8, 8).body
    found = operations.register_cuda_shared_memory("r", b"", number, number).body
    assert found == operations.register_cuda_shared_memory("r", b"", 8, 8).body


@pytest.mark.parametrize("wrong", [8.0, True, "8", -8])
def test_other_sizes_of_regions_are_refused(wrong: Any) -> None:
    for name, register, arguments in (
        ("byte_size", operations.register_system_shared_memory, ("r", "/k", wrong, 0)),
        ("offset", operations.register_system_shared_memory, ("r", "/k", 8, wrong)),
        ("byte_size", operations.register_cuda_shared_memory, ("r", b"", 0, wrong)),
        ("device_id", operations.register_cuda_shared_memory, ("r", b"", wrong, 8)),
    ):
        with pytest.raises(InvalidRequest, match=f"{name} must be a whole number"):
            register(*arguments)


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_region_is_registered_under_a_name(name: Any) -> None:
    for register, arguments in (
        (operations.register_system_shared_memory, ("/k", 8, 0)),
        (operations.register_cuda_shared_memory, (b"", 0, 8)),
    ):
        with pytest.raises(InvalidRequest, match="name must be"):
            register(name, *arguments)


@pytest.mark.parametrize("act", [operations.unregister_shared_memory, operations.get_shared_memory_status])
@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_no_name_at_all_is_not_every_region(act: Any, kind: str) -> None:
    assert "/region/" not in act(kind, "").path
    with pytest.raises(InvalidRequest, match="name must be a str, got None"):
        act(kind, None)


def test_text_in_bodies_may_be_bytes() -> None:
    assert operations.load_model("m", b"{}", None).body == operations.load_model("m", "{}", None).body  # type: ignore[arg-type]
    assert (
        operations.register_system_shared_memory("r", b"/k", 8, 0).body  # type: ignore[arg-type]
        == operations.register_system_shared_memory("r", "/k", 8, 0).body
    )
    assert operations.update_log_settings({"a": b"x"}).body == (b'{"a":"x"}',)


@pytest.mark.parametrize("key", [None, 5, b"\xff"])
def test_a_regions_key_is_text(key: Any) -> None:
    with pytest.raises(InvalidRequest, match="key"):
        operations.register_system_shared_memory("r", key, 8, 0)


@pytest.mark.parametrize("handle", [b"\xff\x00\x01", b"\0" * 64, "é", None, 5, memoryview(b"\x80")])
def test_a_raw_handle_that_is_not_encoded_is_refused(handle: Any) -> None:
    with pytest.raises(
        InvalidRequest, match="raw_handle must be a CUDA IPC handle encoded in base64"
    ) as caught:
        operations.register_cuda_shared_memory("r", handle, 0, 8)
    assert "xff" not in str(caught.value)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_raw_handle_may_be_any_bytes(kind: Any) -> None:
    assert operations.register_cuda_shared_memory("r", kind(b"aGFuZGxl\n"), 0, 1).body == (
        operations.register_cuda_shared_memory("r", b"aGFuZGxl\n", 0, 1).body
    )


def test_a_raw_handle_may_be_text() -> None:
    assert operations.register_cuda_shared_memory("r", "aGFuZGxl", 0, 1).body == (  # type: ignore[arg-type]
        operations.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 1).body
    )


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("a?b#c&d=e", "a%3Fb%23c%26d%3De"),
        ("100%", "100%25"),
        ("modèle", "mod%C3%A8le"),
        ("a\r\nb\0", "a%0D%0Ab%00"),
        ("a-b_c.d~e", "a-b_c.d~e"),
    ],
)
def test_names_are_percent_encoded(name: str, encoded: str) -> None:
    for operation in (
        operations.get_model_metadata(name, name),
        operations.load_model(name, None, None),
        operations.get_trace_settings(name),
        operations.unregister_shared_memory("system", name),
        operations.get_inference_statistics(name, name),
    ):
        assert encoded in operation.path.split("/")
        assert operation.path.isascii()
    assert operations.get_model_config(name, name).path == f"v2/models/{encoded}/versions/{encoded}/config"


@pytest.mark.parametrize("name", ["", None, 5, b"m"])
def test_a_model_needs_a_name(name: Any) -> None:
    for make in (operations.is_model_ready, operations.get_model_metadata, operations.get_model_config):
        with pytest.raises(InvalidRequest, match="name"):
            make(name, "")
    with pytest.raises(InvalidRequest, match="name"):
        operations.load_model(name, None, None)
    with pytest.raises(InvalidRequest, match="name"):
        operations.unload_model(name, False)


@pytest.mark.parametrize("version", [None, 1.0, True, np.True_, b"1", [1], np.array([1]), {}])
def test_a_version_must_be_text_in_the_references_words(version: Any) -> None:
    assert operations.get_model_metadata("m", 1).path == "v2/models/m/versions/1"
    with pytest.raises(InferenceServerException) as caught:
        operations.get_model_metadata("m", version)
    words = f"model version must be a string or a whole number, got {version!r}"
    assert caught.value.message() == words


@pytest.mark.parametrize("version", [1, np.int64(1), np.uint8(1), np.str_("1")])
def test_a_version_may_be_a_whole_number(version: Any) -> None:
    for make in (operations.is_model_ready, operations.get_model_metadata, operations.get_model_config):
        assert "v2/models/m/versions/1" in make("m", version).path
    assert operations.get_inference_statistics("m", version).path == "v2/models/m/versions/1/stats"


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not valid text"):
        operations.is_model_ready("\ud800", "")


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        ({"max_batch_size": 4}, None, "config must be a str that holds JSON, got dict"),
        (None, {"file:1/model.py": b""}, "files .* need its config"),
        ("{}", {"1/model.py": b""}, "must begin with 'file:', got '1/model.py'"),
    ],
)
def test_an_override_that_cannot_be_loaded_is_refused(config: Any, files: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        operations.load_model("m", config, files)


@pytest.mark.parametrize("settings", [{"a": b"\xff"}, {"a": object()}])
def test_settings_without_a_form_are_refused(settings: Any) -> None:
    for make in (operations.update_log_settings, lambda given: operations.update_trace_settings("m", given)):
        with pytest.raises(InvalidRequest, match=r"settings\['a'\]"):
            make(settings)


def test_none_is_an_input_that_is_left_out() -> None:
    for make in (
        lambda inputs: operations.generate("m", inputs, "", None, "", None),
        lambda inputs: operations.generate_stream("m", inputs, "", None, "", None, None),
    ):
        (body,) = make({"text": "a", "seed": None, "list": [None]}).body
        assert json.loads(bytes(body)) == {"text": "a", "list": [None]}
        with pytest.raises(InvalidRequest, match="'id' cannot be the name of an input"):
            make({"id": None})


# -- answers ----------------------------------------------------------------------------------------

STATES = [name for name in ENDPOINTS if name.startswith("is_")]
COMMANDS = [name for name in ENDPOINTS if name.split("_")[0] in ("load", "unload", "register", "unregister")]
QUERIES = [name for name in ENDPOINTS if name.split("_")[0] in ("get", "update")]


def decode(name: str, response: Response) -> Any:
    return ENDPOINTS[name][0].decode(response)


@pytest.mark.parametrize(("status", "state"), [(200, True), (400, False), (404, False), (503, False)])
@pytest.mark.parametrize("name", STATES)
def test_a_state_is_the_status(name: str, status: int, state: bool) -> None:
    assert decode(name, answer(b'{"error":"not ready"}', status)) is state
    assert decode(name, answer(b"", status)) is state


@pytest.mark.parametrize("body", [b"", b"{}", b"anything"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_returns_nothing(name: str, body: bytes) -> None:
    assert decode(name, answer(body)) is None


@pytest.mark.parametrize(
    "value", [{}, {"name": "m", "error": None}, [], [{"name": "m"}], {"nan": float("inf")}, None, 7, "text"]
)
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_returns_the_json_if_it_is_of_its_type(name: str, value: Any) -> None:
    many = "index" in name or "shared_memory_status" in name
    if isinstance(value, list if many else dict):
        assert decode(name, answer(value)) == value
    else:
        with pytest.raises(ProtocolError, match=f"expected a JSON {'list' if many else 'object'}, got"):
            decode(name, answer(value))


def test_a_redirect_says_where_to() -> None:
    with pytest.raises(ServerError, match="redirect to http://b/v2, which is not followed: Found") as caught:
        decode("get_server_metadata", answer(b"Found", 302, location="http://b/v2"))
    assert caught.value.status() == "302"


@pytest.mark.parametrize("name", [*COMMANDS, *QUERIES])
def test_an_error_is_raised_with_status_message_and_body(name: str) -> None:
    body = b'{"error":"no such thing"}'
    with pytest.raises(ServerError) as caught:
        decode(name, answer(body, 404, retry_after="1"))
    error = caught.value
    assert (error.message(), error.status(), error.debug_details()) == ("no such thing", "404", body.decode())
    assert error.headers == {"retry-after": "1"}
    assert str(error) == "[404] no such thing"


@pytest.mark.parametrize("name", QUERIES)
def test_an_error_behind_a_status_of_success_is_raised(name: str) -> None:
    with pytest.raises(ServerError, match=r"^\[200\] out of order$") as caught:
        decode(name, answer(b'{"error": "out of order"}'))
    assert caught.value.debug_details() == '{"error": "out of order"}'


@pytest.mark.parametrize("body", [b"", b"<html>", b"{"])
@pytest.mark.parametrize("name", QUERIES)
def test_an_answer_that_is_no_json_is_refused(name: str, body: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected JSON"):
        decode(name, answer(body))


NGINX = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>"
    b"\r\n<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"
)


def test_an_empty_answer_is_said_to_be_empty() -> None:
    for status, words in ((200, "got 0 bytes (is this the port of the metrics"), (204, "got 0 bytes")):
        with pytest.raises(ProtocolError) as caught:
            operations.get_server_metadata().decode(answer(b"", status))
        assert words in str(caught.value)
        assert ("metrics" in words) == ("metrics" in str(caught.value))
    with pytest.raises(ProtocolError, match=r"expected JSON, got 0 bytes$"):
        InferResult.from_response_body(b"")


EMPTY = "client received an empty response from the server."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"Request for unknown model"}', "Request for unknown model"),
        (b'{"error":{"code":400,"message":"bad tensor"}}', "bad tensor"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (
            b'{"detail":[{"loc":["body","inputs",0,"shape"],"msg":"field required","type":"missing"},'
            b'{"loc":null,"msg":"too short"}]}',
            "body.inputs.0.shape: field required; too short",
        ),
        (
            b'{"detail":[{"type":"model_attributes_type","loc":["body"],"msg":"Input should be a dictionary",'
            b'"input":"{}\\u0000"}]}',
            "body: Input should be a dictionary"
            " (the server seems to take JSON only: set_data_from_numpy(…, binary_data=False))",
        ),
        (
            b'{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":null}]}',
            "body: Field required",
        ),
        (b'{"message":"no Route matched with those values"}', "no Route matched with those values"),
        (b'{"error":"","detail":"the second"}', "the second"),
        (b'{"code":5}', '{"code":5}'),
        (b'["a list"]', '["a list"]'),
        (b'"text"', '"text"'),
        (b"upstream connect error\nor disconnect", "upstream connect error or disconnect"),
        (NGINX, "502 Bad Gateway nginx/1.25.3"),
        (
            b"<!DOCTYPE HTML><style>p {color: red}</style><script>'<p>'</script><p>Service\n Unavailable</p>",
            "Service Unavailable",
        ),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", EMPTY),
        (b" \r\n", EMPTY),
        (b"<html></html>", EMPTY),
        (b"x" * 600, "x" * 500 + "…"),
        (b'{"error":"' + b"x" * 600 + b'"}', "x" * 600),
    ],
)
def test_every_kind_of_error_body_is_readable(body: bytes, message: str) -> None:
    with pytest.raises(ServerError) as caught:
        check(answer(body, 502, "Bad Gateway"))
    assert caught.value.message() == message
    assert caught.value.status() == "502"
    assert caught.value.debug_details() == body.decode("utf-8", "replace")


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_error_is_decompressed(encoding: str, packed: Any) -> None:
    with pytest.raises(ServerError) as caught:
        check(answer(packed(b'{"error":"gone"}'), 404, content_encoding=encoding))
    assert caught.value.message() == "gone"
    assert caught.value.debug_details() == '{"error":"gone"}'


@pytest.mark.parametrize("encoding", ["gzip", "br", "nonsense"])
def test_an_error_that_cannot_be_decompressed_is_shown_as_it_came(encoding: str) -> None:
    with pytest.raises(ServerError, match=r"^\[500\] plain words$"):
        check(answer(b"plain words", 500, content_encoding=encoding))


def test_a_bomb_in_an_error_is_not_decompressed() -> None:
    stream = zlib.compressobj(wbits=31)
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(64)) + stream.flush()
    with pytest.raises(ServerError) as caught:
        check(answer(bomb, 500, content_encoding="gzip"))
    assert len(caught.value.debug_details()) <= len(bomb)


@pytest.mark.parametrize("body", [b"<html>" + b"<" * 300_000, b"<html>" + b"<script" * 40_000])
def test_html_without_end_takes_no_time(body: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(ServerError):
        check(answer(body, 502))
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_status_of_success_passes(status: int) -> None:
    check(answer(b'{"error":"not looked at here"}', status))


@pytest.mark.parametrize("status", [199, 300, 302, 400, 500, 599])
def test_every_other_status_is_an_error(status: int) -> None:
    with pytest.raises(ServerError) as caught:
        check(answer(b"", status))
    assert caught.value.status() == str(status)
    assert caught.value.message() == EMPTY


class Theirs:
    """A response with no more than what programs for the reference give."""

    status_code = 500

    def get(self, key: str) -> None:
        return None

    def read(self) -> bytes:
        return b'{"error":"gone"}'


def test_a_response_of_another_make_is_checked() -> None:
    with pytest.raises(ServerError, match=r"^\[500\] gone$") as caught:
        check(Theirs())  # type: ignore[arg-type]
    assert caught.value.headers == {}


# -- query parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"a": 1, "b": "x y"}, "a=1&b=x+y"),
        ({"a": [1, "2", None]}, "a=1&a=2&a=None"),
        ({"a": (1, 2)}, "a=1&a=2"),
        ({"a": []}, ""),
        ({"a-b_c.d~": "X9"}, "a-b_c.d~=X9"),
        ({"a=b": "c", "d": "e=f", "": ""}, "a%3Db=c&d=e%3Df&="),
        ({"ü&": "=?#/%+"}, "%C3%BC%26=%3D%3F%23%2F%25%2B"),
        ({1: True}, "1=True"),
        ({}, ""),
    ],
)
def test_query_string(given: dict[Any, Any], text: str) -> None:
    assert query_string(given) == text


@pytest.mark.parametrize("given", [{"a": "x\r\ny"}, {"a\n": "x"}, {"a": ["b", "c\0"]}, {"a": "\r"}])
def test_a_query_with_line_ends_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"query parameter .* CR, LF or NUL"):
        query_string(given)


@pytest.mark.parametrize("given", [{"a": "x\ud800"}, {"a\udfff": 1}, {"a": ["b", "\udc80"]}])
def test_a_query_with_a_lone_surrogate_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"query parameter .*text without lone surrogates.* got '?"):
        query_string(given)


# -- inference --------------------------------------------------------------------------------------


def infer(
    inputs: Any, *, packed: str | None = None, wanted: str | None = None, **more: Any
) -> Operation[InferResult]:
    snapshot = more.pop("snapshot", False)
    inference = Inference(
        more.pop("model_name", "m"),
        inputs,
        request_compression_algorithm=packed,
        response_compression_algorithm=wanted,
        **more,
    )
    return inference.written(snapshot)


ARRAY = np.arange(4, dtype=np.int32)


def binary_input() -> InferInput:
    return InferInput("x", [4], "INT32").set_data_from_numpy(ARRAY)


def test_a_binary_inference() -> None:
    operation = infer([binary_input()])
    head, tensor = operation.body
    assert (operation.method, operation.path, operation.idempotent) == ("POST", "v2/models/m/infer", None)
    assert operation.headers == (("Inference-Header-Content-Length", str(len(head))),)
    assert operation.content_type == "application/octet-stream"
    assert json.loads(head)["inputs"][0]["parameters"] == {"binary_data_size": 16}
    assert bytes(tensor) == ARRAY.tobytes()


def test_a_large_tensor_is_sent_from_its_array() -> None:
    array = np.zeros(1 << 15, np.int32)
    _, tensor = infer([InferInput("x", [1 << 15], "INT32").set_data_from_numpy(array)]).body
    assert np.shares_memory(np.frombuffer(tensor, np.int32), array)


@pytest.mark.parametrize("way", ["json", "region"])
def test_an_inference_of_json_alone(way: str) -> None:
    tensor = InferInput("x", [4], "INT32")
    if way == "json":
        tensor.set_data_from_numpy(ARRAY, binary_data=False)
    else:
        tensor.set_shared_memory("r", 16)
    operation = infer([tensor], model_version="3", outputs=[InferRequestedOutput("y", class_count=2)])
    assert operation.path == "v2/models/m/versions/3/infer"
    assert operation.headers == ()
    assert operation.content_type == JSON
    (head,) = operation.body
    assert json.loads(head)["outputs"][0]["parameters"] == {"binary_data": True, "classification": 2}


@pytest.mark.parametrize(("algorithm", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_compressed_request(algorithm: str, unpack: Any) -> None:
    plain = b"".join(infer([binary_input()]).body)
    operation = infer([binary_input()], packed=algorithm)
    assert unpack(b"".join(operation.body)) == plain
    json_size = str(len(infer([binary_input()]).body[0]))
    assert dict(operation.headers) == {
        "Inference-Header-Content-Length": json_size,
        "Content-Encoding": algorithm,
    }


def test_a_compressed_response_is_asked_for() -> None:
    assert dict(infer([binary_input()], wanted="gzip").headers)["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("algorithm", ["br", "GZIP", "identity"])
def test_an_unknown_compression_is_refused(algorithm: str) -> None:
    for way in ("packed", "wanted"):
        with pytest.raises(InvalidRequest, match=f"unsupported compression algorithm '{algorithm}'"):
            infer([binary_input()], **{way: algorithm})


def test_a_snapshot_holds_none_of_the_callers_memory() -> None:
    array = np.arange(4, dtype=np.int32)
    reversed_, swapped = array[::-1], array.astype(">i4")
    inputs = [
        InferInput("a", [4], "INT32").set_data_from_numpy(array),
        InferInput("b", [4], "INT32").set_data_from_numpy(reversed_),
        InferInput("c", [4], "INT32").set_data_from_numpy(swapped),
        InferInput("d", [4, 0], "INT32").set_data_from_numpy(np.zeros((4, 0), np.int32)),
    ]
    operation = infer(inputs, snapshot=True)
    before = b"".join(operation.body)
    array[:] = 7
    swapped[:] = 7
    assert b"".join(operation.body) == before
    assert b"".join(infer(inputs).body) != before


def test_an_inference_without_inputs_is_left_to_the_server() -> None:
    assert json.loads(infer([]).body[0])["inputs"] == []


@pytest.mark.parametrize("size", [1 << 32, (1 << 32) + (1 << 20)])
@pytest.mark.parametrize(
    ("headers", "options"),
    [
        (None, {}),
        ({"X": "y"}, {}),
        ({"Content-Type": "own"}, {}),
        (None, {"request_compression_algorithm": "gzip"}),
        (None, {"response_compression_algorithm": "gzip"}),
    ],
)
@pytest.mark.parametrize("snapshot", [False, True])
def test_a_body_that_would_end_the_server_is_refused(
    size: int, headers: Any, options: Any, snapshot: bool
) -> None:
    array = np.broadcast_to(np.uint8(0), (size,))  # which takes no memory
    inference = Inference("m", [InferInput("X", [size], "UINT8").set_data_from_numpy(array)], **options)
    encoder = Encoder("a", "")
    words = r"expected a request of less than 2 GiB, got 429\d{7} bytes"
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=words):
            encoder.encode(inference.sendable(snapshot=False), headers, None, snapshot)
    assert not encoder.templates


def test_no_body_at_all_may_end_the_server() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    for operation in (
        operations.Endpoint("POST", "v2/repository/models/m/load", check, (Huge(),)),
        operations.Endpoint("POST", "v2/models/m/generate", check, (b"{", Huge())),
    ):
        with pytest.raises(InvalidRequest, match="Triton does not survive 4 GiB"):
            Encoder("a", "").encode(operation, None, None)
    array = np.broadcast_to(np.uint8(0), (1 << 32,))
    inference = Inference("m", [InferInput("X", [1 << 32], "UINT8").set_data_from_numpy(array)])
    with pytest.raises(InvalidRequest, match="Triton does not survive 4 GiB"):
        inference.snapshot()  # without a copy


def test_a_large_tensor_in_shared_memory_is_not_refused() -> None:
    placed = InferInput("X", [1 << 33], "UINT8").set_shared_memory("r", 1 << 33)
    assert Encoder("a", "").encode(Inference("m", [placed]), None, None).buffers


def test_two_operations_can_be_compared() -> None:
    assert operations.get_model_config("m", "1") == operations.get_model_config("m", "1")
    assert operations.get_model_config("m", "1") != operations.get_model_config("m", "2")
    assert "v2/models/m/versions/1/config" in repr(operations.get_model_config("m", "1"))


def test_a_version_of_a_configuration_may_be_a_number() -> None:
    assert operations.get_model_config("m", 1).path == "v2/models/m/versions/1/config"  # type: ignore[arg-type]


def test_iterators_are_refused_and_leave_no_head_behind() -> None:
    def inputs() -> list[InferInput]:
        return [InferInput("iterated", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32))]

    def body(inputs: Any, outputs: Any = None) -> bytes:
        return bytes(body_of(Inference("m", inputs, outputs=outputs))[0][0])

    outputs = [InferRequestedOutput("OUT")]
    for given in ((iter(inputs()), None), (inputs(), iter(outputs)), (inputs(), (each for each in outputs))):
        with pytest.raises(InvalidRequest, match="must be a sequence of Infer"):
            body(*given)
    assert b"iterated" in body(inputs())
    assert b"OUT" in body({"x": inputs()[0]}.values(), tuple(outputs))


# -- raw requests -----------------------------------------------------------------------------------

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
RAW = {
    "bytes": (b"abc", b"abc"),
    "bytearray": (bytearray(b"abc"), b"abc"),
    "nothing": (b"", b""),
    "no elements": (np.zeros((0, 3), np.float32), b""),
    "a view": (memoryview(NUMBERS), NUMBERS.tobytes()),
    "a view with gaps": (memoryview(NUMBERS)[::2], NUMBERS[::2].tobytes()),
    "array.array": (array("h", [1, -1]), b"\1\0\xff\xff"),
    "an array": (NUMBERS, NUMBERS.tobytes()),
    "big-endian": (NUMBERS.astype(">f4"), NUMBERS.tobytes()),
    "in Fortran's order": (np.asfortranarray(NUMBERS), NUMBERS.tobytes()),
    "a scalar": (np.int16(-1), b"\xff\xff"),
    "nothing masked": (np.ma.array([1, 2], np.int8), b"\1\2"),
    "bfloat16": (ml_dtypes.bfloat16(1), b"\x80\x3f"),
}


@pytest.mark.parametrize(("given", "body"), RAW.values(), ids=RAW)
def test_a_raw_request_is_the_data_alone(given: Any, body: bytes) -> None:
    operation = Inference("m", (), "2", idempotent=True).raw(given)
    assert (operation.method, operation.path, operation.idempotent) == (
        "POST",
        "v2/models/m/versions/2/infer",
        True,
    )
    assert operation.headers == (("Inference-Header-Content-Length", "0"),)
    assert operation.content_type == "application/octet-stream"
    assert sum(map(len, operation.body)) == len(body)
    assert b"".join(operation.body) == body


def test_a_large_raw_request_is_not_copied() -> None:
    large = np.zeros(1 << 15, np.int32)
    for given in (large, memoryview(large), large.data):
        (body,) = Inference("m", ()).raw(given).body
        assert np.shares_memory(np.frombuffer(body, np.int32), large)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_raw_request_may_be_compressed(algorithm: str) -> None:
    inference = Inference(
        "m", (), request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    operation = inference.raw(NUMBERS)
    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}[algorithm]
    assert unpack(b"".join(operation.body)) == NUMBERS.tobytes()
    assert dict(operation.headers) == {
        "Inference-Header-Content-Length": "0",
        "Content-Encoding": algorithm,
        "Accept-Encoding": algorithm,
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("abc", r"got str; text goes as text.encode\(\)"),
        (None, "got NoneType"),
        ([1.0], "got list"),
        (1, "got int"),
        (np.array(["a"], object), "got an array of object"),
        (np.array(["a"]), "got an array of <U1"),
        (np.array([b"a"]), "got an array of |S1"),
        (np.zeros(2, np.complex64), "got an array of complex64"),
        (memoryview(np.array(["a", "b"], object)), "got memoryview"),
        (memoryview(np.array(["a", "b"], object))[::2], "got memoryview"),
    ],
)
def test_other_data_are_no_raw_request(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"data must be bytes or an array of numbers, {words}"):
        Inference("m", ()).raw(given)
