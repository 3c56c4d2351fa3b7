"""``tritonhttp serve``: a real Triton in the foreground."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import INTERRUPTED, SERVER, Failure, Setup, command
from .output import heading, one_line, show_json

__all__ = ["add_to"]

#: How often it is looked at whether the server runs, in seconds.
_LOOK = 0.2


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
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", metavar="FLAG", help="A further flag for tritonserver, as --arg=--…"),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Show the server's log.")] = False,
) -> int:
    """Run a real Triton on 127.0.0.1 until Ctrl-C. The first start installs it (75 MB)."""
    from ..testing import TritonFailed, TritonServer, TritonUnavailable, provision

    if demo == (repository is not None):
        raise Failure("say either --model-repository DIR, or --demo for the models that come with tritonhttp")
    if repository is not None and not repository.is_dir():
        raise Failure(f"no such folder: {repository}")
    before = signal.signal(signal.SIGTERM, _terminate)
    server = TritonServer(
        repository, models=model or None, args=arg or (), http_port=port, metrics_port=metrics_port
    )
    follow = _Log(server) if log else None
    try:
        try:
            if not provision.installed():
                print(
                    "installing Triton into the cache folder, once (75 MB) ...", file=sys.stderr, flush=True
                )
            print("starting Triton ...", file=sys.stderr, flush=True)
            server.start()
        except (TritonUnavailable, TritonFailed) as error:
            if log:
                print(server.log, file=sys.stderr)
            first, _, rest = str(error).partition("; its log:\n")
            more = " (--log shows its log)" if rest and not log else ""
            first = first.replace(": choose another one", "; --port or --metrics-port names another")
            raise Failure(f"{one_line(first)}{more}", SERVER) from error
        if setup.json:
            show_json(
                {"url": f"http://{server.url}", "metrics_url": server.metrics_url, "pid": server.pid}, None
            )
        else:
            heading(
                f"Triton is ready at http://{server.url}, metrics at {server.metrics_url}; Ctrl-C stops it"
            )
        sys.stdout.flush()
        while server.running:
            if follow is not None:
                follow.show()
            time.sleep(_LOOK)
        raise Failure("tritonserver ended by itself (--log shows its log)", SERVER)
    except (KeyboardInterrupt, _Terminated) as ending:
        print("stopping Triton ...", file=sys.stderr, flush=True)
        return INTERRUPTED if isinstance(ending, KeyboardInterrupt) else 128 + signal.SIGTERM
    finally:
        server.stop()
        signal.signal(signal.SIGTERM, before)
        if follow is not None:
            follow.show()


class _Terminated(BaseException):
    """SIGTERM came."""


def _terminate(*_: Any) -> None:
    raise _Terminated


class _Log:
    """Shows what is new in a server's log."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._shown = 0

    def show(self) -> None:
        text = self._server.log
        sys.stderr.write(text[self._shown :])
        sys.stderr.flush()
        self._shown = len(text)
