"""Inputs, outputs, results and errors survive pickling and copying."""

import copy
import os
import pickle

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

array = np.arange(6, dtype=np.float32).reshape(2, 3)
tensor = httpclient.InferInput("INPUT0", array.shape, "FP32").set_data_from_numpy(array)
text = httpclient.InferInput("INPUT0", [2], "BYTES").set_data_from_numpy(np.array(["a", "b"], object), False)
output = httpclient.InferRequestedOutput("OUTPUT0", binary_data=False)
with httpclient.InferenceServerClient(os.environ["TRITON"]) as client:
    for again in (pickle.loads(pickle.dumps((tensor, text, output))), copy.deepcopy((tensor, text, output))):
        print(again[0].name(), again[0].shape(), again[0].datatype(), again[1]._get_tensor(), again[2].name())
        result = client.infer("identity_fp32", [again[0]], outputs=[again[2]])
        print(
            pickle.loads(pickle.dumps(result)).as_numpy("OUTPUT0"),
            copy.deepcopy(result).get_response()["outputs"],
        )
        print(client.infer("identity_bytes", [again[1]]).as_numpy("OUTPUT0"))
error = InferenceServerException("words")
print(
    tensor._get_tensor(),
    tensor._get_binary_data() == array.tobytes() == tensor._raw_data,
    output._get_tensor(),
)
print(
    text._get_tensor(), text._get_binary_data(), text._raw_data, text._data, tensor._data, tensor._parameters
)
