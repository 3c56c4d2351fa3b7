"""``tritonhttp infer``: one inference, or the same several times."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ask import Model, Version
from .common import Failure, Setup, command
from .output import data, heading, show_json, table

if TYPE_CHECKING:
    import numpy.typing as npt

    from .. import InferenceServerClient
    from ..model import CallOptions, Outputs
    from .inputs import Reader

__all__ = [
    "Inputs",
    "Layout",
    "Mean",
    "Parameters",
    "Random",
    "Resize",
    "Scale",
    "Seed",
    "Select",
    "Shapes",
    "Std",
    "add_to",
    "inputs_of",
    "parameters_of",
]

_EXAMPLE = """\
tritonhttp infer add_sub --random
tritonhttp infer identity_int32 --input INPUT0='[1, 2, 3]' --json
tritonhttp infer digits --input IMAGE=@digit.png --resize 8x8 --scale 1/255 --classes 3
tritonhttp infer add_sub --input @inputs.npz --output outputs.npz"""

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "-i",
        "--input",
        metavar="NAME=VALUE",
        help="An input: JSON or text, @FILE (.npy, .npz, .json, .txt, .bin, PNG, JPEG), or @- for standard input."
        " Repeated: rows of a batch. @FILE.npz alone: all inputs by name.",
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME:3,224,224", help="The shape of an input that the model leaves open."
    ),
]
Parameters = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A parameter of the request.")
]
Random = Annotated[bool, typer.Option("--random", help="Random values for inputs that are not given.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="Make the random values the same each time."),
]
Resize = Annotated[
    str | None, typer.Option("--resize", metavar="WxH", help="Images: resize to width and height.")
]
Layout = Annotated[
    str | None, typer.Option("--layout", metavar="NCHW|NHWC", help="Images: the order of dimensions.")
]
Scale = Annotated[
    str | None,
    typer.Option("--scale", metavar="F", help="Images: multiply pixels by this, such as 1/255."),
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", metavar="M,…", help="Images: then subtract this, for each channel."),
]
Std = Annotated[
    str | None,
    typer.Option("--std", metavar="S,…", help="Images: then divide by this, for each channel."),
]
Select = Annotated[
    list[str] | None,
    typer.Option("--select", metavar="NAME", help="Ask for this output only; repeated: these."),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, example=_EXAMPLE)(infer)


def infer(
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
    request_id: Annotated[str, typer.Option("--request-id", metavar="ID", help="The request's id.")] = "",
    select: Select = None,
    classes: Annotated[
        int,
        typer.Option(
            "--classes", metavar="N", min=0, show_default=False, help="The best N classes of each output."
        ),
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write outputs to .npz, .npy or .json."),
    ] = None,
    repeat: Annotated[
        int,
        typer.Option(
            "--repeat",
            metavar="N",
            min=1,
            show_default=False,
            help="Do it N times, and say how long it took.",
        ),
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send no inference; print it as a curl line.")
    ] = False,
) -> None:
    """Run a model and show its outputs."""
    from .images import pixels_of
    from .inputs import Reader, shapes_of

    write = _writer(output)
    shapes, pixels, parameters = (
        shapes_of(shape or ()),
        pixels_of(resize, layout, scale, mean, std),
        parameters_of(param),
    )
    with setup.client() as client:
        called = client.model(model, version)
        signature = called.refresh().signature
        assert signature is not None
        inputs = inputs_of(Reader(signature, shapes, pixels), input, random, seed)
        options: CallOptions = {"cast": True, "request_id": request_id, "parameters": parameters or None}
        if select:
            options["outputs"] = select
        if classes:
            options["classes"] = classes
        if dry_run:
            print(_dry_run(client, setup, signature, inputs, options, version))
            return
        times: list[float] = []
        outputs: Outputs | None = None
        try:
            for _ in range(repeat):
                began = time.perf_counter()
                outputs = called(inputs, **options)
                times.append((time.perf_counter() - began) * 1000)
        finally:
            # After Ctrl-C or an error, too: what was measured so far.
            if outputs is not None:
                if write is not None:
                    write(outputs)
                _show(setup, outputs, classes, times if repeat > 1 else (), output)


def inputs_of(reader: Reader, given: list[str] | None, random: bool, seed: int | None) -> dict[str, Any]:
    """Return a call's inputs from the options: those that are given, and random ones."""
    signature = reader.signature
    model, known = signature.name, {info.name for info in signature.inputs}
    unknown = [name for name in reader.shapes if name not in known]
    if unknown:
        raise Failure(f"--shape: model {model!r} has no input {unknown[0]!r}")
    inputs = reader.read(given or ())
    if random:
        return inputs | reader.random(inputs, seed)
    if not inputs and signature.inputs:
        takes = ", ".join(map(str, signature.inputs))
        raise Failure(f"model {model!r} takes {takes}: give each with --input NAME=…, or say --random")
    return inputs


def parameters_of(given: list[str] | None) -> dict[str, Any]:
    """Return the parameters of ``NAME=VALUE``; values are JSON, or else text."""
    found: dict[str, Any] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise Failure(f"--param: expected NAME=VALUE, got {each!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
        if not isinstance(found[name], (str, bool, int, float)):
            raise Failure(f"--param {name}: expected text, a number, true or false, got {value!r:.80}")
    return found


def _dry_run(
    client: InferenceServerClient,
    setup: Setup,
    signature: Any,
    inputs: Mapping[str, Any],
    options: CallOptions,
    version: str,
) -> str:
    """Return the inference as a curl line: as JSON where that can hold it and is not too long."""
    from .. import InferRequestedOutput, InvalidRequest
    from .._protocol import operations
    from .._protocol.signature import tensors
    from .curl import curl_line

    arrays = signature.arrays(inputs, True)
    names, classes = signature.wanted(options.get("outputs")), options.get("classes", 0)
    half = {info.name for info in signature.outputs if info.datatype in ("FP16", "BF16")} & set(names)
    binary_answer = bool(half) and not classes
    outputs = [InferRequestedOutput(name, binary_answer, classes) for name in names]
    small = sum(array.nbytes for array in arrays.values()) < 1 << 16
    more: Any = {"request_id": options.get("request_id", ""), "parameters": options.get("parameters")}
    try:
        if not small or any(array.dtype.name in ("float16", "bfloat16") for array in arrays.values()):
            raise InvalidRequest("not as JSON")
        body, json_size = client.generate_request_body(tensors(arrays, False), outputs or None, **more)
    except InvalidRequest:
        body, json_size = client.generate_request_body(tensors(arrays, True), outputs or None, **more)
    path = operations.model_path(signature.name, version, "/infer")
    return curl_line(setup, path, body, json_size, binary_answer=binary_answer)


# -- outputs --


def _show(setup: Setup, outputs: Outputs, classes: int, times: Sequence[float], written: Path | None) -> None:
    spent = _summary(times) if times else {}
    if setup.json:
        found = {} if written is not None else _answer(outputs)
        show_json({**found, **({"latency_ms": spent} if spent else {})})
        return
    if written is not None:
        heading(f"{written}: {', '.join(map(str, outputs.result.outputs))}")
    elif classes:
        _show_classes(outputs)
    else:
        rows = [
            (info.name, info.datatype, str(list(info.shape)), _shown(outputs[info.name]))
            for info in outputs.result.outputs
        ]
        table(("output", "datatype", "shape", "values"), rows)
    if spent:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in spent.items() if name != "count")
        heading(f"{spent['count']} inferences, in ms: {figures}")


def _answer(outputs: Outputs) -> dict[str, Any]:
    """Return the outputs as the protocol's JSON has them."""
    answer = outputs.result.get_response()
    return {
        "model_name": answer.get("model_name"),
        "model_version": answer.get("model_version"),
        **({"id": answer["id"]} if answer.get("id") else {}),
        "outputs": [
            {
                "name": info.name,
                "datatype": info.datatype,
                "shape": list(info.shape),
                "data": data(outputs[info.name]),
            }
            for info in outputs.result.outputs
        ],
    }


def _shown(array: npt.NDArray[Any]) -> str:
    """Return the first and last values of an array, in a line."""
    import numpy as np

    if array.dtype.kind == "O":
        texts = [each if isinstance(each, str) else json.dumps(each) for each in data(array.ravel()[:8])]
        texts = [text if len(text) <= 200 else f"{text[:200]}…" for text in texts]
        return ", ".join(texts) + (", …" if array.size > 8 else "")
    flat = array.ravel().astype(np.float32) if array.dtype.name == "bfloat16" else array.ravel()
    words: Any = {"float_kind": "{:.6g}".format}
    shown = np.array2string(
        flat, threshold=16, edgeitems=4, separator=", ", max_line_width=10**6, formatter=words
    )
    return " ".join(shown.strip("[]").split())


def _show_classes(outputs: Outputs) -> None:
    """Show the classes of each row: BYTES of ``score:index:label``."""
    rows = []
    for name, array in outputs.items():
        best = array.reshape(-1, array.shape[-1] if array.ndim else 1)
        for row, classes in enumerate(best):
            for text in data(classes):
                score, _, rest = str(text).partition(":")
                index, _, label = rest.partition(":")
                rows.append((name, str(row), score, index, label))
    table(("output", "row", "score", "class", "label"), rows, right=("row", "score", "class"))


def _summary(times: Sequence[float]) -> dict[str, float]:
    import numpy as np

    low, middle, high = np.percentile(times, [0, 50, 99])
    found = {"mean": np.mean(times), "min": low, "p50": middle, "p99": high, "max": max(times)}
    return {"count": len(times), **{name: round(float(value), 3) for name, value in found.items()}}


def _writer(path: Path | None) -> Any:
    """Return the function that writes outputs to a file of that name; refuse a name of no known form."""
    if path is None:
        return None
    forms = {".npz": _write_npz, ".npy": _write_npy, ".json": _write_json}
    if path.suffix.lower() not in forms:
        raise Failure(f"--output: expected a name that ends with .npz, .npy or .json, got {str(path)!r}")
    if not path.parent.is_dir():
        raise Failure(f"--output: no such folder: {path.parent}")
    write = forms[path.suffix.lower()]
    return lambda outputs: write(path, outputs)


def _write_npz(path: Path, outputs: Outputs) -> None:
    import zipfile

    import numpy as np

    arrays = {name: _plain(name, array) for name, array in outputs.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_npy(path: Path, outputs: Outputs) -> None:
    import numpy as np

    if len(outputs) != 1:
        raise Failure(
            f"an .npy file holds one output, and there are {', '.join(outputs)}: --select one, or use .npz"
        )
    (item,) = outputs.items()
    np.save(path, _plain(*item), allow_pickle=False)


def _write_json(path: Path, outputs: Outputs) -> None:
    from .output import as_json

    path.write_text(as_json(_answer(outputs)) + "\n", "utf-8")


def _plain(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array that a file holds without pickle: bytes of one length, and FP32 for BF16."""
    import numpy as np

    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.kind != "O":
        return array
    items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    if any(item.endswith(b"\0") for item in items):
        raise Failure(
            f"output {name!r} has bytes that end with NUL, which numpy's files drop: write to .json"
        )
    return np.array(items, dtype=bytes).reshape(array.shape) if items else np.empty(array.shape, "S1")
