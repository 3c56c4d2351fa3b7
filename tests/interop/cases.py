"""What the servers are sent: values of every datatype, sums, and requests that are errors."""

from __future__ import annotations

import numpy as np

import tritonhttp
from tritonhttp import InferInput, InferRequestedOutput

from ..clients import tensor

#: Every datatype with values of it.
VALUES = {
    "BOOL": np.array([True, False, True]),
    "UINT8": np.array([0, 1, 2**8 - 1], np.uint8),
    "UINT16": np.array([0, 1, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 1, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 1, 2**64 - 1], np.uint64),
    "INT8": np.array([-(2**7), 0, 2**7 - 1], np.int8),
    "INT16": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 0, 2**63 - 1], np.int64),
    "FP16": np.array([-1.5, 0, 65504], np.float16),
    "BF16": np.array([-1.5, 0, 3.0], tritonhttp.triton_to_np_dtype("BF16")),
    "FP32": np.array([-1.5, 1e-38, 3.4e38], np.float32),
    "FP64": np.array([-1.5, 1e-300, 1.7e308], np.float64),
    "BYTES": np.array([b"plain", "grüße".encode(), b""], object),
}

SIXTEEN = np.arange(16, dtype=np.int32).reshape(1, 16)


def both(array: np.ndarray = SIXTEEN, **options: bool) -> list[InferInput]:
    """Return the inputs of add_sub."""
    return [tensor("INPUT0", array, **options), tensor("INPUT1", array, **options)]


def as_json(*names: str) -> list[InferRequestedOutput]:
    """Ask for outputs as JSON."""
    return [InferRequestedOutput(name, binary_data=False) for name in names]


def raw(name: str, shape: list[int], datatype: str, json: bytes) -> InferInput:
    """Return an input with this text as its JSON data, be it right or wrong."""
    given = InferInput(name, shape, datatype)
    given._json = json
    return given


#: Model, inputs, and what the error's message must match.
ERRORS = {
    "unknown model": ("no_such_model", both(binary_data=False), r"no_such_model"),
    "wrong shape": ("add_sub", both(SIXTEEN[:, :8], binary_data=False), r"shape"),
    "wrong datatype": (
        "identity_int32",
        [tensor("INPUT0", VALUES["FP32"], binary_data=False)],
        r"FP32.*INT32|INT32.*FP32",
    ),
    "missing input": ("add_sub", both(binary_data=False)[:1], r"INPUT1"),
    "unknown input": ("add_sub", [*both(binary_data=False), tensor("X", SIXTEEN, binary_data=False)], r"X"),
    "malformed JSON": ("add_sub", [raw("INPUT0", [1, 16], "INT32", b"[1,")], r"(?i)pars|JSON"),
    "the model's own": (
        "fail",
        [tensor("MESSAGE", np.array(["out of order: ä"], object), binary_data=False)],
        r"out of order: ä$",
    ),
}
