"""Health, metadata, configuration and statistics, with versions and with models that are not there."""

import os

import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

try:
    client = httpclient.InferenceServerClient(url=os.environ["TRITON"])
except Exception as error:
    print("context creation failed: " + str(error))
    raise SystemExit(1)
print(
    client.is_server_live(),
    client.is_server_ready(),
    client.is_server_live(headers={"x": "y"}, query_params={"a": 1}),
)
for name in ("add_sub", "nothing", "a b"):
    print(
        name,
        client.is_model_ready(name),
        client.is_model_ready(model_name=name, model_version="1"),
        client.is_model_ready(name, "9"),
    )
metadata = client.get_server_metadata()
print(type(metadata), sorted(metadata), metadata["name"], metadata["extensions"])
print(client.get_model_metadata("add_sub"), client.get_model_metadata("add_sub", model_version="1"))
config = client.get_model_config("add_sub")
print(type(config), config["name"], config["max_batch_size"], [each["name"] for each in config["input"]])
one = client.get_inference_statistics("summary")
print([sorted(each) for each in one["model_stats"]], one["model_stats"][0]["name"])
print(
    len(client.get_inference_statistics()["model_stats"]) > 5,
    client.get_inference_statistics("summary", "1")["model_stats"][0]["version"],
)
for wrong in (
    lambda: client.get_model_metadata("nothing"),
    lambda: client.get_model_metadata("add_sub", "9"),
    lambda: client.get_model_config("nothing", "1"),
    lambda: client.get_inference_statistics("nothing"),
    lambda: client.get_system_shared_memory_status("nothing"),
    lambda: client.get_cuda_shared_memory_status("nothing"),
):
    try:
        print(wrong())
    except InferenceServerException as error:
        print(error.status(), "|", error.message(), "|", error)
print(
    client.get_cuda_shared_memory_status(),
    client.unregister_cuda_shared_memory(),
    client.unregister_cuda_shared_memory("x"),
)
