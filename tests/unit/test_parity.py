"""The names, parameters, defaults and kinds of the reference hold here; our own come after, keyword-only."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tritonhttp
import tritonhttp.aio

REFERENCE = json.loads(Path(__file__).with_name("reference_api.json").read_text("utf-8"))["modules"]

#: Module of the reference -> the same here. A module that comes to exist is one more line.
HERE = {
    "http": "tritonhttp",
    "http.aio": "tritonhttp.aio",
    "http.aio.auth": "tritonhttp.aio.auth",
    "http.auth": "tritonhttp.auth",
    "utils": "tritonhttp.utils",
    "utils.shared_memory": "tritonhttp.utils.shared_memory",
    "utils.cuda_shared_memory": "tritonhttp.utils.cuda_shared_memory",
}

KINDS = ("static ", "classmethod ", "async ")


def parse(text: str) -> tuple[str, inspect.Signature]:
    """Turn a line of the table into a kind and a signature."""
    kind = next((kind.strip() for kind in KINDS if text.startswith(kind)), "")
    function = ast.parse(f"def f{text.removeprefix(kind).strip()}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    assert not arguments.posonlyargs
    assert not arguments.kwonlyargs
    first_default = len(arguments.args) - len(arguments.defaults)
    parameters = [
        inspect.Parameter(
            argument.arg,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=ast.literal_eval(arguments.defaults[index - first_default])
            if index >= first_default
            else inspect.Parameter.empty,
        )
        for index, argument in enumerate(arguments.args)
    ]
    return kind, inspect.Signature(parameters)


def functions() -> Iterator[tuple[str, str | None, str, str]]:
    for module in HERE:
        for name, described in REFERENCE[module].items():
            if isinstance(described, dict):
                for method, text in described.items():
                    yield module, name, method, text
            elif isinstance(described, str) and described.startswith(("(", *KINDS)):
                yield module, None, name, described


def shown(value: Any) -> str:
    return value or "" if isinstance(value, str | None) else str(value)


def kind_of(owner: Any, name: str) -> str:
    raw = inspect.getattr_static(owner, name)
    if isinstance(raw, staticmethod):
        return "static"
    if isinstance(raw, classmethod):
        return "classmethod"
    return "async" if inspect.iscoroutinefunction(raw) else ""


@pytest.mark.parametrize(("module", "owner", "name", "text"), list(functions()), ids=shown)
def test_signature_is_the_references(module: str, owner: str | None, name: str, text: str) -> None:
    holder = importlib.import_module(HERE[module])
    if owner is not None:
        holder = getattr(holder, owner)
    kind, wanted = parse(text)
    assert kind_of(holder, name) == kind
    found = list(inspect.signature(getattr(holder, name)).parameters.values())
    # `self` of a plain method; a class method is bound when it is fetched.
    theirs = list(wanted.parameters.values())
    shared, ours = found[: len(theirs)], found[len(theirs) :]
    assert [(each.name, each.default) for each in shared] == [(each.name, each.default) for each in theirs]
    assert {each.kind for each in shared} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert {each.kind for each in ours} <= {inspect.Parameter.KEYWORD_ONLY}
    assert all(each.default is not inspect.Parameter.empty for each in ours)


def values() -> Iterator[tuple[str, str, Any]]:
    for module in HERE:
        for name, described in REFERENCE[module].items():
            if not isinstance(described, dict) and not str(described).startswith(("(", *KINDS)):
                yield module, name, described


@pytest.mark.parametrize(("module", "name", "described"), list(values()), ids=shown)
def test_value_is_the_references(module: str, name: str, described: Any) -> None:
    found = getattr(importlib.import_module(HERE[module]), name)
    same = "the same class as "
    if name.startswith("TRITON_"):
        assert found == described
        assert type(found) is type(described)
    elif described.startswith(same):
        other_module, _, other = described.removeprefix(same).rpartition(".")
        assert found is getattr(importlib.import_module(HERE[other_module]), other)
    else:
        assert isinstance(found, type)
        assert issubclass(found, Exception) == ("Exception" in described)


def test_the_table_has_every_module_named_here() -> None:
    assert set(HERE) <= set(REFERENCE)


def test_mutable_default_of_update_trace_settings_is_never_changed() -> None:
    class Refusing(tritonhttp.InferenceServerClient):
        def _post(self, **_: Any) -> Any:
            raise EOFError

    with Refusing("a:1") as client:
        for arguments in ((), ("m",), ("m", {"trace_rate": "1"})):
            with pytest.raises(EOFError):
                client.update_trace_settings(*arguments)
    parameters = inspect.signature(tritonhttp.InferenceServerClient.update_trace_settings).parameters
    assert parameters["settings"].default == {}


def star(module: str) -> set[str]:
    names: dict[str, Any] = {}
    exec(f"from {module} import *", names)
    return set(names) - {"__builtins__"}


@pytest.mark.parametrize("module", HERE)
def test_star_import_brings_the_references_names(module: str) -> None:
    assert set(REFERENCE[module]) <= star(HERE[module])


def test_utils_are_reachable_from_the_top_module() -> None:
    utils = importlib.import_module("tritonhttp.utils")
    for name in REFERENCE["utils"]:
        assert getattr(tritonhttp, name) is getattr(utils, name)


def modules() -> list[str]:
    found = ["tritonhttp"]
    for module in pkgutil.walk_packages(tritonhttp.__path__, "tritonhttp."):
        parts = module.name.split(".")
        if "models" not in parts and parts[-1] not in ("_bytes_tensor", "_fast", "__main__"):
            found.append(module.name)
    return found


@pytest.mark.parametrize("module", modules())
def test_all_names_exist_and_are_named_once(module: str) -> None:
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        if "pip install" not in str(error):  # an optional dependency says how it is installed
            raise
        pytest.skip(str(error))
    names = getattr(imported, "__all__", [])
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(imported, name)] == []


#: Public modules.
MODULES: dict[str, str] = {
    "tritonhttp": "aio auth errors events metrics model plugins regions stream testing types utils",
    "tritonhttp.aio": "auth model stream",
    "tritonhttp.testing": "pytest_plugin",
}


@pytest.mark.parametrize("module", [*MODULES])
def test_a_package_lists_its_public_names_and_modules_and_no_others(module: str) -> None:
    """Also those that are imported when they are asked for."""
    imported = importlib.import_module(module)
    assert set(dir(imported)) == {*imported.__all__, *MODULES[module].split()}
    names = [f"print({module}.{name})" for name in dir(imported)]
    program = "\n".join([f"import {module}", *names])
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, len(names)), ran.stderr
    public = {
        name
        for name, value in vars(imported).items()
        if name[0] not in "_@" and not inspect.ismodule(value) and name != "TYPE_CHECKING"
    }
    assert public - {"annotations", "lazily"} <= set(imported.__all__)
    with pytest.raises(AttributeError, match=f"^module '{module}' has no attribute 'nothing'$"):
        imported.nothing  # noqa: B018


#: Types of what methods return, or take.
NAMED = (
    "GenerateStream Model Outputs Region Retry Signature Stats TensorInfo TLSError CertificateError"
    " Classification Health ModelList ModelStatus"
)


@pytest.mark.parametrize("name", NAMED.split())
@pytest.mark.parametrize("module", [tritonhttp, tritonhttp.aio])
def test_types_that_programs_name_are_public(module: Any, name: str) -> None:
    assert isinstance(getattr(module, name), type)
    assert name in module.__all__


def test_the_errors_that_are_made_when_asked_for_are_listed() -> None:
    assert set(tritonhttp.errors.__all__) <= set(dir(tritonhttp.errors))


# -- the two clients

#: Methods of one client only.
ONLY_BLOCKING = {"__enter__", "__exit__", "async_infer"}
ONLY_AIO = {"__aenter__", "__aexit__"}
#: Carried out at once in both.
PLAIN = {
    "generate_request_body",
    "generate_stream",
    "infer_stream",
    "model",
    "parse_response_body",
    "plugin",
    "register_plugin",
    "server",
    "shared_memory",
    "stats",
    "unregister_plugin",
}


def methods(kind: type) -> set[str]:
    names = {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
    return names | {name for name in ("_get", "_post", *ONLY_BLOCKING, *ONLY_AIO) if hasattr(kind, name)}


def test_the_two_clients_have_the_same_methods() -> None:
    blocking = methods(tritonhttp.InferenceServerClient)
    aio = methods(tritonhttp.aio.InferenceServerClient)
    assert blocking - aio == ONLY_BLOCKING
    assert aio - blocking == ONLY_AIO
    assert len(aio & blocking) > 25


@pytest.mark.parametrize("name", sorted(methods(tritonhttp.aio.InferenceServerClient) - ONLY_AIO))
def test_a_method_of_the_asyncio_client_is_the_blocking_ones_awaited(name: str) -> None:
    blocking = getattr(tritonhttp.InferenceServerClient, name)
    aio = getattr(tritonhttp.aio.InferenceServerClient, name)
    theirs, ours = inspect.signature(blocking).parameters, inspect.signature(aio).parameters
    assert [(each.name, each.kind, each.default) for each in ours.values()] == [
        (each.name, each.kind, each.default) for each in theirs.values()
    ]
    assert not inspect.iscoroutinefunction(blocking)
    assert inspect.iscoroutinefunction(aio) == (name not in PLAIN)
    if not name.startswith("_"):
        said, awaited = inspect.getdoc(blocking), inspect.getdoc(aio)
        assert said
        assert awaited
        assert name == "close" or said.splitlines()[0] == awaited.splitlines()[0].replace(
            "async ", ""
        ).replace(" an ``", " a ``")
        assert not re.search(r"``async |\bawait ", said)
        assert not re.search(r"``(with|for) ", awaited)


def test_both_modules_export_the_same_objects() -> None:
    assert set(tritonhttp.__all__) - set(tritonhttp.aio.__all__) == {
        "__version__",
        "install_as_tritonclient",
    }
    twice = {"InferenceServerClient", "GenerateStream", "Model", "Outputs"}
    shared = set(tritonhttp.aio.__all__) & set(tritonhttp.__all__) - twice
    for name in shared:
        assert getattr(tritonhttp.aio, name) is getattr(tritonhttp, name)
    auth = importlib.import_module("tritonhttp.auth")
    for name in auth.__all__:
        assert getattr(importlib.import_module("tritonhttp.aio.auth"), name) is getattr(auth, name)


#: Names that the reference's module imports for itself, and that programs take from there.
FROM_AIO = (
    "InferAsyncRequest InferInput InferRequestedOutput InferResult InferenceServerClient InferenceServerClientBase"
    " InferenceServerException Request raise_error"
)


@pytest.mark.parametrize("name", FROM_AIO.split())
def test_programs_find_in_aio_what_they_take_from_there(name: str) -> None:
    assert name in tritonhttp.aio.__all__
    assert name in star("tritonhttp.aio")
