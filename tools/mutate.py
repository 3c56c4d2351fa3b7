"""Change the code a little, and look whether a unit test notices: ``make mutation``.

Each mutant is one change in one module of a copy of the package: another comparison, another number, a condition
turned round, a statement left out. Only the unit tests of that module run, in a process forked from one that has
their packages imported. A mutant that no test notices is printed: a test is missing, or the change has no meaning.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Module -> its unit tests.
MODULES = {
    "_wire/bytes_tensor.py": ["bytes_tensor"],
    "_wire/compression.py": ["compression"],
    "_wire/dtypes.py": ["dtypes"],
    "_wire/http1.py": ["http1"],
    "_wire/responses.py": ["http1"],
    "_wire/inference.py": ["inference"],
    "_wire/jsonio.py": ["jsonio", "inference"],
    "_wire/prometheus.py": ["prometheus"],
    "_wire/requests.py": ["http1", "operations"],
    "_wire/sse.py": ["sse"],
    "_transport/pool.py": ["pool"],
    "_calls/retry.py": ["policy", "dispatch"],
    "_calls/balance.py": ["balance"],
}
#: Seconds for the tests of one mutant, which may loop for ever.
LIMIT = 120.0

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATIONS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place."""
    other = copy.copy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        other.ops = [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]  # type: ignore[attr-defined]
        yield other
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        other.op = OPERATIONS[type(node.op)]()  # type: ignore[attr-defined]
        yield other
    elif isinstance(node, ast.BoolOp):
        other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()  # type: ignore[attr-defined]
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield ast.Constant(value)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        other.test = ast.UnaryOp(ast.Not(), node.test)  # type: ignore[attr-defined]
        yield other
    elif isinstance(node, (ast.Raise, ast.Break, ast.Continue, ast.AugAssign)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()


class Change(ast.NodeTransformer):
    """Counts the places of a module where something can be changed, and changes one."""

    def __init__(self, place: int = -1) -> None:
        self.place, self.count = place, 0
        self.done: tuple[int, str, str] | None = None

    def visit(self, node: ast.AST) -> ast.AST:
        """Look at a node, and at those within, but not at types, docstrings and what only type checkers run."""
        if isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation is not None:
            kept, node.annotation = node.annotation, ast.Constant(None)
            self.generic_visit(node)
            node.annotation = kept
            return node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return node
        if isinstance(node, ast.FunctionDef):
            node.body = [self.visit(each) for each in node.body]  # type: ignore[misc]
            node.args = self.visit(node.args)  # type: ignore[assignment]
            return node
        for other in changes(node):
            self.count += 1
            if self.count - 1 == self.place:
                line = getattr(node, "lineno", 0)
                shown = [
                    ast.unparse(ast.fix_missing_locations(each)).split("\n")[0] for each in (node, other)
                ]
                self.done = (line, *shown)  # type: ignore[assignment]
                return ast.copy_location(other, node)
        return self.generic_visit(node)


def passes(folder: Path, tests: list[str]) -> bool | None:
    """Run unit tests on the package in a folder, in a fork; None if they did not end."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        os.environ["TRITONHTTP_IMPL"] = "python"
        os.chdir(ROOT)
        import pytest

        paths = [f"tests/unit/test_{name}.py" for name in tests]
        code = 1
        try:
            code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--assert=plain", *paths]))
        finally:
            os._exit(code)
    end = time.monotonic() + LIMIT
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.02)


def main() -> None:
    """Make the mutants, and tell how many were noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=0, help="mutants of each module, by chance; 0: all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="modules whose names contain this")
    options = parser.parse_args()
    import hypothesis  # noqa: F401 - so that the forks have them
    import numpy  # noqa: F401
    import orjson  # noqa: F401
    import pytest  # noqa: F401

    end = time.monotonic() + options.seconds
    todo: list[tuple[str, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "tritonhttp"
        shutil.copytree(
            ROOT / "src" / "tritonhttp", copied, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
        for module in MODULES:
            if options.only in module:
                # A busy machine may fail a test of time once.
                if not any(passes(Path(folder), MODULES[module]) for _ in range(3)):
                    raise SystemExit(f"{module}: its tests fail without a change")
                counted = Change()
                counted.visit(ast.parse((copied / module).read_text("utf-8")))
                places = list(range(counted.count))
                random.Random(options.seed).shuffle(places)
                todo += [(module, place) for place in places[: options.each or None]]
        # One of each module after the other, so that a run that is stopped has seen all of them.
        random.Random(options.seed).shuffle(todo)
        noticed: dict[str, list[int]] = {}
        for module, place in todo:
            if time.monotonic() > end:
                break
            path = copied / module
            text = path.read_text("utf-8")
            change = Change(place)
            changed = change.visit(ast.parse(text))
            path.write_text(ast.unparse(ast.fix_missing_locations(changed)), "utf-8")
            survived = passes(Path(folder), MODULES[module])
            path.write_text(text, "utf-8")
            counts = noticed.setdefault(module, [0, 0])
            counts[0] += not survived
            counts[1] += 1
            if survived:
                assert change.done is not None
                line, before, after = change.done
                print(f"{module}:{line}: {before}  ->  {after}", flush=True)
    for module, (killed, count) in sorted(noticed.items()):
        print(f"{module}: {killed} of {count}")
    killed, count = (sum(each[n] for each in noticed.values()) for n in (0, 1))
    print(f"noticed: {killed} of {count} mutants, {killed / max(count, 1):.1%}")


if __name__ == "__main__":
    main()
