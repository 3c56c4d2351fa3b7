"""The way of rows through a run: read ahead, sent in concurrent calls, written behind, committed in parts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

import pyarrow as pa

from .._calls.flow import Throttle, is_overload
from .._calls.retry import Retry
from .._clients.model_base import Outputs
from ..errors import BulkError, InferenceServerException, InvalidRequest, ServerError
from ._ahead import Behind, ahead
from ._checkpoint import Committed, Manifest
from ._chunks import Chunk, chunks
from ._columns import Columns
from ._crew import Crew, closed
from ._sinks import Part, Sink
from ._sources import Source

__all__ = ["Engine", "Patience", "Plan", "Tally"]

OnError = Literal["raise", "skip", "record"]

#: The most bytes of a call's inputs: half of what Triton takes by default, 64 MiB.
_MOST_BYTES = 32 << 20
#: The least rows of a part, and the share of the rows before it that it may have: so much may be done again.
_LEAST_PART, _SHARE_OF_PART = 8192, 128
#: Statuses that say nothing of the rows.
_NOT_OF_ROWS = ("401", "403", "404", "407", "429", "502", "503", "504")
#: Chunks that are read ahead, and that wait to be written.
_AHEAD = 2
#: The first number of calls in flight where it is found out: a few too many cost a batch run nothing.
_START = 16
#: The most chunks that are not written yet, and the seconds between two looks of a thread that waits for room.
_MOST_OPEN, _LOOK = 16, 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does."""

    source: Source
    sink: Sink
    model: Any
    columns: Columns
    schema: Any
    batch_size: int
    most: int
    in_flight: int | Literal["auto"]
    ordered: bool
    on_error: OnError
    checkpoint: int | None
    needed: list[str] | None
    preprocess: Callable[[Any], Any] | None
    postprocess: Callable[[Any], Any] | None
    options: dict[str, Any]


@dataclass(slots=True)
class Tally:
    """What a run has done so far; `repeated` counts the tries of calls beyond the first."""

    rows: int = 0
    failed: int = 0
    calls: int = 0
    repeated: int = 0
    resumed: int = 0
    in_flight: int = 0


class Patience(Retry):
    """Retries that the run is told of: its control has to know what the client hides from it."""

    def __init__(self, given: Retry) -> None:
        names = ("attempts", "on", "backoff", "jitter", "max_backoff")
        super().__init__(**{name: getattr(given, name) for name in names})
        object.__setattr__(self, "seen", deque())

    def applies(self, result: int | BaseException, repeatable: bool) -> bool:
        """Return whether to try again, and note that."""
        found = Retry.applies(self, result, repeatable)
        if found:
            self.seen.append(monotonic())  # type: ignore[attr-defined]
        return found


class Engine:
    """One run. `tell` is called with the tally again and again."""

    def __init__(
        self, plan: Plan, manifest: Manifest, patience: Any, tell: Callable[[Tally], object]
    ) -> None:
        self._plan, self._manifest, self._patience, self._tell = plan, manifest, patience, tell
        self.tally = Tally(
            rows=sum(part.computed for part in manifest.parts),
            failed=sum(part.failed for part in manifest.parts),
        )
        self.tally.resumed = self.tally.rows + self.tally.failed
        self._throttle = Throttle(plan.most, _START) if plan.in_flight == "auto" else None
        self._limit = plan.batch_size
        self._version: str | None = None
        #: Guards the tally, the throttle and the chunks; `_delivering` the order in which they are written.
        self._state, self._delivering = threading.Condition(), threading.Lock()
        #: Chunks that are not written yet, in the order of their rows.
        self._open: list[Chunk] = []
        #: The chunks of short parts may have one call each.
        self._most_open = _MOST_OPEN if plan.checkpoint is None else max(_MOST_OPEN, plan.most)
        self._parts: dict[int, Part] = {}
        self._expected: dict[int, int] = {}
        self._written: dict[int, int] = {}
        self._places: dict[int, tuple[int, int]] = {}
        self._next = len(manifest.parts)

    def run(self) -> None:
        """Compute all rows that are not committed, and commit them.

        Raises
        ------
        BulkError
            If the source has given another number of rows than it said that it has.
        """
        plan, parts, tally = self._plan, self._manifest.parts, self.tally
        self._tell(self.tally)
        start = (parts[-1].fragment, parts[-1].row) if parts else (0, 0)
        found = ahead(self._prepared(*start), _AHEAD)
        self._behind = behind = Behind(self._write, _AHEAD)
        limit = plan.in_flight if plan.in_flight != "auto" else 0
        self._crew = Crew(
            self._calls(found), self._call, lambda: limit if self._throttle is None else self._throttle.limit
        )
        try:
            self._crew.run(lambda: self._tell(self.tally))
            self._deliver()
            behind.end()
            self._tell(self.tally)
        except BaseException:
            behind.stop()
            for part in self._parts.values():
                part.drop()
            raise
        finally:
            closed(found)
        if plan.source.rows not in (None, tally.rows + tally.failed):
            raise BulkError(
                f"the source has {plan.source.rows:,} rows, and {tally.rows + tally.failed:,} came of it: it has"
                " changed in the middle of the run"
            )

    # -- reading --

    def _prepared(self, fragment: int, row: int) -> Iterator[Chunk]:
        """Yield the chunks, each with the part that it belongs to; runs on the thread that reads."""
        plan = self._plan
        number, order, rows, done = self._next, 0, 0, self.tally.resumed
        before: Chunk | None = None
        for chunk in chunks(plan.source, fragment, row, plan.needed, plan.batch_size, plan.checkpoint):
            chunk.prepare(plan.columns, plan.preprocess)
            if before is not None:
                yield before
            chunk.order = order
            order += 1
            rows += len(chunk.batch)
            done += len(chunk.batch)
            chunk.part = number
            if rows >= (plan.checkpoint or max(_LEAST_PART, done // _SHARE_OF_PART)):
                chunk.last = True
                number, order, rows = number + 1, 0, 0
            before = chunk
        if before is not None:
            before.last = True
            yield before

    # -- calls --

    def _calls(self, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, slice]]:
        for chunk in chunks:
            if chunk.failures and self._plan.on_error == "raise":
                first = chunk.failures[0]
                raise self._error(chunk, first.row, first.column, first.reason, len(chunk.failures))
            with self._state:
                # What is done behind a slow call waits in memory until that has ended.
                while len(self._open) >= self._most_open and not self._crew.is_over:
                    self._state.wait(_LOOK)
                self._open.append(chunk)
            rows, start = chunk.left, 0
            size = _bytes(chunk.arrays) / max(1, rows)
            while start < rows:
                limit = max(1, min(self._limit, int(_MOST_BYTES / max(1.0, size))))
                part = slice(start, min(rows, start + limit))
                yield chunk, part
                start = part.stop
            if not rows:
                self._deliver()

    def _call(self, call: tuple[Chunk, slice]) -> None:
        """Carry out a call; runs on several threads."""
        chunk, rows = call
        with self._state:
            self.tally.in_flight += 1
        begun = monotonic()
        answer: Any = None
        failure: InferenceServerException | None = None
        try:
            answer = self._ask(chunk, rows)
        except InferenceServerException as error:
            failure = error
        now = monotonic()
        with self._state:
            self.tally.in_flight -= 1
            self._tell_throttle(now, now - begun, failure)
            if failure is None:
                chunk.answer(rows, answer)
        if failure is not None:
            self._failed(chunk, rows, failure)
        if chunk.left == 0:
            self._deliver()
        if self._throttle is not None:
            self._crew.grow()

    def _ask(self, chunk: Chunk, rows: slice) -> Outputs:
        """Call the model with some rows of a chunk."""
        plan = self._plan
        with self._state:
            self.tally.calls += 1
        arrays = {name: array[rows] for name, array in chunk.arrays.items()}
        answer: Outputs = plan.model(arrays, outputs=plan.columns.requested, **plan.options)
        self._check_version(answer)
        return answer

    def _tell_throttle(self, now: float, latency: float, failure: InferenceServerException | None) -> None:
        overloaded = is_overload(failure)
        while self._patience.seen:
            self._patience.seen.popleft()
            self.tally.repeated += 1
            overloaded = True
        if self._throttle is not None:
            self._throttle.finished(now, latency, failure is None, overloaded)

    def _check_version(self, answer: Outputs) -> None:
        version = answer.result._layout.version if answer.result is not None else None
        if version and self._version is None:
            self._version = version
        elif version and version != self._version:
            raise BulkError(
                f"model {self._plan.model.name!r}: the server changed from version {self._version} to {version}"
                " in the middle of the run; give version=… to stay with one"
            )

    def _failed(self, chunk: Chunk, rows: slice, error: InferenceServerException) -> None:
        """Find the rows with which a call fails, by calls of fewer and fewer rows."""
        too_large = isinstance(error, ServerError) and _is_too_large(error)
        if too_large and rows.stop - rows.start > 1:
            self._limit = max(1, min(self._limit, (rows.stop - rows.start) // 2))
        elif isinstance(error, InvalidRequest) or not isinstance(error, ServerError):
            raise error
        elif error.status() in _NOT_OF_ROWS or self._plan.on_error == "raise":
            raise self._refused(chunk, rows, error) from error
        waiting = [(rows, error)]
        while waiting:
            some, why = waiting.pop()
            if some.stop - some.start == 1:
                if self._plan.on_error == "raise":
                    raise self._refused(chunk, some, why) from why
                with self._state:
                    chunk.fail(some.start, str(why))
            for half in reversed(_halves(some)):
                try:
                    answer = self._ask(chunk, half)
                except ServerError as again:
                    if again.status() in _NOT_OF_ROWS:
                        raise
                    waiting.append((half, again))
                else:
                    with self._state:
                        chunk.answer(half, answer)

    def _refused(self, chunk: Chunk, rows: slice, error: InferenceServerException) -> BulkError:
        count = rows.stop - rows.start
        which = "this row" if count == 1 else f"this row and the {count - 1} behind it"
        return self._error(chunk, chunk.number(rows.start), None, f"the call for {which} failed: {error}", 1)

    def _error(self, chunk: Chunk, row: int, column: str | None, reason: str, count: int) -> BulkError:
        fragment, number = chunk.place(row)
        file = self._plan.source.fragments[fragment].name
        where = f"{file}: row {number}{f', column {column!r}' if column else ''}"
        more = f" ({count} such rows among {len(chunk.batch)})" if count > 1 else ""
        error = BulkError(f'{where}: {reason}{more}; on_error="record" goes on without such rows')
        error.file, error.row, error.column = file, number, column
        return error

    # -- writing --

    def _deliver(self) -> None:
        """Hand over the chunks that are done; in the order of their rows if that is wanted."""
        with self._delivering:
            while True:
                with self._state:
                    found = next((chunk for chunk in self._open if chunk.left == 0), None)
                    if found is None or (self._plan.ordered and found is not self._open[0]):
                        return
                self._behind.put(found)
                with self._state:
                    self._open.remove(found)
                    self._state.notify_all()

    def _write(self, chunk: Chunk) -> None:
        """Write a chunk, and commit the parts that are complete; runs on the thread that writes."""
        plan, number = self._plan, chunk.part
        part = self._parts.get(number)
        if part is None:
            part = self._parts[number] = plan.sink.part(number, plan.schema)
        found = chunk.result(plan.columns, plan.schema)
        if found is not None:
            if plan.postprocess is not None:
                found = plan.postprocess(found)
            for batch in found.to_batches() if isinstance(found, pa.Table) else [found]:
                if not batch.schema.equals(plan.schema):
                    raise InvalidRequest(
                        f"postprocess must always return the columns of its first result, {plan.schema.names}; got"
                        f" {batch.schema.names}"
                    )
                part.write(batch)
        part.computed += len(chunk.batch) - len(chunk.failures)
        for failure in sorted(chunk.failures, key=lambda each: each.row):
            fragment, row = chunk.place(failure.row)
            about = {"file": plan.source.fragments[fragment].name, "row": row, "column": failure.column}
            part.fail({**about, "reason": failure.reason}, plan.on_error == "record")
        self._written[number] = self._written.get(number, 0) + 1
        self._note(chunk)
        while self._expected.get(self._next) == self._written.get(self._next, 0):
            self._commit(self._next)

    def _note(self, chunk: Chunk) -> None:
        if chunk.last:
            self._expected[chunk.part] = chunk.order + 1
            self._places[chunk.part] = chunk.fragment, chunk.row

    def _commit(self, number: int) -> None:
        part = self._parts.pop(number)
        part.commit()
        self._manifest.commit(
            Committed(number, part.rows, part.computed, part.failed, *self._places.pop(number))
        )
        del self._expected[number], self._written[number]
        self._next += 1
        self.tally.rows += part.computed
        self.tally.failed += part.failed


def _halves(rows: slice) -> list[slice]:
    if rows.stop - rows.start < 2:
        return []
    middle = (rows.start + rows.stop) // 2
    return [slice(rows.start, middle), slice(middle, rows.stop)]


def _is_too_large(error: ServerError) -> bool:
    """Whether a server refuses a request for its size."""
    text = str(error.message()).lower()
    return error.status() == "413" or (
        error.status() in ("400", "500") and ("maximum allowed input size" in text or "too large" in text)
    )


def _bytes(arrays: dict[str, Any]) -> int:
    """Return how many bytes arrays take, of text the elements themselves."""
    return sum(
        sum(map(len, array.ravel().tolist())) if array.dtype.kind == "O" else array.nbytes
        for array in arrays.values()
    )
