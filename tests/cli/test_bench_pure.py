"""Parts of ``tritonhttp bench`` that need no server: schedules, figures, search, comparison, files, the page."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonhttp import Signature, TensorInfo
from tritonhttp.cli.bench.compare import Change, Measured, changes, parse_bound, read_result
from tritonhttp.cli.bench.data import (
    Payload,
    Requests,
    Wanted,
    as_json,
    check,
    make_payloads,
    read_input_data,
)
from tritonhttp.cli.bench.figures import Estimate, Figures, Records, figures, is_stable, joined
from tritonhttp.cli.bench.formats import as_measured, as_result, hdr, write_csv, write_profile
from tritonhttp.cli.bench.load import Failures, Recorder, WrongAnswer
from tritonhttp.cli.bench.measure import Rule, Step, _Run, _timeline
from tritonhttp.cli.bench.report import page
from tritonhttp.cli.bench.run import Outcome
from tritonhttp.cli.bench.schedule import Level, Schedule, parse_levels, parse_range, read_intervals
from tritonhttp.cli.bench.search import Found, Slo, Trial, parse_slo, search
from tritonhttp.cli.bench.server_side import figures_between, read_statistics
from tritonhttp.cli.counters import ServerFigures, gauges_of

SECOND = 1_000_000_000
MS = 1_000_000


# -- levels and schedules --


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("4", [4]),
        ("1:4", [1, 2, 3, 4]),
        ("1:16:5", [1, 6, 11, 16]),
        ("1:16:2x", [1, 2, 4, 8, 16]),
        ("3:20:2x", [3, 6, 12]),
        ("1:3:1.1x", [1, 2, 3]),  # rounded, each once
    ],
)
def test_levels(text: str, levels: list[int]) -> None:
    assert parse_levels(text, "--concurrency", whole=True) == levels


def test_rates_may_have_fractions() -> None:
    assert parse_levels("0.5:2:0.5", "--rate", whole=False) == [0.5, 1, 1.5, 2]
    assert parse_range("50:2000", "--rate", whole=False) == [50, 2000]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0",
        "-1",
        "4:2",
        "1:4:0",
        "1:4:-1",
        "1:4:1x",
        "1:2:3:4",
        "1.5",
        "nan",
        "1:inf",
        "1:9999",
        "1:",
    ],
)
def test_levels_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--concurrency: ") as error:
        parse_levels(text, "--concurrency", whole=True)
    assert "\n" not in str(error.value)


def test_a_constant_schedule() -> None:
    schedule = Schedule(Level(rate=200))
    assert [schedule(n) for n in range(3)] == [0, 5 * MS, 10 * MS]
    assert schedule.all(np.array([0, 2])).tolist() == [0, 10 * MS]
    assert [schedule.due(until) for until in (0, 1, 5 * MS, 5 * MS + 1)] == [0, 1, 1, 2]


def test_a_poisson_schedule_has_the_rate_and_exponential_gaps() -> None:
    level = Level(rate=1000, distribution="poisson", seed=3)
    schedule = Schedule(level)
    offsets = schedule.all(np.arange(100_000))
    gaps = np.diff(offsets)
    assert gaps.mean() == pytest.approx(1 * MS, rel=0.02)
    assert gaps.std() == pytest.approx(1 * MS, rel=0.03)
    assert schedule.due(int(offsets[70_000])) == 70_000
    assert [Schedule(level)(n) for n in (0, 5, 20_000)] == offsets[
        [0, 5, 20_000]
    ].tolist()  # in every process


def test_intervals_repeat() -> None:
    intervals = read_intervals(["1000", "", " 3000.5 "], "file")
    assert intervals == (1_000_000, 3_000_500)
    schedule = Schedule(Level(rate=500, distribution="intervals", intervals=intervals))
    assert [schedule(n) for n in range(4)] == [0, 1_000_000, 4_000_500, 5_000_500]


@pytest.mark.parametrize("lines", [["x"], ["-1"], [], ["0", "0"], ["nan"], ["1e300"]])
def test_intervals_that_are_none(lines: list[str]) -> None:
    with pytest.raises(ValueError, match="file"):
        read_intervals(lines, "file")


def test_processes_share_a_closed_loop() -> None:
    parts = [Level(concurrency=5, count=7).share(n, 3) for n in range(3)]
    assert sum(part.concurrency for part in parts) == 5
    assert sum(part.count for part in parts) == 7
    assert min(part.concurrency for part in parts) == 1
    assert Level(rate=5).share(1, 3) == Level(rate=5)


# -- figures --


def records(due: Any, took: Any, kind: Any = 0, late: Any = 0, **more: Any) -> Records:
    due, took = np.broadcast_arrays(np.asarray(due, np.int64), np.asarray(took, np.int64))
    return Records(
        due=due,
        start=due + np.asarray(late, np.int64),
        end=due + took,
        kind=np.broadcast_to(np.asarray(kind, np.int16), due.shape),
        **more,
    )


def test_throughput_and_percentiles() -> None:
    took = np.arange(1, 1001) * 10_000
    found = figures(records(np.arange(1000) * MS, took), 0, 2 * SECOND)
    assert (found.count, found.seconds) == (1000, 2)
    assert found.throughput.value == 500
    assert found.latency["p50"].value == pytest.approx(5e-3)
    assert found.latency["p99"].value == pytest.approx(9.9e-3)
    assert found.latency["max"].value == pytest.approx(10e-3)
    assert found.latency["avg"].value == pytest.approx(5.005e-3)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(60):
        took = np.random.default_rng(seed).exponential(MS, 3000).astype(np.int64)
        found = figures(records(np.arange(3000) * MS, took), 0, 3 * SECOND)
        estimate = found.latency["p90"]
        held += estimate.low <= math.log(10) / 1e3 <= estimate.high
    assert 51 <= held <= 60  # 95 % of 60 are 57


def test_neighbours_that_depend_on_each_other_make_wider_intervals() -> None:
    generator = np.random.default_rng(0)
    due = np.arange(3000) * MS
    alone = generator.exponential(MS, 3000).astype(np.int64)
    slow = np.repeat(generator.exponential(MS, 15), 200).astype(np.int64)  # the same for 200 in a row
    wide, narrow = (figures(records(due, took), 0, 3 * SECOND).latency["avg"] for took in (slow, alone))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_too_few_requests_have_no_interval() -> None:
    found = figures(records([0, 1, 2], MS), 0, SECOND)
    assert math.isnan(found.latency["p50"].low)
    assert figures(Records.none(), 0, SECOND).latency == {}


def test_errors_by_kind_are_not_in_latencies() -> None:
    found = figures(
        records([0, 1, 2, 3], [1, 1, 999, 999], [0, 0, 1, 2]), 0, SECOND, names=["", "HTTP 503", "X"]
    )
    assert found.errors == {"HTTP 503": 1, "X": 1}
    assert (found.count, found.failed) == (2, 2)
    assert found.latency["max"].value == pytest.approx(1e-9)


def test_an_open_loop_counts_what_was_due_although_it_ended_later() -> None:
    asked = records([0, SECOND - 1], [MS, 3 * SECOND])
    found = figures(asked, 0, SECOND, open_loop=True)
    assert found.latency["max"].value == pytest.approx(3)
    assert found.throughput.value == 1  # only one ended in the span
    assert figures(asked, 0, SECOND).latency["max"].value == pytest.approx(1e-3)


def test_requests_without_an_answer_have_waited_at_least_until_the_end() -> None:
    found = figures(
        records([0], MS),
        0,
        SECOND,
        open_loop=True,
        missing=np.array([SECOND // 2, 5 * SECOND]),
        stopped=2 * SECOND,
    )
    assert found.unanswered == 1
    assert found.latency["max"].value == pytest.approx(1.5)


def test_lateness_of_an_open_loop() -> None:
    found = figures(records([0, 1, 2, 3], 9 * MS, late=[0, 0, 0, 4 * MS]), 0, SECOND, open_loop=True)
    assert found.late == 1
    assert found.lateness["max"] == pytest.approx(4e-3)


def test_streams() -> None:
    asked = records(
        [0, 100], [50 * MS, 60 * MS], answers=np.array([3, 1]), times=np.array([10, 20, 50, 60]) * MS
    )
    found = figures(asked, 0, SECOND)
    assert found.first["max"].value == pytest.approx(60e-3, rel=1e-3)
    assert found.between["max"].value == pytest.approx(30e-3)
    assert found.answers == 4


def test_joined_keeps_streams_apart() -> None:
    one = records([0], [5], answers=np.array([2]), times=np.array([1, 5]))
    two = records([0], [9], answers=np.array([1]), times=np.array([9]))
    both = joined([one, Records.none(), two])
    assert both.where(both.end == 9).times.tolist() == [9]
    assert len(joined([])) == 0


@pytest.mark.parametrize(
    ("windows", "stable"),
    [
        ([(100, 1)] * 2, False),
        ([(100, 1)] * 3, True),
        ([(1, 9), (100, 1), (104, 1.05), (100, 1)], True),  # only the last three count
        ([(100, 1), (111, 1), (100, 1)], False),
        ([(100, 1), (100, 1.2), (100, 1)], False),
        ([(100, 1), (100, float("nan")), (100, 1)], False),
        ([(0, 0)] * 3, False),
    ],
)
def test_stability(windows: list[tuple[float, float]], stable: bool) -> None:
    assert is_stable(windows, 10) is stable


# -- search --


def found_by(limit: float, start: float, **options: Any) -> Found:
    trials = search(start, **{"least": 0.01, "most": 1e6, **options})
    level = next(trials)
    while True:
        try:
            level = trials.send(Trial(level, "" if level <= limit else "missed"))
        except StopIteration as end:
            found: Found = end.value
            return found


@pytest.mark.parametrize("limit", [0.3, 7, 99.9, 1234, 50_000])
@pytest.mark.parametrize("start", [0.5, 100, 3000])
def test_a_search_finds_the_limit(limit: float, start: float) -> None:
    found = found_by(limit, start)
    assert found.kept <= limit < found.missed <= found.kept * 1.021
    assert len(found.trials) < 30


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_a_search_of_whole_numbers(limit: int) -> None:
    found = found_by(limit, 1, least=1, whole=True, precision=0.001)
    assert (found.kept, found.missed) == (limit, limit + 1)


def test_a_search_within_a_range() -> None:
    assert found_by(1e9, 10, most=100).kept == 100
    assert found_by(1, 10, least=10).kept == 0


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("p99=50ms", Slo("p99", 0.05)),
        ("p99.9 <= 2s", Slo("p99.9", 2)),
        ("avg=800us", Slo("avg", 0.0008)),
        ("MAX=1.5ms", Slo("max", 0.0015)),
    ],
)
def test_slo(text: str, slo: Slo) -> None:
    parsed = parse_slo(text)
    assert (parsed.metric, parsed.seconds) == (slo.metric, pytest.approx(slo.seconds))


@pytest.mark.parametrize(
    "text", ["", "p99", "p99=", "p99=50", "p0=1ms", "p100=1ms", "q=1ms", "p99=-1ms", "p99=nanms"]
)
def test_slo_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="--slo: expected a bound such as p99=50ms"):
        parse_slo(text)


def shown(**more: Any) -> Figures:
    values: dict[str, Any] = {
        "seconds": 10,
        "count": 1000,
        "throughput": Estimate(100, 98, 102),
        "latency": {
            name: Estimate(0.01, 0.009, 0.011) for name in ("avg", "p50", "p90", "p95", "p99", "p99.9", "max")
        },
        "latencies": np.full(1000, 10 * MS),
    }
    return Figures(**{**values, **more})


def test_what_misses_a_bound() -> None:
    slo = Slo("p99", 0.02)
    assert slo.missed(shown(), 100) == ""
    assert "p99 10 ms" in Slo("p99", 0.005).missed(shown(), 100)
    assert "errors" in slo.missed(shown(errors={"HTTP 503": 10}), 100)
    assert "only 100 requests/s" in slo.missed(shown(), 120)
    assert "no request" in slo.missed(shown(latency={}), 100)
    assert Slo("p99", 0.0105).close(shown())
    assert not slo.close(shown())


# -- comparison --


def measured(level: float = 4, **named: Any) -> Measured:
    return Measured("concurrency", level, {name: Estimate(*value) for name, value in named.items()})


def test_a_difference_is_more_than_chance_or_not() -> None:
    before, near, far = Estimate(100, 95, 105), Estimate(104, 99, 109), Estimate(120, 115, 125)
    assert Change("", "p99", before, near).certain is False
    assert Change("", "p99", before, far).certain is True
    assert Change("", "p99", far, before).certain is True
    assert Change("", "p99", before, Estimate(120)).certain is None
    assert Change("", "p99", before, far).ratio == pytest.approx(0.2)
    assert math.isnan(Change("", "errors", Estimate(0), Estimate(1)).ratio)


@pytest.mark.parametrize(
    ("text", "missed"),
    [
        ("p99>+10%", True),
        ("p99>+30%", False),
        ("p50>+0%", False),  # may be chance
        ("throughput<-5%", True),
        ("p99>100ms", True),
        ("p99 > 0.2 s", False),
        ("throughput<1000", True),
        ("errors>0.1%", True),
        ("errors>5%", False),
    ],
)
def test_bounds(text: str, missed: bool) -> None:
    before = measured(p50=(1, 0.9, 1.1), p99=(0.1, 0.099, 0.101), throughput=(100, 99, 101), errors=(0.0,))
    now = measured(p50=(1.05, 0.95, 1.15), p99=(0.12, 0.119, 0.121), throughput=(80, 79, 81), errors=(0.01,))
    ((step, found),) = changes([before], [now])
    bound = parse_bound(text)
    assert bound.missed(step, found.get(bound.name)) is missed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99",
        "p99>",
        "p99>10",
        "p99>+10",
        "p99>+10ms",
        "x>1ms",
        "p99=1ms",
        "throughput<5%",
        "errors>1ms",
        "p99>1.1.1ms",
    ],
)
def test_bounds_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--fail-if: expected a bound such as"):
        parse_bound(text)


def test_levels_are_compared_with_the_same_ones() -> None:
    found = changes(
        [measured(1, p50=(1,)), measured(2, p50=(2,))], [measured(2, p50=(3,)), measured(3, p50=(1,))]
    )
    assert [set(each) for _, each in found] == [{"p50"}, set()]


def test_perf_analyzers_profile_export_can_be_compared_with(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    requests = [{"timestamp": n * MS, "response_timestamps": [n * MS + 500_000]} for n in range(1000)]
    experiment = {
        "experiment": {"mode": "concurrency", "value": 2},
        "requests": requests,
        "window_boundaries": [0, SECOND],
    }
    file.write_text(json.dumps({"experiments": [experiment], "version": "0.0.0"}))
    (step,) = read_result(file)
    assert step.key == ("concurrency", 2)
    assert step.figures["p99"].value == pytest.approx(0.0005)
    assert step.figures["throughput"].value == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"steps": []}', '{"steps": [{}]}', '{"experiments": [{}]}', "\0"]
)
def test_results_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"before\.json: "):
        read_result(file)


# -- files --


def step(level: Level | None = None, **more: Any) -> Step:
    asked = records(np.arange(100) * MS, 10 * MS)
    values: dict[str, Any] = {
        "level": level or Level(concurrency=4),
        "figures": shown(),
        "windows": [(100.0, 0.01)] * 3,
        "stable": True,
        "cpu": 50e-6,
        "cores": 0.1,
        "server": ServerFigures(
            requests=1000,
            inferences=2000,
            executions=1000,
            seconds={
                "queue": 1e-3,
                "compute_input": 2e-3,
                "compute_infer": 3e-3,
                "compute_output": 1e-3,
                "total": 7e-3,
            },
        ),
        "records": asked,
        "span": (0, 100 * MS),
        "timeline": _timeline(records(np.arange(100) * 20 * MS, 10 * MS), 0, 2 * SECOND),
    }
    return Step(**{**values, **more})


def test_perf_analyzers_csv() -> None:
    file = io.StringIO()
    write_csv(file, [step()])
    assert file.getvalue().splitlines() == [
        "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
        "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency",
        "4,100,0,3000,1000,2000,3000,1000,0,10000,10000,10000,10000",
    ]
    file = io.StringIO()
    write_csv(file, [step(Level(rate=500))], percentile="p99.9", verbose=True)
    (row,) = csv.DictReader(file.getvalue().splitlines())
    assert row["Request Rate"] == "500"
    assert row["p99.9 latency"] == "10000"
    assert row["response wait"] == "10000"


def test_perf_analyzers_profile_export() -> None:
    file = io.StringIO()
    payload = Payload({"A": np.arange(2), "B": np.array([b"x"], object), "C": np.zeros(5000)})
    write_profile(file, [step(), step(Level(rate=9))], Requests("m", ((payload,),)), 7, "1.0")
    content = json.loads(file.getvalue())
    first, second = content["experiments"]
    assert first["experiment"] == {"mode": "concurrency", "value": 4}
    assert second["experiment"] == {"mode": "request_rate", "value": 9}
    assert first["requests"][1] == {
        "timestamp": MS + 7,
        "request_inputs": {"A": [0, 1], "B": "x"},
        "response_timestamps": [11 * MS + 7],
    }
    assert first["window_boundaries"] == [7, 100 * MS + 7]
    assert content["service_kind"] == "triton"


def test_our_own_json_can_be_read_back(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps(as_result([step()], None, {"model": "m"}), allow_nan=False))
    (read,) = read_result(file)
    now = as_measured(step())
    assert read.key == now.key
    assert read.figures["p99"] == now.figures["p99"]
    assert read.figures["cpu"].value == now.figures["cpu"].value


def test_the_histogram_has_the_latencies() -> None:
    histogram = hdr(step())
    assert histogram.get_total_count() == 1000
    assert histogram.get_value_at_percentile(99) == pytest.approx(10_000, rel=1e-3)


def test_the_page_is_one_file_that_needs_no_other() -> None:
    levels = [step(Level(concurrency=n)) for n in (1, 2, 4)]
    failed = step(
        Level(concurrency=8), figures=shown(errors={"HTTP <503>": 3}), words={"HTTP <503>": "no & never"}
    )
    about = {"model": "<m>", "version": "", "servers": ["h:1"], "date": "now", "tritonhttp": "1"}
    written = page(Outcome(steps=[*levels, failed], found=Found(kept=2, missed=4)), about, Slo("p99", 0.05))
    assert len(written) < 2_000_000
    assert set(re.findall(r"https?://[^\s\"'<>)]+", written)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<script" not in written
    assert "@import" not in written
    assert "&lt;m&gt; under load" in written
    assert "no &amp; never" in written
    assert "HTTP &lt;503&gt;" in written
    assert not re.search(r"<m>|<503>", written)
    for words in (
        "Throughput against latency",
        "Latency by percentile",
        "Where the time went",
        "Over time",
        "p99 ≤ 50 ms",
    ):
        assert words in written
    assert "prefers-color-scheme: dark" in written
    assert "@media print" in written


def test_a_page_without_answers() -> None:
    about = {"model": "m", "version": "2", "servers": ["h:1"], "date": "now", "tritonhttp": "1"}
    empty = Figures(seconds=1, count=0, throughput=Estimate(0), latency={})
    written = page(Outcome(steps=[step(figures=empty, records=Records.none())], interrupted=True), about)
    assert "No request was answered" in written
    failed = Figures(seconds=1, count=0, throughput=Estimate(0), latency={}, errors={"HTTP 500": 4})
    assert "HTTP 500" in page(Outcome(steps=[step(figures=failed, server=None)]), about)


# -- data --

MODEL = Signature(
    "m",
    (
        TensorInfo("A", "INT32", (-1, 3)),
        TensorInfo("S", "BYTES", (-1, 2)),
        TensorInfo("O", "FP32", (-1, 1), True),
    ),
    (TensorInfo("R", "FP32", (-1, 2)),),
    8,
)


def test_random_inputs_fit_the_model() -> None:
    ((payload,),) = make_payloads(MODEL, Wanted(batch=4, string_length=5))
    assert {name: (array.shape, array.dtype.kind) for name, array in payload.inputs.items()} == {
        "A": ((4, 3), "i"),
        "S": ((4, 2), "O"),
    }
    assert {len(word) for word in payload.inputs["S"].ravel()} == {5}
    ((again,),) = make_payloads(MODEL, Wanted(batch=4, string_length=5))
    assert np.array_equal(again.inputs["A"], payload.inputs["A"])
    ((zero,),) = make_payloads(MODEL, Wanted(data=("zero",), string="hi"))
    assert not zero.inputs["A"].any()
    assert set(zero.inputs["S"].ravel()) == {b"hi"}


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT64", "INT64", "FP16", "FP64", "BF16"])
def test_random_inputs_of_every_datatype(datatype: str) -> None:
    model = Signature("m", (TensorInfo("A", datatype, (64,)),), ())
    ((payload,),) = make_payloads(model, Wanted())
    assert payload.inputs["A"].shape == (64,)


def test_an_open_shape_must_be_given() -> None:
    model = Signature("m", (TensorInfo("A", "INT32", (-1, 3, -1)),), ())
    with pytest.raises(ValueError, match=r"--shape A:1,3,1"):
        make_payloads(model, Wanted())
    ((payload,),) = make_payloads(model, Wanted(shapes={"A": (2, 3, 4)}))
    assert payload.inputs["A"].shape == (2, 3, 4)
    for wrong in ((2, 4, 4), (2, 3)):
        with pytest.raises(ValueError, match=r"--shape A: expected \[-1, 3, -1\]"):
            make_payloads(model, Wanted(shapes={"A": wrong}))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted(batch=9), "expected 1 to 8"),
        (Wanted(shapes={"X": (1,)}), "has no input 'X'; it has A, S, O"),
    ],
)
def test_what_the_model_does_not_take(wanted: Wanted, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_payloads(MODEL, wanted)


def test_a_folder_with_a_file_for_each_input(tmp_path: Path) -> None:
    (tmp_path / "A").write_bytes(np.arange(3, dtype=np.int32).tobytes())
    (tmp_path / "S").write_text("one\ntwo\n")
    (tmp_path / "O").write_bytes(np.ones(1, np.float32).tobytes())
    ((payload,),) = make_payloads(MODEL, Wanted(data=(str(tmp_path),), batch=2))
    assert payload.inputs["A"].tolist() == [[0, 1, 2]] * 2
    assert payload.inputs["S"].tolist() == [[b"one", b"two"]] * 2
    (tmp_path / "A").write_bytes(b"12345")
    with pytest.raises(ValueError, match="expected 12 bytes"):
        make_payloads(MODEL, Wanted(data=(str(tmp_path),)))


def streams_of(tmp_path: Path, content: Any, wanted: Wanted | None = None) -> list[tuple[Payload, ...]]:
    file = tmp_path / "data.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_input_data(file, MODEL, wanted or Wanted())


def test_perf_analyzers_input_data(tmp_path: Path) -> None:
    step = {"A": [1, 2, 3], "S": ["x", "y"]}
    other = {
        "A": {"content": [4, 5, 6], "shape": [3]},
        "S": {"content": ["p", "q"], "shape": [2]},
        "O": {"b64": "AACAPw=="},
    }
    found = streams_of(
        tmp_path, {"data": [[step, other], [step]], "validation_data": [[{"R": [1, 2]}] * 2, [{}]]}
    )
    assert [len(stream) for stream in found] == [2, 1]
    first, second = found[0]
    assert first.inputs["A"].tolist() == [[1, 2, 3]]
    assert second.inputs["O"].tolist() == [[1.0]]
    assert first.expected is not None
    assert first.expected["R"].tolist() == [[1, 2]]
    flat = streams_of(tmp_path, {"data": [step, other]}, Wanted(batch=2))
    assert [stream[0].inputs["A"].shape for stream in flat] == [(2, 3)] * 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "expected JSON such as"),
        ({}, "expected JSON such as"),
        ({"data": []}, "expected JSON such as"),
        ({"data": [3]}, "stream 0, step 0: expected an object"),
        ({"data": [{"A": [1, 2, 3]}]}, "input 'S' is missing"),
        ({"data": [{"X": [1]}]}, "has no tensor 'X'"),
        ({"data": [{"A": [1, 2], "S": ["", ""]}]}, r"A: expected INT32 of shape \[3\]"),
        ({"data": [{"A": [1, 2, 2.5], "S": ["", ""]}]}, "A: expected INT32"),
        ({"data": [{"A": [1, 2, "x"], "S": ["", ""]}]}, "A: expected INT32"),
        ({"data": [{"A": [1, 2, 3], "S": ["", ""]}], "validation_data": []}, "as many entries"),
    ],
)
def test_input_data_that_does_not_fit(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as error:
        streams_of(tmp_path, content)
    assert "\n" not in str(error.value)


class Answer:
    def __init__(self, value: Any) -> None:
        self.value = value

    def as_numpy(self, name: str) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("got", "right"),
    [([1.0, 2.0], True), ([1.0, 2.000001], True), ([1.0, 2.1], False), ([1.0], False), (None, False)],
)
def test_answers_are_checked(got: Any, right: bool) -> None:
    answer = Answer(None if got is None else np.array(got, np.float32))
    expected = {"R": np.array([1, 2], np.float32)}
    if right:
        check(answer, expected)
    else:
        with pytest.raises(WrongAnswer, match="R"):
            check(answer, expected)


class Client:
    def infer(self, model: str, inputs: Any, **options: Any) -> tuple[int, bool, bool]:
        return (
            options.get("sequence_id", 0),
            options.get("sequence_start", False),
            options.get("sequence_end", False),
        )


def test_calls_of_sequences() -> None:
    payload = Payload({"A": np.zeros((1, 3), np.int32)})
    requests = Requests(
        "m", ((payload,),), sequence_length=3, sequence_variation=0, first_sequence=10, parts=4
    )
    recorder = Recorder()
    calls = requests.calls(Client(), recorder, 1)
    asked = [next(calls)() for _ in range(6)]
    assert asked == [
        (11, True, False),
        (11, False, False),
        (11, False, True),
        (15, True, False),
        (15, False, False),
        (15, False, True),
    ]
    assert recorder.sequences.tolist() == [11] * 3 + [15] * 3
    assert recorder.finish is None
    next(calls)
    assert recorder.finish is not None
    assert recorder.finish() == (19, False, True)


def test_payloads_take_turns_and_workers_begin_apart() -> None:
    payloads = tuple((Payload({"A": np.full((1, 3), n, np.int32)}),) for n in range(3))
    recorder = Recorder()
    calls = Requests("m", payloads).calls(Client(), recorder, 4)
    for _ in range(4):
        next(calls)()
    assert recorder.payloads.tolist() == [1, 2, 0, 1]


def test_generate_takes_numbers_and_lists() -> None:
    inputs = {"A": np.array([[5]]), "B": np.array([1, 2]), "S": np.array([b"hi"], object)}
    assert as_json(inputs) == {"A": 5, "B": [1, 2], "S": "hi"}


def test_kinds_of_errors() -> None:
    failures = Failures()
    assert [
        failures.note(WrongAnswer("a")),
        failures.note(OSError("b")),
        failures.note(WrongAnswer("c")),
    ] == [1, 2, 1]
    assert failures.words == {"wrong answer": "a", "OSError": "b"}


# -- the server's side --


def statistics(count: int, ns: int) -> dict[str, Any]:
    part = {"count": count, "ns": ns}
    names = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "model_stats": [
            {"name": "m", "version": "1", "inference_count": 2 * count, "execution_count": count}
            | {"inference_stats": dict.fromkeys(names, part)},
            {"name": "other", "version": "1", "inference_stats": {"success": {"count": 10**6, "ns": 1}}},
        ]
    }


def test_statistics_of_a_window() -> None:
    before, after = (read_statistics([statistics(*each)] * 2, "m", "") for each in ((10, 100), (20, 20_100)))
    found = figures_between(before, after)
    assert found is not None
    assert (found.requests, found.batch) == (20, 2)
    assert found.seconds["queue"] == pytest.approx(2e-6)
    assert figures_between(after, before) is None  # the server has restarted
    assert figures_between(before, before) is None


def test_gauges_of_several_gpus() -> None:
    samples = [
        {"name": "nv_gpu_utilization", "labels": {}, "value": 0.5},
        {"name": "nv_gpu_utilization", "labels": {}, "value": 1.0},
        {"name": "nv_gpu_memory_used_bytes", "labels": {}, "value": 1},
        {"name": "nv_gpu_memory_used_bytes", "labels": {}, "value": 2},
        {"name": "up", "labels": {}, "value": 2},
    ]
    assert gauges_of(samples) == {"nv_gpu_utilization": 0.75, "nv_gpu_memory_used_bytes": 3}


# -- who was the limit --


@pytest.mark.parametrize(
    ("cores", "busy", "more", "words"),
    [
        (0.5, 0.5, {}, ""),
        (0.95, 0.5, {}, "the client was the limit: it used 0.95 of a core"),
        (1.9, 0.5, {"processes": 2}, "the client was the limit: it used 0.95 of a core"),
        (0.2, 0.99, {}, "this machine's cores were 99% busy"),
        (0.2, 0.5, {"lag": 0.02, "asyncio": True}, "its event loop ran 20.0 ms late"),
        (0.2, 0.5, {"full": True, "level": Level(rate=9)}, "--max-in-flight"),
        (0.2, 0.5, {"late": 0.02, "level": Level(rate=9)}, "it sent 20.0 ms late"),
        (0.2, 0.5, {"late": 0.001, "level": Level(rate=9)}, ""),
    ],
)
def test_it_is_said_if_the_client_was_the_limit(
    cores: float, busy: float, more: dict[str, Any], words: str
) -> None:
    level = more.get("level", Level(concurrency=1))
    run = _Run(None, level, Rule(), None, None, (), more.get("processes", 1), more.get("asyncio", False))
    run.lag, run.full = more.get("lag", 0.0), more.get("full", False)
    lateness = {"p99": more["late"]} if "late" in more else {}
    found = " ".join(run._limits(shown(lateness=lateness), cores, busy))
    assert words in found
    assert bool(words) == bool(found)
