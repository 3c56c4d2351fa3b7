"""Sequences whose requests begin before earlier ones have ended: a real model adds them up in order."""

import asyncio
import itertools

import numpy as np
import pytest

from ...clients import tensor

_numbers = itertools.count(5000)
#: So that the sums tell in which order they were added up.
VALUES = [2**n for n in range(20)]
SUMS = list(itertools.accumulate(VALUES))


def total(result):
    return int(result.as_numpy("OUTPUT")[0, 0])


def requests(sequence):
    """Give the arguments of each request of a sequence."""
    for n, value in enumerate(VALUES):
        given = tensor("INPUT", np.array([[value]], np.int32), copy=True)
        ends = {"sequence_start": n == 0, "sequence_end": n == len(VALUES) - 1}
        yield ("sequence_accumulate", [given]), {"sequence_id": sequence, **ends}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_sequence_begun_all_at_once_keeps_its_order(make_client, client_kind, concurrency):
    client = make_client(concurrency=concurrency)
    asked = requests(f"begun {next(_numbers)}")
    if client_kind == "asyncio":

        async def gather():
            return await asyncio.gather(*(client._client.infer(*args, **options) for args, options in asked))

        results = asyncio.run_coroutine_threadsafe(gather(), client._loop).result(60)
    else:
        handles = [client.async_infer(*args, **options) for args, options in asked]
        results = [handle.get_result() for handle in handles]
    assert list(map(total, results)) == SUMS


@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_infer_ends_a_sequence_of_async_infer(make_client, concurrency):
    client = make_client(concurrency=concurrency)
    *begun, (args, options) = requests(next(_numbers))
    handles = [client.async_infer(*args, **options) for args, options in begun]
    assert total(client.infer(*args, **options)) == SUMS[-1]
    assert [total(handle.get_result()) for handle in handles] == SUMS[:-1]


@pytest.mark.parametrize("client_kind", ["blocking"])
def test_a_sequence_may_alternate_async_infer_and_infer(make_client):
    client = make_client(concurrency=2)
    sums = [
        (client.infer if n % 3 == 2 else client.async_infer)(*args, **options)
        for n, (args, options) in enumerate(requests(next(_numbers)))
    ]
    assert [total(each.get_result() if hasattr(each, "get_result") else each) for each in sums] == SUMS
