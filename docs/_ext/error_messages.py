"""The directive ``error-messages``: the texts of all errors that the library makes, as its source has them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

SOURCE = Path(__file__).parents[2] / "src" / "tritonhttp"
#: Errors beside those of `tritonhttp.errors`.
OTHERS = ("SharedMemoryException", "CudaSharedMemoryException", "TritonFailed", "TritonUnavailable")
#: What a value becomes.
GAP = "…"
#: Rooms whose errors are no part of calls: the command line's have texts of their own.
LEFT_OUT = ("cli", "testing/models")


def names() -> list[str]:
    """Return the names of all errors, in the order of the tree."""
    tree = ast.parse((SOURCE / "errors.py").read_text("utf-8"))
    found = [each.name for each in ast.walk(tree) if isinstance(each, ast.ClassDef) and each.name[0] != "_"]
    return [*found, *OTHERS]


def template(node: ast.expr) -> str:
    """Return the text of a string's source, with a gap for each value in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(each) for each in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return GAP


def messages() -> Iterator[tuple[str, str]]:
    """Yield each error's class and its text, wherever one is made."""
    known = set(names())
    for path in sorted(SOURCE.rglob("*.py")):
        if path.relative_to(SOURCE).as_posix().startswith(LEFT_OUT):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            argument = node.args[0]
            if name == "Failure" and len(node.args) > 1:  # a class, and how its messages begin
                name, argument = getattr(node.args[0], "id", ""), node.args[1]
            text = template(argument).strip() if name in known else ""
            while GAP * 2 in text:
                text = text.replace(GAP * 2, GAP)
            if text.strip(f"{GAP} :;,.'()"):
                yield name, text


class ErrorMessages(Directive):
    """A list of texts for each class."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        found: dict[str, set[str]] = {}
        for name, text in messages():
            found.setdefault(name, set()).add(text)
        made: list[nodes.Node] = []
        for name in names():
            if name not in found:
                continue
            section = nodes.section(ids=[f"texts-{name.lower()}"])
            section += nodes.title("", name)
            listed = nodes.bullet_list()
            for text in sorted(found[name], key=str.lower):
                item = nodes.list_item()
                item += nodes.paragraph("", "", nodes.literal("", text), translatable=False)
                listed += item
            section += listed
            made.append(section)
        return made


def setup(app: Any) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("error-messages", ErrorMessages)
    return {"parallel_read_safe": True}
