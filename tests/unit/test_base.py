"""From a call's options to the bytes that go out: headers, plugins, overridden methods, the verbose log."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import (
    InferenceServerClient,
    InferenceServerClientPlugin,
    InferenceServerException,
    InferInput,
    InvalidRequest,
    Request,
    ServerError,
)
from tritonhttp._protocol.inference import Inference
from tritonhttp._protocol.operations import Endpoint, check
from tritonhttp._regions.auto import Sharing

Opener = Callable[..., InferenceServerClient]


@pytest.fixture
def server(serve: Any) -> Any:
    def handler(peer: Any) -> None:
        while (request := peer.receive()) is not None:
            answer = b'{"model_name":"m","outputs":[]}' if b"/infer" in request[0] else b"{}"
            peer.reply(answer, headers="Set-Cookie: sesame")

    return serve(handler)


@pytest.fixture
def client_of(server: Any) -> Iterator[Opener]:
    with contextlib.ExitStack() as stack:

        def open_client(
            kind: type[InferenceServerClient] = InferenceServerClient, *, path: str = "", **options: Any
        ) -> InferenceServerClient:
            return stack.enter_context(kind(f"{server.url}{path}", **options))

        yield open_client


def sent(server: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return the last request: its request line, its headers, its body."""
    head, body = server.requests[-1]
    line, *lines = head.decode("utf-8").removesuffix("\r\n\r\n").split("\r\n")
    return line, [tuple(each.split(": ", 1)) for each in lines], body  # type: ignore[misc]


def headers_of(server: Any) -> dict[str, str]:
    _, headers, _ = sent(server)
    names = [name.lower() for name, _ in headers]
    assert len(names) == len(set(names)), "a header went out twice"
    return {name.lower(): value for name, value in headers}


def tensor(binary: bool = True) -> InferInput:
    return InferInput("x", [2], "INT8").set_data_from_numpy(np.array([1, 2], np.int8), binary_data=binary)


# -- headers ----------------------------------------------------------------------------------------


def test_a_plain_request_has_few_headers(server: Any, client_of: Opener) -> None:
    client_of().get_server_metadata()
    line, headers, body = sent(server)
    assert line == "GET /v2 HTTP/1.1"
    assert dict(headers) == {"Host": server.url, "User-Agent": f"tritonhttp/{tritonhttp.__version__}"}
    assert body == b""


def test_the_base_path_and_the_query_are_in_the_target(server: Any, client_of: Opener) -> None:
    client_of(path="/triton/").get_model_config("a/b", query_params={"k": ["x y", 2]})
    assert sent(server)[0] == "GET /triton/v2/models/a%2Fb/config?k=x+y&k=2 HTTP/1.1"


@pytest.mark.parametrize(
    ("binary", "content_type"), [(True, "application/octet-stream"), (False, "application/json")]
)
@pytest.mark.parametrize("given", [None, {}, {"X-One": "a"}])
def test_the_content_type_is_that_of_the_body(
    server: Any, client_of: Opener, binary: bool, content_type: str, given: Any
) -> None:
    client_of().infer("m", [tensor(binary)], headers=given)
    headers = headers_of(server)
    assert headers["content-type"] == content_type
    assert ("inference-header-content-length" in headers) == binary
    assert headers["content-length"] == str(len(sent(server)[2]))
    assert headers.get("x-one") == ("a" if given else None)


@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
def test_a_callers_content_type_is_kept(server: Any, client_of: Opener, name: str) -> None:
    client_of().infer("m", [tensor()], headers={name: "application/x-own"})
    assert headers_of(server)["content-type"] == "application/x-own"


@pytest.mark.parametrize("name", ["Inference-Header-Content-Length", "inference-header-content-length"])
def test_headers_that_frame_the_body_are_ours(server: Any, client_of: Opener, name: str) -> None:
    client_of().infer("m", [tensor()], headers={name: "7", "Accept-Encoding": "br"})
    headers = headers_of(server)
    assert headers["inference-header-content-length"] == str(len(sent(server)[2]) - 2)
    assert headers["accept-encoding"] == "br"
    client_of().infer(
        "m", [tensor()], headers={"content-encoding": "x"}, request_compression_algorithm="gzip"
    )
    assert headers_of(server)["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("name", "value"), [("host", "other:80"), ("Host", "other"), ("USER-AGENT", "own/1"), ("user-agent", "")]
)
def test_host_and_user_agent_can_be_replaced(server: Any, client_of: Opener, name: str, value: str) -> None:
    client_of().get_server_metadata(headers={name: value})
    headers = headers_of(server)
    assert headers[name.lower()] == value
    assert {"host", "user-agent"} <= set(headers)


def test_values_of_all_kinds_are_written(server: Any, client_of: Opener) -> None:
    given = {"X-Number": 5, "X-Bytes": b"abc", "X-Text": "ü"}
    client_of().get_server_metadata(headers=given)
    headers = headers_of(server)
    assert (headers["x-number"], headers["x-bytes"], headers["x-text"]) == ("5", "abc", "ü")


def test_callers_dicts_are_never_changed(server: Any, client_of: Opener) -> None:
    class Adds(InferenceServerClientPlugin):
        def __call__(self, request: Request) -> None:
            request.headers["X-Plugin"] = "yes"

    client = client_of()
    client.register_plugin(Adds())
    headers, query, parameters = {"X-One": "a"}, {"k": ["v"]}, {"p": [1]}
    client.infer("m", [tensor()], headers=headers, query_params=query, parameters=parameters)
    client.load_model("m", headers=headers, query_params=query)
    client._get("v2", headers, query)
    client._post("v2", b"{}", headers, query)
    assert (headers, query, parameters) == ({"X-One": "a"}, {"k": ["v"]}, {"p": [1]})
    assert headers_of(server)["x-plugin"] == "yes"


@pytest.mark.parametrize(
    "headers",
    [
        {"Transfer-Encoding": "chunked"},
        {"transfer-encoding": "chunked"},
        {"X-One": "a\r\nX-Two: b"},
        {"X-One\n": "a"},
        {"X One": "a"},
        {"": "a"},
        {"X-One": "\0"},
        {"X-One": None},
        {5: "a"},
        {"Content-Length": "5"},
        {"content-length": 0},
        {"Host": ["a", "b"]},
        {"host": []},
        {"Content-Type": ("a/b", "c/d")},
    ],
)
def test_headers_that_cannot_be_sent_are_refused(server: Any, client_of: Opener, headers: Any) -> None:
    client = client_of()
    with pytest.raises(InvalidRequest):
        client.infer("m", [tensor()], headers=headers)
    assert server.requests == []
    client.infer("m", [tensor()])


def test_a_transfer_encoding_is_refused_in_the_references_words(client_of: Opener) -> None:
    for call in (
        lambda: client_of()._validate_headers({"Transfer-Encoding": "chunked"}),
        lambda: client_of().is_server_live(headers={"TRANSFER-ENCODING": "gzip"}),
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.message() == (
            "Unsupported HTTP header: 'Transfer-Encoding' is not supported in the Python client library."
            " Use raw HTTP request libraries or the C++ client instead for this header."
        )
    client_of()._validate_headers({"X-One": "a"})
    client_of()._validate_headers(None)


def test_a_content_length_that_is_right_goes_out_once(server: Any, client_of: Opener) -> None:
    client_of()._post("v2/repository/index", b"{}", {"content-length": 2}, None)
    assert headers_of(server)["content-length"] == "2"


@pytest.mark.parametrize("uri", ["v2\r\nX: y", "v2 HTTP/1.1", "v2\n", "v2\0"])
def test_a_path_that_would_end_its_line_is_refused(server: Any, client_of: Opener, uri: str) -> None:
    for call in (lambda: client_of()._get(uri, {}, None), lambda: client_of()._post(uri, b"", {}, None)):
        with pytest.raises(InvalidRequest, match="percent-encoded"):
            call()
    assert server.requests == []


# -- plugins ----------------------------------------------------------------------------------------


class Counts(InferenceServerClientPlugin):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> None:
        self.seen.append(dict(request.headers))
        request.headers["Authorization"] = "Bearer sesame"


def test_a_plugin_sees_and_changes_each_request_once(server: Any, client_of: Opener) -> None:
    client, plugin = client_of(), Counts()
    client.register_plugin(plugin)
    assert client.plugin() is plugin
    client.get_server_metadata(headers={"X-One": "a"})
    assert plugin.seen == [{"X-One": "a"}]
    assert headers_of(server)["authorization"] == "Bearer sesame"
    client.infer("m", [tensor()])
    assert set(plugin.seen[1]) == {"Inference-Header-Content-Length"}
    client._get("v2", {}, None)
    client.async_infer("m", [tensor()]).get_result()
    assert len(plugin.seen) == len(server.requests) == 4
    client.unregister_plugin()
    assert client.plugin() is None
    client.get_server_metadata()
    assert "authorization" not in headers_of(server)


def test_a_plugin_is_one_at_a_time_in_the_references_words(client_of: Opener) -> None:
    client = client_of()
    with pytest.raises(InferenceServerException, match=r"^No plugin has been registered\.$"):
        client.unregister_plugin()
    client.register_plugin(Counts())
    with pytest.raises(
        InferenceServerException, match=r"^A plugin is already registered\. Please unregister"
    ):
        client.register_plugin(Counts())


def test_what_a_plugin_writes_is_checked(server: Any, client_of: Opener) -> None:
    class Bad(InferenceServerClientPlugin):
        def __call__(self, request: Request) -> None:
            request.headers["Transfer-Encoding"] = "chunked"

    client = client_of()
    client.register_plugin(Bad())
    with pytest.raises(InvalidRequest, match="Transfer-Encoding"):
        client.get_server_metadata()
    assert server.requests == []


def test_an_error_of_a_plugin_is_the_callers(server: Any, client_of: Opener) -> None:
    class Broken(InferenceServerClientPlugin):
        def __call__(self, request: Request) -> None:
            raise KeyError("token")

    client = client_of()
    client.register_plugin(Broken())
    with pytest.raises(KeyError):
        client.get_server_metadata()
    with pytest.raises(KeyError):
        client.async_infer("m", [tensor()]).get_result()


# -- overridden methods -----------------------------------------------------------------------------


class Canned:
    """A response with no more than what programs for the reference give."""

    def __init__(self, body: bytes = b'{"name":"canned"}', status_code: int = 200) -> None:
        self.body, self.status_code = body, status_code

    def get(self, key: str) -> None:
        return None

    def read(self, length: int = -1) -> bytes:
        return self.body if length == -1 else self.body[:length]


class Overrides(InferenceServerClient):
    calls: tuple[Any, ...] = ()

    def _get(self, request_uri: str, headers: Any, query_params: Any) -> Any:
        self.calls += (("GET", request_uri, headers, query_params),)
        return Canned()

    def _post(self, request_uri: str, request_body: Any, headers: Any, query_params: Any) -> Any:
        self.calls += (("POST", request_uri, headers, query_params, request_body),)
        return Canned(b'{"model_name":"m","outputs":[]}')


def test_calls_go_through_a_subclass(server: Any, client_of: Opener) -> None:
    client: Any = client_of(Overrides)
    assert client.get_model_metadata("m", headers={"X": "y"}, query_params={"k": "v"}) == {"name": "canned"}
    assert client.is_server_live() is True
    client.infer("m", [tensor()])
    client.async_infer("m", [tensor()]).get_result()
    client.unregister_system_shared_memory("r")
    assert [call[:2] for call in client.calls] == [
        ("GET", "v2/models/m"),
        ("GET", "v2/health/live"),
        ("POST", "v2/models/m/infer"),
        ("POST", "v2/models/m/infer"),
        ("POST", "v2/systemsharedmemory/region/r/unregister"),
    ]
    assert client.calls[0][2:] == ({"X": "y"}, {"k": "v"})
    body, json_size = InferenceServerClient.generate_request_body([tensor()])
    assert type(client.calls[2][4]) is bytes
    assert client.calls[2][4] == body
    assert client.calls[2][2] == {"Inference-Header-Content-Length": json_size}
    assert client.calls[4][2:] == (None, None, b"")
    assert server.requests == []


def test_calls_go_through_what_stands_on_the_instance(server: Any, client_of: Opener) -> None:
    client: Any = client_of()
    client._get = lambda **call: Canned(b'{"error":"gone"}', 404)
    with pytest.raises(ServerError, match=r"^\[404\] gone$"):
        client.get_model_config("m")
    del client._get
    assert client.get_model_config("m") == {}


def test_a_subclass_may_call_the_original(server: Any, client_of: Opener) -> None:
    class Passes(InferenceServerClient):
        def _get(self, request_uri: str, headers: Any, query_params: Any) -> Any:
            return super()._get(request_uri, {**(headers or {}), "X-Sub": "yes"}, query_params)

        def _post(self, request_uri: str, request_body: Any, headers: Any, query_params: Any) -> Any:
            return super()._post(request_uri, request_body, {**headers, "X-Sub": "yes"}, query_params)

    client, plugin = client_of(Passes), Counts()
    client.register_plugin(plugin)
    for call in (client.get_server_metadata, lambda: client.infer("m", [tensor()])):
        call()
        headers = headers_of(server)
        assert (headers["x-sub"], headers["authorization"]) == ("yes", "Bearer sesame")
    assert len(plugin.seen) == 2, "the plugin runs once for each request"


def test_get_and_post_return_a_response(server: Any, client_of: Opener) -> None:
    client = client_of()
    response = client._get("v2/anything", None, {"k": "v"})
    assert (response.status_code, response.read(), response.get("set-cookie")) == (200, b"{}", "sesame")
    assert sent(server)[0] == "GET /v2/anything?k=v HTTP/1.1"
    client._post(request_uri="v2/x", request_body="ü", headers={"X-One": "a"}, query_params=None)
    assert sent(server)[2] == "ü".encode()
    assert headers_of(server)["content-length"] == "2"


# -- the log ----------------------------------------------------------------------------------------

SECRETS = {
    "Authorization": "Bearer sesame",
    "proxy-authorization": "sesame",
    "Cookie": "sesame",
    "X-API-Key": "sesame",
    "X-Auth-Token": "sesame",
    "X-Client-Secret": "sesame",
    "X-Password": "sesame",
}


def test_verbose_output_shows_requests_and_responses(
    server: Any, client_of: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    client = client_of(verbose=True)
    client.get_server_metadata(headers={"X-One": "shown"})
    client.infer("m", [tensor()])
    shown, errors = capsys.readouterr()
    assert errors == ""
    assert "GET /v2, headers {'X-One': 'shown'}\n" in shown
    assert "shown" in shown
    assert re.search(r"POST /v2/models/m/infer, headers {'Inference-Header-Content-Length': \d+}\n", shown)
    assert "<Response 200 OK, 2 bytes>" in shown
    assert 'b\'{"model_name":"m"' in shown
    assert "\x01\x02" not in shown, "tensors appear by their size"


def test_verbose_output_goes_where_stdout_is_at_that_moment(
    client_of: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(verbose=True)
    for _ in range(2):
        replaced = io.StringIO()
        monkeypatch.setattr(sys, "stdout", replaced)
        client.is_server_live()
        assert len(re.findall("health/live", replaced.getvalue())) == 1


@pytest.mark.parametrize("verbose", [True, False])
def test_secrets_are_never_shown(
    server: Any,
    client_of: Opener,
    verbose: bool,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "tritonhttp")
    client = client_of(verbose=verbose)
    client.register_plugin(Counts())
    client.get_server_metadata(headers={**SECRETS, "X-Plain": "plain"})
    client.infer("m", [tensor()], headers=SECRETS)
    shown = "".join(capsys.readouterr())
    assert ("'X-API-Key': '***'" in shown, "plain" in shown) == (verbose, verbose)
    assert "sesame" not in shown + caplog.text
    assert headers_of(server)["x-api-key"] == "sesame"


def test_without_verbose_nothing_is_written(
    client_of: Opener, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of()
    client.infer("m", [tensor()])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_log_has_one_line_for_each_call(client_of: Opener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tritonhttp")
    client = client_of()
    client.get_server_metadata(query_params={"a": 1, "api_key": "sesame"})
    client.infer("m", [tensor()], "3", request_id="call 7")
    client.close()
    with pytest.raises(InferenceServerException):
        client.is_model_ready("m")
    metadata, infer, ready = (record.getMessage() for record in caplog.records)
    assert {(record.name, record.levelname) for record in caplog.records} == {("tritonhttp", "DEBUG")}
    url = rf"http://{re.escape(client.servers[0])}"
    assert re.fullmatch(
        rf"GET {url}/v2\?a=1&api_key=\*\*\*; metadata; status 200; 0 bytes sent, 2 received; [\d.]+ ms.*",
        metadata,
    )
    assert re.fullmatch(
        rf"POST {url}/v2/models/m/versions/3/infer; infer; model 'm'; id 'call 7'; status 200; \d+ bytes sent,"
        r" 31 received; [\d.]+ ms.*",
        infer,
    )
    assert re.match(
        rf"GET {url}/v2/models/m/ready; ready; model 'm'; InferenceServerException: the client is closed; ",
        ready,
    )


def test_the_log_does_not_change_what_verbose_shows(
    client_of: Opener, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shown = []
    for level in (logging.WARNING, logging.DEBUG):
        caplog.set_level(level, "tritonhttp")
        client = client_of(verbose=True)
        client.infer("m", [tensor()], request_id="7")
        client.load_model("m")
        client.async_infer("m", [tensor()]).get_result()
        # Sorted: what a thread of ours shows and what its caller does have no order between them.
        shown.append(sorted(capsys.readouterr().out.splitlines()))
    assert shown[0] == shown[1]
    assert sum(line.startswith("POST /v2") for line in shown[0]) == 3
    assert len(caplog.records) == 3


# -- the client itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["concurrency", "max_greenlets"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, np.array(2)])
def test_senseless_numbers_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} must be a whole number above 0"):
        InferenceServerClient("host", **{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    numbers: Any = {
        "concurrency": np.int64(4),
        "max_greenlets": np.uint8(3),
        "connection_timeout": np.float32(0.5),
        "network_timeout": np.int16(5),
        "deadline": np.float64(2),
        "shared_memory_threshold": np.int64(5),
        "shared_memory_limit": np.int64(6),
        "max_response_bytes": np.int64(7),
    }
    with InferenceServerClient("host", **numbers) as client:
        assert (client._workers, client._sharing_limits) == (3, [5, 6])
        assert client._transport._limit == 4
        assert type(client._transport._limit) is int
        assert type(client._transport._timeouts.network) is float
    model = tritonhttp.aio.InferenceServerClient("host", conn_limit=np.int8(100)).model("m")  # type: ignore[arg-type]
    assert type(model._client._configuration["conn_limit"]) is int


def test_a_closed_client_says_so(server: Any, client_of: Opener) -> None:
    client = client_of()
    client.is_server_live()
    client.close()
    client.close()
    for call in (
        client.is_server_live,
        lambda: client.infer("m", [tensor()]),
        lambda: client.async_infer("m", [tensor()]),
    ):
        with pytest.raises(InferenceServerException, match="the client is closed"):
            call()
    assert len(server.requests) == 1


class ClosedMeanwhile(InferenceServerClient):
    """One that another thread closes as soon as this one has looked whether it shares memory."""

    @property
    def _sharing(self) -> Any:  # type: ignore[override]
        found, self.__dict__["_sharing"] = self.__dict__["_sharing"], None
        return found

    @_sharing.setter
    def _sharing(self, sharing: Any) -> None:
        self.__dict__["_sharing"] = sharing


def test_a_client_may_be_closed_while_an_inference_is_encoded(client_of: Opener) -> None:
    client = client_of(ClosedMeanwhile)
    client._sharing = Sharing(1 << 20, 1 << 20)
    assert next(client._flow(Inference("m", [tensor()])))


def test_options_of_tls_mean_nothing_without_it() -> None:
    def factory() -> Any:
        raise AssertionError("asked for a context that is not used")

    InferenceServerClient(
        "host", ssl_options={"nonsense": 1}, ssl_context_factory=factory, insecure=True
    ).close()


def test_a_client_that_was_never_made_can_be_dropped() -> None:
    InferenceServerClient.__new__(InferenceServerClient).__del__()
    with pytest.raises(InvalidRequest):
        InferenceServerClient("not a url")


def test_a_head_is_used_again_only_for_the_same_request(server: Any, client_of: Opener) -> None:
    client = client_of()
    placed = InferInput("x", [4], "INT32")
    output = tritonhttp.InferRequestedOutput("y")
    bodies = []
    for size, offset in [(16, 0), (16, 8), (32, 8), (16, 0)]:
        placed.set_shared_memory("r", size, offset)
        output.set_shared_memory("s", size, offset)
        for model, version in [("m", ""), ("n", ""), ("m", "2")]:
            client.infer(model, [placed, tensor()], version, outputs=[output])
            line, headers, body = sent(server)
            bodies.append((line, body))
            assert dict(headers)["Inference-Header-Content-Length"] == str(
                len(body) - tensor()._binary.nbytes
            )  # type: ignore[union-attr]
    assert bodies[:3] == bodies[-3:]
    assert len(set(bodies)) == 9
    output.unset_shared_memory()
    client.infer("m", [placed, tensor()], outputs=[output])
    assert b'"binary_data":true' in sent(server)[2]
    placed.set_data_from_numpy(np.arange(4, dtype=np.int32), binary_data=False)
    client.infer("m", [placed])
    assert b"[0,1,2,3]" in sent(server)[2]
    placed.set_data_from_numpy(np.arange(4, 8, dtype=np.int32), binary_data=False)
    client.infer("m", [placed])
    assert b"[4,5,6,7]" in sent(server)[2]


def _of(array: Any) -> InferInput:
    return InferInput("x", array.shape, "INT32").set_data_from_numpy(array)


def _reshaped_behind_its_back() -> InferInput:
    array = np.arange(8, dtype=np.int32)
    given = _of(array)
    array.resize(4, refcheck=False)
    return given


#: Inputs of a name, a datatype and a shape that are known by now, and what is sent of them all the same.
WHOLE = np.arange(8, dtype=np.int32)


@pytest.mark.parametrize(
    ("make", "shape", "data"),
    [
        (lambda: _of(WHOLE), [8], WHOLE),
        (lambda: _of(np.arange(16, dtype=np.int32)[::2]), [8], WHOLE * 2),
        (lambda: _of(WHOLE.astype(">i4")), [8], WHOLE),
        (lambda: _of(WHOLE).set_shape([2, 4]), [2, 4], WHOLE),
        (lambda: _of(WHOLE).set_shape([2, 4]).set_shape([8]), [8], WHOLE),
        (_reshaped_behind_its_back, [8], WHOLE[:4]),
        (lambda: InferInput("x", [8.0], "INT32").set_data_from_numpy(WHOLE), [8], WHOLE),  # type: ignore[list-item]
    ],
)
def test_a_head_that_is_known_never_goes_out_before_other_data(
    server: Any, client_of: Opener, make: Any, shape: list[int], data: Any
) -> None:
    client = client_of()
    for given, wanted_shape, wanted in [(_of(WHOLE), [8], WHOLE), (make(), shape, data)] * 2:
        client.infer("m", [given])
        _, headers, body = sent(server)
        size = int(dict(headers)["Inference-Header-Content-Length"])
        (described,) = json.loads(body[:size])["inputs"]
        assert described["shape"] == wanted_shape
        assert described["parameters"] == {"binary_data_size": len(body) - size}
        assert body[size:] == wanted.astype("<i4").tobytes()


class Scaled(tritonhttp.InferRequestedOutput):
    """An output that asks for more than ours knows of."""

    def _get_tensor(self) -> dict[str, Any]:
        output = super()._get_tensor()
        return {**output, "parameters": {**output["parameters"], "scale": 2}}


class Plain(tritonhttp.InferRequestedOutput):
    pass


def test_an_output_is_described_by_its_own_class(server: Any, client_of: Opener) -> None:
    client = client_of()
    for kind in (tritonhttp.InferRequestedOutput, Scaled, Plain) * 2:
        client.infer("m", [tensor()], outputs=[kind("y")])
        assert (b'"scale":2' in sent(server)[2]) is (kind is Scaled)


def test_an_input_among_the_outputs_is_refused(client_of: Opener) -> None:
    words = "outputs must hold InferRequestedOutput objects, got InferInput"
    with pytest.raises(InvalidRequest, match=words):
        client_of().infer("m", [tensor()], outputs=[tensor()])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", [tritonhttp.InferenceServerClient, tritonhttp.aio.InferenceServerClient])
@pytest.mark.parametrize("given", ["yes", 2, "auto"])
def test_whether_a_server_speaks_binary_is_true_false_or_none(kind: Any, given: Any) -> None:
    with pytest.raises(InvalidRequest, match="binary_data must be True, False or None"):
        kind("localhost:8000", binary_data=given)


@pytest.mark.parametrize("renewed", [False, True])
def test_what_a_replaced_method_hands_over_is_not_renewed_and_so_not_repeated(renewed: bool) -> None:
    with tritonhttp.InferenceServerClient("localhost:8000") as client:
        renew: Any = (lambda outcome: iter(())) if renewed else None
        meant = Endpoint("POST", "v2/models/m/infer", check, (b"{}",), idempotent=True, renew=renew)
        with client._replacing(meant, None, None):
            resumed, _, _ = client._resumed(client._posted(meant.path, b"{}", None), None)
        assert (resumed.idempotent, resumed.renew) == (not renewed, None)
