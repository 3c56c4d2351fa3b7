"""SECURITY.md and the code: each row names a test that exists, and nothing here can run what others sent."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tritonhttp

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "SECURITY.md"
SOURCE = Path(tritonhttp.__file__).parent
#: The programs that tests run inside a server are not imported by the library.
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "testing/models/" not in path.as_posix())

#: What runs code that data contain, or passes text to a shell; module or builtin, with the names in it.
FORBIDDEN = {
    "builtins": {"eval", "exec", "compile"},
    "pickle": {"load", "loads", "Unpickler"},
    "os": {"system", "popen", "spawnl", "spawnv", "execl", "execlp"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "asyncio": {"create_subprocess_shell"},
    "tempfile": {"mktemp"},
    "ssl": {"_create_unverified_context", "wrap_socket", "CERT_NONE", "CERT_OPTIONAL"},
}
MODULES_FORBIDDEN = {"dill", "cloudpickle", "marshal", "shelve", "yaml", "code", "runpy"}
#: Module -> what it may use all the same, and why.
ALLOWED = {
    "as_tritonclient/__main__.py": {"compile", "exec", "runpy"},  # it runs the caller's own program
    "_transport/tls.py": {"CERT_NONE"},  # ssl_context=False and a fingerprint: the caller's choice
}


def rows() -> list[tuple[str, list[str]]]:
    """Return the threats of the page's tables, with the tests that each names."""
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "threat" and set(cells[0]) - {"-"}:
            found.append((cells[0], re.findall(r"`(tests/[^`]+)`", cells[2])))
    return found


def test_every_row_of_the_threat_model_names_its_tests() -> None:
    assert len(rows()) > 20
    for threat, tests in rows():
        assert tests, f"{threat!r} names no test"
        for each in tests:
            path, _, name = each.partition("::")
            tree = ast.parse((ROOT / path).read_text("utf-8"))
            assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, each


def uses(tree: ast.AST) -> Iterator[str]:
    """Yield the forbidden names that a module uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in FORBIDDEN.get(node.value.id, ()):
                yield node.attr
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN["builtins"]:
            yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None)
            names = [alias.name for alias in node.names]
            yield from {*names, module} & MODULES_FORBIDDEN
            yield from FORBIDDEN.get(module or "", set()).intersection(names)
        elif isinstance(node, ast.keyword):
            constant = node.value.value if isinstance(node.value, ast.Constant) else None
            if (node.arg, constant) in (("shell", True), ("allow_pickle", True)):
                yield f"{node.arg}={constant}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_module_can_run_what_a_server_or_a_file_says(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert set(uses(tree)) == ALLOWED.get(path.relative_to(SOURCE).as_posix(), set())


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "from os import system",
        "import os\nos.popen('x')",
        "import pickle\npickle.loads(b'')",
        "from pickle import loads",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import asyncio\nasyncio.create_subprocess_shell('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import ssl\ncontext.verify_mode = ssl.CERT_NONE",
    ],
)
def test_the_rule_sees_what_it_forbids(code: str) -> None:
    assert set(uses(ast.parse(code)))
