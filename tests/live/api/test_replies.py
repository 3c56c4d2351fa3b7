"""The server's replies, compared with the TypedDicts that describe them."""

import types as builtin_types
import typing

import numpy as np
import pytest

from tritonhttp import InferInput, types


def check(value, kind, where="reply"):
    """Compare a value with an annotation, keys and all."""
    origin = typing.get_origin(kind)
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        assert type(value) is dict, where
        assert kind.__required_keys__ <= set(value) <= set(hints), where
        for key, item in value.items():
            check(item, hints[key], f"{where}[{key!r}]")
    elif origin is list:
        assert type(value) is list, where
        for index, item in enumerate(value):
            check(item, typing.get_args(kind)[0], f"{where}[{index}]")
    elif origin is dict:
        assert type(value) is dict, where
    else:
        assert origin in (None, builtin_types.UnionType)
        assert type(value) is kind, where


def replies(client):
    yield client.get_server_metadata(), types.ServerMetadata
    for entry in client.get_model_repository_index():
        yield client.get_model_metadata(entry["name"]), types.ModelMetadata
        yield client.get_model_config(entry["name"]), types.ModelConfig
    yield client.get_inference_statistics(), types.Statistics
    yield client.get_model_repository_index(), list[types.ModelIndexEntry]
    yield client.get_trace_settings(), types.TraceSettings
    yield client.get_trace_settings("add_sub"), types.TraceSettings
    yield client.get_log_settings(), types.LogSettings
    with client.shared_memory(64):
        regions = client.get_system_shared_memory_status()
        assert regions
        yield regions, list[types.SystemRegionStatus]
    yield client.get_cuda_shared_memory_status(), list[types.CudaRegionStatus]


def test_replies_are_what_the_types_say(client):
    client.infer("identity_fp32", [InferInput.from_numpy("INPUT0", np.zeros(1, np.float32))])
    seen = 0
    for reply, kind in replies(client):
        check(reply, kind, str(kind))
        seen += 1
    assert seen > 20


def test_the_comparison_finds_what_is_wrong():
    good = {"name": "s", "version": "1", "extensions": ["a"]}
    check(good, types.ServerMetadata)
    for wrong in ({**good, "more": 1}, {"name": "s"}, {**good, "version": 1}, {**good, "extensions": [1]}):
        with pytest.raises(AssertionError):
            check(wrong, types.ServerMetadata)
