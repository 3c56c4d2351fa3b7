"""``tritonhttp top``: its options, and its output without a screen."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from ..common import Failure, Setup, command
from ..output import show_json, table
from .view import (
    COLUMNS,
    Options,
    arranged,
    columns_for,
    gauge_words,
    named,
    rows_of,
    server_json,
    server_words,
)

if TYPE_CHECKING:
    from ..output import Cell
    from .read import Watch
    from .state import Server
    from .view import Row

__all__ = ["add_to"]

_EXAMPLE = """\
tritonhttp top --once
tritonhttp top --once 'digits*' --sort queue
tritonhttp top --json --count 2 --interval 0.5"""
_SORTS = [column.name for column in COLUMNS if column.name != "rate"]
_STYLES = {"live": "green", "away": "red", "slow": "yellow", "restarted": "yellow"}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, example=_EXAMPLE)(top)


def top(
    setup: Setup,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a model's name, or a pattern with * and ?.")
    ] = "",
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", help="Between two looks at the servers.")
    ] = 1.0,
    sort: Annotated[
        str, typer.Option("--sort", metavar="COLUMN", help=f"By which column: {', '.join(_SORTS)}.")
    ] = "inferences",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table after one interval, without a screen.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("--count", metavar="N", min=1, help="Print so many tables, or objects with --json."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics-url",
            metavar="URL",
            help="Where the metrics are; else /metrics on port 8002. One for each server.",
        ),
    ] = None,
) -> int:
    """Watch what servers and their models do, live.

    For each model: its rate, failures, times in queue and model, batch size, cache hits, requests in flight; also
    GPU, CPU and memory, from the metrics. ? lists the keys, q ends. Without a terminal it is as with --once. With
    --json it prints a line with an object for each interval.
    """
    if not (interval >= 0.1 and math.isfinite(interval)):
        raise Failure(f"--interval: expected seconds, at least 0.1, got {interval:g}")
    if sort not in _SORTS:
        raise Failure(f"--sort: expected one of {', '.join(_SORTS)}, got {sort!r}")
    if once and count not in (None, 1):
        raise Failure(f"--once prints one table; without it, --count {count} prints more")
    options = Options(pattern=pattern, sort=sort, reverse=reverse, interval=interval)
    if once:
        count = 1
    if count is None and not setup.json and (missing := _no_screen()):
        print(f"tritonhttp top: {missing}: one table, as with --once", file=sys.stderr)
        count = 1
    import asyncio  # not with every command

    from .read import Watch

    watch = Watch(setup, at or ())
    if setup.json:
        asyncio.run(_print(watch, options, count, _objects))
    elif count is not None:
        asyncio.run(_print(watch, options, count, _tables))
    else:
        from .screen import show

        return show(watch, options)
    return 0


def _no_screen() -> str:
    """Return why there can be no screen."""
    for name, stream in (("stdin", sys.stdin), ("stdout", sys.stdout)):
        if stream is None or stream.closed or not stream.isatty():
            return f"{name} is no terminal"
    return "the terminal is dumb (TERM)" if os.environ.get("TERM", "dumb") == "dumb" else ""


async def _print(
    watch: Watch, options: Options, count: int | None, show: Callable[[Watch, Options, int], None]
) -> None:
    import asyncio

    async with watch:
        await watch.first(all_of_them=True)
        number, due = 0, time.monotonic()
        while count is None or number < count:
            due = max(due + options.interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            # The last time there is nothing to be late for.
            await watch.round(math.inf if number + 1 == count else options.interval)
            show(watch, options, number)
            sys.stdout.flush()
            number += 1


def _chosen(watch: Watch, options: Options) -> list[Row]:
    return arranged(rows_of(watch.servers, fresh=True), options.sort, options.reverse, options.pattern)


def _objects(watch: Watch, options: Options, number: int) -> None:
    del number
    found = {
        "time": round(time.time(), 3),
        "servers": {server.url: server_json(server) for server in watch.servers},
        "models": [row.as_json() for row in _chosen(watch, options)],
    }
    show_json(found, indent=None)


def _tables(watch: Watch, options: Options, number: int) -> None:
    if number:
        print()
    table(("server", "state", "version", "load", ""), [_server(server) for server in watch.servers])
    print()
    rows = _chosen(watch, options)
    several = len(watch.servers) > 1
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6
    columns = [named(name) for name in columns_for(width, rows, several=several, past=False)]
    if not rows:
        print(f"no models like {options.pattern!r}" if options.pattern else "no models")
        return
    table(
        [*(column.title for column in columns), "note"],
        [[column.text(row) for column in columns] + [row.note] for row in rows],
        right=[column.title for column in columns if column.right],
    )


def _server(server: Server) -> list[Cell]:
    about = f"{server.name} {server.version}".strip()
    more = [*server_words(server), server.metrics_words]
    return [
        server.url,
        (server.state, _STYLES.get(server.state, "")),
        about or "-",
        ", ".join(gauge_words(server)) or "-",
        "; ".join(words for words in more if words),
    ]
