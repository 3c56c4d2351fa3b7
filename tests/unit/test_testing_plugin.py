"""The pytest plugin's fixtures, in a pytest session of their own, with a fake in the server's place."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

FAKE_SERVER = """
import pytest
import tritonhttp.testing.server
from tritonhttp.testing import TritonFailed, TritonUnavailable

class FakeServer:
    url = "127.0.0.1:1"
    def start(self):
        print("server starts")
        {start}
    def kill(self):
        print("server ends")

@pytest.fixture(scope="session", autouse=True)
def fake():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tritonhttp.testing.server, "TritonServer", FakeServer)
        yield
"""
TWO_TESTS = """
def test_one(triton_server): assert triton_server.url == "127.0.0.1:1"
def test_two(triton_server): assert triton_server.url == "127.0.0.1:1"
"""


@pytest.fixture
def session(pytester, monkeypatch):
    monkeypatch.delenv("TRITON_URL", raising=False)

    def run(tests: str, *args: str, start: str = "pass"):
        pytester.makeconftest(FAKE_SERVER.format(start=start))
        pytester.makepyfile(tests)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rs", "-s", *args)

    return run


def test_one_server_for_the_session(session):
    result = session(TWO_TESTS)
    result.assert_outcomes(passed=2)
    assert result.stdout.str().count("server starts") == 1
    assert result.stdout.str().count("server ends") == 1


def test_no_server_without_use(session):
    result = session("def test_one(): pass")
    assert "server starts" not in result.stdout.str()


def test_an_excused_failure_to_start_skips_in_one_line(session):
    result = session(TWO_TESTS, start="raise TritonUnavailable('a reason', excused=True)")
    result.assert_outcomes(skipped=2)
    assert "no Triton server can run here: a reason; or set TRITON_URL=host:port" in result.stdout.str()


@pytest.mark.parametrize("start", ["raise TritonUnavailable('a reason')", "raise TritonFailed('a reason')"])
def test_any_other_failure_to_start_is_an_error(session, start):
    result = session(TWO_TESTS, start=start)
    result.assert_outcomes(errors=2)
    assert "a reason" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_server_elsewhere_is_used_but_not_controlled(session, monkeypatch, way):
    if way == "variable":
        monkeypatch.setenv("TRITON_URL", "triton.example:8000")
    result = session(
        """
        import pytest
        def test_url(triton_server): assert triton_server.url == "triton.example:8000"
        def test_control(triton_server): triton_server.kill()
        def test_typing_error(triton_server):
            with pytest.raises(AttributeError): triton_server.kil
        """,
        *(["--triton-url=triton.example:8000"] if way == "option" else []),
    )
    result.assert_outcomes(passed=2, skipped=1)
    reason = "TritonServer.kill needs a server of the tests' own, and triton.example:8000 runs elsewhere"
    assert reason in result.stdout.str()
    assert "server starts" not in result.stdout.str()


def test_the_client_is_closed_after_each_test(session):
    result = session(
        """
        import pytest
        import tritonhttp
        clients, closed = [], []
        @pytest.fixture(autouse=True)
        def record(monkeypatch):
            close = tritonhttp.InferenceServerClient.close
            monkeypatch.setattr(
                tritonhttp.InferenceServerClient, "close", lambda self: (closed.append(self), close(self))[1]
            )
        def test_one(record, triton_client): clients.append(triton_client)
        def test_two(triton_client):
            assert closed == clients
            assert triton_client is not clients[0]
        """
    )
    result.assert_outcomes(passed=2)


def test_the_plugin_imports_neither_server_nor_network():
    code = (
        "import sys, tritonhttp; before = set(sys.modules); import tritonhttp.testing.pytest_plugin\n"
        "print([name for name in set(sys.modules) - before if name.startswith('tritonhttp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = eval(done.stdout)
    assert sorted(loaded) == ["tritonhttp.testing", "tritonhttp.testing.pytest_plugin"]
