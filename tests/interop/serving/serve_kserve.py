"""Serve the interop tests' models with KServe: ``python serve_kserve.py FOLDER HTTP_PORT GRPC_PORT``.

It runs in KServe's own environment and ends when its standard input does, which is when whoever started it is
gone. The folder and the port of gRPC are not used.
"""

import os
import sys
import threading
from typing import Any, NoReturn

import numpy as np
import uvicorn

DATATYPES = [
    "BOOL",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
    *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)),
]
NAMES = ("add_sub", "fail", *(f"identity_{name.lower()}" for name in DATATYPES))
PORT = int(sys.argv[2])
del sys.argv[1:]  # kserve parses them as it is imported

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelRepository, ModelServer  # noqa: E402
from kserve.errors import InferenceError, InvalidInput, ServerNotReady  # noqa: E402
from kserve.utils.numpy_codec import from_np_dtype  # noqa: E402
from kserve.utils.utils import generate_uuid  # noqa: E402


class Served(Model):
    """A model whose tensors are known and whose `run` takes arrays and gives arrays."""

    def __init__(self, name: str, inputs: list, outputs: list) -> None:
        super().__init__(name)
        self._inputs, self._outputs = inputs, outputs
        self.ready = True

    def get_input_types(self) -> list:
        return [
            {"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in self._inputs
        ]

    def get_output_types(self) -> list:
        return [
            {"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in self._outputs
        ]

    def predict(
        self, payload: InferRequest, headers: Any = None, response_headers: Any = None
    ) -> InferResponse:
        expected = {name: datatype for name, datatype, _ in self._inputs}
        given = {each.name: each.datatype for each in payload.inputs}
        if given != expected:
            raise InvalidInput(f"expected inputs {expected}, got {given}")
        arrays = self.run(*(payload.get_input_by_name(name).as_numpy() for name in expected))
        outputs = []
        for (name, _, _), array in zip(self._outputs, arrays, strict=True):
            output = InferOutput(name, list(array.shape), from_np_dtype(array.dtype))
            output.data = array
            outputs.append(output)
        return InferResponse(
            payload.id or generate_uuid(),  # an answer in JSON without an id is an error
            self.name,
            outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


class Identity(Served):
    """Give back what came."""

    def run(self, array: np.ndarray) -> list:
        return [array]


class AddSub(Served):
    """Add and subtract two tensors."""

    def run(self, first: np.ndarray, second: np.ndarray) -> list:
        if first.shape[1:] != (16,) or second.shape != first.shape:
            raise InvalidInput(f"expected shape [-1,16], got {list(first.shape)} and {list(second.shape)}")
        return [first + second, first - second]


class Fail(Served):
    """Fail with MESSAGE; the request parameter ``code`` says how, as on the packaged model for Triton."""

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> NoReturn:
        message = payload.inputs[0].as_numpy()[0]
        if (payload.parameters or {}).get("code") == "UNAVAILABLE":
            raise ServerNotReady(message)
        raise InferenceError(message)


def made(name: str) -> Served:
    """Return the model of that name."""
    if name == "fail":
        return Fail(name, [("MESSAGE", "BYTES", [1])], [("OUTPUT", "BYTES", [1])])
    if name == "add_sub":
        ins, outs = (
            [(f"{way}{number}", "INT32", [-1, 16]) for number in (0, 1)] for way in ("INPUT", "OUTPUT")
        )
        return AddSub(name, ins, outs)
    datatype = name.removeprefix("identity_").upper()
    return Identity(name, [("INPUT0", datatype, [-1])], [("OUTPUT0", datatype, [-1])])


class Repository(ModelRepository):
    """KServe's own can unload, and leaves loading to whoever derives from it."""

    def load(self, name: str) -> bool:
        if name not in NAMES:
            return False
        self.update(made(name))
        return True


class OnLoopback(uvicorn.Config):
    """KServe listens on every interface, and has no setting for it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "host": "127.0.0.1"})


def end_with_the_owner() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_owner, daemon=True).start()
    uvicorn.Config = OnLoopback
    server = ModelServer(http_port=PORT, enable_grpc=False, workers=1, registered_models=Repository())
    server.start([made(name) for name in NAMES])
