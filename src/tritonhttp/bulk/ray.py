"""Ray Data's datasets through a served model. It needs the extra ``ray``.

The usual case is one line, :func:`predict`. ``Predictor`` is also what ``Dataset.map_batches`` takes::

    dataset.map_batches(Predictor, fn_constructor_args=("triton:8000", "digits"), concurrency=4, batch_size=4096)
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MissingDependency
from .predictor import Predictor

try:
    from ray.data import ActorPoolStrategy
except ImportError as error:
    raise MissingDependency("tritonhttp.bulk.ray needs ray: pip install 'tritonhttp[ray]'") from error

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Predictor", "predict"]


def predict(
    dataset: Dataset,
    url: str | Sequence[str],
    model: str,
    *,
    concurrency: int | tuple[int, int] = 2,
    rows: int = 4096,
    batch_format: Literal["pyarrow", "numpy", "pandas"] = "pyarrow",
    ray_options: dict[str, Any] | None = None,
    **predictor: Any,
) -> Dataset:
    """Return a dataset with the outputs of a model for each row: ``predict(dataset, "triton:8000", "digits")``.

    It is lazy, as all of Ray Data is. Each actor has one client, with `in_flight` calls under way. A task that Ray
    runs again gives its rows once: what an actor had returned of it before is dropped with it.

    Parameters
    ----------
    dataset : ray.data.Dataset
    url, model, **predictor
        As for :class:`Predictor`.
    concurrency : int or tuple of int, optional
        How many actors, or the least and the most of them.
    rows : int
        Rows for one call of an actor; it splits them into calls of the model. Several times what is in flight
        keeps the server busy.
    batch_format : str
        What the actor is given: Arrow is not copied.
    ray_options : dict, optional
        More for ``map_batches``, such as ``num_cpus``.

    Returns
    -------
    ray.data.Dataset
    """
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    pool = ActorPoolStrategy(min_size=least, max_size=most)
    return dataset.map_batches(
        Predictor,
        fn_constructor_args=(url, model),
        fn_constructor_kwargs=predictor,
        compute=pool,
        batch_size=rows,
        batch_format=batch_format,
        **(ray_options or {}),
    )
