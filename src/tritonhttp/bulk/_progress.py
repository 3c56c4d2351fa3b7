"""How far a run is: a bar on a terminal, elsewhere a line of the log every half minute."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from ._engine import Tally

__all__ = ["shown"]

logger = logging.getLogger("tritonhttp.bulk")

#: Seconds between two lines of the log, and between two changes of the bar.
_LINES, _CHANGES = 30.0, 0.1


@contextlib.contextmanager
def shown(progress: Any, what: str, total: int | None) -> Iterator[Callable[[Tally], object]]:
    """Give what takes the tally, for the block.

    Parameters
    ----------
    progress : bool, callable or None
        None: a bar if standard error is a terminal, otherwise the log. True: a bar. False: nothing. A callable is
        given the rows that are done, and all, None if that is not known.
    """
    if callable(progress):
        yield _seldom(lambda tally: progress(tally.rows + tally.failed, total), _CHANGES)
    elif progress is False:
        yield lambda tally: None
    elif progress or sys.stderr.isatty():
        with _bar(what, total) as tell:
            yield _seldom(tell, _CHANGES)
    else:
        yield _seldom(_logged(what, total), _LINES, skip_first=True)


def _seldom(
    tell: Callable[[Tally], object], seconds: float, skip_first: bool = False
) -> Callable[[Tally], object]:
    before = monotonic() if skip_first else -1e9

    def told(tally: Tally) -> None:
        nonlocal before
        now = monotonic()
        if now - before >= seconds:
            before = now
            tell(tally)

    return told


def _logged(what: str, total: int | None) -> Callable[[Tally], None]:
    begun, first = monotonic(), None

    def tell(tally: Tally) -> None:
        nonlocal first
        done = tally.rows + tally.failed
        first = tally.resumed if first is None else first
        rate = (done - first) / max(1e-9, monotonic() - begun)
        share = f" of {total:,} ({done / total:.0%}), {_left(total - done, rate)}" if total else ""
        logger.info(
            "%s: %s rows%s, %s rows/s, %d failed, %d calls under way",
            what,
            f"{done:,}",
            share,
            f"{rate:,.0f}",
            tally.failed,
            tally.in_flight,
        )

    return tell


def _left(rows: int, rate: float) -> str:
    if rate <= 0:
        return "time left unknown"
    minutes, seconds = divmod(round(rows / rate), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left"


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[Tally], None]]:
    from rich import progress
    from rich.console import Console

    begun = monotonic()
    columns: tuple[Any, ...] = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]} rows/s"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[failed]} failed, {task.fields[in_flight]} under way"),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, rate="-", failed=0, in_flight=0)

        def tell(tally: Tally) -> None:
            done = tally.rows + tally.failed
            rate = (done - tally.resumed) / max(1e-9, monotonic() - begun)
            bars.update(
                task, completed=done, rate=f"{rate:,.0f}", failed=tally.failed, in_flight=tally.in_flight
            )

        yield tell
        bars.update(task, completed=bars.tasks[0].completed if total is None else total)
