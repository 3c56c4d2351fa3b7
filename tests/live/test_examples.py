"""The examples that need nothing but the extra [dev]; ``tests/integration`` runs the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritonhttp

from .api.gateway import Gateway

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str) -> str:
    """Run an example as a user does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", f"{name}.py", *arguments],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(tritonhttp.__file__).parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def verdict(triton_client: Any) -> str:
    """Return what an example must find: as many right digits as a plain call does, which needs rows in order."""
    with np.load(Path(tritonhttp.__file__).parent / "testing" / "data" / "digits.npz") as data:
        images, labels = data["images"].astype(np.float32) / 16, data["labels"]
    right = 0
    for start in range(0, len(images), 50):
        image = tritonhttp.InferInput.from_numpy("IMAGE", images[start : start + 50])
        scores = triton_client.infer("digits", [image]).as_numpy("SCORES")
        right += int((scores.argmax(axis=1) == labels[start : start + 50]).sum())
    assert right > 0.97 * len(labels)
    return f"{right} of {len(labels)} digits are right"


def test_every_example_is_listed_and_run() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"digits_data"}
    listed = re.findall(r"^\| \[(\w+)\.py\]\(examples/\1\.py\) \|", (ROOT / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(names)
    tests = [Path(__file__), *(ROOT / "tests" / "integration").glob("test_*.py")]
    run_by_tests = "".join(path.read_text() for path in tests)
    assert [name for name in sorted(names) if name not in run_by_tests] == []


@pytest.mark.parametrize("name", ["pandas_scoring", "polars_scoring"])
def test_frames_are_scored(triton_server: Any, verdict: str, name: str) -> None:
    pytest.importorskip(name.partition("_")[0], reason="a dependency of the tests only")
    *table, last = run(name, triton_server.url).splitlines()
    assert last == verdict
    assert len(table) > 5


def test_asyncio_tasks_share_one_reading_of_the_model(triton_server: Any, verdict: str) -> None:
    with Gateway(triton_server.url) as gateway:
        assert run("asyncio_tasks", gateway.url).strip() == verdict
        asked = [seen.path for seen in gateway.seen]
        assert asked.count("/v2/models/digits/infer") == 400
        assert asked.count("/v2/models/digits") == 1
        assert gateway.connections <= 16


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_client(triton_server: Any, verdict: str, method: str) -> None:
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("Windows can only spawn")
    assert run("multiprocessing_pool", triton_server.url, method).strip() == verdict


def test_the_url_may_come_from_the_environment(
    triton_server: Any, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_URL", triton_server.url)
    assert run("asyncio_tasks").strip() == verdict
