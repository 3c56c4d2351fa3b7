"""The control of calls in flight, on servers that a simulation makes. No clock but the simulation's own."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

import pytest

from tritonhttp import ConnectRefused, DeadlineExceeded, ServerError
from tritonhttp._calls.flow import Throttle, is_overload

MOST = 128


class Server:
    """Serves `width` calls at a time; others wait in line.

    Parameters
    ----------
    width : callable
        How many at a time, by the time.
    service : callable
        Seconds for one call.
    line : int
        How many calls may be in the server; it refuses others.
    patience : float
        Seconds after which a call in line is given up.
    """

    def __init__(
        self,
        width: Callable[[float], int],
        service: Callable[[], float],
        line: int = 10**9,
        patience: float = 1e9,
    ) -> None:
        self.width, self.service, self.line, self.patience = width, service, line, patience

    def run(self, limit: Callable[[], int], told: Callable[..., None], seconds: float) -> dict[str, Any]:
        """Keep as many calls in flight as allowed; return what was done, and how many were allowed."""
        random.seed(7)
        now, inside, number = 0.0, 0, 0
        places: list[float] = []
        ends: list[tuple[float, int, float, bool]] = []
        done: list[float] = []
        limits: list[tuple[float, int]] = []
        refused = 0
        while now < seconds:
            while len(ends) < limit():
                number += 1
                if inside >= self.line:
                    heapq.heappush(ends, (now + 0.001, number, now, False))
                    continue
                inside += 1
                places = sorted(places)[-max(1, self.width(now)) :]
                free = places[0] if len(places) >= self.width(now) else now
                end = max(now, free) + self.service()
                places = [*places[1:], end] if len(places) >= self.width(now) else [*places, end]
                heapq.heappush(ends, (min(end, now + self.patience), number, now, end - now <= self.patience))
            now, _, begun, good = heapq.heappop(ends)
            if good or now - begun > 0.001:
                inside -= 1
            if good:
                done.append(now)
            else:
                refused += 1
            told(now, now - begun, int(good), not good)
            limits.append((now, limit()))
        return {"done": done, "limits": limits, "refused": refused}


def throughput(found: dict[str, Any], start: float, end: float) -> float:
    return sum(start <= each < end for each in found["done"]) / (end - start)


def controlled(server: Server, seconds: float) -> dict[str, Any]:
    flow = Throttle(MOST)
    return server.run(lambda: flow.limit, flow.finished, seconds)


def best(server: Server, start: float, end: float) -> float:
    fixed = (1, 2, 4, 6, 8, 12, 16, 24, 50, 64)
    return max(
        throughput(server.run(lambda: n, lambda *_: None, end), start, end)  # noqa: B023
        for n in fixed
    )


def jitter(mean: float) -> Callable[[], float]:
    return lambda: random.lognormvariate(0, 0.5) * mean / 1.133


SERVERS = {
    "one at a time": (Server(lambda _: 1, lambda: 0.002), 8),
    "fast": (Server(lambda _: 4, lambda: 0.001), 6),
    "slow": (Server(lambda _: 8, lambda: 0.5), 120),
    "wide": (Server(lambda _: 50, lambda: 0.02), 12),
    "jittery": (Server(lambda _: 6, jitter(0.02)), 30),
    "jittery and slow": (Server(lambda _: 16, jitter(0.2)), 200),
    "refuses": (Server(lambda _: 8, lambda: 0.02, line=12), 24),
    "refuses as many as it serves": (Server(lambda _: 8, lambda: 0.02, line=8), 24),
    "gives up": (Server(lambda _: 4, lambda: 0.05, patience=0.12), 60),
}


@pytest.mark.parametrize("name", SERVERS)
def test_it_reaches_the_throughput_of_the_best_fixed_limit(name: str) -> None:
    server, seconds = SERVERS[name]
    found = controlled(server, seconds)
    start = seconds / 3  # when it has found its level
    assert throughput(found, start, seconds) >= 0.95 * best(server, start, seconds)


@pytest.mark.parametrize("name", ["one at a time", "fast", "slow", "jittery", "refuses", "gives up"])
def test_it_does_not_run_away(name: str) -> None:
    server, seconds = SERVERS[name]
    limits = [limit for now, limit in controlled(server, seconds)["limits"] if now > seconds / 3]
    assert sum(limits) / len(limits) <= 3 * server.width(0) + 3
    assert max(limits) <= 5 * server.width(0) + 3


def test_what_a_server_refuses_stays_rare() -> None:
    found = controlled(SERVERS["refuses"][0], 30)
    assert found["refused"] <= 0.02 * len(found["done"])


@pytest.mark.parametrize(("before", "after"), [(4, 16), (16, 4), (12, 1)])
def test_it_follows_a_server_whose_capacity_changes(before: int, after: int) -> None:
    server = Server(lambda now: before if now < 30 else after, lambda: 0.02)
    found = controlled(server, 90)
    assert throughput(found, 15, 30) >= 0.95 * before / 0.02
    assert throughput(found, 45, 90) >= 0.95 * after / 0.02
    late = [limit for now, limit in found["limits"] if now > 60]
    assert sum(late) / len(late) <= 3 * after + 3


def test_a_caller_that_keeps_few_in_flight_gets_no_higher_limit() -> None:
    flow = Throttle(64)
    for number in range(5000):  # one at a time, whatever is allowed
        flow.finished(number * 0.01, 0.01)
    assert flow.limit <= 4


def test_a_server_that_refuses_everything_gets_one_call_at_a_time() -> None:
    flow = Throttle(64, start=32)
    for number in range(200):
        flow.finished(number * 0.01, 0.01, 0, True)
    assert flow.limit == 1


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (ServerError("busy", "429"), True),
        (ServerError("busy", "503"), True),
        (DeadlineExceeded("timed out"), True),
        (ServerError("wrong", "400"), False),
        (ConnectRefused("nobody"), False),
        (ValueError(), False),
    ],
)
def test_what_is_an_overload(error: Exception, is_it: bool) -> None:
    assert is_overload(error) is is_it
