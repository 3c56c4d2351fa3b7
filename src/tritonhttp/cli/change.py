"""Commands that change a server: its models, its trace and log settings, its shared memory regions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ServerError
from .ask import Model, parts
from .common import SERVER, Failure, Setup, command
from .output import facts, heading, show_json, table

if TYPE_CHECKING:
    from .. import InferenceServerClient

__all__ = ["add_to"]

Settings = Annotated[list[str], typer.Argument(metavar="NAME=VALUE", help="The settings to change.")]
OfModel = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="The settings of this model; else the global ones."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    example = (
        "tritonhttp load add_sub\ntritonhttp load add_sub --config add_sub.json --file 1/model.py=model.py"
    )
    command(app, example=example)(load)
    command(app, example="tritonhttp unload add_sub")(unload)
    trace = _group(app, "trace", "Read or change the trace settings.")
    command(trace, "get", example="tritonhttp trace get --model add_sub")(trace_get)
    example = "tritonhttp trace set trace_rate=100 log_frequency=50\ntritonhttp trace set trace_level=OFF"
    command(trace, "set", example=example)(trace_set)
    log = _group(app, "log", "Read or change the log settings.")
    command(log, "get", example="tritonhttp log get")(log_get)
    command(log, "set", example="tritonhttp log set log_verbose_level=0 log_info=true")(log_set)
    shm = _group(app, "shm", "List or forget regions of shared memory.")
    command(shm, "list", example="tritonhttp shm list")(shm_list)
    command(shm, "unregister", example="tritonhttp shm unregister --all")(shm_unregister)


def _group(app: typer.Typer, name: str, about: str) -> typer.Typer:
    group = typer.Typer(rich_markup_mode=None, help=about)
    app.add_typer(group, name=name)
    return group


def load(
    setup: Setup,
    model: Model,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="FILE", help="A configuration as JSON, as `config` prints; - is stdin."
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file", metavar="PATH=FILE", help="A file in place of the model's own; needs --config."
        ),
    ] = None,
) -> None:
    """Load or reload a model, on every server."""
    if file and config is None:
        raise Failure("--file needs --config FILE: the server takes files with a configuration only")
    files = {}
    for each in file or ():
        path, equals, local = each.partition("=")
        if not (path and equals and local):
            raise Failure(f"--file: expected PATH=FILE, such as 1/model.onnx=model.onnx, got {each!r}")
        files[f"file:{path.removeprefix('file:')}"] = Path(local).read_bytes()
    text = None if config is None else _config(config)
    setup.each(lambda client: client.load_model(model, config=text, files=files or None))
    _done(setup, model, "loaded")


def _config(path: str) -> str:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        advice = "a configuration is JSON here, as `tritonhttp config MODEL` prints it"
        raise Failure(f"--config {path}: {error}; {advice}") from error
    if not isinstance(found, dict):
        raise Failure(f"--config {path}: expected a JSON object, got {type(found).__name__}")
    return text


def unload(
    setup: Setup,
    model: Model,
    dependents: Annotated[
        bool, typer.Option("--dependents", help="Unload the models that only it needed, too.")
    ] = False,
) -> None:
    """Unload a model, on every server."""
    setup.each(lambda client: client.unload_model(model, unload_dependents=dependents))
    _done(setup, model, "unloaded")


def _done(setup: Setup, model: str, what: str) -> None:
    if setup.json:
        show_json(setup.alone({url: {"model": model, what: True} for url in setup.urls}))
        return
    for url in setup.urls:
        heading(f"{model}: {what}" if len(setup.urls) == 1 else f"{url}: {model}: {what}")


def trace_get(setup: Setup, model: OfModel = None) -> None:
    """Show the trace settings."""
    _show(setup, lambda client: client.get_trace_settings(model))


def trace_set(setup: Setup, settings: Settings, model: OfModel = None) -> None:
    """Change trace settings; an empty VALUE clears one. Show all of them."""
    given = {name: _trace_value(name, value) for name, value in _pairs(settings).items()}

    def change(client: InferenceServerClient) -> Mapping[str, Any]:
        _check(given, client.get_trace_settings(model))
        return client.update_trace_settings(model, given)

    _show(setup, change)


def _check(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse settings that the server does not have: it would ignore them without a word."""
    for name in given:
        if name not in known:
            raise Failure(f"the server has no setting {name!r}; there are {', '.join(sorted(known))}", SERVER)


def _trace_value(name: str, value: str) -> list[str] | str | None:
    if not value:
        return None
    return [level.strip() for level in value.split(",")] if name == "trace_level" else value


def log_get(setup: Setup) -> None:
    """Show the log settings."""
    _show(setup, lambda client: client.get_log_settings())


def log_set(setup: Setup, settings: Settings) -> None:
    """Change log settings. Show all of them."""
    given = {name: _log_value(value) for name, value in _pairs(settings).items()}

    def change(client: InferenceServerClient) -> Mapping[str, Any]:
        _check(given, client.get_log_settings())
        return client.update_log_settings(given)

    _show(setup, change)


def _log_value(value: str) -> Any:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return int(value) if value.isascii() and value.isdigit() else value


def _pairs(settings: list[str]) -> dict[str, str]:
    found = {}
    for each in settings:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise Failure(f"expected NAME=VALUE, got {each!r}")
        found[name] = value
    return found


def _show(setup: Setup, action: Callable[[InferenceServerClient], Mapping[str, Any]]) -> None:
    found = setup.each(action)
    if setup.json:
        show_json(setup.alone(found))
        return
    for _, settings in parts(found):
        facts([(name, _value(value)) for name, value in sorted(settings.items())])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def shm_list(setup: Setup) -> None:
    """List the regions of shared memory that the server knows."""
    found = setup.each(_regions)
    if setup.json:
        show_json(setup.alone(found))
        return
    for url, regions in parts(found):
        if not regions:
            heading(f"{url} has no regions")
            continue
        rows = [
            (each["kind"], each["name"], _place(each), str(each["byte_size"]))
            for each in sorted(regions, key=lambda each: (each["kind"], each["name"]))
        ]
        table(("kind", "name", "where", "bytes"), rows, right=["bytes"])


def _regions(client: InferenceServerClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"kind": "system", **each} for each in client.get_system_shared_memory_status()
    ]
    with suppress(ServerError):  # of a server without the extension
        found += [{"kind": "cuda", **each} for each in client.get_cuda_shared_memory_status()]
    return found


def _place(region: Mapping[str, Any]) -> str:
    if region["kind"] == "cuda":
        return f"GPU {region['device_id']}"
    return f"{region['key']} from byte {region['offset']}" if region.get("offset") else str(region["key"])


def shm_unregister(
    setup: Setup,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="The regions.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All regions.")] = False,
) -> None:
    """Let the server forget regions of shared memory; their memory itself stays."""
    if bool(names) == everything:
        raise Failure("name the regions to forget, or say --all")
    found = setup.each(lambda client: _forget(client, names))
    if setup.json:
        show_json(setup.alone(found))
        return
    for _, forgotten in parts(found):
        for name in forgotten:
            heading(f"{name}: unregistered")
        if not forgotten:
            heading("there were no regions")


def _forget(client: InferenceServerClient, names: list[str] | None) -> list[str]:
    present = {each["name"]: each["kind"] for each in _regions(client)}
    wanted = list(present) if names is None or not names else names
    for name in wanted:
        if name not in present:
            raise Failure(
                f"no region {name!r} is registered; `tritonhttp shm list` shows those that are", SERVER
            )
        if present[name] == "cuda":
            client.unregister_cuda_shared_memory(name)
        else:
            client.unregister_system_shared_memory(name)
    return wanted
