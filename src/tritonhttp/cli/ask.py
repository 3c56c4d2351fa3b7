"""Commands that ask a server: its state, its models, and what they did."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..errors import DeadlineExceeded, InferenceServerException, ServerError, TransportError
from .common import BOUND, SERVER, Failure, Setup, command, describe, exit_code
from .output import facts, heading, one_line, show_json, table

if TYPE_CHECKING:
    from .. import InferenceServerClient
    from .output import Cell

__all__ = ["Model", "Version", "add_to", "parts", "read_config"]

T = TypeVar("T")

_GOOD, _BAD = "green", "red"
#: How long a shell waits for the names of models, in seconds.
_COMPLETING = 1.0
#: Statuses of a server without model configurations.
_NO_CONFIG = ("400", "404", "405", "501")


def _known(context: typer.Context, incomplete: str) -> list[str]:
    """Return the models that a word on the command line may become; none if the server does not say."""
    # Whatever goes wrong must not end up among the words of a shell.
    with suppress(Exception):
        given: dict[str, Any] = {
            each.name: context.params.get(each.name) or each.default for each in fields(Setup)
        }
        with Setup(**{**given, "deadline": _COMPLETING}).client() as client:
            names = {entry["name"] for entry in client.get_model_repository_index()}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", autocompletion=_known)]
Version = Annotated[
    str, typer.Option("--version", metavar="VERSION", help="Its version; else the server's choice.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, example="tritonhttp status -u localhost:8000")(status)
    command(app, example="tritonhttp wait --model digits --timeout 60")(wait)
    command(app, example="tritonhttp models")(models)
    command(app, example="tritonhttp show digits")(show)
    command(app, example="tritonhttp config digits")(config)
    command(app, example="tritonhttp stats\ntritonhttp stats digits --json")(stats)
    command(app, example="tritonhttp metrics 'nv_inference_*'")(metrics)


def status(setup: Setup) -> int:
    """Say whether each server is live and ready, and what it is.

    The exit code is 0 if all servers are ready.
    """
    found, worst = {}, 0
    for url in setup.urls:
        with setup.client(url) as client:
            try:
                found[url] = _state(client)
                code = 0 if found[url]["ready"] else SERVER
            except InferenceServerException as error:
                if len(setup.urls) == 1:
                    raise
                found[url] = {"live": False, "ready": False, "error": one_line(describe(error))}
                code = exit_code(error)
        worst = max(worst, code)
    if setup.json:
        show_json(setup.alone(found))
        return worst
    for number, (url, state) in enumerate(found.items()):
        if number:
            print()
        facts([("url", url), *((name, _said(value)) for name, value in state.items())])
    return worst


def _state(client: InferenceServerClient) -> dict[str, Any]:
    live, ready = client.is_server_live(), client.is_server_ready()
    try:
        about: Mapping[str, Any] = client.get_server_metadata()
    except ServerError as error:  # some gateways answer health checks only
        if error.status() in ("401", "403"):
            raise
        about = {}
    return {
        "live": live,
        "ready": ready,
        "name": about.get("name"),
        "version": about.get("version"),
        "extensions": list(about.get("extensions") or ()),
    }


def _said(value: Any) -> Cell:
    if isinstance(value, bool):
        return ("yes", _GOOD) if value else ("no", _BAD)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "not said" if value is None else str(value)


def wait(
    setup: Setup,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Wait for this model, not only the server.")
    ] = None,
    version: Version = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="The most time to wait.")
    ] = 60.0,
) -> None:
    """Wait until all servers, or a model on them, are ready to infer.

    The exit code is 3 if a server could not be reached in time, and 4 if it answered that it was not ready.
    """
    if version and not model:
        raise Failure("--version needs --model")
    began = time.monotonic()
    took = {}
    for url in setup.urls:
        with setup.client(url) as client:
            try:
                client.wait_until_ready(timeout - (time.monotonic() - began), model, model_version=version)
            except DeadlineExceeded as error:
                raise Failure(f"{url}: {error.message()}", _why(client, error)) from error
        took[url] = round(time.monotonic() - began, 3)
        if not setup.json:
            what = f"model {model!r} is ready" if model else "ready"
            heading(f"{url}: {what} after {took[url]:.1f} s")
    if setup.json:
        show_json(setup.alone({url: {"ready": True, "seconds": seconds} for url, seconds in took.items()}))


def _why(client: InferenceServerClient, error: DeadlineExceeded) -> int:
    """Return the exit code where a wait was in vain: whether the server can be reached at all."""
    try:
        client.is_server_live(deadline=2.0)
    except TransportError:
        return exit_code(error)
    except InferenceServerException:
        pass
    return BOUND


def models(setup: Setup) -> None:
    """List the models of the repository and their state."""
    found = setup.each(lambda client: client.get_model_repository_index())
    if setup.json:
        show_json(setup.alone(found))
        return
    for url, index in parts(found):
        rows = []
        for entry in sorted(index, key=lambda entry: (entry["name"], str(entry.get("version")))):
            state = entry.get("state") or "not loaded"
            style = {"READY": _GOOD, "UNAVAILABLE": _BAD}.get(state, "")
            rows.append(
                (entry["name"], str(entry.get("version") or ""), (state, style), entry.get("reason") or "")
            )
        table(("model", "version", "state", "reason"), rows)
        if not rows:
            heading(f"{url} has no models")


def parts(found: Mapping[str, T]) -> Iterator[tuple[str, T]]:
    """Yield what came of each server; of several, with its URL printed before."""
    for number, (url, value) in enumerate(found.items()):
        if number:
            print()
        if len(found) > 1:
            heading(f"{url}:")
        yield url, value


def show(setup: Setup, model: Model, version: Version = "") -> None:
    """Show a model: its inputs, outputs and batching."""
    with setup.client() as client:
        about = client.get_model_metadata(model, version)
        config = read_config(client, model, version)
    optional = {each["name"] for each in config.get("input") or () if each.get("optional")}
    found: dict[str, Any] = {
        "name": about["name"],
        "platform": about.get("platform") or config.get("backend") or "",
        "versions": list(about.get("versions") or ()),
        "max_batch_size": config.get("max_batch_size") or 0,
        "batching": _batching(config),
        "instances": _instances(config),
        "inputs": [{**each, "optional": each["name"] in optional} for each in about.get("inputs") or ()],
        "outputs": list(about.get("outputs") or ()),
    }
    if setup.json:
        show_json(found)
        return
    rows = [
        (
            kind,
            each["name"],
            each["datatype"],
            _shape(each["shape"]),
            "optional" if each.get("optional") else "",
        )
        for kind in ("input", "output")
        for each in found[f"{kind}s"]
    ]
    lists = {"inputs", "outputs"}
    facts([(name.replace("_", " "), _said(value)) for name, value in found.items() if name not in lists])
    print()
    table(("", "name", "datatype", "shape", ""), rows)


def read_config(client: InferenceServerClient, model: str, version: str = "") -> Mapping[str, Any]:
    """Return a model's configuration, or an empty one from a server that has none."""
    try:
        return client.get_model_config(model, version)
    except ServerError as error:
        if error.status() not in _NO_CONFIG:
            raise
        return {}


def _shape(shape: Any) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _batching(config: Mapping[str, Any]) -> str:
    if not config:
        return "not said"
    kinds = []
    dynamic = config.get("dynamic_batching")
    if dynamic is not None:
        delay = dynamic.get("max_queue_delay_microseconds") or 0
        preferred = dynamic.get("preferred_batch_size") or ()
        sizes = f", preferably {', '.join(map(str, preferred))}" if preferred else ""
        kinds.append(f"dynamic, waits at most {int(delay)} µs{sizes}")
    sequence = config.get("sequence_batching")
    if sequence is not None:
        kind = next((kind for kind in ("direct", "oldest") if kind in sequence), "direct")
        kinds.append(f"sequences, {kind}")
    if config.get("ensemble_scheduling") is not None:
        steps = [step["model_name"] for step in config["ensemble_scheduling"].get("step") or ()]
        kinds.append(f"ensemble of {', '.join(steps)}")
    if (config.get("model_transaction_policy") or {}).get("decoupled"):
        kinds.append("decoupled: any number of answers")
    if not kinds:
        kinds.append("by the caller only" if config.get("max_batch_size") else "none")
    return "; ".join(kinds)


def _instances(config: Mapping[str, Any]) -> str:
    found = []
    for group in config.get("instance_group") or ():
        kind = str(group.get("kind") or "").removeprefix("KIND_")
        gpus = f" {', '.join(map(str, group['gpus']))}" if group.get("gpus") else ""
        found.append(f"{group.get('count') or 1} on {kind}{gpus}")
    return ", ".join(found) or "not said"


def config(setup: Setup, model: Model, version: Version = "") -> None:
    """Print a model's configuration as JSON.

    `tritonhttp load --config` takes it.
    """
    with setup.client() as client:
        show_json(client.get_model_config(model, version))


def stats(
    setup: Setup,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model; else all.", autocompletion=_known)
    ] = "",
    version: Version = "",
) -> None:
    """Show what models did and how long it took.

    Times are means for each request, in microseconds.
    """
    if version and not model:
        raise Failure("--version needs a MODEL")
    found = setup.each(lambda client: client.get_inference_statistics(model, version))
    if setup.json:
        show_json(setup.alone(found))
        return
    durations = ("queue", "compute_input", "compute_infer", "compute_output")
    names = ("queue µs", "input µs", "infer µs", "output µs")
    for _, statistics in parts(found):
        rows = []
        for each in statistics["model_stats"]:
            counts: Mapping[str, Any] = each["inference_stats"]
            rows.append(
                (
                    each["name"],
                    each["version"],
                    str(each["inference_count"]),
                    str(each["execution_count"]),
                    str(counts["fail"]["count"]),
                    *(_mean(counts[part]) for part in durations),
                )
            )
        headers = ("model", "version", "inferences", "executions", "failed", *names)
        table(headers, sorted(rows), right=headers[2:])


def _mean(duration: Mapping[str, Any]) -> str:
    count = duration.get("count") or 0
    return f"{duration.get('ns', 0) / count / 1000:,.1f}" if count else "-"


def metrics(
    setup: Setup,
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help="Part of a name or label, or a pattern with * and ?; else all."
        ),
    ] = "",
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics-url", metavar="URL", help="Where the metrics are; else /metrics on port 8002."
        ),
    ] = None,
) -> None:
    """Show the metrics that the server gives to Prometheus."""
    from . import scrape

    found = {
        url: scrape.matching(scrape.read(setup, url), pattern)
        for url in at or [scrape.address(setup, url) for url in setup.urls]
    }
    if setup.json:
        show_json(setup.alone(found))
        return
    for url, samples in found.items():
        if not samples:
            raise Failure(
                f"{url} has no metric like {pattern!r}" if pattern else f"{url} has no metrics", SERVER
            )
    for _, samples in parts(found):
        rows = []
        for each in samples:
            labels = ", ".join(f"{name}={value}" for name, value in each["labels"].items())
            rows.append((each["name"], labels, f"{each['value']:.12g}"))
        table(("metric", "labels", "value"), rows, right=["value"])
