"""The way of rows through a run: read ahead, sent in several calls at a time, written behind, committed in parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

import pyarrow as pa

from .._calls.flow import Throttle
from .._calls.retry import Retry
from .._clients.model_base import Outputs
from ..errors import BulkError, InferenceServerException, InvalidRequest, ServerError
from ._ahead import Behind, ahead
from ._checkpoint import Committed, Manifest
from ._chunks import Chunk, chunks
from ._columns import Columns
from ._sinks import Part, Sink
from ._sources import Source

__all__ = ["Engine", "Patience", "Plan", "Tally"]

OnError = Literal["raise", "skip", "record"]

#: The most bytes of a call's inputs: half of what Triton takes by default, 64 MiB.
_MOST_BYTES = 32 << 20
#: The least rows of a part, and the share of the rows before it that it may have: so much may have to be done again.
_LEAST_PART, _SHARE_OF_PART = 8192, 128
#: Statuses that say nothing of the rows.
_NOT_OF_ROWS = ("401", "403", "404", "407", "429", "502", "503", "504")
#: Chunks that are read ahead, and that wait to be written.
_AHEAD = 2


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
        self.tally = Tally()
        self._throttle = Throttle(plan.most) if plan.in_flight == "auto" else None
        self._limit = plan.batch_size
        self._version: str | None = None
        self._sent: dict[int, tuple[Chunk, slice]] = {}
        #: Chunks that are not written yet, in the order of their rows.
        self._open: deque[Chunk] = deque()
        self._parts: dict[int, Part] = {}
        self._expected: dict[int, int] = {}
        self._written: dict[int, int] = {}
        self._places: dict[int, tuple[int, int]] = {}
        self._next = len(manifest.parts)

    def run(self) -> None:
        """Compute all rows that are not committed, and commit them."""
        plan, parts = self._plan, self._manifest.parts
        self.tally.resumed = sum(part.rows + part.failed for part in parts)
        self.tally.rows = sum(part.rows for part in parts)
        self.tally.failed = sum(part.failed for part in parts)
        self._tell(self.tally)
        start = (parts[-1].fragment, parts[-1].row) if parts else (0, 0)
        chunks = ahead(self._prepared(*start), _AHEAD)
        behind = Behind(self._write, _AHEAD)
        try:
            limit: Any = plan.in_flight if self._throttle is None else self._throttle
            answers = plan.model.map(
                self._calls(chunks, behind),
                in_flight=limit,
                ordered=plan.ordered,
                copy=False,
                return_exceptions=True,
                outputs=plan.columns.requested,
                **plan.options,
            )
            try:
                for answer in answers:
                    self._take(answer)
                    self._deliver(behind)
            finally:
                answers.close()
            self._deliver(behind)
            behind.end()
        except BaseException:
            behind.stop()
            for part in self._parts.values():
                part.drop()
            raise
        finally:
            chunks.close()  # type: ignore[attr-defined]

    # -- reading --

    def _prepared(self, fragment: int, row: int) -> Iterator[Chunk]:
        """Yield the chunks, each with the part that it belongs to; runs on the thread that reads."""
        plan = self._plan
        number, order, rows, done = self._next, 0, 0, self.tally.resumed
        before: Chunk | None = None
        for chunk in chunks(plan.source, fragment, row, plan.needed, plan.batch_size):
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

    def _calls(self, chunks: Iterator[Chunk], behind: Behind[Chunk]) -> Iterator[dict[str, Any]]:
        number = 0
        for chunk in chunks:
            if chunk.failures and self._plan.on_error == "raise":
                first = chunk.failures[0]
                raise self._error(chunk, first.row, first.column, first.reason, len(chunk.failures))
            self._open.append(chunk)
            rows, start = chunk.left, 0
            size = _bytes(chunk.arrays) / max(1, rows)
            while start < rows:
                limit = max(1, min(self._limit, int(_MOST_BYTES / max(1.0, size))))
                part = slice(start, min(rows, start + limit))
                self._sent[number] = chunk, part
                number += 1
                self.tally.calls += 1
                yield {name: array[part] for name, array in chunk.arrays.items()}
                start = part.stop
            if not rows:
                self._deliver(behind)

    def _take(self, answer: Any) -> None:
        if answer.index not in self._sent:
            raise answer  # of the source
        chunk, rows = self._sent.pop(answer.index)
        while self._patience.seen:
            now = self._patience.seen.popleft()
            self.tally.repeated += 1
            if self._throttle is not None:
                self._throttle.finished(now, 0.0, 0, True)
        self.tally.in_flight = len(self._sent)
        if isinstance(answer, Outputs):
            self._check_version(answer)
            chunk.answer(rows, answer)
        else:
            self._failed(chunk, rows, answer)
        self._tell(self.tally)

    def _check_version(self, answer: Outputs) -> None:
        version = answer.result._layout.version if answer.result is not None else None
        if version and self._version is None:
            self._version = version
        elif version and version != self._version:
            raise BulkError(
                f"model {self._plan.model.name!r}: the server has changed from version {self._version} to {version}"
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
        failed = [(rows, error)]
        while failed:
            halves = [half for some, _ in failed for half in _halves(some)]
            for some, why in failed:
                if some.stop - some.start == 1:
                    if self._plan.on_error == "raise":
                        raise self._refused(chunk, some, why) from why
                    chunk.fail(some.start, str(why))
            failed = []
            self.tally.calls += len(halves)
            items = ({name: array[half] for name, array in chunk.arrays.items()} for half in halves)
            for half, answer in zip(halves, self._again(items), strict=True):
                if isinstance(answer, Outputs):
                    chunk.answer(half, answer)
                elif isinstance(answer, ServerError) and answer.status() not in _NOT_OF_ROWS:
                    failed.append((half, answer))
                else:
                    raise answer

    def _again(self, items: Iterator[Any]) -> Iterator[Any]:
        plan = self._plan
        return plan.model.map(  # type: ignore[no-any-return]
            items,
            in_flight=4,
            copy=False,
            return_exceptions=True,
            outputs=plan.columns.requested,
            **plan.options,
        )

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

    def _deliver(self, behind: Behind[Chunk]) -> None:
        """Hand over the chunks that are done; in the order of their rows if that is wanted."""
        if not self._plan.ordered:
            done = [chunk for chunk in self._open if chunk.left == 0]
            self._open = deque(chunk for chunk in self._open if chunk.left)
            for chunk in done:
                behind.put(chunk)
            return
        while self._open and self._open[0].left == 0:
            behind.put(self._open.popleft())

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
                        f"postprocess must always return the columns that it did at first, {plan.schema.names}; got"
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
        self._manifest.commit(Committed(number, part.rows, part.failed, *self._places.pop(number)))
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
