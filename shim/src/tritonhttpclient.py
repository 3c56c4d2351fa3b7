"""tritonhttp under the name of tritonhttpclient; its modules are made by ``tritonhttp.as_tritonclient``."""

from tritonhttp.as_tritonclient import provide

provide(__name__, alone=True)
