"""Serve models by the HTTP frontend of a newer Triton, in this process: ``python serve_frontend.py MODELS PORT``.

Needs Python 3.12, glibc 2.39, a C compiler, this library, and the packages of ``requirements/frontend.txt``. The
core below the frontend is that of the wheel that the tests use; the binding asks for one symbol that it lacks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

MISSING = "void *TRITONSERVER_ServerOptionsSetLogCallback(void) { return 0; }\n"


def prepare() -> None:
    """Run this program again, with the core where the binding looks for it."""
    from tritonhttp.testing import provision

    core = provision.install(sys.executable)
    libraries = next(core.folder.glob("lib/python3*/site-packages/nvidia_pytriton.libs"))
    folder = core.folder / "frontend"
    folder.mkdir(exist_ok=True)
    library, source, missing = (
        folder / name for name in ("libtritonserver.so", "missing.c", "libmissing.so")
    )
    if not library.exists():
        library.symlink_to(next(libraries.glob("libtritonserver*.so*")))
    source.write_text(MISSING)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", missing, source], check=True)
    environment = core.environ()
    environment["LD_LIBRARY_PATH"] = f"{folder}:{environment['LD_LIBRARY_PATH']}"
    environment["LD_PRELOAD"] = str(missing)
    environment["BACKENDS"] = str(core.backends)
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def serve(repository: str, port: int, backends: str) -> None:
    """Serve until a signal."""
    import tritonserver
    from tritonfrontend import KServeHttp

    options = tritonserver.Options(
        model_repository=repository,
        backend_directory=backends,
        exit_timeout=3,
        model_control_mode=tritonserver.ModelControlMode.EXPLICIT,
        startup_models=set(os.listdir(repository)),
    )
    server = tritonserver.Server(options)
    server.start(wait_until_ready=True)
    frontend = KServeHttp(server, KServeHttp.Options(address="127.0.0.1", port=port, thread_count=4))
    frontend.start()
    sys.stdout.write("UP\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    frontend.stop()
    server.stop()


if __name__ == "__main__":
    if "BACKENDS" in os.environ:
        serve(sys.argv[1], int(sys.argv[2]), os.environ["BACKENDS"])
    else:
        prepare()
