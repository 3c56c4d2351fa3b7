"""A request as a line for the shell, which curl sends when it is pasted."""

from __future__ import annotations

import shlex
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .common import Setup

__all__ = ["curl_line"]

#: The longest body that stands in the line as text. Linux takes arguments of 128 KiB at most.
_MOST_TEXT = 96 * 1024


def curl_line(setup: Setup, path: str, body: bytes, json_size: int | None, *, binary_answer: bool) -> str:
    """Return the line.

    Parameters
    ----------
    setup : Setup
        The connection; of several servers the first.
    path : str
        The path below the server's base path.
    body : bytes
    json_size : int or None
        The length of the JSON before binary tensors; None: the body is JSON.
    binary_answer : bool
        Whether the answer is not for the terminal.
    """
    from .._transport.address import parse_url

    files = setup.tls_files
    address = parse_url(setup.urls[0], setup.is_tls)
    words = ["curl", "-sS"]
    if address.socket_path:
        words += ["--unix-socket", address.socket_path]
    if setup.insecure:
        words.append("--insecure")
    for option, name in (("--cacert", "ca_certs"), ("--cert", "certfile"), ("--key", "keyfile")):
        if name in files:
            words += [option, files[name]]
    if setup.credentials:
        words += ["--user", ":".join(setup.credentials)]
    if setup.deadline is not None:
        words += ["--max-time", f"{setup.deadline:g}"]
    for name, value in setup.headers.items():
        words += ["-H", f"{name}: {value}" if value else f"{name};"]
    if json_size is None:
        words += ["-H", "Content-Type: application/json"]
    else:
        words += ["-H", "Content-Type: application/octet-stream"]
        words += ["-H", f"Inference-Header-Content-Length: {json_size}"]
    if binary_answer:
        words += ["--output", "answer.bin"]
    origin = "http://localhost" if address.socket_path else address.origin
    url = f"{origin}{address.base_path}/{path}"
    if set(url) & set("[]{}"):
        words.append("--globoff")
    if json_size is None and len(body) <= _MOST_TEXT:
        return shlex.join([*words, "--data-raw", body.decode(), url])
    # `echo` is built into shells, so no limit of arguments holds for it.
    text = b64encode(body).decode("ascii")
    return f"echo {text} | base64 -d | {shlex.join([*words, '--data-binary', '@-', url])}"
