"""``tritonhttp.bulk`` with its source and sink in S3, on moto's server: the tables that disks would have."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tritonhttp

from ..clients import wait_until

pa: Any = pytest.importorskip("pyarrow", reason="a dependency of the tests only")
fs: Any = pytest.importorskip("pyarrow.fs", reason="a dependency of the tests only")

from tritonhttp import bulk  # noqa: E402  needs pyarrow

from ..live.test_bulk import sources, table  # noqa: E402

SECRET = "none-may-see-this"
SINKS = ["out", "out.parquet", "out.arrow", "out.arrows", "out.csv", "out.jsonl", "out.npz"]


class Store:
    """A bucket of an S3 server of this machine."""

    def __init__(self, port: int) -> None:
        self._options = f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
        uri = f"s3://someone:{SECRET}@data{self._options}&allow_bucket_creation=true"
        self.system, _ = fs.FileSystem.from_uri(uri)

    def uri(self, path: Any) -> str:
        return f"s3://someone:{SECRET}@data/{path}{self._options}"

    def keys(self, folder: str) -> set[str]:
        """Return the objects below a folder, without those that stand for folders."""
        found = self.system.get_file_info(fs.FileSelector(f"data/{folder}", recursive=True))
        return {each.path.removeprefix(f"data/{folder}/") for each in found if each.is_file}

    def read(self, path: str) -> bytes:
        try:
            with self.system.open_input_stream(f"data/{path}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return b""


@pytest.fixture(scope="module")
def store(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    with (
        log.open("wb") as output,
        subprocess.Popen(
            [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        ) as process,
    ):
        try:
            wait_until(answers, 60)
            found = Store(port)
            found.system.create_dir("data")
            yield found
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a source of each kind, which are in the store too."""
    folder = tmp_path_factory.mktemp("rows")
    found = {kind: path for kind, path in sources(folder).items() if isinstance(path, (str, Path))}
    fs.copy_files(str(folder), "data/rows", fs.LocalFileSystem(), store.system)
    return folder, found


def contents(file: bytes) -> Any:
    """Return what a file holds: of a zip, which has times, the files in it."""
    if not file.startswith(b"PK"):
        return file
    with zipfile.ZipFile(io.BytesIO(file)) as found:
        return {name: found.read(name) for name in found.namelist()}


def score(triton_server: Any, source: Any, sink: Any, **options: Any) -> bulk.Report:
    usual = {"inputs": {"IMAGE": "pixels"}, "outputs": {"SCORES": "scores"}, "keep": ["id"]}
    return bulk.run(
        source, sink, model="digits", url=triton_server.url, **{"progress": False, **usual, **options}
    )


@pytest.mark.parametrize("kind", ["parquet", "folder", "partitions", "arrow", "stream", "json lines"])
def test_each_kind_of_source(
    kind: str, store: Store, folder: tuple[Path, dict[str, Any]], triton_server: Any, tmp_path: Path
) -> None:
    here, kinds = folder
    source, where = Path(kinds[kind]), f"of-{kind.replace(' ', '-')}"
    score(triton_server, source, tmp_path / "out.arrow", cast=True)
    report = score(
        triton_server,
        store.uri(f"rows/{source.relative_to(here)}"),
        store.uri(f"{where}/out.arrow"),
        cast=True,
    )
    assert report.output == f"s3://data/{where}/out.arrow"
    assert store.read(f"{where}/out.arrow") == (tmp_path / "out.arrow").read_bytes()


@pytest.mark.parametrize("sink", SINKS)
def test_each_kind_of_sink(
    sink: str, store: Store, folder: tuple[Path, dict[str, Any]], triton_server: Any, tmp_path: Path
) -> None:
    source, where = store.uri("rows/a.parquet"), f"sinks/{sink.replace('.', '-')}"
    for target in (tmp_path / sink, store.uri(f"{where}/{sink}")):
        report = score(triton_server, source, target, checkpoint=200, on_error="record")
        assert (report.rows, report.resumed) == (700, 0)
        assert score(triton_server, source, target, checkpoint=200, on_error="record").calls == 0
    here = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert store.keys(where) == here
    for name in here:
        assert contents(store.read(f"{where}/{name}")) == contents((tmp_path / name).read_bytes())
        assert SECRET.encode() not in store.read(f"{where}/{name}")


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_a_run_that_is_killed_and_interrupted_goes_on(
    sink: str, store: Store, triton_server: Any, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    rows, part, where = 6000, 256, f"ended-{sink.replace('.', '-')}"
    with store.system.open_output_stream(f"data/{where}-in.parquet") as stream:
        pq.write_table(table(rows), stream, row_group_size=1000)
    source, target = store.uri(f"{where}-in.parquet"), store.uri(f"{where}/{sink}")
    score(triton_server, source, tmp_path / sink, in_flight=1, batch_size=8, checkpoint=part)
    words = ["--input", "IMAGE=pixels", "--output", "SCORES=scores", "--keep", "id", "--json"]
    words += ["--in-flight", "1", "--batch-size", "8", "--checkpoint", str(part)]
    command = [sys.executable, "-m", "tritonhttp", "bulk", source, target, "--model", "digits", *words]
    environment = {
        **os.environ,
        "TRITON_URL": triton_server.url,
        "PYTHONPATH": str(Path(tritonhttp.__file__).parents[1]),
    }

    def committed() -> int:
        name = "out/_manifest.jsonl" if sink == "out" else f"{sink}.manifest"
        return max(0, store.read(f"{where}/{name}").count(b"\n") - 1)

    for number in (signal.SIGKILL, signal.SIGINT):
        before = committed()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                wait_until(lambda: committed() > before + 1 or process.poll() is not None, 60)  # noqa: B023
                process.send_signal(number)
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, out) == (130 if number == signal.SIGINT else -number, ""), err
    done = committed()
    said = f"interrupted with {done * part:,} rows committed to s3://data/{where}/{sink}; the same command goes on"
    assert err == f"tritonhttp: {said} from there\n"
    folder, ending = ("out", "parquet") if sink == "out" else (f"{sink}.parts", "arrow")
    parts = {key for key in store.keys(f"{where}/{folder}") if key.startswith("part-")}
    assert parts == {f"part-{each:07}.{ending}" for each in range(done)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["resumed"] == done * part
    found = pq.read_table(f"data/{where}/{sink}", filesystem=store.system)
    assert found.equals(pq.read_table(tmp_path / sink))
    assert not any("_parts/" in key or ".parts" in key for key in store.keys(where))


FAILS = """
import gc
import sys
from tritonhttp.bulk._places import place_of

try:
    with place_of(sys.argv[1]).written() as stream:
        stream.write(bytes(int(sys.argv[2])))
        raise OSError("full")
except OSError as error:
    assert str(error) == "full"
del stream
gc.collect()
print(place_of(sys.argv[1]).exists())
"""


@pytest.mark.parametrize("size", [10, 30 << 20], ids=["small", "in parts"])
def test_an_object_that_fails_never_appears(store: Store, size: int) -> None:
    target = store.uri(f"fails/{size}.bin")
    ended = subprocess.run(
        [sys.executable, "-c", FAILS, target, str(size)], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr
    assert store.system.get_file_info(f"data/fails/{size}.bin").type == fs.FileType.NotFound
