"""Decisions of the transports: numbers in, decisions out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from tritonhttp import InvalidRequest
from tritonhttp.transport.policy import Timeouts, earliest, may_resend, step_timeout


def test_the_defaults_are_the_references() -> None:
    assert Timeouts() == Timeouts(connection=60.0, network=60.0)


@pytest.mark.parametrize("value", [None, 0.001, 1, 3600.5])
def test_a_limit_is_a_number_of_seconds_or_none(value: Any) -> None:
    assert Timeouts(connection=value, network=value).connection == value


@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan, "5", [1]])
@pytest.mark.parametrize("name", ["connection", "network"])
def test_any_other_limit_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{name}_timeout must be a number of seconds above 0"):
        Timeouts(**{name: value})


def test_limits_are_frozen_and_named() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Timeouts().network = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Timeouts(5.0)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("deadlines", "first"), [((), None), ((None,), None), ((None, 3.0, 2.0), 2.0), ((0.0, None), 0.0)]
)
def test_earliest(deadlines: tuple[float | None, ...], first: float | None) -> None:
    assert earliest(*deadlines) == first


@pytest.mark.parametrize(
    ("limit", "deadline", "timeout"),
    [
        (None, None, None),
        (5.0, None, 5.0),
        (None, 103.0, 3.0),
        (5.0, 103.0, 3.0),
        (2.0, 103.0, 2.0),
        (5.0, 99.0, 0.0),
        (None, 100.0, 0.0),
    ],
)
def test_a_step_ends_at_its_limit_or_at_the_deadline(
    limit: float | None, deadline: float | None, timeout: float | None
) -> None:
    assert step_timeout(limit, deadline, now=100.0) == timeout


@pytest.mark.parametrize(
    ("repeatable", "answered", "handed_over", "may"),
    [
        (True, False, True, True),
        (True, False, False, True),
        (False, False, False, True),
        (False, False, True, False),
        (True, True, True, False),
        (False, True, False, False),
    ],
)
def test_a_request_goes_out_again_only_where_that_is_safe(
    repeatable: bool, answered: bool, handed_over: bool, may: bool
) -> None:
    assert may_resend(repeatable=repeatable, answered=answered, handed_over=handed_over) == may
