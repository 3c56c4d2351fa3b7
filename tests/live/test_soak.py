"""A short soak: `make soak` runs a long one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tritonhttp.testing import TritonUnavailable

from ..soak import calls
from ..soak.__main__ import effects, soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and /dev/shm")


def test_nothing_is_wrong_lost_doubled_or_left_behind(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--triton-url") or os.environ.get("TRITON_URL"):
        pytest.skip("kills and restarts servers of its own")
    try:
        report = soak(4, tasks=50, rate=0.1, restart_every=3, warm_up=1, largest=1 << 20, seed=os.getpid())
    except TritonUnavailable as unavailable:
        if unavailable.excused:
            pytest.skip(str(unavailable))
        raise
    assert report["broken"] == []
    for kind in ("threads", "tasks"):
        assert report[kind]["counts"]["answers"] > 0
        assert report[kind]["counts"]["errors"] > 0
    assert report["faults"]["servers killed"] > 0


class Result:
    """An answer, as a client returns it."""

    def __init__(self, tag: int, name: str, array: object, id: str = "") -> None:
        self._arrays = {"TAG_OUT": np.array([tag]), name: array}
        self._response = {"id": id}

    def as_numpy(self, name: str) -> object:
        return self._arrays.get(name)

    def get_response(self) -> dict[str, str]:
        return self._response


@pytest.mark.parametrize("datatype", calls.DATATYPES)
def test_an_answer_to_another_request_is_noticed(datatype: str) -> None:
    calls.prepare(1 << 10)
    first, second = (calls.part(datatype, 512, tag) for tag in (1, 2))
    call = calls.Inference(1, datatype, first, "tagged", 0, options={"request_id": "id 1"})
    name = f"{datatype}_OUT"
    assert call.problem(Result(1, name, first.copy(), "id 1")) == ""  # type: ignore[arg-type]
    assert call.problem(Result(2, name, first, "id 1")) == "tag [2], sent 1"  # type: ignore[arg-type]
    assert "id 'id 2'" in call.problem(Result(1, name, first, "id 2"))  # type: ignore[arg-type]
    assert call.problem(Result(1, name, second, "id 1")) != ""  # type: ignore[arg-type]
    assert call.problem(Result(1, name, first[1:], "id 1")) != ""  # type: ignore[arg-type]


def test_an_inference_that_ran_too_often_or_never_is_noticed(tmp_path: Path) -> None:
    journal, told = tmp_path / "journal", tmp_path / "told.npz"
    np.array([1, 2, 2, 3, 3], "<i8").tofile(journal)
    np.savez(told, tags=[1, 2, 3, 4, 5], most=[1, 1, 2, 1, 1], least=[1, 1, 1, 0, 1])
    assert effects(journal, [told]) == (5, [(2, 2)], [5])
