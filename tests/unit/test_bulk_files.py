"""The files of runs over datasets: whole or not there, and lines that a crash cannot spoil."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from tritonhttp import InvalidRequest
from tritonhttp.bulk._ahead import Behind, ahead
from tritonhttp.bulk._checkpoint import Committed, Manifest, described
from tritonhttp.bulk._chunks import chunks
from tritonhttp.bulk._crew import Crew
from tritonhttp.bulk._given import source_of
from tritonhttp.bulk._places import Lines, place_of
from tritonhttp.bulk._sinks import Sink
from tritonhttp.errors import BulkError


def test_a_file_that_is_not_complete_does_not_appear(tmp_path: Path) -> None:
    place = place_of(tmp_path / "a")

    def fail() -> None:
        with place.written() as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    place.write(b"whole")
    assert place.read() == b"whole"


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_that_was_not_written_whole_does_not_count(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = Lines(place_of(path))
    lines.open()
    lines.add(b"the first")
    lines.add(b"the second, longer")
    lines.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Lines(place_of(path))
    expected = [b"the first"] if cut < 29 else []
    assert again.found == expected[: 1 if cut <= 28 else 0]
    again.open()
    again.add(b"more")
    again.close()
    assert Lines(place_of(path)).found == [*again.found[:-1], b"more"]


def test_one_run_at_a_time_writes_to_an_output(tmp_path: Path) -> None:
    first, second = (Lines(place_of(tmp_path / "lines")) for _ in range(2))
    first.open()
    with pytest.raises(InvalidRequest, match="another run writes"):
        second.open()
    first.add(b"done")
    first.close()
    with pytest.raises(InvalidRequest, match="another run has just written"):
        second.open()
    again = Lines(place_of(tmp_path / "lines"))
    again.open()
    assert again.found == [b"done"]
    again.clear()
    again.add(b"anew")
    again.close()
    assert Lines(place_of(tmp_path / "lines")).found == [b"anew"]


def test_a_manifest_tells_what_has_changed(tmp_path: Path) -> None:
    run = {"source": [{"name": "a", "size": 1}, {"name": "b", "size": 2}], "model": {"version": "1"}}
    manifest = Manifest(place_of(tmp_path / "m"))
    manifest.open()
    manifest.begin(run)
    manifest.commit(Committed(0, 6, 7, 1, 0, 8))
    manifest.close()
    again = Manifest(place_of(tmp_path / "m"))
    assert (again.is_begun, again.is_done, again.parts) == (True, False, [Committed(0, 6, 7, 1, 0, 8)])
    changed = {"source": [{"name": "a", "size": 3}, {"name": "c", "size": 2}], "model": {"version": "2"}}
    with pytest.raises(BulkError) as caught:
        again.begin(changed)
    for words in ("b is gone", "c is new", "a has changed (size)", "model version was '1' and is '2'"):
        assert words in str(caught.value)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    lines = Lines(place_of(tmp_path / "m"))
    lines.open()
    lines.add(b'{"version":1,"model":"m"}')
    lines.add(b'{"part":[0,7,1,0,8]}')
    lines.close()
    manifest = Manifest(place_of(tmp_path / "m"))
    with pytest.raises(BulkError, match="the version was 1 and is 2"):
        manifest.begin({"model": "m"})


NUMBERS = pa.table({"x": [1, 2]})


def write(sink: Sink, number: int, failed: int = 0) -> Committed:
    """Write a part, as a run does before it commits it."""
    part = sink.part(number, NUMBERS.schema)
    for batch in NUMBERS.to_batches():
        part.write(batch)
    for row in range(failed):
        part.fail({"row": row}, True)
    part.commit()
    return Committed(number, 2, 2, failed, 0, 2)


@pytest.mark.parametrize("name", ["out", "out.arrow"])
def test_what_was_written_and_not_committed_is_removed(name: str, tmp_path: Path) -> None:
    sink = Sink(tmp_path / name)
    sink.prepare()
    committed = [write(sink, 0, failed=1), write(sink, 1)]
    kept = {path for path in tmp_path.rglob("*") if path.is_file()}
    write(sink, 2, failed=1)
    folder = tmp_path / ("out" if name == "out" else "out.arrow.parts")
    (folder / ".part-0000003.parquet.tmp").touch()
    (folder / "notes.txt").touch()
    sink.settle(committed, True, False)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*kept, folder / "notes.txt"}
    # The run that goes on has all rows right, and fewer of them.
    sink.finish(committed, NUMBERS.schema)
    assert sink.errors.read() == b'{"row":0}\n'


@pytest.mark.parametrize("name", ["out", "out.arrow"])
def test_what_was_committed_and_is_gone_is_an_error(name: str, tmp_path: Path) -> None:
    sink = Sink(tmp_path / name)
    sink.prepare()
    committed = [write(sink, 0, failed=1), write(sink, 1)]
    for place in (sink._place_of(1), sink._errors_of(0)):
        content = place.read()
        place.remove()
        with pytest.raises(BulkError, match=rf"{place.name}: .* is gone; overwrite=True begins anew"):
            sink.settle(committed, True, False)
        place.write(content)
    sink.settle(committed, True, False)
    sink.finish(committed, NUMBERS.schema)
    sink.tidy()
    sink.settle(committed, True, True)
    for place in (sink.errors, sink._place_of(0) if name == "out" else sink.place):
        content = place.read()
        place.remove()
        with pytest.raises(BulkError, match=rf"{place.name}: .* is gone"):
            sink.settle(committed, True, True)
        place.write(content)


def test_a_function_with_other_code_is_another_one() -> None:
    def one(x: int) -> int:
        return x + 1

    before = described(one)

    def one(x: int) -> int:  # type: ignore[no-redef]
        return x + 2

    assert described(one) != before


def test_chunks_go_on_from_any_row() -> None:
    rows = [{"x": number} for number in range(10_000)]
    for start in (0, 1, 4095, 4096, 9_999):
        found = [
            value
            for chunk in chunks(source_of(pa.Table.from_pylist(rows)), 0, start, None, 64)
            for value in chunk.batch["x"].to_pylist()
        ]
        assert found == list(range(start, 10_000))


def test_the_sizes_of_chunks_are_multiples_of_calls() -> None:
    table = pa.table({"x": range(20_000)})
    found = [len(chunk.batch) for chunk in chunks(source_of(table), 0, 0, None, 100)]
    assert all(size % 100 == 0 for size in found[:-1])
    assert sum(found) == 20_000


@pytest.mark.parametrize(("part", "most"), [(10, 100), (100, 100), (150, 200), (99_999, 4096)])
def test_a_chunk_has_no_more_calls_than_a_part_takes(part: int, most: int) -> None:
    table = pa.table({"x": range(20_000)})
    found = [len(chunk.batch) for chunk in chunks(source_of(table), 0, 0, None, 100, part)]
    assert all(0 < size <= most for size in found)
    assert sum(found) == 20_000


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://key:secret@bucket/a/b.csv?region=x&endpoint_override=127.0.0.1:1", "s3://bucket/a/b.csv"),
        ("s3://bucket/a@b?region=x", "s3://bucket/a@b"),
    ],
)
def test_a_place_is_named_without_credentials(uri: str, name: str) -> None:
    place = place_of(uri)
    assert (place.name, place.beside(".manifest").name) == (name, f"{name}.manifest")
    assert (place / "x").name == f"{name}/x"


@pytest.mark.parametrize("uri", ["what://key:secret@host/x", "s3://key:secret@bucket/a?token=secret&what=1"])
def test_a_uri_that_cannot_be_used_is_refused_without_credentials(uri: str) -> None:
    with pytest.raises(InvalidRequest, match="not the URI of a filesystem") as caught:
        place_of(uri)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["a.txt", "a.png"])
def test_a_sink_of_no_known_format_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="expected a folder"):
        Sink(name)


@pytest.mark.parametrize("source", [3, object(), "/no/such/file.parquet"])
def test_what_is_no_source_is_refused(source: object) -> None:
    with pytest.raises(InvalidRequest):
        source_of(source)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_file_of_pickled_objects_is_refused(ending: str, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return (tmp_path / "ran").touch, ()

    array = np.empty(1, object)
    array[0] = Runs()
    path = tmp_path / f"in.{ending}"
    np.save(path, array) if ending == "npy" else np.savez(path, array)
    with pytest.raises(InvalidRequest, match=rf"in\.{ending}: no usable {ending} file"):
        source_of(path)
    assert not (tmp_path / "ran").exists()


def test_what_a_reading_thread_raises_comes_out() -> None:
    def items():  # type: ignore[no-untyped-def]
        yield 1
        raise RuntimeError("broken")

    found = ahead(items(), 2)
    assert next(found) == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(found)


def test_a_writing_thread_that_was_stopped_takes_nothing_and_keeps_nobody() -> None:
    behind: Behind[int] = Behind(lambda item: None, 1)
    behind.stop()
    for number in range(3):
        behind.put(number)


def test_calls_that_do_not_end_are_waited_for_once_and_not_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonhttp.bulk._crew._GRACE", 0.3)
    opened, begun = threading.Event(), threading.Semaphore(0)

    def work(item: int) -> None:
        begun.release()
        opened.wait(60)

    def interrupted() -> None:
        for _ in range(20):
            begun.acquire()
        raise KeyboardInterrupt

    crew: Crew[int] = Crew(iter(range(100)), work, lambda: 20)
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        crew.run(interrupted)
    try:
        assert time.monotonic() - before < 20 * 0.3
    finally:
        opened.set()
    assert not begun.acquire(timeout=0.2), "no thread begins another call"


def test_threads_that_are_too_many_leave_one_by_one() -> None:
    """If all of them saw at the same time that they are too many, none would be left for the other items."""
    together = threading.Barrier(2)
    lock, done = threading.Lock(), 0

    def limit() -> int:
        with lock:
            if done < 2:
                return 2
        with suppress(threading.BrokenBarrierError):
            together.wait(0.2)
        return 1

    def work(item: int) -> None:
        nonlocal done
        with lock:
            done += 1
            enough = done > 2
        if not enough:
            both.wait(60)

    both = threading.Barrier(2)
    Crew(iter(range(20)), work, limit).run(lambda: None)
    assert done == 20


def test_what_a_writing_thread_raises_comes_out() -> None:
    def work(item: int) -> None:
        raise RuntimeError(str(item))

    behind = Behind(work, 1)
    behind.put(1)
    with pytest.raises(RuntimeError, match="1"):
        behind.end()
    behind.stop()


def _written(path: Path, count: int = 200_000) -> None:
    """Write rows as the format that the name tells, in parts, with what shows damage where the format has it."""
    table = pa.table({"x": np.random.default_rng(0).random(count)})
    parts = table.to_batches(count // 4)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=count // 4, write_page_checksum=True)
    elif path.suffix == ".csv":
        pc.write_csv(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f'{{"x": {x}}}\n' for x in table["x"].to_pylist()))
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        made = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with made(path, table.schema, options=options) as writer:
            for part in parts:
                writer.write_batch(part)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.arrows", "x.csv", "x.jsonl"])
def test_a_damaged_file_is_an_error_with_its_name_and_row(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    _written(path)
    whole = sum(len(piece.batch) for piece in source_of(path).read())
    assert whole == 200_000
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = b'\xff"' * 32
    path.write_bytes(content)
    with pytest.raises(BulkError, match=r"x\.\w+: cannot be read from row \d+ on: ") as caught:
        sum(len(piece.batch) for piece in source_of(path).read())
    assert caught.value.file == str(path)
    assert 0 <= caught.value.row < whole


def test_an_error_of_the_callers_own_rows_stays_as_it_is() -> None:
    def rows() -> Any:
        yield {"x": 1}
        raise OSError("mine")

    with pytest.raises(OSError, match=r"^mine$"):
        for _ in source_of(rows()).read():
            pass
