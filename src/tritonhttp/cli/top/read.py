"""Asks servers, each beside the others: one that is slow keeps none of them waiting.

A server is asked again only when it has answered, or when its deadline is over.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ...errors import InferenceServerException, ProtocolError, ServerError, TransportError
from .. import scrape
from ..common import Failure, Setup
from ..counters import Key, of_metrics, of_statistics
from ..output import one_line
from .state import Reading, Server

__all__ = ["Watch"]

#: The most seconds for an answer, unless --deadline says otherwise.
_DEADLINE, _LOOK_DEADLINE = 5.0, 2.0


class _Reader:
    """Asks one server."""

    def __init__(self, setup: Setup, server: Server) -> None:
        deadline = _DEADLINE if setup.deadline is None else setup.deadline
        self._client = replace(setup, url=[server.url], deadline=deadline).aio_client()
        self.server = server
        #: Why it could not be read last.
        self.error: InferenceServerException | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._began = 0.0
        self._looked_at = 0.0

    def start(self) -> asyncio.Task[None]:
        """Ask for what was not asked for yet; return the task of the statistics."""
        self.server.fresh = False
        if self.server.metrics_url:
            self._task("look", self._look)
        if (reading := self._tasks.get("read")) is None or reading.done():
            self._began = time.monotonic()
        return self._task("read", self._read)

    def _task(self, name: str, work: Any) -> asyncio.Task[None]:
        task = self._tasks.get(name)
        if task is None or task.done():
            coroutine: Coroutine[Any, Any, None] = work()
            task = self._tasks[name] = asyncio.create_task(coroutine)
        return task

    async def looked(self) -> None:
        """Wait for the metrics that were asked for."""
        if (look := self._tasks.get("look")) is not None:
            await asyncio.wait({look})

    def late(self) -> None:
        """Note that it has not answered yet."""
        self.server.wait(time.monotonic() - self._began)

    async def _read(self) -> None:
        try:
            reading = await self._statistics()
            if not self.server.name:
                with suppress(ServerError, ProtocolError):  # the statistics are there all the same
                    await self._ask_name()
        except InferenceServerException as error:
            self.error = error
            self.server.name = ""  # it may come back as another version
            self.server.fail(_brief(error))
            return
        self.error = None
        if reading is not None:
            self.server.take(reading, time.time())

    async def _statistics(self) -> Reading | None:
        sent = time.monotonic()
        try:
            reply: Any = await self._client.get_inference_statistics()
        except (ServerError, ProtocolError) as error:
            return await self._without(sent, error)
        try:
            counters = of_statistics(reply)
            last = {
                (str(entry["name"]), str(entry.get("version", ""))): int(entry.get("last_inference", 0))
                for entry in reply.get("model_stats") or ()
            }
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError):
            return await self._without(sent, ProtocolError("its statistics are not in Triton's form"))
        return Reading(sent=sent, at=time.monotonic(), counters=counters, last=last)

    async def _without(self, sent: float, error: ServerError | ProtocolError) -> Reading | None:
        """Return what a server says that gives no statistics; None if it has said nothing new."""
        try:
            await self._ask_name()
        except TransportError:
            raise
        except InferenceServerException:
            raise error from None
        words = f"no statistics ({_brief(error)})"
        await self.looked()
        counters = of_metrics(self.server.samples)
        if counters:
            if self.server.looked_at == self._looked_at:
                return None
            before, self._looked_at = self._looked_at, self.server.looked_at
            return Reading(
                sent=before,
                at=self._looked_at,
                counters=counters,
                source="metrics",
                words=f"{words}: figures of the metrics",
            )
        states = await self._states()
        more = "only the states of its models" if states else "only that it answers"
        return Reading(
            sent=sent, at=time.monotonic(), states=states, source="index", words=f"{words}: {more}"
        )

    async def _states(self) -> Mapping[Key, str]:
        with suppress(InferenceServerException, TypeError, AttributeError):
            index: Any = await self._client.get_model_repository_index()
            return {
                (str(entry.get("name")), str(entry.get("version") or "")): str(
                    entry.get("state") or "not loaded"
                )
                for entry in index
            }
        return {}

    async def _ask_name(self) -> None:
        about: Any = await self._client.get_server_metadata()
        about = about if isinstance(about, Mapping) else {}
        self.server.name = one_line(str(about.get("name") or "")) or "a server"
        self.server.version = one_line(str(about.get("version") or ""))

    async def _look(self) -> None:
        sent = time.monotonic()
        url = self.server.metrics_url
        try:
            metrics = await self._client.metrics(url, deadline=_LOOK_DEADLINE)
        except InferenceServerException as error:
            self.server.look_failed(f"no metrics at {url}: {_brief(error)}")
            return
        self.server.look(scrape.samples_of(metrics), sent, time.monotonic())

    async def close(self) -> None:
        """End what is under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.close()


class Watch:
    """Asks several servers, round by round.

    Parameters
    ----------
    setup : Setup
    metrics : sequence of str
        Where their metrics are, in the order of the servers; empty: port 8002 of each.
    """

    def __init__(self, setup: Setup, metrics: Sequence[str] = ()) -> None:
        urls = list(dict.fromkeys(setup.urls))
        if metrics and len(metrics) != len(urls):
            raise Failure(f"--metrics-url: expected one for each of {len(urls)} servers, got {len(metrics)}")
        self.servers = [
            Server(url, _metrics_url(setup, url, metrics[n] if metrics else "")) for n, url in enumerate(urls)
        ]
        self._readers: list[_Reader] = []
        self._setup = setup

    async def __aenter__(self) -> Watch:
        self._readers = [_Reader(self._setup, server) for server in self.servers]
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(reader.close() for reader in self._readers))

    async def first(self, *, all_of_them: bool) -> None:
        """Ask the first time, until all have answered or could not, or the first one has.

        Raises
        ------
        InferenceServerException
            If no server could be read: why the first one could not.
        """
        tasks = {reader.start() for reader in self._readers}
        while tasks:
            done, tasks = await asyncio.wait(
                tasks, return_when=asyncio.ALL_COMPLETED if all_of_them else asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            if any(reader.error is None and reader.server.fresh for reader in self._readers):
                return
        for reader in self._readers:
            if reader.error is not None:
                raise reader.error

    async def round(self, patience: float) -> None:
        """Ask all servers, and wait at most so many seconds for the slowest; if infinite, for the metrics too."""
        tasks = {reader.start(): reader for reader in self._readers}
        done, late = await asyncio.wait(tasks, timeout=None if patience == math.inf else patience)
        for task in done:
            task.result()
        for task in late:
            tasks[task].late()
        if patience == math.inf:
            for reader in self._readers:
                await reader.looked()


def _brief(error: InferenceServerException) -> str:
    """Return what went wrong, where the server that it was is named already."""
    words = one_line(str(error.message()))
    return re.sub(r"^(GET|POST) \S+: ", "", words)


def _metrics_url(setup: Setup, url: str, given: str) -> str:
    if given:
        return given if "://" in given else f"http://{given}"
    try:
        return scrape.address(setup, url)
    except Failure:
        return ""
