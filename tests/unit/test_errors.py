"""The error tree: what catches what, how errors read, and that they survive pickling and copying."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import errno
import pickle
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tritonhttp import errors
from tritonhttp.errors import (
    CertificateError,
    ConnectError,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    MissingDependency,
    NameResolutionError,
    ProtocolError,
    RequestCancelled,
    ResultNotReady,
    ServerError,
    TLSError,
    TransportError,
    raise_error,
)

EVERY = [getattr(errors, name) for name in errors.__all__ if name != "raise_error"]

TRANSPORT = [each for each in EVERY if issubclass(each, TransportError)]


def made(cls: type[InferenceServerException]) -> InferenceServerException:
    if issubclass(cls, TransportError):
        return cls("it broke", method="POST", url="http://host:8000/v2", phase="receive")
    if issubclass(cls, ServerError):
        return cls("no such model", "404", '{"error":"no such model"}', {"content-type": "application/json"})
    return cls("it broke", "500", {"raw": b"body"})


@pytest.mark.parametrize(
    ("cls", "bases"),
    [
        (ServerError, [InferenceServerException]),
        (TransportError, [InferenceServerException]),
        (ConnectError, [TransportError, ConnectionError, OSError]),
        (ConnectRefused, [ConnectError, ConnectionRefusedError]),
        (ConnectTimeout, [ConnectError, DeadlineExceeded, TimeoutError, ConnectionError]),
        (NameResolutionError, [ConnectError, socket.gaierror]),
        (TLSError, [ConnectError, ssl.SSLError]),
        (CertificateError, [TLSError, ssl.SSLCertVerificationError]),
        (ConnectionLost, [TransportError, ConnectionError]),
        (
            DeadlineExceeded,
            [
                TransportError,
                TimeoutError,
                socket.timeout,
                asyncio.TimeoutError,
                concurrent.futures.TimeoutError,
            ],
        ),
        (ProtocolError, [InferenceServerException]),
        (RequestCancelled, [InferenceServerException, concurrent.futures.CancelledError]),
        (ResultNotReady, [InferenceServerException, TimeoutError, concurrent.futures.TimeoutError]),
        (InvalidRequest, [InferenceServerException, ValueError]),
    ],
)
def test_each_error_is_caught_as_its_bases(cls: type[Exception], bases: list[type[Exception]]) -> None:
    error = made(cls)
    for base in bases:
        with pytest.raises(base) as caught:
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("cls", "other"),
    [
        (ConnectionLost, ConnectError),
        (DeadlineExceeded, ConnectionError),
        (ProtocolError, TransportError),
        (InvalidRequest, TransportError),
        (ServerError, ProtocolError),
    ],
)
def test_siblings_do_not_catch_each_other(cls: type[Exception], other: type[Exception]) -> None:
    assert not issubclass(cls, other)
    assert not issubclass(other, cls)


@pytest.mark.parametrize("cls", EVERY)
def test_every_class_is_in_the_tree_and_documented(cls: type[Exception]) -> None:
    assert issubclass(cls, InferenceServerException)
    assert cls.__doc__
    assert cls.__module__ == "tritonhttp.errors"
    assert f" {cls.__name__} " in f" {errors.__doc__}"


def test_without_a_status_it_reads_as_its_message() -> None:
    assert str(InferenceServerException("gone")) == "gone"


def test_with_a_status_that_comes_first_in_brackets() -> None:
    error = InferenceServerException(msg="gone", status="404", debug_details="raw")
    assert str(error) == "[404] gone"
    assert (error.message(), error.status(), error.debug_details()) == ("gone", "404", "raw")


@pytest.mark.parametrize(
    ("arguments", "options", "shown", "representation"),
    [
        (("m", "404", "d"), {}, "[404] m", "('m', '404', 'd')"),
        (("m",), {"status": "404"}, "[404] m", "('m')"),
        ((), {"msg": "m"}, "m", "()"),
        ((), {"msg": None, "debug_details": "d"}, "", "()"),
        ((), {"msg": None, "status": "404"}, "[404] ", "()"),
        ((None, "404"), {}, "[404] (None, '404')", "(None, '404')"),
    ],
)
def test_args_and_representation_are_as_in_the_reference(
    arguments: Any, options: Any, shown: str, representation: str
) -> None:
    class Own(InferenceServerException):
        pass

    for kind in (InferenceServerException, Own):
        error = kind(*arguments, **options)
        assert (str(error), repr(error)) == (shown, f"{kind.__name__}{representation}")
        assert error.args == arguments


@pytest.mark.parametrize("cls", EVERY)
def test_an_error_of_a_call_shows_its_message(cls: type[InferenceServerException]) -> None:
    error = made(cls)
    assert str(error.message()) in repr(error)
    assert (
        cls is InferenceServerException
        or issubclass(cls, (ProtocolError, InvalidRequest, MissingDependency, RequestCancelled))
        or len(error.args) == 1
    )


def test_message_of_none_is_kept() -> None:
    error = InferenceServerException(None)
    assert error.message() is None
    assert str(error) == "None"
    assert error.status() is None
    assert error.debug_details() is None


@pytest.mark.parametrize("cls", EVERY)
def test_text_and_repr_hold_the_message(cls: type[InferenceServerException]) -> None:
    error = made(cls)
    message = error.message()
    assert message is not None
    assert str(error).endswith(message)
    assert repr(error).startswith(f"{cls.__name__}(")
    assert message in repr(error)


@pytest.mark.parametrize("cls", TRANSPORT)
def test_transport_errors_name_the_request(cls: type[TransportError]) -> None:
    error = cls("it broke", method="GET", url="http://host/v2", phase="send")
    assert str(error) == "GET http://host/v2: it broke"
    assert (error.method, error.url, error.phase) == ("GET", "http://host/v2", "send")


@pytest.mark.parametrize("cls", TRANSPORT)
def test_transport_errors_learn_the_request_later(cls: type[TransportError]) -> None:
    error = cls("it broke", phase="send")
    assert str(error) == "it broke"
    error.locate("GET", "http://host/v2")
    assert str(error) == "GET http://host/v2: it broke"
    assert error.args == ("GET http://host/v2: it broke",)
    assert (error.method, error.url, error.phase) == ("GET", "http://host/v2", "send")


def pickled(error: Exception, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))


COPIES: dict[str, Callable[[Exception], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle 2": lambda error: pickled(error, 2),
    "pickle": lambda error: pickled(error, pickle.HIGHEST_PROTOCOL),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize("cls", EVERY)
def test_a_copy_tells_the_same(
    cls: type[InferenceServerException], duplicate: Callable[[Exception], Any]
) -> None:
    error = made(cls)
    error.note = "added by a program"  # type: ignore[attr-defined]
    other = duplicate(error)
    assert type(other) is cls
    assert other is not error
    assert str(other) == str(error)
    assert repr(other) == repr(error)
    assert other.args == error.args
    assert vars(other) == vars(error)
    assert (other.message(), other.status(), other.debug_details()) == (
        error.message(),
        error.status(),
        error.debug_details(),
    )
    assert getattr(other, "errno", None) == getattr(error, "errno", None)


def test_a_refused_connection_has_its_errno() -> None:
    error = ConnectRefused("nothing listens")
    assert error.errno == errno.ECONNREFUSED
    assert error.phase == "connect"
    assert pickle.loads(pickle.dumps(error)).errno == errno.ECONNREFUSED


def test_server_errors_keep_their_own_headers() -> None:
    headers = {"retry-after": "1"}
    error = ServerError("busy", "503", "", headers)
    headers.clear()
    assert error.headers == {"retry-after": "1"}
    assert ServerError("busy", "503").headers == {}


def test_a_subclass_of_a_program_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(_OfAProgram(7)))
    assert type(error) is _OfAProgram
    assert error.code == 7
    assert str(error) == "code 7"


class _OfAProgram(InferenceServerException):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def test_raise_error_raises_the_references_class() -> None:
    with pytest.raises(InferenceServerException) as caught:
        raise_error("it broke")
    assert type(caught.value) is InferenceServerException
    assert caught.value.message() == "it broke"
    assert caught.value.__suppress_context__


def test_tls_error_is_one_class() -> None:
    assert errors.TLSError is TLSError
    assert TLSError.__qualname__ == "TLSError"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        errors.Nothing  # noqa: B018
