"""``tritonhttp stub``: a Python file with a model's inputs and outputs, for type checkers and editors."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ask import Model, Version
from .common import BOUND, Failure, Setup, command
from .output import heading, show_json

if TYPE_CHECKING:
    from .. import Signature, TensorInfo

__all__ = ["add_to"]

_SCALARS = {
    "BOOL": ("np.bool_", "bool"),
    **{
        f"{sign}INT{bits}": (f"np.{sign.lower()}int{bits}", "int")
        for sign in ("", "U")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": (f"np.float{bits}", "float") for bits in (16, 32, 64)},
}
#: What a caller may give beside inputs: all options of a call but those that change what comes back.
_OPTIONS = """\
class CallOptions(TypedDict, total=False):
    \"\"\"What a call takes beside inputs; as for `tritonhttp.model.Model`.\"\"\"

    cast: bool
    request_id: str
    priority: int
    timeout: int | None
    headers: Mapping[str, Any] | None
    query_params: Mapping[str, Any] | None
    request_compression_algorithm: str | None
    response_compression_algorithm: str | None
    parameters: Mapping[str, Any] | None
    idempotent: bool | None
    deadline: float | None
"""
_TAKEN = {*re.findall(r"(?m)^    (\w+):", _OPTIONS), "self", "options", "given"}
_NAMED = "SIGNATURE"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    example = "tritonhttp stub add_sub -o add_sub.py\ntritonhttp stub add_sub -o add_sub.py --check"
    command(app, example=example)(stub)


def stub(
    setup: Setup,
    model: Model,
    version: Version = "",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write to this file, not to the screen."),
    ] = None,
    aio: Annotated[bool, typer.Option("--aio", help="For the asyncio client.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing: say whether the file's model is still that of the server."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no stub.")] = False,
) -> int:
    """Write a Python file with a typed function for a model.

    With --check the exit code is 4 if the server's model has other inputs or outputs than the file.
    """
    if check and output is None:
        raise Failure("--check needs the stub's file: -o FILE")
    known = None
    if output is not None and (check or (output.exists() and not force)):
        known = _signature_in(output)
        if check and known is None:
            raise Failure(f"{output} is no stub of tritonhttp")
        if not check and known is None and output.read_text("utf-8", "replace").strip():
            raise Failure(f"{output} is no stub of tritonhttp: --force replaces it")
    with setup.client() as client:
        signature = client.model(model, version).refresh().signature
    assert signature is not None
    if check:
        assert known is not None
        return _compare(setup, output, known, _as_dict(signature, version))
    if not signature.inputs or not signature.outputs:
        raise Failure(f"the server does not say what model {model!r} takes and gives")
    text = source(signature, version, aio)
    if output is None:
        print(text, end="")
        return 0
    output.write_text(text, "utf-8")
    if setup.json:
        show_json({"file": str(output), "class": _class_name(signature.name)})
    else:
        heading(f"{output}: class {_class_name(signature.name)}")
    return 0


def _compare(setup: Setup, path: Path | None, known: Mapping[str, Any], found: Mapping[str, Any]) -> int:
    differences = []
    for key in found:
        if known.get(key) != found[key]:
            differences += _differences(key, known.get(key), found[key])
    if setup.json:
        show_json({"file": str(path), "fits": not differences, "differences": differences})
    elif differences:
        raise Failure(f"{path} does not fit the server: {'; '.join(differences)}", BOUND)
    else:
        heading(f"{path}: fits the server")
    return BOUND if differences else 0


def _differences(key: str, known: Any, found: Any) -> list[str]:
    if isinstance(known, dict) and isinstance(found, dict):
        kind = key.removesuffix("s")
        said = []
        for name in {**known, **found}:
            before, now = (_in_words(each.get(name)) for each in (known, found))
            if before != now:
                said.append(f"{kind} {name!r} was {before}, is {now}")
        return said or [f"{key} are in another order"]
    return [f"{key} was {known!r}, is {found!r}"]


def _in_words(tensor: Any) -> str:
    if not tensor:
        return "absent"
    datatype, shape, *optional = tensor
    return f"{datatype}{list(shape)}{' (optional)' if optional and optional[0] else ''}"


def _as_dict(signature: Signature, version: str) -> dict[str, Any]:
    """Return what a stub promises, as it stands in its file."""

    def tensors(infos: Iterable[TensorInfo]) -> dict[str, tuple[Any, ...]]:
        return {info.name: (info.datatype, info.shape, info.optional) for info in infos}

    return {
        "model": signature.name,
        "version": version,
        "inputs": tensors(signature.inputs),
        "outputs": tensors(signature.outputs),
        "max_batch_size": signature.max_batch_size,
    }


def _signature_in(path: Path) -> dict[str, Any] | None:
    """Return what a stub's file promises; None if the file is no stub."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [getattr(target, "id", "") for target in targets]
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value and names == [_NAMED]:
                found = ast.literal_eval(node.value)
                return found if isinstance(found, dict) else None
    except (SyntaxError, ValueError):
        pass
    return None


# -- the file --


def source(signature: Signature, version: str, aio: bool = False) -> str:
    """Return the stub's text.

    Parameters
    ----------
    signature : Signature
        Of the model.
    version : str
        The version to call; empty: the server's choice.
    aio : bool
        Whether it is for the asyncio client.
    """
    name = _class_name(signature.name)
    options_name = "CallOptions" if name != "CallOptions" else "TheCallOptions"
    arguments = _parameter_names(signature.inputs)
    required = [info for info in signature.inputs if not info.optional]
    optional = [info for info in signature.inputs if info.optional]
    lines = [f"{arguments[info.name]}: {_input_type(info)}" for info in required]
    lines += [f"{arguments[info.name]}: {_input_type(info)} | None = None" for info in optional]
    given = [f"{_literal(info.name)}: {arguments[info.name]}" for info in required]
    extra = "".join(
        f"        if {arguments[info.name]} is not None:\n"
        f"            given[{_literal(info.name)}] = {arguments[info.name]}\n"
        for info in optional
    )
    where = ", ".join(map(_literal, [signature.name, *([version] if version else [])]))
    module = "tritonhttp.aio" if aio else "tritonhttp"
    batches = (
        f"A call takes at most {signature.max_batch_size} rows, along the first dimension."
        if signature.max_batch_size
        else "The model has no batch dimension."
    )
    documented = "\n".join(
        f"        {arguments[info.name]}\n            {_in_docstring(info)}"
        for info in (*required, *optional)
    )
    returned = "\n".join(f"            {_in_docstring(info)}" for info in signature.outputs)
    call = ",\n        ".join(["self", "*", *lines, f"**options: Unpack[{options_name}]"])
    facts = "".join(
        f"    {_literal(key)}: {_literal(value)},\n" for key, value in _as_dict(signature, version).items()
    )
    return f'''"""A model of an inference server as a typed function.

Written by ``tritonhttp stub``, which also checks with ``--check`` whether the server's model is still this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

import {module}

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [{_literal(name)}]

#: What the server said when this was written. Tensors: datatype, shape (-1 is any length), whether optional.
{_NAMED}: dict[str, Any] = {{
{facts}}}


{_OPTIONS.replace("class CallOptions", f"class {options_name}")}

{_outputs_type(name, signature.outputs)}

class {name}:
    """The model as a function of arrays: make it with a client, and call it.

    {batches}
    """

    def __init__(self, client: {module}.InferenceServerClient) -> None:
        self._model = client.model({where})

    {"async " if aio else ""}def __call__(
        {call},
    ) -> {name}Outputs:
        """Run the model.

        Parameters
        ----------
{documented}
        **options
            See `{options_name}`.

        Returns
        -------
        dict of str to numpy.ndarray
{returned}
        """
        given: dict[str, Any] = {{{", ".join(given)}}}
{extra}        outputs = {"await " if aio else ""}self._model(given, **options)
        return cast({_literal(name + "Outputs")}, dict(outputs))
'''


def _literal(value: Any) -> str:
    """Return a value as Python has it, with the double quotes of formatters."""
    if isinstance(value, str):
        text = repr(value)
        return text if set(value) & {"'", '"'} else f'"{text[1:-1]}"'
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        inside = "".join(f"        {_literal(name)}: {_literal(each)},\n" for name, each in value.items())
        return f"{{\n{inside}    }}"
    return repr(value)


def _outputs_type(name: str, outputs: Iterable[TensorInfo]) -> str:
    """Return the type of what a call returns; names that are no identifiers need the form with a dict."""
    types = {info.name: _array(info) for info in outputs}
    if all(each.isidentifier() and not keyword.iskeyword(each) and not _is_private(each) for each in types):
        fields = "".join(f"    {each}: {type}\n" for each, type in types.items())
        return f'class {name}Outputs(TypedDict):\n    """What a call returns."""\n\n{fields}'
    fields = "".join(f"        {_literal(each)}: {_literal(type)},\n" for each, type in types.items())
    return f"{name}Outputs = TypedDict(\n    {_literal(name + 'Outputs')},\n    {{\n{fields}    }},\n)\n"


def _is_private(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")  # Python would change it in a class


def _array(info: TensorInfo) -> str:
    if info.datatype == "BYTES":
        return "npt.NDArray[np.object_]"
    return f"npt.NDArray[{_SCALARS[info.datatype][0]}]" if info.datatype in _SCALARS else "npt.NDArray[Any]"


def _input_type(info: TensorInfo) -> str:
    if info.datatype == "BYTES":
        return "npt.NDArray[np.object_] | npt.NDArray[np.bytes_] | npt.NDArray[np.str_] | Sequence[Any]"
    single = f" | {_SCALARS[info.datatype][1]}" if info.datatype in _SCALARS else ""
    return f"{_array(info)} | Sequence[Any]{single}"


def _in_docstring(info: TensorInfo) -> str:
    """Describe a tensor in a docstring. Nothing of it can end that: all of it is the server's text."""
    text = f"{info.name}: {info.datatype} of shape {list(info.shape)}{', optional' if info.optional else ''}"
    return text.encode("unicode_escape").decode("ascii").replace("\\", "\\\\").replace('"', '\\"')


def _parameter_names(inputs: Iterable[TensorInfo]) -> dict[str, str]:
    """Return a parameter's name for each input."""
    found: dict[str, str] = {}
    for info in inputs:
        name = re.sub(r"\W", "_", info.name)
        if not name.isidentifier():
            name = f"input_{name}"
        if keyword.iskeyword(name) or _is_private(name):
            name = f"{name.lstrip('_')}_"
        while name in _TAKEN or name in found.values():
            name += "_"
        found[info.name] = name
    return found


def _class_name(model: str) -> str:
    """Return a class's name: ``AddSub`` for ``add_sub``."""
    words = [word for word in re.split(r"[\W_]+", model) if word]
    name = "".join(word[0].upper() + word[1:] for word in words)
    if not name.isidentifier() or keyword.iskeyword(name) or name in _IMPORTED:
        name = f"Model{name}"
    return name if name.isidentifier() else "Model"


#: What the file itself uses.
_IMPORTED = {"Any", "Mapping", "Sequence", "TypedDict", "Unpack", _NAMED}
