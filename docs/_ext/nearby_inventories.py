"""Links to other projects' references, without asking the network for their inventories.

A line of `NAMES` is a project's address, then the page of each name that our docstrings use. They become
inventories as intersphinx reads them, beside the build.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

#: Project -> the address of its reference, and the pages of kinds of names.
PROJECTS = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "pyarrow": "https://arrow.apache.org/docs/",
    "pandas": "https://pandas.pydata.org/docs/",
}
#: What numpydoc links by itself beside names: types that are described in prose.
WORDS = [
    "bltin-boolean-values std:label -1 library/stdtypes.html#boolean-type-bool Boolean",
    "iterable std:term -1 glossary.html#term-iterable -",
    "iterator std:term -1 glossary.html#term-iterator -",
    "mapping std:term -1 glossary.html#term-mapping -",
    "sequence std:term -1 glossary.html#term-sequence -",
]
#: Project -> a pattern of pages, and the names on them: the page of a name is the pattern with the name in it.
NAMES = {
    "python": [
        (
            "library/exceptions.html#{}",
            "exception",
            "AttributeError BaseException ConnectionError ConnectionRefusedError Exception ImportError KeyError"
            " OSError TimeoutError TypeError ValueError",
        ),
        ("library/functions.html#{}", "class", "bool float int object"),
        ("library/stdtypes.html#{}", "class", "bytearray bytes dict list memoryview set str tuple"),
        ("library/constants.html#{}", "data", "False None True"),
        (
            "library/collections.abc.html#{}",
            "class",
            "collections.abc.Callable collections.abc.Iterable collections.abc.Iterator"
            " collections.abc.Mapping collections.abc.Sequence",
        ),
        ("library/typing.html#{}", "data", "typing.Any"),
        ("library/ssl.html#{}", "class", "ssl.SSLContext"),
        ("library/ssl.html#{}", "exception", "ssl.SSLCertVerificationError ssl.SSLError"),
        ("library/socket.html#{}", "exception", "socket.gaierror"),
        ("library/concurrent.futures.html#{}", "exception", "concurrent.futures.CancelledError"),
        ("library/concurrent.futures.html#{}", "class", "concurrent.futures.Future"),
        ("library/pathlib.html#{}", "class", "pathlib.Path"),
    ],
    "numpy": [
        ("reference/generated/{}.html", "class", "numpy.dtype numpy.ndarray"),
        ("reference/typing.html#{}", "data", "numpy.typing.ArrayLike numpy.typing.NDArray"),
    ],
    "torch": [("tensors.html#{}", "class", "torch.Tensor")],
    "pyarrow": [
        (
            "python/generated/{}.html",
            "class",
            "pyarrow.Array pyarrow.Field pyarrow.RecordBatch pyarrow.Schema pyarrow.Table",
        ),
        ("python/generated/{}.html", "class", "pyarrow.dataset.Dataset"),
    ],
    "pandas": [("reference/api/{}.html", "class", "pandas.DataFrame pandas.Series")],
}


def inventory(project: str) -> bytes:
    """Return a project's inventory, in the second version of their format."""
    lines = [
        f"{name} py:{kind} 1 {page.format(name)} -\n"
        for page, kind, names in NAMES[project]
        for name in names.split()
    ]
    lines += [f"{line}\n" for line in WORDS] if project == "python" else []
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    return f"{head}# The remainder of this file is compressed using zlib.\n".encode() + zlib.compress(
        "".join(lines).encode()
    )


def write(app: Any, config: Any) -> None:
    """Write the inventories, before intersphinx reads its settings."""
    folder = Path(app.doctreedir) / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for project, address in PROJECTS.items():
        path = folder / f"{project}.inv"
        path.write_bytes(inventory(project))
        assert re.match("https://.*/$", address)
        config.intersphinx_mapping[project] = (address, str(path))


def setup(app: Any) -> dict[str, Any]:
    """Run before intersphinx's own reading of the settings (800)."""
    app.connect("config-inited", write, priority=100)
    return {"parallel_read_safe": True}
