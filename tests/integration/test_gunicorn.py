"""``examples/flask_app.py`` under gunicorn, which forks after it made the client, or before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ..clients import wait_until
from .conftest import PATIENCE, Service, established

WORKERS = 3


@pytest.mark.parametrize("options", ["--preload --threads 4", "--threads 4", "--preload"])
def test_workers_answer_with_the_digits_over_connections_of_their_own(
    serve: Callable[..., Service], triton_server: Any, digits: Any, found: Any, options: str
) -> None:
    command = f"gunicorn --bind fd://{{fd}} --workers {WORKERS} {options} flask_app:app".split()
    service = serve(triton_server.url, *command)
    seen: set[int] = set()

    def ask(number: int) -> int:
        status, answer = service.ask("/digits", {"IMAGE": [digits[0][number].tolist()]})
        assert status == 200, answer
        seen.add(answer["worker"])
        (digit,) = answer["digits"]
        return int(digit)

    def round() -> None:
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(ask, range(len(found)))) == found.tolist()

    def all_workers() -> bool:
        round()
        return len(seen) >= WORKERS

    wait_until(all_workers, PATIENCE)
    assert service.ask("/health") == (200, {"ready": True})
    port = int(triton_server.url.rpartition(":")[2])
    ours = {service.process.pid, *seen}
    holders = [pids & ours for pids in established(port).values()]
    assert all(len(pids) <= 1 for pids in holders), holders
    assert seen <= set().union(*holders)
    # A worker that the parent forks later is as good.
    before = set(seen)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: all_workers() and not seen <= before, PATIENCE)
    service.stop()


def test_what_does_not_fit_is_the_callers_error(serve: Callable[..., Service], triton_server: Any) -> None:
    service = serve(triton_server.url, "gunicorn", "--bind", "fd://{fd}", "--preload", "flask_app:app")
    for body in ({"IMAGE": [[1, 2]]}, {"image": [[0] * 64]}):
        status, answer = service.ask("/digits", body)
        assert status == 400
        assert "IMAGE" in answer["error"]
