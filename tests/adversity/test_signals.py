"""Time limits hold while signals come that the program handles, and what a handler raises ends a call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .under_signals import CASES, LIMIT, MODES, OF_ASYNCIO

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs timers, pthread_kill and poll's POLLRDHUP"
)

RAISES = "a handler that raises"
#: Where signals arrive, which ones, and whether their handler was there before the client and its connections.
PROGRAMS = [
    ("other threads", "one SIGCHLD", "before"),
    ("other threads", "SIGUSR1 every 0.3 s", "before"),
    ("other threads", "SIGUSR1 every 0.3 s", "after"),
    ("other threads", "SIGUSR1 every 0.02 s", "after"),
    ("event loop", "SIGUSR1 every 0.3 s", "before"),
    ("event loop", "SIGALRM every 0.02 s", "after"),
    ("main thread", "one SIGCHLD", "after"),
    ("main thread", "SIGUSR1 every 0.3 s", "before"),
    ("main thread", "SIGALRM every 0.3 s", "after"),
    ("main thread", "SIGALRM every 0.02 s", "before"),
    ("main thread", "SIGALRM every 0.02 s", "after"),
    ("main thread", RAISES, "before"),
]


@pytest.fixture(scope="module")
def lines_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Any]]:
    """Return the lines of a program. Those on a main thread, one case after the other, run beside all others."""
    folder = tmp_path_factory.mktemp("signals")
    running: dict[tuple[str, ...], tuple[Path, Path, subprocess.Popen[bytes]]] = {}

    def start(program: tuple[str, str, str]) -> None:
        # Into files, not pipes: nobody reads while they run.
        out, err = (folder / f"{len(running)}.{kind}" for kind in ("out", "err"))
        command = [sys.executable, "-m", "tests.adversity.under_signals", *program]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=Path(__file__).parents[2])
        running[program] = out, err, process

    def lines_of(program: tuple[str, str, str]) -> dict[str, Any]:
        if program not in running:
            start(program)
        out, err, process = running[program]
        process.wait(120)
        complaint = err.read_text()
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert process.returncode == 0, f"it stands still behind {found[-1:]}: {complaint}"
        assert not complaint
        return {line["case"]: line for line in found}

    selected = [_program_of(item) for item in request.session.items]
    for program in PROGRAMS:
        if program[0] == "main thread" and program in selected:
            start(program)
    yield lines_of
    for _, _, process in running.values():
        process.kill()
        process.wait()


def _program_of(item: pytest.Item) -> Any:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("program") if callspec is not None else None


def id_of(program: tuple[str, str, str]) -> str:
    return "{}, {}, handled {}".format(*program)


@pytest.mark.parametrize("program", [each for each in PROGRAMS if each[1] != RAISES], ids=id_of)
def test_limits_hold_while_signals_come(lines_of: Any, program: tuple[str, str, str]) -> None:
    lines = lines_of(program)
    assert lines.keys() == set(OF_ASYNCIO if program[0] == "event loop" else CASES)
    amiss = []
    for name, line in lines.items():
        case = CASES[name]
        expected = {"get_result": "ResultNotReady: failed to obtain", "metadata": "ServerError"}
        ended = line["outcome"].startswith(("DeadlineExceeded", expected.get(case.call, "DeadlineExceeded")))
        if not ended or not LIMIT - case.early <= line["took"] <= LIMIT + case.late:
            amiss.append(f"{name}: {line['outcome']} after {line['took']:.2f} s")
    assert not amiss, "\n".join([f"expected an end after {LIMIT} s", *amiss])


@pytest.mark.parametrize("program", [each for each in PROGRAMS if each[1] == RAISES], ids=id_of)
def test_an_exception_of_a_handler_ends_the_call(lines_of: Any, program: tuple[str, str, str]) -> None:
    lines = lines_of(program)
    assert lines.keys() == CASES.keys()
    assert {
        name: line for name, line in lines.items() if line["outcome"] != "Raised: " or line["took"] > LIMIT
    } == {}
    # The next call is served at once.
    assert {
        name: line for name, line in lines.items() if not isinstance(line["next"], float) or line["next"] > 1
    } == {}


def test_every_mode_is_run() -> None:
    assert {mode for _, mode, _ in PROGRAMS} == MODES.keys()
