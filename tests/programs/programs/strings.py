"""Strings: object arrays of bytes, str and numbers, S arrays, JSON both ways, and the helpers of utils."""

import os

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import (
    InferenceServerException,
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    serialized_byte_size,
)

ARRAYS = {
    "bytes": np.array([b"one", b"", b"\x00\xff"], dtype=np.object_),
    "str": np.array(["one", "zwölf", "三"], dtype=np.object_),
    "mixed": np.array([1, 2.5, None, b"x", "y", True], dtype=np.object_),
    "S": np.array([b"ab", b"c", b"defg"]),
    "two": np.array([["a", "b"], ["c", "d"]], dtype=object),
    "none": np.array([], dtype=object),
}
with httpclient.InferenceServerClient(os.environ["TRITON"]) as client:
    for name, array in ARRAYS.items():
        for binary in (True, False):
            for binary_out in (True, False):
                tensor = httpclient.InferInput("INPUT0", list(array.shape), "BYTES")
                wanted = httpclient.InferRequestedOutput("OUTPUT0", binary_data=binary_out)
                try:
                    tensor.set_data_from_numpy(array, binary_data=binary)
                    result = client.infer("identity_bytes", [tensor], outputs=[wanted])
                    out = result.as_numpy("OUTPUT0")
                except InferenceServerException as error:
                    print(name, binary, binary_out, error.status(), str(error)[:40])
                    continue
                print(name, binary, binary_out, out.dtype, out.shape, out.tolist())
for name, array in ARRAYS.items():
    serialized = serialize_byte_tensor(array)
    print(name, serialized.dtype, serialized.shape, serialized.tolist())
    if array.size:
        print(deserialize_bytes_tensor(serialized.item()))
print(serialized_byte_size(ARRAYS["bytes"]), serialized_byte_size(ARRAYS["none"]))
for wrong in (lambda: serialized_byte_size(np.zeros(2)), lambda: serialized_byte_size(ARRAYS["S"])):
    try:
        wrong()
    except InferenceServerException as error:
        print(error)
try:
    serialize_byte_tensor(np.zeros(2))
except InferenceServerException as error:
    print(str(error)[:46])
