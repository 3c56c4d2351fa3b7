"""Load and unload a model, with a config and with files of its own."""

import json
import os

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

CODE = b"""
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy() * 3)])
            for r in requests
        ]
"""
CONFIG = {
    "backend": "python",
    "max_batch_size": 0,
    "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [-1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_INT32", "dims": [-1]}],
    "instance_group": [{"kind": "KIND_CPU"}],
}
with httpclient.InferenceServerClient(os.environ["TRITON"], network_timeout=60) as client:
    name = "program_tripler"
    print(client.is_model_ready(name))
    print(client.load_model(name, config=json.dumps(CONFIG), files={"file:1/model.py": CODE}))
    print(client.is_model_ready(name), client.is_model_ready(name, "1"), client.is_model_ready(name, "2"))
    tensor = httpclient.InferInput("IN", [3], "INT32").set_data_from_numpy(np.array([1, 2, 3], np.int32))
    print(client.infer(name, [tensor]).as_numpy("OUT"))
    print(client.get_model_metadata(name))
    print(client.unload_model(name, unload_dependents=True))
    config = client.get_model_config("identity_int16")
    config["max_batch_size"] = 0
    config["parameters"] = {"note": {"string_value": "changed"}}
    print(client.load_model("identity_int16", config=json.dumps(config)))
    print(client.get_model_config("identity_int16")["parameters"])
    print(client.load_model("identity_int16"), client.get_model_config("identity_int16").get("parameters"))
    for wrong in (
        lambda: client.load_model("nothing"),
        lambda: client.load_model("identity_int16", config="{"),
        lambda: client.infer("nothing", [tensor]),
        lambda: client.get_model_config("nothing"),
    ):
        try:
            print(wrong())
        except InferenceServerException as error:
            print(error.status(), error.message()[:60])
    print(
        sorted(
            each["name"]
            for each in client.get_model_repository_index()
            if each["name"] in ("add_sub", "slow")
        )
    )
