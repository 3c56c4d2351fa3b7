"""What a server can do, found out by asking it: the rows of the table in ``docs/servers.md``.

Each probe is given a client of a server and returns the table's cell: ``yes``, or ``no`` with the status of the
refusal, or words of its own. Its docstring is the row's title.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import tritonhttp
from tritonhttp import InferRequestedOutput, ServerError

from ..clients import tensor, wait_until
from .cases import ERRORS, VALUES, as_json, both

Probe = Callable[[Any], str]


def _attempt(call: Callable[[], Any]) -> str:
    try:
        return "no" if call() is False else "yes"
    except ServerError as error:
        return f"no ({error.status()})"
    except tritonhttp.DeadlineExceeded:
        return "no answer"


def _echo(client: Any, datatype: str, values: Any, *, sent: bool, got: bool) -> Any:
    """Return what comes back, None where the server refuses; `sent` and `got` say whether as binary."""
    outputs = [InferRequestedOutput("OUTPUT0", binary_data=got)]
    try:
        inputs = [tensor("INPUT0", values, binary_data=sent)]
        return client.infer(f"identity_{datatype.lower()}", inputs, outputs=outputs)
    except (ServerError, tritonhttp.InvalidRequest):
        return None


def _texts(array: Any) -> list[Any]:
    return [each.encode() if isinstance(each, str) else each for each in array.ravel().tolist()]


def _datatypes(client: Any, values: dict[str, Any], *, sent: bool, got: bool) -> str:
    missing = []
    for datatype, given in values.items():
        result = _echo(client, datatype, given, sent=sent, got=got)
        array = None if result is None else result.as_numpy("OUTPUT0")
        right = array is not None and _texts(array) == _texts(given)
        as_asked = array is not None and ("data" not in result.get_output("OUTPUT0")) is got
        if not (right and as_asked):
            missing.append(datatype)
    if len(missing) == len(values):
        return "none"
    return f"all but {', '.join(missing)}" if missing else "all"


def _sum(client: Any, **options: Any) -> Any:
    array = np.zeros((8, 16), np.int32)
    return client.infer(
        "add_sub", both(array, binary_data=False), **{"outputs": as_json("OUTPUT0"), **options}
    )


def _numbers(client: Any, *, sent: bool, got: bool) -> str:
    given = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    result = _echo(client, "FP32", given, sent=sent, got=got)
    if result is None:
        return "refused"
    array = result.as_numpy("OUTPUT0").ravel()
    return "yes" if np.array_equal(array, given, equal_nan=True) else f"as {array[:3].tolist()}"


def server_health(client: Any) -> str:
    """`is_server_live`, `is_server_ready`"""
    return _attempt(lambda: client.is_server_live() and client.is_server_ready())


def model_readiness(client: Any) -> str:
    """`is_model_ready`; False for an unknown model"""
    return _attempt(lambda: client.is_model_ready("add_sub") and not client.is_model_ready("no_such_model"))


def versions(client: Any) -> str:
    """a version in `model_version`"""
    return _attempt(lambda: _sum(client, model_version="1"))


def server_metadata(client: Any) -> str:
    """`get_server_metadata`"""
    return _attempt(client.get_server_metadata)


def model_metadata(client: Any) -> str:
    """`get_model_metadata`"""
    return _attempt(lambda: client.get_model_metadata("add_sub"))


def model_config(client: Any) -> str:
    """`get_model_config`"""
    return _attempt(lambda: client.get_model_config("add_sub"))


def statistics(client: Any) -> str:
    """`get_inference_statistics`"""
    return _attempt(client.get_inference_statistics)


def repository_index(client: Any) -> str:
    """`get_model_repository_index`"""
    return _attempt(client.get_model_repository_index)


def loading(client: Any) -> str:
    """`unload_model`, then `load_model`"""

    def unload_and_load() -> None:
        client.unload_model("identity_uint8")
        try:
            wait_until(lambda: not client.is_model_ready("identity_uint8"))
        finally:
            client.load_model("identity_uint8")

    return _attempt(unload_and_load)


def settings(client: Any) -> str:
    """trace and log settings"""
    return _attempt(lambda: (client.get_trace_settings(deadline=10), client.get_log_settings()))


def shared_memory(client: Any) -> str:
    """shared memory"""
    return _attempt(client.get_system_shared_memory_status)


def binary_listed(client: Any) -> str:
    """`binary_tensor_data` among its extensions"""
    return _attempt(lambda: "binary_tensor_data" in client.get_server_metadata()["extensions"])


def binary(client: Any) -> str:
    """datatypes, binary in and out"""
    return _datatypes(client, VALUES, sent=True, got=True)


def json(client: Any) -> str:
    """datatypes, JSON in and out"""
    return _datatypes(client, VALUES, sent=False, got=False)


def nothing_binary(client: Any) -> str:
    """the same with no elements, binary"""
    return _datatypes(client, {name: given[:0] for name, given in VALUES.items()}, sent=True, got=True)


def nothing_json(client: Any) -> str:
    """the same with no elements, JSON"""
    return _datatypes(client, {name: given[:0] for name, given in VALUES.items()}, sent=False, got=False)


def not_utf8(client: Any) -> str:
    """BYTES that are not UTF-8, binary"""
    given = np.array([b"\xff\xfe"], object)
    result = _echo(client, "BYTES", given, sent=True, got=True)
    return "yes" if result is not None and result.as_numpy("OUTPUT0").tolist() == given.tolist() else "no"


def numbers_binary(client: Any) -> str:
    """NaN, Infinity, -Infinity, binary"""
    return _numbers(client, sent=True, got=True)


def numbers_json(client: Any) -> str:
    """NaN, Infinity, -Infinity, JSON"""
    return _numbers(client, sent=False, got=False)


def requested(client: Any) -> str:
    """only the requested outputs"""
    return _attempt(lambda: len(_sum(client).get_response()["outputs"]) == 1)


def classes(client: Any) -> str:
    """`class_count`"""
    outputs = [InferRequestedOutput("OUTPUT0", binary_data=False, class_count=2)]
    return _attempt(lambda: _sum(client, outputs=outputs).get_output("OUTPUT0")["datatype"] == "BYTES")


def request_id(client: Any) -> str:
    """`request_id` comes back"""
    return _attempt(lambda: _sum(client, request_id="mine").get_response()["id"] == "mine")


def parameters(client: Any) -> str:
    """`parameters` reach the model"""
    message = [tensor("MESSAGE", np.array([b"x"], object), binary_data=False)]
    try:
        client.infer("fail", message, parameters={"code": "UNAVAILABLE"})
    except ServerError as error:
        return "yes" if error.status() == "503" else "no"
    return "no"


def tensor_parameters(client: Any) -> str:
    """parameters of single tensors are accepted"""
    inputs = [each.set_parameters({"content_type": "np"}) for each in both(binary_data=False)]
    return _attempt(lambda: client.infer("add_sub", inputs, outputs=as_json("OUTPUT0")))


def streamed(client: Any) -> str:
    """`infer_stream`"""
    values = [tensor("IN", np.array([5, 6], np.int32), binary_data=False)]
    return _attempt(lambda: len(list(client.infer_stream("count", values))) == 2)


def raw(client: Any) -> str:
    """`infer_raw`"""
    array = VALUES["FP32"]
    return _attempt(lambda: client.infer_raw("identity_fp32", array)["OUTPUT0"].tolist() == array.tolist())


def compressed_request(algorithm: str) -> Probe:
    return lambda client: _attempt(lambda: _sum(client, request_compression_algorithm=algorithm))


def compressed_response(algorithm: str) -> Probe:
    def compressed(client: Any) -> bool:
        # Both outputs: MLServer compresses answers from 500 bytes on.
        outputs = as_json("OUTPUT0", "OUTPUT1")
        result = _sum(client, outputs=outputs, response_compression_algorithm=algorithm)
        return bool(result.headers.get("content-encoding") == algorithm)

    return lambda client: _attempt(lambda: compressed(client))


def error_status(case: str) -> Probe:
    model, inputs, _ = ERRORS[case]

    def probe(client: Any) -> str:
        try:
            client.infer(model, inputs)
        except ServerError as error:
            return "-" if "fail" in model and error.status() == "404" else str(error.status())
        return "none"

    return probe


def rows() -> Iterable[tuple[str, Probe]]:
    """Return the title and the probe of each row."""
    for probe in (
        server_health,
        model_readiness,
        server_metadata,
        model_metadata,
        versions,
        model_config,
        statistics,
        repository_index,
        loading,
        settings,
        shared_memory,
        binary_listed,
        binary,
        json,
        nothing_binary,
        nothing_json,
        not_utf8,
        numbers_binary,
        numbers_json,
        requested,
        classes,
        request_id,
        parameters,
        tensor_parameters,
        raw,
        streamed,
    ):
        yield str(probe.__doc__), probe
    for algorithm in ("gzip", "deflate"):
        yield f"{algorithm}, request", compressed_request(algorithm)
        yield f"{algorithm}, response", compressed_response(algorithm)
    for case in ("unknown model", "malformed JSON", "the model's own"):
        yield f"status of an error: {case}", error_status(case)
