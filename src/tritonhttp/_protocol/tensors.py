"""The tensors of a call: its inputs, and the outputs that it requests.

An :class:`InferInput` set from a numeric array keeps that array, and `infer` reads it when the request is sent.
JSON and BYTES data are encoded when they are set.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
from numpy import ndarray

from .._basics.quantities import came
from .._wire import bytes_tensor, dtypes, inference, jsonio
from .._wire.requests import COALESCE, Buffer
from ..errors import InvalidRequest
from .arrays import as_array

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._regions.region import RegionSlice

__all__ = ["InferInput", "InferRequestedOutput", "TensorInfo", "data_size", "datatype_of"]

_LITTLE = sys.byteorder == "little"

#: The parameters that place a tensor in a shared memory region.
_Region = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Describe a tensor.

    Attributes
    ----------
    name : str
    datatype : str
        The protocol's name of the datatype, for example ``"FP32"``.
    shape : tuple of int
        -1 stands for a dimension of any size, in what a model declares.
    optional : bool
        Whether the tensor is an input that may be left out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}{list(self.shape)}{' (optional)' if self.optional else ''}"


class InferInput:
    """Describe one input tensor of an inference.

    Parameters
    ----------
    name : str
        The input's name in the model.
    shape : sequence of int
        The tensor's shape, with the batch dimension.
    datatype : str
        The protocol's name of the datatype, for example ``"FP32"``.
    """

    # At most one of these holds the data: a numeric array or encoded BYTES; JSON; a region's parameters.
    _binary: npt.NDArray[Any] | bytes | bytearray | None = None
    _json: bytes | None = None
    _region: _Region | None = None
    #: The caller's parameters, as a JSON object.
    _own: bytes = b""
    #: All that the JSON object depends on, the shape third; None where it contains data, or the shape was changed.
    _form: tuple[Any, ...] | None = None

    def __init__(self, name: str, shape: Sequence[int], datatype: str) -> None:
        self._name = name
        self._shape = tuple(shape) if type(shape) in (list, tuple) else _as_tuple(shape)
        self._datatype = datatype

    @classmethod
    def from_numpy(cls, name: str, array: Any, binary_data: bool = True, *, copy: bool = False) -> Self:
        """Make an input with its data, of the array's shape and datatype.

        Parameters
        ----------
        name : str
            The input's name in the model.
        array
            A numpy array, whatever ``numpy.asarray`` converts, or a tensor on the host that supports DLPack.
            Python's numbers become INT64, FP64 and BOOL, as in numpy; str and bytes become BYTES.
        binary_data, copy
            As for :meth:`set_data_from_numpy`.

        Raises
        ------
        InvalidRequest
            For a value that is no array, and for a dtype that the protocol has no name for.
        """
        if not isinstance(name, str):
            raise InvalidRequest(
                f"the name of an input must be a str, got {came(name)}: InferInput.from_numpy(name, array)"
            )
        what = f"input {name!r}"
        found = as_array(array, what)
        tensor = cls(name, found.shape, datatype_of(found, what))
        return tensor.set_data_from_numpy(found, binary_data, copy=copy)

    def name(self) -> str:
        """Return the input's name."""
        return self._name

    def datatype(self) -> str:
        """Return the protocol's name of the input's datatype."""
        return self._datatype

    def shape(self) -> list[int]:
        """Return the input's shape."""
        return [*self._shape]

    def set_shape(self, shape: Sequence[int]) -> Self:
        """Set the input's shape, and return the input."""
        self._shape = _as_tuple(shape)
        self._form = None
        return self

    def set_data_from_numpy(
        self, input_tensor: npt.NDArray[Any], binary_data: bool = True, *, copy: bool = False
    ) -> Self:
        """Set the tensor's data, and return the input.

        Parameters
        ----------
        input_tensor : numpy.ndarray
            An array of the input's shape and datatype, in any memory order and byte order. Elements of an object
            array are sent as they are (bytes), as UTF-8 (str), or as their ``str()`` (anything else).
        binary_data : bool
            True: send the data as binary behind the JSON head. False: as a list in the JSON; Triton's parser may
            round FP64 there in the last bit.
        copy : bool
            True: copy a numeric array now. False: keep the array, which `infer` reads when it sends the request;
            it sends changes made until then. BYTES and JSON data are always encoded now.

        Raises
        ------
        InvalidRequest
            If the array's dtype or shape differ from the input's, or JSON cannot represent its data.
        """
        if type(input_tensor) is not ndarray:
            if not isinstance(input_tensor, ndarray):
                raise self._refusal(
                    "input_tensor must be a numpy array",
                    f", got {type(input_tensor).__name__} for input {self._name!r}{_instead(input_tensor)}",
                )
            # A subclass may override `data` and `reshape`. A masked array is sent with its fill value.
            filled = getattr(input_tensor, "filled", None)
            input_tensor = np.asarray(input_tensor if filled is None else filled())
        dtype, shape = input_tensor.dtype, input_tensor.shape
        datatype = dtypes.BY_DTYPE.get(dtype) or dtypes.np_to_triton_dtype(dtype)
        try:
            if datatype != self._datatype:
                raise self._refusal(
                    f"got unexpected datatype {datatype} from numpy array, expected {self._datatype}."
                    f"{_BF16_ADVICE if self._datatype == 'BF16' else ''}",
                    f" The array for input {self._name!r} has dtype {dtype}.{_unknown(self._datatype)}",
                )
            if shape != tuple(self._shape):
                raise self._refusal(
                    f"got unexpected numpy array shape [{str(shape)[1:-1]}],"
                    f" expected [{str(self.shape())[1:-1]}]",
                    f" for input {self._name!r}",
                )
        except ValueError as error:
            if isinstance(error, InvalidRequest):
                raise
            # An array in place of a size or a name has no truth value.
            raise self._refusal(
                "a shape must hold whole numbers, and a datatype is a str",
                f", got {came(self._shape)} and {came(self._datatype)} for input {self._name!r};"
                " InferInput.from_numpy(name, array) takes both from the array",
            ) from None
        json = None
        if not binary_data:
            json = self._as_json(input_tensor)
            self._binary = self._form = None
        elif datatype == "BYTES":
            data = self._binary = bytes_tensor.encode(input_tensor)
            form = self._name, datatype, shape, len(data)
            self._form = (*form, self._own) if self._own else form
        else:
            self._binary = input_tensor.copy() if copy else input_tensor
            numeric = self._name, dtype, shape
            self._form = (*numeric, self._own) if self._own else numeric
        if self._json is not json or self._region is not None:
            self._json, self._region = json, None
        return self

    def set_shared_memory(self, region_name: str, byte_size: int, offset: int = 0) -> Self:
        """Take the tensor's data from a registered shared memory region, and return the input.

        Parameters
        ----------
        region_name : str
            The name under which the region is registered with the server.
        byte_size : int
            The tensor's size in bytes.
        offset : int
            Where in the region the tensor starts, in bytes.

        Raises
        ------
        InvalidRequest
            For a size or an offset that is not a whole number.
        """
        self._binary = self._json = None
        self._region = _region(region_name, byte_size, offset)
        shape = tuple(self._shape)
        # 8.0 equals 8 as a key, but its JSON differs.
        plain = all(type(size) is int for size in shape)
        own = (self._own,) if self._own else ()
        self._form = (self._name, self._datatype, shape, self._region, *own) if plain else None
        return self

    def set_shared_memory_region(self, place: RegionSlice) -> Self:
        """Take the tensor's data from a slice that ``region.write()`` returned, and return the input.

        Raises
        ------
        InvalidRequest
            If a tensor of another datatype or shape was written there.
        """
        _check_place(place)
        own = self._datatype, tuple(self._shape)
        if place.datatype is not None and (place.datatype, place.shape) != own:
            raise InvalidRequest(
                f"input {self._name!r} is {self._datatype} of shape {self.shape()}; what was written there is"
                f" {place.datatype} of shape {list(place.shape or ())}"
            )
        return self.set_shared_memory(place.region.name, place.byte_size, place.offset)

    def parameters(self) -> dict[str, Any]:
        """Return the input's own parameters, as :meth:`set_parameters` set them."""
        return orjson.loads(self._own) if self._own else {}

    def set_parameters(self, parameters: Mapping[str, str | bool | int | float]) -> Self:
        """Set the input's own parameters in place of earlier ones, and return the input.

        Parameters
        ----------
        parameters : mapping of str to str, bool, int or float
            For the server or the model; an empty mapping removes them. Triton takes them and ignores them;
            MLServer reads ``content_type``, for example.

        Raises
        ------
        InvalidRequest
            For another kind of value, and for the names that this class itself sends, such as
            ``binary_data_size``.
        """
        own = inference.tensor_parameters(parameters, f"input {self._name!r}")
        form = self._form
        if form is not None:
            form = form[:-1] if self._own else form
            form = (*form, own) if own else form
        self._form = None  # an interrupt must not leave a form beside parameters that it lacks
        self._own = own
        self._form = form
        return self

    @staticmethod
    def _refusal(words: str, more: str) -> InvalidRequest:
        """Return an error with the reference's words, which programs look for, and more detail behind them."""
        return InvalidRequest(f"{words}{more}")

    def _as_json(self, array: npt.NDArray[Any]) -> bytes:
        if self._datatype == "BF16":
            raise self._refusal(
                "BF16 inputs must be sent as binary data over HTTP. Please set binary_data=True",
                f" for input {self._name!r}",
            )
        if self._datatype != "BYTES":
            return jsonio.dump_array(array)
        texts: list[str] = []
        for element in array.ravel().tolist():
            try:
                texts.append(element.decode("utf-8") if isinstance(element, bytes) else str(element))
            except UnicodeDecodeError as error:
                raise self._refusal(
                    f'Failed to encode "{element}" using UTF-8. Please use binary_data=True, if you want to'
                    " pass a byte array.",
                    f" It is in input {self._name!r}.",
                ) from error
        return jsonio.dumps(texts)

    @property
    def _form_around_json(self) -> tuple[Any, ...] | None:
        """All that the JSON object depends on beside the data in it; None where it contains none."""
        return None if self._json is None else (self._name, self._datatype, self._shape, self._own)

    def _buffer(self, snapshot: bool = False) -> Buffer | None:
        """Return the binary data as they are sent, or None without any; with `snapshot` as a copy."""
        data = self._binary
        if not isinstance(data, ndarray):
            return data
        if (snapshot or data.nbytes <= COALESCE) and data.dtype.isnative and _LITTLE:
            return data.tobytes()  # a small tensor is joined to the head anyway
        array = dtypes.as_little_endian(data)
        try:
            return array.data.cast("B")
        except (BufferError, TypeError, ValueError):
            # Zero-size arrays, and bfloat16, which the buffer protocol has no format for.
            return array.reshape(-1).view(np.uint8).data

    def _descriptor(self) -> dict[str, Any]:
        """Return the input's JSON object, ready for orjson."""
        shape = self._shape if self._form is None else self._form[2]
        tensor: dict[str, Any] = {"name": self._name, "shape": shape, "datatype": self._datatype}
        data = self._binary
        if data is not None:
            size = data.nbytes if isinstance(data, ndarray) else len(data)
            tensor["parameters"] = {"binary_data_size": size}
        elif self._region is not None:
            tensor["parameters"] = dict(self._region)
        elif self._json is not None:
            tensor["data"] = orjson.Fragment(self._json)
        if self._own and len(tensor) > 3:  # an input without data is refused
            tensor["parameters"] = {**tensor.get("parameters", {}), **orjson.loads(self._own)}
        return tensor

    def _get_binary_data(self) -> bytes | None:
        """Return the raw binary data, or None where the input has none."""
        data = self._buffer()
        return None if data is None else bytes(data)

    def _get_tensor(self) -> dict[str, Any]:
        """Return the input's JSON object as a dict of plain values."""
        tensor = {**self._descriptor(), "shape": self.shape()}
        if "data" in tensor:
            tensor["data"] = jsonio.loads(self._json or b"", "the input's own data")
        return tensor

    def __repr__(self) -> str:
        return f"InferInput({self._name!r}, {self.shape()}, {self._datatype!r})"


def _unknown(datatype: Any) -> str:
    """Return the datatype that was meant where this is none of the protocol's, or list those."""
    if datatype in dtypes.NAMES:
        return ""
    meant = dtypes.meant(datatype)
    if meant is None:
        return f" The protocol has no datatype {came(datatype)}, but {', '.join(dtypes.NAMES)}."
    return f" The protocol has no datatype {came(datatype)}; did you mean {meant!r}?"


def _instead(value: Any) -> str:
    """Return the way for what is no numpy array."""
    if isinstance(value, Mapping):
        return "; each input has an InferInput of its own, or client.model(…) takes such a mapping"
    return "; InferInput.from_numpy(name, value) takes lists and other libraries' tensors; so does client.model(…)"


_BF16_ADVICE = (
    " Since r26.06, BF16 inputs must use ml_dtypes.bfloat16 instead of np.float32 truncation; create a numpy array"
    " with `np.array(data, dtype=ml_dtypes.bfloat16)`."
)


class InferRequestedOutput:
    """Request one output of an inference, and say how to return it.

    Parameters
    ----------
    name : str
        The output's name in the model.
    binary_data : bool
        True: return the data as binary behind the JSON. False: as a list in the JSON. Ignored while the output
        is placed in shared memory.
    class_count : int
        How many classes to return instead of the tensor, best first, as BYTES ``"score:index:label"``; 0 returns
        the tensor. Only for integers, FP32 and FP64: Triton refuses BOOL, FP16 and BF16, and **ends** at an output
        that is BYTES or has no elements. `infer` cannot know that; a model's ``classes=`` refuses them.

    Raises
    ------
    InvalidRequest
        For a number of classes that is not a whole number.
    """

    def __init__(self, name: str, binary_data: bool = True, class_count: int = 0) -> None:
        classes = class_count
        if type(classes) is not int or classes < 0:
            classes = 0 if classes is None else inference.whole(classes, "class_count")
        binary = binary_data if type(binary_data) is bool else inference.flag(binary_data, "binary_data")
        #: All that the JSON object depends on: name, binary_data, class_count, the region if there is one, and the
        #: caller's parameters as a JSON object.
        self._form: tuple[str, bool, int, _Region | None, bytes] = name, binary, classes, None, b""

    def name(self) -> str:
        """Return the output's name."""
        return self._form[0]

    def set_shared_memory(self, region_name: str, byte_size: int, offset: int = 0) -> None:
        """Place the output in a registered shared memory region.

        Parameters
        ----------
        region_name : str
            The name under which the region is registered with the server.
        byte_size : int
            How many bytes the output may take.
        offset : int
            Where in the region the output starts, in bytes.

        Raises
        ------
        InvalidRequest
            If classes are requested; for a size or an offset that is not a whole number.
        """
        name, binary, class_count, _, own = self._form
        if class_count:
            raise InvalidRequest("shared memory can't be set on classification output")
        self._form = name, binary, 0, _region(region_name, byte_size, offset), own

    def set_shared_memory_region(self, place: RegionSlice) -> None:
        """Place the output in a slice that ``region.reserve()`` returned.

        Raises
        ------
        InvalidRequest
            If classes are requested.
        """
        _check_place(place)
        self.set_shared_memory(place.region.name, place.byte_size, place.offset)

    def unset_shared_memory(self) -> None:
        """Return the output in the response again."""
        self._form = *self._form[:3], None, self._form[4]

    def parameters(self) -> dict[str, Any]:
        """Return the output's own parameters, as :meth:`set_parameters` set them."""
        return orjson.loads(self._form[4]) if self._form[4] else {}

    def set_parameters(self, parameters: Mapping[str, str | bool | int | float]) -> Self:
        """Set the output's own parameters in place of earlier ones, and return the output.

        Parameters
        ----------
        parameters : mapping of str to str, bool, int or float
            As for :meth:`InferInput.set_parameters`.

        Raises
        ------
        InvalidRequest
            For another kind of value, and for the names that this class itself sends, such as ``binary_data``.
        """
        self._form = *self._form[:4], inference.tensor_parameters(parameters, f"output {self._form[0]!r}")
        return self

    def _get_tensor(self) -> dict[str, Any]:
        """Return the output's JSON object as a dict."""
        name, binary, class_count, region, own = self._form
        # The reference's order: bodies are the same, byte for byte.
        parameters: dict[str, Any] = {"classification": class_count} if class_count else {}
        parameters["binary_data"] = binary and region is None
        if region is not None:
            parameters.update(region)
        if own:
            parameters.update(orjson.loads(own))
        return {"name": name, "parameters": parameters}

    def __repr__(self) -> str:
        name, binary, class_count, *_ = self._form
        return f"InferRequestedOutput({name!r}, {binary}, {class_count})"


def data_size(tensor: InferInput) -> int:
    """Return the size of an input's binary data, or 0 if it has none."""
    data = tensor._binary
    if data is None:
        return 0
    return data.nbytes if isinstance(data, ndarray) else len(data)


def datatype_of(array: npt.NDArray[Any], what: str) -> str:
    """Return the protocol's name for an array's dtype.

    Raises
    ------
    InvalidRequest
        Where it has none.
    """
    datatype = dtypes.np_to_triton_dtype(array.dtype)
    if datatype is None:
        raise InvalidRequest(
            f"{what}: expected one of the protocol's datatypes, {', '.join(dtypes.NAMES)}; got {array.dtype}"
        )
    return datatype


def _as_tuple(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        if isinstance(shape, (str, bytes)):  # a datatype given as the shape
            raise TypeError
        return tuple(shape)
    except TypeError as error:
        raise InvalidRequest(f"a shape must be a sequence of whole numbers, got {shape!r}") from error


def _check_place(place: Any) -> None:
    if not hasattr(place, "region"):  # few programs need the import of its class
        raise InvalidRequest(f"expected a slice from a region's write() or reserve(), got {place!r}")


def _region(name: str, byte_size: int, offset: int) -> _Region:
    if not isinstance(name, str):
        raise InvalidRequest(f"region_name must be the name of a registered region, got {name!r}")
    inference.text(name, "region_name")
    size = inference.whole(byte_size, "byte_size")
    region = ("shared_memory_region", name), ("shared_memory_byte_size", size)
    return (*region, ("shared_memory_offset", inference.whole(offset, "offset"))) if offset else region
