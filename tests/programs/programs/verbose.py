"""verbose: which lines come, and how the first of each request reads; bodies may be shown in another way."""

import contextlib
import io
import os
import re

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

text = io.StringIO()
with contextlib.redirect_stdout(text):
    client = httpclient.InferenceServerClient(os.environ["TRITON"], verbose=True)
    client.is_server_live()
    client.is_model_ready("add_sub", "1", headers={"X-A": "b"}, query_params={"q": "r"})
    client.get_server_metadata()
    tensor = httpclient.InferInput("INPUT0", [2], "INT32").set_data_from_numpy(np.array([1, 2], np.int32))
    client.infer("identity_int32", [tensor], request_id="one")
    client.infer("identity_int32", [tensor], headers={"X-Own": "2"}, response_compression_algorithm="gzip")
    client.async_infer("identity_int32", [tensor], request_id="two").get_result()
    client.async_infer("identity_int32", [tensor]).get_result()
    client.load_model("identity_int8")
    client.unregister_system_shared_memory("nothing")
    client.unregister_cuda_shared_memory("nothing")
    client.update_log_settings({"log_verbose_level": 0})
    with contextlib.suppress(InferenceServerException):
        client.load_model("nothing")
    httpclient.InferResult.from_response_body(b'{"outputs":[]}', verbose=True)
    client.close()
lines = text.getvalue().splitlines()
for line in lines:
    if re.match(r"(GET|POST) /|Loaded|Unregistered|Registered|b'{\"outputs", line):
        print(line)
# Where they stand among the lines of the requests is a matter of luck.
print([line for line in lines if line.startswith("Sent")])
