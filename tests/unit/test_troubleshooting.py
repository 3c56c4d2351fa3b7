"""``docs/troubleshooting.md`` has each class of the tree, the library's texts, and Triton's that get advice."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tritonhttp
from tritonhttp import errors
from tritonhttp._protocol import refusals

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text("utf-8")
SOURCE = Path(tritonhttp.__file__).parent
#: The texts of the tables: the code in the first cells of a row, up to the one that has the remedy.
TEXTS = [
    text
    for row in re.findall(r"^\| (.*?) \|$", PAGE, re.MULTILINE)
    for cell in row.split(" | ")[: 2 if re.match(r"`[A-Z]\w+` \| ", row) else 1]
    for text in re.findall(r"`(.*?)`", cell)
    if " " in text
]
#: Texts that others make: Triton, OpenSSL, the system, and gateways.
OTHERS = (
    *(
        "Request for unknown model",
        "unexpected inference",
        "unexpected shape",
        "inference input '…' data-type",
    ),
    *(
        "inference request batch-size",
        "expected … inputs but got",
        "explicit model load",
        "Unable to find shared",
    ),
    *("shared memory region '…' already", "receiving FP16", "certificate verify failed", "tlsv13 alert"),
    *("HTTP end point", "generate expects", "failed to poll", "Client shared memory", "Shared memory is not"),
    *(
        "This API is restricted",
        "Request JSON size",
        "header size should",
        "Unable to parse",
        "Request timeout",
    ),
    *("Not Found", "certificate is not valid for"),
)


@pytest.mark.parametrize("place", ["page", "docstring"])
def test_the_tree_is_drawn_as_it_is(place: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8").split("```")[1]
    block = page if place == "page" else str(errors.__doc__).replace("\n    ", "\n")
    drawn = re.findall(r"^([│├└─ ]*)([A-Z]\w+)  +(.*)$", block, re.MULTILINE)
    above: list[str] = []
    for lines, name, told in drawn:
        del above[len(lines) // 4 :]
        error = getattr(errors, name)
        assert [each.__name__ for each in error.__mro__ if each.__name__ in above] == above[::-1]
        for other in re.findall(r"\w*(?:Error|DeadlineExceeded)\b", told.partition(":")[0]):
            assert other in {each.__name__ for each in error.__mro__} | {"gaierror"}, name
        above.append(name)
    assert sorted(name for _, name, _ in drawn) == sorted(n for n in errors.__all__ if n[0].isupper())


def strings() -> str:
    """Return all texts of the library's source, with "…" where a value is filled in."""
    found = []

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else "…"
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        return "…"

    for path in SOURCE.rglob("*.py"):
        if "models" not in path.parts:
            tree = ast.parse(path.read_text("utf-8"))
            found += [text(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)]
    return "\n".join(found)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name[0].isupper()])
def test_each_error_of_the_tree_is_there(name: str) -> None:
    assert re.search(rf"`{name}`", PAGE)


def test_the_librarys_texts_are_in_its_source() -> None:
    assert len(TEXTS) > 60
    known = strings()
    wrong = []
    for whole in TEXTS:
        if not whole.startswith(OTHERS):
            # A message is put together: what timed out, and behind a colon the reason, which may be the system's.
            parts = [part.strip(" :;") for part in re.split(r"…|: (?:\[Errno.*)?|^timed out ", whole)]
            wrong += [whole] * any(part not in known for part in parts if len(part) > 6)
    assert wrong == []


def examples() -> list[str]:
    """Return texts that the patterns of the library's advice match, made of the page's."""
    return [text.replace("…", "x") for text in TEXTS]


@pytest.mark.parametrize(
    "pattern", [pattern for pattern, _ in refusals._ADVICE], ids=lambda each: each.pattern
)
def test_each_text_of_triton_with_advice_is_there(pattern: re.Pattern[str]) -> None:
    assert any(pattern.search(text) for text in examples())


def test_no_text_is_there_twice() -> None:
    assert sorted(TEXTS) == sorted(set(TEXTS))
