"""Helpers for tests of shared memory: checks for leftovers, and a model whose outputs vary in size."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import tritonhttp

from ..clients import tensor, wait_until

PREFIX = "tritonhttp-region-"

#: OUT: COUNT numbers; FIXED: 500 numbers as declared, but 1,000 when told to LIE; JOINED: all of X0 to X19.
#: A request with the parameter "folder" makes a file "begun" there, and is not answered before "end" exists there.
INPUTS = 20
CONFIG = {
    "backend": "python",
    "max_batch_size": 0,
    "input": [
        {"name": "COUNT", "data_type": "TYPE_INT32", "dims": [1]},
        {"name": "DELAY", "data_type": "TYPE_FP32", "dims": [1], "optional": True},
        {"name": "LIE", "data_type": "TYPE_BOOL", "dims": [1], "optional": True},
        *({"name": f"X{n}", "data_type": "TYPE_FP32", "dims": [-1], "optional": True} for n in range(INPUTS)),
    ],
    "output": [
        {"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "FIXED", "data_type": "TYPE_FP32", "dims": [500]},
        {"name": "JOINED", "data_type": "TYPE_FP32", "dims": [-1]},
    ],
}
MODEL = b"""
import json
import pathlib
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        time.sleep(float(given.get("DELAY", [0])[0]))
        self.wait(json.loads(request.parameters() or "{}").get("folder"))
        assert given["COUNT"][0] >= 0
        joined = [given[name] for name in (f"X{n}" for n in range(20)) if name in given]
        outputs = {
            "OUT": np.arange(given["COUNT"][0], dtype=np.float32),
            "FIXED": np.arange(1000 if "LIE" in given and given["LIE"][0] else 500, dtype=np.float32),
            "JOINED": np.concatenate(joined) if joined else np.zeros(0, np.float32),
        }
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, outputs[name]) for name in request.requested_output_names()]
        )

    def wait(self, folder):
        if folder:
            pathlib.Path(folder, "begun").touch()
            deadline = time.monotonic() + 30
            while not pathlib.Path(folder, "end").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
"""


def load_sizes(client: Any, name: str = "sizes", **changes: Any) -> None:
    client.load_model(name, config=json.dumps(CONFIG | changes), files={"file:1/model.py": MODEL})


def sizes_inputs(
    count: int, arrays: Iterable[Any] = (), delay: float | None = None, lie: bool = False
) -> list[tritonhttp.InferInput]:
    inputs = [tensor("COUNT", np.array([count], np.int32))]
    if delay is not None:
        inputs.append(tensor("DELAY", np.array([delay], np.float32)))
    if lie:
        inputs.append(tensor("LIE", np.array([True])))
    return inputs + [tensor(f"X{n}", array) for n, array in enumerate(arrays)]


def files(pid: int | None = None) -> set[str]:
    """Return the memory objects of the process's own regions: others test on the same machine."""
    mark = f"-{pid or os.getpid()}-"
    return {name for name in os.listdir("/dev/shm") if name.startswith(PREFIX) and mark in name}


def registered(url: str, pid: int | None = None) -> set[str]:
    """Return the names of the regions that the server has, all or those of one process."""
    with tritonhttp.InferenceServerClient(url) as client:
        names = {each["name"] for each in client.get_system_shared_memory_status()}
    return {name for name in names if name.startswith(PREFIX) and (pid is None or f"-{pid}-" in name)}


@contextmanager
def nothing_left(url: str) -> Iterator[None]:
    """Fail where the block leaves a memory object, or an entry on the server, that was not there before."""
    before = registered(url), files()
    yield
    # The server ends abandoned requests in its own time.
    wait_until(lambda: registered(url) <= before[0])
    assert files() <= before[1]


def idle(client: Any) -> list[Any]:
    """Return the blocks of the client's pool that nothing uses."""
    gc.collect()
    client._sharing.pool.collect()
    return list(client._sharing.pool._idle)


def placed(result: tritonhttp.InferResult) -> set[str]:
    return set(result._placed)


def runs(client: Any, model: str) -> int:
    """Return how often a model ran; Triton counts a run a moment after its answer has gone out."""
    before, now = -1, 0
    while before != now:
        before = now
        time.sleep(0.1)
        (stats,) = client.get_inference_statistics(model)["model_stats"]
        now = int(stats["execution_count"])
    return now
