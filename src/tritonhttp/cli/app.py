"""All commands, and how their words are parsed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer

from .._version import __version__
from . import ask, bulk, change, explain, generate, infer, serve, stub
from .bench import command as bench
from .common import USAGE, Ended
from .top import command as top

__all__ = ["app", "parser", "run"]

app = typer.Typer(
    name="tritonhttp",
    # Plain help is readable in pipes and on narrow terminals, and needs no import of rich.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "TRITON_URL names the server where -u does not. Exit codes: 0 done, 1 an error of the server, 2 wrong use,"
        " 3 the server cannot be reached, 4 a bound was missed."
    ),
)

#: Each adds its commands, in the order of the help.
for _module in (ask, change, infer, generate, bulk, bench, top, explain, serve, stub):
    _module.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tritonhttp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Ask, run and measure a server of the Open Inference Protocol, such as Triton."""


#: The parser's errors, whichever package typer takes them from.
_ParseError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@cache
def parser() -> Any:
    """Return the parser of all commands; typer would make it for each call."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Carry out the command that the words name; return the exit code."""
    try:
        code = parser()(args=list(arguments) or ["--help"], prog_name="tritonhttp", standalone_mode=False)
    except Ended as ended:
        return ended.code
    except _ParseError as error:
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "tritonhttp"
        words = " ".join(error.format_message().split()).rstrip(".")
        print(f"{name}: {words} ({name} --help)", file=sys.stderr)
        return USAGE
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0
