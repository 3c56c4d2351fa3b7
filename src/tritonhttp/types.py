"""The types of the server's replies, for type checkers; at run time they are plain dicts and lists.

They describe what Triton sends; other servers may omit more. A key that is not in every reply belongs to a class
with ``total=False``: read it with ``get``. To get a ``dict[str, Any]`` from a reply, use ``dict(reply)``.
"""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = [
    "BatchStatistics",
    "CudaRegionStatus",
    "Duration",
    "InferenceStatistics",
    "LogSettings",
    "ModelConfig",
    "ModelConfigInput",
    "ModelConfigOutput",
    "ModelIndexEntry",
    "ModelMetadata",
    "ModelStatistics",
    "ServerMetadata",
    "Statistics",
    "SystemRegionStatus",
    "TensorMetadata",
    "TraceSettings",
]


class ServerMetadata(TypedDict):
    """The server's name and version, and the protocol extensions that it supports."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(TypedDict):
    """An input or output of a model; -1 in its shape means any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """A model's versions, platform, inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelConfigInput(TypedDict):
    """An input in a model's configuration; its dims exclude the batch dimension."""

    name: str
    data_type: str
    format: str
    dims: list[int]
    is_shape_tensor: bool
    allow_ragged_batch: bool
    optional: bool
    is_non_linear_format_io: bool


class ModelConfigOutput(TypedDict):
    """An output in a model's configuration; its dims exclude the batch dimension."""

    name: str
    data_type: str
    dims: list[int]
    label_filename: str
    is_shape_tensor: bool
    is_non_linear_format_io: bool


class _EveryModelConfig(TypedDict):
    name: str
    platform: str
    backend: str
    runtime: str
    version_policy: dict[str, Any]
    max_batch_size: int
    input: list[ModelConfigInput]
    output: list[ModelConfigOutput]
    batch_input: list[dict[str, Any]]
    batch_output: list[dict[str, Any]]
    instance_group: list[dict[str, Any]]
    default_model_filename: str
    cc_model_filenames: dict[str, str]
    metric_tags: dict[str, str]
    parameters: dict[str, Any]
    model_warmup: list[dict[str, Any]]


class ModelConfig(_EveryModelConfig, total=False):
    """A model's configuration, as defined by ``model_config.proto``."""

    optimization: dict[str, Any]
    dynamic_batching: dict[str, Any]
    sequence_batching: dict[str, Any]
    ensemble_scheduling: dict[str, Any]
    model_operations: dict[str, Any]
    model_repository_agents: dict[str, Any]
    model_transaction_policy: dict[str, Any]
    response_cache: dict[str, Any]
    model_metrics: dict[str, Any]


class Duration(TypedDict):
    """How often something happened, and how many nanoseconds it took in total."""

    count: int
    ns: int


class InferenceStatistics(TypedDict):
    """Durations of a model's inferences, by part."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(TypedDict):
    """Durations of the batches of one size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(TypedDict):
    """Statistics of one version of a model; `last_inference` is in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    response_stats: dict[str, Any]
    batch_stats: list[BatchStatistics]
    memory_usage: list[dict[str, Any]]


class Statistics(TypedDict):
    """Statistics of all requested models."""

    model_stats: list[ModelStatistics]


class _EveryIndexEntry(TypedDict):
    name: str


class ModelIndexEntry(_EveryIndexEntry, total=False):
    """A version of a model in the repository; a model that was never loaded has only a name."""

    version: str
    state: str
    reason: str


class TraceSettings(TypedDict):
    """Trace settings of a model, or the global ones; numbers are strings."""

    trace_level: list[str]
    trace_rate: str
    trace_count: str
    log_frequency: str
    trace_file: str
    trace_mode: str


class LogSettings(TypedDict):
    """The server's log settings."""

    log_file: str
    log_info: bool
    log_warning: bool
    log_error: bool
    log_verbose_level: int
    log_format: str


class SystemRegionStatus(TypedDict):
    """A registered region of system shared memory; sizes are in bytes."""

    name: str
    key: str
    offset: int
    byte_size: int


class CudaRegionStatus(TypedDict):
    """A registered region of CUDA shared memory; its size is in bytes."""

    name: str
    device_id: int
    byte_size: int
