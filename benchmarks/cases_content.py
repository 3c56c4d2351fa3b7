"""Tensors that must be encoded: JSON numbers, and BYTES, alone and in complete requests."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from contenders import against_all, with_implementation
from harness import OURS, REFERENCE, Block, Bound, Builder, Case, Site, one_by_one
from peers import Task, Tensor

UTILS = {OURS: "tritonhttp.utils", REFERENCE: "tritonclient.utils"}
SHAPES = {"20": "100k × 20 bytes", "10k": "1k × 10 kB", "ragged": "100k ragged, 0 to 40 bytes"}


def floats(number: int) -> list[Tensor]:
    """Make numbers that need all their digits."""
    return [("INPUT0", "FP32", np.random.default_rng(7).random(number, np.float32))]


def byte_strings(kind: str) -> list[Tensor]:
    """Make the elements of one of SHAPES."""
    random = np.random.default_rng(11)
    lengths = {
        "20": lambda: np.full(100_000, 20),
        "10k": lambda: np.full(1_000, 10_000),
        "ragged": lambda: random.integers(0, 41, 100_000),
    }[kind]()
    pool, ends = random.bytes(int(lengths.sum())), np.cumsum(lengths).tolist()
    items = [pool[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
    values = np.empty(len(items), np.object_)
    values[:] = items
    return [("INPUT0", "BYTES", values)]


@contextlib.contextmanager
def encode(utils: str, kind: str, site: Site) -> Iterator[Block]:
    """Serialize a BYTES tensor."""
    function: Callable[[np.ndarray], np.ndarray] = importlib.import_module(utils).serialize_byte_tensor
    [(_, _, values)] = byte_strings(kind)
    yield one_by_one(lambda: function(values))


@contextlib.contextmanager
def decode(utils: str, kind: str, site: Site) -> Iterator[Block]:
    """Deserialize a BYTES tensor that the reference serialized."""
    [(_, _, values)] = byte_strings(kind)
    raw = importlib.import_module("tritonclient.utils").serialize_byte_tensor(values).item()
    function: Callable[[bytes], np.ndarray] = importlib.import_module(utils).deserialize_bytes_tensor
    if not np.array_equal(function(raw), values):
        raise RuntimeError(f"{utils} decoded something else")
    yield one_by_one(lambda: function(raw))


def _both(build: Callable[..., Any], kind: str, implementation: str) -> dict[str, Builder]:
    builders: dict[str, Builder] = {
        name: functools.partial(build, utils, kind) for name, utils in UTILS.items()
    }
    return {**builders, OURS: functools.partial(with_implementation, implementation, builders[OURS])}


BOUNDS = {encode: {"c": 0.08, "python": 0.3}, decode: {"c": 0.15, "python": 0.5}}
WORDS = {"c": "with the extension", "python": "without the extension"}
JSON = Task(model="identity_fp32", make=functools.partial(floats, 100_000), binary=False)

CASES = [
    *(
        Case(
            name=f"json-{server}",
            title=f"100k floats as JSON, both ways, {where}",
            server=server,
            contenders=against_all(JSON),
            bounds=(Bound(metric="cpu", against=REFERENCE, at_most=0.2),),
            least=2,
        )
        for server, where in (("sink", "sink"), ("triton", "Triton"))
    ),
    *(
        Case(
            name=f"bytes-{build.__name__}-{kind}{'' if implementation == 'c' else '-python'}",
            title=f"BYTES {build.__name__}, {title}, {WORDS[implementation]}",
            contenders=_both(build, kind, implementation),
            bounds=()
            if kind == "10k"
            else (Bound(metric="cpu", against=REFERENCE, at_most=BOUNDS[build][implementation]),),
            seconds=0.1,
            blocks=9,  # a block takes tenths of a second, like the machine's slow moments
        )
        for implementation in WORDS
        for kind, title in SHAPES.items()
        for build in (encode, decode)
    ),
    *(
        Case(
            name=f"bytes-infer-{kind}",
            title=f"BYTES infer, {title}, sink",
            server="sink",
            contenders=against_all(Task(model="identity_bytes", make=functools.partial(byte_strings, kind))),
        )
        for kind, title in SHAPES.items()
    ),
]
