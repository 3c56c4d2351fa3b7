"""Fixtures for what only the blocking client has: threads, async_infer, forks, overridden requests."""

import contextlib

import pytest

import tritonhttp


@pytest.fixture
def make_client(triton_server):
    with contextlib.ExitStack() as stack:

        def make(kind=tritonhttp.InferenceServerClient, **options):
            return stack.enter_context(kind(triton_server.url, **options))

        yield make


@pytest.fixture
def client(make_client):
    return make_client()
