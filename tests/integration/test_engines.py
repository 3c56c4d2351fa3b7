"""``tritonhttp.bulk`` on Ray Data and Spark in two workers, of which one is killed; and their examples."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritonhttp

from .conftest import EXAMPLES

pa: Any = pytest.importorskip("pyarrow", reason="a dependency of the tests only")
pq: Any = pytest.importorskip("pyarrow.parquet", reason="a dependency of the tests only")

ROWS = 20_000
PROGRAM = Path(__file__).parent / "programs" / "engines.py"


def run(python: str, *arguments: Any, cwd: Path) -> str:
    done = subprocess.run(
        [python, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,  # Ray and Spark start a dozen processes, which takes minutes on a busy machine
        env={
            **os.environ,
            "PYTHONPATH": str(Path(tritonhttp.__file__).parents[1]),
            "PYSPARK_PYTHON": python,
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-8000:]
    return done.stdout


@pytest.mark.parametrize("engine", ["ray", "spark", "connect"])
def test_every_row_is_scored_once_though_a_worker_is_killed(
    engine: str, python: str, triton_server: Any, digits: Any, tmp_path: Path
) -> None:
    images = np.resize(digits[0], (ROWS, 64))
    source, target = tmp_path / "source.parquet", tmp_path / "target.parquet"
    column = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 64)
    pq.write_table(pa.table({"id": np.arange(ROWS), "image": column}), source, row_group_size=2000)
    run(python, PROGRAM, engine, triton_server.url, source, target, tmp_path, cwd=tmp_path)
    with tritonhttp.InferenceServerClient(triton_server.url, concurrency=4) as client:
        want = client.model("digits").batched(IMAGE=digits[0])["SCORES"]
    found = pq.read_table(target).sort_by("id")
    assert found["id"].to_pylist() == [*range(ROWS)]
    scores = np.array(found["scores"].to_pylist(), np.float32)
    np.testing.assert_allclose(scores, np.resize(want, (ROWS, 10)), atol=1e-5)


@pytest.mark.parametrize("name", ["ray_scoring", "spark_scoring"])
def test_the_examples_score_all_images(
    name: str, python: str, triton_server: Any, digits: Any, found: Any
) -> None:
    right = int((found == digits[1]).sum())
    printed = run(python, f"{name}.py", triton_server.url, cwd=EXAMPLES)
    assert printed.splitlines()[-1].endswith(f"{right} of {len(found)} digits are right")
