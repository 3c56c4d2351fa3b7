"""The Python blocks of README.md and docs/ run on a real Triton, page by page and from top to bottom."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import ssl
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import trustme

import tritonhttp.testing
from tritonhttp import InferenceServerClient, InferInput
from tritonhttp.testing import TritonServer

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {
    path.relative_to(ROOT).as_posix(): BLOCK.findall(path.read_text())
    for path in (
        *sorted(ROOT.glob("README*.md")),
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
COMPLETE = ("README.md", "README.zh.md", "docs/index.md", "docs/quickstart.md", "docs/migrating.md")
# Needs a GPU; tests/gpu runs the same calls.
NOT_HERE = "cudashm"


def test_every_block_of_the_documents_is_collected() -> None:
    """A fence that is written otherwise would be passed over, and a page without blocks says nothing."""
    for name, blocks in PAGES.items():
        assert len(blocks) == len(
            re.findall("^ *(```|~~~) *(py|Py)", (ROOT / name).read_text(), re.MULTILINE)
        )
    assert sum(map(len, PAGES.values())) > 20
    assert [name for name, blocks in PAGES.items() for block in blocks if NOT_HERE in block] == [
        "docs/shared_memory.md"
    ]


@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
@pytest.mark.usefixtures("chat")
def test_the_documents_blocks_run(
    page: str, triton_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("tritonhttp")
    monkeypatch.setattr(log, "level", log.level)  # a block raises it
    trustme.CA().cert_pem.write_to_path("ca.pem")
    # A page starts a server: the one that runs does as well, and test_triton_server.py starts others.
    monkeypatch.setattr(tritonhttp.testing, "TritonServer", lambda: nullcontext(triton_server))
    names: dict[str, Any] = {}
    for block in PAGES[page]:
        if NOT_HERE in block:
            compile(block, page, "exec")
            continue
        with InferenceServerClient(triton_server.url) as client:
            # Names that the page assumes; the first pages that somebody reads assume nothing.
            names.update({} if page in COMPLETE else usual(client))
            block = re.sub("localhost:8002", triton_server.metrics_url, block)
            run(redirected(block, triton_server.url), page, names)


def usual(client: InferenceServerClient) -> dict[str, Any]:
    pixels = np.zeros((1, 64), np.float32)
    image = InferInput("IMAGE", [1, 64], "FP32").set_data_from_numpy(pixels)
    return {
        "np": np,
        "asyncio": asyncio,
        "logging": logging,
        "httpclient": tritonhttp,
        "client": client,
        "pixels": pixels,
        "image": image,
        "images": [image] * 3,
        "chunks": [[[1]], [[2]]],
        "url": "triton.example",
        "key": "k",
        "read_token": lambda: "t",
        "make_context": ssl.create_default_context,
        "latency": Mock(),
        "retried": Mock(),
    }


def redirected(block: str, url: str) -> str:
    """Return the block with the addresses that it names led to the server."""
    port = url.rpartition(":")[2]
    for example, real in {
        "localhost:8000": url,
        "a:8000": url,
        "b:8000": f"localhost:{port}",
        "c:8000": f"http://{url}",
    }.items():
        block = re.sub(rf"(?<![a-z]){example}", real, block)
    return block


def run(block: str, page: str, names: dict[str, Any]) -> None:
    code = compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    made = eval(code, names)
    if inspect.iscoroutine(made):
        asyncio.run(made)


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_first_program_prints_what_the_readme_says(
    triton_server: TritonServer, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    run(redirected(PAGES[page][0], triton_server.url), page, {})
    shown = capsys.readouterr().out
    assert re.fullmatch(r"(\d+\.\d% [a-z]+\n){3}", shown), shown
