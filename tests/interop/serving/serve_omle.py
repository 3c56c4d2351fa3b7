"""Serve the interop tests' models with omle-server: ``python serve_omle.py FOLDER HTTP_PORT GRPC_PORT``.

It runs in an environment of its own, writes the models into the folder, and ends when its standard input does. The
server has operators instead of programs, so the models are those that operators can express: no model that fails.
"""

import subprocess
import sys
from pathlib import Path

import omle
import omle_server
from omle import (
    Attribute,
    DataType,
    InputSpec,
    Node,
    NodeInput,
    NodeOutput,
    OMLEModel,
    OutputSpec,
    TensorType,
)

DATATYPES = {
    "bool": DataType.BOOL,
    **{
        f"{s}int{bits}": getattr(DataType, f"{s}INT{bits}".upper())
        for s in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "fp16": DataType.FLOAT16,
    "fp32": DataType.FLOAT32,
    "fp64": DataType.FLOAT64,
    "bytes": DataType.BYTES,
}


def node(op: str, inputs: list[str], output: str, kind: TensorType, *attributes: Attribute) -> Node:
    """Return an operator with one output."""
    return Node(
        name=f"{op} {output}",
        domain="omle.core",
        op=op,
        inputs=[NodeInput(name=name) for name in inputs],
        outputs=[NodeOutput(output, kind)],
        attributes=list(attributes),
    )


def write(folder: Path, name: str, kind: TensorType, inputs: list[str], nodes: list[Node]) -> None:
    """Write a model whose tensors are all of one type."""
    model = OMLEModel(
        metadata=omle.ModelMetadata(name=name, version="1"),
        operator_imports=[omle.NamespaceImport("omle.core", "0.1")],
        inputs=[InputSpec(each, kind) for each in inputs],
        outputs=[OutputSpec(each.outputs[0].name, kind) for each in nodes],
        nodes=nodes,
    )
    omle.assert_valid(model)
    omle.save(model, folder / f"{name}.omle")


def main() -> None:
    """Serve until the standard input ends."""
    folder = Path(sys.argv[1]) / "models"
    folder.mkdir()
    for name, datatype in DATATYPES.items():
        kind = TensorType(datatype, [-1])
        write(folder, f"identity_{name}", kind, ["INPUT0"], [node("Identity", ["INPUT0"], "OUTPUT0", kind)])
    kind = TensorType(DataType.INT32, [-1, 16])
    both = ["INPUT0", "INPUT1"]
    minus = Attribute(name="weights", float64s=[1.0, -1.0])
    nodes = [node("Sum", both, "OUTPUT0", kind), node("WeightedSum", both, "OUTPUT1", kind, minus)]
    write(folder, "add_sub", kind, both, nodes)
    command = [
        omle_server.binary_path(),
        "--model-dir",
        folder,
        "--rest-port",
        sys.argv[2],
        "--grpc-port",
        sys.argv[3],
    ]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        sys.stdin.buffer.read()
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
