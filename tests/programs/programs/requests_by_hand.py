"""Subclasses and replacements of `_get` and `_post`, mocks, and results made of foreign answers."""

import os
from unittest import mock

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

url = os.environ["TRITON"]


class Client(httpclient.InferenceServerClient):
    def __init__(self, url, token, **options):
        super().__init__(url, **options)
        self.token = token
        self.count = 0

    def _get(self, request_uri, headers, query_params):
        self.count += 1
        headers = dict(headers or {}, token=self.token)
        return super()._get(request_uri, headers, query_params)

    def _post(self, request_uri, request_body, headers, query_params):
        print(request_uri, headers, query_params, len(request_body))
        return super()._post(
            request_uri=request_uri, request_body=request_body, headers=headers, query_params=query_params
        )

    def double(self, array):
        tensor = httpclient.InferInput("INPUT0", array.shape, "INT32")
        tensor.set_data_from_numpy(array)
        return 2 * self.infer("identity_int32", [tensor]).as_numpy("OUTPUT0")


with Client(url, "secret", concurrency=2) as client:
    print(client.is_server_live(), client.double(np.array([1, 2], np.int32)), client.count)
    client.unregister_system_shared_memory("x", headers={"a": "b"}, query_params={"c": 1})
    response = client._get("v2/models/add_sub", None, None)
    print(
        response.status_code,
        response.get("content-type"),
        response.get("X-None"),
        response.read()[:16],
    )
    response = client._post("v2/models/identity_int32/infer", "{}", None, None)
    print(response.status_code, b"error" in response.read())


class Flat(httpclient.InferInput):
    """Describes its data as of one dimension, whatever the array."""

    def _get_tensor(self):
        return {**super()._get_tensor(), "shape": [6]}


class Constant(httpclient.InferInput):
    def _get_binary_data(self):
        return np.array([7, 8], np.int32).tobytes()


with httpclient.InferenceServerClient(url) as client:
    flat = Flat("INPUT0", [2, 3], "INT32").set_data_from_numpy(np.arange(6, dtype=np.int32).reshape(2, 3))
    constant = Constant("INPUT0", [2], "INT32").set_data_from_numpy(np.zeros(2, np.int32))
    for tensor in (flat, constant, flat):
        print(client.infer("identity_int32", [tensor]).as_numpy("OUTPUT0"))
    print(client.async_infer("identity_int32", [constant]).get_result().as_numpy("OUTPUT0"))
    # Triton's extension for text models, which has no method of its own.
    response = client._post("v2/models/summary/generate", '{"VALUES":[1.0,2.0]}', None, None)
    print(response.status_code, b'"COUNT":2' in response.read())


class Answer:
    def __init__(self, body, status_code=200, **headers):
        self.body, self.status_code, self.headers = body, status_code, headers
        self.position = 0

    def get(self, name):
        return self.headers.get(name.replace("-", "_"))

    def read(self, length=-1):
        start = self.position
        self.position = len(self.body) if length == -1 else start + length
        return self.body[start : self.position]


head = b'{"model_name":"m","outputs":[{"name":"O","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
tail = np.array([1.5, 2.5], np.float32).tobytes()
result = httpclient.InferResult(Answer(head + tail, Inference_Header_Content_Length=len(head)), False)
print(result.as_numpy("O"), result.get_response()["model_name"])
print(httpclient.InferResult.from_response_body(head + tail, False, len(head)).as_numpy("O"))
client = httpclient.InferenceServerClient("nowhere:1")
client._get = mock.Mock(return_value=Answer(b'{"name":"mocked"}'))
client._post = mock.MagicMock(
    return_value=Answer(head + tail, Inference_Header_Content_Length=str(len(head)))
)
print(client.get_server_metadata(), client._get.call_args)
tensor = httpclient.InferInput("I", [2], "FP32").set_data_from_numpy(np.zeros(2, np.float32))
print(
    client.infer("m", [tensor]).as_numpy("O"),
    client._post.call_args[1]["request_uri"],
    client._post.call_args[1]["headers"],
)
client._get.return_value = Answer(b'{"error":"mocked too"}', 418)
for call in (client.get_server_metadata, lambda: client.get_model_config("m")):
    client._get.return_value.position = 0
    try:
        call()
    except InferenceServerException as error:
        print(error)
print(client.is_server_live(), client.is_model_ready("x"))
with mock.patch(
    "tritonclient.http.InferenceServerClient._get", mock.MagicMock(return_value=Answer(b""))
) as get:
    print(httpclient.InferenceServerClient("nowhere").is_server_live(), get.call_count)
with mock.patch("tritonclient.http.InferenceServerClient") as kind:
    kind.return_value.infer.return_value.as_numpy.return_value = 7
    print(httpclient.InferenceServerClient("x").infer("m", []).as_numpy("O"))
