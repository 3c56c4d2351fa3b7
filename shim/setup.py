"""Refuse to be built for an environment that has NVIDIA's package: pip would overwrite one with the other."""

import sysconfig
from importlib.metadata import distributions

from setuptools import setup

# Even if pip builds in isolation, these are the folders of the interpreter that it installs for.
folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
if any(distributions(name="tritonclient", path=folders)):
    raise SystemExit(
        "tritonhttp-as-tritonclient: NVIDIA's tritonclient is installed in this environment, and both are named"
        " tritonclient: pip uninstall it first, or run python -m tritonhttp.as_tritonclient program.py"
    )
setup()
