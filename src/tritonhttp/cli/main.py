"""The entry point of ``tritonhttp``: arguments in, exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_OPTIONAL = {"typer", "click", "rich", "shellingham"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code. Without a command, say what of this library is here.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``tritonhttp``. None: those of this process.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given in ([], ["--json"]) and "_TRITONHTTP_COMPLETE" not in os.environ:
        from .about import main as about

        return about(given)
    try:
        from .app import run
        from .common import CLOSED, INTERRUPTED
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in _OPTIONAL:
            raise
        print(
            f"tritonhttp: the command line needs the package {error.name}: pip install 'tritonhttp[cli]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130
    code = run(given)
    if code == INTERRUPTED and arguments is None:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C, while the interpreter ends
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has left, such as `head`
        code = CLOSED
    if code == CLOSED:
        # The interpreter must not flush into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
