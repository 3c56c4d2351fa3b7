"""Each fault of the table, on both clients: the right error in time, and a client that still works."""

import contextlib
import gc
import re
import socket
import threading
import time
import tracemalloc

import pytest

from tritonhttp import InferenceServerException, Retry, TransportError
from tritonhttp._repetition.repeater import REPEATS
from tritonhttp._wire import compression
from tritonhttp._wire.http1 import ResponseReader

from ..clients import KINDS
from . import faults
from .conftest import CALLS
from .faults import AMPLE, FAULTS, SHORT, Fault
from .servers import HEALTHY, Answers, Sends, Server, Trickles, behind_equal_answers, healthy

#: Seconds that may pass, on a busy machine, between a deadline and its error.
GRACE = 6.0


def cases():
    """Yield each fault with all of its calls, and its further variants with one."""
    for fault in FAULTS:
        for position, variant in enumerate(fault.scripts or [""]):
            for call in fault.calls if fault.warm or not position else fault.calls[-1:]:
                yield pytest.param(
                    fault, variant, call, id="-".join(filter(None, (fault.name, variant, call)))
                )


@contextlib.contextmanager
def faulty(fault, variant, equal=0):
    """Run the fault's server; yield it, its URL, and a function that ends what is wrong with its connects.

    The fault strikes after so many equal answers.
    """
    behind = faults.tls("good", healthy) if fault.tls else healthy
    scripts = (fault.scripts[variant], behind) if fault.scripts else (behind,)
    if equal:
        script = scripts[0]
        data = faults.expected(script)
        scripts = behind_equal_answers(data, script, equal), Answers(data)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(scripts, answers_connects=fault.answers_connects))
        known = threading.Event()
        if fault.look_up:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(socket, "getaddrinfo", look_up(fault, known))
            stack.callback(known.set)

        def mend():
            server.mend()
            known.set()

        yield server, f"{fault.host}:{server.port}", mend


def look_up(fault, known):
    real = socket.getaddrinfo

    def getaddrinfo(host, *rest, **options):
        if host != fault.host or options.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(host, *rest, **options)
        if not known.is_set():
            if fault.look_up == "fails":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            known.wait()
        return real("127.0.0.1", *rest, **options)

    return getaddrinfo


def options_of(fault):
    return {"ssl": True, "ssl_context_factory": faults.trusting} if fault.tls else {}


@pytest.fixture(autouse=True)
def _low_limits(monkeypatch):
    """Let a bomb of a size that a test can afford be too large."""
    monkeypatch.setattr(compression, "MAX_DECOMPRESSED", 1 << 22)


@pytest.mark.parametrize(("fault", "variant", "name"), list(cases()))
def test_each_fault_has_the_documented_outcome(fault: Fault, variant, name, open_client):
    with faulty(fault, variant) as (server, url, mend):
        client = open_client(url, **options_of(fault))
        meet(fault, name, client, server, mend)
        client.close()


#: After so many equal inferences the client knows the answer, and the extension carries out the next one.
EQUAL = 3

REPEATED = [
    pytest.param(fault, variant, id="-".join(filter(None, (fault.name, variant))))
    for fault in FAULTS
    if "infer" in fault.calls and not fault.tls
    for variant in fault.scripts
]


@pytest.mark.skipif(not REPEATS, reason="no extension was built")
@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize(("fault", "variant"), REPEATED)
def test_each_fault_has_the_documented_outcome_after_equal_inferences(fault: Fault, variant, open_client):
    with faulty(fault, variant, EQUAL) as (server, url, mend):
        client = open_client(url)
        transport = client._transport
        for _ in range(EQUAL):
            assert CALLS["infer"](client) == HEALTHY
        assert transport.repeater.calls == EQUAL - 1
        # On a connection that is seen to be unusable, nothing is repeated.
        repeated = not (fault.warm and fault.error is None)
        error = meet(fault, "infer", client, server, mend, EQUAL)
        # Where the connection was replaced, the next call had none to repeat its request on.
        behind = 2 if server.connections == 1 or not repeated else 1
        assert transport.repeater.calls == EQUAL - 1 + repeated + behind
        pool = transport.pool
        assert pool.taken == len(pool.idle) == len(transport._connections) == 1
        client.close()
    script = fault.scripts[variant]
    if error is not None and type(script) is Sends and fault.limit != SHORT and script.then != "reset":
        with Server((script,)) as server:
            client = open_client(server.url)
            with pytest.raises(type(error)) as caught:
                CALLS["infer"](client, deadline=fault.limit)
            assert told(caught.value) == told(error)
            client.close()


def told(error):
    """Return an error's type and message, without the server's port."""
    parts = type(error), error.message(), error.status(), getattr(error, "phase", None)
    return [re.sub(r"127\.0\.0\.1:\d+", "server", str(part)) for part in parts]


def meet(fault, name, client, server, mend, before=0):
    """Let a call meet the fault after so many requests; check its outcome, and that the client still works.

    Return the error, where there was one.
    """
    call, error = CALLS[name], None
    if fault.warm:
        assert CALLS["metadata"](client, deadline=5) == HEALTHY
        # Bytes on the idle connection come before the next call.
        time.sleep(0.08 if fault.again == "no" and fault.error is None else 0)
    began = time.monotonic()
    if fault.error is None or (fault.again == "if repeatable" and name == "metadata"):
        assert call(client, deadline=fault.limit) == HEALTHY
        again = fault.again != "no"
    else:
        with pytest.raises(fault.error) as caught:
            call(client, deadline=fault.limit)
        error = caught.value
        check_error(fault, error)
        assert getattr(error, "seen", 0) == fault.before
        again = False
    took = time.monotonic() - began
    assert took < fault.limit + GRACE
    if fault.limit == SHORT:
        assert took >= 0.9 * SHORT
    requests = len(server.requests)
    mend()
    connections = server.connections
    for _ in range(2):
        assert call(client, deadline=5) == HEALTHY
    # An unusable connection is replaced at once or by the next call; any other serves the next call.
    assert server.connections == (1 if fault.kept or not fault.scripts else 2)
    assert not again or connections == 2
    assert len(server.requests) == requests + 2
    assert requests <= before + fault.warm + 1 + again
    return error


def check_error(fault, error):
    assert isinstance(error, InferenceServerException)
    message = error.message()
    place = 0
    for part in fault.says:
        assert part in message[place:], message
        place = message.index(part, place)
    assert len(message) < 1000
    assert error.status() == fault.status
    if isinstance(error, TransportError):
        assert error.method in ("GET", "POST")
        assert error.url.startswith(("http://", "https://"))
        assert message.startswith(f"{error.method} {error.url}: ")
        assert error.phase in ("resolve", "connect", "tls", "send", "receive")
        if fault.ran == "no" and error.phase == "receive":
            assert fault.tls or isinstance(fault.error, tuple)


RETRIED = [
    pytest.param(fault, name, id=f"{fault.name}-{name}")
    for fault in FAULTS
    if fault.error is not None and fault.limit != SHORT and not isinstance(fault.error, tuple)
    # What is not tried again is not even for a call that may be repeated.
    for name in (fault.calls if fault.tried_again() != "no" else fault.calls[:1])
]


@pytest.mark.parametrize(("fault", "name"), RETRIED)
def test_each_fault_is_retried_only_as_documented(fault, name, open_client):
    """`Retry()` does what the table says; a call that must not be repeated is not repeated."""
    tried_again = fault.tried_again() == "yes" or (fault.tried_again() != "no" and name == "metadata")
    variant = next(iter(fault.scripts), "")
    with faulty(fault, variant) as (_, url, mend):
        retries = []
        client = open_client(
            url,
            retry=Retry(backoff=0.001),
            on_retry=lambda call, reason, delay: (retries.append(reason), mend()),
            **options_of(fault),
        )
        call = CALLS[name]
        if fault.warm:
            assert CALLS["metadata"](client, deadline=5) == HEALTHY
        if tried_again or (fault.again == "if repeatable" and name == "metadata"):
            assert call(client, deadline=AMPLE) == HEALTHY
            assert len(retries) == (fault.again == "no")
        else:
            with pytest.raises(fault.error):
                call(client, deadline=AMPLE)
            assert not retries
        client.close()


def test_the_table_of_faults_in_the_documents_is_up_to_date():
    expected = faults.section()
    assert faults.documented() == expected, "run python -m tests.adversity.faults"
    assert len(FAULTS) >= 50
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


SENT = [
    pytest.param(fault, script, id=f"{fault.name}-{variant}")
    for fault in FAULTS
    for variant, script in fault.scripts.items()
    if type(script) is Sends
    and 0 < len(script.data) < 1000
    and fault.limit != SHORT
    and script.then != "reset"
    # Bytes that come after an answer, and later, are read by the next call.
    and fault.name not in ("more than the answer", "a Content-Length that is too small")
]


@pytest.mark.parametrize(("fault", "script"), SENT)
def test_a_fault_that_comes_byte_by_byte_has_the_same_outcome(fault, script, open_client):
    """The outcome does not depend on the pieces in which an answer comes."""
    with Server((Trickles(script.data, script.then, pause=0), healthy)) as server:
        client = open_client(server.url)
        meet_in_pieces(fault, CALLS[fault.calls[0]], client, server)
        client.close()


def meet_in_pieces(fault, call, client, server):
    whole = [part for part in fault.says if not part.startswith(("got bytes that begin with", "got HTTP/2"))]
    if fault.error is None:
        assert call(client, deadline=5) == HEALTHY
    else:
        with pytest.raises(fault.error) as caught:
            call(client, deadline=5)
        assert all(part in caught.value.message() for part in whole)
    assert call(client, deadline=5) == HEALTHY
    assert server.connections == (1 if fault.kept else 2)


@pytest.mark.skipif(not REPEATS, reason="no extension was built")
@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize(("fault", "script"), [case for case in SENT if "infer" in case.values[0].calls])
def test_a_fault_byte_by_byte_after_equal_inferences_has_the_same_outcome(fault, script, open_client):
    data = faults.expected(script)
    pieces = Trickles(script.data, script.then, pause=0)
    with Server((behind_equal_answers(data, pieces, EQUAL), Answers(data))) as server:
        client = open_client(server.url)
        for _ in range(EQUAL):
            assert CALLS["infer"](client) == HEALTHY
        meet_in_pieces(fault, CALLS["infer"], client, server)
        assert client._transport.repeater.calls == EQUAL + fault.kept
        client.close()


QUICK = [
    (script, "stream" if fault.calls == faults.STREAM else "infer")
    for fault in FAULTS
    if fault.limit != SHORT and not fault.tls and not fault.warm and fault.calls != faults.LARGE
    for script in fault.scripts.values()
    if "bomb" not in fault.name
]


def test_one_client_outlives_every_fault_and_keeps_nothing_of_them(client_kind):
    """One client, one fault after the other, each followed by a call that is fine; no memory is left of them."""
    due = []

    def next_fault(peer):
        peer.go_on = next_fault
        while peer.sock.recv(1, socket.MSG_PEEK):
            if due:
                due.pop()(peer)
                return
            peer.read_request()
            peer.send(faults.expected(next_fault))

    def round_of(client):
        for script, call in QUICK:
            due.append(script)
            with contextlib.suppress(InferenceServerException):
                CALLS[call](client, deadline=5)
            assert not due
            # The next fault meets a connection that has carried an inference whose answer is expected again.
            for call_again in CALLS["metadata"], CALLS["infer"]:
                assert call_again(client, deadline=5) == HEALTHY

    with Server((next_fault,)) as server:
        client = KINDS[client_kind](server.url)
        try:
            round_of(client)
            tracemalloc.start()
            round_of(client)
            kept = measure(server)
            round_of(client)
            assert measure(server) - kept < 100_000
            readers = [each for each in gc.get_objects() if isinstance(each, ResponseReader)]
            assert len(readers) <= 2
            if client_kind == "blocking" and REPEATS:
                assert client._transport.repeater.calls > 3 * len(QUICK)
        finally:
            tracemalloc.stop()
            client.close()


def measure(server):
    server.requests.clear()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
