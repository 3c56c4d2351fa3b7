"""The servers that the suite talks to: what is known of each beforehand, and how one is started and ended.

All but Triton run under interpreters of environments of their own. A server ends when its standard input
does, so none outlives whoever started it, however that ended.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tritonhttp
from tritonhttp.testing.server import _free_ports

from .cases import VALUES


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the tests must know of a server beforehand."""

    name: str
    #: The datatypes that travel as binary, and those that travel as JSON.
    binary: frozenset[str]
    json: frozenset[str]
    #: The shape in which three numbers come back.
    three: tuple[int, ...] = (3,)
    #: The models that it has.
    models: tuple[str, ...] = ()


_ALL = frozenset(VALUES)
KINDS = {
    "triton": Kind(name="triton", binary=_ALL, json=_ALL - {"FP16", "BF16"}),
    "mlserver": Kind(name="mlserver", binary=frozenset(), json=_ALL - {"BF16"}, three=(3, 1)),
    "kserve": Kind(name="kserve", binary=_ALL - {"BF16"}, json=_ALL - {"FP16", "BF16"}),
}
MODELS = ("add_sub", "fail", *(f"identity_{name.lower()}" for name in VALUES if name != "BF16"))
#: Those that are only measured, for the table.
MEASURED = {
    "frontend": Kind(name="frontend", binary=_ALL, json=_ALL),
    "omle": Kind(name="omle", binary=frozenset(), json=_ALL, models=tuple(set(MODELS) - {"fail"})),
}

_SERVING = Path(__file__).parent / "serving"
_STARTUP = 120.0  # seconds; these servers import for 3 to 10
_TRIES = 5


@dataclass(frozen=True)
class Server:
    """A running server."""

    kind: Kind
    url: str


@contextmanager
def started(name: str, python: str, folder: Path) -> Iterator[Server]:
    """Start a server on a free loopback port, under that interpreter; `folder` is empty, and for it."""
    for remaining in reversed(range(_TRIES)):
        place = folder / str(remaining)
        place.mkdir()
        ports = _free_ports("127.0.0.1")
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                [python, _SERVING / f"serve_{name}.py", place, *map(str, ports)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=place,
                env={
                    name: value
                    for name, value in os.environ.items()
                    if not name.startswith(("MLSERVER", "KSERVE", "PYTHON"))
                },
                # An interrupt at the keyboard is for the suite, which then ends the server.
                start_new_session=True,
            )
        try:
            url = f"127.0.0.1:{ports[0]}"
            kind = {**KINDS, **MEASURED}[name]
            if _wait_until_ready(process, url, kind.models or MODELS):
                yield Server(kind, url)
                return
            text = (folder / "log").read_text("utf-8", "replace")
            if "address already in use" not in text or not remaining:
                raise RuntimeError(f"{name} did not become ready; the end of its log:\n{text[-4000:]}")
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, models: tuple[str, ...]) -> bool:
    """Return whether all models became ready; MLServer says that it is before it has loaded any."""
    end = time.monotonic() + _STARTUP
    with tritonhttp.InferenceServerClient(url) as client:
        while process.poll() is None and time.monotonic() < end:
            try:
                if all(map(client.is_model_ready, models)):
                    return True
            except tritonhttp.InferenceServerException:
                pass
            time.sleep(0.05)
    return False
