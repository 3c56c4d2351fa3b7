"""Clients under green threads, wherever the program patches: before the client is made, later, or after a fork.

Each program runs in an interpreter of its own, which shows its stacks and ends if it hangs.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gevent", reason="a dependency of the tests only")

#: A program that takes longer than so many seconds stands still.
STUCK = 40

COMMON = f"""
import faulthandler, os, sys, time
faulthandler.dump_traceback_later({STUCK}, exit=True)
import numpy as np
import tritonhttp
from tritonhttp import InferenceServerClient, InferenceServerException
url, *arguments = sys.argv[1:]

def delayed(seconds):
    tensor = tritonhttp.InferInput("DELAY", [1], "FP32")
    return [tensor.set_data_from_numpy(np.array([seconds], np.float32))]

def numbers(value=1):
    tensor = tritonhttp.InferInput("INPUT0", [2], "INT32")
    return [tensor.set_data_from_numpy(np.array([value, value], np.int32))]

def check(result, value=1):
    assert result.as_numpy("OUTPUT0").tolist() == [value, value]

#: What a client did before the program patched.
USES = {{
    "nothing": lambda client: None,
    "metadata": lambda client: client.get_server_metadata(),
    "infer": lambda client: [check(client.infer("identity_int32", numbers())) for _ in range(4)],
    "async_infer": lambda client: [
        check(handle.get_result())
        for handle in [client.async_infer("identity_int32", numbers()) for _ in range(4)]
    ],
}}
"""

#: Of gevent: many greenlets use a client, while another one ticks.
GREENLETS = """
def work(client):
    import gevent
    turns = []
    def tick():
        while True:
            gevent.sleep(0.01)
            turns.append(time.monotonic())
    ticking = gevent.spawn(tick)
    def some(which):
        for n in range(5):
            check(client.infer("identity_int32", numbers(which), deadline=25), which)
            handle = client.async_infer("identity_int32", numbers(which + n), deadline=25)
            client.infer("slow", delayed(0.01), deadline=25)
            check(handle.get_result(), which + n)
    jobs = [gevent.spawn(some, which) for which in range(8)]
    gevent.joinall(jobs, raise_error=True)
    turns.clear()
    jobs = [gevent.spawn(client.infer, "slow", delayed(0.4), deadline=25)]
    handle = client.async_infer("slow", delayed(0.1), deadline=25)
    assert handle.get_result().as_numpy("OUTPUT") == np.float32(0.1)
    gevent.joinall(jobs, raise_error=True)
    assert len(turns) > 8, f"others had {len(turns)} turns in 0.4 s"
    ticking.kill()
    client.close()
"""

PATCH = "from gevent import monkey\nmonkey.patch_all()\n"

FORKS = """
def in_child(work, client):
    faulthandler.cancel_dump_traceback_later()  # the child has not its thread
    pid = os.fork()
    if pid:
        for _ in range(STUCK * 100):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(pid, 9)
        return "the child stands still"
    status = 1
    try:
        faulthandler.dump_traceback_later(STUCK - 3, exit=True)
        from gevent import monkey
        monkey.patch_all()
        work(client)
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(status)

client = InferenceServerClient(url, concurrency=int(arguments[1]))
USES[arguments[0]](client)
assert (outcome := in_child(work, client)) == 0, outcome
USES["infer"](client)
USES["async_infer"](client)
client.close()
""".replace("STUCK", str(STUCK))

#: Without a fork: the client does its work, or says in an error of ours why it cannot. The next one does, always.
PATCHES_LATER = """
client = InferenceServerClient(url, concurrency=int(arguments[1]))
USES[arguments[0]](client)
from gevent import monkey
monkey.patch_all()
try:
    work(client)
except InferenceServerException as error:
    assert "timed out" not in str(error) and "deadline" not in str(error), error
    print("refused:", error)
work(InferenceServerClient(url, concurrency=int(arguments[1])))
"""

#: The model works while the caller, which never yields, does.
OVERLAPS = """
options, of_client = {
    "plain": ({}, {}),
    "headers": ({"headers": {"X-A": "1"}}, {}),
    "retry": ({}, {"retry": tritonhttp.Retry()}),
    "large": ({}, {}),
}[arguments[0]]
asked = delayed(0.5)

def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def measured():
    took = {}
    with InferenceServerClient(url, concurrency=2, **of_client) as client:
        for state in ("first call", "used connection", "again"):
            began = time.monotonic()
            handle = client.async_infer("slow", asked, **options)
            took["async_infer of the " + state] = time.monotonic() - began + 0.5
            busy(0.5)
            handle.get_result()
            took[state] = time.monotonic() - began
    return took

for attempt in range(5):  # a busy machine may delay some of them
    if max((took := measured()).values()) < 0.85:
        break
else:
    raise AssertionError(f"0.5 s of the model beside 0.5 s of the caller took {took}")
"""

MORE_THAN_CONNECTIONS = """
for concurrency in (1, 2):
    with InferenceServerClient(url, concurrency=concurrency) as client:
        handles = [client.async_infer("slow", delayed(0.5), request_id=str(n)) for n in range(4)]
        assert not handles[0].done(), "async_infer does not wait for an answer"
        assert [handle.get_result().get_response()["id"] for handle in handles] == list("0123")
"""

KILLS = """
import gevent
class Ours(BaseException):
    pass
def killed(way, call, points):
    for point in points:
        client = InferenceServerClient(url)
        for warm in (False, True):
            if warm:
                client.infer("identity_int32", numbers(), deadline=5)
            def job():
                if way == "timeout":
                    with gevent.Timeout(point if isinstance(point, float) else 0.001, False):
                        call(client)
                else:
                    call(client)
            job = gevent.spawn(job)
            if isinstance(point, float):
                gevent.sleep(point)
            else:
                for _ in range(point):
                    gevent.sleep(0)
            job.kill(gevent.GreenletExit if way == "kill" else Ours)
            began = time.monotonic()
            check(client.infer("identity_int32", numbers(), deadline=5))
            took = time.monotonic() - began
            assert took < 4, f"behind a greenlet killed at {point} ({way}, {warm=}) a call took {took:.2f} s"
        taken = client._transport.pool.taken
        assert taken <= 1, f"{taken} places are taken"
        client.close()

points = [*range(14), 0.002, 0.005, 0.02]
CALLS = {
    "infer": lambda client: client.infer("slow", delayed(0.05)),
    "headers": lambda client: client.infer("slow", delayed(0.05), headers={"X-A": "1"}),
    "async_infer": lambda client: client.async_infer("slow", delayed(0.02)).get_result(),
    "metadata": lambda client: client.get_server_metadata(),
}
import sys
sys.stderr = open(os.devnull, "w")  # gevent shows what ends a greenlet
faulthandler.cancel_dump_traceback_later()
faulthandler.dump_traceback_later(STUCK, exit=True, file=sys.__stderr__)
try:
    killed(arguments[0], CALLS[arguments[1]], points)
except BaseException as error:
    sys.stderr = sys.__stderr__
    raise
""".replace("STUCK", str(STUCK))

#: A request whose result is never asked for goes out, and the program ends.
ENDS = """
client = InferenceServerClient(url, concurrency=1)
for _ in range(3):
    client.async_infer("identity_int32", numbers())
"""

#: Of eventlet.
EVENTLET = """
def work(client):
    import eventlet
    turns = []
    def tick():
        while True:
            eventlet.sleep(0.01)
            turns.append(time.monotonic())
    ticking = eventlet.spawn(tick)
    def some(which):
        check(client.infer("identity_int32", numbers(which), deadline=25), which)
        check(client.async_infer("identity_int32", numbers(which), deadline=25).get_result(), which)
    pool = eventlet.GreenPool(8)
    assert len(list(pool.imap(lambda which: some(which), range(8)))) == 8
    turns.clear()
    client.infer("slow", delayed(0.4), deadline=25)
    assert len(turns) > 8, f"others had {len(turns)} turns in 0.4 s"
    ticking.kill()
    client.close()
"""
EVENTLET_PATCH = (
    "import warnings\nwarnings.simplefilter('ignore')\nimport eventlet\neventlet.monkey_patch()\n"
)

PROGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"patched in a forked child, client used for {use} before, concurrency {concurrency}": (
            COMMON + GREENLETS + FORKS,
            (use, concurrency),
        )
        for use, concurrency in (
            ("nothing", "4"),
            ("metadata", "1"),
            ("infer", "4"),
            ("async_infer", "1"),
            ("async_infer", "4"),
        )
    },
    **{
        f"patched later, client used for {use} before, concurrency {concurrency}": (
            COMMON + GREENLETS + PATCHES_LATER,
            (use, concurrency),
        )
        for use, concurrency in (
            ("nothing", "1"),
            ("metadata", "4"),
            ("infer", "1"),
            ("async_infer", "1"),
            ("async_infer", "4"),
        )
    },
    "patched first": (
        PATCH + COMMON + GREENLETS + "for n in (1, 4): work(InferenceServerClient(url, concurrency=n))",
        (),
    ),
    **{
        f"the caller's work overlaps with the model's, {way}": (PATCH + COMMON + OVERLAPS, (way,))
        for way in ("plain", "headers", "retry")
    },
    "more async_infer than connections": (PATCH + COMMON + MORE_THAN_CONNECTIONS, ()),
    **{
        f"greenlets that end in {call}: {way}": (PATCH + COMMON + KILLS, (way, call))
        for way, call in (
            ("kill", "infer"),
            ("throw", "headers"),
            ("timeout", "infer"),
            ("kill", "async_infer"),
            ("throw", "metadata"),
        )
    },
    "the end of a patched program": (PATCH + COMMON + ENDS, ()),
}
if importlib.util.find_spec("eventlet") is not None:
    PROGRAMS["eventlet, patched first"] = (
        EVENTLET_PATCH + COMMON + EVENTLET + "work(InferenceServerClient(url))",
        (),
    )
    PROGRAMS |= {
        f"eventlet, patched later, client used for {use} before": (
            COMMON
            + EVENTLET
            + PATCHES_LATER.replace("from gevent import monkey\nmonkey.patch_all()\n", EVENTLET_PATCH),
            (use, "1"),
        )
        for use in ("nothing", "async_infer")
    }

Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, triton_server: Any) -> Iterator[Callable[[str], Ran]]:
    """Run the selected programs, a few at a time, since they mostly wait; return how one ended."""

    def run(name: str) -> Ran:
        program, arguments = PROGRAMS[name]
        command = [sys.executable, "-c", program, triton_server.url, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=2 * STUCK)

    futures: dict[str, Future[Ran]] = {}
    with ThreadPoolExecutor(3) as pool:
        for item in request.session.items:
            callspec = getattr(item, "callspec", None)
            if callspec is not None and callspec.params.get("program") in PROGRAMS:
                name = callspec.params["program"]
                futures[name] = pool.submit(run, name)
        yield lambda name: futures[name].result()
        for future in futures.values():
            future.cancel()


@pytest.mark.parametrize("program", PROGRAMS)
def test_green_programs_run_wherever_they_patch(ran: Callable[[str], Ran], program: str) -> None:
    outcome = ran(program)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr[-6000:]
    if "patched later" not in program:  # gevent does not know threads that were there before
        assert "Exception ignored" not in outcome.stderr, outcome.stderr


APPLICATION = """
import json, os, sys, time
import numpy as np
import tritonhttp

url = os.environ["APPLICATION_URL"]

def numbers(value):
    tensor = tritonhttp.InferInput("INPUT0", [2], "INT32")
    return [tensor.set_data_from_numpy(np.array([value, value], np.int32))]

LIMITS = {"unused": 1, "used": 1, "begun": 4}
CLIENTS = {name: tritonhttp.InferenceServerClient(url, concurrency=limit) for name, limit in LIMITS.items()}
CLIENTS["used"].get_server_metadata()
CLIENTS["used"].infer("identity_int32", numbers(1))
CLIENTS["begun"].async_infer("identity_int32", numbers(1)).get_result()

def application(environ, start_response):
    _, name, value = environ["PATH_INFO"].split("/")
    client = CLIENTS[name]
    handles = [client.async_infer("identity_int32", numbers(int(value) + n), deadline=25) for n in range(3)]
    found = [client.infer("identity_int32", numbers(int(value)), deadline=25)]
    found += [handle.get_result() for handle in handles]
    body = json.dumps([int(each.as_numpy("OUTPUT0")[0]) for each in found]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""

SERVERS = {
    "gunicorn": ("gunicorn", "-m gunicorn -k gevent --preload -w 1 -b fd://{fd} application"),
    "uwsgi": (
        "pyuwsgi",
        "uwsgi.py --http-socket fd://{fd} --gevent 20 --gevent-monkey-patch --master --processes 1"
        " --wsgi-file application.py --die-on-term --need-app",
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_clients_survive_an_application_server_that_forks_and_patches(
    triton_server: Any, tmp_path: Path, server: str
) -> None:
    """It loads the application, which makes clients and uses them; then it forks, and its children patch."""
    module, arguments = SERVERS[server]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "uwsgi.py").write_text("import pyuwsgi, sys\npyuwsgi.run(sys.argv[1:])")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, *arguments.format(fd=fd).split()]
        environment = {**os.environ, "APPLICATION_URL": triton_server.url}
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                pass_fds=[fd],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    outcomes: list[Any] = []

    def ask(name: str, value: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STUCK)
        try:
            connection.request("GET", f"/{name}/{value}")
            response = connection.getresponse()
            expected = b"[%d, %d, %d, %d]" % (value, value, value + 1, value + 2)
            outcomes.append((name, response.status, response.read() == expected))
        except OSError as error:
            outcomes.append((name, repr(error)))
        finally:
            connection.close()

    names = ("unused", "used", "begun")
    threads = [threading.Thread(target=ask, args=(name, n)) for n in range(8) for name in names]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # a worker that stands still ends by nothing else
        process.wait()
    failures = [outcome for outcome in outcomes if outcome[1:] != (200, True)]
    assert not failures, log.read_text()[-4000:]
    assert len(outcomes) == len(threads)
