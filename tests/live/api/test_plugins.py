"""Plugins: one at a time, called once before each request, with headers that they may change."""

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferenceServerClientPlugin

from ...clients import tensor


class Count(InferenceServerClientPlugin):
    def __init__(self):
        self.calls = 0

    def __call__(self, request):
        assert isinstance(request, tritonhttp.Request)
        self.calls += 1
        request.headers["X-Count"] = str(self.calls)


def test_a_plugin_changes_the_headers_of_each_request_once(watched, gateway):
    plugin = Count()
    watched.register_plugin(plugin)
    headers = {"X-Own": "1", "x-count": "mine"}
    headers.pop("x-count")
    watched.is_server_live(headers=headers)
    watched.get_model_repository_index()
    watched.infer("identity_fp32", [tensor("INPUT0", np.ones(2, np.float32))], headers=headers)
    assert plugin.calls == 3
    assert [seen.get("X-Count") for seen in gateway.seen] == ["1", "2", "3"]
    assert headers == {"X-Own": "1"}


def test_a_plugin_is_registered_once_and_unregistered_once(client):
    plugin = Count()
    assert client.plugin() is None
    client.register_plugin(plugin)
    assert client.plugin() is plugin
    with pytest.raises(tritonhttp.InferenceServerException, match="A plugin is already registered"):
        client.register_plugin(Count())
    assert client.plugin() is plugin
    client.unregister_plugin()
    assert client.plugin() is None
    with pytest.raises(tritonhttp.InferenceServerException, match="No plugin has been registered"):
        client.unregister_plugin()
    assert client.is_server_live()
    assert plugin.calls == 0


def test_an_exception_of_a_plugin_reaches_the_caller_and_nothing_is_sent(watched, gateway):
    class Broken(InferenceServerClientPlugin):
        def __call__(self, request):
            raise RuntimeError("no token today")

    watched.register_plugin(Broken())
    with pytest.raises(RuntimeError, match="no token today"):
        watched.is_server_live()
    assert gateway.seen == []
    watched.unregister_plugin()
    assert watched.is_server_live()


@pytest.mark.parametrize("header", [{"Transfer-Encoding": "chunked"}, {"X-Own": "a\r\nb: c"}])
def test_headers_of_a_plugin_are_validated_like_a_callers(watched, gateway, header):
    class Adds(InferenceServerClientPlugin):
        def __call__(self, request):
            request.headers.update(header)

    watched.register_plugin(Adds())
    with pytest.raises(tritonhttp.InvalidRequest):
        watched.get_model_repository_index()
    assert gateway.seen == []


def test_a_plugin_may_put_other_headers_in_place(watched, gateway):
    class Replaces(InferenceServerClientPlugin):
        def __call__(self, request):
            request.headers = {"X-New": "1"}

    watched.register_plugin(Replaces())
    watched.is_server_live(headers={"X-Old": "1"})
    assert gateway.last.get("X-New") == "1"
    assert gateway.last.get("X-Old") is None
