"""Any tensor comes back from the real Triton bit for bit: every dtype, shapes of rank 1 to 6, every memory layout.

Triton's models have no tensors without dimensions.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...clients import tensor, wait_until
from ...fuzz.arrays import DATATYPES, arrays, same

MODEL = b"""
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(list(map(self.same, each.inputs()))) for each in requests]

    def same(self, tensor):
        name = tensor.name().replace("IN", "OUT", 1)
        if "BYTES" in name:
            return pb_utils.Tensor(name, tensor.as_numpy())
        return pb_utils.Tensor.from_dlpack(name, tensor)
"""
RANKS = range(1, 7)
NAME = "round_trips"


def described(prefix, **more):
    return [
        {
            "name": f"{prefix}_{datatype}_{rank}",
            "data_type": f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}",
            "dims": [-1] * rank,
            **more,
        }
        for datatype in DATATYPES
        for rank in RANKS
    ]


@pytest.fixture
def model(client):
    config = {
        "backend": "python",
        "max_batch_size": 0,
        "input": described("IN", optional=True),
        "output": described("OUT"),
    }
    client.load_model(NAME, config=json.dumps(config), files={"file:1/model.py": MODEL})
    yield NAME
    client.unload_model(NAME)
    wait_until(client.is_server_ready, 60)  # not while a model is being unloaded


def test_any_tensors_through_the_server(client, model):
    @settings(deadline=None, max_examples=60, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(DATATYPES), min_size=1, max_size=4, unique=True), st.data())
    def any_tensors(datatypes, data):
        sent = {datatype: data.draw(arrays(datatype, RANKS[0], RANKS[-1])) for datatype in datatypes}
        inputs = [tensor(f"IN_{datatype}_{array.ndim}", array) for datatype, array in sent.items()]
        result = client.infer(model, inputs)
        assert len(result) == len(sent)
        for datatype, array in sent.items():
            same(result.as_numpy(f"OUT_{datatype}_{array.ndim}"), array)

    any_tensors()
