"""Serve the interop tests' models with MLServer: ``python serve_mlserver.py FOLDER HTTP_PORT GRPC_PORT``.

It runs in MLServer's own environment, writes its model repository into the folder, and ends when its standard
input does, which is when whoever started it is gone.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from mlserver import MLModel, MLServer, types
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.repository import ModelRepository
from mlserver.settings import Settings

DATATYPES = [each.value for each in types.Datatype]


class Identity(MLModel):
    """Give back what came; a BYTES tensor as the strings that it came as."""

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        given = payload.inputs[0]
        if given.datatype != self.inputs[0].datatype:
            raise InferenceError(f"expected {self.inputs[0].datatype}, got {given.datatype}")
        if given.datatype == "BYTES":
            data, shape = list(given.data.root), given.shape
            output = types.ResponseOutput(name="OUTPUT0", shape=shape, datatype="BYTES", data=data)
        else:
            output = NumpyCodec.encode_output("OUTPUT0", NumpyCodec.decode_input(given))
        return types.InferenceResponse(model_name=self.name, outputs=[output])


class AddSub(MLModel):
    """Add and subtract two tensors."""

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        arrays = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        if set(arrays) != {"INPUT0", "INPUT1"}:
            raise InferenceError(f"expected inputs INPUT0 and INPUT1, got {sorted(arrays)}")
        if any(array.shape[1:] != (16,) for array in arrays.values()):
            raise InferenceError(f"expected shape [-1,16], got {[list(a.shape) for a in arrays.values()]}")
        first, second = arrays["INPUT0"], arrays["INPUT1"]
        results = {"OUTPUT0": first + second, "OUTPUT1": first - second}
        wanted = [each.name for each in payload.outputs or ()] or list(results)
        return types.InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, results[name]) for name in wanted],
        )


class Fail(MLModel):
    """Fail with MESSAGE; the request parameter ``code`` says how, as on the packaged model for Triton."""

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        code = getattr(payload.parameters, "code", "INTERNAL")
        raise MLServerError(payload.inputs[0].data.root[0], {"UNAVAILABLE": 503, "INTERNAL": 500}[code])


class Count(MLModel):
    """Answer once per value of IN; the request parameter ``fail_at`` says behind how many answers to fail."""

    async def predict_stream(
        self, payloads: AsyncIterator[types.InferenceRequest]
    ) -> AsyncIterator[types.InferenceResponse]:
        async for payload in payloads:
            for index, value in enumerate(NumpyCodec.decode_input(payload.inputs[0]).ravel()):
                if index == getattr(payload.parameters, "fail_at", None):
                    raise InferenceError(f"failed at {index}, as asked")
                yield types.InferenceResponse(
                    model_name=self.name,
                    parameters=types.Parameters(index=index),
                    outputs=[NumpyCodec.encode_output("OUT", np.array([value], np.int32))],
                )
                await asyncio.sleep(0.05)


def write(folder: Path, name: str, runtime: type, inputs: list, outputs: list) -> None:
    def tensors(names: list) -> list:
        return [{"name": each, "datatype": datatype, "shape": shape} for each, datatype, shape in names]

    place = folder / name
    place.mkdir()
    settings = {
        "name": name,
        "implementation": f"{Path(__file__).stem}.{runtime.__name__}",
        "platform": "interop",
        "versions": ["1"],
        "parameters": {"version": "1"} if runtime is AddSub else None,  # a model need not have one
        "inputs": tensors(inputs),
        "outputs": tensors(outputs),
    }
    place.joinpath("model-settings.json").write_text(json.dumps(settings))


async def main(folder: Path, http_port: int, grpc_port: int) -> None:
    for datatype in DATATYPES:
        one = ("INPUT0", datatype, [-1]), ("OUTPUT0", datatype, [-1])
        write(folder, f"identity_{datatype.lower()}", Identity, [one[0]], [one[1]])
    pair = [[(f"{way}{number}", "INT32", [-1, 16]) for number in (0, 1)] for way in ("INPUT", "OUTPUT")]
    write(folder, "add_sub", AddSub, *pair)
    write(folder, "count", Count, [("IN", "INT32", [-1])], [("OUT", "INT32", [1])])
    write(folder, "fail", Fail, [("MESSAGE", "BYTES", [1])], [("OUTPUT", "BYTES", [1])])
    settings = Settings(
        host="127.0.0.1",
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_endpoint=None,
        parallel_workers=0,
        model_repository_root=str(folder),
        debug=False,
    )
    server = MLServer(settings)
    repository: ModelRepository = server._model_repository
    await server.start(await repository.list())


def end_with_the_owner() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_owner, daemon=True).start()
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
