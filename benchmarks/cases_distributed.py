"""Ray Data and Spark with two workers beside `bulk.run`: a table of images from Parquet to Parquet.

Each engine starts once, and begins each run with work that takes seconds whatever the table's size. So rates are
those of the rows that a table has more than a short one, in the time that it takes longer. Beside it stand the
engine alone, which is the same plan with a function that answers at once; and the floor where client, engine and
server share the cores, which is the engine alone and then the rows' calls by bare sockets. Needs ``ray`` and
``pyspark`` in the environment of the benchmarks.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cases_bulk import BATCH, ask
from harness import OURS, Block, Bound, Case, Site

RUN, ALONE, FLOOR = "bulk.run", "the engine without a model", "the same, then bare sockets"
#: Ray's start-up differs by two seconds from run to run, so the rows take several times that.
ROWS = int(os.environ.get("BULK_ROWS", "1800000"))
#: Rows of a row group.
GROUP = 25_000
SHORT = 2 * GROUP
NAMES: dict[str, Any] = {"inputs": {"IMAGE": "image"}, "outputs": {"SCORES": "scores"}, "keep": ["id"]}

Run = Callable[[str, str], object]
Engine = Callable[[Site], contextlib.AbstractContextManager[Run]]


@contextlib.contextmanager
def measured(engine: Engine, site: Site) -> Iterator[Block]:
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
            pq.write_table(table, path, row_group_size=GROUP)
        target = f"{folder}/target"
        with engine(site) as run:

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
            yield lambda number: {"rows": ROWS / (took(SHORT + ROWS) - took(SHORT))}


@contextlib.contextmanager
def one_machine(site: Site) -> Iterator[Run]:
    """Run what a machine without an engine does."""
    from tritonhttp import bulk

    yield lambda source, target: bulk.run(
        source, target, url=site.url, model="digits", progress=False, **NAMES
    )


def _answering_at_once() -> Callable[[Any], Any]:
    """Return a function that workers get by value: they have no way to this module.

    What it answers is as hard to compress as scores.
    """

    def constants(batch: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        scores = pa.array(np.random.default_rng().random(len(batch) * 10, np.float32))
        ends = pa.array(np.arange(0, len(scores) + 1, 10, np.int32))
        columns = {"id": batch["id"], "scores": pa.ListArray.from_arrays(ends, scores)}
        return type(batch).from_arrays([*columns.values()], names=[*columns])

    return constants


@contextlib.contextmanager
def ray_data(model: bool, site: Site) -> Iterator[Run]:
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
            found = predict(rows, site.url, "digits", **NAMES)
        else:
            found = rows.map_batches(Constants, compute=pool, batch_size=4096, batch_format="pyarrow")
        found.write_parquet(target)

    yield run
    ray.shutdown()


@contextlib.contextmanager
def spark_frames(model: bool, site: Site) -> Iterator[Run]:
    """Run two tasks at a time, on the parts of the table that Spark makes by itself."""
    from pyspark.sql import SparkSession

    from tritonhttp.bulk.spark import predict

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    constants = _answering_at_once()

    def run(source: str, target: str) -> None:
        rows = spark.read.parquet(source)
        if model:
            found = predict(rows, site.url, "digits", **NAMES)
        else:
            found = rows.mapInArrow(lambda batches: map(constants, batches), "id long, scores array<float>")
        found.write.mode("overwrite").parquet(target)

    yield run
    spark.stop()


@contextlib.contextmanager
def then_bare_sockets(engine: Engine, site: Site) -> Iterator[Run]:
    """Run an engine, and then make the calls of as many rows."""
    import pyarrow.parquet as pq

    body = bytes(BATCH * 64 * 4)
    with engine(site) as run:

        def both(source: str, target: str) -> None:
            run(source, target)
            rows = pq.read_metadata(source).num_rows
            ask(site, itertools.repeat(body, rows // BATCH), len)

        yield both


def _case(
    name: str, title: str, engine: Callable[[bool, Site], contextlib.AbstractContextManager[Run]]
) -> Case:
    alone = functools.partial(engine, False)
    return Case(
        name=name,
        title=title,
        server="triton",
        contenders={
            OURS: functools.partial(measured, functools.partial(engine, True)),
            RUN: functools.partial(measured, one_machine),
            ALONE: functools.partial(measured, alone),
            FLOOR: functools.partial(measured, functools.partial(then_bare_sockets, alone)),
        },
        metrics=("rows",),
        bounds=(Bound(metric="rows", against=RUN, at_least=0.8),),
        blocks=3,
        counts=dict.fromkeys((OURS, RUN, ALONE, FLOOR), 1),
    )


CASES = [
    _case("bulk-ray", f"{ROWS:,} rows more on Ray Data, two actors, Triton, start-up apart", ray_data),
    _case(
        "bulk-spark",
        f"{ROWS:,} rows more on Spark, two tasks at a time, Triton, start-up apart",
        spark_frames,
    ),
]
