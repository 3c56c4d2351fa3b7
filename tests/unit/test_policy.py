"""Decisions of the transports: numbers in, decisions out."""

from __future__ import annotations

import dataclasses
import math
import pickle
import time
from decimal import Decimal
from email.utils import formatdate
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonhttp import InvalidRequest, Retry, errors
from tritonhttp._calls.retry import classify, is_barred, parse_retry_after
from tritonhttp._transport.policy import (
    UNSET,
    Connections,
    Timeouts,
    call_limit,
    earliest,
    may_resend,
    step_timeout,
)


def test_the_defaults_are_the_references() -> None:
    assert (Timeouts().connection, Timeouts().network) == (60.0, 60.0)


@pytest.mark.parametrize("value", [None, 0.001, 1, 3600.5])
def test_a_limit_is_a_number_of_seconds_or_none(value: Any) -> None:
    assert Timeouts(connection=value, network=value).connection == value


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), Decimal("0.5"), np.int8(5), 5]
)
def test_a_limit_of_any_type_becomes_a_float(value: Any) -> None:
    limit = Timeouts(connection=value).connection
    assert limit == value
    assert type(limit) is float or isinstance(value, np.float64)
    assert call_limit(value, None) == value


@pytest.mark.parametrize("value", [math.inf, 1e7, 10**400, Decimal("inf")])
def test_a_limit_beyond_what_clocks_take_is_none(value: Any) -> None:
    assert Timeouts(connection=value).connection is None
    assert call_limit(value, 5.0) is None


def test_a_call_that_says_nothing_has_the_clients_limit() -> None:
    assert call_limit(UNSET, 5.0) == 5.0
    assert call_limit(UNSET, None) is None
    assert call_limit(None, 5.0) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (-0.0, "0"),
        (-0.3, "-0.3"),
        (-math.inf, "-inf"),
        (np.float32(-0.5), "-0.5"),
        (Decimal(-2), "-2"),
    ],
)
def test_a_call_without_time_is_over_before_it_begins(value: Any, said: str) -> None:
    with pytest.raises(errors.DeadlineExceeded, match="timed out") as caught:
        call_limit(value, None)
    assert f"the call's {said} s are over before it began" in str(caught.value)
    assert (caught.value.phase, caught.value.attempts) == ("start", 0)


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), "5", [1], True, np.True_, np.array(1.0)])
def test_a_deadline_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="deadline must be a number of seconds, or None; got"):
        call_limit(value, None)


@pytest.mark.parametrize("value", [0, True, 1.5, "9", np.array(9)])
def test_the_most_bytes_of_a_response_are_a_whole_number(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_response_bytes must be a whole number above 0, or None"):
        Connections(max_response_bytes=value)
    limit = Connections(max_response_bytes=np.int32(9)).max_response_bytes  # type: ignore[arg-type]
    assert (limit, type(limit)) == (9, int)


@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan, "5", [1], True, np.True_, -math.inf])
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
def test_earliest_ignores_none(deadlines: tuple[float | None, ...], first: float | None) -> None:
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
    ("reused", "repeatable", "answered", "handed_over", "may", "resendable"),
    [
        (True, True, False, True, True, True),
        (True, True, False, False, True, True),
        (True, False, False, False, True, True),
        (True, False, False, True, False, True),
        (True, True, True, True, False, False),
        (True, False, True, False, False, False),
        (False, True, False, False, False, False),
        (False, True, False, True, False, False),
    ],
)
def test_a_request_is_resent_only_where_that_is_safe_and_may_help(
    reused: bool, repeatable: bool, answered: bool, handed_over: bool, may: bool, resendable: bool
) -> None:
    error = errors.ConnectionLost("lost")
    resent = may_resend(
        error, reused=reused, answered=answered, handed_over=handed_over, repeatable=repeatable
    )
    assert (resent, error.resendable) == (may, resendable)


# -- retries

CONNECT = [
    errors.ConnectError("no"),
    errors.ConnectRefused("no"),
    errors.ConnectTimeout("timed out"),
    errors.NameResolutionError("no"),
    errors.TLSError("no"),
]
HOPELESS = [
    errors.ProtocolError("what?"),
    errors.InvalidRequest("no"),
    errors.InferenceServerException("the client is closed"),
    KeyboardInterrupt(),
    ValueError(),
]


@pytest.mark.parametrize("error", CONNECT, ids=lambda error: type(error).__name__)
def test_a_request_that_never_reached_the_server_is_always_sent_again(error: Exception) -> None:
    assert classify(error) == "connect"
    assert Retry().applies(error, repeatable=False)
    assert Retry().applies(error, repeatable=True)
    assert not Retry(on=("lost", 503)).applies(error, repeatable=True)


@pytest.mark.parametrize(
    ("status", "outcome", "barred"),
    [
        (401, 401, False),
        (407, 407, False),
        (400, "connect", True),
        (408, "connect", False),
        (425, "connect", False),
        (403, "connect", True),
        (405, "connect", True),
        (429, "connect", False),
        (503, "connect", False),
        (None, "connect", False),
    ],
)
def test_a_proxy_that_refuses_a_tunnel(status: int | None, outcome: object, barred: bool) -> None:
    error = errors.ConnectError("no tunnel")
    error.proxy_status = status
    assert (classify(error), is_barred(error)) == (outcome, barred)
    assert Retry().applies(error, repeatable=True) == (outcome == "connect")
    assert not is_barred(403)


def test_a_request_that_may_have_run_is_sent_again_only_if_repeatable() -> None:
    error = errors.ConnectionLost("gone")
    assert classify(error) == "lost"
    assert not Retry().applies(error, repeatable=False)
    assert Retry().applies(error, repeatable=True)
    assert not Retry(on=["connect"]).applies(error, repeatable=True)


def test_a_server_that_takes_long_is_not_asked_again_unless_that_is_wanted() -> None:
    error = errors.DeadlineExceeded("timed out")
    assert classify(error) == "timeout"
    assert not Retry().applies(error, repeatable=True)
    assert Retry(on=["timeout"]).applies(error, repeatable=True)
    assert not Retry(on=["timeout"]).applies(error, repeatable=False)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again_only_for_what_may_be_repeated(status: int) -> None:
    for result in (status, errors.ServerError("busy", str(status))):
        assert Retry().applies(result, repeatable=True)
        assert not Retry().applies(result, repeatable=False)
        assert not Retry(on={500, "lost"}).applies(result, repeatable=True)


@pytest.mark.parametrize("result", [200, 302, 400, 404, 500, 501, errors.ServerError("no", "500"), *HOPELESS])
def test_other_outcomes_are_final(result: Any) -> None:
    assert not Retry().applies(result, repeatable=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attempts": 0}, "attempts must be a whole number above 0; got 0"),
        ({"attempts": 2.0}, "attempts must be a whole number above 0; got 2.0"),
        ({"attempts": True}, "attempts must be a whole number above 0; got True"),
        ({"attempts": np.array(2)}, "attempts must be a whole number above 0; got array(2)"),
        ({"backoff": True}, "backoff must be a number from 0 to 1000000; got True"),
        ({"on": [True]}, "on must hold statuses from 400 to 599"),
        ({"on": [503.0]}, "on must hold statuses from 400 to 599"),
        (
            {"on": "connect"},
            'on must hold statuses from 400 to 599, "connect", "lost" and "timeout"; got \'connect\'',
        ),
        ({"on": 503}, "on must hold statuses from 400 to 599"),
        ({"on": None}, "on must hold statuses from 400 to 599"),
        ({"on": [200]}, "on must hold statuses from 400 to 599"),
        ({"on": ["503"]}, "on must hold statuses from 400 to 599"),
        ({"on": [503, "refused"]}, "on must hold statuses from 400 to 599"),
        ({"backoff": -0.1}, "backoff must be a number from 0 to 1000000; got -0.1"),
        ({"backoff": "1"}, "backoff must be a number from 0 to 1000000; got '1'"),
        ({"jitter": 1.1}, "jitter must be a number from 0 to 1; got 1.1"),
        ({"jitter": math.nan}, "jitter must be a number from 0 to 1; got nan"),
        ({"max_backoff": math.inf}, "max_backoff must be a number from 0 to 1000000; got inf"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Retry(**options)
    assert words in str(caught.value)


def test_the_first_and_the_last_status_of_an_error_may_be_retried() -> None:
    assert Retry(on=(400, 599)).on == (400, 599)
    for status in (399, 600):
        with pytest.raises(InvalidRequest, match="statuses from 400 to 599"):
            Retry(on=(status,))


def test_options_of_retries_are_plain_numbers_whatever_was_given() -> None:
    given: Any = {
        "attempts": np.int64(5),
        "on": [np.int16(503), "lost"],
        "backoff": Fraction(1, 4),
        "jitter": Decimal("0.5"),
        "max_backoff": np.float32(2),
    }
    retry = Retry(**given)
    assert retry == Retry(attempts=5, on=(503, "lost"), backoff=0.25, jitter=0.5, max_backoff=2.0)
    assert {type(getattr(retry, name)) for name in ("backoff", "jitter", "max_backoff")} == {float}
    assert type(retry.attempts) is int
    assert retry.delay(1, 0.0, now=0.0) == 0.25


def test_options_of_retries_are_frozen_and_named_and_pickle() -> None:
    retry = Retry(attempts=5, on=[503, "connect"])
    assert retry.on == (503, "connect")
    assert Retry(on=()).on == ()
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert hash(retry) == hash(Retry(attempts=5, on=(503, "connect")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        retry.attempts = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        Retry(3)  # type: ignore[misc]


def test_a_callers_list_is_not_kept() -> None:
    on: list[Any] = [503]
    retry = Retry(on=on)
    on.append("connect")
    assert not retry.applies(CONNECT[0], repeatable=True)


def test_delays_double_up_to_the_longest() -> None:
    retry = Retry(attempts=9, backoff=1.0, max_backoff=5.0, jitter=0)
    assert [retry.delay(tries, 0.7, now=0.0) for tries in range(1, 6)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert retry.delay(9, 0.7, now=0.0) is None


@pytest.mark.parametrize(("jitter", "random", "delay"), [(0.5, 0.0, 2.0), (0.5, 0.5, 1.5), (1, 0.75, 0.5)])
def test_a_part_of_the_delay_is_left_to_chance(jitter: float, random: float, delay: float) -> None:
    assert Retry(backoff=1.0, jitter=jitter).delay(2, random, now=0.0) == delay


def test_one_attempt_means_no_retry() -> None:
    assert Retry(attempts=1).delay(1, 0.0, now=0.0) is None


@pytest.mark.parametrize(
    ("deadline", "retry_after", "delay"),
    [
        (None, None, 2.0),
        (None, 1.0, 2.0),
        (None, 60.0, 60.0),  # above max_backoff
        (None, 600.0, 600.0),
        (None, 601.0, None),
        (102.001, None, 2.0),
        (102.0, None, None),
        (99.0, None, None),
        (150.0, 60.0, None),
        (161.0, 60.0, 60.0),
        (1000.0, 601.0, 601.0),
        (1000.0, math.inf, None),
        (None, math.inf, None),
    ],
)
def test_a_wait_is_as_long_as_the_server_asked_and_ends_before_the_deadline(
    deadline: float | None, retry_after: float | None, delay: float | None
) -> None:
    retry = Retry(backoff=2.0, jitter=0)
    assert retry.delay(1, 0.0, now=100.0, deadline=deadline, retry_after=retry_after) == delay


parts = st.floats(0, 1, exclude_max=True)


@given(
    retry=st.builds(
        Retry,
        attempts=st.integers(1, 5000),
        backoff=st.floats(0, 1e6),
        jitter=st.floats(0, 1),
        max_backoff=st.floats(0, 1e6),
    ),
    tries=st.integers(1, 6000),
    random=parts,
    now=st.floats(0, 1e6),
    left=st.none() | st.floats(-10, 100),
    retry_after=st.none() | st.floats(0, 1000),
)
def test_a_delay_keeps_every_limit(
    retry: Retry, tries: int, random: float, now: float, left: float | None, retry_after: float | None
) -> None:
    deadline = None if left is None else now + left
    delay = retry.delay(tries, random, now=now, deadline=deadline, retry_after=retry_after)
    if tries >= retry.attempts:
        assert delay is None
    if delay is None:
        assert tries >= retry.attempts or deadline is not None or (retry_after or 0) > 600
        return
    assert 0 <= (retry_after or 0.0) <= delay <= max(retry.max_backoff, retry_after or 0.0)
    assert deadline is None or now + delay < deadline


# -- Retry-After

NOW = 784111700.0


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 77.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 77.0),
        ("Sun Nov  6 08:49:37 1994", 77.0),
        ("Sun, 06 Nov 1994 08:48:19 GMT", 0.0),
        ("9" * 5000, math.inf),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("inf", None),
        ("5, 5", None),
        ("\u0665", None),
        ("soon", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, pause: float | None) -> None:
    assert parse_retry_after(header, NOW) == pause


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone can't be set here")
def test_a_date_without_a_zone_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        pause = parse_retry_after("Sun Nov  6 08:49:37 1994", NOW)
    time.tzset()
    assert pause == 77.0


@given(now=st.integers(0, 4_000_000_000), pause=st.integers(0, 100_000))
def test_retry_after_is_read_as_written(now: int, pause: int) -> None:
    assert parse_retry_after(formatdate(now + pause, usegmt=True), now) == pause
    assert parse_retry_after(str(pause), now) == pause


@given(header=st.text() | st.text("0123456789:-, GMTSunNov"), now=st.floats(0, 4e9))
def test_any_retry_after_is_seconds_or_nothing(header: str, now: float) -> None:
    pause = parse_retry_after(header, now)
    assert pause is None or pause >= 0
