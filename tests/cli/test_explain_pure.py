"""The arithmetic of `tritonhttp explain`, and its rules with figures that are given."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tritonhttp.cli.advice import LARGE, NOTICEABLE, RULES, Facts, Trial, advice
from tritonhttp.cli.counters import ServerFigures
from tritonhttp.cli.phases import LEGEND, ORDER, Timed, mean_of, percentiles, taken_apart

# -- parts --

PHASES = {"wait": 0.1, "send": 0.4, "first_byte": 6.0, "receive": 0.5}


def figures(**ms: float) -> ServerFigures:
    parts = {"queue": 1.0, "compute_input": 0.5, "compute_infer": 2.0, "compute_output": 0.5, "total": 4.25}
    return ServerFigures(requests=1, seconds={name: spent / 1e3 for name, spent in (parts | ms).items()})


def test_the_server_is_told_apart_from_the_network() -> None:
    found = taken_apart(Timed(total=8.0, phases=PHASES, decode=0.2), figures())
    assert found == pytest.approx(
        {
            "prepare": 0.8,
            "wait": 0.1,
            "send": 0.4,
            "network": 1.75,
            "queue": 1.0,
            "input": 0.5,
            "compute": 2.0,
            "output": 0.5,
            "server, rest": 0.25,
            "receive": 0.5,
            "decode": 0.2,
        }
    )
    assert [name for name in ORDER if name in found] == list(found)


@pytest.mark.parametrize(
    ("server", "names"),
    [
        (None, {"send", "server, network", "receive"}),
        (figures(total=5.9), {"send", "network", "compute", "receive"}),
        (figures(total=6.1), {"send, network, receive", "compute"}),  # it overlaps with what is beside it
        (figures(total=6.8), {"send, network, receive", "compute"}),
        (figures(total=7.0), {"server, network"}),  # more than there is: clocks that do not agree
        (figures(total=3.0), {"send", "network", "compute", "receive"}),  # less than its own parts
        (figures(compute_infer=9.0, total=3.0), {"server, network"}),
    ],
)
def test_what_cannot_be_told_apart_is_one_part_and_the_sum_holds(
    server: ServerFigures | None, names: set[str]
) -> None:
    found = taken_apart(Timed(total=8.0, phases=PHASES, decode=0.2), server)
    assert math.fsum(found.values()) == pytest.approx(8.0)
    assert min(found.values()) > 0
    among = {"send", "network", "receive", "server, network", "send, network, receive", "compute"}
    assert found.keys() & among == names


def test_earlier_tries_are_not_called_preparing() -> None:
    found = taken_apart(Timed(total=50.0, phases=PHASES, decode=0.2, tries=2), None)
    assert found["earlier tries"] == pytest.approx(42.8)
    assert "prepare" not in found


def test_clocks_that_round_leave_the_sum_as_it_is() -> None:
    found = taken_apart(Timed(total=7.1, phases=PHASES, decode=0.2), None)
    assert math.fsum(found.values()) == pytest.approx(7.1)
    assert "prepare" not in found


def test_every_part_is_explained() -> None:
    assert set(LEGEND) == set(ORDER)


def test_means_count_missing_phases_as_nothing() -> None:
    calls = [Timed(total=4.0, phases={"connect": 2.0, "send": 1.0}), Timed(total=2.0, phases={"send": 1.0})]
    assert mean_of(calls) == Timed(total=3.0, phases={"connect": 1.0, "send": 1.0})


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (0, []),
        (1, ["min", "p50", "max"]),
        (9, ["min", "p50", "max"]),
        (10, ["min", "p50", "p90", "max"]),
        (20, ["min", "p50", "p90", "p95", "max"]),
        (99, ["min", "p50", "p90", "p95", "max"]),
        (100, ["min", "p50", "p90", "p95", "p99", "max"]),
    ],
)
def test_percentiles_that_so_many_calls_can_show(count: int, names: list[str]) -> None:
    found = percentiles(float(n) for n in range(count, 0, -1))
    assert list(found) == names
    if count == 100:
        assert found == {"min": 1, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}


# -- rules --


def facts(*, opened: int = 0, phases: Any = None, **more: Any) -> Facts:
    """Return the facts of a call of 10 ms in which nothing stands out."""
    parts = {"prepare": 1.0, "send": 1.0, "network": 2.0, "queue": 1.0, "compute": 4.0, "receive": 1.0}
    parts |= phases or {}
    given = {"calls": 20, "total": sum(parts.values()), "opened": opened, "config": {}, **more}
    return Facts(phases=parts, **given)


GZIP = Trial(algorithm="gzip", before=1_000_000, after=250_000, ms=1.0)
TWO = {"instance_group": [{"count": 1, "gpus": [0, 1]}]}

#: Rule, facts for which it says something, the figure that it says it with, and facts just below that.
CASES: list[tuple[str, dict[str, Any], list[str], dict[str, Any]]] = [
    ("connections", {"opened": 10, "phases": {"connect": 2.0}}, ["10 of 20", "2.00 ms"], {"opened": 9}),
    (
        "connecting",
        {"first": {"resolve": 0.5, "connect": 1.0, "tls": 1.0}},
        ["2.50 ms", "10.0 ms"],
        {"first": {"resolve": 0.5, "connect": 1.0, "tls": 0.99}},
    ),
    ("connecting", {"first": {"tls": 9.0}}, ["9.00 ms"], {"first": {"tls": 9.0}, "opened": 10}),
    (
        "connecting",
        {"first": {"connect": 1.0}, "total": 4.0},
        ["1.00 ms", "4.00 ms"],
        {"first": {"connect": 0.99}, "total": 1.0},
    ),
    (
        "cold_start",
        {"first": {"compute": 12.0}},
        ["12.0 ms", "4.00 ms", "model_warmup in its"],
        {"first": {"compute": 11.9}},
    ),
    (
        "cold_start",
        {"first": {"compute": 6.0}, "phases": {"compute": 1.0}},
        ["6.00 ms", "1.00 ms"],
        {"first": {"compute": 5.9}, "phases": {"compute": 1.0}},
    ),
    (
        "cold_start",
        {"first": {"compute": 90.0}, "config": {"model_warmup": [{"name": "zeros"}]}},
        ["90.0 ms", "does not cover"],
        {"first": {"compute": 90.0}, "alone": False},
    ),
    (
        "cold_start",
        {"first": {"server, network": 90.0}, "phases": {"server, network": 9.0}},
        ["server and network", "90.0 ms", "9.00 ms"],
        {"first": {"server, network": 20.0}, "phases": {"server, network": 9.0}},
    ),
    (
        "queue",
        {"phases": {"queue": 3.0}, "config": {"max_batch_size": 8}},
        ["3.00 ms of 12.0 ms (25%)", "dynamic batching is off", "8 rows"],
        {"phases": {"queue": 2.9}, "config": {"max_batch_size": 8}},
    ),
    ("queue", {"phases": {"queue": 9.0}, "config": TWO}, ["9.00 ms", "2 instances are busy"], {}),
    ("queue", {"phases": {"queue": 9.0}}, ["9.00 ms", "the only instance is busy"], {}),
    ("queue", {"phases": {"queue": 9.0}, "config": None}, ["9.00 ms", "more instances"], {"config": None}),
    (
        "queue",
        {"phases": {"queue": 9.0}, "config": {"dynamic_batching": {"max_queue_delay_microseconds": 18000}}},
        ["9.00 ms", "18.0 ms for a batch"],
        {"config": {"dynamic_batching": {"max_queue_delay_microseconds": 1000}}},
    ),
    (
        "queue",
        {"phases": {"queue": 9.0}, "config": {"dynamic_batching": {"max_queue_delay_microseconds": "18002"}}},
        ["9.00 ms", "instance_group"],
        {},
    ),
    ("queue", {"phases": {"queue": 9.0}, "config": {"sequence_batching": {}}}, ["9.00 ms", "sequence"], {}),
    (
        "queue",
        {"phases": {"queue": 9.0}, "config": {"ensemble_scheduling": {}}},
        ["9.00 ms", "tritonhttp stats"],
        {},
    ),
    (
        "queue",
        {"queued": (5.0, 20.0)},
        ["5.00 ms of 20.0 ms (25%) in the server"],
        {"queued": (4.9, 20.0), "phases": {"queue": 9.0}},
    ),
    (
        "compute",
        {"phases": {"compute": 18.0}},
        ["18.0 ms of 24.0 ms (75%)"],
        {"phases": {"compute": 17.9}},
    ),
    (
        "shared_memory",
        {"local": True, "can_share": True, "sent": LARGE},
        ["262 kB", "4.00 ms of 10.0 ms (40%)", "--shared-memory auto"],
        {"local": True, "can_share": True, "sent": LARGE - 1, "received": LARGE - 1},
    ),
    (
        "shared_memory",
        {
            "local": True,
            "can_share": True,
            "received": LARGE,
            "phases": {"send": 0, "network": 0, "receive": 2},
        },
        ["262 kB", "2.00 ms of 8.00 ms (25%)"],
        {"local": True, "can_share": True, "received": LARGE, "phases": {"send": 0, "network": 0}},
    ),
    (
        "shared_memory",
        {"local": True, "can_share": True, "sent": LARGE},
        ["ms"],
        {"local": False, "can_share": True, "sent": LARGE},
    ),
    (
        "shared_memory",
        {"local": True, "can_share": True, "sent": LARGE},
        ["ms"],
        {"local": True, "can_share": False, "sent": LARGE},
    ),
    (
        "shared_memory",
        {"local": True, "can_share": True, "sent": LARGE},
        ["ms"],
        {"local": True, "can_share": True, "sent": LARGE, "shares": True},
    ),
    (
        "json_data",
        {"as_json": (1500, 1000)},
        ["1.5 kB", "1 kB", "1.00 ms of 10.0 ms"],
        {"as_json": (1499, 1000)},
    ),
    (
        "json_data",
        {"as_json": (1000, 1000), "phases": {"decode": 2.5}},
        ["3.50 ms of 12.5 ms (28%)"],
        {"as_json": (1000, 1000), "phases": {"decode": 1.0}},
    ),
    (
        "compression",
        {"trial": GZIP},
        ["250 kB of 1 MB (25%)", "1.00 ms", "3.00 ms of 10.0 ms"],
        {"trial": GZIP, "local": True},
    ),
    (
        "compression",
        {"trial": Trial(algorithm="gzip", before=1000, after=250, ms=1.12)},
        ["1.12 ms"],
        {"trial": Trial(algorithm="gzip", before=1000, after=250, ms=1.13)},
    ),
    (
        "compression",
        {"compressed": True, "trial": Trial(algorithm="deflate", before=1000, after=900, ms=1.0)},
        ["deflate", "900 bytes of 1 kB (90%)", "1.00 ms", "0.33 ms more", "leave compression out"],
        {"compressed": True, "trial": Trial(algorithm="deflate", before=1000, after=900, ms=0.99)},
    ),
    (
        "compression",
        {"compressed": True, "trial": Trial(algorithm="gzip", before=1000, after=500, ms=3.1)},
        ["3.00 ms more"],
        {"compressed": True, "trial": Trial(algorithm="gzip", before=1000, after=500, ms=3.0)},
    ),
    (
        "payload",
        {"sent": NOTICEABLE},
        ["65.5 kB", "4.00 ms of 10.0 ms", "the request", "FP16"],
        {"sent": NOTICEABLE - 1},
    ),
    ("payload", {"received": NOTICEABLE}, ["the answer", "outputs"], {"received": NOTICEABLE, "local": True}),
    (
        "payload",
        {"received": NOTICEABLE, "phases": {"send": 0, "network": 0, "receive": 2}},
        ["2.00 ms of 8.00 ms (25%)"],
        {"received": NOTICEABLE, "phases": {"send": 0, "network": 0, "receive": 1.9}},
    ),
    (
        "distance",
        {"phases": {"network": 8.0}, "sent": 500},
        ["8.00 ms of 16.0 ms (50%)", "500 bytes"],
        {"phases": {"network": 7.9}, "sent": 500},
    ),
    ("distance", {"phases": {"network": 90.0}}, ["90.0 ms"], {"phases": {"network": 90.0}, "local": True}),
    (
        "rows",
        {"rows": 1, "config": {"max_batch_size": 2}},
        ["1 row", "takes 2", "5.00 ms of 10.0 ms (50%)"],
        {"rows": 1, "config": {"max_batch_size": 2}, "phases": {"compute": 4.1}},
    ),
    (
        "rows",
        {"rows": 1, "config": {"max_batch_size": 8}},
        ["takes 8"],
        {"rows": 2, "config": {"max_batch_size": 8}},
    ),
    (
        "rows",
        {"rows": 1, "config": {"max_batch_size": 8}},
        ["takes 8"],
        {"rows": 1, "config": {"max_batch_size": 1}},
    ),
    (
        "rows",
        {"rows": 1, "config": {"max_batch_size": 8}},
        ["takes 8"],
        {"rows": 1, "config": {"max_batch_size": 8, "sequence_batching": {}}},
    ),
    (
        "tail",
        {"percentiles": {"p50": 2.0, "p99": 6.0}},
        ["6.00 ms", "3.0 times", "2.00 ms"],
        {"percentiles": {"p50": 2.0, "p99": 5.9}},
    ),
    (
        "tail",
        {"percentiles": {"p50": 0.5, "p99": 1.5}},
        ["1.50 ms"],
        {"percentiles": {"p50": 0.5, "p99": 1.49}},
    ),
]


@pytest.mark.parametrize(("rule", "fires", "figure", "does_not"), CASES)
def test_a_rule(rule: str, fires: Any, figure: list[str], does_not: Any) -> None:
    said = advice(facts(**fires))
    assert rule in said, said
    for words in figure:
        assert words in said[rule], said[rule]
    assert rule not in advice(facts(**does_not))


def test_every_rule_is_tested() -> None:
    assert {rule.__name__ for rule in RULES} == {case[0] for case in CASES}


@pytest.mark.parametrize("config", [None, {}])
def test_nothing_stands_out(config: Any) -> None:
    assert advice(facts(config=config)) == {}


def test_what_is_not_known_gives_no_advice() -> None:
    """A server without statistics, configuration and extensions."""
    known = Facts(
        calls=20,
        total=10.0,
        phases={"prepare": 1.0, "send": 1.0, "server, network": 7.0, "receive": 1.0},
        first={"server, network": 8.0},
        rows=1,
        sent=LARGE,
        trial=GZIP,
    )
    assert advice(known) == {}
