"""One call taken apart: the client's phases, and within its waiting what the server counts for the same call.

All times are milliseconds. The parts of a call always add up to its whole duration. What cannot be told apart is
one part, with a name that says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .counters import ServerFigures

__all__ = [
    "LEGEND",
    "OPENING",
    "ORDER",
    "OVERLAPPING",
    "TOGETHER",
    "Timed",
    "mean_of",
    "percentiles",
    "taken_apart",
]

#: The phases of a new connection.
OPENING = ("resolve", "connect", "proxy", "tls")
_SERVER = {"queue": "queue", "compute_input": "input", "compute_infer": "compute", "compute_output": "output"}
#: The server's time that is none of those.
_REST = "server, rest"
#: What could not be told apart: from each other, since the server's time overlaps with them, or from the server's.
OVERLAPPING, TOGETHER = "send, network, receive", "server, network"
ORDER = (
    *("prepare", "earlier tries", "wait", *OPENING, "send", "network", OVERLAPPING, TOGETHER),
    *(*_SERVER.values(), _REST, "receive", "decode"),
)
LEGEND = {
    "prepare": "this library: inputs become a request",
    "earlier tries": "tries before the last one, their pauses, and preparing",
    "wait": "for a free connection",
    "resolve": "the host's name",
    "connect": "a new connection",
    "proxy": "the proxy's own connection",
    "tls": "the handshake",
    "send": "the request, into the system's buffers",
    "network": "both ways, and the server's HTTP",
    OVERLAPPING: "both ways, beside the server's own time",
    TOGETHER: "all between request and answer: not told apart",
    "queue": "waiting in the server for an instance or a batch",
    "input": "the server gathers the inputs",
    "compute": "the model",
    "output": "the server stores the outputs",
    _REST: "between the server's own parts",
    "receive": "the answer, from its first byte to its last",
    "decode": "this library: the answer becomes arrays",
}


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The times of one call in milliseconds, or the means of several.

    Attributes
    ----------
    total : float
        From the inputs to the outputs' arrays.
    phases : mapping of str to float
        What the client's events say of the last try: ``wait`` to ``receive``.
    decode : float
        After that.
    tries : float
        How often the request was sent.
    """

    total: float
    phases: Mapping[str, float] = field(default_factory=dict)
    decode: float = 0.0
    tries: float = 1.0


def mean_of(calls: Sequence[Timed]) -> Timed:
    """Return the means; a phase that a call had not counts as zero."""
    count = len(calls)
    names = dict.fromkeys(name for call in calls for name in call.phases)
    return Timed(
        total=math.fsum(call.total for call in calls) / count,
        phases={name: math.fsum(call.phases.get(name, 0.0) for call in calls) / count for name in names},
        decode=math.fsum(call.decode for call in calls) / count,
        tries=sum(call.tries for call in calls) / count,
    )


def taken_apart(call: Timed, server: ServerFigures | None) -> dict[str, float]:
    """Return the parts of a call in order; their sum is its total.

    Parameters
    ----------
    call : Timed
    server : ServerFigures or None
        The server's means of the same calls.
    """
    found = {name: spent for name, spent in call.phases.items() if name not in ("first_byte", "receive")}
    waited, receive = call.phases.get("first_byte", 0.0), call.phases.get("receive", 0.0)
    found |= _waited(waited, receive, found.pop("send", 0.0), server)
    found["decode"] = call.decode
    # What the events leave over lies before the request is sent.
    before = call.total - math.fsum(found.values())
    found["prepare" if call.tries <= 1 else "earlier tries"] = max(before, 0.0)
    if before < 0:  # rounding of clocks
        found["decode"] += before
    return {name: found[name] for name in ORDER if found.get(name, 0.0) != 0.0}


def _waited(waited: float, receive: float, send: float, server: ServerFigures | None) -> dict[str, float]:
    """Split the time between a request and its answer by what the server counted."""
    if server is None:
        return {"send": send, TOGETHER: waited, "receive": receive}
    parts = {name: server.seconds[key] * 1e3 for key, name in _SERVER.items()}
    inside = server.seconds["total"] * 1e3
    rest = inside - math.fsum(parts.values())
    if rest < 0:  # the clocks of the parts overlap
        inside = math.fsum(parts.values())
        rest = 0.0
    parts[_REST] = rest
    if inside <= waited:
        return {"send": send, "network": waited - inside, **parts, "receive": receive}
    # The server may begin while the call that sends is not back yet, and still count while its answer arrives.
    moving = send + waited + receive
    if inside <= moving:
        return {OVERLAPPING: moving - inside, **parts}
    return {TOGETHER: moving}


def percentiles(times: Iterable[float]) -> dict[str, float]:
    """Return the percentiles that so many times can show, between the least and the greatest."""
    ordered = sorted(times)
    count = len(ordered)
    if not count:
        return {}
    found = {"min": ordered[0], "p50": ordered[math.ceil(count * 0.5) - 1]}
    for name, share, enough in (("p90", 0.9, 10), ("p95", 0.95, 20), ("p99", 0.99, 100)):
        if count >= enough:
            found[name] = ordered[math.ceil(count * share) - 1]
    return {**found, "max": ordered[-1]}
