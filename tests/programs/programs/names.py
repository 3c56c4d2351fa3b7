"""The names of every module, as star imports and attributes give them."""

import importlib
import warnings

warnings.simplefilter("ignore")
for name in (
    "tritonclient",
    "tritonclient.http",
    "tritonclient.http.auth",
    "tritonclient.http.aio",
    "tritonclient.http.aio.auth",
    "tritonclient.utils",
    "tritonhttpclient",
    "tritonclientutils",
    "tritonshmutils",
    "tritonclient.utils.shared_memory",
    "tritonshmutils.shared_memory",
):
    names = {}
    exec(f"from {name} import *", names)
    module = importlib.import_module(name)
    found = sorted(each for each in names if not each.startswith("_") and each != "aiohttp")
    print(module.__name__, found, hasattr(module, "__all__"), hasattr(module, "__path__"))
import tritonclient.http

print(
    tritonclient.http.np_to_triton_dtype is tritonclient.utils.np_to_triton_dtype,
    tritonclient.http.np.__name__,
)
from tritonclient.http._client import InferenceServerClient, _raise_if_error
from tritonclient.http._infer_input import InferInput
from tritonclient.http._infer_result import InferResult
from tritonclient.http._requested_output import InferRequestedOutput
from tritonclient.http._utils import _get_inference_request, _get_query_string

print(InferInput is tritonclient.http.InferInput, InferResult is tritonclient.http.InferResult)
print(
    InferRequestedOutput is tritonclient.http.InferRequestedOutput,
    InferenceServerClient is tritonclient.http.InferenceServerClient,
)
print(_get_query_string({"a": [1, 2], "b": "c d"}))
print(
    _get_inference_request(
        inputs=[],
        request_id="x",
        outputs=None,
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=0,
        timeout=None,
        custom_parameters={"a": 1},
    )
)


class Failed:
    status_code = 404

    def get(self, name):
        return None

    def read(self):
        return b'{"error":"gone"}'


try:
    _raise_if_error(Failed())
except tritonclient.utils.InferenceServerException as error:
    print(error)
try:
    import tritonclient.nothing
except ImportError as error:
    print(error)
for name in ("tritonclient.http", "tritonclient.utils.shared_memory", "tritonclient.nothing"):
    print(importlib.util.find_spec(name) is not None)
