"""Which address is tried when: numbers in, decisions out."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tritonhttp._transport.failures import connect_failure
from tritonhttp._transport.happy_eyeballs import Race, interleaved
from tritonhttp.errors import ConnectError, ConnectRefused, ConnectTimeout

V4, V6 = socket.AF_INET, socket.AF_INET6


def four(last: int) -> Any:
    return V4, (f"192.0.2.{last}", 80)


def six(last: int) -> Any:
    return V6, (f"2001:db8::{last}", 80, 0, 0)


@pytest.mark.parametrize(
    ("given", "tried"),
    [
        ([], []),
        ([four(1)], [four(1)]),
        ([six(1), six(2), six(3), four(1), four(2)], [six(1), four(1), six(2), four(2), six(3)]),
        ([four(1), six(1), six(2)], [four(1), six(1), six(2)]),
        ([four(2), four(1)], [four(2), four(1)]),
    ],
)
def test_families_take_turns_in_the_systems_order(given: Any, tried: Any) -> None:
    assert interleaved(given) == tried


def test_an_attempt_begins_a_quarter_of_a_second_after_the_one_before() -> None:
    race = Race([four(1), four(2), four(3)], 100.0, 160.0)
    assert race.start(100.0) == 0
    assert race.start(100.0) is None
    assert race.pause(100.0) == 0.25
    assert race.start(100.2) is None
    assert race.start(100.3) == 1
    assert race.pause(100.3) == pytest.approx(0.25)
    assert race.start(100.6) == 2
    assert race.start(110.0) is None
    assert race.pause(110.0) == 50.0


def test_the_next_attempt_begins_at_once_where_one_fails() -> None:
    race = Race([four(1), four(2), four(3)], 100.0, None)
    assert race.start(100.0) == 0
    race.failed(0, OSError("no"), 100.01)
    assert race.pause(100.01) == 0
    assert race.start(100.01) == 1
    assert race.start(100.01) is None
    assert race.start(100.26) == 2
    race.failed(1, OSError("no"), 100.3)
    assert not race.is_over(1e9)
    assert race.pause(100.3) is None
    race.failed(2, OSError("no"), 100.4)
    assert race.is_over(100.4)


@pytest.mark.parametrize(("left", "spacing"), [(0.2, 0.1), (0.5, 0.25), (60.0, 0.25), (0.004, 0.01)])
def test_a_short_time_is_shared_among_the_addresses(left: float, spacing: float) -> None:
    race = Race([four(1), six(1)], 100.0, 100.0 + left)
    assert race.start(100.0) == 0
    assert race.pause(100.0) == pytest.approx(min(spacing, left))
    assert race.start(100.0 + spacing * 0.99) is None
    assert race.start(100.0 + spacing) == (1 if spacing < left else None)


def test_the_first_address_is_tried_when_the_time_is_over_already() -> None:
    race = Race([four(1), four(2)], 100.0, 90.0)
    assert race.start(100.0) == 0
    assert race.start(101.0) is None
    assert race.is_over(100.0)
    assert race.pause(100.0) == 0


def failure(race: Race, seconds: float = 1.0) -> ConnectError:
    return connect_failure("name port 80", race.failures, seconds, None)


def test_each_address_is_told_with_its_reason() -> None:
    race = Race([four(1), four(2), four(3)], 100.0, 100.9)
    race.start(100.0)
    race.failed(0, ConnectionRefusedError(111, "refused"), 100.0)
    assert race.start(100.0) == 1
    error = failure(race)
    assert type(error) is ConnectTimeout
    assert error.message() == (
        "cannot connect to name port 80: 192.0.2.1: [Errno 111] Connection refused; 192.0.2.2: timed out;"
        " 192.0.2.3: not tried in that time, after 1 s"
    )


def test_addresses_that_all_refuse_are_a_refusal() -> None:
    race = Race([four(1), four(2)], 100.0, None)
    for number in range(2):
        assert race.start(100.0) == number
        race.failed(number, ConnectionRefusedError(111, "refused"), 100.0)
    assert type(failure(race)) is ConnectRefused
