"""`async_infer` where a program ends, and in handlers of signals: nothing is lost, and nothing stands still."""

import subprocess
import sys

import pytest

from .test_order import Line

pytestmark = pytest.mark.parametrize("client_kind", ["blocking"])  # the other one has no async_infer

#: A program that takes longer than so many seconds stands still.
STUCK = 8

PROLOGUE = f"""
import atexit, faulthandler, signal, sys, time
faulthandler.dump_traceback_later({STUCK}, exit=True)
url, concurrency, *arguments = sys.argv[1:]
%s
import numpy as np
import tritonhttp
client = tritonhttp.InferenceServerClient(url, concurrency=int(concurrency))
count = 0

def begin(**options):
    global count
    count += 1
    tensor = tritonhttp.InferInput("INPUT0", [3], "FP32").set_data_from_numpy(np.ones(3, np.float32))
    return client.async_infer("m", [tensor], request_id=str(count), **options)

def check(result):
    assert result.as_numpy("OUTPUT0").tolist() == [1, 2, 3]

def infer():
    tensor = tritonhttp.InferInput("INPUT0", [3], "FP32").set_data_from_numpy(np.ones(3, np.float32))
    check(client.infer("m", [tensor], deadline=5))
"""


@pytest.fixture
def run(serve, open_client):
    """Run a program against a server; return the server, and what the program wrote."""

    def run(program, concurrency, *arguments, pause=0.002, first=""):
        line = Line(pause)
        url = serve(*[line] * 20).url
        command = [sys.executable, "-c", PROLOGUE % first + program, url, str(concurrency), *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=3 * STUCK)
        assert ran.returncode == 0, ran.stderr[-6000:]
        assert not ran.stderr
        return line, ran.stdout.split()

    return run


CONCURRENCY = pytest.mark.parametrize("concurrency", [1, 4])


@CONCURRENCY
@pytest.mark.parametrize("then", ["", "del handles, client", "sys.exit()", "begin()"], ids=repr)
def test_a_programs_end_waits_for_the_inferences_it_began(run, concurrency, then):
    line, _ = run(f"handles = [begin() for _ in range(5)]\n{then}", concurrency, pause=0.05)
    assert len(line.arrived) == 5 + (then == "begin()")


@CONCURRENCY
@pytest.mark.parametrize("used", ["", "infer()", "begin().get_result()", "begin()"], ids=repr)
@pytest.mark.parametrize("first", [False, True], ids=["registered after import", "registered before import"])
def test_an_atexit_handler_may_infer(run, concurrency, used, first):
    """`infer` works there; `async_infer` does, or says why not."""
    register = """
def at_exit():
    infer()
    try:
        check(begin().get_result())
    except tritonhttp.InferenceServerException as error:
        print("refused")
    else:
        print("result")
    infer()
atexit.register(at_exit)
"""
    line, (outcome,) = run(
        f"{'' if first else register}\n{used}", concurrency, first=register if first else ""
    )
    assert len(line.arrived) == 2 + bool(used) + (outcome == "result")


@CONCURRENCY
@pytest.mark.parametrize("options", ["", "headers={'X-A': '1'}", "sequence_id='s'"], ids=repr)
@pytest.mark.parametrize("before", ["", "begin().get_result(), infer()"], ids=["unused", "used"])
def test_signal_handlers_may_begin_inferences_while_the_main_thread_begins_some(
    run, concurrency, before, options
):
    """Also the first one, where modules may be half imported."""
    line, (written,) = run(
        f"""
{before}
nested = []
def handler(number, frame):
    nested.append(begin({options}))
    if len(nested) < 40:
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # not before: a handler may take longer than that
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
handles = []
while len(nested) < 40:
    handles.append(begin({options}))
for handle in handles + nested:
    check(handle.get_result())
client.close()
print(len(handles) + len(nested))
""",
        concurrency,
        pause=0,
    )
    assert len(line.arrived) == int(written) + 2 * bool(before)
    assert line.crossed == []


@CONCURRENCY
@pytest.mark.parametrize("waits", ["infer()", "check(handle.get_result())", "client.close()"])
def test_a_signal_handler_may_begin_an_inference_while_the_main_thread_waits(run, concurrency, waits):
    """Its inference is carried out; it may be refused while the client is being closed."""
    line, (written,) = run(
        f"""
nested = []
def handler(number, frame):
    try:
        nested.append(begin())
    except tritonhttp.InferenceServerException as error:
        assert "closed" in str(error)
signal.signal(signal.SIGALRM, handler)
handle = begin()
infer()
handle = begin()
signal.setitimer(signal.ITIMER_REAL, 0.05)
{waits}
while signal.getitimer(signal.ITIMER_REAL)[0]:
    time.sleep(0.01)
for handle in nested:
    check(handle.get_result())
print(len(nested))
""",
        concurrency,
        pause=0.2,
    )
    assert written == "1" or waits == "client.close()"
    assert len(line.arrived) >= 3 + int(written)


@CONCURRENCY
@pytest.mark.parametrize("options", ["", "headers={'X-A': '1'}", "sequence_id='s'"], ids=repr)
def test_an_inference_interrupted_as_it_begins_leaves_the_client_usable(run, concurrency, options):
    """Each exception reaches the caller, and each inference that was begun ends: no place and no turn is lost."""
    run(
        f"""
for handle in [begin() for _ in range(20)]:  # their threads are there then
    handle.get_result()
infer()
class Raised(BaseException):
    pass
armed = raised = 0
def handler(number, frame):
    global armed, raised
    if armed:
        armed, raised = 0, raised + 1
        raise Raised
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.0021)
handles = []
while raised < 60:
    try:
        armed = 1
        handles.append(begin({options}))
        armed = 0
    except Raised:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
armed = 0
for handle in handles:
    check(handle.get_result())
began = time.monotonic()
infer()
check(begin({options}).get_result())
took = time.monotonic() - began
assert took < 6, took
client.close()
""",
        concurrency,
        pause=0,
    )


@CONCURRENCY
@pytest.mark.parametrize("place", ["before", "behind"])
def test_an_interrupt_while_a_thread_starts_leaves_the_client_usable(run, concurrency, place):
    """The program's end does not wait for the interrupted thread either."""
    run(
        f"""
import threading
class Raised(BaseException):
    pass
armed, start = True, threading.Thread.start
def interrupted(thread):
    global armed
    now, armed = armed, False
    if now and "{place}" == "before":
        raise Raised
    start(thread)
    if now:
        raise Raised
threading.Thread.start = interrupted
try:
    begin()
except Raised:
    pass
armed = False
check(begin().get_result())
infer()
client.close()
""",
        concurrency,
    )
