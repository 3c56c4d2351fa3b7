"""The one thing that pyproject.toml cannot say for every setuptools: an extension that may fail to build.

Without a compiler or Python's headers the package is installed all the same, and BYTES tensors are framed in
Python.
"""

from __future__ import annotations

import sys
import sysconfig

from setuptools import Extension, setup

extensions = [
    Extension(
        "tritonhttp.wire._bytes_tensor",
        ["src/tritonhttp/wire/_bytes_tensor.c"],
        optional=True,
    )
]
# It relies on the GIL, and importing it in a free-threaded interpreter would switch the GIL back on.
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    extensions = []

setup(ext_modules=extensions)
