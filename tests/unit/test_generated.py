"""The blocking client's generated modules are up to date with their sources in `awaited/`."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tritonhttp

pytest.importorskip("ruff", reason="ruff formats what is generated")

LIBRARY = Path(tritonhttp.__file__).parent / "_clients"
TOOL = LIBRARY.parent.parent.parent / "tools" / "async_to_sync.py"

pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="not in a source tree")


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), "--check", *arguments], capture_output=True, text=True, check=False
    )


def copied(tool: dict[str, Any], folder: Path) -> list[str]:
    """Copy the sources and what is generated from them; return their names."""
    for side in ("awaited", "blocking"):
        (folder / side).mkdir()
        for name in tool["MADE"]:
            shutil.copy(LIBRARY / side / name, folder / side / name)
    shutil.copy(LIBRARY / "blocking" / tool["SHARED"], folder / "blocking")
    return list(tool["MADE"])


def test_generated_files_are_up_to_date() -> None:
    ran = check()
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_generated_file_says_what_it_is_generated_from(tool: dict[str, Any]) -> None:
    for name in tool["MADE"]:
        first = (LIBRARY / "blocking" / name).read_text("utf-8").splitlines()[0]
        assert f"awaited/{name}" in first
        assert "make generate" in first


def test_a_changed_source_is_noticed(tool: dict[str, Any], tmp_path: Path) -> None:
    names = copied(tool, tmp_path)
    assert check(f"--package={tmp_path}").returncode == 0
    source = tmp_path / "awaited" / names[-1]
    source.write_text(
        source.read_text("utf-8") + "\n\nasync def more() -> None:\n    await more()\n", "utf-8"
    )
    ran = check(f"--package={tmp_path}")
    assert ran.returncode == 1
    assert str(tmp_path / "blocking" / names[-1]) in ran.stderr
    assert "make generate" in ran.stderr
    assert (tmp_path / "blocking" / names[-1]).read_text("utf-8") == (
        LIBRARY / "blocking" / names[-1]
    ).read_text("utf-8")


def test_a_changed_result_is_noticed_and_written_again(tool: dict[str, Any], tmp_path: Path) -> None:
    name = copied(tool, tmp_path)[0]
    changed = tmp_path / "blocking" / name
    changed.write_text(changed.read_text("utf-8") + "\n# by hand\n", "utf-8")
    assert check(f"--package={tmp_path}").returncode == 1
    assert tool["main"]([f"--package={tmp_path}"]) == 0
    assert changed.read_text("utf-8") == (LIBRARY / "blocking" / name).read_text("utf-8")


def test_a_new_option_of_infer_reaches_async_infer(tool: dict[str, Any], tmp_path: Path) -> None:
    copied(tool, tmp_path)
    source = tmp_path / "awaited" / "calls.py"
    before_infer, start, text = source.read_text("utf-8").partition("    async def infer(\n")
    for before, more in (
        ("        *,\n        idempotent: bool | None = None,\n", "        colour: str = '',\n"),
        ("            idempotent,\n", "            colour,\n"),
    ):
        assert before in text
        text = text.replace(before, before + more, 1)
    source.write_text(before_infer + start + text, "utf-8")
    changed = tool["shared"](tmp_path)
    assert changed.count("        colour: str = '',\n") == 1
    assert changed.count("            colour,\n") == 1
    assert changed.replace("        colour: str = '',\n", "").replace("            colour,\n", "") == (
        LIBRARY / "blocking" / tool["SHARED"]
    ).read_text("utf-8")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            "async def f(self):\n    return await self.g(await h())\n",
            "def f(self):\n    return self.g(h())\n",
        ),
        ("async with a:\n    async for b in c:\n        pass\n", "with a:\n    for b in c:\n        pass\n"),
        ('"""In an ``async with`` block."""\n', '"""In a ``with`` block."""\n'),
        (
            "f(\n    1,\n    loop,  # asyncio only\n    # blocking: idle=2,\n)\n",
            "f(\n    1,\n    idle=2,\n)\n",
        ),
        ("awaited = asyncs\n", "awaited = asyncs\n"),
    ],
)
def test_what_is_awaited_becomes_blocking(tool: dict[str, Any], source: str, wanted: str) -> None:
    assert tool["blocking"](source) == wanted


def test_every_pattern_occurs_in_a_source(tool: dict[str, Any]) -> None:
    sources = [(LIBRARY / "awaited" / name).read_text("utf-8") for name in tool["MADE"]]
    unused = [
        pattern
        for pattern, _ in tool["WORDS"]
        if not any(re.search(pattern, text, re.MULTILINE) for text in sources)
    ]
    assert unused == []
