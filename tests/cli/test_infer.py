"""`tritonhttp infer`: inputs of every kind, outputs in every form, and its request as a curl line."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tritonhttp.testing import provision

from .conftest import Run

ROW = list(range(16))
SUM = [2 * each for each in ROW]


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.fixture
def identity(run: Run) -> Callable[..., Any]:
    """Return what an identity model gives back for one input."""

    def identity(datatype: str, value: str, *words: str, stdin: bytes | None = None) -> Any:
        ran = run(
            "infer", f"identity_{datatype}", "--input", f"INPUT0={value}", "--json", *words, stdin=stdin
        )
        assert ran.code == 0, ran.err
        (output,) = ran.json["outputs"]
        return output["data"]

    return identity


def test_outputs_as_a_table(run: Run) -> None:
    ran = run("infer", "add_sub", "-i", f"INPUT0={ROW}", "-i", f"INPUT1={ROW}")
    assert (ran.code, ran.out) == (
        0,
        """\
output   datatype  shape    values
OUTPUT0  INT32     [1, 16]  0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
OUTPUT1  INT32     [1, 16]  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
""",
    )


@pytest.mark.parametrize(
    ("datatype", "value", "shown"),
    [
        ("fp32", "[1, 0.1, NaN, -Infinity]", "1, 0.1, nan, -inf"),
        ("bf16", "[0.5, 1e30]", "0.5, 1.00026e+30"),
        ("bool", "[true, false]", "True, False"),
        ("int32", "[]", ""),
        ("bytes", '["a", "b", "c", "d", "e", "f", "g", "h", "i"]', "a, b, c, d, e, f, g, h, …"),
        ("bytes", '["a\\nb"]', r"a\nb"),
    ],
)
def test_values_in_the_table(run: Run, datatype: str, value: str, shown: str) -> None:
    ran = run("infer", f"identity_{datatype}", "-i", f"INPUT0={value}")
    assert ran.out.splitlines()[1].partition("]")[2].strip() == shown


def test_outputs_as_json(run: Run) -> None:
    ran = run(
        "infer", "add_sub", "-i", f"INPUT0=[{ROW}]", "-i", f"INPUT1={ROW}", "--request-id", "a", "--json"
    )
    first = {"name": "OUTPUT0", "datatype": "INT32", "shape": [1, 16], "data": SUM}
    assert ran.json["outputs"][0] == first
    assert (ran.json["model_name"], ran.json["id"]) == ("add_sub", "a")


def test_a_long_output_is_shortened_in_the_table_only(run: Run) -> None:
    words = ("infer", "identity_int32", "--random", "--shape", "INPUT0:1000")
    assert re.search(r"\[1000\]  (\d+, ){4}\.\.\.(, \d+){4}\n$", run(*words).out)
    assert len(run(*words, "--json").json["outputs"][0]["data"]) == 1000


@pytest.mark.parametrize("form", ["npz", "npy", "json"])
def test_outputs_in_a_file(run: Run, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    words = ("infer", "add_sub", "-i", f"INPUT0={ROW}", "-i", f"INPUT1={ROW}", "-o", str(path))
    ran = run(*words, "--select", "OUTPUT0")
    assert (ran.code, ran.out) == (0, f"{path}: OUTPUT0 INT32[1, 16]\n")
    if form == "json":
        assert json.loads(path.read_text())["outputs"][0]["data"] == SUM
    else:
        found = np.load(path)
        assert (found["OUTPUT0"] if form == "npz" else found).tolist() == [SUM]
    if form == "npy":
        run(*words).failed(2, "--select one")


def test_files_of_text_and_bf16_need_no_pickle(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    assert run("infer", "identity_bytes", "-i", 'INPUT0=["a", "ü"]', "-o", str(path)).code == 0
    assert np.load(path)["OUTPUT0"].tolist() == [b"a", "ü".encode()]
    assert run("infer", "identity_bf16", "-i", "INPUT0=[0.5, 1]", "-o", str(path)).code == 0
    assert np.load(path)["OUTPUT0"].tolist() == [0.5, 1]
    run("infer", "identity_bytes", "-i", r'INPUT0=["a\u0000"]', "-o", str(path)).failed(2, "NUL", ".json")


@pytest.mark.parametrize(
    ("datatype", "text", "expected"),
    [
        ("int32", "[1, 2]", [1, 2]),
        ("int32", "7", [7]),
        ("int8", "[-128]", [-128]),
        ("uint64", "[18446744073709551615]", [2**64 - 1]),
        ("fp32", "[1, 2.5]", [1, 2.5]),
        ("fp64", "[NaN, Infinity, -Infinity]", ["NaN", "Infinity", "-Infinity"]),
        ("fp16", "[0.5]", [0.5]),
        ("bf16", "[0.5]", [0.5]),
        ("bool", "[true, false]", [True, False]),
        ("int32", "[]", []),
        ("bytes", "hello", ["hello"]),
        ("bytes", "12", ["12"]),
        ("bytes", "a=b", ["a=b"]),
        ("bytes", "", [""]),
        ("bytes", '["a", "b c"]', ["a", "b c"]),
        ("bytes", '"[quoted]"', ["[quoted]"]),
        ("bytes", "[no json", ["[no json"]),
        ("bytes", "null", ["null"]),
    ],
)
def test_text(identity: Any, datatype: str, text: str, expected: Any) -> None:
    assert identity(datatype, text) == expected


FILES = {
    "a.npy": ("int32", npy(np.array([1, 2], np.int32)), [1, 2]),
    "b.npy": ("int32", npy(np.array([1, 2], np.int64)), [1, 2]),  # cast where the values fit
    "c.npy": ("bytes", npy(np.array(["a", "bc"])), ["a", "bc"]),
    "d.npz": ("int32", npz(INPUT0=np.int32([3]), other=np.int32([4])), [3]),
    "e.npz": ("int32", npz(only=np.int32([4])), [4]),
    "f.bin": ("int32", np.array([5, 6], "<i4").tobytes(), [5, 6]),
    "g.raw": ("fp16", np.array([0.5], "<f2").tobytes(), [0.5]),
    "h.json": ("int32", b"[7, 8]\n", [7, 8]),
    "i.json": ("bytes", b'["x"]', ["x"]),
    "j.txt": ("bytes", b"two\nlines\n", ["two\nlines"]),
    "k.txt": ("bytes", b"[1]", ["[1]"]),
    "l.bin": ("bytes", b"\xff\xfe\n", [{"base64": base64.b64encode(b"\xff\xfe\n").decode()}]),
    "m.tar": ("bytes", b"anything\n", ["anything\n"]),
    "n.txt": ("int32", b"[9]", [9]),
    "o": ("int32", b"\xff\xff\xff\xff", [-1]),
}


@pytest.mark.parametrize("name", FILES)
def test_files(identity: Any, tmp_path: Path, name: str) -> None:
    datatype, content, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert identity(datatype, f"@{path}") == expected


@pytest.mark.parametrize(
    ("datatype", "content", "expected"),
    [
        ("int32", b"[1, 2]", [1, 2]),
        ("int32", npy(np.int32([3])), [3]),
        ("int32", npz(INPUT0=np.int32([4])), [4]),
        ("int32", np.array([-5], "<i4").tobytes(), [-5]),
        ("bytes", b"hello\n", ["hello"]),
        ("bytes", b"hello\r\n", ["hello"]),
        ("bytes", b'["a"]\n', ["a"]),
        ("bytes", b"\xff", [{"base64": "/w=="}]),
    ],
)
def test_standard_input(identity: Any, datatype: str, content: bytes, expected: Any) -> None:
    assert identity(datatype, "@-", stdin=content) == expected


def test_all_inputs_of_an_npz(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(npz(INPUT0=np.int32([ROW]), INPUT1=np.int32(ROW)))
    assert run("infer", "add_sub", "-i", f"@{path}", "--json").json["outputs"][0]["data"] == SUM
    path.write_bytes(npz(INPUT0=np.int32([ROW]), OTHER=np.int32(ROW)))
    run("infer", "add_sub", "-i", f"@{path}").failed(2, "no input 'OTHER'", "INPUT1 INT32[-1, 16]")


def test_repeated_inputs_are_rows(run: Run) -> None:
    words = [word for _ in range(3) for word in ("-i", f"INPUT0={ROW}", "-i", f"INPUT1={ROW}")]
    assert run("infer", "add_sub", *words, "--json").json["outputs"][0]["shape"] == [3, 16]
    run("infer", "add_sub", *words, "-i", "INPUT0=[1]").failed(2, "rows of different shapes")
    run("infer", "identity_int32", "-i", "INPUT0=[1]", "-i", "INPUT0=[2]").failed(2, "takes no batches")


@pytest.mark.parametrize(
    "name", ["add_sub", "summary", "digits", "identity_bytes", "identity_bf16", "identity_bool"]
)
def test_random_inputs(run: Run, name: str) -> None:
    first, second = (run("infer", name, "--random", "--seed", "1", "--json") for _ in "ab")
    assert first.code == 0, first.err
    assert first.json["outputs"][0] == second.json["outputs"][0]


def test_random_inputs_beside_given_ones_and_of_given_shapes(run: Run) -> None:
    ran = run("infer", "add_sub", "--random", "-i", f"INPUT0={[0] * 16}", "--shape", "INPUT1:16", "--json")
    plus, minus = (each["data"] for each in ran.json["outputs"])
    assert plus == [-each for each in minus]
    ran = run("infer", "add_sub", "--random", "--shape", "INPUT0:4,16", "--shape", "INPUT1:4x16", "--json")
    assert ran.json["outputs"][0]["shape"] == [4, 16]


def test_classes(run: Run) -> None:
    ran = run("infer", "digits", "--random", "--classes", "2", "--seed", "1")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["output", "row", "score", "class", "label"]
    assert len(rows) == 2
    assert re.fullmatch(r"SCORES +0  0\.\d+ +\d  [a-z]+", rows[0]), rows[0]


def test_repeated_calls_are_timed(run: Run) -> None:
    ran = run("infer", "add_sub", "--random", "--repeat", "5")
    figures = " ".join(rf"{name} \d+\.\d{{3}}," for name in ("mean", "min", "p50", "p99", "max"))
    assert re.fullmatch(rf"5 inferences, in ms: {figures[:-1]}", ran.out.splitlines()[-1])
    spent = run("infer", "add_sub", "--random", "--repeat", "3", "--json").json["latency_ms"]
    assert spent["count"] == 3
    assert spent["min"] <= spent["p50"] <= spent["max"]


# -- images --


def digit(number: int = 1) -> Any:
    with np.load(Path(provision.__file__).parent / "data" / "digits.npz") as data:
        pixels = data["images"][number].reshape(8, 8)
        return np.round(pixels / 16 * 255).astype(np.uint8), int(data["labels"][number])


def saved(path: Path, array: Any, size: tuple[int, int] | None = None) -> str:
    image = Image.fromarray(array)
    (image if size is None else image.resize(size, Image.Resampling.NEAREST)).save(path)
    return str(path)


@pytest.mark.parametrize("name", ["digit.png", "digit.jpg"])
def test_an_image_of_a_digit(run: Run, tmp_path: Path, name: str) -> None:
    array, label = digit()
    path = saved(tmp_path / name, array, (64, 64))
    ran = run(
        "infer", "digits", "-i", f"IMAGE=@{path}", "--resize", "8x8", "--scale", "1/255", "--classes", "1"
    )
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[1].split()[3] == str(label)


def test_an_image_that_does_not_fit(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path / "big.png", digit()[0], (20, 10))
    run("infer", "digits", "-i", f"IMAGE=@{path}").failed(2, "20x10 is no IMAGE FP32[-1, 64]", "--resize")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    run("infer", "digits", "-i", f"IMAGE=@{tmp_path}/broken.png").failed(2, "no usable image")


def test_an_image_for_text_is_its_bytes(identity: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", digit()[0])
    (found,) = identity("bytes", f"@{path}")
    assert base64.b64decode(found["base64"]) == Path(path).read_bytes()


def as_pixels(path: str, datatype: str, shape: list[int], batched: bool = False, **options: str) -> Any:
    from tritonhttp import TensorInfo
    from tritonhttp.cli.images import pixels, pixels_of

    given = {name: options.get(name) for name in ("resize", "layout", "scale", "mean", "std")}
    info = TensorInfo("X", datatype, tuple(shape))
    return pixels(Path(path).read_bytes(), path, info, batched, pixels_of(**given))


def test_layouts_channels_and_numbers(tmp_path: Path) -> None:
    colours = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    path = saved(tmp_path / "c.png", colours)
    assert as_pixels(path, "UINT8", [-1, 4, 6, 3], True).tolist() == [colours.tolist()]
    assert as_pixels(path, "FP32", [3, 4, 6]).tolist() == colours.transpose(2, 0, 1).tolist()
    assert as_pixels(path, "FP32", [1, 3, -1, -1]).shape == (1, 3, 4, 6)
    assert as_pixels(path, "FP32", [-1, -1, -1]).shape == (3, 4, 6)
    assert as_pixels(path, "FP32", [-1, -1, -1], layout="nhwc").shape == (4, 6, 3)
    assert as_pixels(path, "FP32", [-1, 1, 4, 6], True).shape == (1, 1, 4, 6)
    assert as_pixels(path, "FP32", [4, 6]).shape == (4, 6)
    assert as_pixels(path, "FP32", [3, 2, 2], resize="2").shape == (3, 2, 2)
    assert as_pixels(path, "FP32", [3, 2, 5], resize="5x2").shape == (3, 2, 5)
    found = as_pixels(path, "FP16", [3, 4, 6], scale="1/255", mean="0.1,0.2,0.3", std="0.5")
    expected = ((colours / 255 - [0.1, 0.2, 0.3]) / 0.5).transpose(2, 0, 1)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_pixels_beyond_half_precision(tmp_path: Path) -> None:
    from tritonhttp.cli.common import Failure

    path = saved(tmp_path / "white.png", np.full((2, 2), 255, np.uint8))
    with pytest.raises(Failure, match="do not fit into FP16"):
        as_pixels(path, "FP16", [2, 2], scale="1000")


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert as_pixels(str(tmp_path / "turned.jpg"), "UINT8", [-1, -1, 3]).shape == (6, 4, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resize": "a"}, "--resize"),
        ({"resize": "0x3"}, "--resize"),
        ({"layout": "HW"}, "--layout"),
        ({"scale": "1/0"}, "--scale"),
        ({"scale": "1,2"}, "--scale"),
        ({"mean": "x"}, "--mean"),
        ({"std": "0"}, "--std"),
        ({"mean": "1,2"}, "--mean: expected 1 or 3"),
        ({"mean": "1"}, "--scale, --mean and --std"),  # -1 is no UINT8
        ({"mean": "1", "scale": "1e9"}, "--scale, --mean and --std"),
    ],
)
def test_bad_options_of_images(run: Run, tmp_path: Path, options: dict[str, str], words: str) -> None:
    from tritonhttp.cli.common import Failure

    path = saved(tmp_path / "c.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(Failure, match=re.escape(words)):
        as_pixels(path, "UINT8", [4, 6, 3], **options)


# -- curl --

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


def pasted(line: str, folder: Path) -> bytes:
    """Run a line as a shell does when it is pasted."""
    assert line.count("\n") == 1
    ended = subprocess.run(
        ["bash"], input=line.encode(), capture_output=True, cwd=folder, timeout=30, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@needs_curl
@pytest.mark.parametrize(
    ("model", "words", "expected"),
    [
        ("identity_int32", ("-i", "INPUT0=[1, 2]"), [1, 2]),
        (
            "identity_bytes",
            ("-i", 'INPUT0=it\'s "quoted" $HOME `x` \\n ü'),
            ['it\'s "quoted" $HOME `x` \\n ü'],
        ),
        ("identity_fp64", ("-i", "INPUT0=[0.1]"), [0.1]),
        (
            "identity_int64",
            ("--random", "--shape", "INPUT0:20000", "--seed", "1"),
            None,
        ),  # too long for an argument
        ("identity_bool", ("-i", "INPUT0=[true]", "--header", "X-A: b c", "--auth", "me:it's"), [True]),
    ],
)
def test_a_dry_run_can_be_pasted(run: Run, tmp_path: Path, model: str, words: Any, expected: Any) -> None:
    ran = run("infer", model, *words, "--dry-run")
    assert ran.code == 0
    (output,) = json.loads(pasted(ran.out, tmp_path))["outputs"]
    if expected is None:
        expected = run("infer", model, *words, "--json").json["outputs"][0]["data"]
    assert output["data"] == expected


@needs_curl
@pytest.mark.parametrize("datatype", ["fp16", "bf16"])
def test_a_dry_run_with_numbers_that_json_has_not(run: Run, tmp_path: Path, datatype: str) -> None:
    ran = run("infer", f"identity_{datatype}", "-i", "INPUT0=[0.5, 1]", "--dry-run")
    assert ran.out.startswith("echo ")
    assert pasted(ran.out, tmp_path) == b""
    assert (
        (tmp_path / "answer.bin")
        .read_bytes()
        .endswith({"fp16": b"\x00\x38\x00\x3c", "bf16": b"\x00\x3f\x80\x3f"}[datatype])
    )


@needs_curl
def test_a_dry_run_with_bytes_classes_and_parameters(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\xff\x00")
    ran = run("infer", "identity_bytes", "-i", f"INPUT0=@{tmp_path}/x.bin", "--dry-run")
    assert b"\xff" in pasted(ran.out, tmp_path)
    ran = run(
        "infer", "digits", "--random", "--classes", "2", "--request-id", "7", "--param", "a=1", "--dry-run"
    )
    found = json.loads(pasted(ran.out, tmp_path))
    assert (found["id"], len(found["outputs"][0]["data"])) == ("7", 2)


def test_a_dry_run_of_every_connection(run: Run, tmp_path: Path) -> None:
    from tritonhttp.cli.common import Setup
    from tritonhttp.cli.curl import curl_line

    files = [tmp_path / name for name in ("ca", "cert", "key")]
    for file in files:
        file.touch()
    ca, cert, key = files
    setup = Setup(
        url=["[::1]:8000/base path"[:-5]], ca_certs=ca, cert=cert, key=key, insecure=True, deadline=1.5
    )
    line = curl_line(setup, "v2/models/m/infer", b"{}", None, binary_answer=False)
    assert line == (
        f"curl -sS --insecure --cacert {ca} --cert {cert} --key {key} --max-time 1.5"
        " -H 'Content-Type: application/json' --globoff --data-raw '{}' 'https://[::1]:8000/base/v2/models/m/infer'"
    )
    line = curl_line(Setup(url=["unix:///tmp/t.sock"]), "v2/x", b"{}", None, binary_answer=False)
    assert "--unix-socket /tmp/t.sock" in line
    assert line.endswith(" http://localhost/v2/x")


def test_a_dry_run_sends_no_inference(run: Run) -> None:
    def count() -> int:
        found: int = run("stats", "slow", "--json").json["model_stats"][0]["inference_count"]
        return found

    before = count()
    assert run("infer", "slow", "-i", "DELAY=0", "--dry-run").code == 0
    assert count() == before


# -- mistakes --


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere", "--random"), 1, ["nowhere", "tritonhttp models"]),
        (("add_sub",), 2, ["INPUT0 INT32[-1, 16]", "--random"]),
        (("add_sub", "-i", "INPUT0"), 2, ["expected NAME=VALUE"]),
        (("add_sub", "-i", f"INPUT0={ROW}"), 2, ["input 'INPUT1' is missing"]),
        (("add_sub", "-i", "OTHER=1"), 2, ["no input 'OTHER'"]),
        (("identity_int32", "-i", "INPUT0=abc"), 2, ["expected JSON", "INPUT0=@FILE"]),
        (("identity_int32", "-i", "INPUT0=[1.5]"), 2, ["expected INT32"]),
        (("identity_int8", "-i", "INPUT0=[300]"), 2, ["do not fit into INT8"]),
        (("identity_int32", "-i", "INPUT0=[[1],[2,3]]"), 2, ["row 0 has [1], row 1 has [2]"]),
        (("identity_int32", "-i", 'INPUT0={"a": 1}'), 2, ["expected a number, text or a list"]),
        (("identity_int32", "-i", "INPUT0=null"), 2, ["expected a number, text or a list"]),
        (("identity_bytes", "-i", 'INPUT0=["a", 1]'), 2, ["one tensor cannot hold both numbers and text"]),
        (("identity_int32", "-i", "INPUT0=@/no/such/file"), 2, ["/no/such/file: No such file"]),
        (("identity_int32", "-i", "INPUT0=@/"), 2, ["/: Is a directory"]),
        (("identity_int32", "-i", "INPUT0=@"), 2, ["file's name after @"]),
        (("identity_int32", "--random", "--shape", "INPUT0"), 2, ["--shape: expected"]),
        (("identity_int32", "--random", "--shape", "OTHER:1"), 2, ["no input 'OTHER'"]),
        (("identity_int32", "--random", "--shape", "INPUT0:-1"), 2, ["--shape: expected"]),
        (
            ("add_sub", "--random", "--shape", "INPUT0:9,16", "--shape", "INPUT1:9,16"),
            2,
            ["at most 8 rows, got 9"],
        ),
        (("add_sub", "--random", "--select", "NONE"), 2, ["no output 'NONE'"]),
        (("add_sub", "--random", "--output", "x.txt"), 2, [".npz, .npy or .json"]),
        (("add_sub", "--random", "--output", "/no/such/x.npz"), 2, ["no such folder"]),
        (("identity_fp64", "--random", "--shape", f"INPUT0:{10**18}"), 2, ["too large"]),
        (("identity_int32", "--random", "--seed", "-1"), 2, ["--seed"]),
        (("identity_int32", "-i", f"INPUT0={'[' * 100000}"), 2, ["expected JSON"]),
        (("add_sub", "--random", "--param", "x"), 2, ["--param: expected"]),
        (("add_sub", "--random", "--param", "x=[1]"), 2, ["--param x"]),
        (("add_sub", "--random", "--repeat", "0"), 2, ["--repeat", "--help"]),
        (("add_sub", "--random", "--repeat", "x"), 2, ["--repeat", "--help"]),
        (("add_sub", "--random", "--version", "9"), 1, ["9"]),
        (("fail", "-i", "MESSAGE=it broke"), 1, ["it broke"]),
        (("repeat", "--random"), 1, ["tritonhttp generate"]),
        (("slow", "-i", "DELAY=5", "--deadline", "0.2"), 3, ["timed out", "--deadline"]),
        (("add_sub", "--random", "-u", "127.0.0.1:9"), 3, ["127.0.0.1:9", "serve --demo"]),
    ],
)
def test_mistakes(run: Run, words: tuple[str, ...], code: int, said: list[str]) -> None:
    run("infer", *words).failed(code, *said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.npy", b"\x93NUMPY broken", "no usable .npy"),
        ("b.npy", npy(np.array([{}], dtype=object)), "no usable .npy"),  # it would be unpickled
        ("c.npz", b"PK\x03\x04 broken", "no usable .npz"),
        ("d.npz", npz(a=np.int32([1]), b=np.int32([2])), "no array 'INPUT0'; there are 'a', 'b'"),
        ("e.bin", b"12345", "5 bytes are no whole number of INT32"),
        ("f.json", b"{broken", "expected JSON"),
    ],
)
def test_broken_files(run: Run, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    run("infer", "identity_int32", "-i", f"INPUT0=@{tmp_path / name}").failed(2, said, name)


def test_several_servers(run: Run, triton_server: Any) -> None:
    """A server that is not there is passed over."""
    ran = run("infer", "add_sub", "--random", "-u", "127.0.0.1:9", "-u", triton_server.url)
    assert (ran.code, ran.err) == (0, "")


def test_standard_input_is_read_once(run: Run) -> None:
    words = ("infer", "add_sub", "-i", "INPUT0=@-", "-i", "INPUT1=@-")
    run(*words, stdin=json.dumps(ROW).encode()).failed(2, "read once")


def test_an_interrupt_shows_what_was_measured(triton_server: Any) -> None:
    import signal

    from .conftest import COMMAND, environment

    process = subprocess.Popen(
        [*COMMAND, "infer", "slow", "-i", "DELAY=0.05", "--repeat", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TRITON_URL=triton_server.url),
    )
    with process:
        from tritonhttp import InferenceServerClient

        with InferenceServerClient(triton_server.url) as client:

            def count() -> int:
                return client.get_inference_statistics("slow")["model_stats"][0]["inference_count"]

            before, limit = count(), time.monotonic() + 20
            while count() < before + 3:
                assert time.monotonic() < limit
                time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert re.search(r"^\d+ inferences, in ms: mean", out, re.MULTILINE), out
