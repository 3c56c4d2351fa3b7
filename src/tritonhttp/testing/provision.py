"""Provide a real Triton: one private environment per Python version, in a cache folder.

The environment holds the CPU server from the wheel ``nvidia-pytriton`` and the numpy that its Python backend
needs, both pinned by hash. It is made once, under a lock, and appears by one rename: two processes at the same
time make only one, and an interrupted installation is never used. :class:`TritonUnavailable` says in one line
what is missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

__all__ = ["Installation", "TritonUnavailable", "cache_folder", "install", "installed"]

_log = logging.getLogger("tritonhttp.testing")

_REQUIREMENTS = Path(__file__).parent / "requirements" / "triton.txt"
# The Python versions that have both a stub in the wheel and a wheel of numpy 1.26, best first.
_VERSIONS = ("3.12", "3.11", "3.10")
# The wheel is manylinux_2_35.
_GLIBC = (2, 35)
# Increase it when the layout below changes, so that older environments are not reused.
_LAYOUT = 2
_ELSEWHERE = "set TRITON_URL=host:port to use a server that runs elsewhere"


class TritonUnavailable(RuntimeError):
    """No Triton can run here; the message says in one line what is missing and what to do.

    Attributes
    ----------
    excused : bool
        True if the machine is the cause, not the installation: another platform, an older C library, no
        libpython. Tests may be skipped then.
    """

    def __init__(self, reason: str, *, excused: bool = False) -> None:
        super().__init__(f"no Triton server can run here: {reason}; or {_ELSEWHERE}")
        self.excused = excused


@dataclass(frozen=True)
class Installation:
    """An installed server: the folder of its environment, and all that is needed to start it."""

    folder: Path
    version: str

    @property
    def _packages(self) -> Path:
        return self.folder / "lib" / f"python{self.version}" / "site-packages"

    @property
    def executable(self) -> Path:
        """The server program."""
        return self._packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """The folder for ``--backend-directory``: the Python backend with the stub of this Python version."""
        return self.folder / "backends"

    @property
    def libpython(self) -> Path:
        """A folder that holds only a link to libpython, so that it hides no other library."""
        return self.folder / "libpython"

    def environ(self) -> dict[str, str]:
        """Return the environment variables to start the server with.

        The backend finds the interpreter for its models on ``PATH``. The caller's ``PYTHON*`` variables are
        left out: with them the models would import the caller's numpy. Matrix products use one thread unless
        the caller says otherwise: several wait for each other by spinning, which other processes pay for.
        """
        left_out = ("PYTHON", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        libraries = (self._packages / "nvidia_pytriton.libs", self.libpython, env.get("LD_LIBRARY_PATH"))
        env.setdefault("OPENBLAS_NUM_THREADS", "1")
        env["LD_LIBRARY_PATH"] = os.pathsep.join(str(folder) for folder in libraries if folder)
        env["PATH"] = os.pathsep.join([str(self.folder / "bin"), env.get("PATH", os.defpath)])
        return env

    def complete(self) -> bool:
        """Tell whether all files exist; links point outside, to an interpreter that may be gone."""
        library = next(self.libpython.glob("libpython*"), self.libpython / "missing")
        return all(path.exists() for path in (self.executable, self.folder / "bin" / "python", library))


@dataclass(frozen=True)
class _Interpreter:
    """The answers of an interpreter about itself."""

    executable: str
    version: str
    soname: str
    soname_folders: list[str]
    modules: list[str]

    def libpython(self) -> Path | None:
        """Return the shared library that the backend's stub of this version is linked to."""
        paths = (Path(folder) / self.soname for folder in self.soname_folders)
        return next((path for path in paths if path.exists()), None)

    def trouble(self) -> TritonUnavailable | None:
        """Return why this interpreter cannot run the server's models, or None."""
        if self.version not in _VERSIONS:
            return TritonUnavailable(
                f"its models need Python 3.10, 3.11 or 3.12, and {self.executable} is Python {self.version}"
            )
        if self.libpython() is None:
            return TritonUnavailable(
                f"{self.soname} is missing for {self.executable} "
                f"(on Debian and Ubuntu install libpython{self.version}, on Fedora python{self.version}-libs)",
                excused=True,
            )
        if missing := {"venv", "ensurepip"}.difference(self.modules):
            return TritonUnavailable(
                f"{self.executable} lacks the module {' and '.join(sorted(missing))} "
                f"(on Debian and Ubuntu install python{self.version}-venv)"
            )
        return None


_ASK = """
import importlib.util, json, os, sys, sysconfig
get = sysconfig.get_config_var
version = "%d.%d" % sys.version_info[:2]
folders = [get("LIBDIR"), os.path.join(sys.base_prefix, "lib"), os.path.join(sys.base_prefix, "lib64")]
if get("MULTIARCH"):
    folders += [os.path.join(root, get("MULTIARCH")) for root in (get("LIBDIR"), "/usr/lib", "/lib") if root]
folders += ["/usr/lib64", "/usr/lib", "/usr/local/lib"]
print(json.dumps({
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "version": version,
    "soname": "libpython%s.so.1.0" % version,
    "soname_folders": [folder for folder in folders if folder],
    "modules": [module for module in ("venv", "ensurepip") if importlib.util.find_spec(module)],
}))
"""


def _ask(executable: str) -> _Interpreter | None:
    """Let an interpreter describe itself; None if it does not run, like a version manager's dead shim."""
    try:
        done = subprocess.run(
            [executable, "-I", "-c", _ASK], capture_output=True, stdin=DEVNULL, timeout=30, check=True
        )
        return _Interpreter(**json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _executables(python: str | None) -> Iterator[str]:
    if python is not None:
        yield python
        return
    yield sys.executable
    for version in _VERSIONS:
        for folder in os.get_exec_path():
            if path := shutil.which(f"python{version}", path=folder):
                yield path


def _choose(python: str | None) -> _Interpreter:
    first: TritonUnavailable | None = None
    for interpreter in filter(None, map(_ask, _executables(python))):
        trouble = interpreter.trouble()
        if trouble is None:
            return interpreter
        # A problem of the running Python is more helpful than a problem of one found on PATH.
        first = first or trouble
    raise first or TritonUnavailable(f"{python or sys.executable} does not run as a Python interpreter")


def _check_platform() -> None:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "AMD64"):
        raise TritonUnavailable(
            f"its wheel is for Linux on x86_64, this is {platform.system()} on {machine}", excused=True
        )
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < _GLIBC:
        here = f"{name} {version}".strip() or "another C library"
        raise TritonUnavailable("it needs glibc {}.{}, this is ".format(*_GLIBC) + here, excused=True)


def cache_folder() -> Path:
    """Return the folder of the servers: ``$TRITONHTTP_CACHE``, or ``tritonhttp`` in the user's cache."""
    if own := os.environ.get("TRITONHTTP_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared and os.path.isabs(shared) else Path.home() / ".cache") / "tritonhttp"


def _plan(python: str | None) -> tuple[_Interpreter, Installation]:
    """Choose the interpreter, and the place of its environment."""
    _check_platform()
    interpreter = _choose(python)
    identity = f"{_LAYOUT} {interpreter.executable} {_REQUIREMENTS.read_text()}"
    key = f"triton-py{interpreter.version}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    return interpreter, Installation(cache_folder() / key, interpreter.version)


def installed(python: str | None = None) -> bool:
    """Tell whether :func:`install` would have nothing to do; raises the same errors."""
    return _plan(python)[1].complete()


def install(python: str | None = None) -> Installation:
    """Return the environment of the server; make it first if it is missing.

    Parameters
    ----------
    python : str, optional
        The interpreter that the models run under: 3.10, 3.11 or 3.12. None: the running one if it is suitable,
        otherwise the first suitable one on ``PATH``.

    Raises
    ------
    TritonUnavailable
        One line that says what is missing here.
    """
    interpreter, installation = _plan(python)
    if installation.complete():
        return installation
    cache = installation.folder.parent
    try:
        import fcntl  # missing on Windows, where this never runs

        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / f"{installation.folder.name}.lock", "w") as lock:
            # The kernel drops the lock when its holder dies.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not installation.complete():
                _build(interpreter, installation)
    except OSError as error:
        raise TritonUnavailable(
            f"the cache folder {cache} cannot be used ({error.strerror or error})"
        ) from error
    return installation


def _build(interpreter: _Interpreter, installation: Installation) -> None:
    """Make the environment under another name and rename it when complete; the caller holds the lock."""
    started = time.monotonic()
    folder = installation.folder
    _log.info("installing Triton in %s", folder)
    partial = Installation(folder.with_name(f"{folder.name}.partial"), installation.version)
    shutil.rmtree(partial.folder, ignore_errors=True)
    try:
        _command("the virtual environment failed", interpreter.executable, "-m", "venv", partial.folder)
        pip = (partial.folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install")
        flags = (
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--no-warn-script-location",
        )
        _command("pip failed", *pip, *flags, "-r", _REQUIREMENTS)
        _link(interpreter, partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.folder.rename(folder)
    finally:
        shutil.rmtree(partial.folder, ignore_errors=True)
    _log.info("installed Triton in %.1f s", time.monotonic() - started)


def _link(interpreter: _Interpreter, installation: Installation) -> None:
    """Link the wheel's separate parts into one layout; links are relative, since the folder is renamed."""
    server = installation.executable.parents[1]
    server.joinpath("bin", "tritonserver").chmod(0o755)
    backend = installation.backends / "python"
    backend.mkdir(parents=True)
    stub = server / "python_backend_stubs" / interpreter.version / "triton_python_backend_stub"
    stub.chmod(0o755)
    for source in [*server.joinpath("backends", "python").iterdir(), stub]:
        backend.joinpath(source.name).symlink_to(os.path.relpath(source, backend))
    library = interpreter.libpython()
    assert library is not None  # _choose() takes only interpreters that have it
    # The stubs ignore variables like PYTHONDONTWRITEBYTECODE and would write into the models' folders.
    packages = installation.executable.parents[3]
    packages.joinpath("no_bytecode.pth").write_text("import sys; sys.dont_write_bytecode = True\n")
    installation.libpython.mkdir()
    installation.libpython.joinpath(library.name).symlink_to(library)


def _command(failure: str, *command: str | Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True)
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise TritonUnavailable(f"{failure}: {last[0].strip()}")
