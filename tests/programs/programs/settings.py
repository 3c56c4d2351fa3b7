"""Trace and log settings: read, change, clear, refuse."""

import os

import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

with httpclient.InferenceServerClient(os.environ["TRITON"]) as client:
    trace = client.get_trace_settings()
    print(type(trace), sorted(trace))
    print(
        client.update_trace_settings(settings={"trace_rate": "7", "trace_level": ["TIMESTAMPS"]})[
            "trace_rate"
        ]
    )
    print(client.update_trace_settings(model_name="add_sub", settings={"trace_count": 5})["trace_count"])
    print(
        client.get_trace_settings(model_name="add_sub")["trace_count"],
        client.get_trace_settings("")["trace_rate"],
    )
    print(client.update_trace_settings("add_sub", {"trace_count": None})["trace_count"])
    print(client.update_trace_settings(settings={"trace_rate": None, "trace_level": None})["trace_rate"])
    log = client.get_log_settings()
    print(sorted(log))
    print(client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"])
    print(
        client.update_log_settings({"log_verbose_level": log["log_verbose_level"], "log_format": "ISO8601"})
    )
    client.update_log_settings({"log_format": log["log_format"]})
    for wrong in (
        lambda: client.update_trace_settings(settings={"trace_rate": "x"}),
        lambda: client.update_trace_settings("nothing", {"trace_rate": "1"}),
        lambda: client.get_trace_settings("nothing"),
        lambda: client.update_log_settings({"nothing": 1}),
    ):
        try:
            print(wrong())
        except InferenceServerException as error:
            print(error.status(), error.message())
