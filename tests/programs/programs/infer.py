"""Infer with binary data, with and without requested outputs, and show everything that a result gives."""

import os
import sys

import numpy as np
import tritonclient.http as httpclient

client = httpclient.InferenceServerClient(url=os.environ["TRITON"], verbose=False, concurrency=2)
first = np.arange(16, dtype=np.int32).reshape(1, 16)
second = np.ones((1, 16), dtype=np.int32)
inputs = [
    httpclient.InferInput("INPUT0", first.shape, "INT32"),
    httpclient.InferInput("INPUT1", [1, 16], "INT32"),
]
inputs[0].set_data_from_numpy(first)
inputs[1].set_data_from_numpy(second, binary_data=False)
first[:] = -1  # the data were copied
print(inputs[0].name(), inputs[0].shape(), inputs[0].datatype(), inputs[1].shape())
outputs = [
    httpclient.InferRequestedOutput("OUTPUT0", binary_data=True),
    httpclient.InferRequestedOutput("OUTPUT1", binary_data=False),
]
result = client.infer("add_sub", inputs, outputs=outputs, request_id="42", model_version="1")
print(result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1"), result.as_numpy("NOTHING"))
print(result.get_output("OUTPUT0"), result.get_output("NOTHING"))
print(result.get_response())
print(type(result.get_response()), result._result == result.get_response())

everything = client.infer("add_sub", inputs)
for name in ("OUTPUT0", "OUTPUT1"):
    array = everything.as_numpy(name)
    print(name, array.dtype, array.shape, array.tolist())
again = client.infer(model_name="add_sub", inputs=tuple(inputs), outputs=[], timeout=None, priority=0)
print(sorted(each["name"] for each in again.get_response()["outputs"]))
print(
    client.infer("add_sub", inputs, parameters={"text": "a", "number": 3, "yes": True})
    .as_numpy("OUTPUT0")
    .sum()
)

sizes = httpclient.InferInput("INPUT0", [4], "FP32")
print(sizes.set_shape([2]) is sizes, sizes.shape())
print(sizes.set_data_from_numpy(np.array([0.5, 1.5], np.float32)) is sizes)
print(client.infer("identity_fp32", [sizes]).as_numpy("OUTPUT0"))
client.close()
sys.exit(3)
