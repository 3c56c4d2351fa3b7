"""Loading and unloading models, with a configuration and files in place of the repository's."""

import json

import numpy as np
import pytest

import tritonhttp
from tritonhttp.testing import TritonServer

from ...clients import tensor, wait_until

TIMES = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        values = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", values * {factor})])
"""
IDENTITY = {
    "backend": "python",
    "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
}


def model(factor):
    return {"file:1/model.py": TIMES.replace("{factor}", str(factor)).encode()}


@pytest.fixture
def loaded(client):
    """The name of a model for one test, unloaded afterwards."""
    yield "made_by_a_test"
    client.unload_model("made_by_a_test")


def test_files_and_config_make_a_model_and_loading_again_replaces_it(client, loaded):
    ones = [tensor("INPUT0", np.ones(2, np.float32))]
    for factor in (3, 5):
        # Triton keeps the model that it has while the configuration is the same, whatever the files.
        config = {**IDENTITY, "parameters": {"factor": {"string_value": str(factor)}}}
        assert client.load_model(loaded, config=json.dumps(config), files=model(factor)) is None
        assert client.is_model_ready(loaded)
        assert client.infer(loaded, ones).as_numpy("OUTPUT0").tolist() == [factor, factor]


def test_config_alone_overrides_the_repositorys(client):
    plain = {
        key: value
        for key, value in client.get_model_config("identity_uint8").items()
        if key in ("name", "backend", "default_model_filename", "input", "output")
    }
    try:
        for mark in ("first", "second"):
            config = json.dumps({**plain, "parameters": {"mark": {"string_value": mark}}})
            client.load_model("identity_uint8", config=config)
            parameters = client.get_model_config("identity_uint8")["parameters"]
            assert parameters == {"mark": {"string_value": mark}}
    finally:
        client.unload_model("identity_uint8")
        wait_until(lambda: not client.is_model_ready("identity_uint8"))
        client.load_model("identity_uint8")
    assert not client.get_model_config("identity_uint8").get("parameters")


def test_unloading_takes_a_model_away_and_loading_brings_it_back(client):
    client.unload_model("identity_int8")
    try:
        wait_until(lambda: not client.is_model_ready("identity_int8"))
        states = {entry["name"]: entry.get("state") for entry in client.get_model_repository_index()}
        assert states["identity_int8"] != "READY"
        with pytest.raises(tritonhttp.ServerError, match="identity_int8"):
            client.infer("identity_int8", [tensor("INPUT0", np.zeros(1, np.int8))])
    finally:
        client.load_model("identity_int8")
    assert client.is_model_ready("identity_int8")


def test_unload_dependents_takes_along_what_only_the_model_needed(triton_server, open_client):
    _ = triton_server.running  # skips where the server is not ours: then no other can be started either
    with TritonServer(models=["digits_ensemble"]) as server:
        client = open_client(server.url)
        for dependents in (False, True):
            client.load_model("digits_ensemble")
            assert client.is_model_ready("digits_scale")
            client.unload_model("digits_ensemble", unload_dependents=dependents)
            wait_until(lambda: not client.is_model_ready("digits_ensemble"))
            if dependents:
                wait_until(lambda: not client.is_model_ready("digits_scale"))
            else:
                assert client.is_model_ready("digits_scale")


@pytest.mark.parametrize(
    ("name", "options"), [("no_such_model", {}), ("made_by_a_test", {"config": "{ this is no JSON"})]
)
def test_a_load_that_fails_says_so(client, name, options):
    with pytest.raises(tritonhttp.ServerError, match=f"failed to load '{name}'"):
        client.load_model(name, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"files": {"file:1/model.py": b""}}, "config"),
        ({"config": "{}", "files": {"1/model.py": b""}}, "file:"),
        ({"config": {"backend": "python"}}, "config must be a str"),
    ],
)
def test_overrides_without_their_other_half_are_refused_before_sending(watched, gateway, options, match):
    with pytest.raises(tritonhttp.InvalidRequest, match=match):
        watched.load_model("identity_fp32", **options)
    assert gateway.seen == []


def test_the_index_may_be_of_the_ready_models_alone(client):
    client.unload_model("identity_uint16")
    try:
        wait_until(lambda: not client.is_model_ready("identity_uint16"))
        ready = client.get_model_repository_index(ready=True)
        assert {each["state"] for each in ready} == {"READY"}
        every = {each["name"] for each in client.get_model_repository_index()}
        assert every - {each["name"] for each in ready} == {"identity_uint16"}
    finally:
        client.load_model("identity_uint16")
