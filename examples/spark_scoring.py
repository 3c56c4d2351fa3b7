"""Score a frame of Spark in two tasks at a time: ``python spark_scoring.py [host:port]``."""

from __future__ import annotations

import os
import sys

import digits_data
import numpy as np
from pyspark.sql import SparkSession

from tritonhttp.bulk.spark import predict


def main(url: str) -> None:
    """Score all images, and count the digits that are right."""
    images, labels = digits_data.load()
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    rows = [(int(label), image.tolist()) for label, image in zip(labels, images, strict=True)]
    frame = spark.createDataFrame(rows, "label int, image array<float>").repartition(4)
    # The Python process of an executor has one client for all its tasks.
    scored = predict(
        frame, url, "digits", inputs={"IMAGE": "image"}, outputs={"SCORES": "scores"}, keep=["label"]
    )
    right = sum(row.label == np.argmax(row.scores) for row in scored.collect())
    print(f"{right} of {len(labels)} digits are right")
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000"))
