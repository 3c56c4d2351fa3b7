"""Compression both ways, also of answers that the program takes apart itself."""

import gzip
import os
import urllib.request
import zlib

import numpy as np
import tritonclient.http as httpclient

array = np.arange(5000, dtype=np.float32)
tensor = httpclient.InferInput("INPUT0", array.shape, "FP32").set_data_from_numpy(array)
url = os.environ["TRITON"]
with httpclient.InferenceServerClient(url) as client:
    for request in (None, "gzip", "deflate"):
        for response in (None, "gzip", "deflate"):
            result = client.infer(
                "identity_fp32",
                [tensor],
                request_compression_algorithm=request,
                response_compression_algorithm=response,
            )
            handle = client.async_infer(
                "identity_fp32",
                [tensor],
                request_compression_algorithm=request,
                response_compression_algorithm=response,
            )
            print(
                request,
                response,
                (result.as_numpy("OUTPUT0") == array).all(),
                handle.get_result().as_numpy("OUTPUT0")[-1],
            )

body, json_size = httpclient.InferenceServerClient.generate_request_body(
    [tensor],
    outputs=[
        httpclient.InferRequestedOutput("OUTPUT0"),
        httpclient.InferRequestedOutput("OUTPUT0", False, 3),
    ][:1],
    request_id="by hand",
    sequence_id=5,
    sequence_start=True,
    priority=1,
    timeout=1000000,
    parameters={"own": "x"},
)
print(type(body), json_size, body[:json_size])
both = [httpclient.InferRequestedOutput("A"), httpclient.InferRequestedOutput("B", False, 3)]
two = httpclient.InferInput("X", [2], "BYTES").set_data_from_numpy(
    np.array(["a", "b"], object), binary_data=False
)
print(httpclient.InferenceServerClient.generate_request_body([two], outputs=both))
plain, json_size = httpclient.InferenceServerClient.generate_request_body([tensor])
for coding, compress in ((None, bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)):
    headers = {"Inference-Header-Content-Length": str(json_size)}
    if coding:
        headers.update({"Content-Encoding": coding, "Accept-Encoding": coding})
    request = urllib.request.Request(f"http://{url}/v2/models/identity_fp32/infer", compress(plain), headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        answer = response.read()
        length = response.headers.get("Inference-Header-Content-Length")
        encoding = response.headers.get("Content-Encoding")
    result = httpclient.InferenceServerClient.parse_response_body(
        answer, header_length=None if length is None else int(length), content_encoding=encoding
    )
    print(coding, encoding, result.as_numpy("OUTPUT0")[:3], result.get_response()["outputs"])
