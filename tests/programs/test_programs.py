"""Each program of `programs/` twice: with the real tritonclient, and on this library through its runner.

Output and exit code are compared. What the programs don't show are the differences that docs/differences.md lists.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).with_name("programs")
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))


class Ran(NamedTuple):
    code: int
    output: str
    errors: str


def run(command: list[str], places: dict[str, str], number: int) -> Ran:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Lines as they come, so that those of child processes stand where they were written.
    environment.update(places, NUMBER=str(number), PYTHONUNBUFFERED="1", PYTHONHASHSEED="0")
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, reference: str, places: dict[str, str]
) -> Iterator[dict[str, Future[tuple[Ran, Ran]]]]:
    """Run the programs that are asked for, two at a time."""
    wanted = {
        item.callspec.params.get("program") for item in request.session.items if hasattr(item, "callspec")
    }

    def both(number: int, program: str) -> tuple[Ran, Ran]:
        path = str(FOLDER / f"{program}.py")
        return (
            run([reference, path], places, 2 * number + 1),
            run([sys.executable, "-m", "tritonhttp.as_tritonclient", path], places, 2 * number + 2),
        )

    with ThreadPoolExecutor(2) as pool:
        yield {
            program: pool.submit(both, number, program)
            for number, program in enumerate(PROGRAMS)
            if program in wanted
        }


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_does_the_same_with_both(program: str, runs: dict[str, Future[tuple[Ran, Ran]]]) -> None:
    theirs, ours = runs[program].result()
    lines = difflib.unified_diff(
        theirs.output.splitlines(), ours.output.splitlines(), "tritonclient", "tritonhttp", lineterm=""
    )
    difference = "\n".join(lines)
    assert not difference, f"{difference}\n-- stderr\n{theirs.errors}\n--\n{ours.errors}"
    assert theirs.code == ours.code, f"{theirs.errors}\n--\n{ours.errors}"
    assert theirs.output, theirs.errors
