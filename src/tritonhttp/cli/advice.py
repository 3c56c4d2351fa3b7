"""What would make a call faster: rules over its figures and the model's configuration.

A rule is a function of the facts. It returns one sentence with the figure that it stands on, or None. Where a fact
is not known, the rules that need it say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .phases import OPENING, TOGETHER

__all__ = ["LARGE", "RULES", "Facts", "Trial", "advice"]

#: From this size on a tensor is worth shared memory, as the library's own threshold is.
LARGE = 1 << 18
#: A payload that a network can take notice of.
NOTICEABLE = 1 << 16
#: Shares of a call that are worth a sentence.
_QUARTER, _HALF, _MOST = 0.25, 0.5, 0.75
#: Milliseconds below which nothing is worth a change.
_LEAST = 1.0
#: How much slower a first call is, in times and in milliseconds, if its model started cold.
_COLD, _COLD_MS = 3.0, 5.0
_TAIL = 3.0
#: The parts that hold nothing but bytes on their way.
_MOVING = ("send", "network", "send, network, receive", "receive")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a compression did to the request's body, here.

    Attributes
    ----------
    algorithm : str
    before, after : int
        Bytes.
    ms : float
    """

    algorithm: str
    before: int
    after: int
    ms: float

    @property
    def kept(self) -> float:
        """The share of the bytes that is left."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a call. Times are milliseconds, means of the warm calls.

    Attributes
    ----------
    calls : int
        The warm ones.
    total : float
    phases : mapping of str to float
        The parts of the total.
    first : mapping of str to float
        Those of the first call.
    percentiles : mapping of str to float
    queued : tuple of float, or None
        The server's mean time in the queue and altogether, if the parts of the call do not have them.
    opened : int
        How many of the warm calls opened a connection.
    alone : bool
        Whether the server's figures are of these calls only.
    config : mapping or None
        The model's configuration; None where there is none.
    rows : int
        The batch dimension of the request; 0 for a model without.
    sent, received : int
        Bytes of the bodies.
    local : bool
        Whether the server's address is this machine's.
    can_share, shares : bool
        Whether the server has shared memory, and whether it is used.
    as_json : tuple of int, or None
        Bytes of request and answer with tensors as JSON, and with binary ones; None if they are binary.
    trial : Trial or None
    compressed : bool
        Whether the requests were compressed.
    """

    calls: int
    total: float
    phases: Mapping[str, float]
    first: Mapping[str, float] = field(default_factory=dict)
    percentiles: Mapping[str, float] = field(default_factory=dict)
    queued: tuple[float, float] | None = None
    opened: int = 0
    alone: bool = True
    config: Mapping[str, Any] | None = None
    rows: int = 0
    sent: int = 0
    received: int = 0
    local: bool = False
    can_share: bool = False
    shares: bool = False
    as_json: tuple[int, int] | None = None
    trial: Trial | None = None
    compressed: bool = False

    def spent(self, *names: str) -> float:
        """Return the milliseconds of some parts."""
        return sum(self.phases.get(name, 0.0) for name in names)

    def share(self, spent: float) -> float:
        """Return the share of the whole call."""
        return spent / self.total if self.total else 0.0

    def of(self, spent: float) -> str:
        """Return a time and its share, in words."""
        return f"{ms(spent)} of {ms(self.total)} ({self.share(spent):.0%})"

    @property
    def most_rows(self) -> int:
        """The largest batch that the model takes; 0 if it takes none, or does not say."""
        return int((self.config or {}).get("max_batch_size") or 0)

    @property
    def transfer(self) -> float:
        """The time that a request is on its way, at most."""
        return self.spent("send", "network", "send, network, receive")


def ms(value: float) -> str:
    """Format milliseconds."""
    if value >= 100:
        return f"{value:,.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def size(count: int) -> str:
    """Format bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"


# -- rules --


def connections(facts: Facts) -> str | None:
    """Calls that open a connection each, though the client keeps them."""
    if not facts.calls or facts.opened < facts.calls / 2:
        return None
    return (
        f"{facts.opened} of {facts.calls} warm calls opened a connection, {facts.of(facts.spent(*OPENING))}: the"
        " server or a proxy closes it after an answer; let it keep connections alive"
    )


def connecting(facts: Facts) -> str | None:
    """What a client for each call would cost."""
    spent = sum(facts.first.get(name, 0.0) for name in OPENING)
    if facts.opened >= facts.calls / 2 or spent < _LEAST or facts.share(spent) < _QUARTER:
        return None
    return (
        f"opening a connection took {ms(spent)}, and a warm call takes {ms(facts.total)}: make one client and keep"
        " it, since a client for each call pays that each time"
    )


def cold_start(facts: Facts) -> str | None:
    """A first call that the model took longer for."""
    if not facts.alone:
        return None
    name = "compute" if "compute" in facts.phases and "compute" in facts.first else TOGETHER
    first, warm = facts.first.get(name), facts.phases.get(name)
    if first is None or warm is None or first < warm * _COLD or first - warm < _COLD_MS:
        return None
    what = "the model computed" if name == "compute" else "server and network took"
    warm_up = (facts.config or {}).get("model_warmup")
    advice = (
        "the configuration's model_warmup does not cover inputs like these"
        if warm_up
        else "model_warmup in its configuration does that before the model is ready"
    )
    return f"{what} {ms(first)} for the first call, and {ms(warm)} for the warm ones: {advice}"


def queue(facts: Facts) -> str | None:
    """Time in the server's queue."""
    spent, whole = facts.queued or (facts.spent("queue"), facts.total)
    if not whole or spent / whole < _QUARTER:
        return None
    inside = " in the server" if facts.queued else ""
    said = f"requests wait in the queue for {ms(spent)} of {ms(whole)} ({spent / whole:.0%}){inside}"
    config = facts.config
    if config is None:
        return f"{said}: more instances of the model, or batches, would take them sooner"
    if config.get("ensemble_scheduling") is not None:
        return f"{said}: `tritonhttp stats` says for which of the ensemble's models"
    dynamic = config.get("dynamic_batching")
    delay = int((dynamic or {}).get("max_queue_delay_microseconds") or 0) / 1e3
    if delay and spent >= delay / 2:
        return (
            f"{said}, and max_queue_delay_microseconds lets them wait {ms(delay)} for a batch: send"
            " several calls at a time, or lower it"
        )
    if config.get("sequence_batching") is not None:
        return f"{said}: each sequence keeps a slot; more instances, or max_candidate_sequences, give more of them"
    if dynamic is None and facts.most_rows > 1:
        return (
            f"{said}, and dynamic batching is off: dynamic_batching in the configuration lets one execution take"
            f" up to {facts.most_rows} rows"
        )
    count = _instances(config)
    kinds = f"the {count} instances are" if count != 1 else "the only instance is"
    return f"{said}, and {kinds} busy: a higher count in instance_group takes more requests at a time"


def _instances(config: Mapping[str, Any]) -> int:
    groups: Any = config.get("instance_group") or ({},)
    return sum(int(group.get("count") or 1) * max(1, len(group.get("gpus") or ())) for group in groups)


def rows(facts: Facts) -> str | None:
    """One row of a batch, with much around it."""
    sequences = (facts.config or {}).get("sequence_batching") is not None
    if sequences or facts.rows != 1 or facts.most_rows < 2 or "compute" not in facts.phases:
        return None
    around = facts.total - facts.spent("compute", "queue")
    if facts.share(around) < _HALF:
        return None
    return (
        f"the request has 1 row and the model takes {facts.most_rows}; {facts.of(around)} go into what is around"
        " it, once for each call: send rows together, as client.model(…).batched(…) does"
    )


def compute(facts: Facts) -> str | None:
    """A model that takes nearly all of the time."""
    spent = facts.spent("compute")
    if facts.share(spent) < _MOST or spent < _LEAST:
        return None
    return (
        f"the model itself computes for {facts.of(spent)}: only a faster model or device shortens this call;"
        " calls side by side raise the throughput (tritonhttp bench)"
    )


def shared_memory(facts: Facts) -> str | None:
    """Large tensors over the loopback interface."""
    moved = facts.sent + facts.received
    spent = facts.spent(*_MOVING)
    if not (facts.local and facts.can_share) or facts.shares or max(facts.sent, facts.received) < LARGE:
        return None
    if facts.share(spent) < _QUARTER:
        return None
    return (
        f'{size(moved)} go over HTTP to this machine, {facts.of(spent)}: shared_memory="auto" keeps them off the'
        " network (--shared-memory auto tries it)"
    )


def payload(facts: Facts) -> str | None:
    """Bytes that take long on a network."""
    moved = facts.sent + facts.received
    if facts.local or moved < NOTICEABLE:
        return None
    spent = facts.spent(*_MOVING)
    if facts.share(spent) < _QUARTER:
        return None
    which = "answer" if facts.received > facts.sent else "request"
    less = (
        "ask only for the outputs that you need, or for classes"
        if which == "answer"
        else "smaller datatypes (FP16, UINT8) send less"
    )
    return f"{size(moved)} take {facts.of(spent)}, and most of them are the {which}: {less}"


def distance(facts: Facts) -> str | None:
    """A small call to a server that is far away."""
    spent = facts.spent("network")
    if facts.local or facts.sent + facts.received >= NOTICEABLE or spent < _LEAST:
        return None
    if facts.share(spent) < _HALF:
        return None
    return (
        f"the network takes {facts.of(spent)} for {size(facts.sent + facts.received)}: that is distance, or a"
        " proxy's work; send rows together or calls side by side (async_infer), or run nearer to the server"
    )


def json_data(facts: Facts) -> str | None:
    """Tensors as JSON."""
    if facts.as_json is None:
        return None
    text, binary = facts.as_json
    spent = facts.spent("prepare", "decode")
    if text < binary * 1.5 and facts.share(spent) < _QUARTER:
        return None
    return (
        f"with JSON, request and answer have {size(text)} where binary data have {size(binary)}, and preparing and"
        f" decoding take {facts.of(spent)}: send and ask for binary data, which is the default"
    )


def compression(facts: Facts) -> str | None:
    """Compression that would help, or that does not."""
    trial = facts.trial
    if trial is None or not facts.transfer or TOGETHER in facts.phases:
        return None
    sizes = f"{size(trial.after)} of {size(trial.before)} ({trial.kept:.0%})"
    shrunk = f"{trial.algorithm} makes {sizes} in {ms(trial.ms)}"
    if facts.compressed:
        saves = facts.transfer * (1 / trial.kept - 1)
        if trial.ms < _LEAST or trial.ms <= saves:
            return None
        return (
            f"{shrunk}, and sending takes {ms(facts.transfer)}: without it the way would take about"
            f" {ms(saves)} more, which is less than the work; leave compression out"
        )
    if (
        facts.local
        or facts.transfer * (1 - trial.kept) < trial.ms * 2
        or facts.share(facts.transfer) < _QUARTER
    ):
        return None
    return (
        f"{shrunk}, and the way to the server takes up to {facts.of(facts.transfer)}:"
        ' request_compression_algorithm="gzip" may shorten it (--compression gzip tries it)'
    )


def tail(facts: Facts) -> str | None:
    """Some calls that take much longer than most."""
    middle, slow = facts.percentiles.get("p50"), facts.percentiles.get("p99")
    if not middle or slow is None or slow < middle * _TAIL or slow - middle < _LEAST:
        return None
    return (
        f"p99 is {ms(slow)}, {slow / middle:.1f} times the p50 of {ms(middle)}: something shares the server, the"
        " network or this machine with you; `tritonhttp bench` shows when"
    )


RULES: tuple[Callable[[Facts], str | None], ...] = (
    connections,
    connecting,
    cold_start,
    queue,
    compute,
    shared_memory,
    json_data,
    compression,
    payload,
    distance,
    rows,
    tail,
)


def advice(facts: Facts) -> dict[str, str]:
    """Return what the rules say, by their names."""
    return {rule.__name__: said for rule in RULES if (said := rule(facts)) is not None}
