"""``tritonhttp bench``: its options, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..ask import Model, Version
from ..common import Failure, Setup, command

__all__ = ["add_to"]

_EXAMPLE = """\
tritonhttp bench add_sub
tritonhttp bench add_sub --concurrency 1:16:2x
tritonhttp bench add_sub --rate 100:1000:100 --poisson --csv rates.csv
tritonhttp bench add_sub --slo p99=50ms
tritonhttp bench add_sub --json > before.json
tritonhttp bench add_sub --compare before.json --fail-if 'p99>+10%'"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, example=_EXAMPLE)(bench)


def bench(
    setup: Setup,
    model: Model,
    version: Version = "",
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency", metavar="N[:TO[:STEP]]", help="Requests in flight: 4, 1:16 or 1:16:2x. [1]"
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate", metavar="N[:TO[:STEP]]", help="Requests due in a second: 100 or 100:1000:100."
        ),
    ] = None,
    poisson: Annotated[
        bool, typer.Option("--poisson", help="With --rate: at random moments, not evenly spread.")
    ] = False,
    intervals: Annotated[
        Path | None,
        typer.Option(
            "--intervals", metavar="FILE", help="Open loop: a line of microseconds for each interval."
        ),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo", metavar="p99=50ms", help="Find the highest rate (or --concurrency) that keeps this."
        ),
    ] = None,
    max_in_flight: Annotated[
        int,
        typer.Option("--max-in-flight", metavar="N", min=1, help="Open loop: the most requests at a time."),
    ] = 256,
    aio: Annotated[
        bool, typer.Option("--aio", help="Send by the asyncio client, instead of from threads.")
    ] = False,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, max=256, help="Send from so many processes.")
    ] = 1,
    retries: Annotated[
        int,
        typer.Option("--retries", metavar="N", min=0, help="Send a request again so often, if that is safe."),
    ] = 0,
    window: Annotated[
        float, typer.Option("--window", metavar="SECONDS", help="The length of a window.")
    ] = 2.0,
    window_count: Annotated[
        int,
        typer.Option("--window-count", metavar="N", min=0, help="Windows of at least N requests instead."),
    ] = 0,
    warm_up: Annotated[
        float, typer.Option("--warm-up", metavar="SECONDS", min=0, help="Load before the first window.")
    ] = 1.0,
    windows: Annotated[
        int, typer.Option("--windows", metavar="N", min=1, help="The most windows of a level.")
    ] = 10,
    stability: Annotated[
        float,
        typer.Option(
            "--stability", metavar="PERCENT", help="End a level when three windows differ by no more."
        ),
    ] = 10.0,
    percentile: Annotated[
        float,
        typer.Option(
            "--percentile", metavar="P", min=0, max=99.999, help="… in this percentile, not the mean."
        ),
    ] = 0.0,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=0, help="Send exactly N requests, without windows.")
    ] = 0,
    batch: Annotated[int, typer.Option("-b", "--batch", metavar="N", min=1, help="Rows of a request.")] = 1,
    input: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", metavar="NAME=VALUE", help="An input, as for `tritonhttp infer`."),
    ] = None,
    input_data: Annotated[
        list[str] | None,
        typer.Option(
            "--input-data",
            metavar="random|zero|PATH",
            help="perf_analyzer's JSON (with validation_data: wrong answers are counted), or a folder with a file"
            " for each input.",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape", metavar="NAME:3,224,224", help="The shape of an input, without the batch dimension."
        ),
    ] = None,
    string_length: Annotated[
        int, typer.Option("--string-length", metavar="N", min=0, help="Letters of random strings.")
    ] = 128,
    string_data: Annotated[
        str | None, typer.Option("--string-data", metavar="TEXT", help="The text of strings.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of all that is random.")] = 0,
    sequences: Annotated[
        int, typer.Option("--sequences", metavar="N", min=0, help="Open loop: sequences side by side.")
    ] = 0,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", metavar="N", min=1, help="Requests of a sequence.")
    ] = 20,
    sequence_length_variation: Annotated[
        float, typer.Option("--sequence-length-variation", metavar="PERCENT", min=0, max=100)
    ] = 20.0,
    sequence_ids: Annotated[
        str, typer.Option("--sequence-ids", metavar="FROM[:TO]", help="Their ids, TO excluded.")
    ] = "1",
    streaming: Annotated[
        bool,
        typer.Option("--streaming", help="Ask by generate_stream: time to the first answer, and between."),
    ] = False,
    shared_memory: Annotated[
        str,
        typer.Option(
            "--shared-memory", metavar="none|auto", help="Send large tensors through shared memory."
        ),
    ] = "none",
    json_input: Annotated[bool, typer.Option("--json-input", help="Send tensors as JSON.")] = False,
    json_output: Annotated[bool, typer.Option("--json-output", help="Ask for tensors as JSON.")] = False,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A parameter of each request.")
    ] = None,
    metrics_url: Annotated[
        str | None,
        typer.Option("--metrics-url", metavar="URL", help="Of GPU and memory. [port 8002 of the server]"),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("-f", "--csv", metavar="FILE", help="Write perf_analyzer's CSV.")
    ] = None,
    verbose_csv: Annotated[
        bool, typer.Option("--verbose-csv", help="… with its additional columns.")
    ] = False,
    profile_export_file: Annotated[
        Path | None,
        typer.Option(
            "--profile-export-file", metavar="FILE", help="Write perf_analyzer's JSON of every request."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a page of HTML with charts.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare", metavar="FILE", help="Show each figure beside that of an earlier --json result."
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if", metavar="BOUND", help="Exit with 4: 'p99>+10%' (with --compare), 'p99>50ms', …"
        ),
    ] = None,
) -> int:
    """Measure a model under load: throughput, latencies, errors, and who was the limit."""
    given = {name: value for name, value in locals().items() if name != "setup"}
    try:
        from .session import Session

        return Session(setup, given).run()
    except ValueError as error:
        if type(error) is not ValueError:  # the library's own errors explain themselves
            raise
        raise Failure(str(error)) from error
