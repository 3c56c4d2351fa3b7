"""The asyncio client against tritonclient.http.aio and a bare BufferedProtocol, also with uvloop."""

from __future__ import annotations

import functools

from cases_blocking import SERVERS, SMALL, identity
from contenders import AIO_PACKAGES, aio, bare_aio
from harness import OURS, REFERENCE, Bound, Builder, Case
from peers import Task

BARE = "bare protocol"
UVLOOP = ", uvloop"


def against(task: Task, in_flight: int, *, uvloop: bool = False) -> dict[str, Builder]:
    """Return both packages and the bare protocol; with ``uvloop`` also tritonhttp and the protocol on it."""
    builders: dict[str, Builder] = {
        name: functools.partial(aio, package, task, in_flight=in_flight)
        for name, package in AIO_PACKAGES.items()
    }
    builders[BARE] = functools.partial(bare_aio, task, in_flight=in_flight)
    if uvloop:
        ours = functools.partial(aio, AIO_PACKAGES[OURS], task, in_flight=in_flight, loop="uvloop")
        builders[OURS + UVLOOP] = ours
        builders[BARE + UVLOOP] = functools.partial(bare_aio, task, in_flight=in_flight, loop="uvloop")
    return builders


SMALL_BOUNDS = {
    "triton": (
        Bound(metric="cpu", against=REFERENCE, at_most=0.55),
        Bound(metric="cpu", against=BARE, at_most=1.7),
    ),
    "sink": (Bound(metric="rate", against=REFERENCE, at_least=1.8),),
}

CASES = [
    *(
        Case(
            name=f"aio-small-{server}",
            title=f"asyncio, small infer, 16 in flight, {where}",
            server=server,
            contenders=against(SMALL, 16, uvloop=True),
            metrics=("cpu", "rate"),
            bounds=SMALL_BOUNDS[server],
            blocks=7,
        )
        for server, where in SERVERS.items()
    ),
    *(
        Case(
            name=f"aio-4mb-{in_flight}-triton",
            title=f"asyncio, 4 MB FP32 identity, {in_flight} in flight, Triton",
            server="triton",
            contenders=against(identity(4), in_flight),
            metrics=("cpu", "rate"),
            bounds=(
                Bound(metric="rate", against=REFERENCE, at_least=10.0),
                Bound(metric="cpu", against=REFERENCE, at_most=0.2),
            )
            if in_flight == 4
            else (),
            least=max(4, in_flight),
        )
        for in_flight in (1, 4, 16)
    ),
    Case(
        name="aio-64mb-triton",
        title="asyncio, 64 MB FP32 identity, one at a time, Triton",
        server="triton",
        contenders=against(identity(64), 1),
        metrics=("p50", "cpu"),
        bounds=(Bound(metric="p50", against=REFERENCE, at_most=0.3),),
        counts={REFERENCE: 1},  # a call takes seconds
        least=2,
    ),
]
