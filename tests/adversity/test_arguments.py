"""Arguments of wrong types: each public method refuses them by name, and nothing is sent."""

import numpy as np
import pytest

from tritonhttp import InferenceServerClient, InferInput, InferRequestedOutput, InvalidRequest

from ..clients import tensor
from .servers import HEALTHY

DATA = np.zeros(3, np.float32)
X = tensor("INPUT0", DATA)
LONE = "a\ud800"
#: What no name can be; in a list, so that pytest does not compare arrays.
NO_NAMES = [
    5,
    0,
    True,
    1.5,
    b"m",
    ["m"],
    [],
    {"m": 1},
    {"m"},
    np.arange(2),
    np.array(["m"]),
    object(),
    len,
    LONE,
]
#: As text of a body, UTF-8 may be bytes.
NO_TEXTS = [b"\xff" if isinstance(name, bytes) else name for name in NO_NAMES]
NO_VERSIONS = [None, True, np.True_, 1.0, b"1", ["1"], [], np.array([1]), np.array(1.5), LONE]
NO_FLAGS = [None, "yes", "", 2, 1.0, b"", [], [True], np.array([True, False]), object()]
NO_HEADERS = [
    None,
    [None],
    [LONE],
    {"a": 1},
    {"a"},
    DATA,
    object(),
    len,
    "a\0",
    "a\r\nb",
    "a\n",
    LONE,
    "a\udc80",
]
NO_MAPPINGS = [5, 0, "a=1", "", b"a", ["a"], [], DATA, np.array([]), object()]
KEYS = [5, None, True, b"a", ("a",), LONE]


def placed(name="INPUT0", shape=(3,), datatype="FP32", region="r"):
    made = InferInput(name, shape, datatype)
    made.set_shared_memory(region, 12)
    return made


def infer(client, *inputs, **options):
    return client.infer("healthy", list(inputs) or [X], **options)


def region(client, **options):
    with client.shared_memory(**options):
        pass


#: What is called, the argument's name in the error, and the values that it refuses.
REFUSED = {
    "infer, model": (lambda c, v: c.infer(v, [X]), "model_name", [*NO_NAMES, None, ""]),
    "infer, version": (lambda c, v: c.infer("m", [X], v), "version", NO_VERSIONS),
    "infer, compressed": (
        lambda c, v: c.infer(v, [X], request_compression_algorithm="gzip"),
        "model_name",
        [*NO_NAMES, None],
    ),
    "infer, sequence": (
        lambda c, v: c.infer(v, [X], sequence_id=1, sequence_start=True),
        "model_name",
        [*NO_NAMES, None],
    ),
    "request_id": (lambda c, v: infer(c, request_id=v), "request_id", NO_NAMES),
    "sequence_id": (
        lambda c, v: infer(c, sequence_id=v),
        "sequence_id",
        [True, None, 1.5, -1, b"1", [1], {1}, DATA, LONE],
    ),
    "sequence_start": (lambda c, v: infer(c, sequence_id=1, sequence_start=v), "sequence_start", NO_FLAGS),
    "sequence_end": (lambda c, v: infer(c, sequence_id=1, sequence_end=v), "sequence_end", NO_FLAGS),
    "priority": (lambda c, v: infer(c, priority=v), "priority", [True, 1.5, -1, "1", [1], DATA]),
    "timeout": (lambda c, v: infer(c, timeout=v), "timeout", [True, False, 1.5, -1, "1", [], [1], DATA]),
    "deadline": (lambda c, v: infer(c, deadline=v), "deadline", [True, "1", [], [1], DATA]),
    "compression": (
        lambda c, v: infer(c, request_compression_algorithm=v),
        "compression",
        [1, "br", b"gzip", ["gzip"], {"gzip"}, DATA],
    ),
    "response compression": (
        lambda c, v: infer(c, response_compression_algorithm=v),
        "compression",
        [1, "br", b"gzip", ["gzip"], {"gzip"}, DATA],
    ),
    "outputs": (lambda c, v: infer(c, outputs=v), "outputs", [5, "o", ["o"], [X], DATA]),
    "headers": (lambda c, v: infer(c, headers=v), "headers", NO_MAPPINGS),
    "headers, a name": (lambda c, v: infer(c, headers={v: "a"}), "header name", [*KEYS, "a b", "é"]),
    "headers, a value": (lambda c, v: infer(c, headers={"X-Own": v}), "'X-Own'", NO_HEADERS),
    "query_params": (lambda c, v: infer(c, query_params=v), "query_params", NO_MAPPINGS),
    "query, a name": (
        lambda c, v: infer(c, query_params={v: 1}),
        "query parameter",
        [None, ("a",), len, LONE],
    ),
    "query, a value": (
        lambda c, v: infer(c, query_params={"own": v}),
        "'own'",
        [{"a": 1}, {1}, DATA, [[1]], object(), len, LONE, [LONE], "\0", "a\r\nb"],
    ),
    "metadata, headers": (lambda c, v: c.get_server_metadata(headers=v), "headers", NO_MAPPINGS),
    "metadata, a header": (lambda c, v: c.get_server_metadata(headers={"X-Own": v}), "'X-Own'", NO_HEADERS),
    "metadata, query": (lambda c, v: c.get_server_metadata(query_params=v), "query_params", NO_MAPPINGS),
    "parameters": (lambda c, v: infer(c, parameters=v), "parameters", NO_MAPPINGS),
    "parameters, a name": (lambda c, v: infer(c, parameters={v: 1}), "name of a parameter", KEYS),
    "parameters, a value": (
        lambda c, v: infer(c, parameters={"own": v}),
        "'own'",
        [b"\xff", {1}, len, LONE, [LONE]],
    ),
    "an input's name": (lambda c, v: infer(c, tensor(v, DATA)), "name of an input", [*NO_NAMES, None]),
    "an input's name, JSON": (
        lambda c, v: infer(c, tensor(v, DATA, binary_data=False)),
        "name of an input",
        [*NO_NAMES, None],
    ),
    "an input's name, compressed": (
        lambda c, v: infer(c, tensor(v, DATA), request_compression_algorithm="gzip"),
        "name of an input",
        [*NO_NAMES, None],
    ),
    "an input's name, in a body": (
        lambda c, v: c.generate_request_body([tensor(v, DATA)]),
        "name of an input",
        [*NO_NAMES, None],
    ),
    "an input's datatype": (
        lambda c, v: infer(c, placed(datatype=v)),
        "datatype of input 'INPUT0'",
        NO_NAMES,
    ),
    "an input's size": (
        lambda c, v: infer(c, placed(shape=[v])),
        "shape of input 'INPUT0'",
        [None, True, "3", b"3", [3], DATA],
    ),
    "an array as datatype": (
        lambda c, v: InferInput("x", [3], v).set_data_from_numpy(DATA),
        "datatype",
        [DATA, ["FP32"], None, 5],
    ),
    "an array as size": (
        lambda c, v: InferInput("x", v, "FP32").set_data_from_numpy(DATA),
        "shape",
        [[DATA], [[3]]],
    ),
    "an input's region": (lambda c, v: placed(region=v), "region_name", [*NO_NAMES, None]),
    "an output's name": (
        lambda c, v: infer(c, outputs=[InferRequestedOutput(v)]),
        "name of an output",
        [*NO_NAMES, None],
    ),
    "binary_data": (lambda c, v: InferRequestedOutput("y", v), "binary_data", NO_FLAGS),
    "class_count": (
        lambda c, v: InferRequestedOutput("y", True, v),
        "class_count",
        [True, 1.5, -1, "1", [], DATA],
    ),
    **{
        method: (lambda c, v, method=method: getattr(c, method)(v), "model_name", [*NO_NAMES, None])
        for method in (
            *("is_model_ready", "get_model_metadata", "get_model_config", "get_inference_statistics"),
            *("load_model", "unload_model", "model"),
        )
    },
    **{
        f"{method}, version": (lambda c, v, method=method: getattr(c, method)("m", v), "version", NO_VERSIONS)
        for method in (
            *("is_model_ready", "get_model_metadata", "get_model_config", "get_inference_statistics"),
            "model",
        )
    },
    "get_trace_settings": (lambda c, v: c.get_trace_settings(v), "model_name", NO_NAMES),
    "update_trace_settings": (lambda c, v: c.update_trace_settings(v, {"a": 1}), "model_name", NO_NAMES),
    "wait_until_ready": (lambda c, v: c.wait_until_ready(1, v), "model_name", NO_NAMES),
    "load_model, config": (lambda c, v: c.load_model("m", config=v), "config", NO_TEXTS),
    "load_model, files": (lambda c, v: c.load_model("m", config="{}", files=v), "files", NO_MAPPINGS),
    "load_model, a path": (
        lambda c, v: c.load_model("m", config="{}", files={v: b""}),
        "path in files",
        [*KEYS, "x", f"file:{LONE}"],
    ),
    "load_model, a file": (
        lambda c, v: c.load_model("m", config="{}", files={"file:a": v}),
        "'file:a'",
        ["", 5, None, ["a"]],
    ),
    "unload_dependents": (
        lambda c, v: c.unload_model("m", unload_dependents=v),
        "unload_dependents",
        NO_FLAGS,
    ),
    "settings": (lambda c, v: c.update_log_settings(v), "settings", [*NO_MAPPINGS, None]),
    "settings, a name": (lambda c, v: c.update_log_settings({v: 1}), "name in settings", KEYS),
    "settings, a value": (lambda c, v: c.update_log_settings({"own": v}), "'own'", [b"\xff", {1}, len, LONE]),
    **{
        method: (lambda c, v, method=method: getattr(c, method)(v), "name", [*NO_NAMES, None])
        for kind in ("system", "cuda")
        for method in (f"get_{kind}_shared_memory_status", f"unregister_{kind}_shared_memory")
    },
    "register, name": (
        lambda c, v: c.register_system_shared_memory(v, "/k", 8),
        "name",
        [*NO_NAMES, None, ""],
    ),
    "register, key": (lambda c, v: c.register_system_shared_memory("n", v, 8), "key", [*NO_TEXTS, None]),
    "register, byte_size": (
        lambda c, v: c.register_system_shared_memory("n", "/k", v),
        "byte_size",
        [True, 1.5, -1, "8", None, [8], DATA],
    ),
    "register cuda, name": (
        lambda c, v: c.register_cuda_shared_memory(v, b"a", 0, 8),
        "name",
        [*NO_NAMES, None, ""],
    ),
    "register cuda, raw_handle": (
        lambda c, v: c.register_cuda_shared_memory("n", v, 0, 8),
        "raw_handle",
        [5, None, ["a"], b"\xff", LONE, DATA],
    ),
    "shared_memory, key": (lambda c, v: region(c, byte_size=64, key=v), "key", NO_NAMES),
    "generate, model": (lambda c, v: c.generate(v, {}), "model_name", [*NO_NAMES, None]),
    "generate, version": (lambda c, v: c.generate("m", {}, v), "version", NO_VERSIONS),
    "generate, inputs": (lambda c, v: c.generate("m", v), "inputs", [*NO_MAPPINGS, None]),
    "generate, an input": (lambda c, v: c.generate("m", {v: 1}), "name", [*KEYS, "id", "parameters"]),
    "generate, a value": (
        lambda c, v: c.generate("m", {"own": v}),
        "'own'",
        [{1}, len, b"\xff", LONE, [LONE]],
    ),
    "generate, parameters": (lambda c, v: c.generate("m", {}, parameters=v), "parameters", NO_MAPPINGS),
    "generate, request_id": (lambda c, v: c.generate("m", {}, request_id=v), "request_id", NO_NAMES),
    "generate_stream, request_id": (
        lambda c, v: list(c.generate_stream("m", {}, request_id=v)),
        "request_id",
        NO_NAMES,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_argument_of_another_type_is_refused_by_name(serve, open_client, what):
    server = serve()
    client = open_client(server.url)
    call, name, values = REFUSED[what]
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            call(client, value)
        assert name in caught.value.message(), value
        assert len(caught.value.message()) < 1000
    assert server.requests == []


@pytest.mark.parametrize(
    "what", [name for name, (call, *_) in REFUSED.items() if "infer" in call.__code__.co_names]
)
def test_async_infer_refuses_the_same(serve, what):
    server = serve()
    client = InferenceServerClient(server.url)

    class Other:
        def infer(self, *args, **options):
            return client.async_infer(*args, **options).get_result()

    call, name, values = REFUSED[what]
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            call(Other(), value)
        assert name in caught.value.message(), value
    client.close()
    assert server.requests == []


def test_a_version_that_is_refused_is_not_found_where_an_equal_one_was_sent(serve, open_client):
    server = serve()
    client = open_client(server.url)
    for _ in range(3):
        for version in (1, "1", np.int64(1)):
            assert client.infer("healthy", [X], version).get_response() == HEALTHY
            assert b"/versions/1/infer " in server.requests[-1]
        for version in (True, 1.0):
            with pytest.raises(InvalidRequest, match="version"):
                client.infer("healthy", [X], version)


def test_what_has_a_text_form_is_sent(serve, open_client):
    server = serve()
    client = open_client(server.url)
    headers = {
        "X-A": 5,
        "X-B": 1.5,
        "X-C": True,
        "X-D": "ü",
        "X-E": b"\xff",
        "X-F": np.int64(3),
        np.str_("X-G"): "g",
    }
    query = {"a": 5, "b": [1.5, True, None], "c": "ü", "d": b"\xff", 1: np.float32(0.5)}
    client.infer("healthy", [X], headers=headers, query_params=query)
    (head,) = server.requests
    for line in (b"X-A: 5", b"X-B: 1.5", b"X-C: True", b"X-D: \xc3\xbc", b"X-E: \xff", b"X-F: 3", b"X-G: g"):
        assert b"\r\n%b\r\n" % line in head
    assert b"?a=5&b=1.5&b=True&b=None&c=%C3%BC&d=%FF&1=0.5 HTTP/1.1\r\n" in head


def test_a_header_line_given_as_a_name_shows_no_value(open_client):
    with pytest.raises(InvalidRequest, match="header name 'Authorization:…' is not a token") as caught:
        open_client("127.0.0.1:1").is_server_live(headers={"Authorization: Bearer sesame": ""})
    assert "sesame" not in str(caught.value)
