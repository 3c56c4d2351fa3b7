"""Any tensor of any dtype, shape and layout comes back from its encoding bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tritonhttp import InferenceServerClient, InferInput, InferResult
from tritonhttp._protocol.encoder import Encoder
from tritonhttp._protocol.inference import Inference
from tritonhttp._wire import compression
from tritonhttp._wire.responses import Response, ResponseHead

from ..clients import tensor
from .arrays import arrays, same


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    with InferenceServerClient("127.0.0.1:1") as client:
        yield client._encoder


def answered(
    encoder: Encoder, inputs: list[InferInput], memory: Any = bytes, coding: str = ""
) -> InferResult:
    """Return the result of a server that gives each input back as it came."""
    request = b"".join(map(bytes, encoder.encode(Inference("m", inputs), None, None).buffers))
    head, _, body = request.partition(b"\r\n\r\n")
    size = next(
        (
            int(line[33:])
            for line in head.split(b"\r\n")
            if line.startswith(b"Inference-Header-Content-Length: ")
        ),
        len(body),
    )
    asked = json.loads(body[:size])
    start = json.dumps({"model_name": "m", "outputs": asked["inputs"]}).encode()
    headers = {"inference-header-content-length": str(len(start))} if size < len(body) else {}
    answer = start + body[size:]
    if coding:
        (answer,) = compression.compress([answer], coding)
        headers["content-encoding"] = coding
    return InferResult(Response(ResponseHead(200, headers), memory(answer)), False)


MEMORY = st.sampled_from([bytes, bytearray, lambda data: memoryview(bytearray(data))])


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(arrays(), min_size=1, max_size=6),
    MEMORY,
    st.sampled_from(["", "gzip", "deflate"]),
    st.booleans(),
)
def test_as_binary(encoder: Encoder, sent: list[np.ndarray], memory: Any, coding: str, copy: bool) -> None:
    inputs = [tensor(f"I{number}", array, copy=copy) for number, array in enumerate(sent)]
    for _ in range(2):  # the second time from what is remembered
        result = answered(encoder, inputs, memory, coding)
        for number, array in enumerate(sent):
            same(result.as_numpy(f"I{number}"), array)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_many_alike(encoder: Encoder, data: st.DataObject) -> None:
    first = data.draw(arrays())
    sent = [np.roll(first, number) if first.size else first for number in range(5)]
    result = answered(encoder, [tensor(f"I{number}", array) for number, array in enumerate(sent)])
    for number, array in enumerate(sent):
        same(result.as_numpy(f"I{number}"), np.asarray(array))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(arrays().filter(lambda array: array.dtype.name != "bfloat16" and array.dtype.kind != "O"))
@example(np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32))
def test_as_json(encoder: Encoder, sent: np.ndarray) -> None:
    """JSON has one NaN; all else comes back as it was."""
    result = answered(encoder, [tensor("I", sent, binary_data=False)])
    got = result.as_numpy("I")
    assert got is not None
    np.testing.assert_array_equal(got, sent.astype(sent.dtype.newbyteorder("=")))
    assert got.shape == sent.shape
    assert got.dtype == sent.dtype.newbyteorder("=")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(arrays("BYTES"), st.data())
def test_texts_as_json(encoder: Encoder, shape_of: np.ndarray, data: st.DataObject) -> None:
    sent = np.empty(shape_of.shape, object)
    texts = st.lists(st.text(max_size=5), min_size=sent.size, max_size=sent.size)
    sent.reshape(-1)[:] = data.draw(texts)
    got = answered(encoder, [tensor("I", sent, binary_data=False)]).as_numpy("I")
    assert got is not None
    assert (got.shape, got.ravel().tolist()) == (sent.shape, sent.ravel().tolist())
