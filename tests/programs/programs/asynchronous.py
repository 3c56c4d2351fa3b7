"""async_infer: handles in any order, timeouts, errors, greenlet-like objects."""

import os

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException


def delayed(seconds):
    tensor = httpclient.InferInput("DELAY", [1], "FP32")
    tensor.set_data_from_numpy(np.array([seconds], np.float32))
    return [tensor]


client = httpclient.InferenceServerClient(os.environ["TRITON"], concurrency=4)
handles = [client.async_infer("slow", delayed(0.01 * each), request_id=str(each)) for each in range(6)]
for handle in reversed(handles):
    result = handle.get_result()
    print(result.get_response()["id"], result.as_numpy("OUTPUT"))
late = client.async_infer("slow", delayed(0.6))
for options in ({"block": False}, {"timeout": 0.05}, {"block": True, "timeout": 0.05}):
    try:
        late.get_result(**options)
    except InferenceServerException as error:
        print(error, error.status(), error.message(), error.debug_details())
print(late.get_result(timeout=5).as_numpy("OUTPUT"))
wrong = client.async_infer("no_such_model", delayed(0))
try:
    wrong.get_result()
except InferenceServerException as error:
    print(error.status(), error.message(), str(error))
try:
    client.async_infer("slow", delayed(0), parameters={"timeout": 1})
except InferenceServerException as error:
    print(error)


class Greenlet:
    """What InferAsyncRequest asks of a greenlet."""

    def __init__(self, response):
        self.response = response

    def get(self, block=True, timeout=None):
        print("get", block, timeout)
        return self.response


class Canned:
    status_code = 200

    def __init__(self, body):
        self.body = body

    def get(self, name):
        return None

    def read(self, length=-1):
        return self.body if length == -1 else self.body[:length]


body = b'{"model_name":"m","outputs":[{"name":"O","datatype":"INT32","shape":[2],"data":[1,2]}]}'
handle = httpclient.InferAsyncRequest(Greenlet(Canned(body)), False)
print(handle.get_result(timeout=3).as_numpy("O"), handle.get_result(False).get_output("O"))
failed = Canned(b'{"error":"it broke"}')
failed.status_code = 500
try:
    httpclient.InferAsyncRequest(Greenlet(failed), verbose=False).get_result()
except InferenceServerException as error:
    print(error)
client.close()
