"""tritonhttp under the name of tritonclientutils; ``tritonhttp.as_tritonclient`` makes its modules."""

from tritonhttp.as_tritonclient import provide

provide(__name__, alone=True)
