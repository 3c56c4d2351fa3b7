"""Flows that ask a server how it is, answered without a network."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tritonhttp import Health, ModelList, ModelStatus
from tritonhttp._basics.hints import known_names
from tritonhttp._protocol.probes import check, index, until_ready
from tritonhttp._wire.responses import Response, ResponseHead
from tritonhttp.errors import ConnectionLost, ConnectRefused, DeadlineExceeded, ProtocolError, ServerError

LIVE, READY, METADATA, INDEX = "v2/health/live", "v2/health/ready", "v2", "v2/repository/index"
TRITON = (200, b'{"name": "triton", "version": "2.51.0", "extensions": []}')
HTML = (404, b"<html><body><h1>404 Not Found</h1><hr>nginx</body></html>")
MODELS = b"""[
    {"name": "digits", "version": "10", "state": "READY"}, {"name": "digits", "version": "9", "state": "READY"},
    {"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "no\\nbackend"},
    {"name": "gone", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}, {"name": "new"}
]"""
WELL = {LIVE: (200, b""), READY: (200, b""), METADATA: TRITON, INDEX: (200, MODELS)}


class Clock:
    """Moves on by a second each time that it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def answer(step: Any, answers: Mapping[str, Any], asked: list[str]) -> Any:
    asked.append(step.path)
    is_ready = step.path.endswith("/ready")
    found = answers.get(step.path, (400, b"") if is_ready else (404, b'{"error":"Not Found"}'))
    if isinstance(found, BaseException):
        raise found
    status, body = found
    return step.decode(Response(ResponseHead(status, {}), body))


def driven(flow: Any, perform: Callable[[Any], Any]) -> Any:
    try:
        step = next(flow)
        while True:
            try:
                found = perform(step)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(found)
    except StopIteration as end:
        return end.value


def checked(
    answers: Mapping[str, Any], model: str | None = None, version: str = ""
) -> tuple[Health, list[str]]:
    asked: list[str] = []
    found = driven(check(model, version, Clock()), lambda step: answer(step, answers, asked))
    return found, asked


# -- the list of models --


def listed(body: bytes = MODELS) -> ModelList:
    return index().decode(Response(ResponseHead(200, {}), body))


def test_models_are_listed_by_name_and_version() -> None:
    found = listed()
    assert isinstance(found, list)
    assert [(each.name, each.version) for each in found] == [
        ("broken", "1"), ("digits", "9"), ("digits", "10"), ("gone", "1"), ("new", ""),
    ]  # fmt: skip
    assert [each.name for each in found if each.ready] == ["digits", "digits"]
    assert found[0] == ModelStatus("broken", "1", "UNAVAILABLE", "no\nbackend")
    assert copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == found
    assert type(pickle.loads(pickle.dumps(found))) is ModelList
    with pytest.raises(FrozenInstanceError):
        found[0].state = "READY"  # type: ignore[misc]


def test_models_show_as_a_table() -> None:
    assert repr(listed()).splitlines() == [
        "name    version  state        reason",
        "broken  1        UNAVAILABLE  no backend",
        "digits  9        READY",
        "digits  10       READY",
        "gone    1        UNAVAILABLE  unloaded",
        "new              not loaded",
    ]
    html = ModelList([ModelStatus("<b>", "1", "READY")])._repr_html_()
    assert html.startswith("<table><thead><tr><th>name</th>")
    assert "<td>&lt;b&gt;</td><td>1</td><td>READY</td><td></td>" in html
    assert repr(ModelList()) == "no models"
    assert str(listed()[0]) == "model 'broken' version 1 is UNAVAILABLE (no backend)"


def test_other_servers_list_models_too() -> None:
    first = b'{"name": "a", "version": null, "state": "READY", "reason": null, "x": 1}'
    assert listed(b'[%b, {"name": "b", "version": 2}]' % first) == [
        ModelStatus("a", "", "READY"),
        ModelStatus("b", "2"),
    ]


@pytest.mark.parametrize("body", [b"{}", b'["a"]', b'[{"version": "1"}]', b'[{"name": null}]', b""])
def test_what_is_no_list_of_models_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        listed(body)


# -- a check --


def test_a_server_that_is_well() -> None:
    found, asked = checked(WELL)
    assert found == Health(True, True, "triton 2.51.0", 1.0, "")
    assert found
    assert asked == [LIVE, METADATA, READY]
    assert repr(found) == "<Health live, ready, triton 2.51.0, 1e+03 ms>"
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_model_that_is_well_needs_no_index_and_no_ready_server() -> None:
    ready = "v2/models/digits/versions/9/ready"
    found, asked = checked({**WELL, READY: (400, b""), ready: (200, b"")}, "digits", "9")
    assert found
    assert (found.ready, found.model) == (False, ModelStatus("digits", "9", "READY"))
    assert asked == [LIVE, METADATA, READY, ready]
    assert "model 'digits' ready" in repr(found)


UNREACHABLE = {
    "nobody listens": (ConnectRefused("cannot connect"), "nobody listens there: cannot connect", None),
    "late": (DeadlineExceeded("timed out"), "no answer came in time: timed out", None),
    "cut": (ConnectionLost("reset"), "the connection broke: reset", None),
    "no HTTP": (
        ProtocolError("expected HTTP/1.1"),
        "what answers there is no inference server: expected",
        None,
    ),
    "a plugin's": (KeyError("token"), "KeyError: 'token'", None),
    "a gateway's 404": (HTML, "a gateway or another program answers, .*: .404. 404 Not Found nginx", 1.0),
    "no credentials": ((401, b""), "the server, or a gateway before it, wants other credentials: .401.", 1.0),
    "a gateway alone": ((502, b"Bad Gateway"), "a gateway answers, but cannot reach the server: .502.", 1.0),
    "an error": (
        (500, b'{"error":"a\\nb"}'),
        "the server, or a gateway .*answers with an error: .500. a b",
        1.0,
    ),
}


@pytest.mark.parametrize("case", UNREACHABLE)
@pytest.mark.parametrize("model", [None, "digits"])
def test_a_server_that_cannot_be_asked_says_why(case: str, model: str | None) -> None:
    live, words, latency = UNREACHABLE[case]
    found, asked = checked({LIVE: live}, model)
    assert not found
    assert asked == [LIVE]
    assert (found.live, found.ready, found.version, found.latency) == (False, False, "", latency)
    assert re.match(words, found.reason), found.reason
    assert "\n" not in found.reason
    assert found.model == (None if model is None else ModelStatus("digits"))
    assert repr(found).endswith(f": {found.reason}>")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_an_interrupt_is_no_answer(error: BaseException) -> None:
    with pytest.raises(type(error)):
        checked({LIVE: error})


def test_the_port_of_the_metrics_is_no_server() -> None:
    """It answers every GET with 200 and nothing."""
    found, _ = checked({**WELL, METADATA: (200, b"")})
    assert (found.live, found.ready, found.latency) == (False, False, 1.0)
    assert "is this the port of the metrics, 8002 on Triton?" in found.reason


def test_a_server_may_hide_its_metadata() -> None:
    found, _ = checked({**WELL, METADATA: (403, b"no")})
    assert found == Health(True, True, "", 1.0, "")
    found, _ = checked({**WELL, METADATA: (200, b'{"name": "mine"}')})
    assert found.version == "mine"


@pytest.mark.parametrize("path", [METADATA, READY])
def test_a_connection_that_breaks_in_between(path: str) -> None:
    found, _ = checked({**WELL, path: ConnectionLost("reset")})
    assert (found.live, found.ready, found.reason) == (True, False, "the connection broke: reset")


def test_a_server_that_is_not_ready_names_the_models() -> None:
    """An unloaded model is none of them."""
    found, _ = checked({**WELL, READY: (400, b"")})
    assert (found.live, found.ready) == (True, False)
    assert found.reason == (
        "the server is live, but not ready: model 'broken' version 1 is UNAVAILABLE (no backend)"
    )
    many = b"[%s]" % b",".join(b'{"name": "m%d", "state": "LOADING"}' % number for number in range(5))
    found, _ = checked({**WELL, READY: (400, b""), INDEX: (200, many)})
    assert found.reason.endswith("model 'm2' is LOADING, and 2 more")


def test_a_server_that_is_not_ready_and_has_no_index() -> None:
    found, _ = checked({**WELL, READY: (503, b'{"detail": "starting"}'), INDEX: HTML})
    assert found.reason == "the server is live, but not ready: [503] starting"


NOT_READY = {
    ("broken", ""): "model 'broken' version 1 is UNAVAILABLE (no backend)",
    ("new", ""): "model 'new' is not loaded: load_model loads it",
    ("new", "3"): "model 'new' is not loaded: load_model loads it",
    ("digits", "11"): "the server has no version '11' of model 'digits', but 9, 10",
    ("Digit", ""): "the server's repository has no model 'Digit'; did you mean 'digits'?",
    ("resnet", ""): "the server's repository has no model 'resnet'; it has 'broken', 'digits', 'gone', 'new'",
}


@pytest.mark.parametrize(("name", "version"), NOT_READY)
def test_a_model_that_is_not_ready_says_why(name: str, version: str) -> None:
    found, _ = checked(WELL, name, version)
    assert not found
    assert (found.live, found.ready) == (True, True)
    assert found.model is not None
    assert (found.model.name, found.model.ready) == (name, False)
    assert found.reason == NOT_READY[name, version]


def test_a_models_state_is_that_of_the_index() -> None:
    found, _ = checked(WELL, "broken")
    assert found.model == ModelStatus("broken", "1", "UNAVAILABLE", "no\nbackend")


def test_a_model_on_a_server_without_an_index() -> None:
    metadata = {"v2/models/m": (404, b'{"error": "Model m not found"}')}
    found, _ = checked({**WELL, INDEX: HTML, **metadata}, "m")
    assert found.reason == "model 'm' is not ready: [404] Model m not found"
    found, _ = checked({**WELL, INDEX: HTML, "v2/models/m": TRITON}, "m")
    assert (found.reason, found.model) == ("model 'm' is not ready", ModelStatus("m"))


# -- waiting --


def waited(answers: Callable[[int], Mapping[str, Any]], model: str | None, seconds: float) -> list[str]:
    """Wait with answers that may change with each round; return the paths that were asked."""
    now, rounds, asked = 0.0, 0, []

    def perform(step: Any) -> Any:
        nonlocal now, rounds
        if isinstance(step, float):
            now += step
            rounds += 1
            return None
        return answer(step, answers(rounds), asked)

    try:
        driven(until_ready(model, "", lambda: seconds - now), perform)
    except Exception as error:
        error.args = (*error.args, now, asked)
        raise
    return asked


def test_an_unknown_model_is_an_error_at_once() -> None:
    with pytest.raises(ServerError, match="has no model 'digit'; did you mean 'digits'") as caught:
        waited(lambda _: WELL, "digit", 60)
    assert caught.value.status() == "404"
    assert caught.value.args[1:] == (0.0, ["v2/models/digit/ready", INDEX])


def test_an_unknown_model_may_be_a_404_as_well() -> None:
    answers = {**WELL, "v2/models/digit/ready": (404, b'{"error": "Model digit not found"}')}
    with pytest.raises(ServerError, match="did you mean 'digits'"):
        waited(lambda _: answers, "digit", 60)
    with pytest.raises(DeadlineExceeded, match=r"last answer: \[404\] Model digit not found$"):
        waited(lambda _: {**answers, INDEX: HTML}, "digit", 1)


def test_an_unknown_model_is_one_however_short_the_time() -> None:
    with pytest.raises(ServerError, match="has no model"):
        waited(lambda _: WELL, "digit", 0.01)


@pytest.mark.parametrize("start", [(503, b""), (429, b""), ConnectRefused("no")], ids=str)
def test_a_server_that_starts_is_asked_again_for_its_index(start: Any) -> None:
    starting = {INDEX: start, "v2/models/digit/ready": (503, b"")}
    with pytest.raises(ServerError, match="has no model") as caught:
        waited(lambda rounds: starting if rounds < 3 else WELL, "digit", 60)
    assert caught.value.args[1] == pytest.approx(0.05 + 0.075 + 0.1125)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_an_index_is_waited_for(status: int) -> None:
    ready = "v2/models/m/ready"
    asked = waited(lambda rounds: {INDEX: (status, b""), ready: (200 if rounds == 4 else 404, b"")}, "m", 60)
    assert asked == [ready, INDEX, *[ready] * 4]


def test_a_model_that_failed_is_waited_for_and_its_state_told() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        waited(lambda _: WELL, "broken", 10)
    assert str(caught.value.message()).endswith(
        "the last answer: not ready; model 'broken' version 1 is UNAVAILABLE (no backend)"
    )
    asked = caught.value.args[2]
    assert asked.count(INDEX) == 2  # at first, and in the end
    assert len(asked) > 8


def test_the_state_is_told_when_the_index_fails_in_the_end() -> None:
    answers = [WELL, {INDEX: ConnectionLost("cut")}]
    with pytest.raises(DeadlineExceeded, match="not ready; model 'new' is not loaded: load_model loads it"):
        waited(lambda rounds: answers[min(rounds, 1)], "new", 1)


def test_a_server_that_does_not_become_ready_names_the_models() -> None:
    with pytest.raises(
        DeadlineExceeded, match=r"the server to be ready; .* not ready; model 'broken'"
    ) as caught:
        waited(lambda _: {**WELL, READY: (400, b"")}, None, 1)
    assert caught.value.args[2].count(INDEX) == 1


# -- names --


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("digit", ["digits", "Digits", "add_sub"], "; did you mean 'Digits' or 'digits'?"),
        ("DIGITS", ["digits"], "; did you mean 'digits'?"),
        ("x", [], "; it has none"),
        ("x", ["b", "a", "a"], "; it has 'a', 'b'"),
        (
            "x",
            [f"m{n:02}" for n in range(12)],
            f"; it has {', '.join(repr(f'm{n:02}') for n in range(10))} and 2 more",
        ),
    ],
)
def test_the_nearest_names_are_shown_or_all(name: str, known: list[str], words: str) -> None:
    assert known_names(name, known) == words
