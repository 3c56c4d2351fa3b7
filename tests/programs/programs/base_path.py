"""A base path before the server's own, query parameters, and URLs of several forms."""

import os

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

peer = os.environ["PEER"]
for path in ("/echo", "/echo/", "/echo/deeper/path", ""):
    with httpclient.InferenceServerClient(peer + path) as client:
        try:
            print(path, client.get_server_metadata())
            print(
                path,
                client.get_model_metadata("a b", "1", query_params={"x": 1, "y": ["a", "b&c"], "z z": "ü"}),
            )
        except InferenceServerException as error:
            print(path, error)
with httpclient.InferenceServerClient(os.environ["GATEWAY"]) as client:
    tensor = httpclient.InferInput("INPUT0", [2], "INT32").set_data_from_numpy(np.array([4, 5], np.int32))
    print(
        client.is_server_live(),
        client.infer("identity_int32", [tensor], query_params={"a": "b"}).as_numpy("OUTPUT0"),
    )
