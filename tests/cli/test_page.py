"""The commands on the pages of docs/, and the examples of each command's help, run on a real Triton."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tritonhttp.testing import packaged_models

from .conftest import COMMAND, Run, environment
from .test_entry import COMMANDS
from .test_infer import digit, saved

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cli.md").read_text("utf-8")
PAGES = "\n".join(
    [PAGE, *(path.read_text("utf-8") for path in sorted(DOCS.glob("*.md")) if path.name != "cli.md")]
)
#: Not run here: they change the environment or the shell, or are about a server of the reader's.
LEFT_OUT = ("pip ", "make ", "tritonhttp --")
LINES = [
    line
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGES)
    for line in block.splitlines()
    if not line.startswith(LEFT_OUT)
]
EXAMPLES = [
    line.strip()
    for command in COMMANDS.values()
    for line in command.epilog.splitlines()
    if line.strip().startswith("tritonhttp ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the examples run in, one after the other, with the files that they name."""
    folder = tmp_path_factory.mktemp("examples")
    saved(folder / "digit.png", digit()[0], (64, 64))
    row = np.arange(16, dtype=np.int32)
    np.savez(folder / "inputs.npz", INPUT0=row, INPUT1=row)
    pixels = pa.FixedSizeListArray.from_arrays(np.zeros(64 * 70, np.float32), 64)
    pq.write_table(pa.table({"id": np.arange(70), "pixels": pixels}), folder / "rows.parquet")
    shutil.copy(packaged_models() / "add_sub" / "1" / "model.py", folder / "model.py")
    program = folder / "tritonhttp"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    return folder


def test_the_page_and_the_help_name_every_command() -> None:
    for words in COMMANDS:
        assert any(line.startswith(f"tritonhttp {words}") for line in EXAMPLES), words
        assert f"tritonhttp {words}" in PAGE, words


#: Each once, whatever comment stands behind it.
DIFFERENT = {tuple(shlex.split(line, comments=True)): line for line in [*LINES, *EXAMPLES]}


@pytest.mark.parametrize("line", [line for line in DIFFERENT.values() if " serve " not in line])
def test_an_example_runs(
    run: Run, line: str, folder: Path, triton_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    line = line.replace("localhost:8000", triton_server.url)
    if " metrics" in line:
        line += f" --metrics-url {triton_server.metrics_url}"
    if "add_sub.json" in line and not (folder / "add_sub.json").exists():
        (folder / "add_sub.json").write_text(json.dumps(run("config", "add_sub").json))
    if line.startswith("tritonhttp bench ") and "--count" not in line:
        line = line.replace(" bench ", " bench --warm-up 0.1 --window 0.2 --windows 3 ", 1)
    words = shlex.split(line, comments=True)
    if words[0] == "tritonhttp" and not {"|", ">"} & set(words):
        ran = run(*words[1:])
        assert ran.err == ""
        assert ran.code in ((0, 4) if "--fail-if" in words else (0,))
        assert ran.out
        if words[1] == "unload":
            assert run("load", words[2]).code == 0
        return
    variables = environment(TRITON_URL=triton_server.url, PATH=f"{folder}:/usr/bin:/bin")
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, env=variables, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
