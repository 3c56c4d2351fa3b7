"""Which module may import which. Read from the source, so lazy imports count too."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tritonhttp

ROOT = Path(tritonhttp.__file__).parent
#: Without the models that run inside the test server.
SOURCES = sorted(path for path in ROOT.rglob("*.py") if "testing/models/" not in path.as_posix())

#: The longest prefix counts. `tritonhttp` itself is the front door: what it opens onto is public.
ROOMS = {
    "tritonhttp": 10,
    "tritonhttp.__main__": 11,
    "tritonhttp._version": 0,
    "tritonhttp.errors": 0,
    "tritonhttp.types": 0,
    "tritonhttp._basics": 0,
    "tritonhttp._wire": 1,
    "tritonhttp.utils._dlpack": 1,  # knows numpy only; the reference has it there
    "tritonhttp._repetition": 2,
    "tritonhttp._protocol": 3,
    "tritonhttp.plugins": 3,
    "tritonhttp.events": 3,
    "tritonhttp.auth": 3,
    "tritonhttp._transport": 4,
    "tritonhttp._calls": 5,
    "tritonhttp._regions": 6,
    "tritonhttp.utils": 6,
    "tritonhttp._clients": 7,
    "tritonhttp._names": 8,
    "tritonhttp.aio": 8,
    "tritonhttp.base": 8,
    "tritonhttp.metrics": 8,
    "tritonhttp.model": 8,
    "tritonhttp.regions": 8,
    "tritonhttp.stream": 8,
    "tritonhttp.bulk": 9,
    "tritonhttp.otel": 9,
    "tritonhttp.as_tritonclient": 10,
    "tritonhttp.testing": 10,
    "tritonhttp.cli": 11,
    "tritonhttp.testing.__main__": 11,
}

#: Package of somebody else -> where it may be imported; "" is everywhere in the library proper.
OTHERS = {
    "numpy": "tritonhttp",
    "orjson": "tritonhttp",
    "httptools": "tritonhttp._wire",
    "isal": "tritonhttp._wire.compression",
    "ml_dtypes": "tritonhttp",
    "opentelemetry": "tritonhttp.otel",
    "torch": "tritonhttp._protocol.arrays",
    "rich": "tritonhttp._clients.progress",
    "tqdm": "tritonhttp._clients.progress",
    "cuda": "tritonhttp.utils.cuda_shared_memory._cuda",
}
LAZY = {"cuda", "isal", "ml_dtypes", "rich", "torch", "tqdm"}

#: Packages of the command line that are imported where they are used; `typer` is imported with each command.
LAZY_IN_CLI = {"PIL", "hdrh", "pygal", "rich"}
#: Made of classes of textual, so that it imports them at its top, and is itself imported where it is used.
SCREEN, ITS_PACKAGES = "tritonhttp.cli.top.screen", {"textual", "rich"}

NO_IO = {"socket", "ssl", "asyncio", "threading", "time", "select", "selectors", "concurrent", "datetime"}

TRANSPORTS = {"tritonhttp._transport.blocking", "tritonhttp._transport.asyncio"}

MOST_LINES = 450

#: The most rooms that one above the other import each other.
MOST_FLOORS = 12


def module_name(path: Path) -> str:
    parts = ("tritonhttp", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in SOURCES}


def room_name(module: str) -> str:
    while module not in ROOMS:
        module = module.rpartition(".")[0]
    return module


def room(module: str) -> int:
    return ROOMS[room_name(module)]


class Imports(ast.NodeVisitor):
    """Collects (module, whether inside a function) of all imports, with `typing` also those for type checkers."""

    def __init__(self, package: str, typing: bool) -> None:
        self.package = package.split(".")
        self.typing = typing
        self.depth = 0
        self.found: list[tuple[str, bool]] = []

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        typing_only = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING" and not self.typing
        for child in node.orelse if typing_only else [*node.body, *node.orelse]:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, self.depth > 0) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            submodule = f"{module}.{alias.name}"
            self.found.append((submodule if submodule in NAMES else module, self.depth > 0))

    def visit_Call(self, node: ast.Call) -> None:
        """Import by name counts as well: `import_module("…")`."""
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self.found.append((str(node.args[0].value), self.depth > 0))
        self.generic_visit(node)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imports(module: str, *, typing: bool = False) -> list[tuple[str, bool]]:
    path = NAMES[module]
    visitor = Imports(module if path.name == "__init__.py" else module.rpartition(".")[0], typing)
    visitor.visit(parsed(path))
    return visitor.found


def own_imports(module: str) -> Iterator[str]:
    return (found for found, _ in imports(module) if found.split(".")[0] == "tritonhttp")


@pytest.mark.parametrize("module", list(NAMES))
def test_a_room_has_a_number(module: str) -> None:
    if module != "tritonhttp":
        first = ".".join(module.split(".")[:2])
        assert first in ROOMS, f"say in ROOMS where {first} belongs"


@pytest.mark.parametrize("named", list(ROOMS))
def test_a_room_that_has_a_number_exists(named: str) -> None:
    assert named in NAMES


@pytest.mark.parametrize("module", list(NAMES))
def test_a_lower_room_never_imports_a_higher_one(module: str) -> None:
    assert [found for found in own_imports(module) if room(found) > room(module)] == []


@pytest.mark.parametrize("module", [name for name in NAMES if name.startswith("tritonhttp._wire")])
def test_the_wire_does_no_io_and_reads_no_clock(module: str) -> None:
    assert [found for found, _ in imports(module) if found.split(".")[0] in NO_IO] == []


@pytest.mark.parametrize(
    "module",
    [
        *(f"tritonhttp._transport.{name}" for name in ("policy", "pool", "happy_eyeballs")),
        "tritonhttp._calls.balance",
        "tritonhttp._calls.retry",
    ],
)
def test_decisions_do_no_io_and_read_no_clock(module: str) -> None:
    assert [found for found, _ in imports(module) if found.split(".")[0] in NO_IO] == []


@pytest.mark.parametrize(
    "module",
    [
        "tritonhttp._protocol.arrays",
        "tritonhttp._protocol.tensors",
        "tritonhttp._protocol.result",
        "tritonhttp._protocol.signature",
        "tritonhttp._protocol.encoder",
        "tritonhttp._protocol.inference",
        "tritonhttp._protocol.operations",
        "tritonhttp.plugins",
    ],
)
def test_operations_do_no_io(module: str) -> None:
    assert [found for found, _ in imports(module) if found.split(".")[0] in NO_IO] == []


@pytest.mark.parametrize("module", sorted(TRANSPORTS))
def test_transports_do_not_know_each_other(module: str) -> None:
    assert (TRANSPORTS - {module}).isdisjoint(own_imports(module))


def test_the_blocking_side_and_asyncio_are_apart() -> None:
    parts = ("", "_connect", "_connection", "_pool")
    blocking = {f"tritonhttp._transport.blocking{part}" for part in parts}
    for part in parts:
        assert blocking.isdisjoint(own_imports(f"tritonhttp._transport.asyncio{part}"))
    clients = (
        "base",
        "model_base",
        *(f"blocking.{name}" for name in ("client", "calls", "model", "stream", "parallel", "side")),
    )
    for module in (*blocking, *(f"tritonhttp._clients.{name}" for name in clients)):
        assert [found for found, _ in imports(module) if found.split(".")[0] == "asyncio"] == []


@pytest.mark.parametrize("module", ["tritonhttp", *(name for name in NAMES if room(name) < 9)])
def test_the_library_proper_needs_little(module: str) -> None:
    for found, lazy in imports(module):
        package = found.split(".")[0]
        if package == "tritonhttp" or package in sys.stdlib_module_names:
            continue
        assert package in OTHERS, f"{module} imports {found}"
        assert module.startswith(OTHERS[package]), f"{found} is not for {module}"
        assert lazy or package not in LAZY, f"{found} is optional: import it where it is used"


@pytest.mark.parametrize("module", [name for name in NAMES if room(name) == ROOMS["tritonhttp.cli"]])
def test_the_command_line_imports_what_is_heavy_where_it_is_used(module: str) -> None:
    """`tritonhttp --help` loads all commands."""
    for found, lazy in imports(module):
        package = found.split(".")[0]
        assert lazy or found != SCREEN, f"{found}: import it where it is used"
        if module == SCREEN and package in ITS_PACKAGES:
            continue
        if package not in ("tritonhttp", "numpy") and package not in sys.stdlib_module_names:
            assert package in {*LAZY_IN_CLI, "typer"}, f"{module} imports {found}"
            assert lazy or package == "typer", f"{found}: import it where it is used"


def prints(path: Path) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


@pytest.mark.parametrize("module", [name for name in NAMES if not name.startswith("tritonhttp.cli")])
def test_only_the_command_line_prints(module: str) -> None:
    assert prints(NAMES[module]) == []


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return what can be reached from a node; the node itself only if it is in a circle."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: {found for found, _ in imports(name, typing=True)} & NAMES.keys() - {name} for name in NAMES
    }
    below = {name: reached(graph, name) for name in NAMES}
    circles = {frozenset(other for other in below[name] if name in below[other]) for name in NAMES}
    assert circles == {frozenset()}


def code_lines(path: Path) -> int:
    """Count the lines of a module that are neither blank nor part of a comment or docstring."""
    source = path.read_text("utf-8")
    stripped = map(str.strip, source.splitlines())
    lines = {number for number, line in enumerate(stripped, 1) if line and not line.startswith("#")}
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.Constant, ast.JoinedStr)):  # a text over several lines
            lines.update(range(node.lineno, (node.end_lineno or 0) + 1))
    for node in ast.walk(parsed(path)):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def test_code_lines_leave_out_comments_and_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""One.\n\nTwo.\n"""\n\n# three\nx = 1  # four\n\ndef f():\n    """Five."""\n    return (\n        1)\n'
    )
    assert code_lines(path) == 4


def test_modules_are_short() -> None:
    assert [name for name, path in NAMES.items() if code_lines(path) > MOST_LINES] == []


def test_rooms_make_few_floors() -> None:
    below: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module in NAMES.keys() - {"tritonhttp.__main__"}:  # the door of `cli`, which is no floor above it
        below[room_name(module)] |= {room_name(found) for found in own_imports(module)}

    def longest(chain: list[str]) -> list[str]:
        return max((longest([*chain, name]) for name in below[chain[-1]] - {*chain}), key=len, default=chain)

    chain = max((longest([name]) for name in ROOMS), key=len)
    assert len(chain) <= MOST_FLOORS, " > ".join(chain)
