"""This library under the names of tritonclient: each case in an interpreter of its own, as a program has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonhttp.as_tritonclient import FRONT, NAMES

Completed = subprocess.CompletedProcess[str]


def python(*arguments: str | Path, path: str | Path = "") -> Completed:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if path:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def after_install(statements: str, path: str | Path = "") -> str:
    """Return the output of statements after an install_as_tritonclient()."""
    ran = python("-c", f"import tritonhttp\ntritonhttp.install_as_tritonclient()\n{statements}", path=path)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Make a folder with the parts of an installed tritonclient that matter here."""
    files = {
        "__init__.py": "",
        "utils/__init__.py": "class InferenceServerException(Exception): pass",
        "utils/_dlpack.py": "REAL = True",
        "http/__init__.py": "REAL = True",
        "_client.py": "from tritonclient.utils import raise_error\nclass InferenceServerClientBase: pass",
        "grpc/__init__.py": (
            "from tritonclient.utils import *\n"
            "from .._client import InferenceServerClientBase\n"
            "from .._plugin import InferenceServerClientPlugin\n"
            "class InferenceServerClient(InferenceServerClientBase): pass\n"
            "def fail(): raise InferenceServerException(msg='gone', status='StatusCode.UNAVAILABLE')"
        ),
    }
    for name, text in files.items():
        place = tmp_path / "site" / "tritonclient" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return tmp_path / "site"


@pytest.mark.parametrize(
    "first",
    [
        "tritonclient.http.aio.auth",
        "tritonclient.utils.shared_memory",
        "tritonclient._client",
        "tritonshmutils",
    ],
)
def test_modules_come_in_any_order_and_hold_our_objects(first: str) -> None:
    after_install(f"""
import {first}
import tritonclient.http as http, tritonclient.utils, tritonclient.utils.shared_memory as shm
import tritonclient.utils.cuda_shared_memory as cudashm
from tritonhttp.utils import cuda_shared_memory
assert cudashm.create_shared_memory_region is cuda_shared_memory.create_shared_memory_region
from tritonclient.http import aio, auth
assert issubclass(http.InferenceServerClient, tritonhttp.InferenceServerClient)
assert tritonclient.utils.InferenceServerException is tritonhttp.InferenceServerException
assert http.InferResult is tritonhttp.InferResult and issubclass(http.InferInput, tritonhttp.InferInput)
from tritonhttp.utils import shared_memory
assert shm.create_shared_memory_region is shared_memory.create_shared_memory_region
import tritonhttp.aio, tritonhttp.auth
assert issubclass(aio.InferenceServerClient, tritonhttp.aio.InferenceServerClient)
assert auth.BasicAuth is tritonhttp.auth.BasicAuth
""")


def test_a_star_import_brings_the_names_of_http() -> None:
    printed = after_install(
        "names = {}\nexec('from tritonclient.http import *', names)\nprint(*sorted(names))"
    )
    assert printed.split() == [
        "InferAsyncRequest",
        "InferInput",
        "InferRequestedOutput",
        "InferResult",
        "InferenceServerClient",
        "InferenceServerClientPlugin",
        "InferenceServerException",
        "Request",
        "__builtins__",
    ]


def test_star_imports_bring_what_the_references_modules_import() -> None:
    after_install("""
from tritonclient.utils import *
np.zeros(1); struct.pack("<I", 1)
from tritonclient.utils.shared_memory import *
os.getpid(); warnings.warn_explicit; mpshm.SharedMemory
""")


@pytest.mark.parametrize("name", ["tritonhttpclient", "tritonclientutils", "tritonshmutils.shared_memory"])
def test_old_names_warn_where_they_are_imported(name: str) -> None:
    statements = f"import tritonhttp; tritonhttp.install_as_tritonclient()\nimport {name}"
    ran = python("-W", "error::DeprecationWarning", "-c", statements)
    assert ran.returncode == 1
    assert (
        "is deprecated and will be removed in a future version. Please use instead `tritonclient"
        in ran.stderr
    )


def test_installing_twice_does_nothing() -> None:
    assert after_install("""
import sys
before = list(sys.meta_path)
tritonhttp.install_as_tritonclient()
print(before == sys.meta_path)
import tritonclient.http
tritonhttp.install_as_tritonclient()
""").split() == ["True"]


def test_installing_after_the_real_package_was_imported_is_refused(real: Path) -> None:
    ran = python(
        "-c", "import tritonclient.http, tritonhttp; tritonhttp.install_as_tritonclient()", path=real
    )
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tritonclient was imported before, from ")
    assert "call install_as_tritonclient() before anything imports" in last


def test_grpc_of_an_installed_tritonclient_works_beside_ours(real: Path) -> None:
    printed = after_install(
        """
import tritonclient.grpc as grpcclient, tritonclient.http as httpclient, tritonclient.utils._dlpack as dlpack
assert issubclass(httpclient.InferenceServerClient, tritonhttp.InferenceServerClient) and dlpack.REAL
assert "site/tritonclient/grpc" in grpcclient.__file__
assert grpcclient.InferenceServerClientPlugin is tritonhttp.InferenceServerClientPlugin
grpcclient.InferenceServerClient()
try:
    grpcclient.fail()
except httpclient.InferenceServerException as error:
    print(error)
""",
        path=real,
    )
    assert printed == "[StatusCode.UNAVAILABLE] gone\n"


@pytest.mark.parametrize("statement", ["import tritonclient.grpc", "from tritonclient import grpc"])
def test_grpc_without_one_says_why(statement: str) -> None:
    printed = after_install(f"try:\n    {statement}\nexcept ImportError as error:\n    print(error)")
    assert "tritonclient.grpc" in printed
    assert "tritonhttp speaks HTTP only" in printed


def test_other_missing_modules_are_missing_as_ever() -> None:
    statements = "try:\n    import tritonclient.nothing\nexcept ImportError as error:\n    print(error)"
    assert after_install(statements) == "No module named 'tritonclient.nothing'\n"


# -- InferInput


def test_an_input_copies_and_keeps_the_shape_it_was_given() -> None:
    after_install("""
import numpy as np, pickle
from tritonclient.http import InferInput
array = np.arange(1 << 17, dtype=np.float32)
kept = InferInput("x", array.shape, "FP32")
assert kept.set_data_from_numpy(array) is kept
array[:] = -1
assert kept._get_binary_data() == np.arange(1 << 17, dtype=np.float32).tobytes() == kept._raw_data
assert kept._get_tensor()["shape"] == (1 << 17,)
assert kept.shape() == (1 << 17,) and kept._parameters == {"binary_data_size": 1 << 19}
shape = [2]
assert kept.set_shape(shape).shape() is shape
assert kept.set_data_from_numpy(array[:2])._get_tensor()["shape"] is shape
assert kept.set_shared_memory("r", 8)._get_tensor()["shape"] is shape
assert kept.set_data_from_numpy(array[:2], binary_data=False)._data == [-1.0, -1.0] and kept._raw_data is None
assert pickle.loads(pickle.dumps(kept)).shape() == shape
# The library's own input is as it was.
view = tritonhttp.InferInput("x", [2], "FP32").set_data_from_numpy(array[:2])
array[:2] = 7
assert view._get_binary_data() == np.full(2, 7, np.float32).tobytes()
""")


def test_refusals_of_an_input_are_the_references_words_and_no_more() -> None:
    printed = after_install("""
import numpy as np
from tritonclient.http import InferInput
for datatype, array, binary in (
    ("FP32", [1, 2], True),
    ("FP32", np.zeros(2), True),
    ("FP32", np.zeros(3, np.float32), True),
    ("BYTES", np.array([b"\\xff", b"a"], object), False),
):
    try:
        InferInput("x", (2,), datatype).set_data_from_numpy(array, binary)
    except tritonhttp.InferenceServerException as error:
        print(error)
""")
    assert printed.splitlines() == [
        "input_tensor must be a numpy array",
        "got unexpected datatype FP64 from numpy array, expected FP32.",
        "got unexpected numpy array shape [3,], expected [2,]",
        "Failed to encode \"b'\\xff'\" using UTF-8. Please use binary_data=True,"
        " if you want to pass a byte array.",
    ]


# -- the runner


def run_as(*arguments: str | Path, path: str | Path = "") -> Completed:
    return python("-m", "tritonhttp.as_tritonclient", *arguments, path=path)


SHOW = """
import sys
import tritonclient.http as httpclient
print(httpclient.InferResult.__module__.split(".")[0], __name__, sys.argv[1:], sys.path[0], __file__)
sys.exit(7)
"""


def test_a_program_runs_as_if_python_ran_it(tmp_path: Path, real: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SHOW)
    ran = run_as(program, "-m", "--flag", "x", path=real)
    assert ran.returncode == 7, ran.stderr
    assert ran.stdout.split(maxsplit=2) == [
        "tritonhttp",
        "__main__",
        f"['-m', '--flag', 'x'] {tmp_path} {program}\n",
    ]


LOOK = """
import inspect, pickle, sys, threading, time
print(sorted(name for name in globals() if name != "__annotations__"))
print(__file__, __name__, __spec__, __package__, __doc__, type(__loader__).__name__, __builtins__)
print(sys.argv, sys.path[0], sys.modules["__main__"].__dict__ is globals())
class Thing:
    size: int
print(Thing.__annotations__, pickle.loads(pickle.dumps(Thing())).__class__ is Thing, inspect.getsource(Thing))
def late():
    time.sleep(0.1)
    print("late", Thing.__name__)
threading.Thread(target=late).start()
"""


def test_a_program_sees_the_same_interpreter_state_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LOOK)
    relative = os.path.relpath(tmp_path / "program.py")
    plain, ours = python(relative, "a b"), run_as(relative, "a b")
    assert ours.stdout == plain.stdout, ours.stderr
    assert plain.stdout.endswith("late Thing\n")


def test_a_module_runs_as_if_python_ran_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SHOW)
    ran = run_as("-m", "program", "x", path=tmp_path)
    assert ran.returncode == 7, ran.stderr
    assert ran.stdout.startswith("tritonhttp __main__ ['x'] ")


def test_a_folder_runs_as_if_python_ran_it(tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(SHOW)
    ran = run_as(tmp_path, "x")
    assert ran.returncode == 7, ran.stderr
    assert ran.stdout.startswith(f"tritonhttp __main__ ['x'] {tmp_path} ")


def test_a_program_that_fails_exits_as_python_does(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import tritonclient.http\nraise KeyError('x')")
    ran = run_as(program)
    assert ran.returncode == 1
    assert ran.stderr.endswith(
        f"  File \"{program}\", line 2, in <module>\n    raise KeyError('x')\nKeyError: 'x'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "usage: "),
        (("-x",), "expected a program, got -x"),
        (("-m",), "usage: "),
        (("nowhere.py",), "nowhere.py': [Errno 2]"),
    ],
)
def test_unusable_arguments_are_refused(arguments: tuple[str, ...], words: str) -> None:
    ran = run_as(*arguments)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert run_as("--help").stdout.startswith("usage: ")


def test_a_programs_child_processes_use_the_library_too(tmp_path: Path, real: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import multiprocessing, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
import tritonclient.http

def where():
    return tritonclient.http.InferenceServerClient.__module__

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(where).result())
    command = "import tritonhttpclient, tritonclient.utils as u; print(u.InferenceServerException.__module__)"
    print(subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout)
""")
    ran = run_as(program, path=real)
    assert ran.stdout.split() == ["tritonhttp.as_tritonclient.client", "tritonhttp.errors"], ran.stderr


def test_the_front_has_every_package_of_the_table() -> None:
    assert {path.stem for path in FRONT.glob("*.py")} == {name.partition(".")[0] for name in NAMES}


# -- responses


def test_a_response_is_shown_as_the_references_libraries_show_it() -> None:
    printed = after_install("""
import asyncio, pickle, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response_only(404)
        self.send_header("X-Token", "secret")
        self.send_header("Content-Length", "2")
        self.send_header("X-Two", "a\\r\\n\\tb")
        self.send_header("x-two", "c")
        self.end_headers()
        self.wfile.write(b"no")
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Refusing)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"127.0.0.1:{server.server_port}"
import tritonclient.http as http, tritonclient.http.aio as aio

client = http.InferenceServerClient(url, verbose=True)
assert client.is_server_live() is False
with pickle.loads(pickle.dumps(http.InferenceServerClient(url))) as other:
    response = other._get("v2", None, None)
    print(response)
    lines = [("X-Token", "secret"), ("Content-Length", "2"), ("X-Two", "a b"), ("x-two", "c")]
    assert list(response.headers) == list(response.items()) == lines, response.items()
    assert response["x-token"] == "secret" and response.read() == b"no"

async def main():
    async with aio.InferenceServerClient(url, verbose=True) as client:
        assert await client.is_server_live() is False
        print(str(await client._get("v2", None, None)) == f'''\\
<ClientResponse(http://{url}/v2) [404 Not Found]>
<CIMultiDictProxy('X-Token': '***', 'Content-Length': '2', 'X-Two': 'a b', 'x-two': 'c')>
''')
        headers = (await client._get("v2", None, None)).headers
        assert headers["x-TWO"] == headers.getone("X-TWO") == headers.get("X-two") == "a b"
        assert headers.getall("X-TWO") == ["a b", "c"] and headers.getall("no", []) == [] and len(headers) == 4
        assert "X-TOKEN" in headers and "no" not in headers and headers.getone("no", 5) == 5
        assert headers.items() == lines and headers.values() == ["secret", "2", "a b", "c"]
        try:
            headers["no"]
        except KeyError as error:
            assert error.args == ("no",)
        else:
            raise AssertionError

asyncio.run(main())
server.shutdown()
""")
    headers = "{'X-Token': '***', 'Content-Length': '2', 'X-Two': 'a b', 'x-two': 'c'}"
    shown = f"<HTTPSocketPoolResponse status=404 headers={headers}>"
    lines = printed.splitlines()
    assert lines[:3] == ["GET /v2/health/live, headers {}", shown, shown]
    assert lines[4].endswith("/v2/health/live) [404 Not Found]>")
    assert "True" in lines
