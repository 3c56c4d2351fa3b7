"""The public methods call `_get` and `_post` of a subclass, or those put on an instance."""

import http.client

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferenceServerClient, InferenceServerClientPlugin, InferRequestedOutput

from ...clients import tensor

ARRAY = np.arange(40_000, dtype=np.float32)


class Recording(InferenceServerClient):
    """Hand on to the client's own methods, as programs do that add a header or a metric."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []

    def _get(self, request_uri, headers, query_params):
        self.seen.append(("GET", request_uri, None, headers, query_params))
        return super()._get(request_uri, headers, query_params)

    def _post(self, request_uri, request_body, headers, query_params):
        self.seen.append(("POST", request_uri, request_body, headers, query_params))
        return super()._post(
            request_uri=request_uri, request_body=request_body, headers=headers, query_params=query_params
        )


class Foreign:
    """A response of another library, with no more than the reference's programs use."""

    def __init__(self, status_code, headers, body):
        self.status_code = status_code
        self._headers = headers
        self._body = body

    def get(self, name, default=None):
        return self._headers.get(name, default)

    def read(self, length=-1):
        body, self._body = self._body[: None if length < 0 else length], b""
        return body


def over_http_client(url):
    """Return replacements for `_get` and `_post` that send over another library."""

    def send(method, uri, body, headers, query_params):
        connection = http.client.HTTPConnection(url, timeout=10)
        try:
            connection.request(method, f"/{uri}", body, dict(headers or {}))
            response = connection.getresponse()
            return Foreign(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(request_uri, headers, query_params):
        return send("GET", request_uri, None, headers, query_params)

    def post(request_uri, request_body, headers, query_params):
        assert isinstance(request_body, bytes)
        return send("POST", request_uri, request_body, headers, query_params)

    return get, post


def check_everything(client):
    assert client.is_server_live()
    assert client.is_model_ready("no_such_model") is False
    assert client.get_server_metadata()["name"] == "triton"
    assert client.get_model_repository_index()
    for binary in (True, False):
        outputs = [InferRequestedOutput("OUTPUT0", binary)]
        for compression in (None, "gzip"):
            result = client.infer(
                "identity_fp32",
                [tensor("INPUT0", ARRAY)],
                outputs=outputs,
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), ARRAY)
            assert result.as_numpy("OUTPUT0").flags.writeable
    handle = client.async_infer("identity_fp32", [tensor("INPUT0", ARRAY)])
    np.testing.assert_array_equal(handle.get_result().as_numpy("OUTPUT0"), ARRAY)
    with pytest.raises(tritonhttp.ServerError, match="no_such_model") as caught:
        client.get_model_metadata("no_such_model")
    assert caught.value.status() == "404"


def test_a_subclass_sees_every_request_as_one_body(make_client):
    client = make_client(Recording)
    check_everything(client)
    assert {method for method, *_ in client.seen} == {"GET", "POST"}
    assert all(type(body) is bytes for method, _, body, *_ in client.seen if method == "POST")
    assert client.seen[0][1] == "v2/health/live"


def test_a_subclass_gets_the_headers_and_query_params_of_the_call(make_client):
    client = make_client(Recording)
    headers, query = {"X-Own": "1"}, {"a": ["1", "2"]}
    client.is_server_live(headers=headers, query_params=query)
    client.infer("identity_fp32", [tensor("INPUT0", ARRAY)], headers=headers, query_params=query)
    (_, _, _, first, first_query), (_, uri, body, second, second_query) = client.seen
    assert first["X-Own"] == second["X-Own"] == "1"
    assert first_query == second_query == query
    assert uri == "v2/models/identity_fp32/infer"
    size = int(second["Inference-Header-Content-Length"])
    assert body[size:] == ARRAY.tobytes()
    assert headers == {"X-Own": "1"}


def test_methods_replaced_on_the_instance_are_called(make_client, triton_server):
    client = make_client()
    client._get, client._post = over_http_client(triton_server.url)
    check_everything(client)
    assert not set(client._transport._connections)


def test_methods_patched_on_the_class_are_called(make_client, triton_server, monkeypatch):
    get, post = over_http_client(triton_server.url)
    monkeypatch.setattr(
        InferenceServerClient,
        "_get",
        lambda self, request_uri, headers, query_params: get(request_uri, headers, query_params),
    )
    monkeypatch.setattr(
        InferenceServerClient,
        "_post",
        lambda self, request_uri, request_body, headers, query_params: post(
            request_uri, request_body, headers, query_params
        ),
    )
    client = make_client()
    check_everything(client)
    assert not set(client._transport._connections)


class Count(InferenceServerClientPlugin):
    def __init__(self):
        self.calls = []

    def __call__(self, request):
        self.calls.append(dict(request.headers))
        request.headers["X-Plugin"] = "1"


def test_the_plugin_runs_once_however_the_request_is_sent(make_client):
    client, plugin = make_client(Recording), Count()
    client.register_plugin(plugin)
    client.is_server_live(headers={"X-Own": "1"})
    client.infer("identity_fp32", [tensor("INPUT0", ARRAY)])
    assert len(plugin.calls) == 2
    assert plugin.calls[0] == {"X-Own": "1"}


def test_get_and_post_can_be_called_by_hand(client):
    response = client._get("v2/health/live", {}, None)
    assert (response.status_code, response.read()) == (200, b"")
    response = client._get(request_uri="v2", headers=None, query_params={"a": "b"})
    assert response.get("content-type") == response.get("Content-Type") == "application/json"
    whole = response.read()
    assert whole.startswith(b'{"name":"triton"')
    assert response.read() == b""
    for body in ("{}", b"{}"):
        response = client._post("v2/repository/index", body, {}, {})
        assert response.status_code == 200
        assert response.read().startswith(b"[")
    response = client._get("v2/no/such/path", None, None)
    assert response.status_code == 404
    assert response.get("No-Such-Header") is None
    assert response.get("No-Such-Header", 3) == 3


def test_a_response_can_be_read_in_pieces(client):
    response = client._get("v2", None, None)
    first = response.read(10)
    rest = response.read()
    assert len(first) == 10
    assert (first + rest).endswith(b"}")


def test_overridden_hooks_are_called(make_client):
    class Hooked(InferenceServerClient):
        hooks = ()

        def _call_plugin(self, request):
            self.hooks += ("plugin",)
            request.headers["X-Hook"] = "1"
            super()._call_plugin(request)

        def _validate_headers(self, headers):
            self.hooks += (headers.get("X-Hook"),)
            super()._validate_headers(headers)

    client = make_client(Hooked)
    assert client.is_server_live()
    assert client.hooks == ("plugin", "1")


def test_an_overridden_request_that_fails_reaches_the_caller(make_client):
    class Failing(InferenceServerClient):
        def _post(self, request_uri, request_body, headers, query_params):
            raise tritonhttp.InferenceServerException("as is", "418")

    client = make_client(Failing)
    with pytest.raises(tritonhttp.InferenceServerException, match="as is"):
        client.infer("identity_fp32", [tensor("INPUT0", ARRAY)])
    with pytest.raises(tritonhttp.InferenceServerException, match="as is"):
        client.async_infer("identity_fp32", [tensor("INPUT0", ARRAY)]).get_result()
    assert client.is_server_live()
