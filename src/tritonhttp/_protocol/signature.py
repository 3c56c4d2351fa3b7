"""A model's inputs and outputs, and the check of a call against them before anything is sent. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .._basics.hints import ask, nearest
from .._basics.quantities import integer
from .._wire import dtypes, jsonio
from ..errors import InvalidRequest, ProtocolError
from .arrays import as_array, cast, is_typed, may_be_cast
from .result import InferResult
from .tensors import InferInput, InferRequestedOutput, TensorInfo, datatype_of

__all__ = ["Joined", "Signature", "requested", "rows_of", "split", "tensors"]

T = TypeVar("T")

Arrays = dict[str, npt.NDArray[Any]]

#: Datatypes that Triton finds classes of: it refuses other numbers, and BYTES end the server.
_CLASSED = frozenset(dtypes.NAMES) - {"BOOL", "FP16", "BF16", "BYTES"}


@dataclass(frozen=True)
class Signature:
    """Describe a model, as its server does.

    Attributes
    ----------
    name : str
    inputs, outputs : tuple of TensorInfo
        With the batch dimension, -1, where the model has one. Empty where the server names none: calls are not
        checked then.
    max_batch_size : int
        How many rows a call may have along the first axis; 0: the model has no batch dimension.
    versions : tuple of str
        The versions that the server has.
    platform : str
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int = 0
    versions: tuple[str, ...] = ()
    platform: str = ""

    @classmethod
    def read(cls, metadata: Any, config: Any) -> Signature:
        """Read a model's metadata and configuration; `config` is empty where the server has none.

        Raises
        ------
        ProtocolError
            If these are not the metadata and configuration of a model.
        """
        try:
            optional = {item["name"] for item in config.get("input") or () if item.get("optional")}
            return cls(
                str(metadata["name"]),
                tuple(_info(item, item["name"] in optional) for item in metadata.get("inputs") or ()),
                tuple(map(_info, metadata.get("outputs") or ())),
                int(config.get("max_batch_size") or 0),
                tuple(map(str, metadata.get("versions") or ())),
                str(metadata.get("platform") or ""),
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ProtocolError(
                f"expected metadata of a model, got {metadata!r:.500} and {config!r:.500}"
            ) from error

    def __str__(self) -> str:
        batches = f", batches of at most {self.max_batch_size}" if self.max_batch_size else ""
        inputs, outputs = (", ".join(map(str, each)) or "not said" for each in (self.inputs, self.outputs))
        return f"{inputs} -> {outputs}{batches}"

    @cached_property
    def _known(self) -> dict[str, TensorInfo]:
        """The inputs by name."""
        return {info.name: info for info in self.inputs}

    @cached_property
    def _given(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(info.name for info in self.outputs)

    # -- a call --

    def arrays(
        self,
        given: Mapping[str, Any],
        casts: bool = False,
        parts: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> Arrays:
        """Return a call's inputs as arrays of the model's datatypes and shapes.

        Parameters
        ----------
        given : mapping
            The caller's value for each input; None: an optional input that is left out.
        casts : bool
            Whether to convert arrays of another dtype if values change only by rounding.
        parts : bool
            Whether to accept more rows than one call may have.
        options : mapping of str to str
            The names of the call's options, and others that callers take for one, with what to write: an unknown
            input may be a misspelled one.

        Raises
        ------
        InvalidRequest
            For an unknown or missing input, or another datatype or shape; says what was expected.
        """
        if not self.inputs:
            return {
                name: as_array(value, f"input {name!r}") for name, value in given.items() if value is not None
            }
        known = self._known
        complete = given.keys() == known.keys()
        for value in given.values():
            if value is None:
                complete = False
        if not complete:
            wrong = [
                f"it has no input {name!r}{self._meant(name, options or {})}"
                for name in given
                if name not in known
            ]
            wrong += [
                f"input {info.name!r} is {'None, and not optional' if info.name in given else 'missing'}"
                for info in self.inputs
                if not info.optional and given.get(info.name) is None
            ]
            if wrong:
                raise self._refusal(f"{'; '.join(wrong)}; expected {', '.join(map(str, self.inputs))}")
        found: Arrays = {}
        rows: dict[str, int] = {}
        for name, value in given.items():
            if value is not None:
                info = known[name]
                found[name] = array = self._array(info, value, casts)
                if info.shape[:1] == (-1,):
                    rows[name] = len(array)
        if self.max_batch_size:
            counts = set(rows.values())
            if len(counts) > 1:
                raise self._refusal(f"expected the same number of rows in every input, got {rows}")
            for count in counts:
                if count > self.max_batch_size and not parts:
                    raise self._refusal(
                        f"expected at most {self.max_batch_size} rows, got {count}; batched() splits more"
                    )
        return found

    def _array(self, info: TensorInfo, value: Any, casts: bool) -> npt.NDArray[Any]:
        ours = type(value) is np.ndarray and dtypes.BY_DTYPE.get(value.dtype) == info.datatype
        if ours and _fits(value.shape, info.shape):
            fit: npt.NDArray[Any] = value
            return fit
        what = f"model {self.name!r}: input {info.name!r}"
        array = as_array(value, what, info.datatype)
        if array.shape[:1] == (0,) and info.shape[:1] == (-1,):
            # A column without rows does not know the type and the shape of a row.
            shape = 0, *(max(0, length) for length in info.shape[1:])
            unknown = not any(array.shape[1:]) and array.shape[1:] != info.shape[1:]
            if unknown or (array.dtype.kind == "O" and _fits(array.shape, info.shape)):
                array = np.empty(shape, dtypes.triton_to_np_dtype(info.datatype))
        have = dtypes.np_to_triton_dtype(array.dtype)
        if have != info.datatype:
            typed, numbers = is_typed(value), "BYTES" not in (have, info.datatype)
            if array.size == 0 and not typed:
                array = np.empty(array.shape, dtypes.triton_to_np_dtype(info.datatype))
            elif casts or (numbers and not typed):
                array = cast(array, info.datatype, what)
            else:
                if not may_be_cast(have, info.datatype) and array.dtype.kind == "f":
                    cast(array, info.datatype, what)  # which says what is wrong
                advice = _of_text(value, info.datatype) if have == "BYTES" else ""
                if may_be_cast(have, info.datatype):
                    advice = "; cast=True converts where the values fit"
                raise InvalidRequest(f"{what}: expected {info.datatype}, got {have or array.dtype}{advice}")
        if array.ndim == 0 and info.shape and all(length in (-1, 1) for length in info.shape):
            array = array.reshape((1,) * len(info.shape))
        if not _fits(array.shape, info.shape):
            first = ", the first of them for the batch" if self.max_batch_size else ""
            advice = (
                "; [None] after a value makes a batch of it" if _fits((1, *array.shape), info.shape) else ""
            )
            raise InvalidRequest(
                f"{what}: expected {info.datatype} of shape {list(info.shape)} (-1: any length{first}),"
                f" got shape {list(array.shape)}{advice}"
            )
        return array

    def _meant(self, name: str, options: Mapping[str, str]) -> str:
        """Return which input or option was meant by an unknown name, if one is like it."""
        found = nearest(name, (*options, *self._known))
        if found is None:
            return ""
        return f" (did you mean {repr(found) if found in self._known else options[found]}?)"

    def _refusal(self, words: str) -> InvalidRequest:
        return InvalidRequest(f"model {self.name!r}: {words}")

    def wanted(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the outputs to request: those given, or all that are known.

        Raises
        ------
        InvalidRequest
            For an output that the model does not have.
        """
        known = self._given
        if outputs is None:
            return known
        if isinstance(outputs, str) or not all(isinstance(name, str) for name in outputs):
            given = outputs
            advice = ""
            if isinstance(outputs, (str, InferRequestedOutput)):
                outputs = [outputs]
            if all(isinstance(each, (str, InferRequestedOutput)) for each in outputs):
                names = [each if isinstance(each, str) else each.name() for each in outputs]
                advice = f"; did you mean {names!r:.200}?"
            raise InvalidRequest(f"outputs must be a list of names, got {given!r:.200}{advice}")
        for name in outputs:
            if known and name not in known:
                raise InvalidRequest(
                    f"model {self.name!r} has no output {name!r}; there are {', '.join(map(repr, known))}"
                    f"{ask(name, known)}"
                )
        return tuple(outputs)

    def classes(
        self, outputs: Sequence[str] | None, count: int, arrays: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, int]:
        """Return how many classes to request of each output; 0: its numbers.

        Parameters
        ----------
        outputs : sequence of str or None
            The outputs that the caller wants classes of; None: of all that have any.
        count : int
        arrays : mapping
            The call's inputs.

        Raises
        ------
        InvalidRequest
            For an output that has no classes, or if none has.
        """
        names = self.wanted(outputs)
        if not (count and names):
            if count:
                raise self._refusal("classes need the names of their outputs: give outputs=[…]")
            return dict.fromkeys(names, 0)
        known = {info.name: info for info in self.outputs}
        may_be_empty = any(array.size == 0 for array in arrays.values())
        without = {
            name: why for name in names if (why := self._without_classes(known.get(name), may_be_empty))
        }
        if without and (outputs is not None or len(without) == len(names)):
            given = "; ".join(f"output {name!r} {why}" for name, why in without.items())
            raise self._refusal(f"classes are for outputs of integers, FP32 or FP64 with elements; {given}")
        return {name: 0 if name in without else count for name in names}

    def _without_classes(self, info: TensorInfo | None, may_be_empty: bool) -> str:
        """Return why an output has no classes, or nothing."""
        if info is None:
            return ""
        if info.datatype not in _CLASSED:
            return f"is {info.datatype}"
        shape = info.shape[1:] if self.max_batch_size else info.shape
        if 0 in shape:
            return f"has shape {list(info.shape)}"
        if may_be_empty and -1 in shape:
            return f"has shape {list(info.shape)}, and an input has no elements"
        return ""

    def sole_input(self, value: Any) -> str:
        """Return the name of the only input that a call needs, for a value that came without a name.

        Raises
        ------
        InvalidRequest
            If there are several, or the server names none.
        """
        needed = [info.name for info in self.inputs if not info.optional] or [*self._known]
        if len(needed) != 1:
            names = ", ".join(map(repr, self._known)) or "inputs that its server does not name"
            raise self._refusal(
                f"got a {type(value).__name__} without a name, and the model has {names}: give a keyword, or a"
                " mapping of names to arrays"
            )
        return needed[0]

    def clashing(self, options: Collection[str]) -> tuple[str, ...]:
        """Return the inputs that have the name of an option."""
        known = self._known
        return () if known.keys().isdisjoint(options) else tuple(name for name in known if name in options)

    # -- no rows --

    def has_no_rows(self, arrays: Arrays) -> bool:
        """Return whether checked inputs are a batch without rows, which no server computes."""
        if self.max_batch_size:
            for name, array in arrays.items():
                if self._known[name].shape[:1] == (-1,) and len(array) == 0:
                    return True
        return False

    def empty_result(self, classes: Mapping[str, int]) -> InferResult:
        """Return the result of a batch without rows: outputs of their dtypes and shapes, where -1 becomes 0."""
        known = {info.name: info for info in self.outputs}
        outputs = [
            {
                "name": name,
                "datatype": "BYTES" if count else known[name].datatype,
                "shape": [0, count] if count else [0, *(max(0, size) for size in known[name].shape[1:])],
                "parameters": {"binary_data_size": 0},
            }
            for name, count in classes.items()
        ]
        head = jsonio.dumps({"model_name": self.name, "outputs": outputs})
        return InferResult.from_response_body(head, header_length=len(head))

    # -- large batches --

    def rows(self, arrays: Arrays, max_batch: int | None) -> tuple[int, int]:
        """Return how many rows the arrays have along the batch axis, and how many a call takes.

        Raises
        ------
        InvalidRequest
            Where they cannot be split.
        """
        limit = self.max_batch_size if max_batch is None else integer(max_batch)
        if max_batch is None and not limit:
            raise InvalidRequest(
                f"model {self.name!r} has no max_batch_size: give max_batch, the most rows for one inference"
            )
        if limit is None or limit < 1:
            raise self._refusal(f"expected max_batch as a whole number above 0, got {max_batch!r}")
        if self.max_batch_size and limit > self.max_batch_size:
            raise self._refusal(f"expected max_batch of at most {self.max_batch_size}, got {limit}")
        if not arrays:
            raise self._refusal("there is no batch to split without an input")
        fixed = [info.name for info in self.inputs if info.name in arrays and info.shape[:1] != (-1,)]
        fixed += [name for name, array in arrays.items() if array.ndim == 0]
        if fixed:
            raise self._refusal(f"input {fixed[0]!r} has no first axis of any length to split along")
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) != 1:
            raise self._refusal(f"expected the same number of rows in every input, got {counts}")
        return next(iter(counts.values())), limit


def split(
    arrays: Arrays, rows: int, limit: int, make: Callable[[Arrays], T], fits: Callable[[T], bool]
) -> Iterator[tuple[slice, T]]:
    """Yield the rows of each part, and what `make` makes of it: of views of the arrays.

    From a part of several rows on that does not fit, parts have half as many.
    """
    start = 0
    while start < rows:
        part = slice(start, min(start + limit, rows))
        found = make(rows_of(arrays, part))
        if part.stop - start > 1 and not fits(found):
            limit = (part.stop - start) // 2
            continue
        yield part, found
        start = part.stop


def rows_of(arrays: Arrays, part: slice) -> Arrays:
    return {name: array[part] for name, array in arrays.items()}


def _info(item: Mapping[str, Any], optional: bool = False) -> TensorInfo:
    return TensorInfo(item["name"], item["datatype"], tuple(map(int, item["shape"])), optional)


class Joined:
    """The outputs of a batch, joined from those of its parts as these arrive."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        #: How many rows are there.
        self.done = 0
        self.arrays: Arrays = {}

    def add(self, rows: slice, part: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add the outputs of the part that these rows are.

        Raises
        ------
        ProtocolError
            If they do not have one row for each input row, or differ from other parts in names, shape or dtype.
        """
        count = rows.stop - rows.start
        if self.arrays and set(part) != set(self.arrays):
            raise ProtocolError(f"parts of a batch have other outputs: {sorted(part)}, {sorted(self.arrays)}")
        for name, array in part.items():
            if array.shape[:1] != (count,):
                raise ProtocolError(
                    f"output {name!r}: expected {count} rows, one for each input row, got shape"
                    f" {list(array.shape)}: the outputs of the batch's parts cannot be joined"
                )
            whole = self.arrays.get(name)
            if whole is None:
                whole = self.arrays[name] = np.empty((self._rows, *array.shape[1:]), array.dtype)
            if (array.shape[1:], array.dtype) != (whole.shape[1:], whole.dtype):
                raise ProtocolError(
                    f"output {name!r}: parts of a batch differ, {array.dtype} {list(array.shape[1:])} for each row"
                    f" and {whole.dtype} {list(whole.shape[1:])}"
                )
            whole[rows] = array
        self.done += count


def tensors(arrays: Arrays, binary: bool, copy: bool = False) -> list[InferInput]:
    """Return checked arrays as the inputs of a request; with `copy` they hold copies of numeric arrays."""
    inputs = []
    for name, array in arrays.items():
        datatype = dtypes.BY_DTYPE.get(array.dtype) or datatype_of(array, f"input {name!r}")
        inputs.append(InferInput(name, array.shape, datatype).set_data_from_numpy(array, binary, copy=copy))
    return inputs


def _of_text(value: Any, datatype: str) -> str:
    """Return the end of the message about text or bytes where numbers are expected."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        dtype = np.dtype(dtypes.triton_to_np_dtype(datatype)).name
        return f" (a {type(value).__name__}); np.frombuffer(value, '{dtype}') reads an array's bytes"
    return " (a str); a file's content has to be read first" if isinstance(value, str) else ""


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Return whether an array's shape is the expected one, in which -1 is any length."""
    if len(shape) != len(expected):
        return False
    for length, wanted in zip(shape, expected, strict=True):  # noqa: SIM110  a generator takes a frame for each
        if wanted not in (length, -1):
            return False
    return True


def requested(classes: Mapping[str, int], binary: bool) -> list[InferRequestedOutput]:
    """Return the outputs to request, by the number of classes that each shall have."""
    return [InferRequestedOutput(name, binary, count) for name, count in classes.items()]
