"""``tritonhttp explain``: one call taken apart, and the advice that follows.

A first call on a new connection, then warm ones. The phases come from the client's events, the server's part from
its statistics before and after. ``phases`` puts them together, and ``advice`` says what follows.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import getrandbits
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ask import Model, Version, read_config
from .common import Failure, Setup, command
from .infer import (
    Inputs,
    Layout,
    Mean,
    Parameters,
    Random,
    Resize,
    Scale,
    Seed,
    Select,
    Shapes,
    Std,
    inputs_of,
    parameters_of,
)

if TYPE_CHECKING:
    from .. import InferenceServerClient, Signature
    from ..events import Call
    from .advice import Trial
    from .bench.server_side import Server
    from .counters import Counters, ServerFigures
    from .phases import Timed

__all__ = ["add_to"]

_EXAMPLE = """\
tritonhttp explain add_sub --random
tritonhttp explain identity_fp32 --random --shape INPUT0:1000000 --repeat 20
tritonhttp explain digits --random --repeat 50 --json"""

#: Without --repeat: so many warm calls, or as many as fit into so many seconds.
_CALLS, _SECONDS = 100, 10.0
#: How long the server's statistics may lag behind its answers, in seconds, and how often they are read again.
_LAG, _LOOK = 0.5, 0.01
#: The most seconds for one reading of them.
_PATIENCE = 5.0
#: The most bytes that a compression is tried on.
_SAMPLE = 1 << 22


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, example=_EXAMPLE)(explain)


def explain(
    setup: Setup,
    model: Model,
    version: Version = "",
    input: Inputs = None,
    shape: Shapes = None,
    random: Random = False,
    seed: Seed = None,
    resize: Resize = None,
    layout: Layout = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    param: Parameters = None,
    select: Select = None,
    repeat: Annotated[
        int | None,
        typer.Option(
            "--repeat",
            metavar="N",
            min=1,
            help="Warm calls, after the first one. [100, or what fits into 10 seconds]",
        ),
    ] = None,
    json_input: Annotated[bool, typer.Option("--json-input", help="Send tensors as JSON.")] = False,
    json_output: Annotated[bool, typer.Option("--json-output", help="Ask for tensors as JSON.")] = False,
    compression: Annotated[
        str | None, typer.Option("--compression", metavar="gzip|deflate", help="Compress the requests.")
    ] = None,
    shared_memory: Annotated[
        str,
        typer.Option(
            "--shared-memory", metavar="none|auto", help="Send large tensors through shared memory."
        ),
    ] = "none",
) -> None:
    """Take a call apart: where its time goes, here, on the way and in the server, and what would shorten it."""
    from .._protocol.signature import requested
    from .bench.server_side import Server
    from .images import pixels_of
    from .inputs import Reader, shapes_of

    if shared_memory not in ("none", "auto"):
        raise Failure(f"--shared-memory: expected none or auto, got {shared_memory!r}")
    if compression not in (None, "gzip", "deflate"):
        raise Failure(f"--compression: expected gzip or deflate, got {compression!r}")
    reader: Any = (shapes_of(shape or ()), pixels_of(resize, layout, scale, mean, std))
    parameters = parameters_of(param)
    with setup.client() as asking:
        signature = asking.model(model, version).refresh().signature
        assert signature is not None
        arrays = signature.arrays(inputs_of(Reader(signature, *reader), input, random, seed), True)
        about = _About.of(asking, signature, version)
    options: dict[str, Any] = {"parameters": parameters or None, "request_compression_algorithm": compression}
    if select or json_output:
        names = signature.wanted(select)
        options["outputs"] = requested(dict.fromkeys(names, 0), not json_output)
    more: Any = {"shared_memory": "auto"} if shared_memory == "auto" else {}
    # The statistics are not worth a long wait.
    patience = min(_PATIENCE, setup.deadline or _PATIENCE)
    server = Server(replace(setup, deadline=patience), model, version, None)
    try:
        with setup.client(**more) as client:
            run = _Run(client, server, model, version, arrays, not json_input, options, about.sequences)
            try:
                run.carry_out(repeat)
            finally:
                # After Ctrl-C or an error, too: what was measured so far.
                run.end()
                if run.warm:
                    as_text = json_input or json_output
                    _show(_Findings(setup, about, run, compression, shares=bool(more), as_text=as_text))
    finally:
        server.close()


# -- measuring --


@dataclass(frozen=True)
class _About:
    """What is known of the model and its server."""

    model: str
    config: Mapping[str, Any] | None
    server: str
    extensions: Sequence[str]

    @classmethod
    def of(cls, client: InferenceServerClient, signature: Signature, version: str) -> _About:
        from ..errors import InferenceServerException

        server: Any = {}
        with suppress(InferenceServerException):
            server = client.get_server_metadata()
        config = read_config(client, signature.name, version) or None
        return cls(
            signature.name,
            config,
            str(server.get("name") or "this server"),
            tuple(server.get("extensions") or ()),
        )

    @property
    def sequences(self) -> bool:
        return (self.config or {}).get("sequence_batching") is not None


@dataclass
class _Run:
    """The calls, the first one apart, and the server's statistics around them."""

    client: InferenceServerClient
    server: Server
    model: str
    version: str
    arrays: dict[str, Any]
    binary: bool
    options: Mapping[str, Any]
    sequences: bool
    first: Timed | None = None
    warm: list[Timed] = field(default_factory=list)
    last: Call | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    answered_by: str = ""
    snapshots: list[Counters | None] = field(default_factory=list)
    _ended: float = 0.0
    _ids: int = field(default_factory=lambda: getrandbits(62) + 1)

    def carry_out(self, repeat: int | None) -> None:
        """Make the first call and the warm ones."""
        self.client.hooks.add(on_response=self._note)
        self.snapshots = [self.server.snapshot()]
        self.first = self._timed(0)
        self.snapshots.append(self._settled(self.snapshots[0], 1))
        until = time.monotonic() + _SECONDS
        for number in range(1, (repeat or _CALLS) + 1):
            self.warm.append(self._timed(number))
            if repeat is None and time.monotonic() > until:
                break

    def end(self) -> None:
        """Read the statistics once more."""
        if len(self.snapshots) == 2:
            self.snapshots.append(self._settled(self.snapshots[1], len(self.warm)))

    def figures(self, part: int) -> ServerFigures | None:
        """Return what the server did during the first call (0) or the warm ones (1)."""
        from .bench.server_side import figures_between

        before, after = self.snapshots[part : part + 2] if len(self.snapshots) == 3 else (None, None)
        if before is None or after is None:
            return None
        return figures_between(before, after)

    def request(self, binary: bool) -> bytes:
        """Return the request's body as it would be without compression."""
        from .._protocol.signature import tensors

        options = {name: self.options[name] for name in ("outputs", "parameters") if self.options.get(name)}
        body, _ = self.client.generate_request_body(tensors(self.arrays, binary), **options)
        return body

    def _timed(self, number: int) -> Timed:
        from .._protocol.signature import tensors
        from .phases import Timed

        more: Any = {}
        if self.sequences:  # each a sequence of its own, with an id that nobody else has
            more = {"sequence_id": self._ids + number, "sequence_start": True, "sequence_end": True}
        began = time.perf_counter()
        result = self.client.infer(
            self.model, tensors(self.arrays, self.binary), self.version, **self.options, **more
        )
        self.outputs = {name: result.as_numpy(name) for name in result}
        ended = time.perf_counter()
        call = self.last
        assert call is not None
        self.answered_by = self.answered_by or str(result.get_response().get("model_version") or "")
        return Timed(
            total=(ended - began) * 1e3,
            phases=dict(call.phases),
            decode=(ended - self._ended) * 1e3,
            tries=call.attempts,
        )

    def _note(self, call: Call) -> None:
        self._ended = time.perf_counter()
        if call.action == "infer":
            self.last = call

    def _settled(self, before: Counters | None, calls: int) -> Counters | None:
        """Return the statistics, as soon as they have the calls that were answered."""
        from .bench.server_side import figures_between

        until = time.monotonic() + _LAG
        while True:
            after = self.server.snapshot()
            if before is None or after is None or time.monotonic() > until:
                return after
            found = figures_between(before, after)
            if found is not None and found.requests >= calls:
                return after
            time.sleep(_LOOK)


def _is_local(urls: Sequence[str], tls: bool) -> bool:
    """Return whether all servers have an address of this machine."""
    from .._transport.address import parse_url

    for url in urls:
        address = parse_url(url, tls)
        if address.socket_path:
            continue
        try:
            family, kind, _, _, place = socket.getaddrinfo(address.host, 0, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.bind(place)  # only an address of this machine can be bound
        except OSError:
            return False
    return True


def _tried(body: bytes, algorithm: str) -> Trial:
    """Compress a body, or as much of it as does not take long."""
    from .._wire.compression import compress
    from .advice import Trial

    sample = body[:_SAMPLE]
    began = time.perf_counter()
    (shrunk,) = compress([sample], algorithm)
    spent = (time.perf_counter() - began) * 1e3
    scale = len(body) / len(sample)
    return Trial(algorithm=algorithm, before=len(body), after=round(len(shrunk) * scale), ms=spent * scale)


def _size(array: Any) -> int:
    """Return the bytes of an output as binary data."""
    return sum(len(item) + 4 for item in array.ravel()) if array.dtype.kind == "O" else int(array.nbytes)


# -- findings --


class _Findings:
    """What the calls showed."""

    def __init__(
        self, setup: Setup, about: _About, run: _Run, compression: str | None, *, shares: bool, as_text: bool
    ) -> None:
        from .advice import NOTICEABLE, Facts, advice
        from .phases import OPENING, mean_of, percentiles, taken_apart

        assert run.first is not None
        assert run.last is not None
        self.setup, self.about, self.run, self.shares = setup, about, run, shares
        self.server, first_server = run.figures(1), run.figures(0)
        self.mean = mean_of(run.warm)
        self.phases = taken_apart(self.mean, self.server)
        self.first = taken_apart(run.first, first_server)
        self.percentiles = percentiles(call.total for call in run.warm)
        self.alone = all(
            figures is None or figures.requests == count
            for figures, count in ((self.server, len(run.warm)), (first_server, 1))
        )
        self.sent, self.received = run.last.request_bytes, run.last.response_bytes
        body = b""
        if compression or as_text or (self.sent >= NOTICEABLE and not shares):
            body = run.request(run.binary)
        as_json = None
        if as_text and "binary_tensor_data" in about.extensions:
            binary = run.request(True)
            as_json = (len(body) + self.received, len(binary) + sum(map(_size, run.outputs.values())))
        tried = body and (compression or run.binary)
        signature_rows = next(iter(run.arrays.values())).shape[:1] if run.arrays else ()
        batched = bool((about.config or {}).get("max_batch_size"))
        self.notes = self._notes()
        self.advice = advice(
            Facts(
                calls=len(run.warm),
                total=self.mean.total,
                phases=self.phases,
                first=self.first,
                percentiles=self.percentiles,
                queued=self._queued(),
                opened=sum(any(name in call.phases for name in OPENING) for call in run.warm),
                alone=self.alone,
                config=about.config,
                rows=signature_rows[0] if batched and signature_rows else 0,
                sent=self.sent,
                received=self.received,
                local=_is_local(setup.urls, setup.is_tls),
                can_share="system_shared_memory" in about.extensions,
                shares=shares,
                as_json=as_json,
                trial=_tried(body, compression or "gzip") if tried else None,
                compressed=compression is not None,
            )
        )

    def _queued(self) -> tuple[float, float] | None:
        if self.server is None or "compute" in self.phases:
            return None
        seconds = self.server.seconds
        return seconds["queue"] * 1e3, seconds["total"] * 1e3

    def _notes(self) -> list[str]:
        """Return what must be known to read the figures."""
        from .phases import OVERLAPPING, TOGETHER

        server, count = self.server, len(self.run.warm)
        notes = []
        if server is None:
            notes.append(f"{self.about.server} has no statistics of these calls: its time is not told apart")
        elif server.requests > count:
            notes.append(
                f"the server's figures are means of {server.requests} requests, and only {count} were these:"
                " other traffic was mixed in"
            )
        elif server.requests < count:
            notes.append(
                f"the server counted {server.requests} of the {count} calls: others went to another server"
                " behind this address"
            )
        elif not self.alone:
            notes.append("the server's figures of the first call are means with others' requests")
        if OVERLAPPING in self.phases or (server is not None and TOGETHER in self.phases):
            notes.append(
                "the server's time overlaps with sending or receiving, so parts that cannot be told apart are one"
            )
        if self.shares:
            notes.append(
                "large tensors go through shared memory: preparing copies them, and HTTP has the rest"
            )
        if server is not None and server.hits:
            notes.append(f"{server.hits} of {server.requests} requests were answered from the response cache")
        again = sum(call.tries > 1 for call in self.run.warm)
        if again:
            notes.append(f"{again} of {count} calls were sent more than once")
        return notes

    def as_dict(self) -> dict[str, Any]:
        """Return it all, for JSON."""
        server, run = self.server, self.run
        assert run.first is not None
        found: dict[str, Any] = {
            "model": run.model,
            "version": run.answered_by,
            "urls": self.setup.urls,
            "request_bytes": self.sent,
            "response_bytes": self.received,
            "first": {"total_ms": run.first.total, "phases_ms": self.first},
            "warm": {
                "calls": len(run.warm),
                "mean_ms": self.mean.total,
                "phases_ms": self.phases,
                "shares": {name: spent / self.mean.total for name, spent in self.phases.items()},
                "percentiles_ms": self.percentiles,
            },
            "server": None,
            "notes": self.notes,
            "advice": [{"rule": rule, "text": words} for rule, words in self.advice.items()],
        }
        if server is not None:
            found["server"] = {
                "requests": server.requests,
                "others": server.requests - len(run.warm),
                "batch": server.batch,
                "cache_hits": server.hits,
                "mean_ms": {name: spent * 1e3 for name, spent in server.seconds.items()},
            }
        return found


# -- showing --

#: The colour of a part: this library, the way, the server.
_COLOURS = {
    **dict.fromkeys(("prepare", "decode", "wait", "earlier tries"), "cyan"),
    **dict.fromkeys(("queue", "input", "compute", "output", "server, rest"), "green"),
}
#: Columns of the widest bar, of the figures beside it, and from which on there is room for words too.
_WIDEST, _BESIDE, _ROOM = 30, 54, 132
_EIGHTHS = " ▏▎▍▌▋▊▉"


def _show(found: _Findings) -> None:
    from .advice import size
    from .output import heading, show_json

    if found.setup.json:
        show_json(found.as_dict())
        return
    run = found.run
    name = f"{run.model} {run.answered_by}".strip()
    calls = f"{len(run.warm)} warm call{'s' if len(run.warm) != 1 else ''}"
    heading(
        f"{name} at {', '.join(found.setup.urls)}: a first call, then {calls};"
        f" {size(found.sent)} sent, {size(found.received)} received by each"
    )
    print()
    _show_phases(found)
    print()
    _show_percentiles(found.percentiles)
    print()
    for note in found.notes:
        heading(f"Note: {note}.")
    if found.notes:
        print()
    if not found.advice:
        heading("Nothing stands out: no rule of advice applies to these figures.")
        return
    heading("Advice")
    for words in found.advice.values():
        heading(f"- {words[:1].upper()}{words[1:]}.")


def _show_phases(found: _Findings) -> None:
    from .output import table
    from .phases import LEGEND, ORDER

    assert found.run.first is not None
    total = found.mean.total
    bar, legend = _bars(total), _columns() >= _ROOM
    rows: list[Any] = []
    for name in ORDER:
        if name not in found.phases and name not in found.first:
            continue
        spent = found.phases.get(name)
        share = "-" if spent is None else f"{spent / total:.1%}"
        colour = _COLOURS.get(name, "yellow")
        rows.append(
            (
                name,
                _ms(found.first.get(name)),
                _ms(spent),
                share,
                (bar(spent or 0.0), colour),
                *([LEGEND[name]] if legend else []),
            )
        )
    more = ("",) if legend else ()
    rows.append(("total", _ms(found.run.first.total), _ms(total), "100.0%", "", *more))
    table(("phase", "first ms", "warm ms", "share", "", *more), rows, right=("first ms", "warm ms", "share"))


def _show_percentiles(found: Mapping[str, float]) -> None:
    from .output import table

    bar = _bars(found["max"])
    rows: list[Any] = [(name, _ms(spent), (bar(spent), "cyan")) for name, spent in found.items()]
    table(("warm calls", "ms", ""), rows, right=("ms",))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _columns() -> int:
    """Return how many columns there are; a pipe has enough."""
    return get_terminal_size().columns if sys.stdout.isatty() else _ROOM


def _bars(whole: float) -> Callable[[float], str]:
    """Return a function that draws a bar for a part of the whole, as wide as the terminal allows."""
    widest = max(4, min(_WIDEST, _columns() - _BESIDE))

    def bar(part: float) -> str:
        whole_ones, rest = divmod(round(widest * 8 * part / whole) if whole else 0, 8)
        return "█" * whole_ones + (_EIGHTHS[rest] if rest else "")

    return bar
