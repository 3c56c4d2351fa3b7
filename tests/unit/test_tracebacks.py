"""What is shown of an error in a notebook: the program's own frames, and the message."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

import tritonhttp
from tritonhttp import InferenceServerException, InferInput, InvalidRequest
from tritonhttp.errors import _shortened

Caught = pytest.ExceptionInfo[InferenceServerException]


class Odd:
    def __array__(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("of the program")


def refused(call: Any) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value


def modules(error: BaseException) -> set[str]:
    return {
        str(frame.f_globals.get("__name__")).partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    }


def client() -> tritonhttp.InferenceServerClient:
    return tritonhttp.InferenceServerClient("127.0.0.1:1")


CALLS: dict[str, Any] = {
    "infer": lambda: client().infer("m", {"A": 1}),  # type: ignore[arg-type]
    "async_infer": lambda: client().async_infer("m", {"A": 1}),  # type: ignore[arg-type]
    "load_model": lambda: client().load_model("m", config={}),  # type: ignore[arg-type]
    "nobody listens": lambda: client().is_server_ready(),
    "data": lambda: InferInput("A", [1], "FP32").set_data_from_numpy([1]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", CALLS)
def test_only_frames_of_the_program_are_shown(call: str) -> None:
    error = refused(CALLS[call])
    shown = _shortened(error)
    assert "tritonhttp" in modules(error)
    assert "tritonhttp" not in modules(shown)
    assert modules(shown)
    assert (type(shown), str(shown), shown.__cause__, shown.__context__) == (
        type(error),
        str(error),
        None,
        None,
    )


def test_a_refused_inference_comes_without_the_frames_that_it_came_through() -> None:
    for call in ("infer", "async_infer"):
        error = refused(CALLS[call])
        assert error.__suppress_context__
        ours = [each for each in traceback.extract_tb(error.__traceback__) if "/tritonhttp/" in each.filename]
        assert [each.name for each in ours] == [call]


def test_causes_of_the_program_are_kept() -> None:
    error = refused(lambda: InferInput.from_numpy("A", Odd()))
    assert isinstance(error, InvalidRequest)
    shown = _shortened(error)
    assert isinstance(shown.__cause__, RuntimeError)


def test_an_error_of_the_program_that_is_being_handled_is_kept() -> None:
    def recover() -> None:
        try:
            raise KeyError("own")
        except KeyError:
            client().load_model("m", config={})  # type: ignore[arg-type]

    assert isinstance(_shortened(refused(recover)).__context__, KeyError)


def test_ipython_shows_a_few_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shells = pytest.importorskip("IPython.core.interactiveshell")
    shell = shells.InteractiveShell.instance()
    shell.run_cell("import tritonhttp\nclient = tritonhttp.InferenceServerClient('127.0.0.1:1')")
    capsys.readouterr()
    shell.run_cell("client.infer('m', {'A': 1})")
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 10
    assert "InferInput.from_numpy" in shown
    logger = logging.getLogger("tritonhttp")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    try:
        shell.run_cell("client.infer('m', {'A': 1})")
        assert len(capsys.readouterr().out.splitlines()) > 30
    finally:
        monkeypatch.undo()
        logger.manager._clear_cache()  # type: ignore[attr-defined]
