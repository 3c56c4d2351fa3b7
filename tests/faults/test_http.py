"""Answers that are odd HTTP but right, and those that are no HTTP."""

import time

import pytest

from tritonhttp import DeadlineExceeded, ProtocolError

from .servers import HEALTHY, answer, sends, trickles

JSON = b'{"name":"healthy","model_name":"healthy","outputs":[]}'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


def chunks(*pieces, end=b"0\r\n\r\n", extension=b""):
    return b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces) + end


ODD = {
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(HEALTHY),
    "several interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=x\r\n\r\n" + answer(HEALTHY),
    "100 before chunks": b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"\r\n" + chunks(JSON),
    "chunked": CHUNKED + b"\r\n" + chunks(JSON),
    "many small chunks": CHUNKED + b"\r\n" + chunks(*(JSON[i : i + 1] for i in range(len(JSON)))),
    "chunk extensions": CHUNKED + b"\r\n" + chunks(JSON[:9], JSON[9:], extension=b';name="value";flag'),
    "trailers": CHUNKED
    + b"Trailer: X-Sum\r\n\r\n"
    + chunks(JSON, end=b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n"),
    "upper case chunk sizes": CHUNKED + b"\r\n" + b"%X\r\n%s\r\n0\r\n\r\n" % (len(JSON), JSON),
    "no reason": b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n%s" % (len(JSON), JSON),
    "header case": b"HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh:%d\r\n\r\n%s" % (len(JSON), JSON),
    "white space": b"HTTP/1.1 200 OK\r\nContent-Length:  \t%d \r\nX-Empty:\r\n\r\n%s" % (len(JSON), JSON),
    "Latin-1 in a header": answer(HEALTHY, headers="X-Name: caf\xe9\r\n"),
    "a header that repeats": answer(HEALTHY, headers="Set-Cookie: a\r\nSet-Cookie: b\r\n"),
    "many headers": answer(HEALTHY, headers="".join(f"X-{n}: {n}\r\n" for n in range(200))),
    "a long header": answer(HEALTHY, headers=f"X-Long: {'x' * 60_000}\r\n"),
    "HTTP/1.0, kept alive": answer(HEALTHY, headers="Connection: keep-alive\r\n", version="1.0"),
    "another status of success": answer(HEALTHY, "202 Accepted"),
}


@pytest.mark.parametrize("kind", sorted(ODD))
def test_odd_answers_are_understood_and_the_connection_is_kept(serve, open_client, call, recovers, kind):
    server = serve(sends(ODD[kind], then="go on"))
    client = open_client(server.url, network_timeout=5)
    assert call(client) == HEALTHY
    recovers(client)
    assert server.connections == 1


@pytest.mark.parametrize("kind", ["100 first", "several interim answers", "trailers", "many small chunks"])
def test_odd_answers_are_understood_byte_by_byte(serve, open_client, call, recovers, kind):
    server = serve(trickles(ODD[kind], pause=0.0005))
    client = open_client(server.url, network_timeout=5)
    assert call(client) == HEALTHY
    recovers(client)
    assert server.connections == 1


@pytest.mark.parametrize("client_kind", ["blocking"])  # whose limit is for each step
def test_a_server_that_trickles_makes_progress(serve, open_client, call, recovers):
    data = answer(HEALTHY)
    server = serve(trickles(data, pause=0.05, step=6))
    client = open_client(server.url, network_timeout=0.6)
    before = time.monotonic()
    assert call(client) == HEALTHY
    assert time.monotonic() - before > 0.6
    recovers(client)


def test_a_server_that_trickles_too_slowly_is_a_deadline(serve, fails):
    server = serve(trickles(answer(HEALTHY), pause=0.5, step=10))
    fails(server, DeadlineExceeded, "timed out.*bytes of the response's head", network_timeout=0.2)


LAST = {
    "until the connection ends": (b"HTTP/1.1 200 OK\r\n\r\n" + JSON, "close"),
    "HTTP/1.0 until the connection ends": (b"HTTP/1.0 200 OK\r\n\r\n" + JSON, "close"),
    "HTTP/1.0 with a length": (answer(HEALTHY, version="1.0"), "hold"),
    "Connection: close": (answer(HEALTHY, headers="Connection: close\r\n"), "hold"),
    "chunked and closed": (CHUNKED + b"Connection: close\r\n\r\n" + chunks(JSON), "close"),
    "more than its length": (answer(HEALTHY) + b"extra bytes", "hold"),
    "two answers": (answer(HEALTHY) + answer({"name": "not yours"}), "hold"),
    "two chunked answers": (2 * (CHUNKED + b"\r\n" + chunks(JSON)), "hold"),
    "bytes behind the chunks": (CHUNKED + b"\r\n" + chunks(JSON) + b"extra", "hold"),
}


@pytest.mark.parametrize("kind", sorted(LAST))
def test_answers_behind_which_the_connection_is_of_no_use(serve, open_client, call, recovers, kind):
    data, then = LAST[kind]
    server = serve(sends(data, then))
    client = open_client(server.url, network_timeout=5)
    assert call(client) == HEALTHY
    recovers(client)
    assert server.connections == 2
    assert len(server.requests) == 3


def test_a_second_answer_that_comes_late_is_not_the_next_calls(serve, open_client, call, recovers):
    def script(peer):
        peer.read_request()
        peer.send(answer(HEALTHY))
        time.sleep(0.05)
        peer.send(answer({"name": "not yours", "model_name": "not yours"}))
        peer.hold()

    client = open_client(serve(script).url)
    assert call(client) == HEALTHY
    time.sleep(0.15)
    recovers(client)


def test_a_body_until_the_end_may_be_large(serve, open_client):
    filler = b" " * 3_000_000
    client = open_client(serve(sends(b"HTTP/1.1 200 OK\r\n\r\n" + filler + JSON)).url)
    assert client.get_server_metadata() == HEALTHY
    assert client.get_server_metadata() == HEALTHY


def test_a_chunked_body_may_be_large(serve, open_client):
    pieces = [b" " * 100_000] * 20
    client = open_client(serve(sends(CHUNKED + b"\r\n" + chunks(*pieces, JSON), "go on")).url)
    assert client.get_server_metadata() == HEALTHY
    assert client.get_server_metadata() == HEALTHY


BROKEN = {
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", "begin with b'SSH-2.0"),
    "binary": (b"\x15\x03\x01\x00\x02\x02\x46", r"begin with b'\\x15"),
    "a page without HTTP": (b"<html>hello</html>\r\n\r\n", "begin with b'<html>"),
    "HTTP/2": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1"),
    "a status that is no number": (b"HTTP/1.1 two OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 response"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 response"),
    "a line without a colon": (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 response"),
    "a space in a name": (b"HTTP/1.1 200 OK\r\nContent Length: 2\r\n\r\n{}", "HTTP/1.1 response"),
    "a space before the colon": (b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}", "HTTP/1.1 response"),
    "lines that end in LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", "HTTP/1.1 response"),
    "a length that is no number": (answer(b"", length="two"), "HTTP/1.1 response"),
    "a negative length": (answer(b"", length=-1), "HTTP/1.1 response"),
    "a length past 64 bits": (answer(b"", length=2**64), "HTTP/1.1 response"),
    "two framings": (
        CHUNKED + b"Content-Length: 3\r\n\r\n" + chunks(JSON),
        "HTTP/1.1 response.*Transfer-Encoding",
    ),
    "a length of exabytes": (answer(b"", length=2**62), "more than there is memory for"),
    "two lengths": (answer(b"{}", headers="Content-Length: 5\r\n"), "HTTP/1.1 response"),
    "a list of lengths": (answer(b"{}", length="2, 5"), "HTTP/1.1 response"),
    "a chunk size that is no number": (CHUNKED + b"\r\nxyz\r\n{}\r\n0\r\n\r\n", "HTTP/1.1 response"),
    "a negative chunk size": (CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n", "HTTP/1.1 response"),
    "a chunk size past 64 bits": (CHUNKED + b"\r\n1" + b"0" * 17 + b"\r\n{}\r\n", "HTTP/1.1 response"),
    "a chunk longer than its size": (CHUNKED + b"\r\n2\r\n{}{}\r\n0\r\n\r\n", "HTTP/1.1 response"),
    "a head without an end": (
        b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"x" * 70_000,
        "head is longer than 65536 bytes",
    ),
    "too many headers": (
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(300)) + b"\r\n",
        "more than 256 header lines",
    ),
    "another protocol, unasked": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "another protocol",
    ),
    "101 without a word": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "another protocol|101"),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_what_is_no_http_is_refused_and_says_what_came(serve, fails, kind):
    data, match = BROKEN[kind]
    server = serve(sends(data, then="hold"))
    error = fails(server, ProtocolError, match, network_timeout=2)
    assert f"http://{server.url}/v2" in error.message()
    assert error.message().startswith(("GET ", "POST "))
    assert len(error.message()) < 1000
    assert server.connections == 2


@pytest.mark.parametrize("kind", sorted(kind for kind in BROKEN if len(BROKEN[kind][0]) < 1000))
def test_what_is_no_http_is_refused_byte_by_byte(serve, open_client, kind):
    data, match = BROKEN[kind]
    # The first byte may already be wrong: then the message cannot show more.
    match = match if match[:10] != "begin with" else "begin with b"
    client = open_client(serve(trickles(data, pause=0)).url, network_timeout=2)
    with pytest.raises(ProtocolError, match=match):
        client.get_server_metadata()
    assert client.get_server_metadata() == HEALTHY


def test_interim_answers_without_end_are_bounded(serve, open_client):
    def script(peer):
        peer.read_request()
        while True:
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    client = open_client(serve(script).url, network_timeout=1)
    before = time.monotonic()
    with pytest.raises(ProtocolError, match="interim"):
        client.get_server_metadata()
    assert time.monotonic() - before < 5
    assert client.get_server_metadata() == HEALTHY
