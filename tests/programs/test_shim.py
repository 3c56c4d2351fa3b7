"""The distribution in `shim/`: built, installed into an environment of its own, and used by a program."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**environment, **variables},
        timeout=300,
        check=False,
    )
    assert not check or ran.returncode == 0, ran.stdout + ran.stderr
    return ran


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment with the shim, and with the library as this one has it; return its interpreter."""
    folder = tmp_path_factory.mktemp("shim") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    (site / "library.pth").write_text(f"{ROOT / 'src'}\n{sysconfig.get_path('purelib')}\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", ROOT / "shim")
    assert (site / "tritonclient" / "__init__.py").is_file()
    return python


def test_a_program_finds_it_as_in_the_references_documentation(python: Path, triton_server: object) -> None:
    url = str(getattr(triton_server, "url"))  # noqa: B009 - one of two kinds of server
    ran = run(python, ROOT / "tests/programs/programs/infer.py", check=False, TRITON=url)
    assert ran.returncode == 3, ran.stderr
    assert ran.stdout.startswith("INPUT0 (1, 16) INT32 [1, 16]\n")


@pytest.mark.parametrize(
    "statement",
    [
        "import tritonclient.http as client; assert client.InferInput.__module__.startswith('tritonhttp.')",
        "from tritonclient.utils.shared_memory import *; create_shared_memory_region",
        "from tritonclient.http.aio import InferenceServerClient; from tritonclient.http.auth import BasicAuth",
        "import tritonhttpclient, tritonclientutils, tritonshmutils.shared_memory; tritonhttpclient.InferInput",
        "import tritonhttp; tritonhttp.install_as_tritonclient(); import tritonclient.http",
        "import tritonclient.http, tritonhttp; tritonhttp.install_as_tritonclient()",
    ],
)
def test_every_import_works(python: Path, statement: str) -> None:
    run(python, "-c", statement)


def test_grpc_is_missing_and_says_why(python: Path) -> None:
    assert "tritonhttp speaks HTTP only" in run(python, "-c", "import tritonclient.grpc", check=False).stderr


def test_it_refuses_to_stand_beside_nvidias_package(python: Path, reference: str, tmp_path: Path) -> None:
    built = run(
        reference, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT / "shim", check=False
    )
    assert built.returncode != 0
    assert "NVIDIA's tritonclient is installed in this environment" in built.stdout + built.stderr
    assert list(tmp_path.glob("*.whl")) == []
    # And where both came to be all the same.
    site = run(reference, "-c", "import tritonclient; print(tritonclient.__path__[0])").stdout.strip()
    ran = run(
        python,
        "-c",
        f"import sys; sys.path.append({str(Path(site).parent)!r}); import tritonclient",
        check=False,
    )
    assert ran.stderr.splitlines()[-1].startswith(
        "ImportError: tritonhttp stands for tritonclient in this environment"
    )
