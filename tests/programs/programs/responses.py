"""What programs do with the responses of `_get` and `_post`, with errors that they make, and with odd arguments."""

import asyncio
import json
import os

import numpy as np
import tritonclient.http as httpclient
import tritonclient.http.aio as aioclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

PEER = os.environ["PEER"]
for path in ("echo", "locked", "nowhere"):
    response = httpclient.InferenceServerClient(f"{PEER}/{path}")._get("v2", None, None)
    print(repr(response).split(" headers=")[0], response.status_message, response.get_code())
    print(response.content_length, response["content-length"] == str(response.length), "X-No" in response)
    print(
        {name for name, _ in response.items()} >= {"Content-Length"},
        "Content-Length" in dict(response.headers),
    )
    print(response.readline(), response.read(5), len(response.read()))
    print(response.method, response.version, response.get_http_version(), response.should_keep_alive())
    print(response.should_close(), response.message_complete, response.headers_complete)
    response.release()
with httpclient.InferenceServerClient(PEER + "/echo") as client:
    seen = client.get_server_metadata(headers={"A": ["one", "two"], "B": 1})
    print(seen["headers"])


async def main():
    async with aioclient.InferenceServerClient(PEER + "/locked") as client:
        response = await client._get("v2", None, None)
        print(str(response).splitlines()[0].replace(PEER, "PEER"), response.status, response.ok)
        print(response.content_length, response.content_type, response.method)
        print(
            await response.json(content_type=None),
            await response.read() == await response.read(),
            await response.text(),
        )
        async with await client._get("v2", None, None) as again:
            print(again.reason, again.headers["CONTENT-length"] == str(again.content_length))
        print([name for name in response.headers if name in ("Content-Length", "Content-Type")])
        print(response.headers.getall("CONTENT-length") == [response.headers.getone("content-LENGTH")])
        print(response.headers.getall("X-No", []), "x-no" in response.headers, response.get_encoding())
        print("'Content-Length': " in repr(response), response.host, response.history)
        for check in (aioclient._get_error, aioclient._raise_if_error):
            try:
                print(await check(response))
            except InferenceServerException as error:
                print(error)


asyncio.run(main())


class Own(InferenceServerException):
    pass


for kind in (InferenceServerException, Own):
    for error in (
        kind("m", "404", "d"),
        kind("m", status="404"),
        kind(msg="m"),
        kind(None, debug_details="d"),
        kind(msg=None, status="404"),
    ):
        print(repr(error), error.args, str(error), error.message(), error.status(), error.debug_details())

tensor = httpclient.InferInput("I", [2], "FP32").set_data_from_numpy(np.zeros(2, np.float32))
print(tensor._get_tensor())
print(tensor.set_shared_memory("r", 8)._get_tensor())
print(httpclient.InferInput("I", (1, 2), "INT8").set_data_from_numpy(np.zeros((1, 2), np.int8))._get_tensor())

text = json.dumps(
    {
        "model_name": "é",
        "outputs": [
            {"name": "L", "datatype": "INT64", "shape": [2], "data": ["1", "-9223372036854775808"]},
            {"name": "U", "datatype": "UINT64", "shape": [1], "data": ["18446744073709551615"]},
            {"name": "F", "datatype": "FP32", "shape": [2], "data": ["NaN", "1.5"]},
        ],
    },
    ensure_ascii=False,
)
for length in (None, len(text)):
    result = httpclient.InferResult.from_response_body(text, header_length=length)
    print([(name, result.as_numpy(name)) for name in "LUF"], result.get_response()["model_name"])
print(httpclient.InferenceServerClient.generate_request_body([], parameters={"a": b"x"}))
print(triton_to_np_dtype(["FP32"]), triton_to_np_dtype(5), np_to_triton_dtype(np.dtype("f2")))
