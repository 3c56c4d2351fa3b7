"""An inference on the wire: the JSON head of a request, and a response's tensors as views of its body.

Sources: the Open Inference Protocol's "Inference Request/Response JSON Object", and Triton's extensions for
binary tensors, sequences, scheduling policy and parameters. A body is the JSON head, then the binary tensors
in the order that the head lists them, without padding; ``Inference-Header-Content-Length`` says where the
head ends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._basics.quantities import came, integer
from ..errors import InvalidRequest, ProtocolError, ServerError
from . import bytes_tensor, dtypes, jsonio
from .requests import Buffer

__all__ = [
    "RESERVED_PARAMETERS",
    "RESERVED_PREFIX",
    "RESERVED_TENSOR_PARAMETERS",
    "Layout",
    "decode_response",
    "error_message",
    "flag",
    "numeric_size",
    "tensor_parameters",
    "text",
    "whole",
]


#: Parameters that arguments of `infer` stand for; a caller cannot set them by hand.
RESERVED_PARAMETERS = (
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "priority",
    "timeout",
    "headers",
    "binary_data_output",
)
RESERVED_PREFIX = "triton_"
#: Parameters of a tensor that its own methods stand for.
RESERVED_TENSOR_PARAMETERS = (
    "binary_data",
    "binary_data_size",
    "classification",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "shared_memory_region",
)


def whole(value: Any, name: str, unit: str = "") -> int:
    """Return a number that the server takes as unsigned as an int, or refuse it.

    What equals it, but is another in JSON (1.0), must not share its head.
    """
    number = integer(value)
    if number is None or number < 0:
        raise InvalidRequest(f"{name} must be a whole number{unit}, 0 or more; got {came(value)}")
    return number


def text(value: Any, name: str) -> str:
    """Return a caller's text as a plain str, or refuse anything else, and text that UTF-8 cannot represent."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a str, got {came(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} {came(value)} is not valid text: {error}") from None
    return str(value)


def flag(value: Any, name: str) -> bool:
    """Return a truth value of any type as a bool, 0 and 1 included, or refuse anything else."""
    if isinstance(value, (bool, np.bool_)) or integer(value) in (0, 1):
        return bool(value)
    raise InvalidRequest(f"{name} must be True or False, got {came(value)}")


def tensor_parameters(given: Mapping[str, Any], what: str) -> bytes:
    """Return a caller's parameters of one tensor as a JSON object; nothing where there are none.

    The protocol has strings, numbers and booleans here. As text 1, 1.0 and True differ, which are equal as keys.

    Raises
    ------
    InvalidRequest
        For a reserved name, and for any other value; the message begins with `what`.
    """
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{what}: parameters must be a mapping, got {type(given).__name__}")
    found: dict[str, Any] = {}
    for name, value in given.items():
        name = text(name, f"{what}: the name of a parameter")
        if name in RESERVED_TENSOR_PARAMETERS:
            raise InvalidRequest(
                f"{what}: parameter {name!r} is reserved: the tensor's own arguments and methods set it"
            )
        plain = jsonio.plain(value, f"{what}: parameter {name!r}")
        if not isinstance(plain, (str, bool, int, float)):
            raise InvalidRequest(
                f"{what}: parameter {name!r} must be a str, a bool, an int of 64 bits or a finite float,"
                f" got {value!r:.100}"
            )
        found[name] = plain
    return jsonio.dumps(found) if found else b""


#: The most bytes in outputs that share one array: one of them keeps all of it alive.
_MAX_ROWS = 1 << 12


class Layout:
    """What the head of an inference response says of the body behind it.

    A model answers requests of the same shapes with the same head, so these answers share a layout. A caller must
    not be able to change it: nothing in it is given away.
    """

    __slots__ = ("_placed", "_texts", "_views", "outputs", "rows", "size", "spans", "version")

    def __init__(self, answer: dict[str, Any]) -> None:
        #: The version of the model that answered.
        self.version: str | None = answer.get("model_version")
        #: The JSON object of each output, by its name.
        self.outputs: dict[str, dict[str, Any]] = {}
        #: Offset behind the head, and size, of each binary tensor, by its output's name.
        self.spans: dict[str, tuple[int, int]] = {}
        #: Shape, dtype, offset and size of the tensors that were read before.
        self._views: dict[str, tuple[tuple[int, ...], np.dtype[Any], int, int]] = {}
        #: The same for tensors in shared memory; their offset is 0.
        self._placed: dict[str, tuple[tuple[int, ...], np.dtype[Any], int, int]] = {}
        #: Shape and number of elements of the BYTES outputs that were read.
        self._texts: dict[str, tuple[list[int], int]] = {}
        #: Shape and dtype of one array with each output as a row, where the outputs are several, alike and small.
        self.rows: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        position = 0
        for output in _outputs(answer):
            name = output["name"]
            self.outputs.setdefault(name, output)
            parameters = output.get("parameters")
            if parameters is None:
                continue
            if not isinstance(parameters, dict):
                raise ProtocolError(f"output {name!r}: expected parameters to be an object")
            length = parameters.get("binary_data_size")
            if length is not None:
                if type(length) is not int or not 0 <= length <= sys.maxsize:
                    raise ProtocolError(
                        f"output {name!r}: expected binary_data_size as a size, got {length!r:.200}"
                    )
                self.spans.setdefault(name, (position, length))
                position += length
        #: The bytes that the binary tensors take.
        self.size = position

    def tensor(self, name: str, body: Buffer, head_size: int | None) -> npt.NDArray[Any] | None:
        """Return one output as an array of its shape and dtype, or None where the response holds no data of it.

        The array is writable and aligned. It is a view of `body` where possible, but a copy of a tensor that is a
        small part of `body`, which it would keep alive. BYTES give an object array: of bytes from binary data, of
        str from JSON. `head_size` is None where all of `body` is JSON.
        """
        view = self._views.get(name)
        if view is None:
            output = self.outputs.get(name)
            span = self.spans.get(name)
            if output is None or (span is None and "data" not in output):
                return None
            if span is None:
                return _json_tensor(output, *_describe(output))
            if output.get("datatype") == "BYTES":
                form = self._texts.get(name)
                if form is None:
                    form = self._texts[name] = _describe(output)[1:]
                begin = span[0] + (head_size or 0)
                return _bytes_tensor(name, *form, memoryview(body)[begin : begin + span[1]])
            view = _view(output, span)
            if not self._views and self._are_alike(output, span[1]):
                self.rows = (len(self.outputs), *view[0]), view[1]
            self._views[name] = view
        shape, dtype, offset, size = view
        if head_size:
            offset += head_size
        if type(body) is bytes:
            # Copying the bytes is cheaper than an array over them and its copy.
            memory: Any = bytearray(body[offset : offset + size])
            offset = 0
        else:
            memory = body
        try:
            array: npt.NDArray[Any] = np.ndarray(shape, dtype, memory, offset)
        except (OverflowError, ValueError) as error:
            raise _no_such_shape(name, shape, error) from error
        if memory is body and (
            size * 16 < len(body) or not (flags := array.flags).writeable or not flags.aligned
        ):
            copy: npt.NDArray[Any] = array.copy()
            return copy
        return array

    def _are_alike(self, first: dict[str, Any], size: int) -> bool:
        """Return whether the outputs are several of this one's form and size, and small in all."""
        kind, count = (first["shape"], first["datatype"]), len(self.outputs)
        return (
            count > 3  # fewer are read one by one as fast
            and 0 < size * count == self.size <= _MAX_ROWS
            and 0 < len(first["shape"]) < 32  # numpy 1 has 32 dimensions, and one is for the rows
            and all(length == size for _, length in self.spans.values())
            and all((each.get("shape"), each.get("datatype")) == kind for each in self.outputs.values())
        )

    def small_tensors(self, body: Buffer, head_size: int) -> Iterable[tuple[str, npt.NDArray[Any]]]:
        """Return all outputs by name, as views of one small array; only where `rows` describes it."""
        shape, dtype = self.rows or ((0,), np.dtype(bool))
        return zip(self.outputs, np.ndarray(shape, dtype, body, head_size).copy(), strict=False)

    def placed_tensor(self, name: str, memory: Any, offset: int, limit: int) -> npt.NDArray[Any] | None:
        """Return an output in shared memory as a view, or None where the response itself holds its data.

        Raises
        ------
        ProtocolError
            If it takes more than `limit` bytes, or is not numeric.
        """
        view = self._placed.get(name)
        if view is None:
            output = self.outputs.get(name)
            if output is None or name in self.spans or "data" in output:
                return None
            view = self._placed[name] = _view(output, (0, numeric_size(output)))
        shape, dtype, _, size = view
        if size > limit:
            raise ProtocolError(f"output {name!r}: {size} bytes do not fit into a place of {limit}")
        try:
            array: npt.NDArray[Any] = np.ndarray(shape, dtype, memory, offset)
        except (OverflowError, ValueError) as error:
            raise _no_such_shape(name, shape, error) from error
        return array


def _view(
    output: Mapping[str, Any], span: tuple[int, int]
) -> tuple[tuple[int, ...], np.dtype[Any], int, int]:
    """Return shape, dtype, offset and size of a numeric tensor behind the head."""
    scalar, shape, count = _describe(output)
    offset, size = span
    dtype = np.dtype(scalar)
    if sys.byteorder == "big":
        dtype = dtype.newbyteorder("<")
    if count * dtype.itemsize != size:
        raise ProtocolError(
            f"output {output['name']!r}: {output['datatype']} of shape {shape} takes"
            f" {count * dtype.itemsize} bytes, got {size}"
        )
    return tuple(shape), dtype, offset, size


def _bytes_tensor(name: str, shape: list[int], count: int, data: memoryview) -> npt.NDArray[Any]:
    try:
        elements = bytes_tensor.decode(data, count)
    except ProtocolError as error:
        raise ProtocolError(f"output {name!r}: {error.message()}") from error
    return _reshape(elements, shape, name)


def numeric_size(output: Mapping[str, Any]) -> int:
    """Return how many bytes a numeric output takes; 0 for BYTES and for JSON data."""
    if output.get("datatype") == "BYTES" or "data" in output:
        return 0
    scalar, _, count = _describe(output)
    return count * int(np.dtype(scalar).itemsize)


#: Layouts by the head's bytes, without the request's id.
_layouts: dict[bytes, Layout] = {}
_MAX_LAYOUTS = 256
#: Bytes in one head, in a JSON body, and in all that is remembered. JSON bodies hold data, so they seldom repeat.
_MAX_SIZE, _MAX_JSON_SIZE, _MAX_TOTAL_SIZE = 1 << 17, 1 << 12, 1 << 20


def decode_response(
    body: Buffer, header_length: int | None, request_id: bytes = b""
) -> tuple[Layout, dict[str, Any] | None]:
    """Decode the head of an inference response.

    Parameters
    ----------
    body
        The whole body, no longer compressed.
    header_length : int or None
        The head's size in bytes; None where the whole body is JSON.
    request_id : bytes
        The request's id as JSON, with its quotes. Responses that differ only in this id share a layout.

    Returns
    -------
    layout : Layout
    answer : dict or None
        The JSON object, which the caller may keep; None where the layout is shared.

    Raises
    ------
    ProtocolError
        Where the body is no answer of the protocol: no JSON, the wrong types, sizes that do not add up.
    ServerError
        Where a body that came with a status of success holds an error.
    """
    size = len(body)
    if header_length is None:
        header_length = size
    elif not 0 <= header_length <= size:
        raise ProtocolError(
            f"Inference-Header-Content-Length is {header_length}, the response's body has {size} bytes"
        )
    answer = None
    if header_length > (_MAX_JSON_SIZE if header_length == size else _MAX_SIZE):
        answer = _loads(body if header_length == size else memoryview(body)[:header_length])
        layout = Layout(answer)
    else:
        head = bytes(body[:header_length])
        # Servers repeat the id. No string contains these bytes, since JSON escapes its quotes.
        form = head.replace(b'"id":%b,' % request_id, b"", 1) if request_id else head
        found = _layouts.get(form)
        if found is None:
            found = Layout(_loads(head))
            if len(_layouts) >= _MAX_LAYOUTS or sum(map(len, list(_layouts))) + len(form) > _MAX_TOTAL_SIZE:
                _layouts.clear()
            _layouts[form] = found
        layout = found
    needed = header_length + layout.size
    if needed != size:
        raise ProtocolError(
            f"the response's body has {size} bytes, its head and binary tensors take {needed}"
        )
    return layout, answer


def _loads(head: Buffer) -> dict[str, Any]:
    answer = jsonio.loads(head, "the response of infer")
    if not isinstance(answer, dict):
        raise ProtocolError(f"the response of infer: expected a JSON object, got {type(answer).__name__}")
    message = error_message(answer)
    if message is not None:
        raise ServerError(message, status="200", debug_details=bytes(head).decode("utf-8", "replace"))
    return answer


def _outputs(answer: dict[str, Any]) -> list[dict[str, Any]]:
    outputs = answer.get("outputs")
    if outputs is None:
        if "outputs" not in answer and "model_name" not in answer:
            raise ProtocolError(
                f"the response of infer: expected outputs, got an object with {sorted(answer)!s:.200}"
            )
        return []
    if not isinstance(outputs, list):
        raise ProtocolError(
            f"the response of infer: expected outputs to be a list, got {type(outputs).__name__}"
        )
    for output in outputs:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise ProtocolError(f"the response of infer: expected an output with a name, got {output!r:.200}")
    return outputs


def _describe(output: Mapping[str, Any]) -> tuple[Any, list[int], int]:
    """Return an output's scalar type, its shape, and how many elements that is."""
    name, shape, datatype = output["name"], output.get("shape"), output.get("datatype")
    count = 1
    dims: list[Any] = shape if isinstance(shape, list) else [None]
    for dim in dims:
        if type(dim) is not int or dim < 0:
            raise ProtocolError(f"output {name!r}: expected a shape of whole numbers, got {shape!r:.200}")
        count *= dim
    if count > sys.maxsize:  # no message could show thousands of digits
        raise _no_such_shape(name, dims, "it has too many elements")
    scalar = dtypes.triton_to_np_dtype(datatype) if isinstance(datatype, str) else None
    if scalar is None:
        raise ProtocolError(f"output {name!r}: unknown datatype {datatype!r}")
    return scalar, dims, count


def _json_tensor(output: Mapping[str, Any], scalar: Any, shape: list[int], count: int) -> npt.NDArray[Any]:
    name = output["name"]
    data = output.get("data")
    if not isinstance(data, list):
        raise ProtocolError(f"output {name!r}: expected its data as a list, got {type(data).__name__}")
    try:
        with np.errstate(over="raise"):  # numpy would take numbers that are too large as infinite
            array = np.array(data, dtype=scalar)
    except (TypeError, ValueError, ArithmeticError, DeprecationWarning) as error:
        raise ProtocolError(f"output {name!r}: its data are not {output['datatype']}: {error}") from error
    if array.size != count:
        raise ProtocolError(f"output {name!r}: shape {shape} takes {count} elements, got {array.size}")
    shaped = _reshape(array, shape, name)
    if not _is_faithful(array, data):
        raise ProtocolError(
            f"output {name!r}: its data are not {output['datatype']}:"
            " an element is of another type, or does not fit"
        )
    return shaped


def _is_faithful(array: npt.NDArray[Any], data: list[Any]) -> bool:
    """Return whether numpy kept the JSON's values.

    It drops fractions; numpy 1 wraps integers, with a warning. JSON that was made of protobuf has 64-bit integers,
    NaN and infinities as strings, which numpy parses as the reference does.
    """
    kind = array.dtype.kind
    if kind == "O":
        return {str}.issuperset(map(type, array.flat))
    if kind == "V":  # BF16, which is infinite without a word where a number is too large
        return bool(np.array_equal(np.isinf(array.astype(float)), np.isinf(np.array(data, dtype=float))))
    if kind == "f":  # numpy takes numbers, and their texts; some servers write null for NaN
        return True
    return bool(array.tolist() == (_as_numbers(data) if kind in "iu" else data))


def _as_numbers(data: list[Any]) -> list[Any]:
    """Return lists with the numbers that strings in them stand for."""
    if {str, list}.isdisjoint(map(type, data)):
        return data
    return [
        int(each) if type(each) is str else _as_numbers(each) if type(each) is list else each for each in data
    ]


def _reshape(array: npt.NDArray[Any], shape: list[int], name: str) -> npt.NDArray[Any]:
    try:
        return array.reshape(shape)
    except (OverflowError, ValueError) as error:
        raise _no_such_shape(name, shape, error) from error


def _no_such_shape(name: str, shape: Sequence[int], error: Exception | str) -> ProtocolError:
    """Return the error for too many dimensions, or a 0 beside dimensions whose product overflows."""
    return ProtocolError(f"output {name!r}: no array has the shape {shape!s:.200}: {error}")


def error_message(answer: Any) -> str | None:
    """Return the error that a JSON answer holds, or None.

    Triton and most servers send ``{"error": "…"}``; those on FastAPI ``{"detail": …}``, which may be a list
    of objects with a place and a message; gateways often ``{"message": "…"}``.
    """
    if not isinstance(answer, dict) or "outputs" in answer or "model_name" in answer:
        return None
    found = answer.get("error")
    if found is None:
        return None
    return "; ".join(map(_item_text, found if isinstance(found, list) and found else [found]))


def _item_text(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict):
        text = item.get("msg", item.get("message", item.get("error")))
        if isinstance(text, str):
            place = item.get("loc")
            return f"{'.'.join(map(str, place))}: {text}" if isinstance(place, list) and place else text
    try:
        return jsonio.dumps(item).decode()
    except InvalidRequest:  # the standard module reads more than orjson writes
        return f"an error without words, a JSON {type(item).__name__}"
