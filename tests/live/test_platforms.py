"""What docs/gateways.md says of SageMaker and Vertex AI, by the endpoints that Triton has for both."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import numpy as np
import pytest

from tritonhttp import InferenceServerClient, InferInput

from .conftest import StartServer

#: The service -> its path, and how its content type begins; behind that is the size of the JSON part.
PLATFORMS = {
    "sagemaker": ("/invocations", "application/vnd.sagemaker-triton.binary+json;json-header-size="),
    "vertex-ai": ("/predict", "application/vnd.vertex-ai-triton.binary+json;json-header-size="),
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("binary", [True, False])
def test_the_endpoint_takes_our_body_and_we_read_its_answer(
    platform: str,
    binary: bool,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    triton_client: Any,
) -> None:
    path, kind = PLATFORMS[platform]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME", "digits")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", PLATFORMS["vertex-ai"][0])
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    start_server(
        models=["digits"],
        args=[
            f"--allow-{platform}=true",
            f"--{platform}-port={port}",
            *(["--vertex-ai-default-model=digits", "--allow-http=true"] if platform == "vertex-ai" else []),
        ],
    )
    image = InferInput.from_numpy("IMAGE", np.full((2, 64), 0.5, np.float32), binary_data=binary)
    body, json_size = InferenceServerClient.generate_request_body([image])
    assert (json_size is None) is not binary
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Type": "application/json" if json_size is None else f"{kind}{json_size}"}
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, content
    _, _, size = answer.headers["Content-Type"].partition("json-header-size=")
    assert bool(size) is (platform == "sagemaker")
    size = size or answer.headers["Inference-Header-Content-Length"]
    result = InferenceServerClient.parse_response_body(content, header_length=int(size))
    expected = triton_client.model("digits")(IMAGE=np.full((2, 64), 0.5, np.float32))["SCORES"]
    np.testing.assert_allclose(result.as_numpy("SCORES"), expected, rtol=1e-5)
