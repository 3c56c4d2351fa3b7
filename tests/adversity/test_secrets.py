"""Secrets of a request's URL and headers stay out of everything that is shown: one rule for all of it."""

import copy
import logging
import pickle
import traceback

import pytest

from tritonhttp import InferenceServerException, Retry, ServerError
from tritonhttp._basics.log import logger
from tritonhttp.auth import BearerAuth
from tritonhttp.events import Call

from .servers import HEALTHY, Sends, answer

QUERY = {"a": 1, "key": "sesame", "X-Amz-Signature": "sesame", "accessToken": ["sesame1", "sesame2"]}
SHOWN = "?a=1&key=***&X-Amz-Signature=***&accessToken=***&accessToken=***"
HEADERS = {
    "Ocp-Apim-Subscription-Key": "sesame",
    "X-Functions-Key": "sesame",
    "X-Auth": "sesame",
    "X-Plain": "p",
}
LOCATION = "Location: http://u:sesame@elsewhere/?sig=sesame\r\nSet-Cookie: sesame\r\n"

ENDINGS = {
    "an answer": Sends(answer(b'{"name":"healthy","model_name":"healthy","outputs":[]}')),
    "an error": Sends(answer(b'{"error":"no"}', "400 No")),
    "an error that quotes the URL": Sends(answer(b"<p>GET /v2?key=sesame: what?</p>", "404 Not Found")),
    "a redirect": Sends(answer(b"", "302 Found", headers=LOCATION)),
    "no HTTP": Sends(b"nonsense\r\n\r\n"),
    "no JSON": Sends(answer(b"nonsense")),
    "a lost connection": Sends(b"", "close"),
    "no progress": Sends(b"", "hold"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_secrets_are_shown_nowhere(serve, open_client, call, ending, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    seen = []
    client = open_client(
        serve(*[ENDINGS[ending]] * 2).url,
        verbose=True,
        retry=Retry(attempts=2, on=(503,)),
        network_timeout=0.3,
        on_request=lambda told: seen.append(copy.copy(told)),
        on_response=seen.append,
    )
    caught = None
    try:
        assert call(client, query_params=QUERY, headers=HEADERS) == HEALTHY
    except InferenceServerException as error:
        caught = error
    assert (caught is None) == (ending == "an answer")
    out = "".join(capsys.readouterr())
    assert SHOWN in out
    assert SHOWN in caplog.text
    assert "'X-Plain': 'p'" in out
    assert all(isinstance(each, Call) for each in seen)
    assert seen[-1].url.endswith(SHOWN)
    told = f"{out}{caplog.text}{seen}{seen[-1].url}{seen[-1].error!r}"
    if caught is not None:
        told += "".join(traceback.format_exception(type(caught), caught, caught.__traceback__))
        told += f"{caught!r}{caught.message()}{caught.args}{getattr(caught, 'url', '')}"
        told += repr(pickle.loads(pickle.dumps(caught)).args)
        assert getattr(caught, "url", SHOWN).endswith(SHOWN)
    assert "sesame" not in told


def test_without_anybody_who_listens_an_errors_url_hides_them_too(serve, open_client, call):
    client = open_client(serve(ENDINGS["an error"], ENDINGS["a lost connection"]).url)
    for _ in range(2):
        with pytest.raises(InferenceServerException) as caught:
            call(client, query_params=QUERY)
        assert caught.value.url.endswith(SHOWN)
        assert "sesame" not in str(caught.value)


def test_the_server_gets_them(serve, open_client, call):
    server = serve()
    call(open_client(server.url, verbose=True), query_params=QUERY, headers=HEADERS)
    assert (
        b"?a=1&key=sesame&X-Amz-Signature=sesame&accessToken=sesame1&accessToken=sesame2 "
        in server.requests[0]
    )
    assert b"X-Functions-Key: sesame" in server.requests[0]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_takes_no_credentials_to_another_host(serve, open_client, call, status):
    other = serve()
    location = f"Location: http://{other.url}/v2\r\n"
    client = open_client(serve(Sends(answer(b"", status, headers=location))).url)
    client.register_plugin(BearerAuth("sesame"))
    with pytest.raises(ServerError, match=r"redirect to .* not followed"):
        call(client, headers=HEADERS)
    assert other.connections == 0


def test_a_cookie_of_a_server_is_not_kept(serve, open_client, call):
    body = b'{"name":"healthy","model_name":"healthy","outputs":[]}'
    server = serve(Sends(answer(body, headers="Set-Cookie: a=b\r\n"), "go on"))
    client = open_client(server.url)
    for _ in range(2):
        assert call(client) == HEALTHY
    assert len(server.requests) == 2
    assert b"ookie" not in b"".join(server.requests)


HOSTILE = [
    b'{"error": "no\\nWARNING:root:all is well\\u001b[2J\\u2028"}',
    b"<html>no\rWARNING\x1b[2J</html>",
]


@pytest.mark.parametrize("body", HOSTILE)
def test_words_of_a_server_forge_no_line_of_the_log(serve, open_client, body, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    client = open_client(serve(Sends(answer(body, "500 No\x1b[2J"))).url, verbose=True)
    with pytest.raises(InferenceServerException) as caught:
        client.get_server_metadata()
    logger.warning("the server said: %s", caught.value)
    assert len(caplog.records) > 1
    assert all(record.getMessage().isprintable() for record in caplog.records)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2
    assert all(line.isprintable() for line in out.splitlines())


def test_a_proxys_password_is_in_no_representation(open_client):
    client = open_client("127.0.0.1:1", proxy="http://u:sesame@127.0.0.1:1")
    assert "sesame" not in f"{client._options!r} {client!r} {vars(client._transport)}"
