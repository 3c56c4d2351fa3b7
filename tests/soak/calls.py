"""What the soak asks, and whether an answer is that of its own request. No I/O.

Each inference carries a tag, a number that no other has. Its data are a part of one table of random bytes, which
the tag chooses. The answer has to have the tag, these data bit for bit, and the request's id.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

import tritonhttp
from tritonhttp import InferInput, InferRequestedOutput

#: The sizes of tensors in bytes: 0, and log-uniform up to the largest; beyond the second number larger ones are
#: thinned in proportion to their size, so that each doubling brings the same number of bytes.
LARGEST, PLENTY = 64 << 20, 64 << 10
_NUMPY: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"UINT{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BYTES": np.object_,
}
DATATYPES = list(_NUMPY)
#: JSON has no FP16 and BF16, and not all floats; Triton reads text as UTF-8.
_IN_JSON = [name for name in DATATYPES if "INT" in name or name == "BOOL"]
_MOST_IN_JSON = 4096
#: How far the parts of the table lie apart at the most.
_SHIFT = 8 << 20

_table: dict[str, Any] = {}


def prepare(largest: int = LARGEST) -> None:
    """Make the table."""
    values = np.random.default_rng(7).integers(0, 256, largest + _SHIFT, np.uint8)
    _table.update(values=values, truths=(values & 1).view(np.bool_), text=values.tobytes())


def draw_size(chance: random.Random, largest: int = LARGEST) -> int:
    """Return a tensor's size in bytes."""
    while True:
        size = math.exp(chance.random() * math.log(largest + 1)) - 1
        if size <= PLENTY or chance.random() < PLENTY / size:
            break
    if chance.random() < 0.5:  # forms that come again: answers that are expected, outputs of known size
        return 1 << int(size).bit_length() >> 1
    return int(size)


def part(datatype: str, size: int, tag: int) -> Any:
    """Return the array of a tag, of about so many bytes."""
    start = tag * 4099 * 8 % _SHIFT
    if datatype == "BYTES":
        count = min(256, size // 8)
        each = size // count - 4 if count else 0
        text = _table["text"]
        pieces = [text[start + index : start + index + max(0, each - index % 3)] for index in range(count)]
        array = np.empty(count, np.object_)
        array[:] = pieces
        return array
    if datatype == "BOOL":
        return _table["truths"][start : start + size]
    kind = np.dtype(_NUMPY[datatype])
    whole = size // kind.itemsize * kind.itemsize
    return _table["values"][start : start + whole].view(kind)


def differs(found: Any, expected: Any) -> str:
    """Say how an array differs from the one that was sent; "" if it does not."""
    if found is None:
        return "no such output"
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype}{found.shape}, sent {expected.dtype}{expected.shape}"
    if expected.dtype == np.object_:
        equal = found.tolist() == expected.tolist()
    else:
        equal = np.array_equal(
            np.ascontiguousarray(found).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8)
        )
    return "" if equal else "other data"


@dataclass
class Inference:
    """One inference.

    Attributes
    ----------
    tag : int
        Its own number.
    array : numpy.ndarray
        What it sends.
    model : str
        "tagged", or "visitor", which is loaded and unloaded all the time.
    options : dict
        The options of `infer`.
    size : int
        Bytes that it keeps in flight.
    """

    tag: int
    datatype: str
    array: Any
    model: str
    size: int
    binary: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def idempotent(self) -> bool:
        """Whether it may run twice."""
        return self.options.get("idempotent") is True

    def inputs(self) -> list[InferInput]:
        """Return the inputs of `infer`."""
        tag = InferInput("TAG", [1], "INT64").set_data_from_numpy(np.array([self.tag]), self.binary)
        data = InferInput(self.datatype, list(self.array.shape), self.datatype)
        return [tag, data.set_data_from_numpy(self.array, self.binary)]

    def by_name(self) -> dict[str, Any]:
        """Return the inputs of a model as a function."""
        return {"TAG": np.array([self.tag]), self.datatype: self.array}

    def as_model(self) -> dict[str, Any]:
        """Return the options of a model as a function; from now on they are the only ones."""
        self.options = {"idempotent": self.options["idempotent"]}
        return {**self.options, "outputs": ["TAG_OUT", f"{self.datatype}_OUT"]}

    def problem(self, result: tritonhttp.InferResult) -> str:
        """Say what is wrong with the answer; "" if nothing is."""
        response = result.get_response()
        wanted = self.options.get("request_id", "")
        if wanted and response.get("id") != wanted:
            return f"id {response.get('id')!r}, sent {wanted!r}"
        tag = result.as_numpy("TAG_OUT")
        if tag is None or tag.tolist() != [self.tag]:
            return f"tag {None if tag is None else tag.tolist()}, sent {self.tag}"
        return differs(result.as_numpy(f"{self.datatype}_OUT"), self.array)

    def __str__(self) -> str:
        return f"{self.model} {self.datatype} {self.array.nbytes} B tag {self.tag} {self.options}"


class Planner:
    """Draws the inferences of one worker; tags are unique as long as the numbers of workers are.

    Parameters
    ----------
    number : int
        The worker's.
    """

    def __init__(self, number: int, seed: int, largest: int = LARGEST) -> None:
        self.chance = random.Random(f"{seed} {number}")
        self._largest = largest
        self._next = number << 40

    def tag(self) -> int:
        """Return a new tag."""
        self._next += 1
        return self._next

    def inference(self, *, largest: int | None = None) -> Inference:
        """Draw an inference."""
        chance, tag = self.chance, self.tag()
        size = draw_size(chance, min(self._largest, largest or self._largest))
        binary = size > _MOST_IN_JSON or chance.random() < 0.9
        datatype = chance.choice(DATATYPES if binary else _IN_JSON)
        options: dict[str, Any] = {"idempotent": chance.choice((None, False, True, True))}
        if chance.random() < 0.3:
            options["request_id"] = f"id {tag}"
        if chance.random() < 0.2:
            options["headers"] = {"x-tag": str(tag)}
        if chance.random() < 0.1:
            options["query_params"] = {"tag": tag}
        if chance.random() < 0.1:
            options["deadline"] = chance.choice((0.002, 0.02, 0.2, 2.0))
        if chance.random() < 0.05 and size < 1 << 20:
            options["request_compression_algorithm"] = chance.choice(("gzip", "deflate"))
        if chance.random() < 0.05 and size < 1 << 20:
            options["response_compression_algorithm"] = chance.choice(("gzip", "deflate"))
        if not binary or chance.random() < 0.5:
            names = ("TAG_OUT", f"{datatype}_OUT")
            options["outputs"] = [InferRequestedOutput(name, binary_data=binary) for name in names]
        model = "tagged" if chance.random() < 0.95 else "visitor"
        array = part(datatype, size, tag)
        return Inference(tag, datatype, array, model, 2 * size + 1024, binary, options)
