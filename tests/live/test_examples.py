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


def ended(name: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, with text on its standard input."""
    return subprocess.run(
        [sys.executable, "-W", "error", f"{name}.py", *arguments],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
        input=given,
        env={**os.environ, "PYTHONPATH": str(Path(tritonhttp.__file__).parents[1])},
    )


def run(name: str, *arguments: str, given: str = "") -> str:
    """Run an example as a user does, and return what it prints."""
    done = ended(name, *arguments, given=given)
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
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    listed = re.findall(
        r"\((\w+)\)=\n\n### \1\.py\n\n.*\n\n```{literalinclude} \.\./examples/\1\.py$", page, re.M
    )
    assert sorted(listed) == sorted(names)
    tests = [Path(__file__), *(ROOT / "tests" / "integration").glob("test_*.py")]
    run_by_tests = "".join(path.read_text() for path in tests)
    assert [name for name in sorted(names) if name not in run_by_tests] == []


def test_every_example_can_be_read_at_a_glance() -> None:
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    del lines["digits_data.py"]  # not a program
    assert len(lines) > 10
    assert {name: count for name, count in lines.items() if not 20 <= count <= 60} == {}


def test_jpeg_files_are_classified(triton_server: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="a dependency of the tests only")
    with np.load(Path(tritonhttp.__file__).parent / "testing" / "data" / "digits.npz") as data:
        images, labels = data["images"][:5], data["labels"][:5]
    files = []
    for number, pixels in enumerate(images):
        files.append(tmp_path / f"{number}.jpg")
        large = np.kron(pixels.reshape(8, 8) * 15.9, np.ones((8, 8)))
        image.fromarray(large.astype(np.uint8)).save(files[-1], quality=95)
    lines = run("image_classification", triton_server.url, *map(str, files)).splitlines()
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    found = [re.match(r"(\d)\.jpg: (\w+) \d+%, \w+ \d+%, \w+ \d+%$", line) for line in lines]
    assert [each and each[2] for each in found] == [words[label] for label in labels]


def test_lines_of_text_come_back_in_order(triton_server: Any) -> None:
    lines = "".join(f"line {number}: früh, 早\n" for number in range(100))
    assert run("text_batches", triton_server.url, given=lines) == lines
    assert run("text_batches", triton_server.url, given="") == ""


def test_a_chat_shows_tokens_and_goes_on_after_an_error(triton_server: Any, chat: None) -> None:
    done = ended("chat", triton_server.url, given="Hello\nAgain\n\n")
    assert done.returncode == 0
    assert done.stdout == "> Hello to you\n> Hello to you\n> "
    assert re.fullmatch(r"(\(\d+\.\d\d s to the first token\)\n){2}", done.stderr)
    done = ended("chat", triton_server.url, "no_such_model", given="Hello\n\n")
    assert (done.returncode, done.stdout) == (0, "> > ")
    assert "no_such_model" in done.stderr


def test_a_file_is_scored(triton_server: Any, verdict: str) -> None:
    pytest.importorskip("pyarrow", reason="a dependency of the tests only")
    assert run("dataset_scoring", triton_server.url).splitlines() == ["400 of 400 rows, 0 failed", verdict]


def test_a_load_test_compares_with_its_baseline(triton_server: Any, tmp_path: Path) -> None:
    pytest.importorskip("hdrh", reason="a dependency of the tests only")
    baseline = tmp_path / "baseline.json"
    first = ended("load_test", triton_server.url, str(baseline))
    assert (first.returncode, first.stdout.splitlines()[-1:]) == (0, [f"wrote {baseline}"])
    again = ended("load_test", triton_server.url, str(baseline))
    assert again.returncode in (0, 4)  # 4: something else kept the machine busy
    assert "p99" in again.stdout


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
