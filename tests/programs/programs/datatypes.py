"""Send every datatype through its identity model, binary and as JSON; zero-size tensors and scalars of BF16 too."""

import os

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import *

TYPES = [
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
]
with httpclient.InferenceServerClient(os.environ["TRITON"]) as client:
    for name in TYPES:
        dtype = triton_to_np_dtype(name)
        array = np.array([0, 1, 1, 0, 1, 0]).astype(dtype)
        print(name, dtype, np_to_triton_dtype(array.dtype), np_to_triton_dtype(dtype))
        for values in (array, array[:0]):
            for binary in (True, False):
                tensor = httpclient.InferInput("INPUT0", values.shape, name)
                try:
                    tensor.set_data_from_numpy(values, binary_data=binary)
                    wanted = [httpclient.InferRequestedOutput("OUTPUT0", binary_data=binary)]
                    result = client.infer(f"identity_{name.lower()}", [tensor], outputs=wanted)
                except InferenceServerException as error:
                    print(name, binary, error.status(), error.message())
                    continue
                out = result.as_numpy("OUTPUT0")
                print(name, binary, out.dtype, out.shape, out.tolist())
for odd in (np.dtype("complex64"), np.dtype("S3"), np.dtype("O"), np.dtype("<f8")):
    print(odd, np_to_triton_dtype(odd))
print([triton_to_np_dtype(odd) for odd in ("BYTES", "STRING", "", "fp32")])
print(TRITON_RESERVED_REQUEST_PARAMS, TRITON_RESERVED_REQUEST_PARAMS_PREFIX)
