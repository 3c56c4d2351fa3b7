"""Score a Parquet file, and go on after an interruption: ``python dataset_scoring.py [host:port]``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import digits_data
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tritonhttp import bulk


def write(path: Path) -> int:
    """Write a file with a column of images; return how many."""
    images, labels = digits_data.load()
    column = pa.FixedSizeListArray.from_arrays(images.reshape(-1), images.shape[1])
    pq.write_table(pa.table({"label": labels, "image": column}), path)
    return len(labels)


def main(url: str, folder: Path) -> None:
    """Score all rows, and count the digits that are right."""
    rows = write(folder / "rows.parquet")
    report = bulk.run(
        folder / "rows.parquet",
        folder / "scores.parquet",
        model="digits",
        url=url,
        inputs={"IMAGE": "image"},  # the model's input: the file's column
        outputs={"SCORES": "scores"},
        keep=["label"],
        on_error="record",  # a bad row is noted beside the output, and the run goes on
        resume=(folder / "scores.parquet.manifest").exists(),  # after Ctrl-C: only what is missing
    )
    scored = pq.read_table(folder / "scores.parquet")
    digits = np.array(scored["scores"].to_pylist()).argmax(axis=1)
    print(
        f"{report.rows} of {rows} rows, {report.failed} failed",
        file=sys.stderr if report.failed else sys.stdout,
    )
    print(f"{(digits == scored['label'].to_numpy()).sum()} of {rows} digits are right")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        address = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000")
        main(address, Path(folder))
