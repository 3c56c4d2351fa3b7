"""The result of an inference: the response's outputs as arrays, views of its body where possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from .._basics.log import verbose_logger
from .._wire import dtypes, inference, jsonio
from .._wire.requests import Buffer
from .._wire.responses import Response, ResponseHead
from ..errors import InvalidCall, InvalidRequest, ProtocolError
from .arrays import as_dlpack, as_torch, decoded
from .attributes import no_attribute
from .bodies import octets, plain_body, taken
from .tensors import TensorInfo

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]
    from typing_extensions import Self

__all__ = ["InferResult"]


#: What to write in place of attributes that people try.
_INSTEAD = {
    "json": "result.get_response() is the JSON, result[name] an array",
    **dict.fromkeys(("array", "data", "numpy", "to_numpy"), "use result[name] or result.as_numpy(name)"),
    **dict.fromkeys(("body", "content", "text"), "result.get_response() is the JSON, result[name] an array"),
}
#: Without a look-up for each result.
_new = object.__new__


class InferResult:
    """Hold the response of an inference.

    Parameters
    ----------
    response
        The response: of this library, or any object whose ``get(name)`` gives a header as text or None, and
        ``read()`` the body as bytes. Text is taken if the body is JSON alone.
    verbose : bool
        Show the response's JSON on stdout.

    Raises
    ------
    ProtocolError
        If the response is no valid answer of the protocol, or the object no such response.
    """

    #: How often the inference was tried.
    attempts: int = 1
    _headers: Mapping[str, str] = {}
    #: Outputs in shared memory, by name.
    _placed: Mapping[str, npt.NDArray[Any]] = {}

    def __init__(self, response: Any, verbose: bool, *, _request_id: bytes = b"") -> None:
        if isinstance(response, Response):
            self._headers = response.head.headers
        else:
            response = taken(response)
        head = response.head
        self._body = body = plain_body(response) if head.encoding else response.body
        length = head.json_size
        try:
            self._head_size = None if length is None else int(length)
        except (TypeError, ValueError):
            raise ProtocolError(
                f"Inference-Header-Content-Length: expected a number, got {length!r:.100}"
            ) from None
        self._layout, self._json = inference.decode_response(body, self._head_size, _request_id)
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        if verbose:
            verbose_logger().debug("%s", bytes(self._body[: self._head_size]))

    def alike(self, body: bytes, head_size: int | None = None) -> InferResult:
        """Return the result of a response that differs from this one's only in its tensors' data and its id.

        `head_size` is the size of its JSON where that is another than this one's.
        """
        result = _new(InferResult)
        result._headers = self._headers
        result._body = body
        result._head_size = self._head_size if head_size is None else head_size
        result._layout = self._layout
        result._json = None
        result._arrays = {}
        return result

    @classmethod
    def from_response_body(
        cls,
        response_body: Buffer | str,
        verbose: bool = False,
        header_length: int | None = None,
        content_encoding: str | None = None,
    ) -> Self:
        """Make a result from a response's body that was received by other means.

        Parameters
        ----------
        response_body : bytes or str
            The body as received, in any object with the buffer protocol. A str may be one that is JSON alone;
            `header_length` then counts characters.
        verbose : bool
            Show the response's JSON on stdout.
        header_length : int, optional
            The value of Inference-Header-Content-Length; None where the whole body is JSON.
        content_encoding : str, optional
            The value of Content-Encoding where the body is compressed: ``"gzip"``, ``"deflate"`` or a list.

        Raises
        ------
        ProtocolError
            If the body is no valid answer of the protocol, or no bytes.
        """
        if isinstance(response_body, str) and content_encoding is None:
            if isinstance(header_length, int):
                header_length = len(response_body[:header_length].encode())
            response_body = response_body.encode()
        headers = {"inference-header-content-length": header_length, "content-encoding": content_encoding}
        head = ResponseHead(200, {name: str(value) for name, value in headers.items() if value is not None})
        return cls(Response(head, octets(response_body, "response_body", head)), verbose)

    def as_numpy(
        self, name: str, *, copy: bool = False, dtype: npt.DTypeLike | None = None
    ) -> npt.NDArray[Any] | None:
        """Return an output's data as an array, or None where the response holds none under that name.

        Parameters
        ----------
        name : str
            The output.
        copy : bool
            True: return a new array each time, which does not keep the response's body alive.
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
        arrays = self._arrays
        array = arrays.get(name)
        if array is None:
            layout = self._layout
            if layout.rows is not None and not arrays:
                arrays.update(layout.small_tensors(self._body, self._head_size or 0))
                array = arrays.get(name)
            else:
                array = layout.tensor(name, self._body, self._head_size)
            if array is None:
                return None
            arrays[name] = array
        if dtype is not None:
            try:
                target = np.dtype(dtype)
            except TypeError as error:
                known = dtypes.triton_to_np_dtype(str(dtype)) if dtype in dtypes.NAMES else None
                advice = "" if known is None else f"; did you mean {np.dtype(known).name!r}?"
                raise InvalidRequest(f"dtype must be one of numpy's, got {dtype!r:.80}{advice}") from error
            if array.dtype.kind == "O" and target.kind in "UT":
                array = decoded(array, f"output {name!r}")
            try:
                return array.astype(target, copy=copy)
            except (TypeError, ValueError) as error:
                raise InvalidRequest(f"output {name!r} is no array of {target}: {error}") from error
        return array.copy() if copy else array

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

    def as_torch(self, name: str) -> torch.Tensor:
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
        tensor: torch.Tensor = as_torch(self[name], f"output {name!r}")
        return tensor

    def classes(self, name: str) -> list[Any]:
        """Return the best classes of an output that was requested as classes, as :class:`Classification` tuples.

        Parameters
        ----------
        name : str
            An output that was requested with `class_count`, or from a model with `classes`.

        Returns
        -------
        list
            One list of (score, index, label) for each row, best first; nested further as the output's shape is.
            An output without a batch dimension gives one plain list.

        Raises
        ------
        InvalidRequest
            If the output is no classification.
        KeyError
            As for ``result[name]``.
        """
        from .classes import classifications

        array = self[name]
        datatype = str(self._layout.outputs[name].get("datatype"))
        return classifications(array, f"output {name!r}", datatype)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Name, datatype and shape of each output in the response."""
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
        """The response's headers, names in lower case; empty if pickled, or from another library's response."""
        return dict(self._headers)

    @property
    def parameters(self) -> dict[str, Any]:
        """The response's own parameters, such as those of a sequence; those of an output are in `get_output`."""
        found = self.get_response().get("parameters")
        if found is not None and not isinstance(found, dict):
            raise ProtocolError(
                f"the response of infer: expected parameters to be an object, got {type(found).__name__}"
            )
        return dict(found or {})

    def __contains__(self, name: object) -> bool:
        return name in self._layout.outputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.outputs)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the outputs, so that ``dict(result)`` gives the arrays by name."""
        return tuple(self._layout.outputs)

    def __len__(self) -> int:
        return len(self._layout.outputs)

    def __bool__(self) -> bool:
        return True  # programs written for the reference test a result for None this way

    def get_output(self, name: str) -> dict[str, Any] | None:
        """Return an output's JSON object, or None where there is none of that name."""
        outputs: list[dict[str, Any]] = self.get_response().get("outputs") or []
        return next((output for output in outputs if output["name"] == name), None)

    def get_response(self) -> dict[str, Any]:
        """Return the response's JSON as a dict."""
        if self._json is None:
            head = bytes(self._body[: self._head_size])
            self._json = self._with_placed(jsonio.loads(head, "the response of infer"))
        return self._json

    def _place(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set the arrays of outputs in shared memory, whose data are not in the body."""
        self._placed = arrays
        self._arrays.update(arrays)
        if self._json is not None:
            self._json = self._with_placed(self._json)

    def _with_placed(self, answer: Any) -> Any:
        """Describe outputs in shared memory as the server describes those in the body."""
        for output in answer["outputs"] if self._placed else ():
            if output["name"] in self._placed:
                output["parameters"] = {"binary_data_size": self._placed[output["name"]].nbytes}
        return answer

    @property
    def _result(self) -> dict[str, Any]:
        """The reference's attribute of this name, which programs read."""
        return self.get_response()

    def __getstate__(self) -> dict[str, Any]:
        state = {"_body": bytes(self._body), "_head_size": self._head_size}
        return {**state, "_placed": self._placed} if self._placed else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _arrays={})
        self._layout, self._json = inference.decode_response(self._body, self._head_size)
        self._place(self._placed)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Refuse an attribute that a result does not have."""
            layout = self.__dict__.get("_layout")
            if layout is not None and name in layout.outputs:
                raise InvalidCall(f"a result has no attribute {name!r}: write result[{name!r}]")
            no_attribute(self, name, _INSTEAD)

    def __repr__(self) -> str:
        outputs = self.get_response().get("outputs") or ()
        shown = ", ".join(f"{each['name']}: {each.get('datatype')} {each.get('shape')}" for each in outputs)
        return f"<InferResult of {self.get_response().get('model_name', '?')!r}: {shown}>"
