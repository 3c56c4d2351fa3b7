"""Health, metadata, configuration, statistics, trace and log settings."""

import numpy as np
import pytest

import tritonhttp

from ...clients import tensor, wait_until


def test_a_running_server_is_live_and_ready(client):
    assert client.is_server_live() is True
    wait_until(client.is_server_ready, 60)  # an earlier test's model may still be unloading
    assert client.is_server_ready() is True


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("add_sub", "", True), ("add_sub", "1", True), ("add_sub", "2", False), ("no_such_model", "", False)],
)
def test_model_readiness_follows_name_and_version(client, name, version, ready):
    assert client.is_model_ready(name, version) is ready
    assert client.is_model_ready(model_name=name, model_version=version) is ready


def test_server_metadata_names_the_server_and_its_extensions(client):
    metadata = client.get_server_metadata()
    assert metadata["name"] == "triton"
    assert {"binary_tensor_data", "classification", "sequence"} <= set(metadata["extensions"])
    assert metadata["version"][0].isdigit()


@pytest.mark.parametrize("version", ["", "1"])
def test_model_metadata_describes_inputs_and_outputs(client, version):
    metadata = client.get_model_metadata("add_sub", version)
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [
        {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]},
        {"name": "INPUT1", "datatype": "INT32", "shape": [-1, 16]},
    ]
    assert [output["name"] for output in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]


@pytest.mark.parametrize("version", ["", "1"])
def test_model_config_is_the_repositorys(client, version):
    config = client.get_model_config("batched", version)
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["priority_levels"] == 3


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config"])
@pytest.mark.parametrize(("name", "version"), [("no_such_model", ""), ("add_sub", "7")])
def test_an_unknown_model_or_version_is_the_servers_404(client, method, name, version):
    with pytest.raises(tritonhttp.ServerError) as caught:
        getattr(client, method)(name, version)
    assert caught.value.status() == "404"
    assert caught.value.message().startswith("Request for unknown model")
    assert name in caught.value.message()
    assert '{"error":' in caught.value.debug_details()
    assert str(caught.value) == f"[404] {caught.value.message()}"


def test_a_version_that_is_no_text_is_refused(client):
    with pytest.raises(tritonhttp.InvalidRequest, match="model version must be a string"):
        client.get_model_metadata("add_sub", 1.5)
    assert client.get_model_metadata("add_sub", 1)["versions"] == ["1"]


def test_repository_index_lists_every_model_as_ready(client):
    index = {model["name"]: model for model in client.get_model_repository_index()}
    assert index["identity_bf16"]["state"] == "READY"
    assert index["digits_ensemble"]["version"] == "1"


def test_metrics_count_an_inference(client, triton_server):
    port = int(triton_server.metrics_url.rpartition(":")[2].partition("/")[0])

    def successes(**where):
        metrics = client.metrics(**where)
        (sample,) = metrics.find("nv_inference_request_success", model="summary", version="1")
        assert metrics.types[sample.name] == "counter"
        assert metrics.help[sample.name].startswith("Number of successful inference requests")
        assert sample.name in metrics.text
        return sample.value

    before = successes(port=port)
    client.infer("summary", [tensor("VALUES", np.ones(3, np.float32))])
    wait_until(lambda: successes(url=triton_server.metrics_url) == before + 1)


def test_metrics_are_not_where_the_protocol_is(client, triton_server):
    with pytest.raises(tritonhttp.ServerError, match="Not Found") as caught:
        client.metrics(triton_server.url)
    assert caught.value.status() == "404"


def test_statistics_of_one_model_count_an_inference(client):
    def successes():
        (stats,) = client.get_inference_statistics("summary", "1")["model_stats"]
        assert (stats["name"], stats["version"]) == ("summary", "1")
        return stats["inference_stats"]["success"]["count"]

    before = successes()
    client.infer("summary", [tensor("VALUES", np.ones(3, np.float32))])
    # The server counts after it has answered.
    wait_until(lambda: successes() == before + 1)


def test_statistics_without_a_name_are_those_of_all_models(client):
    names = {stats["name"] for stats in client.get_inference_statistics()["model_stats"]}
    assert {"add_sub", "identity_bytes", "slow"} <= names


def test_statistics_of_an_unknown_model_are_refused(client):
    with pytest.raises(tritonhttp.ServerError, match="no_such_model"):
        client.get_inference_statistics("no_such_model")


def test_global_trace_settings_change_and_none_clears_them(client):
    initial = client.get_trace_settings()
    try:
        changed = client.update_trace_settings(settings={"trace_rate": "77", "log_frequency": "3"})
        assert (changed["trace_rate"], changed["log_frequency"]) == ("77", "3")
        assert client.get_trace_settings() == changed
    finally:
        cleared = client.update_trace_settings(settings={"trace_rate": None, "log_frequency": None})
    assert cleared == initial
    assert client.get_trace_settings(None) == client.get_trace_settings("") == initial


def test_trace_settings_of_a_model_leave_the_global_ones(client):
    globally = client.get_trace_settings()
    settings = {"trace_rate": "5"}
    try:
        assert client.update_trace_settings("add_sub", settings)["trace_rate"] == "5"
        assert client.get_trace_settings("add_sub")["trace_rate"] == "5"
        assert client.get_trace_settings(model_name="summary") == globally
        assert client.get_trace_settings() == globally
    finally:
        cleared = client.update_trace_settings(model_name="add_sub", settings={"trace_rate": None})
    assert cleared == globally
    assert settings == {"trace_rate": "5"}


def test_trace_settings_that_the_server_refuses_say_why(client):
    with pytest.raises(tritonhttp.ServerError, match="trace file name is not given") as caught:
        client.update_trace_settings("add_sub", {"trace_level": ["TIMESTAMPS"]})
    assert caught.value.status() == "400"


def test_log_settings_change_and_change_back(client):
    initial = client.get_log_settings()
    assert initial["log_error"] is True
    try:
        changed = client.update_log_settings({"log_format": "ISO8601", "log_verbose_level": 1})
        assert changed == {**initial, "log_format": "ISO8601", "log_verbose_level": 1}
        assert client.get_log_settings() == changed
    finally:
        client.update_log_settings({name: initial[name] for name in ("log_format", "log_verbose_level")})
    assert client.get_log_settings() == initial
