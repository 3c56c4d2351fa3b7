"""TRITONHTTP_IMPL: whether the C extensions do their work, or Python does."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import tritonhttp
from tritonhttp._basics.implementation import EXTENSIONS

ALL = ["tritonhttp._repetition._fast", "tritonhttp._wire._bytes_tensor"]

built = pytest.mark.skipif(
    not all(find_spec(name) for name in EXTENSIONS), reason="the extensions are not built"
)


def run(program: str, wanted: str | None) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, with this library and this value of the variable."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITONHTTP_IMPL"}
    if wanted is not None:
        environment["TRITONHTTP_IMPL"] = wanted
    paths = [str(Path(tritonhttp.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


#: Prints which extensions were imported, which Python stands in for, and whether the users have theirs.
TELL = f"""
import sys
from tritonhttp._basics import implementation
from tritonhttp._repetition import repeater, template
from tritonhttp._wire import bytes_tensor
print([name for name in {ALL} if sys.modules.get(name)])
print(sorted(implementation.in_python))
print([repeater.REPEATS and isinstance(template.compose, type(len)), bytes_tensor._speedups is not None])
"""


def told(wanted: str | None, before: str = "") -> tuple[list[str], list[str], list[bool]]:
    ran = run(before + TELL, wanted)
    assert ran.returncode == 0, ran.stderr
    imported, in_python, used = map(eval, ran.stdout.splitlines())
    return imported, in_python, used


def hide(name: str) -> str:
    """Return a statement that makes the import of a module fail."""
    return f"import sys; sys.modules[{name!r}] = None\n"


def test_every_source_in_c_is_part_of_an_extension() -> None:
    root = Path(tritonhttp.__file__).parent
    sources = {
        f"tritonhttp.{'.'.join(path.relative_to(root).with_suffix('').parts)}" for path in root.rglob("*.c")
    }
    if not sources:
        pytest.skip("installed without its sources")
    assert sources == {*ALL, "tritonhttp._repetition._fast_requests"}
    assert set(ALL) == EXTENSIONS or sys.platform != "linux"


@built
@pytest.mark.parametrize("wanted", [None, "", "c"])
def test_the_extensions_are_used_where_they_are_built(wanted: str | None) -> None:
    imported, in_python, used = told(wanted)
    assert set(imported) == EXTENSIONS
    assert set(in_python) == set(ALL) - EXTENSIONS
    assert used == [name in EXTENSIONS for name in ALL]


def test_with_python_no_extension_is_imported() -> None:
    assert told("python") == ([], ALL, [False, False])


@built
@pytest.mark.parametrize("name", sorted(EXTENSIONS))
def test_with_c_the_import_fails_where_an_extension_is_missing(name: str) -> None:
    ran = run(hide(name) + "import tritonhttp", "c")
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: TRITONHTTP_IMPL is 'c', and the C extension {name} cannot be imported: "
    )
    assert f"import of {name} halted" in last


@built
@pytest.mark.parametrize("name", ["tritonhttp._repetition._fast"])
def test_with_c_the_import_fails_where_an_extension_is_another_one(name: str) -> None:
    """Such as one that an earlier version of the library left behind."""
    if name not in EXTENSIONS:
        pytest.skip("it is not built on this platform")
    ran = run(
        f"import sys, types; sys.modules[{name!r}] = types.ModuleType({name!r})\nimport tritonhttp", "c"
    )
    assert ran.returncode == 1
    assert f"the C extension {name} cannot be imported: cannot import name" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ALL)
def test_otherwise_python_does_the_work_of_a_missing_extension_alone(name: str) -> None:
    imported, in_python, used = told(None, hide(name))
    assert name not in imported
    assert name in in_python
    assert used == [each in imported for each in ALL]
    assert sorted([*imported, *in_python]) == ALL


@pytest.mark.parametrize("wanted", ["C", "Python", "1", " c", "c,python"])
def test_another_value_is_refused(wanted: str) -> None:
    ran = run("import tritonhttp", wanted)
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last == f"ImportError: TRITONHTTP_IMPL must be 'c', 'python' or empty, got {wanted!r}"
