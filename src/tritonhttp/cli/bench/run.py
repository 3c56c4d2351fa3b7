"""A whole run: the load, its levels or its search, and what came of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..common import SERVER, Failure, Setup
from .data import Requests
from .load import ThreadLoad
from .measure import Progress, Rule, Step, measure
from .processes import ProcessesLoad
from .schedule import Level
from .search import Found, Slo, Trial, search
from .server_side import Server

__all__ = ["Outcome", "Plan", "execute"]

#: Where a search ends in any case.
_MOST_RATE, _MOST_CONCURRENCY = 1e6, 4096


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do.

    Attributes
    ----------
    levels : sequence of Level
        For a search, the range that it may try.
    slo : Slo, optional
        Search the highest level that keeps it.
    in_flight : int
        The most requests in flight in an open loop.
    sequences : int
        Sequences side by side in an open loop; 0: none.
    """

    levels: Sequence[Level]
    rule: Rule
    slo: Slo | None = None
    in_flight: int = 256
    sequences: int = 0
    processes: int = 1
    asyncio: bool = False
    shared_memory: bool = False
    retries: int = 0


@dataclass
class Outcome:
    """What came of a run so far."""

    steps: list[Step] = field(default_factory=list)
    found: Found | None = None
    interrupted: bool = False
    #: Why the run ended early: every request of a level failed.
    failure: Failure | None = None


def _client_options(plan: Plan, connections: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if plan.shared_memory:
        options["shared_memory"] = "auto"
    if plan.retries:
        from ... import Retry

        options["retry"] = Retry(attempts=plan.retries + 1)
    return options


def _build(setup: Setup, plan: Plan, requests: Requests, most: int, index: int, parts: int) -> Any:
    """Make the load of one process."""
    workers = -(-most // parts)
    options = _client_options(plan, workers)
    fixed = bool(plan.sequences)
    if not plan.asyncio:
        client = setup.client(concurrency=workers, **options)
        return ThreadLoad(client, requests, workers, fixed=fixed, index=index, parts=parts)
    from .load_aio import AioLoad

    connect = partial(_connect, setup, workers, options)
    return AioLoad(connect, requests, workers, fixed=fixed, index=index, parts=parts)


def _connect(setup: Setup, connections: int, options: dict[str, Any]) -> Any:
    return setup.aio_client(conn_limit=connections, **options)


def execute(
    setup: Setup,
    plan: Plan,
    requests: Requests,
    *,
    server: Server | None = None,
    progress: Callable[[str], Progress | None] = lambda name: None,
    after: Callable[[Step], None] = lambda step: None,
) -> Outcome:
    """Carry a plan out. Ctrl-C ends it; what was measured until then is in the outcome."""
    outcome = Outcome()
    closed = [level for level in plan.levels if not level.open]
    most = plan.in_flight
    if closed:
        most = max(level.concurrency for level in closed)
    if plan.sequences:
        most = plan.sequences
    requests = replace(requests, parts=most)
    if plan.processes > 1:
        load: Any = ProcessesLoad(partial(_build, setup, plan, requests, most), plan.processes)
    else:
        load = _build(setup, plan, requests, most, 0, 1)

    def step(level: Level) -> Step:
        done = measure(
            load,
            level,
            plan.rule,
            server=server,
            progress=progress(str(level)),
            metrics=[
                name for name in (plan.rule.metric, plan.slo.metric if plan.slo else "avg") if name != "avg"
            ],
            processes=plan.processes,
            asyncio=plan.asyncio,
        )
        outcome.steps.append(done)
        outcome.interrupted = done.interrupted
        after(done)
        outcome.failure = _nothing_but_errors(done)
        if outcome.failure is not None:
            raise outcome.failure
        return done

    try:
        if plan.slo is None:
            for level in plan.levels:
                if outcome.interrupted:
                    break
                step(level)
        else:
            _search(plan, plan.slo, outcome, step)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except Failure:
        if outcome.failure is None:
            raise
    finally:
        load.close()
    return outcome


def _nothing_but_errors(step: Step) -> Failure | None:
    if step.figures.count or not step.figures.failed or step.interrupted:
        return None
    kind = max(step.figures.errors, key=lambda name: step.figures.errors[name])
    return Failure(f"every request failed: {kind}: {step.words.get(kind, '')}", SERVER)


def _search(plan: Plan, slo: Slo, outcome: Outcome, step: Callable[[Level], Step]) -> None:
    first, last = plan.levels[0], plan.levels[-1]
    bounded = len(plan.levels) > 1
    if first.open and not bounded and first.rate <= 0:
        # Where to begin: what one request after another reaches.
        probe = step(replace(first, concurrency=1, rate=0.0))
        outcome.steps.pop()
        if probe.interrupted:
            return
        first = replace(first, rate=max(probe.figures.throughput.value, 0.1))
    start = first.value
    least = first.value if bounded else (1.0 if not first.open else 0.01)
    most = last.value if bounded else (_MOST_RATE if first.open else _MOST_CONCURRENCY)
    outcome.found = Found()
    trials = search(start, least=least, most=most, whole=not first.open, found=outcome.found)
    level = next(trials)
    while True:
        if first.open:
            done = step(replace(first, rate=level))
        else:
            done = step(replace(first, concurrency=int(level)))
        if done.interrupted:
            return
        rate = level if first.open else 0.0
        try:
            level = trials.send(Trial(level, slo.missed(done.figures, rate), slo.close(done.figures)))
        except StopIteration:
            return


def now_in_epoch() -> int:
    """Return the zero of the clock of the records, in nanoseconds since 1970."""
    return time.time_ns() - time.perf_counter_ns()
