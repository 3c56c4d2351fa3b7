"""Optional packages are imported when they are needed; without one, the error says how to get it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
#: Of pip's extras, those that are no parts of the library.
FOR_DEVELOPERS = {"test", "dev"}


class Use(NamedTuple):
    """What a program does with an extra, and how that ends without it: an error, or an exit code and words."""

    extra: str
    blocked: str
    program: str
    error: str = "MissingDependency"


USES = [
    Use("bf16", "ml_dtypes", "import tritonhttp.utils as u\nu.triton_to_np_dtype('BF16').name\n"
        "t.InferResult.from_response_body(b'{\"outputs\":[{\"name\":\"O\",\"datatype\":\"BF16\",\"shape\":[1],'"
        "b'\"data\":[1.0]}]}').as_numpy('O')"),
    Use("bulk", "pyarrow", "import tritonhttp.bulk"),
    Use("bulk", "pyarrow", "from tritonhttp import bulk"),
    Use("ray", "ray", "import tritonhttp.bulk.ray"),
    Use("spark", "pyspark", "import tritonhttp.bulk.spark"),
    Use("otel", "opentelemetry", "import tritonhttp.otel"),
    Use("cuda", "cuda.bindings cuda", "import tritonhttp.utils.cuda_shared_memory as c\n"
        "c.create_shared_memory_region('r', 64, 0)", "CudaSharedMemoryException"),
    Use("cli", "typer", "from tritonhttp.cli.main import main\nsys.exit(main(['models']))", ""),
]  # fmt: skip


def run(blocked: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which packages cannot be imported."""
    names = blocked.split()
    block = f"import sys\nfor each in {names!r}: sys.modules[each] = None\nimport tritonhttp as t\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", block + program],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )


def extras() -> dict[str, str]:
    """Return what each extra installs."""
    table = PROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return dict(re.findall(r"(?ms)^([a-z0-9-]+) = (\[.*?\])$", table))


def test_every_extra_is_tested() -> None:
    assert set(extras()) == {use.extra for use in USES} | {"fast-gzip"} | FOR_DEVELOPERS


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.extra}-{use.blocked}-{len(use.program)}")
def test_without_its_package_the_error_says_how_to_get_it(use: Use) -> None:
    ended = run(use.blocked, use.program)
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert f"pip install 'tritonhttp[{use.extra}]'" in last
    if use.error:
        assert use.error in last
    else:
        assert "Traceback" not in ended.stderr


def test_what_only_some_commands_need_is_named_by_them() -> None:
    pytest.importorskip("typer", reason="the command line's own package")
    from tritonhttp.cli.common import describe

    missing = ModuleNotFoundError("No module named 'hdrh'", name="hdrh.histogram")
    assert describe(missing) == "this needs the package hdrh: pip install 'tritonhttp[cli]'"


def test_without_isal_zlib_does_its_work() -> None:
    program = "from tritonhttp._wire import compression as c\nprint(c.compress([b'x' * 99], 'gzip')[0][:2])"
    ended = run("isal", program)
    assert (ended.returncode, ended.stdout) == (0, "b'\\x1f\\x8b'\n"), ended.stderr


def test_the_library_needs_only_its_dependencies() -> None:
    """All extras at once are away, and an inference is encoded and decoded."""
    packages = {
        re.match(r"[\w.-]+", each)[0] for text in extras().values() for each in re.findall(r'"([^"]+)"', text)
    }  # type: ignore[index]
    modules = {"ml_dtypes", "pyarrow", "rich", "typer", "PIL", "hdrh", "pygal", "textual", "cuda", "isal"}
    modules |= {"opentelemetry", "ray", "pyspark", "pandas", "aiohttp", "gevent", "tritonclient", "torch"}
    assert len(packages) > 10
    program = """
import numpy, tritonhttp.aio, tritonhttp.utils, tritonhttp.metrics, tritonhttp.model, tritonhttp.testing
with t.InferenceServerClient("127.0.0.1:9") as client:
    tensor = t.InferInput("x", [2], "FP32").set_data_from_numpy(numpy.zeros(2, "f4"))
    body, size = client.generate_request_body([tensor])
    print(size > 0, t.InferResult.from_response_body(b'{"outputs":[]}').get_response())
"""
    ended = run(" ".join(modules), program)
    assert (ended.returncode, ended.stdout) == (0, "True {'outputs': []}\n"), ended.stderr
