"""Every field of an inference changes its request, or is declared not to; all that infer take every option."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import InferenceServerClient, InferInput, InferRequestedOutput
from tritonhttp._calls.safety import may_run_twice
from tritonhttp._clients.given import CallOptions
from tritonhttp._protocol.inference import UNSENT, Inference, body_of
from tritonhttp.as_tritonclient.infer_input import InferInput as ReferenceInput

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


#: Values that Python takes for equal, and the server does not.
ALIKE: list[dict[str, Any]] = [
    {},
    *({"a": value} for value in (1, 1.0, True, "1", 2)),
    {"b": 1},
    {"a": 1, "b": 1},
]


@pytest.mark.parametrize("where", ["input", "output", "placed input", "text", "json"])
def test_the_parameters_of_a_tensor_change_the_request_every_time(where: str) -> None:
    def inference(given: dict[str, Any]) -> Inference:
        tensor, output = InferInput.from_numpy("x", ARRAY), InferRequestedOutput("y")
        if where == "text":
            tensor = InferInput.from_numpy("x", ["a"])
        elif where == "json":
            tensor = InferInput.from_numpy("x", ARRAY, binary_data=False)
        elif where == "placed input":
            tensor.set_shared_memory("r", 12)
        (output if where == "output" else tensor).set_parameters(given)
        return Inference("m", [tensor], outputs=[output])

    with InferenceServerClient("host:1") as client:

        def request(given: dict[str, Any]) -> bytes:
            return b"".join(client._encoder.encode(inference(given), None, None).buffers)

        alone = [b"".join(body_of(inference(given))[0]) for given in ALIKE]
        assert len(set(alone)) == len(ALIKE)
        for _ in range(2):  # the second time from what is remembered
            assert [request(given).partition(b"\r\n\r\n")[2] for given in ALIKE] == alone


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


class Own(ReferenceInput):
    """Makes its JSON object itself."""

    def _get_tensor(self) -> dict[str, Any]:
        return {**super()._get_tensor(), "own": True}


def test_data_in_the_json_are_those_of_the_call_whatever_was_sent_before() -> None:
    texts = np.array(["%b", "\0", "%", "ö"], object)
    names = ["a", "%b", "%%d", "\0", '"data":', "ö"]
    with InferenceServerClient("host:1") as client:
        for kind, mixed, outputs in itertools.product(
            (InferInput, ReferenceInput, Own),
            (False, True),
            (None, [InferRequestedOutput("%s", binary_data=False)]),
        ):
            tensors = [kind.from_numpy(name, ARRAY, binary_data=False) for name in names]
            tensors.append(kind.from_numpy("text", texts, binary_data=False))
            if mixed:
                tensors[1:1] = [InferInput.from_numpy("%b", ARRAY), InferInput("r", [1], "INT8")]
                tensors[2].set_shared_memory("%b", 1)
            for step in range(4):
                tensors[0].set_data_from_numpy(ARRAY * 10**step, binary_data=False)
                if step == 2:
                    tensors[-1].set_shape([2, 2])
                    tensors[-1].set_data_from_numpy(texts.reshape(2, 2), binary_data=False)
                elif step == 3:
                    tensors[3].set_shape([4])  # other than its data
                inference = Inference("m", tensors, outputs=outputs, request_id="%b")
                body, _ = body_of(inference)
                message = client._encoder.encode(inference, {"a": "%b"}, None)
                assert b"".join(message.buffers).partition(b"\r\n\r\n")[2] == b"".join(body)
                size = client._encoder.describe(inference)[1]
                assert size == len(b"".join(body))
