"""Spark's data frames through a served model, classic or by Spark Connect. It needs the extra ``spark``.

The driver asks the server once what the model gives, so that Spark knows the columns. Each Python process of an
executor has one client for all its tasks. A task that Spark runs again gives its rows once, since
Spark takes those of one try only.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import InvalidRequest, MissingDependency
from .predictor import Predictor

try:
    from pyspark.sql.pandas.types import from_arrow_type, to_arrow_schema
    from pyspark.sql.types import StructField, StructType
except ImportError as error:
    raise MissingDependency("tritonhttp.bulk.spark needs pyspark: pip install 'tritonhttp[spark]'") from error

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["Predictor", "batch_udf", "column_udf", "in_arrow", "predict", "schema"]

#: Spark has no unsigned numbers and no halves; it refuses UINT64 beyond INT64.
_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
}


def predict(frame: DataFrame, url: str | Sequence[str], model: str, **predictor: Any) -> DataFrame:
    """Return a frame with the outputs of a model for each row: ``predict(frame, "triton:8000", "digits")``.

    Parameters
    ----------
    frame : pyspark.sql.DataFrame
        Of a classic session, or of Spark Connect.
    url, model, **predictor
        As for :class:`Predictor`.

    Returns
    -------
    pyspark.sql.DataFrame

    Raises
    ------
    InvalidRequest
        For columns that the model does not take.
    """
    made = Predictor(url, model, **predictor)
    return frame.mapInArrow(in_arrow(made), schema(made, frame.schema))


def in_arrow(predictor: Predictor) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return a function for ``DataFrame.mapInArrow``, whose columns :func:`schema` says."""
    return _plain(predictor).stream


def schema(predictor: Predictor, input_schema: StructType) -> StructType:
    """Return the columns of :func:`in_arrow`'s result: those that are kept, then the outputs.

    Parameters
    ----------
    predictor : Predictor
    input_schema : pyspark.sql.types.StructType
        Of the frame; no Spark session is needed.

    Raises
    ------
    InvalidRequest
        For columns that the model does not take.
    """
    plain = _plain(predictor)
    plain.schema(to_arrow_schema(input_schema))
    kept = [input_schema[name] for name in plain.columns.kept(input_schema.names)]
    return StructType([*kept, *_fields(plain)])


def column_udf(predictor: Predictor) -> Any:
    """Return a pandas UDF of columns.

    Use it as in ``frame.withColumn("scores", column_udf(predictor)("pixels"))``. It takes the columns of the
    model's inputs, in the order of the predictor's `inputs`, or of the model's without those. It returns the
    output, or a struct of several.
    """
    from pyspark.sql.functions import pandas_udf

    score, kind = _function(predictor)

    def stream(batches: Iterator[Any]) -> Iterator[Any]:
        import pandas as pd

        for batch in batches:
            found = score(*(batch if isinstance(batch, tuple) else (batch,)))
            yield (
                pd.DataFrame({name: [*array] for name, array in found.items()})
                if isinstance(found, dict)
                else pd.Series([*found])
            )

    stream.__annotations__ = {}  # the kind of UDF is given by its type, not by names of this module
    from pyspark.util import PythonEvalType

    return pandas_udf(stream, kind, PythonEvalType.SQL_SCALAR_PANDAS_ITER_UDF)


def batch_udf(predictor: Predictor, *, rows: int = 4096) -> Any:
    """Return a UDF made by ``pyspark.ml.functions.predict_batch_udf``, of columns as :func:`column_udf`'s.

    Parameters
    ----------
    predictor : Predictor
    rows : int
        Rows for one call of the function; it splits them into calls of the model.
    """
    from pyspark.ml.functions import predict_batch_udf

    score, kind = _function(predictor)
    shapes = [[*info.shape[1:]] for info in predictor.columns.inputs.values()]
    if any(-1 in shape for shape in shapes):
        raise InvalidRequest(f"predict_batch_udf needs inputs of known shapes, got {shapes}: use column_udf")
    return predict_batch_udf(lambda: score, return_type=kind, batch_size=rows, input_tensor_shapes=shapes)


def _function(predictor: Predictor) -> tuple[Callable[..., Any], Any]:
    """Return a function of the inputs' columns, and the Spark type of what it returns."""
    plain = _plain(predictor, keep=[])
    names, fields = [*plain.columns.inputs], _fields(plain)

    def score(*columns: Any) -> Any:
        if len(columns) != len(names):
            raise InvalidRequest(f"expected the columns {names}, got {len(columns)}")
        found = plain(dict(zip(names, columns, strict=True)))
        return found if len(found) > 1 else next(iter(found.values()))

    return score, fields[0].dataType if len(fields) == 1 else StructType(fields)


def _plain(predictor: Predictor, **changed: Any) -> Predictor:
    """Return a copy whose outputs are of types that Spark has."""
    fields = {name: field.with_type(_type(field.type)) for name, field in predictor.columns.outputs.items()}
    found = copy.copy(predictor)
    found._names = {**predictor._names, "outputs": fields, **changed}
    return found


def _type(kind: Any) -> Any:
    if isinstance(kind, pa.FixedShapeTensorType):
        plain = _type(kind.value_type)
        for _ in kind.shape:
            plain = pa.list_(plain)
        return plain
    if hasattr(kind, "value_field"):
        return pa.list_(_type(kind.value_type))
    return _WIDER.get(kind, kind)


def _fields(predictor: Predictor) -> list[StructField]:
    return [
        StructField(field.name, from_arrow_type(field.type)) for field in predictor.columns.outputs.values()
    ]
