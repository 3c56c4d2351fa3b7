"""Every field of an inference changes its request, or is declared not to; all that infer take every option."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import InferenceServerClient, InferInput, InferRequestedOutput
from tritonhttp._calls.safety import may_run_twice
from tritonhttp._clients.model_base import CallOptions
from tritonhttp._protocol.inference import UNSENT, Inference

FIELDS = [each.name for each in fields(Inference) if each.init]
#: What the client adds.
OWN = {"binary", "verbose", "renew"}
ARRAY = np.arange(3, dtype=np.float32)

#: Another value of each field than that of the plain inference below.
OTHER: dict[str, Any] = {
    "model_name": "n",
    "inputs": [InferInput.from_numpy("y", ARRAY)],
    "model_version": "2",
    "outputs": [InferRequestedOutput("z")],
    "request_id": "id",
    "sequence_id": 7,
    "sequence_start": True,
    "sequence_end": True,
    "priority": 1,
    "timeout": 5,
    "request_compression_algorithm": "gzip",
    "response_compression_algorithm": "gzip",
    "parameters": {"a": 1},
    "idempotent": True,
    "binary": False,
    "verbose": True,
    "renew": lambda outcome: iter(()),
}


def plain(**options: Any) -> Inference:
    return Inference("m", [InferInput.from_numpy("x", ARRAY)], **options)


def request(inference: Inference) -> bytes:
    with InferenceServerClient("host:1") as client:
        return b"".join(client._encoder.encode(inference.sendable(), None, None).buffers)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_changes_the_request_or_is_declared_not_to(name: str) -> None:
    # The flags of a sequence mean nothing without one.
    before = plain(sequence_id=1) if name in ("sequence_start", "sequence_end") else plain()
    changed = request(replace(before, **{name: OTHER[name]})) != request(before)
    assert changed == (name not in UNSENT)


def test_nothing_is_declared_that_is_no_field() -> None:
    assert {each.name for each in fields(Inference)} >= UNSENT


def test_fields_that_are_not_sent_have_their_effect() -> None:
    assert may_run_twice(plain(idempotent=True))
    assert not may_run_twice(plain())


@pytest.mark.parametrize(
    "method",
    [
        tritonhttp.InferenceServerClient.infer,
        tritonhttp.InferenceServerClient.async_infer,
        tritonhttp.aio.InferenceServerClient.infer,
    ],
)
def test_infer_takes_every_option(method: Any) -> None:
    taken = [name for name in inspect.signature(method).parameters if name in FIELDS]
    assert taken == [name for name in FIELDS if name not in OWN]


def test_models_take_every_option() -> None:
    named = {"model_name", "model_version", "inputs", "sequence_id", "sequence_start", "sequence_end"}
    assert set(CallOptions.__annotations__) >= set(FIELDS) - OWN - named


@pytest.mark.parametrize("kind", [tritonhttp.InferenceServerClient, tritonhttp.aio.InferenceServerClient])
def test_infer_hands_every_option_on(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    for name in ("_carry_out", "_branch"):
        monkeypatch.setattr(kind, name, lambda client, inference, *_: seen.append(inference))
    client = kind("host:1")
    for name in FIELDS:
        if name not in OWN:
            call = client.infer(**{"model_name": "m", "inputs": [], name: OTHER[name], "deadline": None})
            if inspect.iscoroutine(call):
                with pytest.raises(TypeError):  # the stand-in is not awaited
                    call.send(None)
            assert getattr(seen.pop(), name) is OTHER[name]
