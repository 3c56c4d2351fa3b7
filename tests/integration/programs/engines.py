"""Scores a table on Ray Data or Spark, in two workers of which one is killed: ``engines.py KIND URL IN OUT FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NAMES: dict[str, Any] = {"inputs": {"IMAGE": "image"}, "outputs": {"SCORES": "scores"}, "keep": ["id"]}

answers = count(1)


def die(folder: str, call: Any) -> None:
    """Kill this process in the middle of its work, if no other one was killed."""
    if "infer" in call.url and next(answers) > 15:
        try:
            os.open(f"{folder}/killed", os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def on_ray(url: str, source: str, hook: Any, folder: str) -> pa.Table:
    import ray.data

    from tritonhttp.bulk.ray import Predictor, predict

    for remaining in (2, 1, 0):
        try:
            ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
            break
        except Exception as error:  # Ray waits 30 s for its own processes, which a busy machine exceeds
            if not remaining or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    options = {**NAMES, "on_response": hook, "in_flight": 4}
    scored = predict(ray.data.read_parquet(source), url, "digits", concurrency=2, rows=500, **options)
    found = pa.concat_tables([pa.Table.from_pandas(ray.get(part)) for part in scored.to_pandas_refs()])
    images = ray.data.from_numpy(
        pq.read_table(source)["image"].combine_chunks().flatten().to_numpy().reshape(-1, 64)[:256]
    )
    numpy = images.map_batches(
        Predictor,
        fn_constructor_args=(url, "digits"),
        fn_constructor_kwargs={"inputs": {"IMAGE": "data"}, "keep": []},
        batch_size=100,
        batch_format="numpy",
        concurrency=1,
    )
    assert len(numpy.take_batch(256)["SCORES"]) == 256
    return found


def on_spark(url: str, source: str, hook: Any, folder: str, connect: bool = False) -> pa.Table:
    from pyspark.sql import SparkSession

    from tritonhttp.bulk import spark as bulk

    predictor = bulk.Predictor(url, "digits", on_response=hook, in_flight=4, **NAMES)
    builder = (
        SparkSession.builder.remote("local[2,4]") if connect else SparkSession.builder.master("local[2,4]")
    )
    spark = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1").getOrCreate()
    frame = spark.read.parquet(source).repartition(8)
    scored = frame.mapInArrow(bulk.in_arrow(predictor), bulk.schema(predictor, frame.schema))
    found = scored.toArrow()
    few = bulk.Predictor(url, "digits", inputs={"IMAGE": "image"}, outputs={"SCORES": "scores"})
    head = frame.limit(300)
    for udf in (bulk.column_udf(few), bulk.batch_udf(few, rows=128)):
        rows = head.select("id", udf("image").alias("scores")).toArrow()
        want = dict(zip(found["id"].to_pylist(), found["scores"].to_pylist(), strict=True))
        assert len(rows) == 300
        for id, scores in zip(rows["id"].to_pylist(), rows["scores"].to_pylist(), strict=True):
            assert max(abs(a - b) for a, b in zip(scores, want[id], strict=True)) < 1e-5
    spark.stop()
    return found


KINDS = {"ray": on_ray, "spark": on_spark, "connect": partial(on_spark, connect=True)}

if __name__ == "__main__":
    kind, url, source, target, folder = sys.argv[1:]
    pq.write_table(KINDS[kind](url, source, partial(die, folder), folder), target)
    assert Path(folder, "killed").exists()
