"""The module of tasks in docs/sharing.md, in Celery's pools of forked workers and of threads."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import PATIENCE

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"
#: Tasks go through files in place of Redis.
FILES = """
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={{
        "data_folder_in": "{queue}", "data_folder_out": "{queue}", "control_folder": "{control}"
    }},
    result_backend="file://{results}",
)
"""
SEND = """
import json, sys
import tasks

images = json.load(sys.stdin)
parts = [images[start : start + 20] for start in range(0, len(images), 20)]
waiting = [tasks.score.delay(part) for part in parts]
print(json.dumps([scores for each in waiting for scores in each.get(timeout=60)]))
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_tasks_score_every_digit(
    pool: str, python: str, triton_server: Any, digits: Any, found: Any, tmp_path: Path
) -> None:
    (block,) = re.findall(r"^```python\n([^`]*from celery[^`]*)^```$", PAGE.read_text("utf-8"), re.MULTILINE)
    places = {name: tmp_path / name for name in ("queue", "control", "results")}
    for place in places.values():
        place.mkdir()
    program = block.replace("localhost:8000", triton_server.url) + FILES.format(**places)
    (tmp_path / "tasks.py").write_text(program)
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [
                *(python, "-m", "celery", "-A", "tasks", "worker", "--pool", pool, "--concurrency", "2"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        sent = subprocess.run(
            [python, "-c", SEND],
            cwd=tmp_path,
            input=json.dumps(digits[0].tolist()),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert sent.returncode == 0, sent.stderr + log.read_text()
        worker.terminate()
        worker.wait(PATIENCE)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    assert np.argmax(json.loads(sent.stdout), axis=1).tolist() == found.tolist()
    assert "Traceback" not in log.read_text()
