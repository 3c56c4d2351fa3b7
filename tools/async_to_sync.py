"""Generate modules of the blocking client from the asyncio client's: ``python tools/async_to_sync.py [--check]``.

A line that ends with ``# asyncio only`` is left out, and a comment ``# blocking: code`` becomes the code. The
patterns of `WORDS` are replaced everywhere, in docstrings too. Ruff drops unused imports and formats the result.
In the file of `SHARED`, written by hand, the parts of `async_infer` are replaced that it shares with `infer`.
With ``--check`` nothing is written; it fails if a file is not up to date.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tritonhttp" / "_clients"
#: Modules in `blocking/` that are generated, each from the module of the same name in `awaited/`.
MADE = ("calls.py", "drive.py", "execution.py", "inspection.py", "management.py", "model.py", "stream.py")

#: The module of `blocking/` whose `async_infer` has parts of the source's `infer`, and what encloses them in both.
SHARED = "client.py"
PARTS = (
    r"(    (?:async )?def (?:async_)?infer\(\n        self,\n)(.*?)(?=        copy: bool|    \) ->)",
    r"(        inference = Inference\(\n)(.*?)(?=        \)\n)",
)

#: Patterns and their replacements, applied in this order; each occurs in some source.
WORDS = (
    (r"\ban ``async ", "a ``"),
    (r"\basync (?=def |with\b|for\b)", ""),
    (r"\bawait ", ""),
    (r"\b__a(?=enter__|exit__|iter__|next__)", "__"),
    (r"\bStopAsync(?=Iteration\b)", "Stop"),
    (r"\bAbstractAsync(?=ContextManager\b)", "Abstract"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r" \| AsyncIterable\[Any\]", ""),
    (r"\bAsync(Generator)\[(.+), None\]", r"\1[\2, None, None]"),
    (r"\bAsync(?=Iterator\b|Generator\b)", ""),
    (r"\bAsyncio(?=Pool\b|Transport\b)", "Blocking"),
    (r"\b_transport\.asyncio", "_transport.blocking"),
    (r"\basyncio\.get_running_loop\(\)\.time\b", "time.monotonic"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"^import asyncio$", "import time"),
    # In docstrings.
    (r"\b(One|Another|another|other) task\b", r"\1 thread"),
    (r"\n +A task that is cancelled [\w\s]+\.\n", ""),
    (r"conn_timeout;\n +the wait for a connection counts\.", "network_timeout."),
)


def blocking(source: str) -> str:
    """Return the text of the blocking side, before it is formatted."""
    lines = (line for line in source.splitlines(keepends=True) if not line.endswith("# asyncio only\n"))
    text = re.sub(r"^( *)# blocking: ", r"\1", "".join(lines), flags=re.MULTILINE)
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def tidied(text: str, path: Path) -> str:
    """Return a module without imports that it does not need, in the form that ruff gives it."""
    for command in (["check", "--fix", "--quiet", "--select=F401,I001"], ["format", "--quiet"]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *command, f"--stdin-filename={path}", "-"],
            input=text,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=ROOT,
            check=True,
        )
        text = ran.stdout
    return text


def made(name: str, package: Path = PACKAGE) -> str:
    """Return what a module of the blocking side has to be."""
    source = (package / "awaited" / name).read_text("utf-8")
    head = (
        f"# Generated from awaited/{name} by tools/async_to_sync.py: edit that, then run `make generate`.\n"
    )
    return tidied(head + blocking(source), PACKAGE / "blocking" / name)


def shared(package: Path) -> str:
    """Return what the module written by hand has to be."""
    source = (package / "awaited" / "calls.py").read_text("utf-8")
    text = (package / "blocking" / SHARED).read_text("utf-8")
    for pattern in PARTS:
        found = re.search(pattern, source, re.DOTALL)
        assert found, pattern
        part = found[2]
        text = re.sub(pattern, lambda match, part=part: match[1] + part, text, count=1, flags=re.DOTALL)
    return text


def main(arguments: list[str] | None = None) -> int:
    """Write what has changed, or with --check say so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a file is not up to date"
    )
    parser.add_argument("--package", type=Path, default=PACKAGE, help="the folder of the two clients")
    given = parser.parse_args(arguments)
    changed = 0
    for name in (*MADE, SHARED):
        path = given.package / "blocking" / name
        text = shared(given.package) if name == SHARED else made(name, given.package)
        if not path.exists() or path.read_text("utf-8") != text:
            changed += 1
            if given.check:
                print(f"{path} is out of date with awaited/{name}: run `make generate`", file=sys.stderr)
            else:
                path.write_text(text, "utf-8")
                print(f"wrote {path}")
    return 1 if given.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
