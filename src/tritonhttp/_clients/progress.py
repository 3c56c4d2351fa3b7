"""Progress of many inferences: a caller's function, or a bar of tqdm or rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import InvalidRequest, MissingDependency

__all__ = ["Progress", "Report", "reporting"]

#: Called with how much is done, and how much there is; None where that is not known.
Report = Callable[[int, "int | None"], object]
Progress = bool | Report


@contextlib.contextmanager
def reporting(progress: Progress, what: str, unit: str) -> Iterator[Report | None]:
    """Give what tells of progress, for the block; None if nobody wants to know.

    Raises
    ------
    InvalidRequest
        If `progress` is neither callable nor a bool.
    MissingDependency
        If a bar is wanted and neither tqdm nor rich is installed.
    """
    if progress is False or progress is None:
        yield None
    elif callable(progress):
        yield progress
    elif progress is True:
        with _bar(what, unit) as report:
            yield report
    else:
        raise InvalidRequest(f"progress must be True, False or a callable, got {progress!r:.80}")


@contextlib.contextmanager
def _bar(what: str, unit: str) -> Iterator[Report]:
    try:
        from tqdm.auto import tqdm  # pyright: ignore[reportMissingModuleSource]
    except ImportError:
        with _rich_bar(what) as told:
            yield told
        return
    with tqdm(desc=what, unit=unit) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


@contextlib.contextmanager
def _rich_bar(what: str) -> Iterator[Report]:
    try:
        from rich import progress
    except ImportError as error:
        raise MissingDependency(
            "progress=True needs tqdm or rich: pip install tqdm; a callable needs neither"
        ) from error
    columns: Any = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
    )
    with progress.Progress(*columns, progress.TimeRemainingColumn()) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
