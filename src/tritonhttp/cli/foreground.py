"""A real Triton in the foreground: ``tritonhttp serve``, and the program ``python -m tritonhttp.testing``.

It runs until Ctrl-C or SIGTERM, which stop it in order. The program needs no package of the command line: its exit
status is 0 then, and 1 with one line if the server cannot run, or ends by itself. Flags of Triton's own follow
after ``--``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._basics.hints import known_names
from ..testing import TritonFailed, TritonServer, TritonUnavailable, packaged_models, provision

__all__ = ["STARTING", "main", "run"]

#: Seconds between two looks whether the server still runs.
_LOOK = 0.2
#: What is said on the way.
STARTING = "starting Triton ..."
_INSTALLING, _STOPPING = "installing Triton into the cache folder, once (75 MB) ...", "stopping Triton ..."


def run(
    ready: Callable[[TritonServer], None],
    say: Callable[[str], object],
    *,
    models: Sequence[str] | None = None,
    repository: Path | None = None,
    log: bool = False,
    **options: Any,
) -> int:
    """Run a server until a signal ends it; return the signal's number.

    Parameters
    ----------
    ready : callable
        Called with the server once it is ready.
    say : callable
        Called with words on what comes next.
    models : sequence of str, optional
        Those to load; None: all.
    repository : Path, optional
        Their folder; None: the one of this package.
    log : bool
        Whether the server's log is shown on standard error.
    **options
        More of ``TritonServer``'s.

    Raises
    ------
    TritonUnavailable, TritonFailed
        If it cannot run, or ends by itself.
    ValueError
        For a folder or models that do not exist.
    """
    _check_models(repository or packaged_models(), models or ())
    before = signal.signal(signal.SIGTERM, _terminate)
    server = TritonServer(repository, models=models, **options)
    follow = _Log(server) if log else None
    try:
        if not provision.installed():
            say(_INSTALLING)
            provision.install()
        say(STARTING)
        server.start()
        ready(server)
        while server.running:
            if follow is not None:
                follow.show()
            time.sleep(_LOOK)
        raise TritonFailed("tritonserver ended by itself")
    except (KeyboardInterrupt, _Terminated) as ending:
        say(_STOPPING)
        with suppress(KeyboardInterrupt, _Terminated):  # a second one: at once
            server.stop()
        return signal.SIGINT if isinstance(ending, KeyboardInterrupt) else signal.SIGTERM
    finally:
        server.kill()
        signal.signal(signal.SIGTERM, before)
        if follow is not None:
            follow.show()


class _Terminated(BaseException):
    """SIGTERM came."""


def _terminate(*_: Any) -> None:
    raise _Terminated


class _Log:
    """Shows what is new in a server's log."""

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._shown = 0

    def show(self) -> None:
        text = self._server.log
        sys.stderr.write(text[self._shown :])
        sys.stderr.flush()
        self._shown = len(text)


def _check_models(repository: Path, models: Sequence[str]) -> None:
    """Refuse a repository or models that do not exist, in fewer words than the server's log."""
    if not repository.is_dir():
        raise ValueError(f"there is no folder {str(repository)!r} with models")
    names = {path.name for path in repository.iterdir() if path.is_dir()}
    for name in models:
        if name not in names and name != "*":
            raise ValueError(f"{str(repository)!r} has no model {name!r}{known_names(name, names)}")


# -- python -m tritonhttp.testing --


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; return the exit status."""
    options, flags = _parse(sys.argv[1:] if arguments is None else arguments)
    models = None
    if options.models is not None:
        models = [name for each in options.models.split(",") if (name := each.strip())]
    try:
        run(
            _introduce,
            _say,
            models=models,
            repository=options.model_repository,
            args=flags,
            http_port=options.port,
            metrics_port=options.metrics_port,
            host=options.host,
        )
    except (TritonUnavailable, TritonFailed, ValueError, OSError) as error:
        # The log of a server that failed follows its first error.
        line = str(error).partition("; its log:\n")[0].partition("\n")[0]
        print(f"tritonhttp.testing: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before there was anything to stop
        return 0
    return 0


def _say(words: str) -> None:
    if words != STARTING:
        print(f"{words[:1].upper()}{words[1:]}", flush=True)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    given, flags = list(arguments), []
    if "--" in given:
        place = given.index("--")
        given, flags = given[:place], given[place + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m tritonhttp.testing",
        usage="%(prog)s [option ...] [-- --flag-of-tritonserver=value ...]",
        description="Run a real Triton in the foreground, until Ctrl-C or SIGTERM. The first run installs it.",
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="for HTTP; 8000 unless given, 0: a free one"
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=8002,
        metavar="N",
        help="for the metrics; 8002 unless given, 0: a free one",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen at; 0.0.0.0: all of this machine's"
    )
    parser.add_argument(
        "--model-repository",
        type=Path,
        metavar="DIR",
        help="a folder of models; the models of tritonhttp unless given",
    )
    parser.add_argument(
        "--models", metavar="A,B", help="load these models only; the others can be loaded by request"
    )
    return parser.parse_args(given), flags


def _introduce(server: TritonServer) -> None:
    from .. import InferenceServerClient

    with InferenceServerClient(server.url) as client:
        metadata = client.get_server_metadata()
        models = client.models()
    print(f"{metadata['name']} {metadata['version']} is ready (Ctrl-C stops it)")
    print(f"  URL      {server.url}")
    print(f"  metrics  {server.metrics_url}")
    for number, model in enumerate([each for each in models if each.state]):
        version = f" version {model.version}" if model.version else ""
        print(
            f"  {'' if number else 'models':<7}  {model.name}{version}{'' if model.ready else f' {model.state}'}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
