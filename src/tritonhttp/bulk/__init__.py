"""Whole datasets through a model. It needs the extra ``bulk``."""

from ..errors import MissingDependency

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        "tritonhttp.bulk needs pyarrow: pip install 'tritonhttp[bulk]'", debug_details=error
    ) from error
