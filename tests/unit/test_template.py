"""Requests made of templates: the C extension and the Python below its calls keep one contract."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonhttp import InferenceServerClient, InferInput, InferRequestedOutput
from tritonhttp._protocol import encoder
from tritonhttp._protocol.inference import Inference
from tritonhttp._protocol.tensors import datatype_of
from tritonhttp._repetition import template as templates
from tritonhttp._repetition.template import LARGEST, Template
from tritonhttp._wire.requests import COALESCE
from tritonhttp.as_tritonclient import infer_input as as_tritonclient
from tritonhttp.errors import InferenceServerException, InvalidRequest

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

pytestmark = pytest.mark.skipif(not isinstance(encoder.find, type(len)), reason="the extension is not built")

find: Any = templates.find
compose: Any = templates.compose


class Input(InferInput):
    pass


class Output(InferRequestedOutput):
    pass


class Talking(InferRequestedOutput):
    """Makes its JSON object itself."""

    def _get_tensor(self) -> dict[str, Any]:
        return {**super()._get_tensor(), "told": True}


class List(list[Any]):
    pass


# -- what is asked for, written down so that it can be made twice ----------------------------------


class InputRecipe(NamedTuple):
    kind: Any
    name: Any
    shape: tuple[int, ...]
    dtype: str
    order: str
    data: str

    def make(self) -> Any:
        if self.kind is None:
            return InferRequestedOutput(self.name)
        count = int(np.prod(self.shape))
        if self.dtype == "BYTES":
            array = np.array([b"x" * (n % 3) for n in range(count)] or [b""], object)[:count]
        elif self.dtype == "BF16":
            array = (np.arange(count) % 100).astype(ml_dtypes.bfloat16)
        else:
            array = (np.arange(count) % 100).astype(self.dtype)
        array = array.reshape(self.shape).copy("F" if self.order == "F" else "C")
        if self.order == "strided" and array.ndim:
            array = np.repeat(array, 2, axis=-1)[..., ::2]
        tensor = self.kind(self.name, self.shape, datatype_of(array, "the recipe"))
        if self.data == "json" and self.dtype != "BF16":
            tensor.set_data_from_numpy(array, binary_data=False)
        elif self.data == "region":
            tensor.set_shared_memory("region", 64, len(self.shape))
        elif self.data != "none":
            tensor.set_data_from_numpy(array)
        return tensor


class OutputRecipe(NamedTuple):
    kind: Any
    name: Any
    binary: bool
    classes: int
    placed: bool

    def make(self) -> Any:
        if self.kind is None:
            return InferInput(self.name, [1], "FP32")
        output = self.kind(self.name, self.binary, self.classes)
        if self.placed and not self.classes:
            output.set_shared_memory("region", 64)
        return output


class Recipe(NamedTuple):
    model: Any
    version: Any
    inputs: list[InputRecipe]
    outputs: list[OutputRecipe]
    boxes: tuple[str, str]
    options: dict[str, Any]
    headers: dict[str, Any] | None
    query: dict[str, Any] | None


BOXES: dict[str, Callable[[list[Any]], Any]] = {
    "list": lambda items: items,
    "tuple": tuple,
    "iterator": iter,
    "subclass": List,
    "dict": lambda items: dict(enumerate(items)),
    "none": lambda items: None,
    "with None": lambda items: [*items, None],
    "text": lambda items: "text",
}


def change(tensor: Any, how: str) -> None:
    """Change a tensor between two calls, behind its back or by its methods."""
    array = getattr(tensor, "_binary", None)
    if not isinstance(tensor, InferInput) or array is None:
        return
    if how == "set_shape":
        tensor.set_shape(tensor.shape())
    elif how == "bytes" and isinstance(array, bytearray):
        array += b"more"
    elif isinstance(array, np.ndarray) and array.flags.owndata:
        if how == "resize":
            array.resize(array.size + 3, refcheck=False)
        elif how == "shrink":
            array.resize(array.size // 2, refcheck=False)
        elif how == "write" and array.size:
            array.flat[0] = 7


DTYPES = ["f4", "<i8", ">f4", ">u2", "u1", "?", "f2", "BYTES", *(["BF16"] if ml_dtypes else [])]


def mostly(common: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 15).flatmap(lambda number: rare if number == 15 else common)


texts = st.one_of(st.sampled_from(["a", "b"]), st.text(max_size=3))
odd_names = st.sampled_from([1, True, None, "\ud800", [], b"a"])
input_recipes = st.builds(
    InputRecipe,
    mostly(st.just(InferInput), st.sampled_from([Input, None])),
    mostly(texts, odd_names),
    st.one_of(
        st.sampled_from([(0,), (1,), (2, 3), (2, 0, 3), (), (4, 4)]),
        st.integers(COALESCE - 600, COALESCE + 100).map(lambda size: (size,)),
    ),
    st.sampled_from(DTYPES),
    mostly(st.just("C"), st.sampled_from(["F", "strided"])),
    mostly(st.just("binary"), st.sampled_from(["json", "region", "none"])),
)
output_recipes = st.builds(
    OutputRecipe,
    mostly(st.just(InferRequestedOutput), st.sampled_from([Output, Talking, None])),
    mostly(texts, odd_names),
    st.booleans(),
    st.sampled_from([0, 0, 3]),
    st.booleans(),
)
recipes = st.builds(
    Recipe,
    mostly(st.sampled_from(["m", "n/ö"]), st.sampled_from(["", ["m"], 1, None])),
    mostly(st.sampled_from(["", "1"]), st.sampled_from([1, [], None])),
    st.lists(input_recipes, max_size=4),
    st.lists(output_recipes, max_size=4),
    st.tuples(*[mostly(st.just("list"), st.sampled_from([*BOXES]))] * 2),
    st.fixed_dictionaries(
        {},
        optional={
            "request_id": mostly(
                st.sampled_from(["", "a", "b", "ö", "longer", '","x":"', "\\\n"]),
                st.sampled_from([1, "\ud800"]),
            ),
            "priority": mostly(st.sampled_from([0, 1]), st.just(-1)),
            "timeout": mostly(st.sampled_from([None, 5]), st.just("x")),
            "sequence_id": st.sampled_from([0, 7, "s"]),
            "sequence_start": st.booleans(),
            "parameters": mostly(
                st.sampled_from([None, {}, {"a": 1}]), st.sampled_from([{"priority": 1}, 7])
            ),
            "binary": st.booleans(),
        },
    ),
    mostly(
        st.sampled_from([None, {}, {"Authorization": "t"}, {"a": "b", "c": "ö"}]),
        st.sampled_from(
            [{"a": "b\r\n"}, {"a b": "c"}, {"Host": "h"}, {"a": 1}, {"a": "b", "A": "c"}, {"a": b"c"}]
        ),
    ),
    st.sampled_from([None, {}, {"a": "b c"}, {"a": ["1", 2]}]),
)


def outcomes(client: Any, fast: bool, asked: list[Recipe], changes: list[str]) -> list[Any]:
    """Return what becomes of these inferences, one after the other, some with changes between them."""
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(encoder, "find", lambda *_: None)
            patch.setattr(encoder, "compose", lambda *_: None)
        for recipe in asked:
            inputs = [each.make() for each in recipe.inputs]
            outputs = [each.make() for each in recipe.outputs]
            for how in ("", "", *changes):
                for tensor in inputs:
                    change(tensor, how)
                given_inputs, given_outputs = (
                    BOXES[box](items) for box, items in zip(recipe.boxes, (inputs, outputs), strict=True)
                )
                inference = Inference(
                    recipe.model, given_inputs, recipe.version, given_outputs, **recipe.options
                )
                try:
                    message = client._encoder.encode(inference, recipe.headers, recipe.query)
                except (InferenceServerException, TypeError, ValueError) as error:
                    seen.append((type(error), str(error)))
                else:
                    whole = b"".join(map(bytes, message.buffers))
                    head, _, body = whole.partition(b"\r\n\r\n")
                    assert b"\r\nContent-Length: %d" % len(body) in head
                    seen.append((message.target, list(map(len, message.buffers)), message.id_json, whole))
    return seen


def table_of(client: Any) -> dict[Any, Any]:
    return {
        key: [getattr(each, name) for name in Template.__slots__ if name != "answers"]
        for key, each in client._encoder.templates.items()
    }


@settings(deadline=None)
@given(
    st.lists(recipes, min_size=1, max_size=4),
    st.lists(st.sampled_from(["", "", "write", "resize", "shrink", "bytes", "set_shape"]), max_size=4),
)
def test_c_and_python_agree(asked: list[Recipe], changes: list[str]) -> None:
    twins = []
    for fast in (True, False):
        with InferenceServerClient("127.0.0.1:1") as client:
            twins.append((outcomes(client, fast, asked, changes), table_of(client)))
    assert twins[0] == twins[1]


# -- what it finds ----------------------------------------------------------------------------------


@pytest.fixture
def client() -> Iterator[Any]:
    with InferenceServerClient("127.0.0.1:1") as client:
        yield client


def floats(*names: str, size: int = 3) -> list[InferInput]:
    return [InferInput.from_numpy(name, np.arange(size, dtype=np.float32)) for name in names]


def encode(client: Any, model: Any, inputs: Any, outputs: Any = None, version: Any = "") -> Any:
    """Return an inference's template and buffers."""
    message = client._encoder.encode(Inference(model, inputs, version, outputs), None, None)
    return message.template, message.buffers


def asked(model: Any, inputs: Any, outputs: Any = None, version: Any = "") -> Inference:
    return Inference(model, inputs, version, outputs)


def search(client: Any, model: Any, inputs: Any, outputs: Any = None) -> Any:
    table = client._encoder.templates
    return find(table, asked(model, inputs, outputs), InferInput, InferRequestedOutput)


def written(
    client: Any,
    inputs: Any,
    outputs: Any = None,
    *,
    model: Any = "m",
    limits: tuple[Any, Any] = (COALESCE, LARGEST),
    own: tuple[Any, ...] = (b"", b"", b"", None),
) -> Any:
    """Return a request that the extension composes, or None."""
    inference = asked(model, inputs, outputs)
    found = compose(client._encoder.templates, inference, InferInput, InferRequestedOutput, *limits, *own)
    return None if found is None else found[1][0]


def test_it_finds_what_python_would_send(client: Any) -> None:
    inputs = [*floats("a", "b"), InferInput.from_numpy("s", np.array(["x", "yz"], object))]
    inputs.append(InferInput("r", [4], "INT8").set_shared_memory("region", 4))
    outputs = [InferRequestedOutput("o"), InferRequestedOutput("p", class_count=2)]
    assert search(client, "m", inputs, outputs) is None
    template, (request,) = encode(client, "m", inputs, outputs)
    found = search(client, "m", inputs, outputs)
    assert type(found) is tuple
    assert found[0] is template
    assert [id(each) for each in found[1]] == [id(each._binary) for each in inputs[:3]]
    assert written(client, inputs, outputs) == request
    inputs[0]._binary[:] = 9  # type: ignore[index]
    assert written(client, inputs, outputs) != request
    for others in (None, [], outputs[:1], outputs[::-1]):
        assert search(client, "m", inputs, others) is None
    assert search(client, "n", inputs, outputs) is None
    assert search(client, "m", inputs[:2], outputs) is None


def test_a_request_is_composed_of_its_pieces(client: Any) -> None:
    inputs = floats("a")
    template, (plain,) = encode(client, "m", inputs)
    request = written(client, inputs, own=(b"?q=1", b"A: b\r\n", b'"id":"7",', b""))
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/m/infer?q=1 HTTP/1.1\r\nHost: ")
    assert b"\r\nA: b\r\nInference-Header-Content-Length: " in head
    json = b'{"id":"7",%b}' % template.json
    assert body == json + inputs[0]._binary.tobytes()  # type: ignore[union-attr]
    assert head.endswith(b": %d\r\nContent-Length: %d" % (len(json), len(body)))
    assert plain.partition(b"\r\n\r\n")[2].startswith(b"{%b%b}" % (template.json, template.parameters))


def test_no_outputs_and_none_are_one(client: Any) -> None:
    inputs = floats("a")
    template, _ = encode(client, "m", inputs, [])
    assert search(client, "m", inputs, None)[0] is search(client, "m", inputs, [])[0] is template


def test_numpy_arrays_that_the_buffer_protocol_has_no_letter_for(client: Any) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    inputs = [InferInput.from_numpy("a", np.arange(4).astype(bfloat16))]
    _, buffers = encode(client, "m", inputs)
    assert [written(client, inputs)] == buffers


def test_other_types_are_left_to_python(client: Any) -> None:
    inputs, outputs = floats("a"), [InferRequestedOutput("o")]
    encode(client, "m", inputs, outputs)
    other = Input.from_numpy("a", np.arange(3, dtype=np.float32))
    assert other._form == inputs[0]._form
    assert search(client, "m", inputs, outputs) is not None
    assert search(client, "m", [other], outputs) is None
    for kind in (Output, Talking):
        assert kind("o")._form == outputs[0]._form
        assert search(client, "m", inputs, [kind("o")]) is None
    assert b"told" in b"".join(encode(client, "m", inputs, [Talking("o")])[1])


class Constant(as_tritonclient.InferInput):
    """Makes its data itself, as programs written for tritonclient may."""

    def _get_binary_data(self) -> bytes:
        return b"\7" * 12


@pytest.mark.parametrize(("kind", "data"), [(as_tritonclient.InferInput, bytes(12)), (Constant, b"\7" * 12)])
def test_data_that_a_subclass_makes_are_sent(client: Any, kind: Any, data: bytes) -> None:
    tensor = kind.from_numpy("a", np.zeros(3, np.float32))
    for _ in range(2):
        _, (request,) = encode(client, "m", [tensor])
        assert request.endswith(b"}" + data)


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 0), (0, 1), (31, 2), (1000, 0), (1000, 1000)])
def test_any_number_of_tensors(client: Any, inputs: int, outputs: int) -> None:
    tensors = floats(*map(str, range(inputs)))
    wanted = [InferRequestedOutput(str(number)) for number in range(outputs)]
    template, (request,) = encode(client, "m", tensors, wanted)
    found = search(client, "m", tensors, wanted)
    assert found[0] is template
    assert written(client, tensors, wanted) == request


def test_a_request_up_to_the_limits(client: Any) -> None:
    inputs = floats("a", "b", size=3)
    _, (request,) = encode(client, "m", inputs)
    assert written(client, inputs, limits=(12, len(request))) == request
    assert written(client, inputs, limits=(11, len(request))) is None
    assert written(client, inputs, limits=(12, len(request) - 1)) is None
    assert written(client, inputs, limits=(12, -1)) is None


@pytest.mark.parametrize("over", range(-1, 3))
def test_a_request_has_as_many_pieces_each_time(
    client: Any, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    inputs = [InferInput.from_numpy("a", np.zeros(COALESCE + over, np.uint8))]
    pieces = [len(encode(client, "m", inputs)[1]) for _ in range(2)]
    monkeypatch.setattr(encoder, "find", lambda *_: None)
    monkeypatch.setattr(encoder, "compose", lambda *_: None)
    pieces.append(len(encode(client, "m", inputs)[1]))
    assert pieces == [1 if over <= 0 else 2] * 3


# -- what it leaves to Python, and what it refuses -------------------------------------------------


class Meddling(str):
    """A name with which the look-up runs code of the test's."""

    __slots__ = ("hashed", "looked")
    hashed: Callable[[], object]
    looked: Callable[[], object]

    def __new__(
        cls, text: str, hashed: Callable[[], object] = bool, looked: Callable[[], object] = bool
    ) -> Meddling:
        self = super().__new__(cls, text)
        self.hashed, self.looked = hashed, looked
        return self

    def __hash__(self) -> int:
        self.hashed()
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        self.looked()
        return super().__eq__(other)


def raising(error: BaseException | type[BaseException]) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("moment", ["hashed", "looked"])
def test_ordinary_errors_are_left_to_python(client: Any, moment: str) -> None:
    inputs = floats("a")
    encode(client, "m", inputs)
    name = Meddling("m", **{moment: raising(ZeroDivisionError("in the name"))})
    assert search(client, name, inputs) is None
    with pytest.raises(ZeroDivisionError, match="in the name"):
        encode(client, name, inputs)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("moment", ["hashed", "looked"])
def test_other_errors_come_through(client: Any, moment: str, error: type[BaseException]) -> None:
    inputs = floats("a")
    encode(client, "m", inputs)
    for run in (search, encode):
        with pytest.raises(error, match="now"):
            run(client, Meddling("m", **{moment: raising(error("now"))}), inputs)


@pytest.mark.parametrize("moment", ["hashed", "looked"])
@pytest.mark.parametrize("deed", ["clear", "replace", "spoil", "grow", "inputs", "outputs", "cut"])
def test_code_that_runs_during_the_search_does_no_harm(client: Any, moment: str, deed: str) -> None:
    table = client._encoder.templates

    def act() -> None:
        if deed == "clear":
            table.clear()
        elif deed == "replace":
            for key in list(table):
                table[key] = Template("/other", b"other", b"", b"", 5, True)
        elif deed == "spoil":
            for template in table.values():
                template.size, template.json = "many", None
        elif deed == "grow":
            table.update((number, None) for number in range(len(table) * 3))
        elif deed == "inputs":
            inputs.clear()
        elif deed == "outputs":
            outputs.clear()
        else:
            for template in table.values():
                template.json, template.size = template.json[:-1], template.size - 1
        gc.collect()

    for _ in range(20):
        table.clear()
        inputs, outputs = floats("a", "b"), [InferRequestedOutput("o")]
        template, (request,) = encode(client, "m", inputs, outputs)
        found = search(client, Meddling("m", **{moment: act}), inputs, outputs)
        if found is not None:
            assert found[0] in (template, *table.values())
        table.clear()
        inputs, outputs = floats("a", "b"), [InferRequestedOutput("o")]
        encode(client, "m", inputs, outputs)
        assert written(client, inputs, outputs, model=Meddling("m", **{moment: act})) in (request, None)


def test_an_input_that_its_own_attribute_takes_out_of_the_list(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = floats("a")
    encode(client, "m", inputs)

    def form(tensor: InferInput) -> Any:
        inputs.clear()
        return ("form",)

    monkeypatch.setattr(InferInput, "_form", property(form))
    assert search(client, "m", inputs) is None
    assert inputs == []


@pytest.mark.parametrize("name", ["_form", "_binary"])
def test_an_attribute_that_fails(client: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    inputs = floats("a", size=0)
    encode(client, "m", inputs)
    assert search(client, "m", inputs) is not None
    monkeypatch.setattr(InferInput, name, property(lambda tensor: raising(ZeroDivisionError)()))
    assert search(client, "m", inputs) is None
    monkeypatch.setattr(InferInput, name, property(lambda tensor: raising(KeyboardInterrupt)()))
    with pytest.raises(KeyboardInterrupt):
        search(client, "m", inputs)


@pytest.mark.parametrize(
    "spoil",
    [
        *({"size": value} for value in (None, "7", -1, 0, 11, 13, 2**80)),
        *(
            {name: value}
            for name in ("start", "lines", "json", "parameters")
            for value in (None, "text", bytearray(b"x"))
        ),
        {"json": b"x" * (LARGEST + 1)},
    ],
    ids=lambda spoil: str(spoil)[:40],
)
def test_a_template_that_does_not_fit_is_left_to_python(client: Any, spoil: dict[str, Any]) -> None:
    inputs = floats("a")
    template, _ = encode(client, "m", inputs)
    for name, value in spoil.items():
        setattr(template, name, value)
    assert written(client, inputs) is None
    for name in spoil:
        delattr(template, name)
    assert written(client, inputs) is None


@pytest.mark.parametrize("data", ["resized", "shrunk", "not in one piece", "no buffer"])
def test_data_that_do_not_fit_are_left_to_python(client: Any, data: str) -> None:
    inputs = floats("a", "b")
    encode(client, "m", inputs)
    array: Any = inputs[1]._binary
    if data == "resized":
        array.resize(5, refcheck=False)
    elif data == "shrunk":
        array.resize(1, refcheck=False)
    elif data == "not in one piece":
        inputs[1]._binary = np.zeros(6, np.float32)[::2]
    else:
        inputs[1]._binary = object()  # type: ignore[assignment]
    assert search(client, "m", inputs) is not None
    assert written(client, inputs) is None


def test_wrong_calls_are_refused(client: Any) -> None:
    inputs = floats("a")
    encode(client, "m", inputs)
    good = (client._encoder.templates, asked("m", inputs), InferInput, InferRequestedOutput)
    rest = (COALESCE, LARGEST, b"", b"", b"", None)
    assert find(*good) is not None
    assert compose(*good, *rest) is not None
    for bad in ((), good[:-1], (*good, 1), ([], *good[1:]), (None, *good[1:]), (dict, *good[1:])):
        with pytest.raises(TypeError, match="a dict and three arguments more"):
            find(*bad)
        with pytest.raises(TypeError, match="a dict and nine arguments more"):
            compose(*bad, *(rest if bad[1:] != good[1:] else ()))
    for call in (lambda: find(*good, table={}), lambda: compose(*good, *rest, table={})):
        with pytest.raises(TypeError):
            call()
    for limit in (None, "7", 1.5):
        for limits in ((limit, LARGEST), (COALESCE, limit)):
            with pytest.raises(TypeError):
                written(client, inputs, limits=limits)
    with pytest.raises(OverflowError):
        written(client, inputs, limits=(2**80, LARGEST))
    assert find(good[0], object(), *good[2:]) is None  # what is no inference
    for place in range(4):
        wrong: list[Any] = [b"", b"", b"", b""]
        wrong[place] = "text"
        assert written(client, inputs, own=tuple(wrong)) is None


# -- what it holds ----------------------------------------------------------------------------------


def prepared(client: Any, kind: str) -> tuple[list[Any], list[Any]]:
    """Return the arguments of a search of this kind, and every object that is part of it."""
    name: Any = "".join(["mod", "el"])
    version = "".join(["1", "2"])
    inputs: Any = [*floats("in", "put"), InferInput.from_numpy("s", np.array(["x" * 50], object))]
    outputs: Any = [InferRequestedOutput("out"), InferRequestedOutput("put")]
    template, _ = encode(client, name, inputs, outputs, version)
    held = [*inputs, *outputs, template, template.start, template.lines, template.json, template.target]
    if kind == "no model":
        name = "".join(["no", "ne"])
    elif kind == "tuple of inputs":
        inputs = tuple(inputs)
    elif kind == "tuple of outputs":
        outputs = tuple(outputs)
    elif kind == "other input":
        inputs.append(object())
    elif kind == "other output":
        outputs.append(object())
    elif kind == "no form":
        inputs[1].set_shape([3])
    elif kind == "no attribute":
        bare = InferInput.__new__(InferInput)
        bare._form = ("form",)
        inputs.insert(1, bare)
    elif kind == "resized":
        inputs[1]._binary.resize(5, refcheck=False)
    elif kind == "not in one piece":
        inputs[1]._binary = np.zeros(6, np.float32)[::2]
    elif kind == "no buffer":
        inputs[1]._binary = object()
    elif kind == "no key":
        name = []
    elif kind == "no size":
        template.size = None
    elif kind == "no json":
        template.json = None
    elif kind == "error":
        name = Meddling("model", looked=raising(ZeroDivisionError))
    elif kind == "interrupt":
        name = Meddling("model", looked=raising(KeyboardInterrupt))
    table = List() if kind == "table" else client._encoder.templates
    inference = asked(name, inputs, outputs, version)
    arguments = [table, inference, InferInput, InferRequestedOutput]
    held += [table, inference, inputs, outputs, name, version]
    for tensor in inputs:
        held += [tensor, getattr(tensor, "_form", None), getattr(tensor, "_binary", None)]
        held += getattr(tensor, "_form", None) or ()
    for output in outputs:
        held += [output, getattr(output, "_form", None)]
    # None, True and small numbers are everybody's.
    return arguments, [
        each for each in held if type(each) is not int and each is not None and each is not True
    ]


#: Whether something is found, and written, in each kind of search.
FOUND = {"found": (True, True)}
FOUND |= dict.fromkeys(["resized", "not in one piece", "no buffer", "no size", "no json"], (True, False))
FOUND |= dict.fromkeys(
    ["no model", "tuple of inputs", "tuple of outputs", "other input", "other output", "no form"],
    (False, False),
)
FOUND |= dict.fromkeys(["no attribute", "no key", "error", "interrupt", "table"], (False, False))


def ask(arguments: list[Any]) -> tuple[bool, bool]:
    try:
        found = find(*arguments)
        composed = compose(*arguments, COALESCE, LARGEST, b"", b"", b"", None)
    except (KeyboardInterrupt, TypeError):
        return False, False
    return found is not None, composed is not None


@pytest.mark.parametrize("kind", list(FOUND))
def test_it_holds_nothing_afterwards(client: Any, kind: str) -> None:
    arguments, held = prepared(client, kind)
    assert ask(arguments) == FOUND[kind]
    counts = [sys.getrefcount(each) for each in held]
    for _ in range(100):
        ask(arguments)
    after = [sys.getrefcount(each) for each in held]
    grown = [(each, now - then) for each, then, now in zip(held, counts, after, strict=True) if now != then]
    assert grown == []


@pytest.mark.parametrize("kind", ["found", "resized", "no buffer", "error"])
def test_memory_does_not_grow(client: Any, kind: str) -> None:
    arguments, _ = prepared(client, kind)
    for _ in range(100):
        ask(arguments)
    tracemalloc.start()
    try:
        for _ in range(5000):  # the smallest object of each would be 80 KB
            ask(arguments)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()


def test_arrays_can_be_resized_behind_it(client: Any) -> None:
    """No export of a buffer is left open."""
    inputs = [InferInput.from_numpy("s", np.array(["text"], object))]
    encode(client, "m", inputs)
    data = inputs[0]._binary
    assert isinstance(data, bytes | bytearray)
    inputs[0]._binary = grown = bytearray(data)
    assert written(client, inputs) is not None
    grown += b"more"
    assert written(client, inputs) is None
    grown += b"more"


def test_an_unhashable_name_is_refused_in_words(client: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"model_name must be a str, got \['m'\]"):
        encode(client, ["m"], floats("a"))
