"""A real Triton for tests: started in seconds, ended with its owner.

The server runs under a small supervisor process (``_supervisor.py``). Whatever happens to the owner, SIGKILL
included, no process, no port, and no file of the server in ``/dev/shm`` is left behind; its log is an unlinked
file. Several servers of several processes can run side by side, each on its own ports.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

from ..errors import InvalidRequest
from .provision import install

__all__ = ["TritonFailed", "TritonServer", "packaged_models"]

_HOST = "127.0.0.1"
# A program of its own; importing it needs a Unix.
_SUPERVISOR = Path(__file__).with_name("_supervisor.py")
# The most starts on new ports, if another program takes one of the chosen ports.
_PORT_TRIES = 5
# Seconds that stop() gives to open requests. Triton waits as long for clients that stay connected.
_EXIT_TIMEOUT = 3
# Seconds after which a stopping server is killed.
_GRACE = 10
_LOG_HEAD = 5
_LOG_TAIL = 40
# Triton starts its endpoints after its models, so a taken port shows late. These lines of our own log tell our
# server from another one that answers on the port.
_SERVING = re.compile(r"Started HTTPService at[\s\S]*Started Metrics Service at")
# Errors in the log, except those of server.cc: they are harmless and appear on machines without a GPU.
_COMPLAINT = re.compile(r"(?m)^(?:E\d{4} [\d:.]+ \d+ (?!server\.cc)\S+ |error: |\S*tritonserver: )(.+)")
_PORT_TAKEN = re.compile(r"already in use|failed to start (HTTP|Metrics)", re.IGNORECASE)


def packaged_models() -> Path:
    """Return the model repository that comes with this package."""
    return Path(__file__).parent / "models"


class TritonFailed(RuntimeError):
    """The server did not become ready; the message ends with its shortened log."""


class TritonServer:
    """Start a real Triton, on free loopback ports unless told otherwise; the end of the ``with`` block kills it.

    The first start on a machine installs the server into a cache folder (``$TRITONHTTP_CACHE``, or
    ``tritonhttp`` in the user's cache folder); later ones take a few seconds. One thread at a time may use
    the object.

    Parameters
    ----------
    model_repository : str or Path, optional
        The folder of models. None: the models of this package.
    models : iterable of str, optional
        The names of the models to load. None: all. The others can be loaded by request.
    args : iterable of str
        More flags for ``tritonserver``; HTTP and metrics must stay on.
    startup_timeout : float
        Seconds from the start of the process until it must be ready (installing does not count).
    python : str, optional
        The interpreter that the models run under: Python 3.10, 3.11 or 3.12. None: the running one if it is
        suitable, otherwise one on ``PATH``.
    http_port, metrics_port : int
        The ports; 0: a free one.
    host : str
        The address to listen at, IPv4 or a name of one; ``"0.0.0.0"``: all of this machine.

    Raises
    ------
    TritonUnavailable
        From ``start``: no Triton can run here. The message is one line.
    TritonFailed
        From ``start``: a port is taken, or the server ended or was not ready in time. In the latter cases the
        message goes on with its shortened log.

    Examples
    --------
    >>> with TritonServer(models=["add_sub"]) as server:  # doctest: +SKIP
    ...     client = InferenceServerClient(server.url)
    """

    def __init__(
        self,
        model_repository: str | os.PathLike[str] | None = None,
        *,
        models: Iterable[str] | None = None,
        args: Iterable[str] = (),
        startup_timeout: float = 60.0,
        python: str | None = None,
        http_port: int = 0,
        metrics_port: int = 0,
        host: str = _HOST,
    ) -> None:
        self._repository = Path(model_repository or packaged_models())
        # Auto-completion starts each model's process once more. The packaged configurations are complete: all
        # models are ready in 2.5 s without it, in 11 s with it.
        complete = ["--disable-auto-complete-config"] if model_repository is None else []
        for name, given in (("models", models), ("args", args)):
            if isinstance(given, str):
                raise InvalidRequest(f"{name} must be a list, got {given!r}; did you mean [{given!r}]?")
        for name, port in (("http_port", http_port), ("metrics_port", metrics_port)):
            if not isinstance(port, int):
                raise InvalidRequest(f"{name} must be a whole number, 0 for a free port; got {port!r:.80}")
        self._flags = [*complete, *args]
        self._models = ["*"] if models is None else list(models)
        self._startup_timeout = startup_timeout
        self._python = python
        self._host = host
        self._address = ""
        self._wanted = (http_port, metrics_port)
        self._ports: tuple[int, int] | None = None
        self._owner = 0
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._prefix = ""
        self._log_file: IO[bytes] | None = None
        self._last_log = ""

    def __enter__(self) -> TritonServer:
        if self._supervisor is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        where = self.url if self._ports else "not started"
        return f"<TritonServer {where}{'' if self.running else ', stopped' if self._ports else ''}>"

    @property
    def url(self) -> str:
        """``"127.0.0.1:port"``, as a client on this machine takes it; ``restart`` does not change it."""
        return f"{self._reached_at}:{self._known_ports()[0]}"

    @property
    def metrics_url(self) -> str:
        """The address of the metrics in Prometheus' text format."""
        return f"http://{self._reached_at}:{self._known_ports()[1]}/metrics"

    @property
    def pid(self) -> int:
        """The process id of ``tritonserver``; RuntimeError while none runs."""
        if self._supervisor is None:
            raise RuntimeError("the server is not started")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the server process runs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def log(self) -> str:
        """The output of the server and its models since the last start, as text; kept after its end."""
        if self._log_file is not None:
            size = os.fstat(self._log_file.fileno()).st_size
            self._last_log = os.pread(self._log_file.fileno(), size, 0).decode("utf-8", "replace")
        return self._last_log

    def start(self) -> None:
        """Start the server and return when it is ready; a later start uses the same ports."""
        if self._supervisor is not None:
            raise RuntimeError("the server is started already")
        if not self._repository.is_dir():
            raise TritonFailed(
                f"there is no folder of models {str(self._repository)!r}; models=[…] names models, in the folder"
                " model_repository or in the one that comes with the package"
            )
        choose_ports = self._ports is None
        if choose_ports:
            self._address = _resolved(self._host)
        for remaining in reversed(range(_PORT_TRIES)):
            if choose_ports:
                self._ports = _chosen_ports(self._address, self._wanted)
            self._launch()
            try:
                self._wait_until_ready()
                return
            except BaseException as error:
                self.kill()
                taken = isinstance(error, TritonFailed) and _PORT_TAKEN.search(self._last_log)
                if not (choose_ports and taken and remaining):
                    raise

    def stop(self) -> None:
        """Shut the server down in order; does nothing if it is not running.

        Open requests have 3 seconds to be answered, and models to finalize. The call takes about that long.
        """
        if self._supervisor is not None and os.getpid() == self._owner:
            pipe = self._supervisor.stdin
            assert pipe is not None
            # It may have exited already; if it is too slow, it is killed.
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                os.write(pipe.fileno(), b"stop")
                self._supervisor.wait(_GRACE + 5)
        self.kill()

    def kill(self) -> None:
        """Kill the server and the processes of its models, and return when all are gone."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None or os.getpid() != self._owner:
            # A forked child has a copy of this object; the server belongs to its parent.
            return
        told, _ = supervisor.communicate()
        from . import _supervisor

        # In case the supervisor itself was killed.
        _supervisor.remove_shared_memory(self._prefix)
        for folder in told.decode().splitlines():
            shutil.rmtree(folder, ignore_errors=True)
        _ = self.log
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None

    def restart(self) -> None:
        """Kill the server if it runs, and start it again on the same ports."""
        self.kill()
        self.start()

    @property
    def _reached_at(self) -> str:
        return _HOST if self._address == "0.0.0.0" else self._address

    def _known_ports(self) -> tuple[int, int]:
        if self._ports is None:
            raise RuntimeError("the server has no address before its first start")
        return self._ports

    def _launch(self) -> None:
        installation = install(self._python)
        http_port, metrics_port = self._known_ports()
        self._owner = os.getpid()
        self._prefix = f"tritonhttp-{self._owner}-{os.urandom(4).hex()}-"
        argv = [
            str(installation.executable),
            f"--model-repository={self._repository}",
            f"--backend-directory={installation.backends}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._models),
            f"--http-address={self._address}",
            f"--http-port={http_port}",
            f"--metrics-address={self._address}",
            f"--metrics-port={metrics_port}",
            "--allow-grpc=false",
            f"--exit-timeout-secs={_EXIT_TIMEOUT}",
            *self._flags,
        ]
        order = {
            "argv": argv,
            "env": installation.environ(),
            "cache": str(installation.folder.parent),
            "prefix": self._prefix,
            "owner": self._owner,
            "grace": _GRACE,
        }
        # All writers share one open file, so each write lands after the last.
        self._log_file = tempfile.TemporaryFile()  # noqa: SIM115 - kill() closes it
        self._last_log = ""
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", _SUPERVISOR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            # A keyboard interrupt is for the owner, which then stops the server.
            start_new_session=True,
        )
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, which the wait for the server tells
            self._supervisor.stdin.write(f"{json.dumps(order)}\n".encode())
            self._supervisor.stdin.flush()
        self._pid = int(self._supervisor.stdout.readline() or 0)

    def _wait_until_ready(self) -> None:
        started = time.monotonic()
        while True:
            if not self.running:
                raise TritonFailed(
                    f"tritonserver ended while starting: {self._complaint()}; its log:\n{self._excerpt()}"
                )
            if _SERVING.search(self.log) and self._answers():
                # Triton itself would run on without its metrics.
                if "failed to start Metrics" not in self.log:
                    return
                raise TritonFailed(f"another program has the metrics port; the log:\n{self._excerpt()}")
            if time.monotonic() - started > (limit := self._startup_timeout):
                raise TritonFailed(
                    f"tritonserver was not ready after {limit:g} s; its log:\n{self._excerpt()}"
                )
            time.sleep(0.02)

    def _answers(self) -> bool:
        at = self._reached_at
        return all(
            _get(at, *each)
            for each in zip(self._known_ports(), ("/v2/health/ready", "/metrics"), strict=True)
        )

    def _complaint(self) -> str:
        """Return the first error of the log, which causes the later ones."""
        found = _COMPLAINT.search(self.log)
        return found[1].strip('"') if found else "it does not say why"

    def _excerpt(self) -> str:
        """Return the beginning of the log, which shows a wrong flag, and its end, which shows a broken model."""
        lines = self.log.splitlines()
        if len(lines) > _LOG_HEAD + _LOG_TAIL:
            lines[_LOG_HEAD:-_LOG_TAIL] = ["..."]
        return "\n".join(lines)


def _get(host: str, port: int, path: str) -> bool:
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection(host, port, timeout=1)) as connection,
    ):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def _resolved(host: str) -> str:
    """Return the address of a host that a server can listen at; Triton itself takes no names."""
    try:
        address = socket.gethostbyname(host)
        _bind(address, 0)
    except (OSError, ValueError) as error:
        raise TritonFailed(
            f"cannot listen at {host!r}: {_reason(error)}; expected an IPv4 address of this machine, or its name"
        ) from error
    return address


def _chosen_ports(host: str, wanted: tuple[int, int]) -> tuple[int, int]:
    """Return the ports for HTTP and the metrics: those that are wanted, and free ones for 0."""
    if wanted[0] and wanted[0] == wanted[1]:
        raise TritonFailed(f"HTTP and the metrics need two ports, got {wanted[0]} for both")
    for port in filter(None, wanted):
        try:
            _bind(host, port)
        except (OSError, OverflowError) as error:
            raise TritonFailed(
                f"cannot listen at {host} port {port}: {_reason(error)}; port 0 takes a free one"
            ) from error
    if all(wanted):
        return wanted
    free = (port for port in _free_ports(host) if port not in wanted)
    http_port, metrics_port = (port or next(free) for port in wanted)
    return http_port, metrics_port


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _bind(host: str, port: int) -> None:
    """Find out whether a server could listen there: raise OSError if not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _free_ports(host: str) -> list[int]:
    """Return three free ports.

    They lie below the range that the system uses for outgoing connections. Otherwise a client that tries to
    reconnect to a stopped server could get the server's own port, and connect to itself.
    """
    lowest = 32768
    with suppress(OSError, ValueError, IndexError):
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    pool = range(10240, lowest) if lowest > 12000 else range(50000, 65000)
    found: list[int] = []
    for port in random.SystemRandom().sample(pool, 200):
        with suppress(OSError):
            _bind(host, port)
            found.append(port)
        if len(found) == 3:
            return found
    raise TritonFailed(f"no free port at {host}")
