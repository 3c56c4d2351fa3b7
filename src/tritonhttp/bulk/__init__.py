"""Whole datasets through a model, on one machine (`run`) or in engines (`Predictor`). Needs the extra ``bulk``."""

from typing import TYPE_CHECKING

from .._basics.lazy import lazily
from ..errors import BulkError, MissingDependency

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        "tritonhttp.bulk needs pyarrow: pip install 'tritonhttp[bulk]'", debug_details=error
    ) from error

if TYPE_CHECKING:
    from ._run import Report as Report
    from ._run import run as run
    from .predictor import Predictor as Predictor

__all__ = ["BulkError", "Predictor", "Report", "run"]

_HOMES = {"Predictor": ".predictor", "Report": "._run", "run": "._run"}

__getattr__, __dir__ = lazily(__name__, __all__, _HOMES, ("predictor", "ray", "spark"))
