"""Ray Data and Spark with two workers beside one process: a table of images from Parquet to Parquet.

Each engine starts once, and begins each run with work that takes seconds whatever the table's size. So rates are
those of the rows that a table has more than a short one, in the time that it takes longer. Beside it stands the
engine alone: the same plan with a function that answers at once, without a server. Needs ``ray`` and ``pyspark``
in the environment of the benchmarks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import OURS, Block, Bound, Case, Site

ONE, ALONE = "one process", "the engine without a model"
ROWS = int(os.environ.get("BULK_ROWS", "600000"))
#: Row groups of the table, and about the parts that an engine shares out; and the rows of the short one.
PARTS = 24
SHORT = 2 * ROWS // PARTS
NAMES: dict[str, Any] = {"inputs": {"IMAGE": "image"}, "outputs": {"SCORES": "scores"}, "keep": ["id"]}

Run = Callable[[str, str], object]


@contextlib.contextmanager
def measured(engine: Callable[[str], contextlib.AbstractContextManager[Run]], site: Site) -> Iterator[Block]:
    """Run an engine, and measure its runs after the first."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="tritonhttp-bench-") as folder:
        sources = {rows: f"{folder}/{rows}.parquet" for rows in (SHORT, SHORT + ROWS)}
        for rows, path in sources.items():
            images = pa.array(np.random.default_rng(0).random(rows * 64, np.float32))
            column = pa.FixedSizeListArray.from_arrays(images, 64)
            table = pa.table({"id": np.arange(rows), "image": column})
            pq.write_table(table, path, row_group_size=ROWS // PARTS)
        target = f"{folder}/target"
        with engine(site.url) as run:

            def took(rows: int) -> float:
                shutil.rmtree(target, ignore_errors=True)
                start = time.perf_counter()
                run(sources[rows], target)
                seconds = time.perf_counter() - start
                found = sum(pq.read_metadata(path).num_rows for path in Path(target).glob("*.parquet"))
                if found != rows:
                    raise RuntimeError(f"expected {rows} rows, got {found}")
                return seconds

            took(SHORT)
            yield lambda number: {"rate": ROWS / (took(SHORT + ROWS) - took(SHORT))}


@contextlib.contextmanager
def one_process(url: str) -> Iterator[Run]:
    """Stream the record batches of the file."""
    import pyarrow.parquet as pq

    from tritonhttp.bulk.predictor import Predictor

    with Predictor(url, "digits", **NAMES) as predictor:

        def run(source: str, target: str) -> None:
            os.makedirs(target, exist_ok=True)
            file = pq.ParquetFile(source)
            with pq.ParquetWriter(f"{target}/0.parquet", predictor.schema(file.schema_arrow)) as writer:
                for batch in predictor.stream(file.iter_batches(ROWS // PARTS)):
                    writer.write_batch(batch)

        yield run


def _answering_at_once() -> Callable[[Any], Any]:
    """Return a function that workers get by value: they have no way to this module."""

    def constants(batch: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        scores = pa.array(np.zeros(len(batch) * 10, np.float32))
        ends = pa.array(np.arange(0, len(scores) + 1, 10, np.int32))
        columns = {"id": batch["id"], "scores": pa.ListArray.from_arrays(ends, scores)}
        return type(batch).from_arrays([*columns.values()], names=[*columns])

    return constants


@contextlib.contextmanager
def ray_data(model: bool, url: str) -> Iterator[Run]:
    """Run two actors."""
    import ray

    from tritonhttp.bulk.ray import predict

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    pool = ray.data.ActorPoolStrategy(size=2)
    constants = _answering_at_once()

    class Constants:
        def __call__(self, batch: Any) -> Any:
            return constants(batch.combine_chunks())

    def run(source: str, target: str) -> None:
        rows = ray.data.read_parquet(source)
        if model:
            found = predict(rows, url, "digits", **NAMES)
        else:
            found = rows.map_batches(Constants, compute=pool, batch_size=4096, batch_format="pyarrow")
        found.write_parquet(target)

    yield run
    ray.shutdown()


@contextlib.contextmanager
def spark_frames(model: bool, url: str) -> Iterator[Run]:
    """Run two tasks at a time."""
    from pyspark.sql import SparkSession

    from tritonhttp.bulk.spark import predict

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.sql.files.maxPartitionBytes", "4m").getOrCreate()
    constants = _answering_at_once()

    def run(source: str, target: str) -> None:
        rows = spark.read.parquet(source)
        if model:
            found = predict(rows, url, "digits", **NAMES)
        else:
            found = rows.mapInArrow(lambda batches: map(constants, batches), "id long, scores array<float>")
        found.write.mode("overwrite").parquet(target)

    yield run
    spark.stop()


def _case(
    name: str, title: str, engine: Callable[[bool, str], contextlib.AbstractContextManager[Run]]
) -> Case:
    return Case(
        name=name,
        title=title,
        server="triton",
        contenders={
            OURS: functools.partial(measured, functools.partial(engine, True)),
            ONE: functools.partial(measured, one_process),
            ALONE: functools.partial(measured, functools.partial(engine, False)),
        },
        metrics=("rate",),
        bounds=(Bound(metric="rate", against=ONE, at_least=0.8),),
        blocks=3,
        counts={OURS: 1, ONE: 1, ALONE: 1},
    )


CASES = [
    _case("bulk-ray", f"{ROWS:,} rows more on Ray Data, two actors, Triton, start-up apart", ray_data),
    _case(
        "bulk-spark",
        f"{ROWS:,} rows more on Spark, two tasks at a time, Triton, start-up apart",
        spark_frames,
    ),
]
