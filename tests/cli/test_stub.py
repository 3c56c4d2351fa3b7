"""`tritonhttp stub`: a file that type checkers accept, and that says when the model has changed."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import Signature, TensorInfo
from tritonhttp.cli.stub import source
from tritonhttp.testing import packaged_models

from .conftest import Run, environment

GOLDEN = '''\
class AddSub:
    """The model as a function of arrays: make it with a client, and call it.

    A call takes at most 8 rows, along the first dimension.
    """

    def __init__(self, client: tritonhttp.InferenceServerClient) -> None:
        self._model = client.model("add_sub")

    def __call__(
        self,
        *,
        INPUT0: npt.NDArray[np.int32] | Sequence[Any] | int,
        INPUT1: npt.NDArray[np.int32] | Sequence[Any] | int,
        **options: Unpack[CallOptions],
    ) -> AddSubOutputs:
        """Run the model.

        Parameters
        ----------
        INPUT0
            INPUT0: INT32 of shape [-1, 16]
        INPUT1
            INPUT1: INT32 of shape [-1, 16]
        **options
            See `CallOptions`.

        Returns
        -------
        dict of str to numpy.ndarray
            OUTPUT0: INT32 of shape [-1, 16]
            OUTPUT1: INT32 of shape [-1, 16]
        """
        given: dict[str, Any] = {"INPUT0": INPUT0, "INPUT1": INPUT1}
        outputs = self._model(given, **options)
        return cast("AddSubOutputs", dict(outputs))
'''

#: Names that are no names in Python, or that the file needs itself.
ODD = Signature(
    "1-odd model\n\"'\\",
    tuple(
        TensorInfo(name, datatype, (-1, 2), optional)
        for name, datatype, optional in (
            ("class", "FP32", False),
            ("a b", "FP32", False),
            ("a-b", "BOOL", True),
            ("timeout", "UINT8", False),
            ("self", "BYTES", False),
            ("1", "FP16", False),
            ("__private", "BF16", False),
            ('"""', "INT64", True),
            ("\\", "FP64", False),
            ("ünï", "FP32", False),
            ("np", "FP32", False),
            ("options", "FP32", True),
            ("given", "FP32", False),
            ("new", "FP8", False),
        )
    ),
    tuple(TensorInfo(name, "FP32", (1,)) for name in ("class", "a b", '"', "\n", "__x", "ok", "'")),
    4,
)


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "add_sub.py"
    ran = run("stub", "add_sub", "-o", str(path))
    assert (ran.code, ran.out) == (0, f"{path}: class AddSub\n")
    assert path.read_text().endswith(GOLDEN)
    assert run("stub", "add_sub").out == path.read_text()
    assert run("stub", "add_sub", "-o", str(path), "--json").json == {"file": str(path), "class": "AddSub"}


def test_it_calls_the_model(run: Run, tmp_path: Path, triton_server: Any) -> None:
    path = tmp_path / "stub.py"
    numbers = np.arange(16, dtype=np.int32).reshape(1, 16)
    with tritonhttp.InferenceServerClient(triton_server.url) as client:
        run("stub", "add_sub", "-o", str(path))
        outputs = load(path).AddSub(client)(
            INPUT0=numbers, INPUT1=[list(range(16))], deadline=30, request_id="x"
        )
        assert outputs["OUTPUT0"].tolist() == (2 * numbers).tolist()
        run("stub", "summary", "--version", "1", "-o", str(path))
        summary = load(path).Summary(client)
        assert summary(VALUES=[1.0, 3.0])["MEAN"].tolist() == [2.0]
        assert summary(VALUES=[1.0, 3.0], WEIGHTS=[1.0, 0.0])["MEAN"].tolist() == [1.0]

    run("stub", "add_sub", "--aio", "-o", str(path))

    async def call() -> Any:
        async with tritonhttp.aio.InferenceServerClient(triton_server.url) as client:
            return await load(path).AddSub(client)(INPUT0=numbers, INPUT1=numbers)

    assert asyncio.run(call())["OUTPUT1"].tolist() == [[0] * 16]


USES = """
import numpy as np
import tritonhttp
from typing_extensions import assert_type
import numpy.typing as npt
from add_sub import AddSub
from identity_bytes import IdentityBytes

with tritonhttp.InferenceServerClient("localhost:8000") as client:
    call = AddSub(client)
    outputs = call(INPUT0=np.zeros((1, 16), np.int32), INPUT1=[1], cast=True, deadline=1.0)
    assert_type(outputs["OUTPUT0"], npt.NDArray[np.int32])
    IdentityBytes(client)(INPUT0=["a"])
    floats: npt.NDArray[np.float32] = np.zeros(1, np.float32)
"""
MISUSES = [
    "call(INPUT0=floats, INPUT1=[1])",
    "call(INPUT0=[1])",
    "call(INPUT0=[1], INPUT1=[1], INPUT2=[1])",
    "call(INPUT0=[1], INPUT1=[1], deadline='x')",
    "call(INPUT0=[1], INPUT1=[1], outputs=['OUTPUT0'])",  # it would change what comes back
    "outputs['OUTPUT2']",
]


def checked(checker: str, folder: Path, *files: str) -> str:
    """Return what a type checker says about files of a folder."""
    source_folder = Path(tritonhttp.__file__).parents[1]
    if checker == "mypy":
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            f"--cache-dir={folder}/cache",
        ]
        extra = {"MYPYPATH": str(source_folder)}
    else:
        settings = {"typeCheckingMode": "standard", "extraPaths": [str(source_folder)]}
        (folder / "pyrightconfig.json").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "-p", str(folder)]
        files = ()
        extra = {}
    variables = environment(**extra)
    ended = subprocess.run(
        [*command, *files],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env=variables,
        check=False,
    )
    return ended.stdout


@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_type_checkers_accept_it_and_see_misuse(run: Run, tmp_path: Path, checker: str) -> None:
    pytest.importorskip(checker)
    for model in ("add_sub", "identity_bytes", "summary"):
        assert run("stub", model, "-o", str(tmp_path / f"{model}.py")).code == 0
    run("stub", "digits", "--aio", "-o", str(tmp_path / "digits_aio.py"))
    (tmp_path / "odd.py").write_text(source(ODD, "1"))
    (tmp_path / "odd_aio.py").write_text(source(ODD, "", aio=True))
    # One run for both, since each takes seconds: it must complain of the misuses, and of nothing else.
    (tmp_path / "uses.py").write_text(USES + "".join(f"    {line}\n" for line in MISUSES))
    said = checked(checker, tmp_path, *sorted(path.name for path in tmp_path.glob("*.py")))
    first = USES.count("\n") + 1
    errors = [line for line in said.splitlines() if re.search(r":\d+: error|:\d+:\d+ - error", line)]
    found = {int(re.search(r"uses\.py:(\d+)", line)[1]) for line in errors if "uses.py:" in line}  # type: ignore[index]
    assert found == set(range(first, first + len(MISUSES))), said
    assert all("uses.py:" in line for line in errors), said


def test_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(source(ODD, ""), "utf-8")
    module = load(path)
    asked: list[Any] = []

    class Client:
        def model(self, *name: str) -> Any:
            asked.append(name)
            return lambda given, **options: asked.append((given, options)) or {"ok": 1}

    given = {"class_": 1, "a_b": 2, "timeout_": 3, "self_": 4, "input_1": 5, "private_": 6, "_": 8, "ünï": 9}
    given |= {"np": 10, "given_": 11, "new": 12}
    assert module.Model1OddModel(Client())(**given, a_b_=7, timeout=5) == {"ok": 1}
    names = {"class": 1, "a b": 2, "timeout": 3, "self": 4, "1": 5, "__private": 6, "\\": 8, "ünï": 9}
    assert asked == [(ODD.name,), ({**names, "np": 10, "given": 11, "new": 12, "a-b": 7}, {"timeout": 5})]


ENDING = """FP32\"\"\"\n        raise SystemExit\n        '''\n\"\"\"\nraise SystemExit\n\"\"\" \\"""


@pytest.mark.parametrize("place", ["model", "version", "input", "output", "datatype", "output datatype"])
def test_nothing_that_a_server_says_becomes_code(tmp_path: Path, place: str) -> None:
    """A stub has the statements of any other, whatever is in the server's text."""

    def stub(evil: str) -> str:
        def at(name: str, text: str) -> str:
            return evil if name == place else text

        inputs = (TensorInfo(at("input", "A"), at("datatype", "FP32"), (1,), True),)
        outputs = (TensorInfo(at("output", "O"), at("output datatype", "FP32"), (1,)),)
        return source(Signature(at("model", "m"), inputs, outputs), at("version", "1"))

    path = tmp_path / "stub.py"
    path.write_text(stub(ENDING), "utf-8")
    assert load(path)  # ENDING would end the program
    statements = [
        [type(node).__name__ for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
        for text in (stub(ENDING), stub("x y"))
    ]
    assert statements[0] == statements[1]


def test_check(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "add_sub.py"
    run("stub", "add_sub", "-o", str(path))
    assert run("stub", "add_sub", "-o", str(path), "--check").out == f"{path}: fits the server\n"
    # Formatters may change the file, and people may add to it.
    path.write_text(f"# mine\n{path.read_text()}".replace('"', "'").replace("'''", '"""'))
    found = run("stub", "add_sub", "-o", str(path), "--check", "--json").json
    assert found == {"file": str(path), "fits": True, "differences": []}

    config = run("config", "add_sub").json
    config["max_batch_size"] = 4
    config["input"][0]["dims"] = [17]
    config["output"][1]["name"] = "OTHER"
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = packaged_models() / "add_sub" / "1" / "model.py"
    run("load", "add_sub", "--config", str(tmp_path / "config.json"), "--file", f"1/model.py={model}")
    try:
        run("stub", "add_sub", "-o", str(path), "--check").failed(
            4,
            "input 'INPUT0' was INT32[-1, 16], is INT32[-1, 17]",
            "output 'OUTPUT1' was INT32[-1, 16], is absent",
            "output 'OTHER' was absent, is INT32[-1, 16]",
            "max_batch_size was 8, is 4",
        )
        ran = run("stub", "add_sub", "-o", str(path), "--check", "--json")
        assert (ran.code, ran.json["fits"], len(ran.json["differences"])) == (4, False, 4)
    finally:
        run("load", "add_sub")
    assert run("stub", "add_sub", "-o", str(path), "--check").code == 0


def test_another_file_is_not_replaced(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("print('mine')\n")
    run("stub", "add_sub", "-o", str(path)).failed(2, "no stub", "--force")
    run("stub", "add_sub", "-o", str(path), "--check").failed(2, "no stub")
    assert path.read_text() == "print('mine')\n"
    assert run("stub", "add_sub", "-o", str(path), "--force").code == 0
    assert run("stub", "digits", "-o", str(path)).code == 0
    run("stub", "add_sub", "-o", str(path), "--check").failed(4, "model was 'digits', is 'add_sub'")


def test_mistakes(run: Run, tmp_path: Path) -> None:
    run("stub", "nowhere").failed(1, "nowhere")
    run("stub", "add_sub", "--check").failed(2, "-o FILE")
    run("stub", "add_sub", "-o", str(tmp_path / "no" / "x.py")).failed(2, "No such file")
    run("stub", "add_sub", "-o", str(tmp_path / "x.py"), "--check").failed(2, "No such file")
