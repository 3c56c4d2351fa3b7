"""Datasets through a real model: formats, bad rows, and runs that are killed and go on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

import tritonhttp
from tritonhttp import InvalidRequest, bulk
from tritonhttp.bulk._checkpoint import Committed, Manifest
from tritonhttp.bulk._given import source_of
from tritonhttp.errors import BulkError

from ..clients import wait_until
from .api.gateway import Gateway, Seen

ROWS = 700


def table(rows: int = ROWS) -> pa.Table:
    values = np.random.default_rng(7).random((rows, 64), np.float32)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 64)
    return pa.table({"id": pa.array(np.arange(rows)), "pixels": pixels})


@pytest.fixture
def score(triton_server: Any) -> Any:
    def run(source: Any, sink: Any, **options: Any) -> bulk.Report:
        usual = {"inputs": {"IMAGE": "pixels"}, "outputs": {"SCORES": "scores"}, "keep": ["id"]}
        return bulk.run(
            source, sink, model="digits", url=triton_server.url, **{"progress": False, **usual, **options}
        )

    return run


@pytest.fixture(scope="module")
def expected(triton_server: Any) -> Any:
    values = np.stack(table()["pixels"].to_pylist()).astype(np.float32)
    with tritonhttp.InferenceServerClient(triton_server.url) as client:
        return client.model("digits").batched(IMAGE=values)["SCORES"]


def sources(folder: Path) -> dict[str, Any]:
    whole = table()
    rows = whole.to_pylist()
    pq.write_table(whole, folder / "a.parquet", row_group_size=100)
    (folder / "many").mkdir()
    for number in range(3):
        pq.write_table(whole.slice(number * 250, 250), folder / "many" / f"{number}.parquet")
    for number in range(2):
        (folder / "days" / f"day={number}").mkdir(parents=True)
        pq.write_table(whole.slice(number * 350, 350), folder / "days" / f"day={number}" / "x.parquet")
    with pa.ipc.new_file(folder / "a.arrow", whole.schema) as writer:
        writer.write_table(whole, max_chunksize=90)
    with pa.ipc.new_stream(str(folder / "a.arrows"), whole.schema) as stream:
        stream.write_table(whole, max_chunksize=90)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "parquet": folder / "a.parquet",
        "folder": str(folder / "many"),
        "partitions": folder / "days",
        "uri": (folder / "a.parquet").as_uri(),
        "arrow": folder / "a.arrow",
        "stream": folder / "a.arrows",
        "json lines": folder / "a.jsonl",
        "dicts": iter(rows),
        "batches": iter(whole.to_batches(max_chunksize=33)),
        "table": whole,
        "pandas": pd.DataFrame(
            {"id": range(ROWS), "pixels": [*np.stack(whole["pixels"].to_pylist()).astype(np.float32)]}
        ),
        "polars": pl.from_arrow(whole),
    }


KINDS = [
    "parquet",
    "folder",
    "partitions",
    "uri",
    "arrow",
    "stream",
    "json lines",
    "dicts",
    "batches",
    "table",
]


@pytest.mark.parametrize("kind", [*KINDS, "pandas", "polars"])
def test_each_kind_of_source(kind: str, tmp_path: Path, score: Any, expected: Any) -> None:
    options = {"cast": True} if kind in ("json lines", "dicts") else {}
    report = score(sources(tmp_path)[kind], tmp_path / "out", **options)
    assert (report.rows, report.failed) == (ROWS, 0)
    found = pq.read_table(tmp_path / "out").sort_by("id")
    assert found["id"].to_pylist() == list(range(ROWS))
    np.testing.assert_allclose(np.stack(found["scores"].to_pylist()), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows", ".csv", ".jsonl", ".npz"])
def test_each_kind_of_sink(suffix: str, tmp_path: Path, score: Any, expected: Any) -> None:
    path = tmp_path / f"out{suffix}"
    score(table(), path)
    if suffix == ".npz":
        with np.load(path) as found:
            ids, scores = found["id"].tolist(), found["scores"]
    else:
        whole = {
            ".parquet": pq.read_table,
            ".arrow": lambda path: pa.ipc.open_file(path).read_all(),
            ".arrows": lambda path: pa.ipc.open_stream(path.read_bytes()).read_all(),
            ".csv": csv.read_csv,
            ".jsonl": lambda path: pa.Table.from_pylist(
                [json.loads(line) for line in path.read_text().splitlines()]
            ),
        }[suffix](path)
        ids = whole["id"].to_pylist()
        scores = np.stack(
            [json.loads(each) if suffix == ".csv" else each for each in whole["scores"].to_pylist()]
        )
    assert ids == list(range(ROWS))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, f"{path.name}.manifest"]


def test_numpy_files_to_a_numpy_file(tmp_path: Path, score: Any, expected: Any) -> None:
    np.save(tmp_path / "in.npy", np.stack(table()["pixels"].to_pylist()).astype(np.float32))
    score(tmp_path / "in.npy", tmp_path / "out.npy", inputs={"IMAGE": "values"}, keep=[])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)
    with pytest.raises(InvalidRequest, match="holds one column"):
        score(table(), tmp_path / "two.npy")


def test_a_csv_and_functions_before_and_after(tmp_path: Path, score: Any, expected: Any) -> None:
    values = np.stack(table()["pixels"].to_pylist()).astype(np.float32)
    frame = pd.DataFrame(values, columns=[f"p{n}" for n in range(64)]).assign(id=range(ROWS))
    frame.to_csv(tmp_path / "in.csv", index=False)

    def together(batch: pa.RecordBatch) -> pa.RecordBatch:
        flat = np.stack([batch.column(f"p{n}").to_numpy() for n in range(64)], axis=1).astype(np.float32)
        return pa.record_batch(
            {"id": batch["id"], "pixels": pa.FixedSizeListArray.from_arrays(flat.reshape(-1), 64)}
        )

    def best(batch: pa.RecordBatch) -> pa.RecordBatch:
        scores = batch["scores"].flatten().to_numpy().reshape(-1, 10)
        return pa.record_batch({"id": batch["id"], "digit": scores.argmax(axis=1)})

    score(tmp_path / "in.csv", tmp_path / "out", preprocess=together, postprocess=best)
    found = pq.read_table(tmp_path / "out")
    assert found.to_pydict() == {"id": list(range(ROWS)), "digit": expected.argmax(axis=1).tolist()}


def test_a_folder_of_images(tmp_path: Path, score: Any) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    for number in range(70):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / "in" / f"{number:02}.png")
    (tmp_path / "in" / "50.png").write_bytes(b"no image")
    report = score(
        tmp_path / "in",
        tmp_path / "out",
        preprocess=flattened,
        keep=["path"],
        on_error="record",
    )
    assert (report.rows, report.failed) == (69, 1)
    found = pq.read_table(tmp_path / "out")["path"].to_pylist()
    assert [Path(path).name for path in found] == [f"{n:02}.png" for n in range(70) if n != 50]
    (line,) = (tmp_path / "out" / "_errors.jsonl").read_text().splitlines()
    assert json.loads(line)["file"].endswith("50.png")


def flattened(batch: pa.RecordBatch) -> pa.RecordBatch:
    pixels = [
        None if each is None else np.asarray(each, np.float32).reshape(-1) / 255
        for each in batch["pixels"].storage.to_pylist()
    ]
    return pa.record_batch({"path": batch["path"], "pixels": pa.array(pixels, pa.list_(pa.float32()))})


# -- bad rows --


def with_bad_rows() -> pa.Table:
    rows = table().to_pylist()
    rows[5]["pixels"] = None
    rows[130]["pixels"] = rows[130]["pixels"][:63]
    rows[131]["pixels"][3] = float("nan")
    return pa.Table.from_pylist(rows, pa.schema([("id", pa.int64()), ("pixels", pa.list_(pa.float32()))]))


@pytest.mark.parametrize("on_error", ["skip", "record"])
def test_bad_rows_are_left_out(on_error: str, tmp_path: Path, score: Any) -> None:
    pq.write_table(with_bad_rows(), tmp_path / "in.parquet")
    report = score(tmp_path / "in.parquet", tmp_path / "out", on_error=on_error, refuse_nan=True)
    assert (report.rows, report.failed) == (ROWS - 3, 3)
    found = pq.read_table(tmp_path / "out")["id"].to_pylist()
    assert found == [n for n in range(ROWS) if n not in (5, 130, 131)]
    if on_error == "record":
        lines = [json.loads(line) for line in (tmp_path / "out" / "_errors.jsonl").read_text().splitlines()]
        assert [(line["row"], line["column"]) for line in lines] == [(n, "pixels") for n in (5, 130, 131)]
        assert all(line["file"].endswith("in.parquet") and line["reason"] for line in lines)
    else:
        assert not (tmp_path / "out" / "_errors.jsonl").exists()


def test_a_bad_row_stops_the_run_with_its_file_row_and_column(tmp_path: Path, score: Any) -> None:
    pq.write_table(with_bad_rows(), tmp_path / "in.parquet")
    with pytest.raises(BulkError, match=r"in\.parquet: row 5, column 'pixels': null") as caught:
        score(tmp_path / "in.parquet", tmp_path / "out")
    assert (caught.value.row, caught.value.column) == (5, "pixels")
    assert str(caught.value.file).endswith("in.parquet")
    assert not list((tmp_path / "out").glob("*.parquet"))


REFUSES = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            if (x < 0).any():
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("a number below 0")))
            else:
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2)]))
        return answers
"""


def load(triton_server: Any, name: str, code: str, batch: int) -> None:
    import tritonhttp

    config = {
        "backend": "python",
        "max_batch_size": batch,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [1]}],
    }
    with tritonhttp.InferenceServerClient(triton_server.url) as client:
        client.load_model(name, config=json.dumps(config), files={"file:1/model.py": code.encode()})


def test_rows_that_the_model_refuses_are_found(tmp_path: Path, triton_server: Any) -> None:
    load(triton_server, "refuses", REFUSES, 32)
    values = np.arange(300, dtype=np.float32)
    values[[7, 8, 250]] *= -1
    source = pa.table({"X": values, "id": np.arange(300)})
    options: dict[str, Any] = {
        "model": "refuses",
        "url": triton_server.url,
        "keep": ["id"],
        "progress": False,
    }
    report = bulk.run(source, tmp_path / "out.parquet", on_error="record", **options)
    assert (report.rows, report.failed) == (297, 3)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["id"].to_pylist() == [n for n in range(300) if n not in (7, 8, 250)]
    assert np.ravel(found["Y"].to_pylist()).tolist() == [2 * n for n in found["id"].to_pylist()]
    lines = [json.loads(line) for line in Path(report.errors).read_text().splitlines()]
    assert [line["row"] for line in lines] == [7, 8, 250]
    assert all("a number below 0" in line["reason"] for line in lines)
    # Two calls fail, and either may be the first to end.
    with pytest.raises(BulkError, match=r"row (0|224): the call for this row and the 31 behind it failed"):
        bulk.run(source, tmp_path / "other", **options)


def limited(most: int) -> Callable[[Seen], tuple[int, bytes] | None]:
    """Return what a gateway does that takes requests of so many bytes."""
    return lambda seen: (413, b"{}") if len(seen.body) > most else None


def test_a_gateway_with_a_limit_gets_requests_below_it(
    tmp_path: Path, triton_server: Any, expected: Any
) -> None:
    names: dict[str, Any] = {"inputs": {"IMAGE": "pixels"}, "outputs": {"SCORES": "scores"}, "keep": ["id"]}
    with Gateway(triton_server.url, meddle=limited(40 * 256 + 1024)) as gateway:
        sink = tmp_path / "out.parquet"
        report = bulk.run(table(), sink, model="digits", url=gateway.url, progress=False, **names)
    assert (report.rows, report.failed) == (ROWS, 0)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["id"].to_pylist() == [*range(ROWS)]
    scores = np.array(found["scores"].to_pylist(), np.float32)
    np.testing.assert_allclose(scores.reshape(-1, 10), expected, atol=1e-5)


def test_rows_that_are_too_large_by_themselves_are_found(tmp_path: Path, triton_server: Any) -> None:
    large = {5, 66, 690}
    texts = [b"x" * (8192 if row in large else 8) for row in range(ROWS)]
    source = pa.table({"id": np.arange(ROWS), "INPUT0": pa.array(texts)})
    with Gateway(triton_server.url, meddle=limited(2048)) as gateway:
        options: dict[str, Any] = {"model": "identity_bytes", "url": gateway.url, "keep": ["id"]}
        sink = tmp_path / "out.parquet"
        report = bulk.run(source, sink, on_error="record", progress=False, **options)
        with pytest.raises(BulkError, match=r"row 5: .*413"):
            bulk.run(source, tmp_path / "other", in_flight=1, progress=False, **options)
    assert (report.rows, report.failed) == (ROWS - 3, 3)
    found = pq.read_table(tmp_path / "out.parquet")
    assert {*range(ROWS)} - {*found["id"].to_pylist()} == large
    assert {len(text) for text in found["OUTPUT0"].to_pylist()} == {8}


@pytest.mark.parametrize("halved", [False, True])
def test_a_model_that_changes_in_the_middle_ends_the_run(
    halved: bool, tmp_path: Path, triton_server: Any
) -> None:
    """Answers of two versions would stand in one table: also if the other answers the half of a call."""
    calls = 0

    def meddle(seen: Seen) -> tuple[int, bytes] | None:
        nonlocal calls
        if not seen.path.endswith("/infer"):
            return None
        calls += 1
        if calls == 1:
            return None
        if calls == 2 and halved:
            return 413, b"{}"
        values = np.frombuffer(seen.body[-(64 if halved else 128) :], np.float32)
        shape = [len(values), 1]
        outputs = [{"name": "Y", "datatype": "FP32", "shape": shape, "data": values.tolist()}]
        return 200, json.dumps({"model_name": "doubles", "model_version": "2", "outputs": outputs}).encode()

    load(triton_server, "doubles", REFUSES, 32)
    source = pa.table({"X": np.arange(96, dtype=np.float32)})
    with Gateway(triton_server.url, meddle=meddle) as gateway, pytest.raises(BulkError) as raised:
        bulk.run(source, tmp_path / "out", model="doubles", url=gateway.url, in_flight=1, progress=False)
    assert "changed from version 1 to 2 in the middle of the run; give version=" in str(raised.value)
    assert calls == 2 + halved
    assert not list((tmp_path / "out").glob("*.parquet"))


# -- exactly once --

PROGRAM = """
import sys
from tritonhttp import bulk
source, sink, url = sys.argv[1:4]
report = bulk.run(source, sink, model="digits", url=url, inputs={"IMAGE": "pixels"}, outputs={"SCORES": "scores"},
                  keep=["id"], resume=True, progress=False, checkpoint=1000, on_error="record")
print(report.rows, report.failed, report.resumed, report.calls)
"""


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_a_run_that_is_killed_goes_on_and_makes_the_identical_table(
    sink: str, tmp_path: Path, triton_server: Any, score: Any
) -> None:
    rows = 40_000
    whole = table(rows)
    pixels = whole["pixels"].to_pylist()
    pixels[10], pixels[31_234] = None, None
    kind = pa.list_(pa.float32(), 64)
    whole = pa.table({"id": whole["id"], "pixels": pa.array(pixels, kind)})
    pq.write_table(whole, tmp_path / "in.parquet", row_group_size=7000)
    # The same parts: behind a bad row they shape the calls, and those the last bits of numbers.
    score(tmp_path / "in.parquet", tmp_path / "once.parquet", on_error="record", checkpoint=1000)
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(tmp_path / "in.parquet"),
        str(tmp_path / sink),
        triton_server.url,
    ]
    manifest = tmp_path / "out" / "_manifest.jsonl" if sink == "out" else tmp_path / f"{sink}.manifest"

    def committed() -> int:
        return manifest.read_bytes().count(b"\n") if manifest.exists() else 0

    kills = 0
    for _ in range(3):
        before = committed()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            wait_until(lambda: committed() > before + 1 or process.poll() is not None, 60)  # noqa: B023
            time.sleep(random.random() * 0.1)  # the moment is to be any
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    computed, failed, resumed, calls = map(int, done.stdout.split())
    assert (computed, failed) == (rows - 2, 2)
    assert resumed > 0
    assert calls <= (rows - resumed) / 256 + rows / 1000 + 2
    assert pq.read_table(tmp_path / sink).equals(pq.read_table(tmp_path / "once.parquet"))
    errors = tmp_path / "out" / "_errors.jsonl" if sink == "out" else tmp_path / f"{sink}.errors.jsonl"
    assert [json.loads(line)["row"] for line in errors.read_text().splitlines()] == [10, 31_234]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.stdout.split()[3] == "0", "a complete run is not done again"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 4}, "no option 'max_batch'; did you mean 'batch_size'"),
        ({"concurency": 4}, "no option 'concurency'; did you mean 'in_flight'"),
        ({"overwrit": True}, "did you mean 'overwrite'"),
        ({"retri": None}, "did you mean 'retry'"),
        ({"inputs": ["IMAGE"]}, r"inputs must be a mapping .* \{'IMAGE': 'column'\}; got \['IMAGE'\]"),
        ({"outputs": "SCORES"}, r"outputs must be a mapping .* \{'SCORES': 'column'\}; got 'SCORES'"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(
    tmp_path: Path, score: Any, options: Any, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        score([{"IMAGE": [0.0] * 64}], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_as_an_object_is_refused_with_its_name(tmp_path: Path, triton_server: Any) -> None:
    with (
        tritonhttp.InferenceServerClient(triton_server.url) as client,
        pytest.raises(InvalidRequest, match="the name of a model, 'digits', and client= its client"),
    ):
        bulk.run([], tmp_path / "out", model=client.model("digits"))  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "arrows", "npy", "npz", "csv", "jsonl", "png"])
@pytest.mark.parametrize("content", [b"?", b""], ids=["other", "empty"])
def test_a_file_of_another_format_is_named(tmp_path: Path, score: Any, ending: str, content: bytes) -> None:
    source = tmp_path / f"in.{ending}"
    source.write_bytes(content)
    with pytest.raises(InvalidRequest, match=rf"in\.{ending}|no column 'pixels'"):
        score(source, tmp_path / "out")


def test_a_changed_source_model_or_option_is_refused(tmp_path: Path, score: Any, triton_server: Any) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(table(), path)
    score(path, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="resume=True goes on with it"):
        score(path, tmp_path / "out", resume=False)
    assert score(path, tmp_path / "out").calls == 0
    for options, words in (
        ({"on_error": "skip"}, "options on_error was 'raise' and is 'skip'"),
        ({"keep": []}, r"options keep was \['id'\] and is \[\]"),
        ({"batch_size": 9}, "options batch_size was None and is 9"),
        ({"postprocess": lambda batch: batch}, "options postprocess was None"),
    ):
        with pytest.raises(BulkError, match=words):
            score(path, tmp_path / "out", resume=True, **options)
    os.utime(path, (1, 1))
    with pytest.raises(BulkError, match=r"in\.parquet has changed \(modified\)"):
        score(path, tmp_path / "out", resume=True)
    pq.write_table(table().select(["id", "pixels"]).append_column("new", table()["id"]), path)
    with pytest.raises(BulkError, match=r"in\.parquet has changed \(size, modified\).*the columns was"):
        score(path, tmp_path / "out", resume=True)
    assert score(path, tmp_path / "out", overwrite=True).rows == ROWS


def test_a_changed_model_is_refused(tmp_path: Path, triton_server: Any) -> None:
    options: dict[str, Any] = {"model": "changes", "url": triton_server.url, "progress": False}
    source = pa.table({"X": np.arange(50, dtype=np.float32)})
    load(triton_server, "changes", REFUSES, 8)
    bulk.run(source, tmp_path / "out", **options)
    with pytest.raises(InvalidRequest, match="resume=True goes on with it"):
        bulk.run(source, tmp_path / "out", **options)  # other rows could be in it
    load(triton_server, "changes", REFUSES, 16)
    with pytest.raises(BulkError, match="model configuration was"):
        bulk.run(source, tmp_path / "out", resume=True, **options)


def test_ctrl_c_ends_clean_and_says_how_to_go_on(tmp_path: Path, score: Any) -> None:
    def interrupted(done: int, total: int | None) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    def slow(batch: Any) -> Any:
        time.sleep(0.05)  # progress is told ten times a second
        return batch

    pq.write_table(table(20_000), tmp_path / "in.parquet", row_group_size=500)
    with pytest.raises(KeyboardInterrupt, match=r"rows committed to .*; the same call goes on"):
        score(tmp_path / "in.parquet", tmp_path / "out", checkpoint=64, progress=interrupted, preprocess=slow)
    assert not list((tmp_path / "out").glob(".*")), "no temporary file is left"
    report = score(tmp_path / "in.parquet", tmp_path / "out", preprocess=slow)
    assert report.rows == 20_000
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == list(range(20_000))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "the same call with resume=True goes on from there"),
        ({"resume": True}, "; the same call goes on from there"),
        ({"overwrite": True}, "with resume=True in place of overwrite=True goes on from there"),
    ],
)
def test_ctrl_c_says_which_call_goes_on_with_rows_in_memory(
    tmp_path: Path, score: Any, options: Any, words: str
) -> None:
    def interrupted(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=words):
        score(table(), tmp_path / "out", progress=interrupted, **options)
    assert score(table(), tmp_path / "out", resume=True).rows == ROWS


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_a_run_that_was_killed_as_it_began_goes_on(tmp_path: Path, score: Any, name: str) -> None:
    pq.write_table(table(), tmp_path / "in.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / ("out/_manifest.jsonl" if name == "out" else "out.parquet.manifest")).touch()
    assert score(tmp_path / "in.parquet", tmp_path / name).rows == ROWS


@pytest.mark.parametrize("name", ["out", "out.parquet"])
@pytest.mark.parametrize("at_first", [True, False])
def test_a_run_that_is_killed_before_it_commits_a_part_leaves_nothing_of_it(
    at_first: bool, name: str, tmp_path: Path, triton_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model fails with may change until the run goes on: its rows are in the output or among the failed."""
    failing = at_first

    def meddle(seen: Seen) -> tuple[int, bytes] | None:
        of_second = seen.path.endswith("/infer") and np.frombuffer(seen.body[-4:], np.float32)[0] >= 32
        return (400, b'{"error":"not now"}') if failing and of_second else None

    def killed(manifest: Manifest, part: Committed) -> None:
        if part.number:
            raise KeyboardInterrupt
        commit(manifest, part)

    load(triton_server, "doubles", REFUSES, 32)
    values = np.arange(64, dtype=np.float32)
    values[3] = -1  # so that some rows are recorded anyway
    pq.write_table(pa.table({"X": values}), tmp_path / "in.parquet")
    commit = Manifest.commit
    with Gateway(triton_server.url, meddle=meddle) as gateway:
        options: dict[str, Any] = {
            "model": "doubles",
            "url": gateway.url,
            "on_error": "record",
            "checkpoint": 32,
            "progress": False,
        }
        with monkeypatch.context() as patch:
            patch.setattr(Manifest, "commit", killed)
            with pytest.raises(KeyboardInterrupt):
                bulk.run(tmp_path / "in.parquet", tmp_path / name, **options)
        failing = not at_first
        report = bulk.run(tmp_path / "in.parquet", tmp_path / name, **options)
    found = pq.read_table(tmp_path / name)["X"].to_pylist()
    errors = tmp_path / ("out/_errors.jsonl" if name == "out" else f"{name}.errors.jsonl")
    failed = [json.loads(line)["row"] for line in errors.read_text().splitlines()]
    assert (report.rows, report.failed, report.resumed) == ((63, 1, 32) if at_first else (31, 33, 32))
    assert found == [x for row, x in enumerate(values.tolist()) if row not in failed]
    assert len(found) + len(failed) == 64


def test_an_output_that_another_run_writes_to_is_not_overwritten(tmp_path: Path, score: Any) -> None:
    def meanwhile(done: int, total: int | None) -> None:
        with pytest.raises(InvalidRequest, match="another run writes to this output"):
            score(path, tmp_path / "out", overwrite=True)

    path = tmp_path / "in.parquet"
    pq.write_table(table(), path)
    for _ in range(2):
        assert score(path, tmp_path / "out", checkpoint=64, progress=meanwhile, overwrite=True).rows == ROWS
        assert pq.read_table(tmp_path / "out")["id"].to_pylist() == [*range(ROWS)]


def test_an_output_that_is_gone_is_not_said_to_be_complete(tmp_path: Path, score: Any) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(table(), path)
    for sink, gone in ((tmp_path / "a", "a/part-0000000.parquet"), (tmp_path / "b.csv", "b.csv")):
        score(path, sink)
        (tmp_path / gone).unlink()
        with pytest.raises(BulkError, match=f"{gone}: .*committed this file, and it is gone; overwrite=True"):
            score(path, sink)
        assert score(path, sink, overwrite=True).rows == ROWS
        assert (tmp_path / gone).exists()


def test_a_function_that_leaves_rows_out_does_not_change_what_is_counted(tmp_path: Path, score: Any) -> None:
    def some(batch: Any) -> Any:
        return batch.slice(0, len(batch) // 2)

    pq.write_table(table(), tmp_path / "in.parquet")
    first = score(tmp_path / "in.parquet", tmp_path / "out", postprocess=some)
    again = score(tmp_path / "in.parquet", tmp_path / "out", postprocess=some)
    assert (first.rows, first.resumed, again.rows, again.resumed) == (ROWS, 0, ROWS, ROWS)
    assert 0 < len(pq.read_table(tmp_path / "out")) < ROWS


def test_a_source_that_gives_fewer_rows_than_it_said_is_an_error(
    tmp_path: Path, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(table())
    monkeypatch.setattr(source, "rows", ROWS + 1)
    with pytest.raises(BulkError, match="the source has 701 rows, and 700 came of it"):
        score(source, tmp_path / "out")


def test_without_order_every_row_is_there_once(tmp_path: Path, score: Any) -> None:
    report = score(table(9000), tmp_path / "out", ordered=False, in_flight=7, batch_size=50, checkpoint=500)
    assert report.calls == 9000 // 50 or report.calls >= 180
    assert sorted(pq.read_table(tmp_path / "out")["id"].to_pylist()) == list(range(9000))


def test_a_source_without_rows_gives_an_output_without_rows(tmp_path: Path, score: Any) -> None:
    for sink in ("out", "out.parquet", "out.csv"):
        assert score(table().slice(0, 0), tmp_path / sink).rows == 0
    assert pq.read_table(tmp_path / "out").schema.names == ["id", "scores"]
    assert len(pq.read_table(tmp_path / "out.parquet")) == 0
