"""Plugins and headers: what a plugin sees, what the server gets, what is refused."""

import os

import numpy as np
import tritonclient.http as httpclient
from tritonclient.http import InferenceServerClientPlugin, Request
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException


class Show(InferenceServerClientPlugin):
    def __call__(self, request):
        print("plugin", type(request).__name__, request.headers)
        request.headers["X-Plugin"] = "here"


class Fails(InferenceServerClientPlugin):
    def __call__(self, request):
        raise KeyError("of the plugin")


client = httpclient.InferenceServerClient(os.environ["PEER"] + "/echo")
print(client.plugin())
show = Show()
print(client.register_plugin(show), client.plugin() is show)
try:
    client.register_plugin(Show())
except InferenceServerException as error:
    print(error, error.status())
print(client.get_server_metadata())
print(client.get_server_metadata(headers={"X-Own": "1", "X-Number": 5}))
print(client.unregister_plugin(), client.plugin())
try:
    client.unregister_plugin()
except InferenceServerException as error:
    print(error)
client.register_plugin(BasicAuth("Aladdin", "open sesame"))
print(client.get_server_metadata(headers={"authorization": "mine"}))
client.unregister_plugin()
client.register_plugin(Fails())
try:
    client.get_server_metadata()
except KeyError as error:
    print(error)
client.unregister_plugin()
try:
    client.get_server_metadata(headers={"Transfer-Encoding": "chunked"})
except InferenceServerException as error:
    print(error)
try:
    Abstract = type("Abstract", (InferenceServerClientPlugin,), {})
    Abstract()
except TypeError:
    print("abstract")
try:
    BasicAuth("ü", "x")
except UnicodeEncodeError:
    print("ASCII only")
except ValueError:
    print("ASCII only")
print(Request(None).headers, Request({"a": "b"}).headers)

real = httpclient.InferenceServerClient(os.environ["TRITON"])
real.register_plugin(show)
tensor = httpclient.InferInput("INPUT0", [2], "INT32").set_data_from_numpy(np.array([1, 2], np.int32))
print(real.infer("identity_int32", [tensor], headers={"X-Own": "2"}).as_numpy("OUTPUT0"))
text = httpclient.InferInput("INPUT0", [2], "INT32").set_data_from_numpy(np.array([1, 2], np.int32), False)
real.infer("identity_int32", [text])
for algorithm in ("gzip", "deflate"):
    real.infer(
        "identity_int32",
        [text],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
real.async_infer("identity_int32", [text]).get_result()
locked = httpclient.InferenceServerClient(os.environ["PEER"] + "/locked")
print(locked.is_server_live())
try:
    locked.get_server_metadata()
except InferenceServerException as error:
    print(error)
locked.register_plugin(BasicAuth("user", "word"))
print(locked.is_server_live(), locked.get_server_metadata())
