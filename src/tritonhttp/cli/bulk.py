"""The command that runs a model on a dataset."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from .common import SERVER, Ended, Failure, Setup, command, said_here
from .output import facts, show_json

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        example="tritonhttp bulk rows.parquet scores.parquet --model digits --input IMAGE=pixels --overwrite",
    )(bulk)


def bulk(
    setup: Setup,
    source: Annotated[str, typer.Argument(help="A file, a folder or a URI with the rows.")],
    sink: Annotated[str, typer.Argument(help="The output: a file, or a folder of Parquet files.")],
    model: Annotated[str, typer.Option("-m", "--model", metavar="NAME", help="The model.")],
    version: Annotated[str, typer.Option("--model-version", help="A version of the model.")] = "",
    input: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", metavar="NAME=COLUMN", help="The column of an input of the model."),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("-o", "--output", metavar="NAME=COLUMN", help="The column for an output of the model."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="COLUMNS", help="Columns of the source to keep, with commas between."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="The most rows of a call.")] = None,
    in_flight: Annotated[
        str, typer.Option("--in-flight", metavar="CALLS", help="Calls under way, a number or auto.")
    ] = "auto",
    unordered: Annotated[bool, typer.Option("--unordered", help="Write rows as they are done.")] = False,
    on_error: Annotated[
        str, typer.Option("--on-error", metavar="raise|skip|record", help="What to do about a bad row.")
    ] = "raise",
    resume: Annotated[
        bool | None,
        typer.Option("--resume/--no-resume", help="Go on with a run that was ended, or refuse its output."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output.")] = False,
    checkpoint: Annotated[
        int | None, typer.Option("--checkpoint", metavar="ROWS", help="Commit after so many rows.")
    ] = None,
    cast: Annotated[bool, typer.Option("--cast", help="Round numbers to the model's datatype.")] = False,
    refuse_nan: Annotated[bool, typer.Option("--refuse-nan", help="Treat NaN as a bad row.")] = False,
) -> int:
    """Run a model on each row of a dataset; a run that is ended goes on with the same command.

    Exit codes: as of every command, and 1 too if rows failed (with --on-error skip or record).
    """
    options: dict[str, Any] = {
        "model": model,
        "version": version,
        "inputs": _pairs("--input", input),
        "outputs": _pairs("--output", output),
        "keep": None if keep is None else [name for name in keep.split(",") if name],
        "batch_size": batch_size,
        "in_flight": _in_flight(in_flight),
        "ordered": not unordered,
        "on_error": on_error,
        "resume": resume,
        "overwrite": overwrite,
        "checkpoint": checkpoint,
        "cast": cast,
        "refuse_nan": refuse_nan,
    }
    with _ended_by_signals("begins anew" if overwrite else "goes on"):
        report = _run(setup, source, sink, options)
    if setup.json:
        show_json(asdict(report))
    else:
        shown = {
            name: f"{value:,}" if isinstance(value, int) else value for name, value in asdict(report).items()
        }
        shown["seconds"] = f"{report.seconds:.1f}"
        facts([(name, str(value)) for name, value in shown.items() if value])
    return SERVER if report.failed else 0


def _run(setup: Setup, source: str, sink: str, options: dict[str, Any]) -> Any:
    import logging

    from ..bulk._run import PATIENCE, run

    log = logging.getLogger("tritonhttp.bulk")  # not the whole library's: of calls there are many
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    workers = 32 if options["in_flight"] == "auto" else options["in_flight"]
    with setup.client(concurrency=workers, retry=PATIENCE) as client:
        return run(source, sink, client=client, **options)


@contextmanager
def _ended_by_signals(again: str) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, and say in one line how to go on."""
    came = []

    def terminate(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        # Without words it came before the run had begun, or again while that ended.
        words = said_here(str(error)) or f"interrupted; the same command {again}"
        print(f"tritonhttp: {words}", file=sys.stderr)
        raise Ended(128 + (came or [signal.SIGINT])[0]) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_flight(given: str) -> Any:
    if given == "auto":
        return given
    if not given.isdecimal() or int(given) < 1:
        raise Failure(f"--in-flight: expected a number above 0 or auto, got {given!r}")
    return int(given)


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str] | None:
    """Return names and columns; a name alone is its own column."""
    if not given:
        return None
    found = {}
    for each in given:
        name, equals, column = each.partition("=")
        if not name or (equals and not column):
            raise Failure(f"{option}: expected NAME=COLUMN, got {each!r}")
        found[name] = column or name
    return found
