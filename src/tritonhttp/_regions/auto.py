"""The transparent path: large tensors of an inference travel through pooled regions, unseen by the caller.

A server on the same machine reads and writes them in place. Inputs are copied into a region. Outputs are placed in
one where their size is known before the request: from the model's metadata, or from what it answered to inputs of
the same shapes. Whatever stands in the way, the tensors travel over HTTP.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .._basics.log import logger
from .._calls.safety import may_be_asked_again, may_run_twice
from .._protocol import operations
from .._protocol.inference import Inference
from .._protocol.operations import Operation
from .._protocol.result import InferResult
from .._protocol.tensors import InferInput, InferRequestedOutput
from .._transport.failures import WAITING
from .._wire import inference, jsonio
from ..errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    InferenceServerException,
    InvalidRequest,
    ProtocolError,
    ServerError,
)
from .pool import Block, BlockPool, Lease
from .region import aligned, sweep

__all__ = ["InferFlow", "Sharing"]

#: Operations that a client carries out one after the other: their results are sent, their errors thrown in.
InferFlow: TypeAlias = Generator[Operation[Any], Any, InferResult]
#: Makes the operation of an inference.
Make: TypeAlias = Callable[[Inference], Operation[InferResult]]

#: Name and version, as the caller gave them.
Model = tuple[str, str]
#: Outputs as a model's metadata list them: name, bytes (0: not fixed), whether for each item of a batch.
Declared = list[tuple[str, int, bool]]
#: Size in bytes of each output, by its name, in order; 0 for what is not placed: strings, JSON, unknown sizes.
Sizes = dict[str, int]

#: How many answers to inputs of the same shapes must have had the same sizes before the next one is expected to.
_ANSWERS = 2
_MAX_EXPECTED = 1024
#: How often a call may lose its regions twice before the server is no longer believed to keep them.
_LOSSES = 3

# How Triton puts it.
_FORGOTTEN = "nable to find shared memory region"
_TOO_SMALL = "shared memory size specified with the request for output"

#: How many refusals in a row, each of which may be a gateway's whim, before a server is taken to share no memory.
_REFUSALS = 3

#: Phases of a try before anything of it is sent.
_UNSENT = (WAITING, "resolve", "plugin")
#: Statuses that a gateway gives, or one that gave up: the server behind it may still be at work.
_GATEWAY = ("408", "429", "499", "502", "503", "504")


class _Expected:
    """The sizes that a model's answers to inputs of the same shapes had; 0 once two answers differed."""

    __slots__ = ("answers", "sizes")

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.answers = 1

    def add(self, sizes: Sizes) -> None:
        self.sizes = {
            name: size if self.sizes.get(name) == size else 0 for name, size in (self.sizes | sizes).items()
        }
        self.answers += 1


class Sharing:
    """The transparent path of one client; safe to share between threads.

    Parameters
    ----------
    threshold : int
        Smaller tensors travel over HTTP, in bytes.
    limit : int
        The bytes of all regions together.
    """

    def __init__(self, threshold: int, limit: int) -> None:
        self.threshold = threshold
        self.pool = BlockPool(limit)
        self._refused = self._accepted = self._warned = False
        #: Refusals in a row.
        self._refusals = 0
        self._lost = 0
        #: What the server has yet to forget while the client closes.
        self._left: list[Block] = []
        self._expected: dict[tuple[Any, ...], _Expected] = {}
        self._declared: dict[Model, Declared] = {}
        #: Models whose outputs are large, as far as is known.
        self._large: set[Model] = set()
        #: Models that gave more than was expected.
        self._unpredictable: set[Model] = set()

    def infer(self, asked: Inference, make: Make, *, snapshot: bool = False) -> InferFlow | None:
        """Begin an inference: copy its large inputs into a region.

        Parameters
        ----------
        asked : Inference
        make : callable
            Makes the operation of such a one.
        snapshot : bool
            Whether the caller may change its arrays as soon as this returns.

        Returns
        -------
        generator of Operation, or None
            None where nothing of it is large.
        """
        if self._refused:
            self.pool.collect()
            return None
        large: list[int] = []
        try:
            if not asked.request_compression_algorithm:
                sizes = map(_byte_size, asked.inputs)
                large = [index for index, size in enumerate(sizes) if size >= self.threshold]
            if not large and (asked.model_name, asked.model_version) not in self._large:
                return None
            call = _Call(self, asked, make, large)
        except (AttributeError, TypeError):
            return None  # what is wrong with them is said where they are encoded
        if snapshot:
            call.check()
        if large and not call.place_inputs() and not self.pool.has_doomed:
            return None
        if snapshot:
            call.let_go()
        return call.carry_out()

    def concerns(self, model: Model, inputs: Sequence[InferInput], size: int | None = None) -> bool:
        """Return whether :meth:`infer` may take an inference; cheaper than asking that.

        With the `size` of its request over HTTP, where that is known, it is cheaper still.
        """
        if self._refused:
            self.pool.collect()
            return False
        try:
            if size is None or size >= self.threshold:
                for tensor in inputs:
                    if _byte_size(tensor) >= self.threshold:
                        return True
            return model in self._large
        except (AttributeError, TypeError):
            return False  # what is wrong with them is said where they are encoded

    def note(self, model: Model, result: InferResult) -> None:
        """Look at what of an answer came over HTTP."""
        if len(result._body) >= self.threshold:
            self._large.add(model)

    def close(self) -> Generator[Operation[Any], Any, None]:
        """Have the server forget the regions; when it is called again, those that are left."""
        self._left += self.pool.close()
        yield from _unregister(self._left, closing=True)

    def tidy(self) -> Generator[Operation[Any], Any, None]:
        """Have the server forget the blocks that are of no more use."""
        doomed = self.pool.doomed()
        left = list(doomed)
        try:
            yield from _unregister(left)
        finally:
            self.pool.settle(doomed, left)

    def register(self, block: Block) -> Generator[Operation[Any], Any, bool]:
        """Make the server know a block; return whether it does."""
        if block.registered:
            return True
        # Unless it is known for certain, the server may have it, but not be able to find it any more.
        block.registered = block.spent = True
        try:
            yield operations.register_system_shared_memory(block.name, f"/{block.name}", block.byte_size, 0)
            block.spent = False
            self._refusals = 0
        except ServerError as error:
            status = str(error.status())
            if status not in _GATEWAY:
                # A gateway's own 4xx has not passed it on, any other one of its own may have.
                block.registered = not (status.startswith("4") or _in_own_words(error))
                self._refusals += 1
                if _is_final(error) or self._refusals >= _REFUSALS:
                    # One that took others before has enough.
                    self.refuse(error, self.pool.taken - block.byte_size if self._accepted else 0)
            return False
        except ConnectError:
            block.registered = False
            return False
        except InferenceServerException:
            return False
        finally:
            block.unlink()
        if not self._accepted:
            self._accepted = True
            yield from sweep()
        return True

    def refuse(self, error: InferenceServerException, limit: int = 0) -> None:
        """Use no more shared memory than that from now on."""
        self.pool.limit = limit
        self._refused = self._refused or limit == 0
        if not self._warned:
            self._warned = True
            logger.warning(
                "tensors travel over HTTP, since the server does not share this machine's memory"
                " (one in a container needs --ipc=host, or the same /dev/shm): %s",
                error,
            )

    def lose(self, error: ServerError) -> None:
        """Take note of a call whose regions were forgotten twice, as by several servers behind one address."""
        self._lost += 1
        if self._lost >= _LOSSES:
            self.refuse(error)

    # -- the sizes of outputs --

    def sizes(self, call: _Call) -> Generator[Operation[Any], Any, tuple[Sizes, bool]]:
        """Return the sizes that the outputs of a call will have, 0 where not known, and whether any was learnt."""
        declared = self._declared.get(call.model)
        if declared is None:
            declared = self._declared[call.model] = yield from _declared(*call.model)
        sizes = {name: size * call.batch if batched else size for name, size, batched in declared}
        expected = self._expected.get(call.form)
        # An answer that is larger after all means an error, and a second run.
        if (
            expected is None
            or expected.answers < _ANSWERS
            or not call.repeatable
            or call.model in self._unpredictable
        ):
            return sizes, False
        learnt = {name: size for name, size in expected.sizes.items() if size and not sizes.get(name)}
        return sizes | learnt, bool(learnt)

    def learn(self, call: _Call, result: InferResult) -> None:
        """Remember the sizes that the outputs had."""
        sizes = {name: _output_size(output) for name, output in result._layout.outputs.items()}
        expected = self._expected.get(call.form)
        if expected is not None:
            expected.add(sizes)
            return
        if len(self._expected) >= _MAX_EXPECTED:
            self._expected.clear()
        self._expected[call.form] = _Expected(sizes)

    def surprised(self, model: Model, learnt: bool) -> None:
        """Believe the sizes of a model's outputs no more, as they were learnt or as they are declared."""
        if learnt:
            self._unpredictable.add(model)
        else:
            self._declared[model] = []


class _Call:
    """One inference on the transparent path."""

    def __init__(self, sharing: Sharing, asked: Inference, make: Make, large: list[int]) -> None:
        self._sharing = sharing
        self._asked = asked
        self._make = make
        self.model: Model = asked.model_name, asked.model_version
        #: The inputs as they go out over HTTP, which of them are large, and all as they go out with those placed.
        self._inputs: list[InferInput] = list(asked.inputs)
        self._large = large
        self._sent: list[InferInput] = []
        self._lease: Lease | None = None
        self._places: _Places | None = None
        self._learnt = False
        #: What was sent last.
        self._operation: Operation[InferResult] | None = None
        #: Whether an earlier try may still run, and read the inputs.
        self._tainted = False
        #: Tries of which nothing was heard, and which were repeated here.
        self._unheard = 0
        self._outputs: Sequence[InferRequestedOutput] | None = asked.outputs
        #: Whether it may be asked for again, when the server has refused its result.
        self.repeatable = may_be_asked_again(asked)
        #: Whether it may be sent again though it may have run, or run still.
        self._resendable = may_run_twice(asked)
        #: What the sizes of the outputs are expected to depend on.
        self.form = (
            self.model,
            tuple((each.name(), each.datatype(), *each.shape()) for each in self._inputs),
            None if self._outputs is None else tuple(each._form for each in self._outputs),
        )

    @property
    def batch(self) -> int:
        """The batch dimension, where the model has one."""
        return next((int(each.shape()[0]) for each in self._inputs if each.shape()), 1)

    def place_inputs(self) -> bool:
        """Copy the large inputs into a block; False where there is no room."""
        sizes = [_byte_size(self._inputs[index]) for index in self._large]
        lease = self._sharing.pool.take(sum(map(aligned, sizes)))
        if lease is None:
            return False
        sent = list(self._inputs)
        offset = 0
        for index, size in zip(self._large, sizes, strict=True):
            tensor = self._inputs[index]
            _write(tensor, lease, offset)
            placed = InferInput(tensor.name(), tensor.shape(), tensor.datatype())
            sent[index] = placed.set_shared_memory(lease.block.name, size, offset)
            offset += aligned(size)
        self._lease, self._sent, self._tainted = lease, sent, False
        return True

    def check(self) -> None:
        """Refuse arguments that cannot be sent."""
        self._plain()

    def let_go(self) -> None:
        """Refer to nothing of the caller's any more; the large arrays lie in the block by now."""
        if self._outputs is not None:
            self._outputs = [copy.copy(each) for each in self._outputs]
        parameters = copy.deepcopy(self._asked.parameters)
        self._asked = replace(self._asked, inputs=(), outputs=None, parameters=parameters)
        offset = 0
        for index, tensor in enumerate(self._inputs):
            own = self._inputs[index] = copy.copy(tensor)
            if index in self._large and self._lease is not None:
                size = _byte_size(tensor)
                own._binary = np.ndarray(size, np.uint8, self._lease.buffer, offset)
                offset += aligned(size)
            elif isinstance(own._binary, np.ndarray):
                own._binary = own._binary.copy()

    def carry_out(self) -> InferFlow:
        """Yield the operations of the inference, one after the other, and return its result."""
        try:
            result = yield from self._carry_out()
        except InferenceServerException as error:
            error.attempts += self._unheard
            raise
        finally:
            for block in self._blocks():
                block.unlink()  # where it was not registered, for whatever reason
            # The traceback of an error would keep the blocks.
            self._inputs, self._sent, self._lease, self._places, self._operation = [], [], None, None, None
        if self._unheard:
            result.attempts += self._unheard
        self._sharing.learn(self, result)
        return result

    def _carry_out(self) -> InferFlow:
        sharing = self._sharing
        losses = 0
        while losses < 2:  # a server that was started anew has forgotten its regions
            yield from sharing.tidy()
            if self._large and self._lease is None and not self.place_inputs():
                break
            # In no variable of this frame, which the traceback of an error would keep.
            self._places = yield from self._place_outputs()
            blocks = self._blocks()
            if not blocks or not (yield from self._register(blocks)):
                break
            try:
                result: InferResult = yield self._placed()
                self._settle()
            except ServerError as error:
                message = str(error.message())
                lost = [block for block in self._blocks() if block.name in message and _FORGOTTEN in message]
                if lost:  # nothing has run
                    sharing.pool.forget(lost[0].generation)
                    self._lease = self._places = None
                    losses += 1
                    if losses == 2:
                        sharing.lose(error)
                    continue
                if _is_done(error):
                    self._settle()
                if self._places and _TOO_SMALL in message and self._places.has(message):
                    sharing.surprised(self.model, self._learnt)
                    if self.repeatable:
                        break
                    raise _with_advice(error) from error
                raise
            except (ConnectError, InvalidRequest):
                self._settle()  # nothing of this try has got to the server
                raise
            except ConnectionLost as error:
                # What the transport would have sent again unseen, as it cannot have another block.
                if not error.resendable or not self._resendable or self._unheard:
                    raise
                self._tainted, self._places = True, None
                self._unheard = error.attempts
                continue
            except DeadlineExceeded as error:
                if error.phase in _UNSENT:
                    self._settle()
                raise
            if self._places:
                result._place(self._places.arrays(result))
            return result
        plain: InferResult = yield self._plain()
        return plain

    def _blocks(self) -> list[Block]:
        return [lease.block for lease in (self._lease, self._places and self._places.lease) if lease]

    def _register(self, blocks: list[Block]) -> Generator[Operation[Any], Any, bool]:
        for block in blocks:
            if not (yield from self._sharing.register(block)):
                return False
        return True

    def _plain(self) -> Operation[InferResult]:
        """Return the inference as it goes over HTTP."""
        return self._make(replace(self._asked, inputs=self._inputs, outputs=self._outputs))

    def _placed(self) -> Operation[InferResult]:
        """Return the inference as it goes out now, its blocks spent: whatever interrupts it leaves them so."""
        for block in self._blocks():
            block.spent = True
        inputs = self._sent if self._lease else self._inputs
        outputs = self._places.outputs if self._places else self._outputs
        inference = replace(
            self._asked, inputs=inputs, outputs=outputs, idempotent=self._resendable, renew=self._renew
        )
        self._operation = self._make(inference)
        return self._operation

    def _settle(self) -> None:
        """Take note that the server is done with the last try; of those before it nobody knows."""
        if self._places is not None:
            self._places.lease.block.spent = False
        if self._lease is not None and not self._tainted:
            self._lease.block.spent = False

    def _renew(self, outcome: int | BaseException) -> Generator[Operation[Any], Any, Operation[InferResult]]:
        """Return what to send next; the try that ended so may still run, and write to the block that it had."""
        if not isinstance(outcome, ConnectError):
            self._tainted = True
            if self._places is not None:
                self._places = None
                self._places = yield from self._place_outputs()
                if self._places is not None and not (
                    yield from self._sharing.register(self._places.lease.block)
                ):
                    self._places = None
                return self._placed()
        assert self._operation is not None
        return self._operation

    def _place_outputs(self) -> Generator[Operation[Any], Any, _Places | None]:
        """Return places for the large outputs whose sizes are known, or None where there are none, or no room."""
        if self._asked.response_compression_algorithm:
            return None
        known, self._learnt = yield from self._sharing.sizes(self)
        outputs = self._outputs or [InferRequestedOutput(name) for name in known]
        large = {
            index: aligned(known[each.name()])
            for index, each in enumerate(outputs)
            if each._form == (each.name(), True, 0, None)
            and known.get(each.name(), 0) >= self._sharing.threshold
        }
        if not large:
            return None
        lease = self._sharing.pool.take(sum(large.values()))
        if lease is None and self._sharing.pool.has_doomed:
            yield from self._sharing.tidy()
            lease = self._sharing.pool.take(sum(large.values()))
        return None if lease is None else _Places(lease, outputs, large)


class _Places:
    """Where an inference's large outputs shall lie.

    Attributes
    ----------
    lease : Lease
    outputs : list of InferRequestedOutput
        All that are asked for.
    """

    def __init__(self, lease: Lease, outputs: Sequence[InferRequestedOutput], large: dict[int, int]) -> None:
        self.lease = lease
        self.outputs = list(outputs)
        self._places: dict[str, tuple[int, int]] = {}
        offset = 0
        for index, size in large.items():
            name = outputs[index].name()
            placed = self.outputs[index] = InferRequestedOutput(name)
            placed.set_shared_memory(lease.block.name, size, offset)
            self._places[name] = offset, size
            offset += size

    def has(self, message: str) -> bool:
        """Return whether an error message is about one of the outputs that shall lie here."""
        return any(f"'{name}'" in message for name in self._places)

    def arrays(self, result: InferResult) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs that lie here as views."""
        arrays = {}
        for name, (offset, size) in self._places.items():
            array = result._layout.placed_tensor(name, self.lease.buffer, offset, size)
            if array is None:
                continue
            # One that is a small part of what it might have been should not keep the block.
            arrays[name] = array.copy() if array.nbytes * 16 < size else array
        return arrays


def _byte_size(tensor: InferInput) -> int:
    """Return the size of an input's binary data, or 0 where it has none."""
    data = tensor._binary
    if data is None:
        return 0
    return data.nbytes if isinstance(data, np.ndarray) else len(data)


def _write(tensor: InferInput, lease: Lease, offset: int) -> None:
    data = tensor._binary
    if isinstance(data, np.ndarray):
        dtype = data.dtype
        if sys.byteorder != "little" or not dtype.isnative:
            dtype = dtype.newbyteorder("<")
        np.copyto(np.ndarray(data.shape, dtype, lease.buffer, offset), data)
    elif data is not None:
        memoryview(lease.buffer).cast("B")[offset : offset + len(data)] = data


def _in_own_words(error: ServerError) -> bool:
    """Return whether an error is the server's, which speaks JSON, and not that of a gateway before it."""
    try:
        body = jsonio.loads(str(error.debug_details() or "").encode(), "error")
    except (ProtocolError, UnicodeError):
        return False
    return isinstance(body, dict) and isinstance(body.get("error"), str)


def _is_done(error: ServerError) -> bool:
    """Return whether an inference that ended so is over, so that the server uses none of its memory any more."""
    status = str(error.status())
    ends = status in ("500", "501") or (status.startswith("4") and status not in _GATEWAY)
    return ends and _in_own_words(error)


def _is_final(error: ServerError) -> bool:
    """Return whether a server that refuses a region so will take none."""
    if error.status() in ("400", "501"):
        return True
    return _in_own_words(error) and "shared memory" in str(error.message()).lower()


def _with_advice(error: ServerError) -> ServerError:
    advised = ServerError(
        f"{error.message()} (the output is larger than its model's metadata say; it was not asked for again over"
        " HTTP, since the inference is part of a sequence or declared not idempotent; this client places none of"
        " the model's outputs in shared memory from now on)",
        str(error.status()),
        error.debug_details(),
        error.headers,
    )
    advised.method, advised.url = error.method, error.url
    return advised


def _output_size(output: Mapping[str, Any]) -> int:
    try:
        return inference.numeric_size(output)
    except ProtocolError:
        return 0  # whoever wants that output is told


def _declared(model_name: str, model_version: str) -> Generator[Operation[Any], Any, Declared]:
    """Return the outputs that a model's metadata list."""
    try:
        metadata = yield operations.get_model_metadata(model_name, model_version)
        config = yield operations.get_model_config(model_name, model_version)
        batched = config.get("max_batch_size", 0) > 0
        found = []
        for output in metadata["outputs"]:
            shape = list(output["shape"])
            with_batch = batched and shape[:1] == [-1]
            fixed = {**output, "shape": shape[1:] if with_batch else shape}
            size = 0 if -1 in fixed["shape"] else _output_size(fixed)
            found.append((output["name"], size, with_batch))
        return found
    except (InferenceServerException, AttributeError, KeyError, TypeError):
        return []  # then only what it answers says something


def _unregister(blocks: list[Block], *, closing: bool = False) -> Generator[Operation[Any], Any, None]:
    """Have the server forget blocks; those that it has forgotten are taken out of the list.

    A connection that fails ends it, since the next call goes on here. For a client that closes there is none: it
    tries each block twice, and goes on until nobody answers at all.
    """
    for block in list(blocks):
        for last in (False, True) if closing else (True,):
            try:
                yield operations.unregister_shared_memory("system", block.name)
            except ServerError:
                break  # in use by a request that was given up
            except (ConnectionLost, ProtocolError):
                if last and not closing:
                    return
            except (ConnectError, DeadlineExceeded):
                if last:
                    return
            except InferenceServerException:
                return
            else:
                with contextlib.suppress(ValueError):  # another thread closes the client, too
                    blocks.remove(block)
                break
