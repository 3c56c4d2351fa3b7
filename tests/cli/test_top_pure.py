"""`tritonhttp top` without a server and a screen: what follows from two readings, and how it is arranged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tritonhttp.cli.counters import Counters, Key, difference, of_metrics, of_statistics
from tritonhttp.cli.output import as_json
from tritonhttp.cli.top.details import sections
from tritonhttp.cli.top.state import Reading, Server
from tritonhttp.cli.top.view import (
    History,
    Row,
    arranged,
    columns_for,
    gauge_words,
    rows_of,
    server_json,
    server_words,
    spark,
)

US = 1_000
#: Nanoseconds of each part of a request.
TIMES = {"success": 110 * US, "queue": 10 * US, "compute_input": 20 * US, "compute_infer": 30 * US}
TIMES |= {"compute_output": 40 * US}


def counted(requests: int, **more: int) -> Counters:
    """Counters after so many requests, each of a batch of two."""
    found = {name: (requests, requests * ns) for name, ns in TIMES.items()}
    found |= {"inferences": (2 * requests, 0), "executions": (requests, 0)}
    return found | {name: (count, 0) for name, count in {"fail": 0, **more}.items()}


def read(at: float, *, source: str = "statistics", **models: Counters) -> Reading:
    counters: dict[Key, Counters] = {(name, "1"): each for name, each in models.items()}
    return Reading(sent=at, at=at, counters=counters, source=source)


def server(*readings: Reading, url: str = "a:8000") -> Server:
    found = Server(url, "http://a:8002/metrics")
    for reading in readings:
        found.take(reading, 1000.0 + reading.at)
    return found


def only(*servers: Server) -> Row:
    (row,) = rows_of(servers)
    return row


def sample(name: str, value: float, **labels: str) -> dict[str, Any]:
    return {"name": name, "labels": labels, "value": value}


# -- readings --


def test_rates_are_those_of_the_span_between_two_readings() -> None:
    row = only(server(read(10, m=counted(100)), read(12, m=counted(150, fail=4))))
    assert (row.rate("inferences"), row.rate("success"), row.rate("fail")) == (50, 25, 2)
    assert (row.batch, row.in_flight) == (2, pytest.approx(25 * 110e-6))
    assert row.seconds("queue") == pytest.approx(10e-6)
    assert row.seconds("compute_output") == pytest.approx(40e-6)
    assert row.cached is None


def test_the_first_reading_says_nothing_of_rates() -> None:
    row = only(server(read(10, m=counted(100))))
    assert (row.rate("inferences"), row.in_flight, row.seconds("queue"), row.note) == (None, None, None, "")


def test_a_model_that_does_nothing_has_rates_and_no_times() -> None:
    row = only(server(read(10, m=counted(100)), read(12, m=counted(100))))
    assert (row.rate("inferences"), row.rate("fail"), row.in_flight) == (0, 0, 0)
    assert (row.seconds("compute_infer"), row.batch, row.cached) == (None, None, None)


def test_cache_hits_are_a_share_of_the_look_ups() -> None:
    before, after = counted(1, cache_hit=0, cache_miss=0), counted(9, cache_hit=6, cache_miss=2)
    assert only(server(read(1, m=before), read(2, m=after))).cached == 0.75


def test_a_restart_is_no_negative_rate() -> None:
    found = server(read(1, m=counted(100), idle=counted(0)), read(2, m=counted(3), idle=counted(5)))
    assert (found.state, found.restarts, found.restarted_at) == ("restarted", 1, 1002.0)
    for row in rows_of([found]):
        assert (row.rate("inferences"), row.note) == (None, "restarted")
    assert "restarted at " in server_words(found)[0]
    found.take(read(3, m=counted(13), idle=counted(5)), 1003.0)
    assert (found.state, found.restarts) == ("live", 1)
    rates = {row.model: row.rate("success") for row in rows_of([found])}
    assert rates == {"m": 10, "idle": 0}


@pytest.mark.parametrize("name", ["success", "fail", "inferences", "executions", "queue"])
def test_any_counter_that_falls_is_a_restart(name: str) -> None:
    before = {**counted(10), name: (10, 500)}
    for after in ((9, 500), (10, 499)):
        assert difference(before, {**before, name: after}) is None
    assert difference(before, {**before, name: (11, 500)}) == {**dict.fromkeys(before, (0, 0)), name: (1, 0)}


def test_a_model_that_was_loaded_again_is_no_restart_of_the_server() -> None:
    found = server(read(1, m=counted(9), n=counted(9)), read(2, m=counted(1), n=counted(10)))
    assert (found.state, found.restarts) == ("live", 0)
    assert {row.model: row.note for row in rows_of([found])} == {"m": "restarted", "n": ""}


def test_models_come_and_go() -> None:
    found = server(read(1, m=counted(9)), read(2, m=counted(9), n=counted(1)))
    assert {row.model: (row.note, row.rate("success")) for row in rows_of([found])} == {
        "m": ("", 0),
        "n": ("new", None),
    }
    found.take(read(3, n=counted(2)), 0)
    assert [row.model for row in rows_of([found])] == ["n"]


def test_a_server_that_is_away_and_comes_back() -> None:
    found = server(read(1, m=counted(100)), read(2, m=counted(150)))
    found.fail("connection refused")
    assert (found.state, server_words(found)) == ("away", ["connection refused"])
    assert (only(found).note, only(found).rate("success")) == ("away", None)
    found.take(read(60, m=counted(160)), 0)  # the same process: the network was away
    assert (found.state, found.restarts, only(found).rate("success")) == ("live", 0, None)
    found.take(read(61, m=counted(170)), 0)
    assert only(found).rate("success") == 10
    found.fail("connection refused")
    found.take(read(70, m=counted(5)), 0)
    assert (found.state, found.restarts) == ("restarted", 1)


def test_a_server_that_is_slow_keeps_its_figures_but_gives_none_that_are_new() -> None:
    found = server(read(1, m=counted(100)), read(2, m=counted(150)))
    found.wait(1.5)
    assert (found.state, found.words) == ("slow", "no answer for 1.5 s")
    assert only(found).rate("success") == 50
    assert rows_of([found], fresh=True) == []
    waiting = Server("b")
    waiting.wait(1)
    assert waiting.state == "waiting"


def test_readings_of_two_sources_are_not_compared() -> None:
    row = only(server(read(1, m=counted(100)), read(2, source="metrics", m=counted(1))))
    assert (row.note, row.rate("success")) == ("", None)


def test_a_server_that_only_says_the_states_of_its_models() -> None:
    found = Server("a")
    found.take(Reading(sent=1, at=1, states={("m", ""): "READY"}, source="index", words="no statistics"), 0)
    assert (only(found).note, only(found).rate("success")) == ("READY", None)
    assert server_words(found) == ["no statistics"]


# -- several servers --


def test_servers_are_added_up_each_by_its_own_span() -> None:
    first = server(read(1, m=counted(0)), read(2, m=counted(10)))
    second = server(read(1, m=counted(0)), read(5, m=counted(40)), url="b:8000")
    row = only(first, second)
    assert row.rate("success") == 10 + 10
    assert set(row.as_json()["servers"]) == {"a:8000", "b:8000"}
    second.fail("gone")
    row = only(first, second)
    assert (row.rate("success"), row.note) == (10, "")
    first.fail("gone")
    assert only(first, second).note == "away"


def test_json_is_json() -> None:
    found = server(read(1, m=counted(0)), read(2, m=counted(10)))
    found.look([sample("nv_gpu_utilization", float("nan"), gpu_uuid="GPU-1")], 2.5, 2.6)
    row = json.loads(as_json(only(found).as_json()))
    assert (row["inferences_per_second"], row["pending"], row["note"]) == (20, None, None)
    assert row["total_seconds"] == pytest.approx(110e-6)
    assert "servers" not in row
    assert json.loads(as_json(server_json(found)))["gpus"] == {}


# -- metrics --


def test_what_waits_and_the_gauges_come_from_the_metrics() -> None:
    found = server(read(1, m=counted(0)))
    gib = 2.0**30
    found.look(
        [
            sample("nv_inference_pending_request_count", 3, model="m", version="1"),
            sample("nv_cpu_utilization", 0.5),
            sample("nv_cpu_memory_used_bytes", 2 * gib),
            sample("nv_cpu_memory_total_bytes", 8 * gib),
            *(sample("nv_gpu_utilization", 0.25, gpu_uuid=each) for each in ("GPU-1", "GPU-2")),
            sample("nv_gpu_memory_used_bytes", gib, gpu_uuid="GPU-2"),
        ],
        1.5,
        1.6,
    )
    found.take(read(2, m=counted(1)), 0)
    assert only(found).pending == 3
    assert gauge_words(found) == ["GPU0 25%", "GPU1 25% 1.0 GiB", "CPU 50% 2.0/8.0 GiB"]
    found.look_failed("no metrics")
    assert (gauge_words(found), found.metrics_words) == ([], "no metrics")


def success(count: int) -> list[dict[str, Any]]:
    return [
        sample("nv_inference_request_success", count, model="m", version="1"),
        sample("nv_inference_pending_request_count", 1, model="m", version="1"),
    ]


@pytest.mark.parametrize(("theirs", "belong"), [(100, True), (0, False), (900, False)])
def test_the_metrics_of_another_server_on_the_same_machine_are_not_taken(theirs: int, belong: bool) -> None:
    found = Server("a", "http://a:8002/metrics")
    for at in range(1, 5):
        found.take(read(at, m=counted(100)), 0)
        found.look(success(theirs), at + 0.1, at + 0.2)
    assert (found.metrics_words == "", bool(found.pending)) == (belong, belong), found.metrics_words


def test_metrics_during_a_restart_are_still_the_servers() -> None:
    found = Server("a", "http://a:8002/metrics")
    for at, count in enumerate((1000, 2000, 5, 30, 900, 0, 40)):
        found.look(success(count), at + 0.1, at + 0.2)
        found.take(read(at + 0.5, m=counted(count)), 0)
    assert (found.restarts, found.metrics_words) == (2, "")


def test_metrics_count_what_statistics_count() -> None:
    samples = [
        sample("nv_inference_request_success", 4, model="m", version="1"),
        sample("nv_inference_request_failure", 1, model="m", version="1", reason="OTHER"),
        sample("nv_inference_request_failure", 2, model="m", version="1", reason="BACKEND"),
        sample("nv_inference_count", 8, model="m", version="1"),
        sample("nv_inference_exec_count", 2, model="m", version="1"),
        sample("nv_inference_request_duration_us", 400, model="m", version="1"),
        sample("nv_inference_queue_duration_us", 40, model="m", version="1"),
        sample("up", 1),
        sample("nv_inference_count", float("inf"), model="n", version="1"),
    ]
    row = only(
        server(
            read(0, source="metrics", m={}),
            Reading(sent=1, at=1, counters=of_metrics(samples), source="metrics"),
        )
    )
    assert (row.rate("success"), row.rate("fail"), row.batch) == (4, 3, 4)
    assert (row.seconds("total"), row.seconds("queue")) == (pytest.approx(1e-4), pytest.approx(1e-5))


def test_statistics_may_lack_anything() -> None:
    reply = {"model_stats": [{"name": "m"}, {"name": "n", "version": 2, "inference_stats": None}]}
    assert set(of_statistics(reply)) == {("m", ""), ("n", "2")}
    assert of_statistics({}) == of_statistics({"model_stats": None}) == {}


# -- order, columns, the past --


def some() -> list[Row]:
    before = {name: counted(0) for name in ("b", "a", "c10")}
    after = {"b": counted(5), "a": counted(5, fail=1), "c10": counted(50)}
    return [*rows_of([server(read(0, **before), read(1, **after))]), Row("away", "1", {})]


@pytest.mark.parametrize(
    ("sort", "reverse", "pattern", "order"),
    [
        ("inferences", False, "", ["c10", "a", "b", "away"]),
        ("inferences", True, "", ["a", "b", "c10", "away"]),
        ("failures", False, "", ["a", "b", "c10", "away"]),
        ("model", False, "", ["a", "away", "b", "c10"]),
        ("model", True, "", ["c10", "b", "away", "a"]),
        ("inferences", False, "A", ["a", "away"]),
        ("inferences", False, "c*", ["c10"]),
        ("inferences", False, "?", ["a", "b"]),
        ("inferences", False, "none", []),
    ],
)
def test_order(sort: str, reverse: bool, pattern: str, order: list[str]) -> None:
    assert [row.model for row in arranged(some(), sort, reverse, pattern)] == order


def test_versions_are_in_the_order_of_numbers() -> None:
    rows = [Row("m", version, {}) for version in ("10", "9", "", "2")]
    for sort in ("model", "version", "inferences"):
        assert [row.version for row in arranged(rows, sort, False, "")] == ["", "2", "9", "10"]


def test_less_important_columns_leave_a_narrow_screen_first() -> None:
    rows = [Row("a_model_with_a_long_name", "1", {})]
    wide = columns_for(200, rows, several=True)
    assert list(wide)[:4] == ["model", "version", "inferences", "rate"]
    assert list(wide)[-1] == "servers"
    assert wide["model"] == len("a_model_with_a_long_name")
    before = set(wide)
    for width in range(199, 0, -1):
        columns = columns_for(width, rows, several=True)
        assert set(columns) <= before
        assert sum(columns.values()) + 2 * len(columns) <= max(width, 14)
        before = set(columns)
    assert before == {"model"}
    narrow = columns_for(40, rows)
    assert {"model", "inferences", "failures"} <= set(narrow)
    assert "version" not in narrow
    assert "version" in columns_for(40, [*rows, Row("a_model_with_a_long_name", "2", {})])


def test_sparklines() -> None:
    assert spark([0, 1, 4, 7], 4) == "▁▂▅█"
    assert spark([1, None, 0.001, 1], 6) == "  █ ▂█"
    assert spark(range(100), 3) == "███"
    assert spark([], 2) == "  "
    assert spark([0, 0], 2) == "▁▁"
    assert spark([1], 0) == ""


def test_the_past_is_bounded() -> None:
    past = History(kept=3)
    found = server(read(0, m=counted(0), n=counted(0)))
    for at in range(1, 6):
        found.take(read(at, m=counted(at * at), n=counted(0)), 0)
        past.add(rows_of([found]))
    m, n = rows_of([found])
    assert past.of(m) == [10, 14, 18]
    found.take(read(6, m=counted(25)), 0)
    past.add(rows_of([found]))
    assert past.of(n) == []


# -- one model --


def test_the_details_of_a_model() -> None:
    before = counted(0) | {"batch 1 compute_infer": (0, 0), "batch 8 compute_infer": (0, 0)}
    after = counted(10) | {"batch 1 compute_infer": (6, 6000 * US), "batch 8 compute_infer": (2, 8000 * US)}
    first = server(read(0, m=before), read(1, m=after))
    second = server(read(0, m=before), read(1, m=before), url="b:8000")
    row = only(first, second)
    found = {section.title: section for section in sections(row, [row, Row("m", "2", {})], 80)}
    assert list(found) == ["", "time of a request", "batches of the interval", "servers", "versions"]
    assert ("inferences/s", "20.0") in found[""].rows
    times = {line[0]: line[2:] for line in found["time of a request"].rows}
    assert times == {
        "queue": ("10 µs", "9%"),
        "input": ("20 µs", "18%"),
        "infer": ("30 µs", "27%"),
        "output": ("40 µs", "36%"),
        "other": ("10 µs", "9%"),
        "total": ("110 µs", "100%"),
    }
    assert [line[:3] + line[4:5] for line in found["batches of the interval"].rows] == [
        ("1", "6", "75%", "1.00 ms"),
        ("8", "2", "25%", "4.00 ms"),
    ]
    assert [line[0] for line in found["servers"].rows] == ["a:8000", "b:8000"]
    assert [line[0] for line in found["versions"].rows] == ["1", "2"]


def test_the_details_of_a_model_that_did_nothing() -> None:
    row = only(server(read(0, m=counted(3))))
    (facts,) = sections(row, [row], 40)
    assert ("since the start", "3 requests, 0 failures, 6 inferences") in facts.rows
