"""``tritonhttp serve``: a real Triton in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import SERVER, Failure, Setup, command
from .output import heading, one_line, show_json

if TYPE_CHECKING:
    from ..testing import TritonServer

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, example="tritonhttp serve --demo\ntritonhttp serve --model-repository models --port 9000")(
        serve
    )


def serve(
    setup: Setup,
    repository: Annotated[
        Path | None, typer.Option("--model-repository", metavar="DIR", help="The folder of the models.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Serve the models that come with tritonhttp.")] = False,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME", help="Load only this one; repeated: these.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The port; 0: a free one.")
    ] = 8000,
    metrics_port: Annotated[
        int,
        typer.Option(
            "--metrics-port", metavar="PORT", min=0, max=65535, help="That of the metrics; 0: a free one."
        ),
    ] = 8002,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; 0.0.0.0: on all addresses.")
    ] = "127.0.0.1",
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", metavar="FLAG", help="A further flag for tritonserver, as --arg=--…"),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Show the server's log.")] = False,
) -> int:
    """Run a real Triton on this machine until Ctrl-C. The first start installs it (75 MB)."""
    from ..testing import TritonFailed, TritonUnavailable
    from .foreground import run

    if demo == (repository is not None):
        raise Failure("say either --model-repository DIR, or --demo for the models that come with tritonhttp")
    if repository is not None and not repository.is_dir():
        raise Failure(f"no such folder: {repository}")

    def ready(server: TritonServer) -> None:
        url, metrics_url = f"http://{server.url}", server.metrics_url
        if setup.json:
            show_json({"url": url, "metrics_url": metrics_url, "pid": server.pid}, None)
        else:
            heading(f"Triton is ready at {url}, metrics at {metrics_url}; Ctrl-C stops it")
        sys.stdout.flush()

    try:
        ending = run(
            ready,
            _say,
            models=model or None,
            repository=repository,
            log=log,
            args=arg or (),
            http_port=port,
            metrics_port=metrics_port,
            host=host,
        )
    except (TritonUnavailable, TritonFailed, ValueError) as error:
        first, ended, _ = str(error).partition("; its log:\n")
        first = first.replace(": choose another one", "; --port or --metrics-port names another")
        more = " (--log shows its log)" if (ended or first.endswith("by itself")) and not log else ""
        raise Failure(f"{one_line(first)}{more}", SERVER) from error
    return 128 + ending


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
