"""The one thing that pyproject.toml cannot say for every setuptools: extensions that may fail to build.

Without a compiler or Python's headers the package is installed all the same, and Python does what they do.
"""

from __future__ import annotations

import sys
import sysconfig

from setuptools import Extension, setup

sources = {"_wire/_bytes_tensor": ["_wire/_bytes_tensor"]}
if sys.platform == "linux":
    sources["_repetition/_fast"] = ["_repetition/_fast", "_repetition/_fast_requests"]
extensions = [
    Extension(
        f"tritonhttp.{name.replace('/', '.')}",
        [f"src/tritonhttp/{each}.c" for each in parts],
        depends=["src/tritonhttp/_repetition/_fast.h"],
        optional=True,
    )
    for name, parts in sources.items()
]
# They rely on the GIL, and importing them in a free-threaded interpreter would switch the GIL back on.
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    extensions = []

setup(ext_modules=extensions)
