"""The order of a sequence's requests, without any."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tritonhttp._calls import turns
from tritonhttp._calls.turns import Turn, Turns
from tritonhttp._transport import pool
from tritonhttp._transport.blocking_pool import BlockingPool

from .test_pool import at_step


def turn_of(all_turns: Turns[Any], key: str = "a") -> Turn[Any]:
    turn: Turn[Any] = Turn(all_turns, key)
    turn.join(lambda: None)
    return turn


def has_come(turn: Turn[Any]) -> bool:
    return turn.pool is not None and turn.place in turn.pool.holders


def test_turns_come_in_the_order_of_joining_and_leave_nothing_behind() -> None:
    all_turns: Turns[Any] = Turns(BlockingPool)
    first, second, third = (turn_of(all_turns) for _ in range(3))
    other = turn_of(all_turns, "b")
    assert [has_come(turn) for turn in (first, second, third, other)] == [True, False, False, True]
    second.leave()
    with first, first:
        pass
    assert has_come(third)
    for turn in (third, third, other):
        turn.leave()
    assert all_turns._pools == {}


def test_a_turn_that_never_joined_leaves_at_once() -> None:
    all_turns: Turns[Any] = Turns(BlockingPool)
    turn: Turn[Any] = Turn(all_turns, "a")
    assert not has_come(turn)
    with turn, turn:
        pass
    assert all_turns._pools == {}


@pytest.mark.parametrize("stays", [False, True])
def test_a_handler_in_the_middle_of_leaving_keeps_its_turn(stays: bool) -> None:
    for number in itertools.count():
        all_turns: Turns[Any] = Turns(BlockingPool)
        inside: list[Turn[Any]] = []

        def act(all_turns: Turns[Any] = all_turns, inside: list[Turn[Any]] = inside) -> None:
            inside.append(turn_of(all_turns))
            if not stays:
                inside.pop().leave()

        turn = turn_of(all_turns)
        with at_step(number, act, modules=(pool, turns)) as done:
            turn.leave()
        behind = turn_of(all_turns)
        assert has_come(behind) is not bool(inside), "two have it"
        for each in inside:
            each.leave()
        assert has_come(behind)
        behind.leave()
        assert all_turns._pools == {}
        if not done[0]:
            break
    assert number > 20
