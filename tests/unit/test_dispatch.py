"""The life of a call over tries and servers, driven by hand on a clock of the test's."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tritonhttp import (
    ConnectionLost,
    ConnectRefused,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    ProtocolError,
    Retry,
    ServerError,
)
from tritonhttp._calls import balance
from tritonhttp._calls import dispatch as dispatches
from tritonhttp._calls.dispatch import Dispatch
from tritonhttp._calls.safety import may_run_twice
from tritonhttp._protocol.operations import Endpoint, Operation, is_server_ready, purpose
from tritonhttp._transport.policy import Moment, moment
from tritonhttp._wire.responses import Response, ResponseHead, StreamedResponse
from tritonhttp.events import Call, Hooks

from .conftest import interrupted_everywhere

REFUSED = ConnectRefused("refused", method="GET", url="http://a")
LOST = ConnectionLost("broke", method="POST", url="http://a", phase="receive")
STEADY = Retry(attempts=3, backoff=0.5, jitter=0)


def answer(status: int = 200, **headers: str) -> Response:
    named = {name.lower().replace("_", "-"): value for name, value in headers.items()}
    return Response(ResponseHead(status, named), b"body")


def streamed() -> StreamedResponse:
    stream = StreamedResponse(ResponseHead(200, {}), b"")
    stream.stream = object()
    return stream


def post(sequence: Any = None, **options: Any) -> Operation[Any]:
    return Endpoint(
        "POST", "v2/models/m/infer", lambda response: response, (b"12", b"345"), sequence=sequence, **options
    )


def step(number: int, *, start: bool = False, end: bool = False) -> Operation[Any]:
    return post(("m", number, start, end))


class Driven:
    """Performs a dispatch's steps with the outcomes that the test names."""

    def __init__(self, servers: str = "a", retry: Retry | None = None, **options: Any) -> None:
        self.heard: list[Any] = []
        self.hooks = Hooks(
            lambda call: self.heard.append(("request", call.attempts)),
            lambda call: self.heard.append(("response", call.attempts)),
            lambda call, reason, delay: self.heard.append(("retry", reason, delay)),
        )
        options = {"balancing": "round_robin", "hooks": self.hooks, **options}
        self.dispatch = Dispatch(servers, retry, **options)
        self.now = 100.0
        self.probes: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.pauses: list[float] = []
        self.tried: list[str] = []
        self.sent: list[Operation[Any]] = []
        #: Whether the transport may send each again by itself.
        self.allowed: list[bool] = []
        #: The paths of what was carried out beside.
        self.beside: list[str] = []
        self.call: Call | None = None

    def begin(self, operation: Operation[Any], until: Moment | None = None) -> Any:
        purposes = purpose(operation.path)
        self.call = Call(operation.method, "http://one", *purposes, operation.request_id)
        self.call.request_bytes = sum(map(len, operation.body))
        return self.dispatch.tries(
            operation, self.call, until, lambda: self.now, self.probes.append, True, self.later.append
        )

    def run(
        self,
        operation: Operation[Any],
        perform: Callable[[str], Any] | list[Any],
        until: Moment | None = None,
    ) -> Response:
        """Carry a call out; an outcome is a response, an error, or a function that returns one of these."""
        outcomes = iter(perform) if isinstance(perform, list) else None
        self.tried, self.pauses, self.sent, self.beside, self.allowed = [], [], [], [], []
        flow = self.begin(operation, until)
        try:
            now = next(flow)
            while True:
                if isinstance(now, float):
                    self.pauses.append(now)
                    self.now += now
                    now = flow.send(None)
                    continue
                if isinstance(now, Operation):
                    self.beside.append(now.path)
                    now = flow.send(None)
                    continue
                name, sent, last = now
                self.allowed.append(may_run_twice(sent) and not last)
                self.tried.append(name)
                self.sent.append(sent)
                assert not callable(perform) or outcomes is None
                outcome = next(outcomes) if outcomes is not None else perform(name)  # type: ignore[operator]
                if callable(outcome):
                    outcome = outcome()
                now = flow.throw(outcome) if isinstance(outcome, BaseException) else flow.send(outcome)
        except StopIteration as end:
            response: Response = end.value
            return response

    def outstanding(self) -> list[int]:
        balancer = self.dispatch._balancer
        assert balancer is not None
        return [len(balancer._known[name].tickets) for name in self.dispatch.servers]

    def in_rotation(self) -> list[bool]:
        balancer = self.dispatch._balancer
        assert balancer is not None
        return [balancer.in_rotation(name) for name in self.dispatch.servers]


# -- retries ----------------------------------------------------------------------------------------


def test_a_call_that_succeeds_is_sent_once() -> None:
    driven = Driven(retry=STEADY)
    response = driven.run(is_server_ready(), [answer()])
    assert (response.status_code, response.attempts, driven.pauses) == (200, 1, [])
    assert driven.dispatch.retries == 0


@pytest.mark.parametrize(
    "outcome", [answer(503), answer(429), REFUSED, LOST], ids=["503", "429", "refused", "lost"]
)
def test_what_is_safe_is_sent_again_with_longer_and_longer_pauses(outcome: Any) -> None:
    driven = Driven(retry=STEADY)
    response = driven.run(is_server_ready(), [outcome, outcome, answer()])
    assert (response.attempts, driven.pauses) == (3, [0.5, 1.0])
    assert driven.dispatch.retries == 2


def test_a_stream_stays_one_after_several_tries() -> None:
    stream = streamed()
    found = Driven(retry=STEADY).run(post(idempotent=True), [answer(503), stream])
    assert found is stream
    assert found.attempts == 2


def test_a_response_keeps_its_limit_after_several_tries() -> None:
    found = Driven(retry=STEADY).run(
        post(idempotent=True), [answer(503), Response(ResponseHead(200, {}, "OK"), b"body", 77)]
    )
    assert (found.limit, found.attempts) == (77, 2)


def test_the_last_outcome_is_the_calls_when_all_tries_are_used() -> None:
    driven = Driven(retry=STEADY)
    assert driven.run(is_server_ready(), [REFUSED, LOST, answer(503)]).status_code == 503
    with pytest.raises(ConnectionLost) as caught:
        driven.run(is_server_ready(), [answer(503), REFUSED, ConnectionLost("again")])
    assert caught.value.attempts == 3


@pytest.mark.parametrize("outcome", [answer(503), LOST], ids=["503", "lost"])
def test_an_inference_is_sent_again_only_where_the_caller_says_that_it_may_be(outcome: Any) -> None:
    driven = Driven(retry=STEADY)
    assert driven.run(post(idempotent=True), [outcome, answer()]).attempts == 2
    with suppress(ConnectionLost):
        driven.run(post(), [outcome])
    assert len(driven.tried) == 1


def test_what_never_reached_the_server_is_sent_again_whatever_it_is() -> None:
    driven = Driven(retry=STEADY)
    assert driven.run(post(), [REFUSED, answer()]).attempts == 2
    assert driven.run(step(1), [REFUSED, answer()]).attempts == 2


@pytest.mark.parametrize(
    "outcome", [answer(400), answer(500), ProtocolError("no HTTP"), InvalidRequest("no")], ids=str
)
def test_what_another_try_does_not_mend_is_not_sent_again(outcome: Any) -> None:
    driven = Driven(retry=STEADY)
    with suppress(InferenceServerException):
        driven.run(is_server_ready(), [outcome])
    assert (len(driven.tried), driven.dispatch.retries) == (1, 0)


def test_without_retries_one_server_is_tried_once() -> None:
    with pytest.raises(ConnectRefused):
        Driven().run(is_server_ready(), [REFUSED])


def test_a_server_that_asks_for_patience_gets_it() -> None:
    driven = Driven(retry=STEADY)
    driven.run(is_server_ready(), [answer(503, Retry_After="7"), answer(503, Retry_After="0"), answer()])
    assert driven.pauses == [7.0, 1.0]


def test_no_pause_is_begun_that_would_not_end_before_the_deadline() -> None:
    driven = Driven(retry=STEADY)
    until = moment(driven.now, 2.0)
    assert driven.run(is_server_ready(), [answer(503, Retry_After="7")], until).status_code == 503
    with pytest.raises(ConnectRefused):
        driven.run(is_server_ready(), [REFUSED], moment(driven.now, 0.4))
    assert driven.pauses == []
    assert driven.run(is_server_ready(), [REFUSED, answer()], moment(driven.now, 0.6)).attempts == 2


# -- what the transport sends again by itself ------------------------------------------------------


def resent(driven: Driven, outcome: Any) -> Callable[[], Any]:
    """A try whose request the transport sent twice."""

    def send() -> Any:
        assert driven.call is not None
        driven.call.attempts += 1
        return outcome

    return send


def test_what_the_transport_sends_again_is_a_try() -> None:
    driven = Driven(retry=STEADY)
    response = driven.run(post(idempotent=True), [resent(driven, answer(503)), answer(503)])
    assert (response.status_code, response.attempts, len(driven.tried)) == (503, 3, 2)
    assert driven.pauses == [1.0]  # as before the third try
    assert driven.call is not None
    assert driven.call.attempts == 3
    with pytest.raises(ConnectionLost) as caught:
        driven.run(post(idempotent=True), [resent(driven, LOST), ConnectionLost("again")])
    assert caught.value.attempts == 3


@pytest.mark.parametrize(
    ("retry", "allowed"),
    [
        (None, [True]),
        (Retry(attempts=1), [False]),
        (Retry(attempts=2, backoff=0), [True, False]),
        (Retry(attempts=3, backoff=0), [True, True, False]),
    ],
    ids=["none", "1", "2", "3"],
)
def test_the_transport_sends_nothing_again_with_the_last_try(
    retry: Retry | None, allowed: list[bool]
) -> None:
    driven = Driven(retry=retry)
    driven.run(post(idempotent=True), lambda _: answer(503))
    assert driven.allowed == allowed
    driven.run(post(), lambda _: answer(503))
    assert driven.allowed == [False]


# -- operations that are made anew for each try -----------------------------------------------------


class Renewed:
    """An operation, and those that it is renewed to: the body is the number of the try."""

    def __init__(self, idempotent: bool = True) -> None:
        self.outcomes: list[Any] = []
        self.first = post(idempotent=idempotent, renew=self.renew)

    def renew(self, outcome: Any) -> Any:
        self.outcomes.append(outcome)
        yield is_server_ready()
        return post(idempotent=True, renew=self.renew, request_id=str(len(self.outcomes)))


def lost_before_an_answer() -> ConnectionLost:
    error = ConnectionLost("broke", method="POST", url="http://a", phase="receive")
    error.resendable = True
    return error


def test_each_repetition_is_of_a_renewed_operation() -> None:
    driven, renewed = Driven(retry=STEADY), Renewed()
    outcomes = [REFUSED, answer(503)]
    assert driven.run(renewed.first, [*outcomes, answer()]).attempts == 3
    assert [sent.request_id for sent in driven.sent] == ["", "1", "2"]
    assert driven.beside == ["v2/health/ready"] * 2
    assert renewed.outcomes == [REFUSED, 503]
    assert driven.allowed == [True, True, False]


@pytest.mark.parametrize(
    ("retry", "tries"),
    [(None, 2), (Retry(attempts=1), 1), (Retry(attempts=3, on=()), 2), (Retry(attempts=2), 2)],
    ids=["none", "1 attempt", "on nothing", "2 attempts"],
)
def test_what_the_transport_may_not_send_again_is_renewed_and_sent_again_once(
    retry: Retry | None, tries: int
) -> None:
    driven, renewed = Driven(retry=retry), Renewed()
    with pytest.raises(ConnectionLost) as caught:
        driven.run(renewed.first, lambda _: lost_before_an_answer())
    assert (len(driven.tried), caught.value.attempts) == (tries, tries)
    assert driven.pauses == []
    assert not caught.value.resendable, "nobody else sends it again"
    renewed = Renewed(idempotent=False)
    with pytest.raises(ConnectionLost):
        driven.run(renewed.first, lambda _: lost_before_an_answer())
    assert len(driven.tried) == 1


# -- who is told ------------------------------------------------------------------------------------


def test_hooks_hear_of_the_beginning_the_retries_and_the_end() -> None:
    driven = Driven(retry=STEADY)
    driven.run(post(idempotent=True), [answer(503), REFUSED, answer(X_One="1")])
    assert driven.heard == [
        ("request", 0),
        ("retry", "status 503", 0.5),
        ("retry", str(REFUSED), 1.0),
        ("response", 3),
    ]
    call = driven.call
    assert call is not None
    assert (call.status, call.error, call.response_headers) == (200, None, {"x-one": "1"})
    assert (call.request_bytes, call.response_bytes, call.seconds) == (5, 4, 1.5)
    assert (call.action, call.route, call.model_name) == ("infer", "/v2/models/{model}/infer", "m")


def test_hooks_know_the_url_before_it_is_sent_where_there_is_one_server() -> None:
    urls: list[str] = []
    Driven(hooks=Hooks(lambda call: urls.append(call.url))).run(is_server_ready(), [answer()])
    assert urls == ["http://one"]


@pytest.mark.parametrize("error", [REFUSED, InvalidRequest("no"), KeyboardInterrupt()], ids=repr)
def test_hooks_hear_of_every_end(error: BaseException) -> None:
    calls: list[Call] = []
    driven = Driven(hooks=Hooks(on_response=calls.append))
    with pytest.raises(type(error)):
        driven.run(is_server_ready(), [error])
    assert (calls[0].error, calls[0].status) == (error, None)


def test_what_a_hook_raises_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []

    def broken(*arguments: Any) -> None:
        raise RuntimeError("of the hook")

    hooks = Hooks(broken, broken, broken)
    hooks.add(on_request=heard.append, on_response=heard.append, on_retry=lambda *each: heard.append(each[1]))
    driven = Driven(retry=STEADY, hooks=hooks)
    assert driven.run(is_server_ready(), [answer(503), answer()]).status_code == 200
    assert heard == [driven.call, "status 503", driven.call]
    assert caplog.text.count("\nRuntimeError: of the hook") == 3


def test_the_hook_called_last_at_the_start_is_called_first_at_the_end() -> None:
    heard: list[str] = []
    hooks = Hooks()
    for name in "xy":
        hooks.add(
            on_request=lambda call, name=name: heard.append(f"{name} begins"),  # type: ignore[misc]
            on_response=lambda call, name=name: heard.append(f"{name} ends"),  # type: ignore[misc]
        )
    Driven(hooks=hooks).run(is_server_ready(), [answer()])
    assert heard == ["x begins", "y begins", "y ends", "x ends"]


def test_who_heard_of_the_beginning_hears_of_the_end_and_nobody_else() -> None:
    heard: list[str] = []

    def first(call: Call) -> None:
        heard.append("first")

    def second(call: Call) -> None:
        heard.append("second")

    hooks = Hooks(first, first)

    def change() -> Response:
        hooks.remove(first)
        hooks.add(on_request=second, on_response=second)
        return answer()

    driven = Driven(hooks=hooks)
    driven.run(is_server_ready(), [change])
    assert heard == ["first", "first"]
    driven.run(is_server_ready(), [answer()])
    assert heard[2:] == ["second", "second"]
    hooks.remove(second)
    assert not hooks


async def awaited(call: Call) -> None: ...


@pytest.mark.parametrize("hook", [awaited, "text", 1], ids=["coroutine", "text", "number"])
@pytest.mark.parametrize("name", ["on_request", "on_response", "on_retry"])
def test_a_hook_is_a_plain_function(hook: Any, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} must be a plain function"):
        Hooks(**{name: hook})


def test_retries_are_in_the_log_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tritonhttp")
    driven = Driven(retry=STEADY)
    flow = driven.begin(is_server_ready())
    next(flow)
    call = driven.call
    assert call is not None
    call.url = "http://user:sesame@a:1/v2/health/ready?access_token=sesame&x=1"
    flow.throw(ConnectRefused("refused", method="GET", url=call.url))
    flow.close()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages[0].startswith(
        "GET http://***@a:1/v2/health/ready?access_token=***&x=1 is sent again in 0.5 s, try 2: "
    )
    assert "sesame" not in caplog.text
    assert "sesame" not in str(call)
    assert "sesame" not in driven.heard[1][1]


def test_the_error_in_the_line_of_a_call_is_one_short_line() -> None:
    call = Call("GET", "http://a/v2", error=ProtocolError("two\n  lines " + "x" * 600))
    assert str(call).startswith("GET http://a/v2; ProtocolError: two lines xxx")
    assert "x…; 0 bytes sent, 0 received; 0 ms" in str(call)
    call.phases = {"connect": 1.5, "receive": 0.25}
    assert str(call).endswith("0 ms, connect 1.5, receive 0.25")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("v2", ("metadata", "/v2", "", "")),
        ("v2/health/ready", ("ready", "/v2/health/ready", "", "")),
        ("v2/models/a%20b", ("metadata", "/v2/models/{model}", "a b", "")),
        ("v2/models/m/versions/3/infer", ("infer", "/v2/models/{model}/versions/{version}/infer", "m", "3")),
        ("v2/models/m/trace/setting", ("trace/setting", "/v2/models/{model}/trace/setting", "m", "")),
        ("v2/models/stats", ("stats", "/v2/models/stats", "", "")),
        ("v2/repository/models/m/load", ("load", "/v2/repository/models/{model}/load", "m", "")),
        (
            "v2/systemsharedmemory/region/r%2F1/register",
            ("systemsharedmemory/register", "/v2/systemsharedmemory/region/{region}/register", "", ""),
        ),
        ("v2/cudasharedmemory/status", ("cudasharedmemory/status", "/v2/cudasharedmemory/status", "", "")),
        ("v2/models/m/Own/7", ("", "", "", "")),
        ("elsewhere", ("", "", "", "")),
    ],
)
def test_paths_say_what_they_are_for(path: str, expected: tuple[str, ...]) -> None:
    assert purpose(path) == expected


# -- several servers --------------------------------------------------------------------------------


def test_calls_go_to_all_servers_in_turn() -> None:
    driven = Driven("abc")
    names = [driven.run(post(), [answer()]) and driven.tried[0] for _ in range(6)]
    assert sorted(names[:3]) == ["a", "b", "c"]
    assert names[:3] == names[3:]


def test_what_did_not_reach_one_server_goes_to_the_others_at_once() -> None:
    driven = Driven("abc")
    assert driven.run(post(), [REFUSED, REFUSED, answer()]).attempts == 3
    assert (sorted(driven.tried), driven.pauses) == (["a", "b", "c"], [])
    with pytest.raises(ConnectRefused) as caught:
        driven.run(post(), lambda name: ConnectRefused(name))
    assert caught.value.attempts == 3
    assert driven.outstanding() == [0, 0, 0]


def test_without_a_policy_of_the_callers_what_may_have_run_is_not_repeated() -> None:
    for outcome in (LOST, answer(503)):
        driven = Driven("ab")
        with suppress(ConnectionLost):
            driven.run(is_server_ready(), [outcome])
        assert len(driven.tried) == 1


def test_a_server_that_failed_is_left_alone_until_its_probe_succeeds() -> None:
    driven = Driven("ab", retry=STEADY)
    driven.run(is_server_ready(), lambda name: answer() if name == "b" else REFUSED)
    driven.run(is_server_ready(), lambda name: answer() if name == "b" else REFUSED)
    assert driven.in_rotation() == [False, True]
    for _ in range(4):
        driven.run(post(), [answer()])
        assert driven.tried == ["b"]
    assert driven.probes == []
    driven.now += 1.5
    driven.run(post(), [answer()])
    assert (driven.tried, driven.probes) == (["b"], ["a"])
    driven.dispatch.probed("a", driven.now, True)
    assert driven.in_rotation() == [True, True]


@pytest.mark.parametrize(
    ("outcome", "in_rotation"),
    [
        (answer(200), True),
        (answer(400), True),
        (answer(503), False),
        (LOST, False),
        (DeadlineExceeded("nothing moved"), False),
        (InvalidRequest("no"), True),
        (KeyboardInterrupt(), True),
    ],
    ids=["200", "400", "503", "lost", "timeout", "refused", "cancelled"],
)
def test_outcomes_that_set_a_server_aside(outcome: Any, in_rotation: bool) -> None:
    driven = Driven("ab")
    with suppress(InferenceServerException, KeyboardInterrupt):
        driven.run(post(), [outcome])
    assert driven.in_rotation().count(False) == (not in_rotation)
    assert driven.outstanding() == [0, 0]


@pytest.mark.parametrize("early", [0.0, 1e-6])
def test_a_call_whose_own_time_is_over_says_nothing_of_the_server_and_is_not_tried_again(
    early: float,
) -> None:
    driven = Driven("ab", retry=Retry(on=("timeout",), backoff=0))
    until = moment(driven.now, 1.0)

    def late() -> DeadlineExceeded:
        driven.now += 1.0 - early
        return DeadlineExceeded("the call's 1 s are over")

    with pytest.raises(DeadlineExceeded):
        driven.run(is_server_ready(), [late], until)
    assert (len(driven.tried), driven.in_rotation()) == (1, [True, True])


@pytest.mark.parametrize(("phase", "in_rotation"), [("receive", False), ("wait for a connection", True)])
def test_a_server_that_never_answers_in_time_is_set_aside(phase: str, in_rotation: bool) -> None:
    driven = Driven("ab", balancing="round_robin")
    for number in range(6):
        until = moment(driven.now, 1.0)

        def late() -> DeadlineExceeded:
            driven.now += 1.0
            return DeadlineExceeded("the call's 1 s are over", phase=phase)

        with suppress(DeadlineExceeded):
            driven.run(post(), [late if number % 2 else answer()], until)
    assert driven.in_rotation().count(True) == 1 + in_rotation


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InvalidRequest("no")], ids=repr)
def test_a_call_that_was_cancelled_does_not_forgive_a_server_its_failures(error: BaseException) -> None:
    driven = Driven("ab")
    flow = driven.begin(post())
    name, _, _ = next(flow)
    for _ in range(2):  # one of them goes to the same server
        with suppress(ConnectionLost):
            driven.run(post(), lambda tried: LOST if tried == name else answer())
    index = driven.dispatch.servers.index(name)
    assert not driven.in_rotation()[index]
    balancer = driven.dispatch._balancer
    assert balancer is not None
    server = balancer._known[name]
    due = server.probe_at()
    with pytest.raises(type(error)):
        flow.throw(error)
    assert (server.probe_at(), driven.outstanding()) == (due, [0, 0])


def test_what_is_for_one_server_is_refused_where_there_are_several() -> None:
    driven = Driven("ab")
    with pytest.raises(InvalidRequest, match="for one server, and this client has 2: name it with"):
        driven.run(post(anywhere=False), [])
    assert driven.heard == [("request", 0), ("response", 0)]
    assert Driven("a").run(post(anywhere=False), [answer()]).status_code == 200


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="least_outstanding, round_robin; got 'any'"):
        Driven("ab", balancing="any")


# -- sequences --------------------------------------------------------------------------------------


def test_a_sequence_stays_with_its_server() -> None:
    driven = Driven("abc")
    driven.run(step(7, start=True), [answer()])
    first = driven.tried
    for _ in range(4):
        driven.run(step(7), [answer()])
        assert driven.tried == first
    driven.run(step(7, end=True), [answer()])
    with pytest.raises(InvalidRequest, match="sequence 7 of model 'm' was not started through this client"):
        driven.run(step(7), [])


def test_sequences_start_on_different_servers() -> None:
    driven = Driven("abc")
    assert len({driven.run(step(n, start=True), [answer()]) and driven.tried[0] for n in range(1, 4)}) == 3


def test_a_sequence_whose_server_failed_is_lost_until_it_is_started_again() -> None:
    driven = Driven("ab", retry=STEADY)
    driven.run(step(7, start=True), [answer()])
    home = driven.tried[0]
    with pytest.raises(ConnectionLost):
        driven.run(step(7), [LOST])
    assert driven.tried == [home]
    with pytest.raises(ConnectionLost, match=f"the server {home} of sequence 7 of model 'm' failed since"):
        driven.run(step(7), [])
    driven.now += 5
    driven.dispatch.probed(home, driven.now, True)
    with pytest.raises(ConnectionLost, match="its state is lost: start the sequence anew"):
        driven.run(step(7), [])
    driven.run(step(7, start=True), [answer()])
    driven.run(step(7), [answer()])


def test_a_busy_server_still_has_its_sequences() -> None:
    driven = Driven("ab")
    driven.run(step(7, start=True), [answer()])
    home = driven.tried[0]
    assert driven.run(step(7), [answer(503)]).status_code == 503
    assert driven.in_rotation().count(False) == 1
    driven.run(step(7), [answer()])
    assert driven.tried == [home]


def test_a_sequence_is_never_moved_by_a_retry() -> None:
    driven = Driven("ab", retry=STEADY)
    driven.run(step(7, start=True), [answer()])
    home = driven.tried[0]
    with pytest.raises(ConnectionLost, match="its state is lost"):
        driven.run(step(7), [REFUSED])
    assert driven.tried == [home]


def test_a_sequence_that_could_not_start_starts_elsewhere() -> None:
    driven = Driven("ab")
    driven.run(step(7, start=True), [REFUSED, answer()])
    assert len(set(driven.tried)) == 2
    home = driven.tried[1]
    driven.run(step(7), [answer()])
    assert driven.tried == [home]


def test_a_sequence_whose_last_request_failed_is_not_forgotten() -> None:
    driven = Driven("ab")
    driven.run(step(7, start=True), [answer()])
    driven.run(step(7, end=True), [answer(400)])
    with pytest.raises(DeadlineExceeded):
        driven.run(step(7, end=True), [DeadlineExceeded("over")], moment(driven.now, -1.0))
    driven.run(step(7, end=True), [answer()])


def test_one_server_needs_no_start() -> None:
    assert Driven("a").run(step(7), [answer()]).status_code == 200


# -- streams ----------------------------------------------------------------------------------------


def begun(driven: Driven, **options: Any) -> Any:
    """Begin a stream, with a time for it; return its ending."""
    return cast("StreamedResponse", driven.run(post(**options), [streamed()])).ending


def test_a_streams_call_ends_with_the_stream() -> None:
    calls: list[Call] = []
    driven = Driven("ab", retry=STEADY, hooks=Hooks(on_response=calls.append))
    stream = cast("StreamedResponse", driven.run(post(idempotent=True), [answer(503), streamed()]))
    assert sum(driven.outstanding()) == 1
    assert not calls
    driven.now += 2
    stream.ending.call.response_bytes += 7
    for _ in range(2):
        stream.ending()
        assert driven.outstanding() == [0, 0]
        assert calls == [driven.call]
    call = calls[0]
    assert (call.status, call.error, call.attempts, call.response_bytes) == (200, None, 2, 7)
    assert (call.seconds, call.phases) == (2.0, {"receive": 2000.0})


@pytest.mark.parametrize(
    ("error", "until", "bad"),
    [
        (None, None, False),
        (LOST, None, True),
        (DeadlineExceeded("idle"), None, True),
        (DeadlineExceeded("idle"), 105.0, True),
        (DeadlineExceeded("over"), 102.0, False),
        (ProtocolError("garbage"), None, False),
        (ServerError("of the model", "200"), None, False),
        (KeyboardInterrupt(), None, False),
    ],
    ids=repr,
)
def test_what_the_end_of_a_stream_says_of_its_server(error: Any, until: float | None, bad: bool) -> None:
    driven = Driven("ab")
    ending = begun(driven)
    driven.now = 102.0
    ending(error, None if until is None else Moment(until))
    assert driven.outstanding() == [0, 0]
    assert driven.in_rotation().count(False) == bad
    assert driven.call is not None
    assert driven.call.error is error
    assert driven.heard == [("request", 0), ("response", 1)]
    if isinstance(error, InferenceServerException):
        assert error.attempts == 1


def test_a_stream_that_was_dropped_ends_later() -> None:
    driven = Driven("ab")
    begun(driven)
    gc.collect()
    assert sum(driven.outstanding()) == 1
    assert driven.heard == [("request", 0)]
    for work in driven.later:
        work()
    assert driven.outstanding() == [0, 0]
    assert driven.heard == [("request", 0), ("response", 1)]
    driven.later.clear()
    ending = begun(driven)
    ending()
    del ending
    gc.collect()
    assert driven.later == []


def test_a_stream_that_was_dropped_behind_its_loop_ends_all_the_same() -> None:
    driven = Driven("ab")

    def closed(work: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    driven.later = SimpleNamespace(append=closed)  # type: ignore[assignment]
    begun(driven)
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "tritonhttp-end":
            thread.join()
    assert driven.heard == [("request", 0), ("response", 1)]
    assert driven.outstanding() == [0, 0]


# -- after a fork -----------------------------------------------------------------------------------


def test_a_child_starts_with_free_servers_and_a_free_lock() -> None:
    driven = Driven("ab")
    driven.run(step(7, start=True), [answer()])
    flow = driven.begin(post())
    next(flow)
    driven.dispatch._lock.acquire()
    driven.dispatch.renew()
    flow.close()
    assert driven.outstanding() == [0, 0]
    with pytest.raises(InvalidRequest, match="not started"):
        driven.run(step(7), [])


@pytest.mark.parametrize("how", ["ended", "dropped"])
def test_a_child_leaves_the_end_of_a_stream_to_its_parent(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    driven = Driven("ab")
    endings = [begun(driven)]
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    driven.dispatch.renew()
    if how == "ended":
        endings[0](LOST)
    endings.clear()
    gc.collect()
    assert driven.heard == [("request", 0)]
    assert driven.later == []
    assert (driven.outstanding(), driven.in_rotation()) == ([0, 0], [True, True])


# -- exceptions at any point ------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["answer", "stream", "renewed", "sequence"])
def test_whatever_is_interrupted_no_call_stays_under_way(outcome: str) -> None:
    driven = Driven("ab", retry=STEADY)

    def run() -> None:
        if outcome == "stream":
            begun(driven)()
        elif outcome == "renewed":
            driven.run(Renewed().first, [answer(503), answer()])
        elif outcome == "sequence":
            driven.run(step(7, start=True), [REFUSED, answer()])
        else:
            driven.run(post(idempotent=True), [LOST, answer()])

    runs = 0
    for _ in interrupted_everywhere(run, dispatches, balance):
        runs += 1
        driven.call = None
        gc.collect()
        for work in driven.later:  # streams that were dropped
            work()
        driven.later.clear()
        assert driven.outstanding() == [0, 0]
        for name in "ab":  # the next one begins with both
            driven.dispatch.probed(name, driven.now, True)
    assert runs > 30


def test_a_flow_that_is_dropped_or_closed_is_not_under_way() -> None:
    driven = Driven("ab", retry=STEADY)
    flow = driven.begin(post(idempotent=True))
    next(flow)
    assert sum(driven.outstanding()) == 1
    flow.close()
    assert driven.outstanding() == [0, 0]
    flow = driven.begin(post(idempotent=True))
    next(flow)
    del flow
    gc.collect()
    assert driven.outstanding() == [0, 0]


def test_a_signal_handler_may_call_while_the_books_are_open() -> None:
    driven = Driven("ab")
    with driven.dispatch._lock:
        assert driven.run(post(), [answer()]).status_code == 200
    assert driven.outstanding() == [0, 0]
