"""The corpus within the limits, a few thousand executions beyond it, and properties of whole streams."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import corpus
from .outcomes import measured, mutated
from .targets import READERS, TARGETS, target

#: The library's own advice is no fault.
pytestmark = pytest.mark.filterwarnings("ignore:not ready. ")


def replayed(name: str) -> None:
    run = target(name)
    for data in corpus.inputs(name):
        run(data)


@pytest.mark.parametrize("name", READERS)
def test_the_corpus_keeps_within_the_limits(name: str) -> None:
    run = target(name)
    for data in corpus.inputs(name):
        measured(run, data)


@pytest.mark.parametrize("name", sorted(set(TARGETS) - set(READERS) - {"requests"}))
def test_the_corpus_of_the_others(name: str) -> None:
    replayed(name)


@pytest.mark.parametrize("name", READERS)
def test_executions_beyond_the_corpus(name: str) -> None:
    run, seeds = target(name), corpus.inputs(name)
    for number in range(600):
        generator = random.Random(f"{name} {number}")
        data = mutated(generator, generator.choice(seeds), generator.randrange(1, 6), corpus.TOKENS)
        try:
            run(data)
        except BaseException as error:  # pytest.fail hides the input otherwise
            raise AssertionError(f"{name}: {data!r}") from error


@pytest.mark.parametrize("name", READERS)
def test_any_bytes(name: str) -> None:
    run = target(name)

    @settings(deadline=None, max_examples=100, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.binary(max_size=200))
    def any_bytes(data: bytes) -> None:
        run(data)

    any_bytes()


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the targets find is what the library does: each of these breaks the rule in its own way."""
    from tritonhttp._wire import bytes_tensor, sse

    monkeypatch.setattr(bytes_tensor, "_decode_items", lambda data, count: [b"wrong"])
    with pytest.raises(AssertionError, match="C != Python"):
        replayed("bytes")
    monkeypatch.setattr(
        sse.EventReader, "_after_cr", property(lambda self: False, lambda self, value: None), raising=False
    )
    with pytest.raises(AssertionError, match="in pieces != whole"):
        replayed("sse")
