"""Run a real Triton in the foreground: ``python -m tritonhttp.testing [--port 8000] [--models a,b]``.

It runs until Ctrl-C or SIGTERM, which stop it in order; the exit status is 0 then. If it cannot run, or ends by
itself, one line gives the reason and the status is 1. Flags of Triton's own follow after ``--``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import tritonhttp as httpclient

from .._basics.hints import known_names
from ..testing import TritonFailed, TritonServer, TritonUnavailable, packaged_models, provision

__all__ = ["main"]

#: Seconds between two looks whether the server still runs.
_LOOK = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; return the exit status."""
    options, flags = _parse(sys.argv[1:] if arguments is None else arguments)
    # SIGTERM ends the program as Ctrl-C does: on its way through `finally`.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _serve(options, flags)
    except (TritonUnavailable, TritonFailed, ValueError, OSError) as error:
        # The log of a server that failed follows its first error.
        line = str(error).partition("; its log:\n")[0].partition("\n")[0]
        print(f"tritonhttp.testing: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


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


def _serve(options: argparse.Namespace, flags: list[str]) -> int:
    models = None
    if options.models is not None:
        models = [name for each in options.models.split(",") if (name := each.strip())]
    _check_models(options.model_repository or packaged_models(), models or ())
    if not provision.installed():
        print("Installing Triton into the cache folder, once (75 MB) ...", flush=True)
        provision.install()
    server = TritonServer(
        options.model_repository,
        models=models,
        args=flags,
        http_port=options.port,
        metrics_port=options.metrics_port,
        host=options.host,
    )
    try:
        server.start()
        _introduce(server)
        while server.running:
            time.sleep(_LOOK)
    except KeyboardInterrupt:
        print("Stopping ...", flush=True)
        with suppress(KeyboardInterrupt):  # a second one: at once
            server.stop()
        return 0
    finally:
        server.kill()
    print("tritonhttp.testing: tritonserver ended by itself", file=sys.stderr)
    return 1


def _check_models(repository: Path, models: Sequence[str]) -> None:
    """Refuse a repository or models that do not exist, in fewer words than the server's log."""
    if not repository.is_dir():
        raise ValueError(f"there is no folder {str(repository)!r} with models")
    names = {path.name for path in repository.iterdir() if path.is_dir()}
    for name in models:
        if name not in names and name != "*":
            raise ValueError(f"{str(repository)!r} has no model {name!r}{known_names(name, names)}")


def _introduce(server: TritonServer) -> None:
    with httpclient.InferenceServerClient(server.url) as client:
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
