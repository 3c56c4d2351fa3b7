"""``run``: a dataset through a served model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature as signature_of
from time import monotonic
from typing import Any, Literal

import pyarrow as pa

from .._basics.hints import nearest
from .._basics.log import logger
from .._calls.retry import Retry
from .._clients.blocking.client import InferenceServerClient
from .._clients.given import CallOptions
from .._clients.model_base import ModelBase
from .._transport.policy import positive
from ..errors import InvalidCall, InvalidRequest, ServerError
from . import _sinks
from ._checkpoint import Manifest, described
from ._columns import Columns
from ._engine import Engine, OnError, Patience, Plan
from ._given import source_of
from ._progress import shown
from ._sinks import Sink
from ._sources import Source, schema_text

__all__ = ["PATIENCE", "Report", "run"]

#: Connections to each server if nobody says how many calls may be under way, and the most in all.
_CONNECTIONS, _MOST_CONNECTIONS = 32, 128
#: Rows of a call to a model that does not say how many it takes.
_BATCH = 1024
#: A run is long: a server may be away for a minute.
PATIENCE = Retry(attempts=10, backoff=0.1, max_backoff=15.0)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run has done.

    Attributes
    ----------
    rows, failed : int
        Rows of the input that were computed, and that could not be; with those of earlier runs that this one went
        on with.
    resumed : int
        Those of earlier runs.
    calls, retried : int
        Calls of the model in this run, and further tries of them.
    seconds : float
    output, errors : str
        The names of the output, and of the file of failed rows; that is empty if there is none.
    """

    rows: int
    failed: int
    resumed: int
    calls: int
    retried: int
    seconds: float
    output: str
    errors: str = ""


def run(
    source: Any,
    sink: Any,
    *,
    model: str,
    url: str | Sequence[str] = "localhost:8000",
    version: str = "",
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, Any] | None = None,
    keep: Sequence[str] | None = None,
    batch_size: int | None = None,
    in_flight: int | Literal["auto"] = "auto",
    ordered: bool = True,
    on_error: OnError = "raise",
    preprocess: Callable[[Any], Any] | None = None,
    postprocess: Callable[[Any], Any] | None = None,
    resume: bool | None = None,
    overwrite: bool = False,
    checkpoint: int | None = None,
    cast: bool = False,
    refuse_nan: bool = False,
    progress: bool | Callable[[int, int | None], object] | None = None,
    options: CallOptions | None = None,
    client: InferenceServerClient | None = None,
    **client_options: Any,
) -> Report:
    """Run a served model on each row of a dataset, and write the results; every row is in the output once.

    Parameters
    ----------
    source : path, URI, frame, table or iterable
        A file: Parquet, Arrow (.arrow, .feather, .ipc, .arrows), CSV, JSON lines, .npy or .npz; a folder of files
        of one of these formats, of partitions of Parquet (``day=1/…``), or of images; a pandas or polars frame, a
        ``pyarrow`` table, reader or dataset; an iterable of dicts, a row each, or of record batches. URIs are
        those of ``pyarrow.fs``, such as ``s3://bucket/rows``.
    sink : path or URI
        A name without an ending: a folder of Parquet files. Otherwise one file: .parquet, .arrow, .arrows, .csv,
        .jsonl, .npy or .npz. It appears when it is complete.
    model, version : str
        An empty version is the server's choice; the run stops if that changes.
    url : str or sequence of str
        The server, or several, as a client takes it.
    inputs : mapping of str to str, optional
        The column of each input of the model. None: those of the inputs' names.
    outputs : mapping of str to str or pyarrow.Field, optional
        The column for each output. None: all, under their names.
    keep : sequence of str, optional
        The columns of the source that the output has too. None: all.
    batch_size : int, optional
        The most rows of a call. None: the model's max_batch_size. Calls have fewer where rows are large, so that a
        request stays below 64 MiB, and where the server refuses one for its size.
    in_flight : int or "auto"
        How many calls may be under way. "auto" finds out what gives the highest throughput.
    ordered : bool
        True: the output has the order of the source. False: rows come as they are done, in groups of up to some
        thousand.
    on_error : "raise", "skip" or "record"
        What to do about a row that does not fit the model (null, of another shape, not UTF-8, NaN with
        `refuse_nan`), or with which the model fails: stop with an error that names it, leave it out, or leave it
        out and write its file, row, column and reason to the file of failed rows. The rows of a call that fails
        are tried in smaller and smaller groups to find those.
    preprocess : callable, optional
        Called with each record batch of the source, on another thread; returns one with as many rows.
    postprocess : callable, optional
        Called with each record batch of results, on another thread; returns one, always of the same columns.
    resume : bool, optional
        True: go on with the run that was begun with the same arguments, or begin it. A run that is complete is not
        done again. False: refuse the output of an earlier run. None: True for files, whose changes are noticed;
        False for frames and iterables, which must be the same again and cannot be compared.
    overwrite : bool
        True: remove what is there of an earlier run. Otherwise an existing output is refused.
    checkpoint : int, optional
        The rows after which work is committed, and so the most that is done again; whole calls, so up to a batch
        more. None: 8192, later 1/128 of the rows that are done.
    cast, refuse_nan : bool
        Whether numbers may be rounded to the model's datatype, and whether NaN makes a row bad.
    progress : bool or callable, optional
        None: a bar if standard error is a terminal, otherwise a line of the log every 30 seconds.
    options : CallOptions, optional
        Those of each call, such as ``parameters`` or ``headers``. Calls are declared idempotent if they do not say
        otherwise: they are repeated if a connection breaks.
    client : InferenceServerClient, optional
        The blocking client to use, in place of one that is made of `url` and of the options below.
    **client_options
        Those of the client, such as ``ssl``, ``retry`` or ``shared_memory``.

    Returns
    -------
    Report

    Raises
    ------
    BulkError
        For a row that cannot be computed, with its file, row and column; for a run that cannot go on because the
        source, the model or an option has changed, with what.
    InvalidRequest
        For arguments that cannot be used.
    InferenceServerException
        If the server cannot be reached, or fails for other reasons than the rows of a call.
    KeyboardInterrupt
        After Ctrl-C, within some seconds, and with words on how to go on.
    """
    if on_error not in ("raise", "skip", "record"):
        raise InvalidRequest(f'on_error must be "raise", "skip" or "record", got {on_error!r:.80}')
    if resume and overwrite:
        raise InvalidRequest("resume and overwrite exclude each other: go on, or begin anew")
    if in_flight != "auto":
        positive(in_flight, "in_flight")
    if not isinstance(model, str):
        advice = f", {model.name!r}, and client= its client" if isinstance(model, ModelBase) else ""
        raise InvalidRequest(f"model must be the name of a model{advice}; got {model!r:.80}")
    unknown = next((name for name in client_options if name not in _CLIENT_OPTIONS), None)
    if unknown is not None:
        near = nearest(unknown, (*_OPTIONS, *_CLIENT_OPTIONS, *_MEANT)) or ""
        meant = f"; did you mean {_MEANT.get(near, near)!r}?" if near else ""
        raise InvalidCall(
            f"run has no option {unknown!r}{meant}; it has {', '.join(_OPTIONS)}, and those of the client"
        )
    begun = monotonic()
    rows, target = source_of(source), Sink(sink)
    onward = _onward(resume, overwrite, rows.shows_changes)
    if resume is None:
        resume = rows.shows_changes and not overwrite
    with _client(client, url, in_flight, client_options) as (found, patience, most):
        served = found.model(model, version)
        signature = served.refresh().signature
        assert signature is not None  # just read
        columns = Columns(
            signature, inputs=inputs, outputs=outputs, keep=keep, refuse_nan=refuse_nan, cast=cast
        )
        limit = signature.max_batch_size or batch_size or _BATCH
        size = limit if batch_size is None else min(positive(batch_size, "batch_size"), limit)
        plan = Plan(
            source=rows,
            sink=target,
            model=served,
            columns=columns,
            schema=_schema(rows, columns, preprocess, postprocess),
            batch_size=size,
            most=most,
            in_flight=in_flight,
            ordered=bool(ordered),
            on_error=on_error,
            checkpoint=None if checkpoint is None else positive(checkpoint, "checkpoint"),
            needed=None if preprocess is not None or keep is None else columns.reads(rows.schema.names),
            preprocess=preprocess,
            postprocess=postprocess,
            options={"idempotent": True, **(options or {})},
        )
        _sinks.check(target, plan.schema)
        state = {
            "source": rows.state(),
            "columns": schema_text(rows.schema),
            "model": _model_state(found, model, version),
            "options": described(
                {
                    "inputs": inputs,
                    "outputs": outputs,
                    "keep": keep,
                    "batch_size": batch_size,
                    "ordered": plan.ordered,
                    "on_error": on_error,
                    "preprocess": preprocess,
                    "postprocess": postprocess,
                    "cast": bool(cast),
                    "refuse_nan": bool(refuse_nan),
                    "parameters": (options or {}).get("parameters"),
                }
            ),
        }
        return _carried_out(plan, state, patience, resume, overwrite, progress, begun, onward)


def _carried_out(
    plan: Plan,
    state: dict[str, Any],
    patience: Patience,
    resume: bool,
    overwrite: bool,
    progress: Any,
    begun: float,
    onward: str,
) -> Report:
    sink, name = plan.sink, plan.model.name
    manifest = Manifest(sink.manifest)
    if not overwrite and not manifest.is_begun and sink.is_used():
        raise InvalidRequest(
            f"{sink.place.name}: there is an output already, which no run has begun: overwrite=True replaces it"
        )
    if not overwrite and manifest.is_begun and not resume:
        raise InvalidRequest(
            f"{sink.place.name}: an earlier run has {'made' if manifest.is_done else 'begun'} this output:"
            " resume=True goes on with it, overwrite=True begins anew"
        )
    try:
        sink.prepare()
        manifest.open()
        if overwrite:
            manifest.clear()
            sink.clear()
        manifest.begin(state)
        sink.settle(manifest.parts, plan.on_error == "record", manifest.is_done)
        with shown(progress, name, plan.source.rows) as tell:
            engine = Engine(plan, manifest, patience, tell)
            if not manifest.is_done:
                engine.run()
                sink.finish(manifest.parts, plan.schema)
                manifest.end()
        sink.tidy()
    except KeyboardInterrupt:
        done = sum(part.computed + part.failed for part in manifest.parts)
        words = f"interrupted with {done:,} rows committed to {sink.place.name}; {onward} goes on from there"
        logger.warning("%s: %s", name, words)
        raise KeyboardInterrupt(words) from None
    finally:
        manifest.close()
    tally = engine.tally
    return Report(
        rows=tally.rows,
        failed=tally.failed,
        resumed=tally.resumed,
        calls=tally.calls,
        retried=tally.repeated,
        seconds=monotonic() - begun,
        output=sink.place.name,
        errors=sink.errors.name if plan.on_error == "record" and tally.failed else "",
    )


def _onward(resume: bool | None, overwrite: bool, shows_changes: bool) -> str:
    """Return which call goes on with a run that was begun with these arguments."""
    same = "the same call"
    if resume or (resume is None and shows_changes):
        return f"{same} without overwrite=True" if overwrite else same
    return f"{same} with resume=True{' in place of overwrite=True' if overwrite else ''}"


#: What `run` takes by name, and what it hands to the client that it makes.
_OPTIONS = tuple(name for name in run.__kwdefaults__ or ())
_CLIENT_OPTIONS = tuple(
    name for name in signature_of(InferenceServerClient).parameters if name not in ("url", "concurrency")
)
#: What callers take for options of `run`.
_MEANT = {"columns": "inputs", "concurrency": "in_flight", "max_batch": "batch_size"}


@contextmanager
def _client(
    given: InferenceServerClient | None, url: Any, in_flight: Any, options: dict[str, Any]
) -> Iterator[tuple[InferenceServerClient, Patience, int]]:
    """Give the client, its retries, and how many calls it may have under way."""
    if given is not None:
        if options:
            raise InvalidRequest(f"{', '.join(options)}: options of the client, and there is a client")
        yield given, Patience(Retry()), 2 * given._workers
        return
    servers = 1 if isinstance(url, str) else len(list(url))
    most = min(_CONNECTIONS * servers, _MOST_CONNECTIONS) if in_flight == "auto" else in_flight
    retry = options.pop("retry", PATIENCE)
    patience = Patience(retry if retry is not None else Retry(attempts=1))
    with InferenceServerClient(url, concurrency=most, retry=patience, **options) as client:
        yield client, patience, most


def _schema(source: Source, columns: Columns, preprocess: Any, postprocess: Any) -> Any:
    """Return the output's schema; what a callable makes of it shows on the first row, or on no rows."""
    schema = source.schema
    if preprocess is None and postprocess is None:
        return columns.schema(schema)
    first = next((piece.batch for piece in source.read()), None) if source.can_be_read_again else None
    batch = schema.empty_table() if first is None else first.slice(0, 1)
    if preprocess is not None:
        batch = preprocess(_as_batch(batch, schema))
    result = columns.schema(batch.schema)
    if postprocess is None:
        return result
    return postprocess(_as_batch(result.empty_table(), result)).schema


def _as_batch(found: Any, schema: Any) -> Any:
    if isinstance(found, pa.RecordBatch):
        return found
    return pa.record_batch(
        [
            pa.array([], field.type)
            if not isinstance(field.type, pa.BaseExtensionType)
            else pa.ExtensionArray.from_storage(field.type, pa.array([], field.type.storage_type))
            for field in schema
        ],
        schema=schema,
    )


def _model_state(client: InferenceServerClient, name: str, version: str) -> dict[str, Any]:
    """Return what tells that a model has changed."""
    metadata = client.get_model_metadata(name, version)
    try:
        config: Any = client.get_model_config(name, version)
    except ServerError:
        config = {}
    text = json.dumps(config, sort_keys=True, default=str)
    return {
        "name": name,
        "version": str(version),
        "versions": metadata.get("versions"),
        "inputs": metadata.get("inputs"),
        "outputs": metadata.get("outputs"),
        "configuration": hashlib.sha256(text.encode()).hexdigest()[:16],
    }
