"""``bulk.Predictor``: batches of every kind, in this process and in others."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InvalidRequest

from .api.gateway import Gateway

pa: Any = pytest.importorskip("pyarrow", reason="a dependency of the tests only")

from tritonhttp.bulk import predictor as module  # noqa: E402
from tritonhttp.bulk.predictor import Predictor  # noqa: E402

INPUTS = {"IMAGE": "image"}


@pytest.fixture(scope="module")
def images() -> Any:
    with np.load(Path(tritonhttp.__file__).parent / "testing" / "data" / "digits.npz") as data:
        return data["images"].astype(np.float32) / 16


@pytest.fixture
def scores(images: Any, triton_client: Any) -> Any:
    return triton_client.model("digits").batched(IMAGE=images)["SCORES"]


@pytest.fixture
def make(triton_server: Any) -> Iterator[Callable[..., Predictor]]:
    made: list[Predictor] = []

    def make(model: str = "digits", **options: Any) -> Predictor:
        made.append(Predictor(triton_server.url, model, **{"inputs": INPUTS, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert module._clients == {}


@pytest.fixture
def bulk_worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of functions, under a name that spawned processes find as well."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return import_module("bulk_worker")


def column(images: Any) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 64)


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.stack([*found]), wanted, atol=1e-5)


def test_a_batch_gives_one_of_its_kind(make: Any, images: Any, scores: Any) -> None:
    pd = pytest.importorskip("pandas", reason="a dependency of the tests only")
    predictor = make(outputs={"SCORES": "scores"}, keep=["id"])
    ids = np.arange(len(images))
    found = predictor({"id": ids, "image": images, "other": ids})
    assert [*found] == ["id", "scores"]
    assert found["id"] is ids
    close(found["scores"], scores)
    table = pa.table({"image": column(images), "id": ids})
    table = pa.concat_tables([table[:100], table[100:]])
    result = predictor(table)
    assert result.schema == predictor.schema(table.schema)
    assert result["id"].to_pylist() == ids.tolist()
    close(result["scores"].to_pylist(), scores)
    (batch,) = table[:10].combine_chunks().to_batches()
    assert isinstance(predictor(batch), pa.RecordBatch)
    close(predictor(batch)["scores"].to_pylist(), scores[:10])
    frame = pd.DataFrame({"id": ids, "image": [*images]}, index=ids + 7)
    scored = predictor(frame)
    assert [*scored.columns] == ["id", "scores"]
    assert scored.index.tolist() == frame.index.tolist()
    close(scored["scores"], scores)


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 400])
def test_any_number_of_rows_is_scored(make: Any, images: Any, scores: Any, rows: int) -> None:
    predictor = make(keep=[])
    assert predictor({"image": images[:rows]})["SCORES"].shape == (rows, 10)
    found = predictor(pa.table({"image": column(images[:rows])}))
    assert len(found) == rows
    if rows:
        close(found["SCORES"].to_pylist(), scores[:rows])


def test_calls_of_a_stream_are_in_flight_together_and_in_order(
    triton_server: Any, images: Any, scores: Any
) -> None:
    with (
        Gateway(triton_server.url) as gateway,
        Predictor(gateway.url, "digits", inputs=INPUTS, keep=[], batch_size=10, in_flight=4) as predictor,
    ):
        batches = [pa.record_batch({"image": column(part)}) for part in np.split(images, 16)]
        found = [*predictor.stream(iter(batches))]
        assert [len(each) for each in found] == [25] * 16
        close(np.concatenate([np.stack(each["SCORES"].to_pylist()) for each in found]), scores)
        asked = [seen.path for seen in gateway.seen].count("/v2/models/digits/infer")
        assert asked == 48
        assert 1 < gateway.connections <= 4


def test_what_is_too_large_for_a_request_is_split(make: Any) -> None:
    predictor = make("identity_fp32", inputs={"INPUT0": "x"}, keep=[])
    large = np.arange(20_000_000, dtype=np.float32)
    np.testing.assert_array_equal(predictor({"x": large})["OUTPUT0"], large)


def test_text_is_text_where_a_field_says_so(make: Any) -> None:
    fields = {"OUTPUT0": pa.field("y", pa.string())}
    predictor = make("identity_bytes", inputs={"INPUT0": "x"}, outputs=fields)
    texts = ["a", "ü", "", "a\0"]
    assert predictor(pa.table({"x": texts}))["y"].to_pylist() == texts
    assert predictor({"x": np.array(texts, object)})["y"].tolist() == texts
    with pytest.raises(InvalidRequest, match=r"column 'x', row 1 of 2 in a batch: null"):
        predictor(pa.table({"x": ["a", None]}))


def test_a_predictor_without_a_call_has_no_client_and_pickles(make: Any) -> None:
    predictor = pickle.loads(pickle.dumps(make()))
    assert module._clients == {}
    assert "digits" in repr(predictor)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_each_process_has_one_client(
    make: Any, images: Any, scores: Any, method: str, bulk_worker: Any
) -> None:
    if sys.platform == "win32" and method == "fork":
        pytest.skip("Windows can only spawn")
    predictor = make(keep=[])
    predictor({"image": images[:3]})  # a forked child inherits this process's client
    parts = [(predictor, part) for part in np.split(images, 8)]
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        found = pool.map(bulk_worker.score, parts, chunksize=1)
    clients = {(pid, client) for pid, _, client, _ in found}
    assert len(clients) == len({pid for pid, _ in clients}) <= 2
    assert os.getpid() not in {pid for pid, *_ in found}
    assert {count for _, count, *_ in found} == {1}
    close(np.concatenate([scores for *_, scores in found]), scores)


def test_executors_run_it(make: Any, images: Any, scores: Any, bulk_worker: Any) -> None:
    predictor = make(keep=[])
    parts = [(predictor, part) for part in np.split(images, 8)]
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(bulk_worker.score, parts)]
    assert len({client for _, _, client, _ in found}) == 1
    close(np.concatenate([scores for *_, scores in found]), scores)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        found = [*processes.map(bulk_worker.score, parts)]
    close(np.concatenate([scores for *_, scores in found]), scores)


def test_a_dropped_predictor_closes_its_client(make: Any, triton_server: Any, images: Any) -> None:
    predictor = Predictor(triton_server.url, "digits", inputs=INPUTS, keep=[])
    predictor({"image": images[:1]})
    client = predictor.client
    del predictor
    assert module._clients == {}
    with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
        client.is_server_live()


def test_clients_are_prepared(triton_server: Any, images: Any) -> None:
    prepared: list[Any] = []
    with Predictor(triton_server.url, "digits", inputs=INPUTS, prepare=prepared.append) as predictor:
        predictor({"image": images[:1]})
        assert prepared == [predictor.client]


def test_wrong_arguments_are_refused_at_once(triton_server: Any) -> None:
    for options in ({"in_flight": 0}, {"batch_size": 0}, {"concurrency": 3}, {"retries": 3}):
        with pytest.raises((InvalidRequest, TypeError)):
            Predictor(triton_server.url, "digits", **options)
