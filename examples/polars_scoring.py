"""Score a column of vectors in a lazy polars query: ``python polars_scoring.py [host:port]``."""

from __future__ import annotations

import os
import sys

import digits_data
import polars as pl

import tritonhttp as httpclient


def scores(client: httpclient.InferenceServerClient, column: str) -> pl.Expr:
    """Return an expression: the model's ten scores for each vector of a column."""
    digits = client.model("digits")

    def score(images: pl.Series) -> pl.Series:
        return pl.Series(digits.batched(IMAGE=images)["SCORES"])

    return pl.col(column).map_batches(score, return_dtype=pl.Array(pl.Float32, 10))


def main(url: str) -> None:
    """Score all images, and count for each digit how many are right."""
    images, labels = digits_data.load()
    frame = pl.LazyFrame({"label": labels, "image": images})
    with httpclient.InferenceServerClient(url, concurrency=4) as client:
        scored = (
            frame.with_columns(scores(client, "image").alias("scores"))
            .with_columns(digit=pl.col("scores").arr.arg_max(), score=pl.col("scores").arr.max())
            .collect()
        )
    right = pl.col("digit") == pl.col("label")
    print(scored.group_by("label").agg(right.sum().alias("right"), pl.len().alias("all")).sort("label"))
    print(f"{scored.select(right.sum()).item()} of {len(scored)} digits are right")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000"))
