"""``examples/torch_dataloader.py``, and its dataset in every kind of worker process."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from .conftest import EXAMPLES


def run(python: str, *arguments: str) -> str:
    done = subprocess.run(
        # torch warns if the machine has fewer cores than the loader has workers.
        [python, "-W", "error", "-W", "ignore:This DataLoader will create", *arguments],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=300,  # spawned workers import torch again, which takes a minute on a busy machine
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_scores_every_digit(
    python: str, triton_server: Any, digits: Any, found: Any, workers: str
) -> None:
    right = (found == digits[1]).sum()
    shown = run(python, "torch_dataloader.py", triton_server.url, workers)
    assert shown == f"{right} of {len(found)} digits are right\n"


EPOCHS = """
import sys
import digits_data
from torch.utils.data import DataLoader
from torch_dataloader import Scored
import tritonhttp

if __name__ == "__main__":
    url, method, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = tritonhttp.InferenceServerClient(url, concurrency=2)
    client.model("digits").refresh()  # the parent has a connection when it forks
    images = digits_data.load()[0][:333]
    loader = DataLoader(
        Scored(client, images),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    for epoch in range(2):
        for rows, scores in loader:
            print(epoch, *(f"{row}:{digit}" for row, digit in zip(rows.tolist(), scores.argmax(1).tolist())))
    client.model("digits")(IMAGE=images[:1])
"""


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 2), ("forkserver", 2)])
def test_workers_give_every_row_once_in_each_epoch(
    python: str, triton_server: Any, found: Any, tmp_path: Any, method: str, workers: int
) -> None:
    program = tmp_path / "epochs.py"
    program.write_text(EPOCHS)
    lines = run(python, str(program), triton_server.url, method, str(workers)).splitlines()
    expected = sorted(f"{row}:{digit}" for row, digit in enumerate(found[:333]))
    for epoch in "01":
        pairs = [pair for line in lines for pair in line.split()[1:] if line.startswith(epoch)]
        assert sorted(pairs) == expected
