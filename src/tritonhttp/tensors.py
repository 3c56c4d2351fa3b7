"""The tensors of a call: what goes in, what is asked for, what came out.

An :class:`InferInput` set from a numeric array keeps a view of that array: `infer` reads it when the request
is sent. JSON and BYTES data are encoded when they are set. An :class:`InferResult` gives arrays that are
views of the response's body where that is possible.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
from numpy import ndarray

from .arrays import as_array, as_dlpack, as_torch, decoded
from .errors import InvalidRequest, ProtocolError
from .log import verbose_logger
from .wire import bytes_tensor, compression, dtypes, inference, jsonio
from .wire.http1 import COALESCE, Buffer, Response, ResponseHead

if TYPE_CHECKING:
    from typing_extensions import Self

    from .regions import RegionSlice

__all__ = ["InferInput", "InferRequestedOutput", "InferResult", "TensorInfo", "datatype_of"]

_LITTLE = sys.byteorder == "little"

#: The parameters that place a tensor in a shared memory region.
_Region = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Say what a tensor is.

    Attributes
    ----------
    name : str
    datatype : str
        The protocol's name of it, for example ``"FP32"``.
    shape : tuple of int
        -1, in what a model declares, for a dimension of any size.
    optional : bool
        Whether it is an input that may be left out.
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
        Its shape, the batch dimension included.
    datatype : str
        The protocol's name of its datatype, for example ``"FP32"``.
    """

    # Where the data are, at most one of: a numeric array or encoded BYTES; JSON; a region's parameters.
    _binary: npt.NDArray[Any] | bytes | bytearray | None = None
    _json: bytes | None = None
    _region: _Region | None = None
    #: All that the JSON object depends on, the shape third; None where data stand in it, or the shape was changed.
    _form: tuple[Any, ...] | None = None

    def __init__(self, name: str, shape: Sequence[int], datatype: str) -> None:
        self._name = name
        self._shape = tuple(shape) if type(shape) is list else _as_tuple(shape)
        self._datatype = datatype

    @classmethod
    def from_numpy(cls, name: str, array: Any, binary_data: bool = True, *, copy: bool = False) -> Self:
        """Make an input with its data, of the array's shape and datatype.

        Parameters
        ----------
        name : str
            The input's name in the model.
        array
            A numpy array, what ``numpy.asarray`` makes one of, or a tensor on the host that speaks DLPack. Of
            Python's numbers come INT64, FP64 and BOOL, as in numpy; of str and bytes BYTES.
        binary_data, copy
            As for :meth:`set_data_from_numpy`.

        Raises
        ------
        InvalidRequest
            For what is no array, and a dtype that the protocol has no name for.
        """
        what = f"input {name!r}"
        found = as_array(array, what)
        tensor = cls(name, found.shape, datatype_of(found, what))
        return tensor.set_data_from_numpy(found, binary_data, copy=copy)

    def name(self) -> str:
        """Return the input's name."""
        return self._name

    def datatype(self) -> str:
        """Return the name of the input's datatype."""
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
            An array of the input's shape and datatype; any memory order and byte order. Elements of an object
            array: bytes as they are, str as UTF-8, anything else as its ``str()``.
        binary_data : bool
            True: the data travel as binary behind the JSON head. False: as a list in the JSON.
        copy : bool
            True: copy a numeric array now. False: keep a view, which `infer` reads when it sends the request;
            what is changed in the array until then is sent. BYTES and JSON data are always encoded now.

        Raises
        ------
        InvalidRequest
            If the array's dtype or shape are others than the input's, or its data have no form in JSON.
        """
        if type(input_tensor) is not ndarray:
            if not isinstance(input_tensor, ndarray):
                raise self._refusal(
                    "input_tensor must be a numpy array",
                    f", got {type(input_tensor).__name__} for input {self._name!r}",
                )
            # Subclasses have a `data` and a `reshape` of their own. A masked array goes out with its fill value.
            filled = getattr(input_tensor, "filled", None)
            input_tensor = np.asarray(input_tensor if filled is None else filled())
        dtype, shape = input_tensor.dtype, input_tensor.shape
        datatype = dtypes.BY_DTYPE.get(dtype) or dtypes.np_to_triton_dtype(dtype)
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
        json = None
        if not binary_data:
            json = self._as_json(input_tensor)
            self._binary = self._form = None
        elif datatype == "BYTES":
            data = self._binary = bytes_tensor.encode(input_tensor)
            self._form = self._name, datatype, shape, len(data)
        else:
            self._binary = input_tensor.copy() if copy else input_tensor
            self._form = self._name, dtype, shape
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
            For a size or an offset that is no whole number.
        """
        self._binary = self._json = None
        self._region = _region(region_name, byte_size, offset)
        shape = tuple(self._shape)
        # 8.0 is another head than 8, but the same key.
        plain = all(type(size) is int for size in shape)
        self._form = (self._name, self._datatype, shape, self._region) if plain else None
        return self

    def set_shared_memory_region(self, place: RegionSlice) -> Self:
        """Take the tensor's data from a place in a region, as ``region.write()`` returned it; return the input.

        Raises
        ------
        InvalidRequest
            If a tensor of another datatype or shape was written there.
        """
        _check_place(place)
        if place.datatype is not None and (place.datatype, place.shape) != (
            self._datatype,
            tuple(self._shape),
        ):
            raise InvalidRequest(
                f"input {self._name!r} is {self._datatype} of shape {self.shape()}; what was written there is"
                f" {place.datatype} of shape {list(place.shape or ())}"
            )
        return self.set_shared_memory(place.region.name, place.byte_size, place.offset)

    @staticmethod
    def _refusal(words: str, more: str) -> InvalidRequest:
        """Return an error with the reference's words, for which programs look, and what is known beyond them."""
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

    def _buffer(self, snapshot: bool = False) -> Buffer | None:
        """Return the binary data as they go out, or None where there are none.

        With `snapshot` nothing of them is the caller's memory.
        """
        data = self._binary
        if not isinstance(data, ndarray):
            return data
        if (snapshot or data.nbytes <= COALESCE) and data.dtype.isnative and _LITTLE:
            return data.tobytes()  # a small tensor leaves in one piece with the head anyway
        array = dtypes.as_little_endian(data)
        try:
            return array.data.cast("B")
        except (BufferError, TypeError, ValueError):
            # Zero-size arrays, and bfloat16, which the buffer protocol has no letter for.
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
    """Say which datatypes there are where this is none of them."""
    if datatype in dtypes.NAMES:
        return ""
    return f" The protocol has no datatype {datatype!r}, but {', '.join(dtypes.NAMES)}."


_BF16_ADVICE = (
    " Since r26.06, BF16 inputs must use ml_dtypes.bfloat16 instead of np.float32 truncation; create a numpy array"
    " with `np.array(data, dtype=ml_dtypes.bfloat16)`."
)


class InferRequestedOutput:
    """Describe one output that an inference shall return, and how.

    Parameters
    ----------
    name : str
        The output's name in the model.
    binary_data : bool
        True: its data come as binary behind the JSON. False: as a list in the JSON. Without effect while the
        output is placed in shared memory.
    class_count : int
        How many classes to return in place of the tensor, best first, as BYTES ``"score:index:label"``; 0:
        none.

    Raises
    ------
    InvalidRequest
        For a number of classes that is not whole.
    """

    def __init__(self, name: str, binary_data: bool = True, class_count: int = 0) -> None:
        #: All that the JSON object depends on; where the output is placed in a region, that at the end.
        self._form: tuple[str, bool, int, _Region | None] = (
            name,
            bool(binary_data),
            inference.whole(class_count, "class_count") if class_count else 0,
            None,
        )

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
            The bytes that there are for the output.
        offset : int
            Where in the region they start, in bytes.

        Raises
        ------
        InvalidRequest
            If classes were asked for; for a size or an offset that is no whole number.
        """
        name, binary, class_count, _ = self._form
        if class_count:
            raise InvalidRequest("shared memory can't be set on classification output")
        self._form = name, binary, 0, _region(region_name, byte_size, offset)

    def set_shared_memory_region(self, place: RegionSlice) -> None:
        """Place the output in a place of a region, as ``region.reserve()`` returned it.

        Raises
        ------
        InvalidRequest
            If classes were asked for.
        """
        _check_place(place)
        self.set_shared_memory(place.region.name, place.byte_size, place.offset)

    def unset_shared_memory(self) -> None:
        """Return the output in the response again."""
        self._form = *self._form[:3], None

    def _get_tensor(self) -> dict[str, Any]:
        """Return the output's JSON object as a dict."""
        name, binary, class_count, region = self._form
        # In the reference's order, so that bodies are the same byte for byte.
        parameters: dict[str, Any] = {"classification": class_count} if class_count else {}
        parameters["binary_data"] = binary and region is None
        if region is not None:
            parameters.update(region)
        return {"name": name, "parameters": parameters}

    def __repr__(self) -> str:
        name, binary, class_count, _ = self._form
        return f"InferRequestedOutput({name!r}, {binary}, {class_count})"


class InferResult:
    """Hold the response of an inference.

    Parameters
    ----------
    response
        The response: of this library, or any object whose ``get(name)`` gives a header and ``read()`` the
        body.
    verbose : bool
        Show the response's JSON on stdout.

    Raises
    ------
    ProtocolError
        If the response is no valid answer of the protocol.
    """

    #: How often the inference was tried.
    attempts: int = 1
    _headers: Mapping[str, str] = {}
    #: Outputs that came through shared memory, by name.
    _placed: Mapping[str, npt.NDArray[Any]] = {}

    def __init__(self, response: Any, verbose: bool) -> None:
        body: Buffer
        limit = None
        if isinstance(response, Response):
            head = response.head
            self._headers = head.headers
            encoding, length, limit = head.encoding, head.json_size, response.limit
            body = response.body
        else:
            encoding = response.get("Content-Encoding")
            length = response.get("Inference-Header-Content-Length")
            body = response.read()
        if encoding:
            body = compression.decompress(body, str(encoding), limit)
        self._body = body
        try:
            self._head_size = None if length is None else int(length)
        except (TypeError, ValueError):
            raise ProtocolError(
                f"Inference-Header-Content-Length: expected a number, got {length!r:.100}"
            ) from None
        self._layout, self._json = inference.decode_response(body, self._head_size)
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        if verbose:
            verbose_logger().debug("%s", bytes(self._body[: self._head_size]))

    @classmethod
    def from_response_body(
        cls,
        response_body: Buffer,
        verbose: bool = False,
        header_length: int | None = None,
        content_encoding: str | None = None,
    ) -> Self:
        """Make a result from a response's body that was received by other means.

        Parameters
        ----------
        response_body : bytes
            The body as received.
        verbose : bool
            Show the response's JSON on stdout.
        header_length : int, optional
            The value of Inference-Header-Content-Length; None where the whole body is JSON.
        content_encoding : str, optional
            The value of Content-Encoding where the body is compressed: ``"gzip"`` or ``"deflate"``.
        """
        headers = {"inference-header-content-length": header_length, "content-encoding": content_encoding}
        present = {name: str(value) for name, value in headers.items() if value is not None}
        return cls(Response(ResponseHead(200, present), response_body), verbose)

    def as_numpy(
        self, name: str, *, copy: bool = False, dtype: npt.DTypeLike | None = None
    ) -> npt.NDArray[Any] | None:
        """Return an output's data as an array, or None where the response holds none under that name.

        Parameters
        ----------
        name : str
            The output.
        copy : bool
            True: an array of its own each time, which does not keep the response's body.
        dtype : optional
            Convert to this dtype, as numpy's ``astype`` does; BYTES to a dtype of text are read as UTF-8.

        Returns
        -------
        numpy.ndarray or None
            Writable, of the output's shape; the same array each time. BYTES give an object array: of bytes,
            or of str where the output came as JSON. None also for an output that was placed in shared memory.

        Raises
        ------
        ProtocolError
            If the data do not fit the output's shape and datatype.
        """
        array = self._arrays.get(name)
        if array is None:
            array = self._layout.tensor(name, self._body)
            if array is not None:
                self._arrays[name] = array
        if dtype is not None and array is not None:
            target = np.dtype(dtype)
            if array.dtype.kind == "O" and target.kind in "UT":
                array = decoded(array, f"output {name!r}")
            try:
                return array.astype(target, copy=copy)
            except (TypeError, ValueError) as error:
                raise InvalidRequest(f"output {name!r} is no array of {target}: {error}") from error
        return array.copy() if copy and array is not None else array

    def as_dlpack(self, name: str) -> Any:
        """Return an output, without a copy, as an object that every library with ``from_dlpack`` reads.

        Raises
        ------
        InvalidRequest
            For BYTES.
        KeyError
            As for ``result[name]``.
        """
        return as_dlpack(self[name], f"output {name!r}")

    def as_torch(self, name: str) -> Any:
        """Return an output, without a copy, as a ``torch.Tensor`` on the CPU; BF16 too.

        Raises
        ------
        ImportError
            Without torch.
        InvalidRequest
            For BYTES.
        KeyError
            As for ``result[name]``.
        """
        return as_torch(self[name], f"output {name!r}")

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What the response's outputs are: name, datatype and shape of each."""
        return tuple(
            TensorInfo(name, str(output.get("datatype")), tuple(shape if isinstance(shape, list) else ()))
            for name, output in self._layout.outputs.items()
            for shape in [output.get("shape")]
        )

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Return an output's array, as :meth:`as_numpy` does.

        Raises
        ------
        KeyError
            Where the response holds no data under that name.
        """
        array = self.as_numpy(name)
        if array is None:
            held = ", ".join(map(repr, self._layout.outputs)) or "none"
            if name in self._layout.outputs:
                raise KeyError(f"output {name!r} came without data: it is in shared memory")
            raise KeyError(f"no output {name!r}; there are: {held}")
        return array

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers, names in lower case; empty where it came from elsewhere or was pickled."""
        return dict(self._headers)

    def __contains__(self, name: object) -> bool:
        return name in self._layout.outputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.outputs)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the outputs; with them ``dict(result)`` has the arrays by name."""
        return tuple(self._layout.outputs)

    def __len__(self) -> int:
        return len(self._layout.outputs)

    def __bool__(self) -> bool:
        return True  # programs for the reference test whether there is a result

    def get_output(self, name: str) -> dict[str, Any] | None:
        """Return an output's JSON object, or None where there is none of that name."""
        for output in self.get_response().get("outputs") or ():
            if output["name"] == name:
                found: dict[str, Any] = output
                return found
        return None

    def get_response(self) -> dict[str, Any]:
        """Return the response's JSON as a dict."""
        if self._json is None:
            head = bytes(self._body[: self._head_size])
            self._json = self._with_placed(jsonio.loads(head, "the response of infer"))
        return self._json

    def _place(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take the data of these outputs, which are not in the body, from arrays."""
        self._placed = arrays
        self._arrays.update(arrays)
        if self._json is not None:
            self._json = self._with_placed(self._json)

    def _with_placed(self, answer: Any) -> Any:
        """Say of outputs that the server placed elsewhere what it says of those in the body."""
        for output in answer["outputs"] if self._placed else ():
            if output["name"] in self._placed:
                output["parameters"] = {"binary_data_size": self._placed[output["name"]].nbytes}
        return answer

    @property
    def _result(self) -> dict[str, Any]:
        """The reference's attribute, which programs read."""
        return self.get_response()

    def __getstate__(self) -> dict[str, Any]:
        state = {"_body": bytes(self._body), "_head_size": self._head_size}
        return {**state, "_placed": self._placed} if self._placed else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _arrays={})
        self._layout, self._json = inference.decode_response(self._body, self._head_size)
        self._place(self._placed)

    def __repr__(self) -> str:
        outputs = self.get_response().get("outputs") or ()
        shown = ", ".join(f"{each['name']}: {each.get('datatype')} {each.get('shape')}" for each in outputs)
        return f"<InferResult of {self.get_response().get('model_name', '?')!r}: {shown}>"


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
        if isinstance(shape, (str, bytes)):  # the datatype, in the shape's place
            raise TypeError
        return tuple(shape)
    except TypeError as error:
        raise InvalidRequest(f"a shape must be a sequence of whole numbers, got {shape!r}") from error


def _check_place(place: Any) -> None:
    if not hasattr(place, "region"):  # the class itself is imported by few programs
        raise InvalidRequest(
            f"expected a place in a region, as its write() and reserve() return it; got {place!r}"
        )


def _region(name: str, byte_size: int, offset: int) -> _Region:
    if not isinstance(name, str):
        raise InvalidRequest(
            f"region_name must be the name that the region is registered under, got {name!r}"
        )
    region = (
        ("shared_memory_region", name),
        ("shared_memory_byte_size", inference.whole(byte_size, "byte_size")),
    )
    return (*region, ("shared_memory_offset", inference.whole(offset, "offset"))) if offset else region
