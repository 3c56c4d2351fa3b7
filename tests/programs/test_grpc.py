"""The gRPC half of an installed tritonclient works beside this library: the real one of the reference."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio
import tritonclient.http as httpclient
from tritonclient.grpc.auth import BasicAuth
from tritonclient.utils import InferenceServerException

import tritonhttp

assert issubclass(httpclient.InferenceServerClient, tritonhttp.InferenceServerClient)
assert grpcclient.InferenceServerException is InferenceServerException is tritonhttp.InferenceServerException
client = grpcclient.InferenceServerClient("127.0.0.1:9")
client.register_plugin(BasicAuth("user", "word"))
for call in (
    client.is_server_live,
    lambda: grpcclient.InferInput("x", [2], "FP32").set_data_from_numpy(np.zeros(3, np.float32)),
    lambda: httpclient.InferInput("x", [2], "FP32").set_data_from_numpy(np.zeros(3, np.float32)),
):
    try:
        call()
    except tritonhttp.InferenceServerException as error:
        print(error.status(), "" if error.status() else error.message())
text = grpcclient.InferInput("x", [2], "BYTES")
text.set_data_from_numpy(np.array(["a", "bc"], object))
print(text._get_content())
print("/tritonclient/grpc/" in grpcclient.__file__)
"""


def test_both_halves_work_in_one_program(reference: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ours = os.pathsep.join([str(ROOT / "src"), sysconfig.get_path("purelib")])
    ran = subprocess.run(
        [reference, "-m", "tritonhttp.as_tritonclient", str(program)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ours},
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "StatusCode.UNAVAILABLE ",
        "None got unexpected numpy array shape [3,], expected [2]",
        "None got unexpected numpy array shape [3,], expected [2]",
        repr(b"\x01\x00\x00\x00a\x02\x00\x00\x00bc"),
        "True",
    ]
