"""The reference's InferInput: it copies its data, and keeps the caller's shape object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from .._protocol import tensors
from .._wire import jsonio
from .._wire.requests import Buffer
from ..errors import InvalidRequest

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["InferInput"]


class InferInput(tensors.InferInput):
    """Describe one input tensor of an inference, with the reference's semantics.

    Unlike :class:`tritonhttp.InferInput`, `set_data_from_numpy` copies the array, ``shape()`` returns the very
    object that was given, and errors have the reference's exact words. The reference's private attributes can be
    read.
    """

    def __init__(self, name: str, shape: Sequence[int], datatype: str) -> None:
        super().__init__(name, shape, datatype)
        self._shape = shape  # type: ignore[assignment]

    def set_shape(self, shape: Sequence[int]) -> Self:
        """Set the input's shape, and return the input."""
        super().set_shape(shape)
        self._shape = shape  # type: ignore[assignment]
        return self

    def shape(self) -> Any:
        """Return the input's shape."""
        return self._shape

    def set_data_from_numpy(
        self, input_tensor: npt.NDArray[Any], binary_data: bool = True, *, copy: bool = True
    ) -> Self:
        """Set the tensor's data, and return the input; see :class:`tritonhttp.InferInput`."""
        return super().set_data_from_numpy(input_tensor, binary_data, copy=copy)

    @staticmethod
    def _refusal(words: str, more: str) -> InvalidRequest:
        return InvalidRequest(words)

    # A sub-class may override these two; their results are sent then.

    def _get_binary_data(self) -> bytes | None:
        data = super()._buffer()
        return None if data is None else bytes(data)

    def _get_tensor(self) -> dict[str, Any]:
        tensor = {**super()._descriptor(), "shape": self._shape}
        if self._json is not None and "data" in tensor:
            tensor["data"] = jsonio.loads(self._json, "the input's own data")
        return tensor

    def _is_changed(self) -> bool:
        kind, own = type(self), InferInput
        return (kind._get_tensor, kind._get_binary_data) != (own._get_tensor, own._get_binary_data)

    @property
    def _form(self) -> tuple[Any, ...] | None:
        """None also if the caller has changed its own shape object."""
        form: tuple[Any, ...] | None = self.__dict__.get("_form")
        return None if form is None or form[2] != tuple(self._shape) or self._is_changed() else form

    @_form.setter
    def _form(self, form: tuple[Any, ...] | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.__dict__["_form"] = form

    @property
    def _form_around_json(self) -> tuple[Any, ...] | None:
        unchanged = self._json is not None and not self._is_changed()
        return (self._name, self._datatype, tuple(self._shape), self._own) if unchanged else None

    def _buffer(self, snapshot: bool = False) -> Buffer | None:
        return self._get_binary_data() if self._is_changed() else super()._buffer(snapshot)

    def _descriptor(self) -> dict[str, Any]:
        if not self._is_changed():
            return super()._descriptor()
        tensor = jsonio.plain(self._get_tensor(), f"input {self._name!r}")
        assert isinstance(tensor, dict)
        return tensor

    @property
    def _raw_data(self) -> bytes | None:
        return self._get_binary_data()

    @property
    def _data(self) -> list[Any] | None:
        return self._get_tensor().get("data")

    @property
    def _parameters(self) -> dict[str, Any]:
        return dict(self._get_tensor().get("parameters", ()))
