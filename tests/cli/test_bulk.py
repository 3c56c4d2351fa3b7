"""``tritonhttp bulk`` as a process that signals end in the middle: it says how to go on, and that is so."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tritonhttp

from ..clients import wait_until
from .conftest import COMMAND, Ran, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its processes get no signals")

#: Doubles numbers; of one below 0 it waits for a file.
WAITS = """
import os
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            while (x < 0).any() and not os.path.exists({gate!r}):
                time.sleep(0.01)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2)]))
        return answers
"""
ROWS, STUCK, PART = 64, 40, 8


class Job:
    """A run that stops at a row until its gate is opened."""

    def __init__(self, folder: Path, url: str, *sink: str) -> None:
        self.gate, self.out = folder / "gate", folder / sink[0]
        inside = not self.out.suffix
        self._manifest = (
            self.out / "_manifest.jsonl" if inside else self.out.with_name(f"{self.out.name}.manifest")
        )
        self.words = ["bulk", str(folder / "in.parquet"), str(self.out), "--model", "waits", *sink[1:]]
        self._environment = environment(TRITON_URL=url)
        x = np.arange(ROWS, dtype=np.float32)
        x[STUCK] = -1
        self.expected = pa.table({"id": np.arange(ROWS), "Y": (2 * x[:, None]).tolist()})
        pq.write_table(pa.table({"id": np.arange(ROWS), "X": x}), folder / "in.parquet", row_group_size=PART)

    @contextmanager
    def begun(self, stderr: int | IO[str] = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
        """Start the command."""
        process = subprocess.Popen(
            [*COMMAND, *self.words], stdout=subprocess.PIPE, stderr=stderr, text=True, env=self._environment
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def lines(self) -> list[Any]:
        """Return what the manifest says."""
        try:
            content = self._manifest.read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line.partition(" ")[2]) for line in content.splitlines()]

    def committed(self) -> int:
        return sum(line["part"][1] for line in self.lines() if "part" in line)

    def finishes(self, *without: str) -> Ran:
        """Run the command to its end; check the table, and that nothing else is left."""
        self.gate.touch()
        words = [word for word in self.words if word not in without]
        ended = subprocess.run(
            [*COMMAND, *words, "--json"], capture_output=True, text=True, timeout=60, env=self._environment
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert pq.read_table(self.out).select(["id", "Y"]).to_pydict() == self.expected.to_pydict()
        assert not [path for path in self.out.parent.rglob("*") if path.suffix == ".tmp"]
        return Ran(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def job(triton_server: Any, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Make a run into a sink, with more words behind that."""
    assert triton_server.pid  # a server elsewhere would see no gate
    config = {
        "backend": "python",
        "max_batch_size": 4,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [1]}],
        "instance_group": [{"kind": "KIND_CPU", "count": 2}],
    }
    code = WAITS.format(gate=str(tmp_path / "gate")).encode()
    with tritonhttp.InferenceServerClient(triton_server.url) as client:
        client.load_model("waits", config=json.dumps(config), files={"file:1/model.py": code})
        yield lambda *sink: Job(
            tmp_path, triton_server.url, *sink, "--checkpoint", str(PART), "--keep", "id,X"
        )
        (tmp_path / "gate").touch()
        client.unload_model("waits")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_ends_the_run_and_the_same_command_goes_on(
    job: Callable[..., Job], number: int, code: int
) -> None:
    run = job("out")
    with run.begun() as process:
        wait_until(lambda: run.committed() == STUCK, 60)
        process.send_signal(number)
        run.gate.touch()  # it waits for the calls under way, some seconds at the most
        out, err = process.communicate(timeout=30)
    done = run.committed()
    words = f"interrupted with {done} rows committed to {run.out}; the same command goes on from there"
    assert (process.returncode, out, err) == (code, "", f"tritonhttp: {words}\n")
    assert {path.name for path in run.out.iterdir()} == {
        "_manifest.jsonl",
        "_parts",
        *(f"part-{part:07}.parquet" for part in range(done // PART)),
    }
    assert run.finishes().json["resumed"] == done


def test_ctrl_c_again_and_again_is_no_traceback(job: Callable[..., Job]) -> None:
    run = job("out.parquet")
    with run.begun() as process:
        wait_until(lambda: run.committed() == STUCK, 60)

        def is_over() -> bool:
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        wait_until(is_over, 30)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert len(err.splitlines()) == 1, err
    assert "the same command goes on" in err
    assert not run.out.exists()
    assert run.finishes().json["resumed"] == STUCK


def test_ctrl_c_before_the_first_part_ends_the_bar_and_says_what_goes_on(job: Callable[..., Job]) -> None:
    run = job("out.parquet", "--overwrite")
    run.words += ["--checkpoint", "1000"]
    screen, other = pty.openpty()
    os.set_blocking(screen, False)
    seen = b""

    def shows(words: bytes) -> bool:
        nonlocal seen
        with suppress(OSError):  # nothing is there yet, or the other side is closed
            seen += os.read(screen, 1 << 16)
        return words in seen

    with open(screen, "rb"), open(other, "wb") as stderr, run.begun(stderr) as process:  # type: ignore[arg-type]
        stderr.close()
        wait_until(lambda: shows(b"rows/s"), 60)
        process.send_signal(signal.SIGINT)
        run.gate.touch()
        wait_until(lambda: shows(b"goes on from there\r\n"), 30)
        process.wait(30)
    assert process.returncode == 130
    text = seen.decode()
    way = "the same command without --overwrite goes on from there"
    words = f"interrupted with 0 rows committed to {run.out}; {way}"
    assert text.endswith(f"tritonhttp: {words}\r\n")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
    assert "Traceback" not in text
    assert not run.out.exists()
    assert run.finishes("--overwrite").json["resumed"] == 0
