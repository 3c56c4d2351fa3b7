"""Install what ``make package`` built, each file in a bare environment, and look whether it works and is whole."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tritonhttp"
#: What a wheel leaves out: sources of extensions, and what building and running leaves here.
LEFT_OUT = {".c", ".h", ".so", ".pyd", ".pyc"}

#: Runs in the environment, outside this tree: prints the files of the package.
LOOK = """
import asyncio, importlib, pathlib, sys
import numpy, tritonhttp, tritonhttp.aio, tritonhttp.testing, tritonhttp.as_tritonclient
tensor = tritonhttp.InferInput("X", [2], "BYTES").set_data_from_numpy(numpy.array([b"a", b"b"], object))
with tritonhttp.InferenceServerClient("127.0.0.1:9") as client:
    assert client.generate_request_body([tensor])[1]
    assert not client.check().ready
async def main():
    async with tritonhttp.aio.InferenceServerClient("127.0.0.1:9") as client:
        assert not (await client.check()).ready
asyncio.run(main())
for name in ("bulk", "otel"):
    try:
        importlib.import_module("tritonhttp." + name)
    except ImportError as error:
        assert f"pip install 'tritonhttp[{name}]'" in str(error), error
    else:
        raise AssertionError(f"tritonhttp.{name} needs nothing of its extra")
root = pathlib.Path(tritonhttp.__file__).parent
assert root.is_relative_to(sys.prefix), root
print(*(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()), sep="\\n")
"""


def main() -> None:
    """Check the files that are named as arguments."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            check(Path(name).absolute(), Path(folder))
        print(f"{name}: installed, imported and whole")


def check(file: Path, folder: Path) -> None:
    """Install a wheel or an sdist in a new environment, and use it there."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # An extension that could not be built is left out silently, unless it is asked for.
    if sys.implementation.name == "cpython" and sys.platform == "linux":
        environment["TRITONHTTP_IMPL"] = "c"

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [python, *words], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", file)
    run("-m", "pip", "check")
    run("-m", "tritonhttp")
    found = {name for name in run("-I", "-W", "error", "-c", LOOK).split("\n") if name}
    ours = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and path.suffix not in LEFT_OUT
    }
    if missing := sorted(ours - found):
        raise SystemExit(f"{file.name} lacks {missing}")
    if extra := sorted(name for name in found - ours if Path(name).suffix not in {".so", ".pyd", ".pyc"}):
        raise SystemExit(f"{file.name} also has {extra}")


if __name__ == "__main__":
    main()
