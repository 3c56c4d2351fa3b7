"""Errors of every kind: of the server, of the client's own checks, of the way between them."""

import os
import socket

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException, raise_error


def show(name, call):
    try:
        print(name, call())
    except InferenceServerException as error:
        print(name, "|", error.status(), "|", error.message(), "|", error)


client = httpclient.InferenceServerClient(os.environ["TRITON"])
ints = httpclient.InferInput("INPUT0", [1, 16], "INT32").set_data_from_numpy(np.zeros((1, 16), np.int32))
more = httpclient.InferInput("INPUT1", [1, 16], "INT32").set_data_from_numpy(np.zeros((1, 16), np.int32))
wrong_type = httpclient.InferInput("INPUT1", [1, 16], "FP32").set_data_from_numpy(
    np.zeros((1, 16), np.float32)
)
wrong_shape = httpclient.InferInput("INPUT1", [1, 8], "INT32").set_data_from_numpy(np.zeros((1, 8), np.int32))
wrong_name = httpclient.InferInput("INPUT9", [1, 16], "INT32").set_data_from_numpy(
    np.zeros((1, 16), np.int32)
)
show("no model", lambda: client.infer("nothing", [ints, more]))
show("no version", lambda: client.infer("add_sub", [ints, more], model_version="7"))
show("one input", lambda: client.infer("add_sub", [ints]))
show("no input", lambda: client.infer("add_sub", []))
show("type", lambda: client.infer("add_sub", [ints, wrong_type]))
show("shape", lambda: client.infer("add_sub", [ints, wrong_shape]))
show("name", lambda: client.infer("add_sub", [ints, wrong_name]))
show(
    "output", lambda: client.infer("add_sub", [ints, more], outputs=[httpclient.InferRequestedOutput("NOPE")])
)
try:
    client.infer(
        "repeat", [httpclient.InferInput("IN", [1], "INT32").set_data_from_numpy(np.array([1], np.int32))]
    )
except InferenceServerException as error:  # ours says as well what to use
    words = "HTTP end point doesn't support models with decoupled transaction policy"
    print("decoupled |", error.status(), "|", error.message().startswith(words))
show(
    "model fails",
    lambda: client.infer(
        "fail",
        [
            httpclient.InferInput("MESSAGE", [1], "BYTES").set_data_from_numpy(
                np.array(["on purpose"], object)
            )
        ],
    ),
)
for key in ("sequence_id", "priority", "timeout", "headers", "binary_data_output", "triton_x"):
    show(key, lambda: client.infer("add_sub", [ints, more], parameters={key: 1}))
for datatype, shape, array, binary in (
    ("FP32", [2], np.zeros(2), True),
    ("FP32", [2], np.zeros(3, np.float32), True),
    ("FP32", (2, 1), np.zeros((1, 2), np.float32), False),
    ("FP32", [2], np.zeros((2, 1), np.float32), True),
    ("FP32", [2], [1.0, 2.0], True),
    ("BYTES", [1], np.array([b"\xff"], object), False),
    ("BYTES", [1], np.zeros(1, complex), True),
    ("BF16", [1], np.zeros(1, np.float32), True),
    ("STRING", [1], np.array(["x"], object), True),
):
    show(
        f"set {datatype}",
        lambda: httpclient.InferInput("X", shape, datatype).set_data_from_numpy(array, binary_data=binary),
    )
show("raise_error", lambda: raise_error("words"))
peer = os.environ["PEER"]
show("broken", httpclient.InferenceServerClient(peer + "/broken").get_server_metadata)
show("empty", httpclient.InferenceServerClient(peer + "/empty").get_server_metadata)
print("empty", httpclient.InferenceServerClient(peer + "/empty").is_server_live())
try:
    httpclient.InferenceServerClient(peer + "/text").get_server_metadata()
except InferenceServerException as error:
    print("text", error.status())
try:
    httpclient.InferenceServerClient(os.environ["NOBODY"]).is_server_live()
except ConnectionRefusedError as error:
    print("refused", error.errno)
try:
    httpclient.InferenceServerClient("name.invalid:80").is_server_live()
except socket.gaierror:
    print("no such name")
try:
    httpclient.InferenceServerClient(peer + "/stall", network_timeout=0.3).is_server_live()
except TimeoutError as error:
    print("timeout", "timed out" in str(error))
try:
    httpclient.InferenceServerClient("203.0.113.1:81", connection_timeout=0.3).is_server_live()
except OSError:
    print("not connected")
error = InferenceServerException("words", status="StatusCode.X", debug_details="more")
print(error, error.status(), error.message(), error.debug_details(), str(InferenceServerException(msg="a")))
try:
    raise InferenceServerException(msg="b", status=None)
except Exception as caught:
    print(type(caught).__name__, caught)
