"""What is sent: inputs from the model's metadata, from files, or from perf_analyzer's JSON; and calls of them."""

from __future__ import annotations

import base64
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._protocol.signature import Signature, requested, tensors
from ..._wire import dtypes
from .load import Recorder, WrongAnswer

__all__ = ["Inputs", "Payload", "Requests", "Wanted", "make_payloads", "read_input_data"]

Array = npt.NDArray[Any]

_TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", np.uint8)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The options that say what is sent.

    Attributes
    ----------
    data : tuple of str
        ``random``, ``zero``, a folder with a file for each input, or files of perf_analyzer's JSON.
    shapes : mapping of str to tuple of int
        Of inputs, without the batch dimension.
    batch : int
        Rows of a request, if the model has a batch dimension.
    string_length, string : int, str
        Of random BYTES; the text to send instead.
    given : mapping of str to array
        Values of inputs, which come before all others.
    seed : int
    """

    data: tuple[str, ...] = ("random",)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int = 1
    string_length: int = 128
    string: str | None = None
    given: Mapping[str, Array] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Payload:
    """The inputs of one request, and the outputs that are expected; None: any."""

    inputs: dict[str, Array]
    expected: dict[str, Array] | None = None


#: Payloads in order; those of one tuple follow each other in a sequence.
Inputs = tuple[tuple[Payload, ...], ...]


def make_payloads(signature: Signature, wanted: Wanted) -> Inputs:
    """Return the payloads that the options ask for.

    Raises
    ------
    ValueError
        With one line, for a shape that is needed, an unknown input, or a file that does not fit.
    """
    known = {info.name: info for info in signature.inputs}
    for name in [*wanted.shapes, *wanted.given]:
        if known and name not in known:
            raise ValueError(f"model {signature.name!r} has no input {name!r}; it has {', '.join(known)}")
    if signature.max_batch_size and not 1 <= wanted.batch <= signature.max_batch_size:
        raise ValueError(f"--batch: expected 1 to {signature.max_batch_size}, got {wanted.batch}")
    if not signature.max_batch_size and wanted.batch != 1:
        raise ValueError(f"--batch: model {signature.name!r} has no batch dimension")
    files = [name for name in wanted.data if name not in ("random", "zero")]
    if files and not Path(files[0]).is_dir():
        streams: list[tuple[Payload, ...]] = []
        for name in files:
            streams += read_input_data(Path(name), signature, wanted)
        return tuple(streams)
    folder = Path(files[0]) if files else None
    inputs = {}
    generator = np.random.default_rng(wanted.seed)
    for info in signature.inputs:
        if info.name in wanted.given:
            inputs[info.name] = wanted.given[info.name]
        elif folder is not None:
            inputs[info.name] = _from_folder(folder, info, signature, wanted)
        elif not info.optional or info.name in wanted.shapes:
            shape = _shape(info, signature, wanted)
            inputs[info.name] = _made(info.datatype, shape, generator, wanted)
    return ((Payload(inputs),),)


def _shape(info: Any, signature: Signature, wanted: Wanted) -> tuple[int, ...]:
    """Return the shape of an input, with the batch dimension."""
    dims = tuple(info.shape)
    batched = bool(signature.max_batch_size) and dims[:1] == (-1,)
    dims = dims[1:] if batched else dims
    given = wanted.shapes.get(info.name)
    if given is not None:
        if len(given) != len(dims) or any(d not in (-1, g) for d, g in zip(dims, given, strict=True)):
            raise ValueError(f"--shape {info.name}: expected {_words(dims)}, got {_words(given)}")
        dims = given
    elif -1 in dims:
        sizes = ",".join(str(d) if d >= 0 else "1" for d in dims)
        raise ValueError(
            f"input {info.name!r} has the shape {_words(dims)}; say which, such as --shape {info.name}:{sizes}"
        )
    return (wanted.batch, *dims) if batched else dims


def _words(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _made(datatype: str, shape: tuple[int, ...], generator: np.random.Generator, wanted: Wanted) -> Array:
    zero = wanted.data[0] == "zero"
    if datatype == "BYTES":
        count = int(np.prod(shape, dtype=np.int64))
        if wanted.string is not None:
            words = [wanted.string.encode()] * count
        elif zero:
            words = [b""] * count
        else:
            letters = generator.choice(_LETTERS, (count, wanted.string_length))
            words = [row.tobytes() for row in letters]
        array = np.empty(count, np.object_)
        array[:] = words
        return array.reshape(shape)
    dtype = _dtype(datatype)
    if zero:
        return np.zeros(shape, dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return generator.random(shape, np.float32).astype(dtype)


def _dtype(datatype: str) -> np.dtype[Any]:
    found = dtypes.triton_to_np_dtype(datatype)
    if found is None:
        raise ValueError(f"the datatype {datatype!r} cannot be made at random; give the input with --input")
    dtype: np.dtype[Any] = np.dtype(found)
    return dtype


def _from_folder(folder: Path, info: Any, signature: Signature, wanted: Wanted) -> Array:
    path = folder / info.name
    shape = _shape(info, signature, wanted)
    row = shape[1:] if signature.max_batch_size and tuple(info.shape)[:1] == (-1,) else shape
    count = int(np.prod(row, dtype=np.int64))
    if info.datatype == "BYTES":
        words = path.read_bytes().splitlines()
        found = np.array(words, np.object_)
    else:
        raw = path.read_bytes()
        size = _dtype(info.datatype).itemsize
        if len(raw) != count * size:
            raise ValueError(f"{path}: expected {count * size} bytes for {_words(row)}, got {len(raw)}")
        found = np.frombuffer(raw, _dtype(info.datatype))
    if len(found) != count:
        raise ValueError(f"{path}: expected {count} lines for {_words(row)}, got {len(found)}")
    filled: Array = np.broadcast_to(found.reshape(row), shape).copy()
    return filled


def read_input_data(path: Path, signature: Signature, wanted: Wanted) -> list[tuple[Payload, ...]]:
    """Return the streams of a file of perf_analyzer's ``--input-data`` JSON.

    Raises
    ------
    ValueError
        With one line that names the file, and the stream and step.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        data = content["data"]
        if not isinstance(data, list) or not data:
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise ValueError(f'{path}: expected JSON such as {{"data": [{{"INPUT": [1, 2]}}]}}') from None
    expected = content.get("validation_data")
    streams = [each if isinstance(each, list) else [each] for each in data]
    if expected is not None:
        if not isinstance(expected, list) or len(expected) != len(data):
            raise ValueError(f"{path}: expected as many entries of validation_data as of data")
        answers = [each if isinstance(each, list) else [each] for each in expected]
    else:
        answers = [[None] * len(stream) for stream in streams]
    found = []
    for n, (stream, wants) in enumerate(zip(streams, answers, strict=True)):
        if len(stream) != len(wants):
            raise ValueError(f"{path}, stream {n}: expected as many steps of validation_data as of data")
        steps = []
        for k, (step, want) in enumerate(zip(stream, wants, strict=True)):
            where = f"{path}, stream {n}, step {k}"
            inputs = _tensors(step, signature.inputs, signature, wanted, where)
            missing = [
                info.name
                for info in signature.inputs
                if not info.optional and info.name not in {**inputs, **wanted.given}
            ]
            if missing:
                raise ValueError(f"{where}: input {missing[0]!r} is missing")
            outputs = None if want is None else _tensors(want, signature.outputs, signature, wanted, where)
            steps.append(Payload({**inputs, **wanted.given}, outputs))
        found.append(tuple(steps))
    return found


def _tensors(
    step: Any, infos: Sequence[Any], signature: Signature, wanted: Wanted, where: str
) -> dict[str, Array]:
    if not isinstance(step, dict):
        raise ValueError(f"{where}: expected an object of tensors, got {json.dumps(step):.60}")
    known = {info.name: info for info in infos}
    found = {}
    for name, value in step.items():
        if name not in known:
            raise ValueError(
                f"{where}: model {signature.name!r} has no tensor {name!r}; it has {', '.join(known)}"
            )
        found[name] = _tensor(value, known[name], signature, wanted, f"{where}, {name}")
    return found


def _tensor(value: Any, info: Any, signature: Signature, wanted: Wanted, where: str) -> Array:
    dims = tuple(info.shape)
    batched = bool(signature.max_batch_size) and dims[:1] == (-1,)
    row = dims[1:] if batched else dims
    content = value
    shape = wanted.shapes.get(info.name, row)
    if isinstance(value, dict) and "content" in value:
        content = value["content"]
        shape = tuple(value.get("shape", shape))
    try:
        if isinstance(content, dict) and "b64" in content:
            raw = base64.b64decode(content["b64"], validate=True)
            if info.datatype == "BYTES":
                flat: Array = np.array([raw], np.object_)
            else:
                flat = np.frombuffer(raw, _dtype(info.datatype))
        elif info.datatype == "BYTES":
            items = [content] if isinstance(content, str) else content
            flat = np.array([str(item).encode() for item in items], np.object_)
        else:
            dtype = _dtype(info.datatype)
            flat = np.array(content).astype(dtype, casting="unsafe").reshape(-1)
            if dtype.kind in "iu" and not np.array_equal(flat, np.array(content).reshape(-1)):
                raise ValueError
        free = [n for n, size in enumerate(shape) if size < 0]
        if len(free) == 1:  # one size follows from the others
            known = int(np.prod([size for size in shape if size >= 0], dtype=np.int64))
            shape = tuple(len(flat) // max(known, 1) if size < 0 else size for size in shape)
        made = flat.reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{where}: expected {info.datatype} of shape {_words(shape)}, row by row") from None
    return np.repeat(made[None], wanted.batch, axis=0) if batched else made


# -- calls --


@dataclass
class Requests:
    """Turns payloads into calls. Inputs are encoded once; a call is a plain function without arguments.

    Attributes
    ----------
    model, version : str
    payloads : Inputs
    sequence_length, sequence_variation : int, float
        Requests of a sequence, and by which share its length varies; 0: no sequences.
    first_sequence, last_sequence : int
        Their ids; a last one of 0: without bound.
    streaming : bool
        Ask by generate_stream.
    binary_inputs, binary_outputs : bool
        The form of tensors; JSON if not.
    options : mapping
        More arguments of each call.
    """

    model: str
    payloads: Inputs
    version: str = ""
    sequence_length: int = 0
    sequence_variation: float = 0.2
    first_sequence: int = 1
    last_sequence: int = 0
    streaming: bool = False
    binary_inputs: bool = True
    binary_outputs: bool = True
    outputs: tuple[str, ...] = ()
    parts: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flat(self) -> list[Payload]:
        """All payloads, in the order of their numbers."""
        return [payload for stream in self.payloads for payload in stream]

    def calls(self, client: Any, recorder: Recorder, worker: int) -> Iterator[Callable[[], object]]:
        """Return the endless calls of one worker."""
        if self.sequence_length:
            return self._sequences(client, recorder, worker)
        made = [
            self._streamed(client, recorder, payload) if self.streaming else self._plain(client, payload)
            for payload in self.flat
        ]
        return self._noted(made, recorder, worker) if len(made) > 1 else itertools.repeat(made[0])

    def awaited(self, client: Any, recorder: Recorder, worker: int) -> Iterator[Callable[[], Any]]:
        """Return the endless calls of one worker of the asyncio client."""
        if self.sequence_length:
            return self._sequences(client, recorder, worker, awaited=True)
        made = [
            self._streamed_awaited(client, recorder, payload)
            if self.streaming
            else self._plain(client, payload, awaited=True)
            for payload in self.flat
        ]
        return self._noted(made, recorder, worker) if len(made) > 1 else itertools.repeat(made[0])

    def _noted(
        self, made: Sequence[Callable[[], object]], recorder: Recorder, worker: int
    ) -> Iterator[Callable[[], object]]:
        number = worker % len(made)
        while True:
            recorder.payloads.append(number)
            yield made[number]
            number = (number + 1) % len(made)

    def _plain(self, client: Any, payload: Payload, awaited: bool = False, **more: Any) -> Callable[[], Any]:
        inputs = tensors(payload.inputs, self.binary_inputs)
        outputs = None
        if self.outputs or not self.binary_outputs:
            outputs = requested(dict.fromkeys(self.outputs, 0), self.binary_outputs) or None
        options = {"model_version": self.version, "outputs": outputs, **self.options, **more}
        options = {name: value for name, value in options.items() if value}
        call = partial(client.infer, self.model, inputs, **options)
        if payload.expected is None:
            return call
        expected = payload.expected

        def checked() -> None:
            check(call(), expected)

        async def checked_awaited() -> None:
            check(await call(), expected)

        return checked_awaited if awaited else checked

    def _stream_arguments(self, payload: Payload) -> tuple[Any, dict[str, Any]]:
        options = {"model_version": self.version, **self.options}
        return as_json(payload.inputs), {name: value for name, value in options.items() if value}

    def _streamed(self, client: Any, recorder: Recorder, payload: Payload) -> Callable[[], object]:
        from time import perf_counter_ns as clock

        inputs, options = self._stream_arguments(payload)

        def call() -> None:
            count = 0
            try:
                with client.generate_stream(self.model, inputs, **options) as answers:
                    for _ in answers:
                        recorder.times.append(clock())
                        count += 1
            finally:
                recorder.answers.append(count)

        return call

    def _streamed_awaited(self, client: Any, recorder: Recorder, payload: Payload) -> Callable[[], Any]:
        from time import perf_counter_ns as clock

        inputs, options = self._stream_arguments(payload)

        async def call() -> None:
            times = []
            try:
                async with client.generate_stream(self.model, inputs, **options) as answers:
                    async for _ in answers:
                        times.append(clock())
            finally:
                recorder.times.extend(times)
                recorder.answers.append(len(times))

        return call

    def _sequences(
        self, client: Any, recorder: Recorder, worker: int, awaited: bool = False
    ) -> Iterator[Callable[[], Any]]:
        """Yield the calls of one sequence after another. Each worker has ids of its own."""
        stream = worker
        generator = random.Random(worker)
        identity = self.first_sequence + worker
        step = self.parts
        while True:
            payloads = self.payloads[stream % len(self.payloads)]
            offset = sum(len(each) for each in self.payloads[: stream % len(self.payloads)])
            stream += 1
            length = self._length(payloads, generator)
            for n in range(length):
                recorder.sequences.append(identity)
                recorder.payloads.append(offset + n % len(payloads))
                payload, last = payloads[n % len(payloads)], n == length - 1
                call = partial(self._plain, client, payload, awaited, sequence_id=identity, sequence_end=True)
                recorder.finish = None if last else lambda call=call: call()()
                yield self._plain(
                    client, payload, awaited, sequence_id=identity, sequence_start=n == 0, sequence_end=last
                )
            identity += step
            if self.last_sequence and identity >= self.last_sequence:
                identity = self.first_sequence + worker

    def _length(self, payloads: Sequence[Payload], generator: random.Random) -> int:
        if len(payloads) > 1:
            return len(payloads)
        spread = self.sequence_length * self.sequence_variation
        return max(1, round(generator.uniform(self.sequence_length - spread, self.sequence_length + spread)))


def as_json(inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return inputs as generate takes them: a number or text, or a list of them."""
    found = {}
    for name, array in inputs.items():
        values = [
            value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for value in array.ravel().tolist()
        ]
        found[name] = values[0] if len(values) == 1 else values
    return found


def check(result: Any, expected: Mapping[str, Array]) -> None:
    """Compare an answer with what is expected.

    Raises
    ------
    WrongAnswer
        If an output is missing or differs: numbers with a fraction by more than 1e-5 of their size, others at all.
    """
    for name, want in expected.items():
        got = result.as_numpy(name)
        if got is None:
            raise WrongAnswer(f"output {name!r} is missing")
        if got.shape != want.shape:
            raise WrongAnswer(
                f"output {name!r} has the shape {_words(got.shape)}, expected {_words(want.shape)}"
            )
        if want.dtype.kind == "f":
            same = bool(np.allclose(got, want, equal_nan=True, **_TOLERANCE))
        else:
            same = bool(np.array_equal(got, want))
        if not same:
            raise WrongAnswer(f"output {name!r} differs from what is expected")
