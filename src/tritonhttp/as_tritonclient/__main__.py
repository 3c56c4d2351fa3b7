"""Run a program written for ``tritonclient`` on this library: ``python -m tritonhttp.as_tritonclient program.py``.

The Python processes that it starts also find this library under that name: through PYTHONPATH, and through
``sys.path`` where multiprocessing passes its own on.
"""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import NoReturn

from . import FRONT, install

USAGE = """\
usage: python -m tritonhttp.as_tritonclient program.py [argument ...]
       python -m tritonhttp.as_tritonclient -m module [argument ...]

Run a program written for tritonclient on tritonhttp, without changing it."""


def main(arguments: list[str]) -> None:
    """Run the program that the arguments name."""
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(f"{USAGE}\n")
        return
    as_module = arguments[:1] == ["-m"]
    if as_module:
        arguments = arguments[1:]
    if not arguments or arguments[0].startswith("-"):
        _fail(f"{USAGE}\n\nexpected a program{f', got {arguments[0]}' if arguments else ''}")
    install()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(FRONT), os.environ.get("PYTHONPATH"))))
    sys.path.insert(1, str(FRONT))
    sys.argv[:] = arguments
    if as_module:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif os.path.isdir(arguments[0]) or arguments[0].endswith((".zip", ".pyz")):
        del sys.path[0]
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        _run_script(arguments[0])


def _run_script(path: str) -> None:
    # Not runpy.run_path(): it removes the module after the program's last line, while threads and exit handlers
    # still use it.
    place = os.path.join(os.getcwd(), path)
    try:
        with io.open_code(place) as file:
            source = file.read()
    except OSError as error:
        _fail(f"can't open file {place!r}: [Errno {error.errno}] {error.strerror}")
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    program = ModuleType("__main__")
    loader = SourceFileLoader("__main__", place)
    program.__dict__.update(__file__=place, __loader__=loader, __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = program
    exec(compile(source, place, "exec", dont_inherit=True), program.__dict__)


def _fail(text: str) -> NoReturn:
    sys.stderr.write(f"{text}\n")
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
