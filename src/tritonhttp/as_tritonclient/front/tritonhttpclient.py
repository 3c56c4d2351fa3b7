"""Imported by the Python processes that a program under ``python -m tritonhttp.as_tritonclient`` starts."""

from tritonhttp.as_tritonclient import provide

provide(__name__)
