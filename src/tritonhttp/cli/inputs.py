"""Values of a model's inputs from the command line: JSON text, files, images, standard input, random numbers.

``NAME=VALUE`` is text; ``NAME=@FILE`` and ``NAME=@-`` are the content of a file and of standard input; ``@FILE``
alone is an .npz file with arrays by the inputs' names. What a content is follows from the file's suffix, or its
first bytes, and from the input's datatype. The model's own check comes later, in the library.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import TensorInfo, triton_to_np_dtype
from .common import Failure
from .images import Pixels, is_image, pixels

if TYPE_CHECKING:
    from .. import Signature

__all__ = ["Reader", "random_array", "shapes_of"]

Array = npt.NDArray[Any]
_NPY, _NPZ = b"\x93NUMPY", b"PK\x03\x04"
_RAW = {".bin", ".raw", ".dat"}
_TEXT = {".txt", ".text"}


@dataclass(frozen=True)
class Reader:
    """Reads the inputs of a call.

    Attributes
    ----------
    signature : Signature
        What the model takes.
    shapes : mapping
        The shapes that the caller gave, by input; see :func:`shapes_of`.
    pixels : Pixels
        How images become tensors.
    """

    signature: Signature
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pixels: Pixels = field(default_factory=Pixels)

    def read(self, given: Iterable[str]) -> dict[str, Any]:
        """Return the inputs' values by name; repeated values of an input are rows of a batch."""
        found: dict[str, list[Any]] = {}
        for each in given:
            if each.startswith("@"):
                for name, array in _npz(_content(each[1:]), each[1:]).items():
                    found.setdefault(name, []).append(self._fitted(self._info(name), array))
                continue
            name, equals, value = each.partition("=")
            if not (name and equals):
                raise Failure(f"--input: expected NAME=VALUE, NAME=@FILE or @FILE.npz, got {each!r:.200}")
            found.setdefault(name, []).append(self.value(name, value))
        return {
            name: values[0] if len(values) == 1 else self._rows(name, values)
            for name, values in found.items()
        }

    def random(self, given: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        """Return random values for the required inputs that are not given."""
        generator = np.random.default_rng(seed)
        found = {}
        for info in self.signature.inputs:
            if info.name in given or (info.optional and info.name not in self.shapes):
                continue
            shape = self._shape(info)
            try:
                found[info.name] = random_array(info, shape, generator)
            except (MemoryError, ValueError) as error:
                raise Failure(f"input {info.name!r} of shape {list(shape)} is too large: {error}") from error
        return found

    def _info(self, name: str) -> TensorInfo:
        known = {info.name: info for info in self.signature.inputs}
        if name in known:
            return known[name]
        if known:
            takes = ", ".join(map(str, known.values()))
            raise Failure(f"model {self.signature.name!r} has no input {name!r}; expected {takes}")
        return TensorInfo(name, "", ())  # a server that does not say what the model takes

    def value(self, name: str, text: str) -> Any:
        """Return the value of one input."""
        info = self._info(name)
        if not text.startswith("@"):
            return self._fitted(info, _from_text(info, text))
        content, suffix = _content(text[1:]), Path(text[1:]).suffix.lower()
        return self._fitted(info, self._from_content(info, content, suffix, text[1:]))

    def _from_content(self, info: TensorInfo, content: bytes, suffix: str, source: str) -> Any:
        if content.startswith(_NPY):
            return _npy(content, source)
        if content.startswith(_NPZ) and suffix in (".npz", ""):
            return _only(_npz(content, source), info.name, source)
        if info.datatype == "BYTES":
            # An image stays as it is: the model decodes it.
            if suffix in _RAW or is_image(content) or (suffix and suffix not in {*_TEXT, ".json"}):
                return content
            try:
                text = content.decode()
            except UnicodeDecodeError:
                return content
            text = text.removesuffix("\n").removesuffix("\r")
            return (
                text if suffix in _TEXT else _from_text(info, text, strict=suffix == ".json", source=source)
            )
        if is_image(content):
            return pixels(content, source, info, self._batched(info), self.pixels)
        if suffix in _RAW:
            return self._raw(info, content, source)
        try:
            return _from_text(info, content.decode(), source=source)
        except UnicodeDecodeError:
            return self._raw(info, content, source)

    def _raw(self, info: TensorInfo, content: bytes, source: str) -> Array:
        dtype = _dtype(info)
        count, rest = divmod(len(content), dtype.itemsize)
        if rest:
            raise Failure(
                f"{source}: {len(content)} bytes are no whole number of {info.datatype}"
                f" ({dtype.itemsize} bytes each) for input {info.name!r}"
            )
        shape = self._shape(info, count)
        if math.prod(shape) != count:
            raise Failure(
                f"{source}: {count} numbers of {info.datatype} are no {info};"
                f" --shape {info.name}:… gives the dimensions that the model leaves open"
            )
        return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)

    def _batched(self, info: TensorInfo) -> bool:
        return bool(self.signature.max_batch_size) and info.shape[:1] == (-1,)

    def _shape(self, info: TensorInfo, count: int | None = None) -> tuple[int, ...]:
        """Return a full shape: the caller's, or the model's with 1 for open dimensions, of `count` elements."""
        shape = self.shapes.get(info.name)
        if shape is not None:
            if self._batched(info) and len(shape) == len(info.shape) - 1:
                return (1, *shape)
            return shape
        open_ones = [n for n, length in enumerate(info.shape) if length < 0]
        found = [max(length, 1) if length < 0 else length for length in info.shape]
        if count is not None and open_ones:
            # The batch is the last to grow: one open dimension beside it takes what there is.
            known = math.prod(length for length in info.shape if length >= 0)
            takes = [n for n in open_ones if n or not self._batched(info)]
            if len(takes) <= 1 and known and count % known == 0:
                found[(takes or open_ones)[0]] = count // known
        return tuple(found)

    def _fitted(self, info: TensorInfo, value: Any) -> Any:
        """Return a value in the caller's shape, and with a batch dimension where a single row has none."""
        shape = self.shapes.get(info.name)
        if shape is None and not self._batched(info):
            return value
        array = _as_array(value)
        if shape is not None:
            shape = self._shape(info)
            if array.size != math.prod(shape):
                raise Failure(f"--shape {info.name}: {array.size} elements are no {list(shape)}")
            array = array.reshape(shape)
        elif array.ndim and array.ndim == len(info.shape) - 1:
            array = array[np.newaxis]
        else:
            return value
        # Numbers of JSON have no dtype of their own: the library gives them the input's, if the values fit.
        return array if isinstance(value, np.ndarray) or array.dtype.kind == "O" else array.tolist()

    def _rows(self, name: str, values: Sequence[Any]) -> Array:
        info = self._info(name)
        if not self._batched(info):
            raise Failure(
                f"--input {name} is given {len(values)} times, but the model takes no batches of it"
            )
        arrays = [_as_array(value) for value in values]
        arrays = [array.reshape((1,) * len(info.shape)) if array.ndim == 0 else array for array in arrays]
        if len({array.shape[1:] for array in arrays}) > 1:
            raise Failure(
                f"--input {name}: rows of different shapes: {[list(array.shape) for array in arrays]}"
            )
        return np.concatenate(arrays)


def _as_array(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise Failure(f"no array can be made of {value!r:.80}: {error}") from error
    return np.array(value, dtype=object) if array.dtype.kind in "SU" else array


def _dtype(info: TensorInfo) -> np.dtype[Any]:
    kind: Any = triton_to_np_dtype(info.datatype)
    if kind is None or info.datatype == "BYTES":
        raise Failure(
            f"input {info.name!r}: raw numbers need a datatype, and the server says {info.datatype or 'none'}"
        )
    found: np.dtype[Any] = np.dtype(kind)
    return found


def _from_text(info: TensorInfo, text: str, strict: bool = False, source: str = "") -> Any:
    """Return the value of JSON text; for BYTES, other text is itself."""
    where = source or f"--input {info.name}"
    if info.datatype == "BYTES" and not strict and not text.lstrip().startswith(("[", '"')):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if info.datatype in ("BYTES", "") and not strict:
            return text
        advice = "" if source else f"; {info.name}=@FILE takes a file"
        raise Failure(f"{where}: expected JSON of {info}, got {text!r:.60}: {error}{advice}") from error
    if isinstance(value, dict) or value is None:
        raise Failure(f"{where}: expected a number, text or a list of them, got {text!r:.60}")
    return value


def _content(path: str) -> bytes:
    if path == "-":
        if sys.stdin.closed or sys.stdin.isatty():
            raise Failure("@- reads standard input, which is a terminal: pipe something into it")
        content = sys.stdin.buffer.read()
        if not content:
            raise Failure("@-: standard input is empty; it can be read once only")
        return content
    if not path:
        raise Failure("expected a file's name after @, or - for standard input")
    return Path(path).read_bytes()


def _npy(content: bytes, source: str) -> Array:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Failure(f"{source}: no usable .npy file: {error}") from error
    return _numbers_or_text(array)


def _npz(content: bytes, source: str) -> dict[str, Array]:
    import zipfile

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: _numbers_or_text(arrays[name]) for name in arrays.files}
    except (ValueError, EOFError, OSError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise Failure(f"{source}: no usable .npz file: {error}") from error


def _numbers_or_text(array: Array) -> Array:
    """Return a file's array; its text, of a fixed length, as objects."""
    return array.astype(object) if array.dtype.kind in "SU" else array


def _only(arrays: Mapping[str, Array], name: str, source: str) -> Array:
    if name in arrays:
        return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise Failure(f"{source} has no array {name!r}; there are {', '.join(map(repr, arrays))}")


def shapes_of(given: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of ``NAME:3,224,224``, by input."""
    found = {}
    for each in given:
        name, colon, lengths = each.rpartition(":")
        try:
            shape = tuple(int(length) for length in lengths.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not (name and colon and shape) or min(shape) < 0:
            raise Failure(f"--shape: expected NAME:3,224,224, got {each!r}")
        found[name] = shape
    return found


def random_array(
    info: TensorInfo, shape: Sequence[int], generator: np.random.Generator, length: int = 16
) -> Array:
    """Return random values: floats from 0 to 1, integers from 0 to 99, text of `length` letters."""
    if info.datatype == "BYTES":
        letters = generator.integers(ord("a"), ord("z") + 1, (math.prod(shape), length), dtype=np.uint8)
        texts = np.empty(math.prod(shape), dtype=object)
        texts[:] = [row.tobytes() for row in letters]
        return texts.reshape(tuple(shape))
    dtype = _dtype(info)
    if dtype.kind in "iu":
        return generator.integers(0, 100, shape, dtype=dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    return generator.random(shape).astype(dtype)
