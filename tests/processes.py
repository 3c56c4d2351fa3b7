"""Forked children, and programs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import tritonhttp

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def in_child(work: Callable[[], object]) -> int:
    """Do the work in a forked child, which exits with 1 if it raises and is killed if it hangs; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is tested
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        work()
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_program(source: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program that may import the library under test and modules of the tests."""
    paths = [os.getcwd(), str(Path(tritonhttp.__file__).parents[1])]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
