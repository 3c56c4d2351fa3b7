"""`python -m tritonhttp`: what of the library is here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import tritonhttp
from tritonhttp._basics import implementation
from tritonhttp.cli import about

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
REQUIRES = [
    "numpy>=1.26",
    "orjson>=3.9",
    'ml_dtypes>=0.4; extra == "bf16"',
    "pytest>=8; extra == 'test'",
    'eventlet>=0.36; python_version < "3.14" and extra == "dev"',
    'first.one[x]~=1.0; (sys_platform == "linux") and extra == "two-of-them"',
    'second_one ; extra == "two-of-them"',
]
VERSIONS = {"numpy": "2.1", "orjson": "3.10", "ml_dtypes": "0.5", "first.one": "1.2"}


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in VERSIONS:
            raise metadata.PackageNotFoundError(name)
        return VERSIONS[name]

    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.usefixtures("_installed")
def test_extras_are_those_of_the_metadata() -> None:
    found = about.report()
    assert found["tritonhttp"] == tritonhttp.__version__
    assert (found["numpy"], found["orjson"]) == ("2.1", "3.10")
    assert found["extras"] == {
        "bf16": {"ml_dtypes": "0.5"},
        "two-of-them": {"first.one": "1.2", "second_one": None},
    }
    assert found["extensions"].keys() == implementation.EXTENSIONS


@pytest.mark.usefixtures("_installed")
def test_the_report_says_how_to_get_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tritonhttp._wire._bytes_tensor"
    monkeypatch.setattr(implementation, "in_python", {name: "No module\nnamed it"})
    monkeypatch.delenv("TRITONHTTP_IMPL", raising=False)
    assert about.main([]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^numpy +2\.1$", shown, re.MULTILINE)
    assert re.search(r"^extra two-of-them +first\.one 1\.2, second_one missing$", shown, re.MULTILINE)
    assert re.search("^C: _bytes_tensor +Python instead: No module named it$", shown, re.MULTILINE)
    assert "a C compiler" in shown
    assert shown.endswith("Missing extras: pip install 'tritonhttp[two-of-them]'\n")
    monkeypatch.setenv("TRITONHTTP_IMPL", "python")
    about.main([])
    shown = capsys.readouterr().out
    assert "leave it empty to use them" in shown
    assert "a C compiler" not in shown


@pytest.mark.usefixtures("_installed")
def test_where_nothing_is_missing_nothing_is_advised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implementation, "in_python", {})
    monkeypatch.setitem(VERSIONS, "second_one", "1")
    about.main([])
    shown = capsys.readouterr().out
    assert "pip install" not in shown
    assert shown.count("in use") == len(implementation.EXTENSIONS)


def test_a_source_tree_that_is_not_installed_has_a_report_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    found = about.report()
    assert found["extras"] == {}
    section = re.search(r"^dependencies = \[(.*)\]$", PROJECT.read_text("utf-8"), re.MULTILINE)
    assert section is not None
    for name in re.findall(r'"(\w+)', section[1]):
        assert found[name][0].isdigit()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_program_prints_it(flags: list[str]) -> None:
    command = [sys.executable, "-W", "error", "-m", "tritonhttp", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    if flags:
        found = json.loads(ran.stdout)
        assert found["tritonhttp"] == tritonhttp.__version__
        assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    else:
        assert ran.stdout.startswith("tritonhttp ")
