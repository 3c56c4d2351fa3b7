"""Providing Triton without a network: the decisions, each one-line error, and installing with a fake Python."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tritonhttp.testing import TritonUnavailable, provision

# A fake interpreter: it describes itself, and as `-m venv` makes an environment with a fake pip in it, which
# counts its runs and then does as it is told.
FAKE = """#!/bin/sh
if [ "$2" = -c ]; then echo '{about}'; exit 0; fi
mkdir -p "$3/bin"
cat > "$3/bin/python" <<'END'
#!/bin/sh
echo run >> '{runs}'
{pip}
END
chmod +x "$3/bin/python"
"""
WHEEL = """
server="$(dirname "$0")/../lib/python{version}/site-packages/pytriton/tritonserver"
mkdir -p "$server/bin" "$server/backends/python" "$server/python_backend_stubs/{version}"
touch "$server/bin/tritonserver" "$server/backends/python/libtriton_python.so"
touch "$server/python_backend_stubs/{version}/triton_python_backend_stub"
sleep 0.2
"""


class FakePython:
    def __init__(self, folder: Path, version: str) -> None:
        self.version = version
        self.path = folder / f"python{version}"
        self.runs = folder / f"runs-{version}"
        self.libraries = folder / f"lib-{version}"
        self.libraries.mkdir(parents=True)
        self.soname = f"libpython{version}.so.1.0"
        (self.libraries / self.soname).touch()
        self.write()

    def write(self, pip: str | None = None, modules: tuple[str, ...] = ("venv", "ensurepip")) -> None:
        about = {
            "executable": str(self.path),
            "version": self.version,
            "soname": self.soname,
            "soname_folders": ["/nowhere", str(self.libraries)],
            "modules": modules,
        }
        pip = WHEEL.format(version=self.version) if pip is None else pip
        self.path.write_text(FAKE.format(about=json.dumps(about), runs=self.runs, pip=pip))
        self.path.chmod(0o755)

    def count(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A Linux machine with an empty cache, wherever the tests run."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("TRITONHTTP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def python(tmp_path):
    if os.name != "posix":
        pytest.skip("the fake interpreter is a shell script")
    return FakePython(tmp_path / "python", "3.11")


def reason(python: str | None = None, *, excused: bool) -> str:
    with pytest.raises(TritonUnavailable) as caught:
        provision.install(python)
    message = str(caught.value)
    assert "\n" not in message
    assert "TRITON_URL=host:port" in message
    assert caught.value.excused is excused
    return message


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "Linux on x86_64, this is Darwin on x86_64" in reason(excused=True)


def test_another_processor_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "on aarch64" in reason(excused=True)


@pytest.mark.parametrize(
    ("libc", "told"),
    [(("glibc", "2.31"), "glibc 2.31"), (("", ""), "another C library")],
)
def test_another_c_library_is_refused(monkeypatch, libc, told):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    assert f"needs glibc 2.35, this is {told}" in reason(excused=True)


def test_a_newer_c_library_is_fine(monkeypatch, python):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.100"))
    assert provision.install(str(python.path)).complete()


def test_a_missing_libpython_is_named(python):
    (python.libraries / python.soname).unlink()
    message = reason(str(python.path), excused=True)
    assert "libpython3.11.so.1.0 is missing" in message
    assert "Debian and Ubuntu install libpython3.11, on Fedora python3.11-libs" in message


def test_a_missing_venv_is_named(python):
    python.write(modules=("venv",))
    message = reason(str(python.path), excused=False)
    assert "lacks the module ensurepip (on Debian and Ubuntu install python3.11-venv)" in message


def test_an_unfit_version_is_refused(tmp_path, python):
    newer = FakePython(tmp_path / "newer", "3.13")
    assert "is Python 3.13" in reason(str(newer.path), excused=False)


def test_a_missing_interpreter_is_refused(tmp_path):
    assert "does not run" in reason(str(tmp_path / "nowhere"), excused=False)


def test_another_python_on_path_is_found(monkeypatch, tmp_path, python):
    """The running one is too new, 3.12 on PATH is a shim that fails, and the first 3.11 lacks its library."""
    running = FakePython(tmp_path / "running", "3.13")
    monkeypatch.setattr(sys, "executable", str(running.path))
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "python3.12").write_text("#!/bin/sh\necho command not found >&2\nexit 127\n")
    (shims / "python3.12").chmod(0o755)
    bare = FakePython(tmp_path / "bare", "3.11")
    (bare.libraries / bare.soname).unlink()
    folders = [shims, bare.path.parent, python.path.parent, "/bin", "/usr/bin"]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))
    assert provision.install().version == "3.11"
    assert (running.count(), bare.count(), python.count()) == (0, 0, 1)


def test_the_running_python_comes_first(monkeypatch, python):
    monkeypatch.setattr(sys, "executable", str(python.path))
    assert provision.install().version == "3.11"
    assert python.count() == 1


def test_the_trouble_of_the_running_python_is_told(monkeypatch, tmp_path, python):
    (python.libraries / python.soname).unlink()
    monkeypatch.setattr(sys, "executable", str(python.path))
    monkeypatch.setenv("PATH", f"{tmp_path}/nothing")
    assert str(python.path) in reason(excused=True)


def test_pip_installs_nothing_without_its_hash(tmp_path, python):
    python.write(pip=f'echo "$@" > {tmp_path}/arguments\n{WHEEL.format(version=python.version)}')
    provision.install(str(python.path))
    words = (tmp_path / "arguments").read_text().split()
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(words)
    assert words[-2:] == ["-r", str(provision._REQUIREMENTS)]


def test_a_failure_of_pip_is_quoted(tmp_path, python):
    python.write(pip="echo Collecting; echo 'ERROR: No matching distribution' >&2; echo; exit 1")
    assert "pip failed: ERROR: No matching distribution; or" in reason(str(python.path), excused=False)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_wheel_without_its_files_is_refused(tmp_path, python):
    python.write(pip="true")
    assert "cannot be used" in reason(str(python.path), excused=False)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_an_unwritable_cache_is_named(monkeypatch, tmp_path, python):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITONHTTP_CACHE", str(tmp_path / "file" / "cache"))
    assert "cache folder" in reason(str(python.path), excused=False)


def test_a_second_start_installs_nothing(python):
    assert not provision.installed(str(python.path))
    first = provision.install(str(python.path))
    assert provision.installed(str(python.path))
    assert provision.install(str(python.path)) == first
    assert python.count() == 1
    assert first.executable.stat().st_mode & 0o111
    stub = first.backends / "python" / "triton_python_backend_stub"
    assert stub.stat().st_mode & 0o111
    assert (first.libpython / python.soname).resolve() == (python.libraries / python.soname).resolve()


def test_an_installation_cut_off_counts_for_nothing(tmp_path, python):
    python.write(pip='mkdir -p "$(dirname "$0")/../lib"; kill -9 $$')
    reason(str(python.path), excused=False)
    folder = provision._plan(str(python.path))[1].folder
    partial = folder.with_name(f"{folder.name}.partial")
    (partial / "lib" / "rubbish").mkdir(parents=True)  # as when the installing process itself was killed
    assert not provision.installed(str(python.path))
    python.write()
    folder = provision.install(str(python.path)).folder
    assert not (folder / "lib" / "rubbish").exists()
    assert not partial.exists()


def test_an_environment_is_repaired_when_its_interpreter_moved(python):
    provision.install(str(python.path))
    library = python.libraries / python.soname
    library.rename(python.libraries.parent / python.soname)
    python.libraries = python.libraries.parent
    python.write()
    assert provision.install(str(python.path)).complete()
    assert python.count() == 2


def test_two_at_once_install_once(python):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(provision.install(str(python.path)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert found[0].complete()
    assert python.count() == 1


def test_two_versions_at_once_do_not_disturb_each_other(tmp_path, python):
    """Each deletes what an earlier try left in its own folder only."""
    newer = FakePython(tmp_path / "newer", "3.12")
    folders = [provision._plan(str(each.path))[1].folder for each in (python, newer)]
    started, ready = tmp_path / "started", tmp_path / "ready"
    wait = f"touch {started}; while [ ! -e {ready} ]; do sleep 0.01; done"
    python.write(pip=f"{wait}\n{WHEEL.format(version=python.version)}")
    with ThreadPoolExecutor() as executor:
        first = executor.submit(provision.install, str(python.path))
        while not started.exists():
            assert not first.done()
            time.sleep(0.01)
        second = provision.install(str(newer.path))
        ready.touch()
        assert [first.result().folder, second.folder] == folders
    assert first.result().complete()
    assert second.complete()


def test_the_cache_follows_its_variables(monkeypatch, tmp_path):
    assert provision.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TRITONHTTP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert provision.cache_folder() == tmp_path / "xdg" / "tritonhttp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the XDG specification says to ignore
    assert provision.cache_folder() == Path.home() / ".cache" / "tritonhttp"


def test_the_servers_environment_is_its_own(monkeypatch, python):
    monkeypatch.setenv("PYTHONPATH", "/the/callers")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/theirs")
    installation = provision.install(str(python.path))
    env = installation.environ()
    assert "PYTHONPATH" not in env
    assert env["PATH"].split(os.pathsep)[0] == str(installation.folder / "bin")
    assert env["LD_LIBRARY_PATH"].split(os.pathsep)[1:] == [str(installation.libpython), "/theirs"]


def test_versions_and_hashes_are_pinned():
    lines = provision._REQUIREMENTS.read_text().splitlines()
    pinned = [line.split()[0] for line in lines if line and not line.startswith((" ", "#"))]
    assert pinned == ["nvidia-pytriton==0.7.0", "numpy==1.26.4"]
    assert sum("--hash=sha256:" in line for line in lines) == 1 + len(provision._VERSIONS)
