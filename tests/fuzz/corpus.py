"""The corpus: a file of inputs for each target, one a line, as Python writes bytes; # begins what it found."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["TOKENS", "add", "inputs"]

_FOLDER = Path(__file__).parent / "corpus"

#: What mutations write into inputs.
TOKENS: tuple[bytes, ...] = (
    b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\n ", b": ", b"HTTP/1.1 ", b"HTTP/1.0 200\r\n",
    b"100 Continue\r\n\r\n", b"204", b"304", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Content-Encoding: gzip\r\n", b"Inference-Header-Content-Length: ",
    b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"5;a=b\r\n", b"18446744073709551616", b"data: ", b"data:",
    b"event: error\n", b"\xef\xbb\xbf", b"\r", b"\x1f\x8b\x08", b"x\x9c", b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff", b'{"outputs":[', b'"name":"O",', b'"datatype":"FP32",', b'"BYTES"', b'"BOOL"',
    b'"INT64"', b'"BF16"', b'"FP16"', b'"shape":[', b'"data":[', b'"parameters":{', b'"binary_data_size":',
    b'"error":', b'"model_name":"m",', b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"[[", b"]]",
    b"{}", b"\\ud800", b"-1", b"0", b"9223372036854775808", b"xn--", b"%25", b"[::1]", b"http://",
    b"unix://", b"@", b"\xc3\x9f", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80",
)  # fmt: skip


def inputs(target: str) -> list[bytes]:
    """Return what is kept for a target."""
    path = _FOLDER / f"{target}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]


def add(target: str, found: list[bytes]) -> None:
    """Keep inputs that are not kept yet."""
    known = set(inputs(target))
    with (_FOLDER / f"{target}.txt").open("a", encoding="ascii") as file:
        file.writelines(f"{each!r}\n" for each in sorted(set(found) - known, key=lambda one: (len(one), one)))
