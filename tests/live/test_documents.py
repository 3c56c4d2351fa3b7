"""The Python blocks of README.md and docs/ run on a real Triton, page by page and from top to bottom."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import logging
import os
import re
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
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
    certificates(trustme.CA())
    for name, module in stand_ins(triton_server.url).items():
        monkeypatch.setitem(sys.modules, name, module)
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


def certificates(authority: trustme.CA) -> None:
    """Write the files that the blocks name."""
    authority.cert_pem.write_to_path("ca.pem")
    client = authority.issue_cert("client.example")
    client.cert_chain_pems[0].write_to_path("client.pem")
    client.private_key_pem.write_to_path("client.key")


def stand_ins(url: str) -> dict[str, ModuleType]:
    """Return what stands for packages, and a file, that only readers have."""
    celery, boto3, add_sub = ModuleType("celery"), ModuleType("boto3"), ModuleType("add_sub")
    celery.Celery = Celery  # type: ignore[attr-defined]
    boto3.client = lambda service: SageMaker(url)  # type: ignore[attr-defined]
    # What `tritonhttp stub` writes; tests/cli compares its own with the model.
    add_sub.AddSub = lambda client: client.model("add_sub")  # type: ignore[attr-defined]
    return {"celery": celery, "boto3": boto3, "add_sub": add_sub}


class Celery:
    """As much of Celery as a block needs; tests/integration runs that block in a real one."""

    def __init__(self, name: str, broker: str) -> None:
        self.name, self.broker = name, broker

    def task(self, **options: Any) -> Callable[[Any], Any]:
        assert set(options) <= {"autoretry_for", "max_retries"}
        return lambda function: function


class SageMaker:
    """boto3's client, which sends to Triton's own endpoint; test_platforms.py has the one for SageMaker."""

    KIND = "application/vnd.sagemaker-triton.binary+json;json-header-size="

    def __init__(self, url: str) -> None:
        self.url = url

    def invoke_endpoint(self, *, EndpointName: str, ContentType: str, Body: bytes) -> dict[str, Any]:
        assert ContentType.startswith(self.KIND)
        headers = {"Inference-Header-Content-Length": ContentType.removeprefix(self.KIND)}
        target = f"http://{self.url}/v2/models/{EndpointName}/infer"
        with urllib.request.urlopen(urllib.request.Request(target, Body, headers)) as answer:
            kind = f"{self.KIND}{answer.headers['Inference-Header-Content-Length']}"
            return {"ContentType": kind, "Body": io.BytesIO(answer.read())}


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


def test_the_tests_on_the_page_about_testing_pass(triton_server: TritonServer, tmp_path: Path) -> None:
    """Run its pytest files as a reader would: with the plugin's fixtures, and with a fixture of their own."""
    blocks = PAGES["docs/testing.md"]

    def those(*words: str) -> str:
        found = [block for block in blocks if any(word in block for word in words)]
        assert len(found) == len(words)
        return "\n".join(found)

    (tmp_path / "packaged").mkdir()
    (tmp_path / "own").mkdir()
    tests = those("class Service", "def test_a_digit", "def test_the_service_survives")
    (tmp_path / "packaged" / "test_service.py").write_text(tests)
    (tmp_path / "own" / "make.py").write_text(those("config.pbtxt"))
    (tmp_path / "own" / "conftest.py").write_text(f"import make\n{those('@pytest.fixture')}")
    (tmp_path / "own" / "test_double.py").write_text(those("def test_double"))
    variables = {**os.environ, "PYTHONPATH": str(Path(tritonhttp.__file__).parents[1])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    runs = [
        subprocess.Popen(
            [*command, *options],
            cwd=tmp_path / folder,
            env=variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for folder, options in {"packaged": [f"--triton-url={triton_server.url}"], "own": []}.items()
    ]
    shown = [run.communicate(timeout=120)[0] for run in runs]
    assert "2 passed" in shown[0], shown[0]
    assert "1 passed" in shown[1], shown[1]
