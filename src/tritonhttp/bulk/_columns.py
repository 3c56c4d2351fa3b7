"""A model's inputs and outputs as columns of record batches. No I/O.

A row of a table is a row of the batch that the model takes. What of a row does not fit, says a :class:`BadRow`; a
column of which no row can fit is refused as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .._basics.hints import ask
from .._protocol.arrays import as_array, decoded
from .._protocol.signature import Signature
from .._protocol.tensors import TensorInfo
from ..errors import InvalidRequest, ProtocolError
from ._arrow import BadValue, check_dtype, check_type, column_of, fitted, tensor_of, type_of

__all__ = ["BadRow", "Columns"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that the model does not take.

    Attributes
    ----------
    row : int
        Its index in the batch, from 0.
    column : str
    reason : str
        For example ``"null"``, or ``"expected shape [64], got [63]"``.
    """

    row: int
    column: str
    reason: str


class Columns:
    """Convert record batches to a model's inputs, and its outputs to columns.

    Parameters
    ----------
    signature : Signature
        Of the model.
    inputs : mapping of str to str, optional
        The column of each input of the model. None: those of the inputs' names; optional inputs may lack one.
    outputs : mapping of str to str or pyarrow.Field, optional
        The column for each output that is wanted. None: all outputs, under their names. A field gives the
        column's type too: text as ``pa.string()``, or a number for an output with one element a row.
    keep : sequence of str, optional
        The columns of the input that the result has too; None: all.
    refuse_nan : bool
        Whether NaN makes a row bad.
    cast : bool
        Whether numbers may be rounded. Without it, they are only converted to a type that has the same numbers.

    Attributes
    ----------
    inputs : dict of str to TensorInfo
        The input of each column.
    outputs : dict of str to pyarrow.Field
        The column of each output.
    requested : tuple of str
        The names of the outputs to request.

    Raises
    ------
    InvalidRequest
        For names that the model does not have, and for a model whose first axis is not that of a batch.
    """

    def __init__(
        self,
        signature: Signature,
        *,
        inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, Any] | None = None,
        keep: Sequence[str] | None = None,
        refuse_nan: bool = False,
        cast: bool = False,
    ) -> None:
        self._model, self._refuse_nan, self._cast = signature.name, refuse_nan, cast
        known = {info.name: info for info in signature.inputs}
        self._inputs = self._mapped(inputs, known, "input")
        for info in signature.inputs:
            if info.name not in self._inputs and not info.optional:
                raise self._refusal(f"input {info.name!r} has no column; expected one for each of {[*known]}")
        self._may_lack = {name for name, info in known.items() if info.optional} if inputs is None else set()
        outputs_of = self._mapped(outputs, {info.name: info for info in signature.outputs}, "output")
        for kind, infos in (("input", self._inputs), ("output", outputs_of)):
            for name, (_, info) in infos.items():
                if info.shape[:1] != (-1,):
                    raise self._refusal(
                        f"{kind} {name!r} has shape {list(info.shape)}, whose first axis is not rows"
                    )
        self._written = [(info, self._field(column, info)) for column, info in outputs_of.values()]
        self.inputs = dict(self._inputs.values())
        self.outputs = {info.name: field for info, field in self._written}
        self.requested = tuple(outputs_of)
        if isinstance(keep, str):
            raise InvalidRequest(f"keep must be a list of columns, got {keep!r}; did you mean [{keep!r}]?")
        self._keep = None if keep is None else [*keep]
        self._checked: Any = None

    def __repr__(self) -> str:
        kept = "all columns" if self._keep is None else repr(self._keep)
        columns = [column for column, _ in self._inputs.values()]
        return f"<Columns of {self._model!r}: {columns} -> {[*self.outputs.values()]}, and {kept}>"

    def _mapped(
        self, given: Mapping[str, Any] | None, known: Mapping[str, TensorInfo], kind: str
    ) -> dict[str, tuple[Any, TensorInfo]]:
        """Return the column of each tensor, with what the model says of it."""
        if not known:
            raise self._refusal(
                f"its server does not say which {kind}s it has, so columns cannot be made of them"
            )
        if given is None:
            given = {name: name for name in known}
        if not isinstance(given, Mapping):
            raise InvalidRequest(
                f"{kind}s must be a mapping of the model's names to columns, such as"
                f" {{{next(iter(known))!r}: 'column'}}; got {given!r:.80}"
            )
        for name in given:
            if name not in known:
                raise self._refusal(f"it has no {kind} {name!r}; there are {[*known]}{ask(name, known)}")
        return {name: (column, known[name]) for name, column in given.items()}

    def _field(self, column: Any, info: TensorInfo) -> Any:
        kind = type_of(info.datatype, info.shape[1:])
        return column if isinstance(column, pa.Field) else pa.field(str(column), kind)

    def _no_column(self, name: str, column: str, names: Sequence[str]) -> InvalidRequest:
        return self._refusal(
            f"input {name!r}: there is no column {column!r}; there are {[*names]}{ask(column, names)}"
        )

    def _refusal(self, words: str) -> InvalidRequest:
        return InvalidRequest(f"model {self._model!r}: {words}")

    # -- what is read and written --

    def reads(self, names: Sequence[str]) -> list[str]:
        """Return which of a source's columns are needed."""
        needed = {column for column, _ in self._inputs.values()}
        return [name for name in names if self._keep is None or name in self._keep or name in needed]

    def kept(self, names: Sequence[str]) -> list[str]:
        """Return which of a batch's columns the result has, in order.

        Raises
        ------
        InvalidRequest
            If one of them is not there.
        """
        kept = [*names] if self._keep is None else self._keep
        for column in kept:
            if column not in names:
                raise InvalidRequest(
                    f"keep: there is no column {column!r}; there are {[*names]}{ask(column, names)}"
                )
        return kept

    def schema(self, input_schema: Any) -> Any:
        """Return the schema of the result: the columns that are kept, then the outputs.

        Parameters
        ----------
        input_schema : pyarrow.Schema

        Raises
        ------
        InvalidRequest
            If a column is missing, is of a type that the model cannot take, or has the name of an output's.
        """
        names = input_schema.names
        for name, (column, info) in self._inputs.items():
            if column not in names:
                if name in self._may_lack:
                    continue
                raise self._no_column(name, column, names)
            what = f"model {self._model!r}: input {name!r}, column {column!r}"
            check_type(input_schema.field(column).type, info.datatype, info.shape[1:], what, self._cast)
        fields = [*map(input_schema.field, self.kept(names)), *self.outputs.values()]
        twice = [name for name, count in Counter(field.name for field in fields).items() if count > 1]
        if twice:
            raise self._refusal(
                f"the result would have two columns {twice[0]!r}: map the output to another, or keep fewer"
            )
        return pa.schema(fields)

    def _result_schema(self, schema: Any) -> Any:
        """Return what :meth:`schema` does, computed once for batches of one schema."""
        known = self._checked
        if known is None or not known[0].equals(schema):
            known = self._checked = schema, self.schema(schema)
        return known[1]

    # -- to the model --

    def tensors(self, batch: Any) -> tuple[dict[str, Array], list[BadRow]]:
        """Return a batch's rows as the model's inputs, without those that it does not take.

        Numbers without nulls are not copied. Rows of an input of any length have to be of one shape: the most
        frequent one.

        Parameters
        ----------
        batch : pyarrow.RecordBatch

        Returns
        -------
        tuple
            An array for each input, and the bad rows by their index, each with its first reason.

        Raises
        ------
        InvalidRequest
            For a column of which no row can fit.
        """
        self._result_schema(batch.schema)
        used = {
            name: (column, info)
            for name, (column, info) in self._inputs.items()
            if column in batch.schema.names
        }
        try:
            return {
                name: self._tensor(batch.column(column), info) for name, (column, info) in used.items()
            }, []
        except BadValue:
            pass
        bad: dict[int, BadRow] = {}
        arrays = {}
        shapes = {}
        for name, (column, info) in used.items():
            array = arrays[name] = batch.column(column)
            shapes[name], reasons = self._bad_rows(array, info)
            for row, reason in reasons.items():
                bad.setdefault(row, BadRow(row, column, reason))
        good = np.ones(len(batch), dtype=bool)
        good[[*bad]] = False
        mask = pa.array(good)
        found = {
            name: self._tensor(array.filter(mask), used[name][1], shapes[name])
            for name, array in arrays.items()
        }
        return found, [bad[row] for row in sorted(bad)]

    def _tensor(self, array: Any, info: TensorInfo, shape: tuple[int, ...] | None = None) -> Array:
        rows = info.shape[1:] if shape is None else shape
        return tensor_of(array, info.datatype, rows, self._cast, self._refuse_nan)

    def _bad_rows(self, array: Any, info: TensorInfo) -> tuple[tuple[int, ...], dict[int, str]]:
        """Return the shape that rows shall have, and why others do not fit."""
        bad = dict.fromkeys(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist(), "null")
        present = np.delete(np.arange(len(array)), [*bad])
        array = array.drop_null()
        shape = info.shape[1:]
        if -1 in shape:
            found: Counter[tuple[int, ...]] = Counter()
            for row in range(len(array)):
                try:
                    found[self._tensor(array[row : row + 1], info).shape[1:]] += 1
                except BadValue:
                    continue
            shape = max(found, key=found.__getitem__, default=shape)

        reasons = _reasons(lambda part: self._tensor(part, info, shape), array)
        bad.update((int(present[row]), reason) for row, reason in reasons.items())
        return shape, bad

    def arrays(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Return columns of numpy or pandas as the model's inputs.

        Raises
        ------
        InvalidRequest
            For a column that is missing or of another kind, and for the first row that does not fit.
        """
        found = {}
        for name, (column, info) in self._inputs.items():
            if column not in batch:
                if name in self._may_lack:
                    continue
                raise self._no_column(name, column, [*batch])
            what = f"model {self._model!r}: input {name!r}, column {column!r}"
            array = as_array(batch[column], what, info.datatype)
            check_dtype(array.dtype, info.datatype, what, self._cast)

            def read(part: Array, info: TensorInfo = info) -> Array:
                return fitted(part, info.datatype, info.shape[1:], self._cast, self._refuse_nan)

            try:
                found[name] = read(array)
            except BadValue:
                row, reason = next(iter(_reasons(read, array).items()))
                raise InvalidRequest(f"{what}: row {row}: {reason}") from None
        counts = {name: len(array) for name, array in found.items()}
        if len(set(counts.values())) > 1:
            raise self._refusal(f"expected the same number of rows in every column, got {counts}")
        return found

    # -- from the model --

    def result(self, batch: Any, outputs: Mapping[str, Array]) -> Any:
        """Return the kept columns of a batch with the model's outputs for it.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            Of the rows that the outputs are for.
        outputs : mapping of str to numpy.ndarray

        Returns
        -------
        pyarrow.RecordBatch
            Of the schema that :meth:`schema` says.

        Raises
        ------
        ProtocolError
            If there is not one row of output for each of input, or its shape is not what the model says.
        InvalidRequest
            If values are not of the type that a field asks for.
        """
        schema = self._result_schema(batch.schema)
        columns = [batch.column(name) for name in self.kept(batch.schema.names)]
        for (info, field), array in zip(self._written, self._given(len(batch), outputs), strict=True):
            columns.append(self._column(array, info, field))
        return pa.record_batch(columns, schema=schema)

    def named(self, rows: int, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for so many rows by their columns; text where a field says so.

        Raises
        ------
        ProtocolError, InvalidRequest
            As :meth:`result`.
        """
        found = {}
        for (info, field), array in zip(self._written, self._given(rows, outputs), strict=True):
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                array = decoded(array, f"model {self._model!r}: output {info.name!r}")
            if array.ndim > 1 and array.size == rows and not hasattr(field.type, "value_field"):
                array = array.reshape(rows) if field.type != type_of(info.datatype, info.shape[1:]) else array
            found[field.name] = array
        return found

    def _given(self, rows: int, outputs: Mapping[str, Array]) -> Iterator[Array]:
        """Yield the outputs that are wanted, after a look at their shapes."""
        for info, _ in self._written:
            if info.name not in outputs:
                raise ProtocolError(f"model {self._model!r}: expected output {info.name!r}, got {[*outputs]}")
            array = outputs[info.name]
            have, want = array.shape, (rows, *info.shape[1:])
            if len(have) != len(want) or any(
                size not in (-1, got) for got, size in zip(have, want, strict=True)
            ):
                raise ProtocolError(
                    f"model {self._model!r}: output {info.name!r}: expected shape {list(want)}, one row for each"
                    f" of the input, got {list(have)}"
                )
            yield array

    def _column(self, array: Array, info: TensorInfo, field: Any) -> Any:
        try:
            return column_of(array, field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise self._refusal(
                f"output {info} does not fit column {field.name!r} of {field.type}: {error}"
            ) from error


def _reasons(read: Callable[[Any], object], array: Any) -> dict[int, str]:
    """Return why rows of an array cannot be read, by their index: halves without a bad row are read at once."""
    found: dict[int, str] = {}

    def look(start: int, stop: int) -> None:
        try:
            read(array[start:stop])
        except BadValue as error:
            if stop - start == 1:
                found[start] = str(error)
                return
            middle = (start + stop) // 2
            look(start, middle)
            look(middle, stop)

    look(0, len(array))
    return found
