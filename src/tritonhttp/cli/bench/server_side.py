"""What the server says of the same window: its statistics, and GPU and memory from metrics within reach."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ...errors import InferenceServerException
from .. import scrape
from ..common import Failure, Setup
from ..counters import Counters, ServerFigures, added, difference, figures_of, gauges_of, of_statistics

__all__ = ["Server", "figures_between", "read_statistics"]

_TIMEOUT = 2.0


def read_statistics(replies: Iterable[Any], model: str, version: str) -> Counters:
    """Add up the counters of a model over servers and versions."""
    return added(
        counters
        for reply in replies
        for (name, its), counters in of_statistics(reply).items()
        if name == model and (not version or its == version)
    )


def figures_between(before: Counters, after: Counters) -> ServerFigures | None:
    """Return what happened between two readings; None if the server was asked nothing, or restarted."""
    change = difference(before, after)
    figures = None if change is None else figures_of(change)
    return figures if figures is not None and figures.requests else None


class Server:
    """Asks the servers about a model. What cannot be had is left out.

    Parameters
    ----------
    setup : Setup
        Makes a client of its own, so that this does not take the load's connections.
    metrics_url : str, optional
        None: port 8002 of the first server.
    """

    def __init__(self, setup: Setup, model: str, version: str, metrics_url: str | None) -> None:
        self._setup, self.model, self._version = setup, model, version
        self._client = setup.client()
        self._metrics = metrics_url
        self._asked = metrics_url is not None
        self._counts = True
        #: Each gauge since `begin`.
        self.gauges: dict[str, list[float]] = {}
        if metrics_url is None:
            with suppress(Failure):
                self._metrics = scrape.address(setup, setup.urls[0])

    def begin(self) -> None:
        """Forget the gauges."""
        self.gauges = {}

    def snapshot(self) -> Counters | None:
        """Return the statistics as they are now; None where the server keeps none."""
        if not self._counts:
            return None
        try:
            replies = self._client.on_each(
                lambda one: one.get_inference_statistics(self.model, self._version)
            )
        except InferenceServerException:
            self._counts = False
            return None
        return read_statistics(replies.values(), self.model, self._version)

    def look(self) -> None:
        """Read the metrics once; never again if they are not there, which is an error if their URL was given."""
        if self._metrics is None:
            return
        try:
            samples = scrape.read(replace(self._setup, deadline=_TIMEOUT), self._metrics)
        except (InferenceServerException, ImportError):
            self._metrics = None
            if self._asked:
                raise
            return
        for name, value in gauges_of(samples).items():
            self.gauges.setdefault(name, []).append(value)

    def close(self) -> None:
        """Close the client."""
        self._client.close()
