"""The transparent path: large tensors of an inference travel through pooled regions, unseen by the caller.

A server on the same machine reads and writes them in place. Inputs are copied into a region. Outputs are placed in
a region if their sizes are known before the request. If anything stands in the way, tensors travel over HTTP.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import errors
from .._calls.safety import may_be_asked_again, may_run_twice
from .._protocol.inference import Inference
from .._protocol.operations import Operation
from .._protocol.refusals import own_words, shares_nothing
from .._protocol.result import InferResult
from .._protocol.tensors import InferInput, InferRequestedOutput, data_size
from .._transport.failures import WAITING
from ..utils import _contents
from .pool import Block, BlockPool, Lease
from .region import aligned
from .registrations import GATEWAY, Registrations
from .sizes import Form, Model, OutputSizes

__all__ = ["InferFlow", "Sharing"]

#: Operations that a client carries out one after the other: it sends their results, or throws their errors in.
InferFlow: TypeAlias = Generator[Operation[Any], Any, InferResult]

# Triton's words.
_FORGOTTEN = "nable to find shared memory region"
_TOO_SMALL = "shared memory size specified with the request for output"

_ADVICE = (
    " (the output is larger than its model's metadata say; it was not asked for again over HTTP, since the"
    " inference is part of a sequence or declared not idempotent; this client places none of the model's outputs"
    " in shared memory from now on)"
)

#: Phases of a try before anything of it is sent.
_UNSENT = (WAITING, "resolve", "plugin")


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
        self.registrations = Registrations(self.pool)
        self.sizes = OutputSizes()
        #: Models known to have large outputs.
        self._large: set[Model] = set()

    def infer(self, inference: Inference, *, snapshot: bool = False) -> InferFlow | None:
        """Begin an inference: copy its large inputs into a region.

        Parameters
        ----------
        inference : Inference
        snapshot : bool
            Whether the caller may change its arrays as soon as this returns.

        Returns
        -------
        generator of Operation, or None
            None if no tensor of it is large.
        """
        if self.registrations.refused:
            self.pool.collect()
            return None
        large: list[int] = []
        try:
            if not inference.request_compression_algorithm:
                sizes = map(data_size, inference.inputs)
                large = [index for index, size in enumerate(sizes) if size >= self.threshold]
            if not large and (inference.model_name, inference.model_version) not in self._large:
                return None
            call = _Call(self, inference, large)
        except (AttributeError, TypeError):
            return None  # encoding the request says what is wrong with the arguments
        if large and not call.place_inputs() and not self.pool.has_doomed:
            return None
        if snapshot:
            call.let_go()
        return call.carry_out()

    def note(self, model: Model, result: InferResult) -> None:
        """Remember a model whose answer over HTTP is large."""
        if len(result._body) >= self.threshold:
            self._large.add(model)

    def close(self) -> Generator[Operation[Any], Any, None]:
        """Have the server forget the regions; a second call goes on with those that are left."""
        return self.registrations.close()


class _Call:
    """One inference on the transparent path.

    Parameters
    ----------
    sharing : Sharing
    inference : Inference
    large : list of int
        The large inputs, by their index.
    """

    def __init__(self, sharing: Sharing, inference: Inference, large: list[int]) -> None:
        self._sharing = sharing
        self._inference = inference
        #: The inputs as they travel over HTTP, and all inputs with the large ones placed in the block.
        self._inputs: list[InferInput] = list(inference.inputs)
        self._placed_inputs: list[InferInput] = []
        self._large = large
        self._outputs: Sequence[InferRequestedOutput] | None = inference.outputs
        self._lease: Lease | None = None
        self._places: _Places | None = None
        self._learnt = False
        #: Whether an earlier try may still run, and read the inputs.
        self._tainted = False
        #: Tries without an answer that were repeated here.
        self._unheard = 0
        #: Whether it may be sent again though it may have run, or may still run.
        self._resendable = may_run_twice(inference)
        self._form = Form(
            (inference.model_name, inference.model_version),
            # The form of BYTES has their size at its end. There is none for JSON.
            tuple((each._form or (each.name(), each.datatype(), each._shape))[:3] for each in self._inputs),
            None if self._outputs is None else tuple(each._form for each in self._outputs),
        )

    def place_inputs(self) -> bool:
        """Copy the large inputs into a block; return False if there is no room."""
        sizes = [aligned(data_size(self._inputs[index])) for index in self._large]
        lease = self._sharing.pool.take(sum(sizes))
        if lease is None:
            return False
        placed_inputs = list(self._inputs)
        offset = 0
        for index, size in zip(self._large, sizes, strict=True):
            tensor = self._inputs[index]
            data = tensor._binary
            array = data if isinstance(data, np.ndarray) else np.frombuffer(data or b"", np.uint8)
            _contents.put(array, lease.buffer, offset)
            placed = InferInput(tensor._name, tensor._shape, tensor._datatype)
            placed._own = tensor._own
            placed_inputs[index] = placed.set_shared_memory(lease.block.name, data_size(tensor), offset)
            offset += size
        self._lease, self._placed_inputs, self._tainted = lease, placed_inputs, False
        return True

    def let_go(self) -> None:
        """Drop all references to the caller's objects, once the large arrays are in the block."""
        if self._outputs is not None:
            self._outputs = [copy.copy(each) for each in self._outputs]
        self._inference = self._inference.with_tensors((), None)
        self._inference.parameters = copy.deepcopy(self._inference.parameters)
        offset = 0
        for index, tensor in enumerate(self._inputs):
            own = self._inputs[index] = copy.copy(tensor)
            if index in self._large and self._lease is not None:
                size = data_size(tensor)
                own._binary = np.ndarray(size, np.uint8, self._lease.buffer, offset)
                offset += aligned(size)
            elif isinstance(own._binary, np.ndarray):
                own._binary = own._binary.copy()

    def carry_out(self) -> InferFlow:
        """Yield the operations of the inference, one after the other, and return its result."""
        try:
            result = yield from self._carry_out()
        except errors.InferenceServerException as error:
            error.attempts += self._unheard
            raise
        finally:
            for block in self._blocks():
                block.unlink()  # unless a registration has done so
            # The traceback of an error would keep the blocks.
            self._inputs, self._placed_inputs = [], []
            self._lease = self._places = None
        if self._unheard:
            result.attempts += self._unheard
        self._sharing.sizes.learn(self._form, result)
        return result

    def _carry_out(self) -> InferFlow:
        losses = 0
        while losses < 2:  # a server that was restarted has forgotten its regions
            if not self._large or self._sharing.pool.has_doomed:
                yield from self._sharing.registrations.tidy()
            if self._large and self._lease is None and not self.place_inputs():
                break
            # Not in a local variable: the traceback of an error would keep it.
            self._places = yield from self._place_outputs()
            blocks = self._blocks()
            if not blocks:
                break
            if not all(block.registered for block in blocks) and not (yield from self._register()):
                break
            try:
                result: InferResult = yield self._placed()
                self._settle()
            except errors.ServerError as error:
                if shares_nothing(error):  # it was restarted, and nothing has run
                    self._sharing.registrations.refuse(error)
                    break
                message = str(error.message())
                lost = [block for block in self._blocks() if block.name in message and _FORGOTTEN in message]
                if lost:  # nothing has run
                    self._sharing.pool.forget(lost[0].generation)
                    self._lease = self._places = None
                    losses += 1
                    if losses == 2:
                        self._sharing.registrations.lose(error)
                    continue
                if _is_done(error):
                    self._settle()
                placed = self._places.by_name if self._places else ()
                if _TOO_SMALL in message and any(f"'{name}'" in message for name in placed):
                    self._sharing.sizes.distrust(self._form.model, self._learnt)
                    if may_be_asked_again(self._inference):
                        break
                    error._msg = f"{message}{_ADVICE}"
                    error.args = (error._msg,)
                raise
            except (errors.ConnectError, errors.InvalidRequest):
                self._settle()  # nothing of this try has reached the server
                raise
            except errors.ConnectionLost as error:
                # The transport would have sent it again by itself, but with the same output block.
                if not error.resendable or not self._resendable or self._unheard:
                    raise
                self._tainted, self._places = True, None
                self._unheard = error.attempts
                continue
            except errors.DeadlineExceeded as error:
                if error.phase in _UNSENT:
                    self._settle()
                raise
            if self._places:
                result._place(self._places.arrays(result))
            return result
        plain: InferResult = yield self._inference.with_tensors(self._inputs, self._outputs).sendable()
        return plain

    def _blocks(self) -> list[Block]:
        return [each.block for each in (self._lease, self._places and self._places.lease) if each]

    def _register(self) -> Generator[Operation[Any], Any, bool]:
        for block in self._blocks():
            if not (yield from self._sharing.registrations.register(block)):
                return False
        return True

    def _placed(self) -> Operation[InferResult]:
        """Return the inference with its tensors placed. Its blocks are spent, and stay so if it is interrupted."""
        for block in self._blocks():
            block.spent = True
        inputs = self._placed_inputs if self._lease else self._inputs
        outputs = self._places.outputs if self._places else self._outputs
        inference = self._inference.with_tensors(inputs, outputs)
        inference.idempotent, inference.renew = self._resendable, self._renew
        return inference.sendable()

    def _settle(self) -> None:
        """Clear the blocks of the last try, which the server is done with; earlier tries may still run."""
        if self._places is not None:
            self._places.lease.block.spent = False
        if self._lease is not None and not self._tainted:
            self._lease.block.spent = False

    def _renew(self, outcome: int | BaseException) -> Generator[Operation[Any], Any, Operation[InferResult]]:
        """Return what to send after a try that ended this way; it may still run and write to its output block."""
        if not isinstance(outcome, errors.ConnectError):
            self._tainted = True
            if self._places is not None:
                self._places = None
                self._places = yield from self._place_outputs()
                if not (yield from self._register()):
                    self._places = None
        return self._placed()

    def _place_outputs(self) -> Generator[Operation[Any], Any, _Places | None]:
        """Return places for the large outputs of known sizes; None if there are none, or there is no room."""
        if self._inference.response_compression_algorithm:
            return None
        yield from self._sharing.sizes.read(self._form.model)
        repeatable = may_be_asked_again(self._inference)
        sizes, self._learnt = self._sharing.sizes.expected(self._form, repeatable)
        outputs = self._outputs or [InferRequestedOutput(name) for name in sizes]
        large = {
            index: aligned(sizes[each.name()])
            for index, each in enumerate(outputs)
            if each._form[:4] == (each.name(), True, 0, None)
            and sizes.get(each.name(), 0) >= self._sharing.threshold
        }
        if not large:
            return None
        lease = self._sharing.pool.take(sum(large.values()))
        if lease is None and self._sharing.pool.has_doomed:
            yield from self._sharing.registrations.tidy()
            lease = self._sharing.pool.take(sum(large.values()))
        return None if lease is None else _Places(lease, outputs, large)


class _Places:
    """The places of an inference's large outputs.

    Attributes
    ----------
    lease : Lease
    outputs : list of InferRequestedOutput
        All outputs that are asked for.
    by_name : dict
        Where each place starts, and its size, in bytes.
    """

    def __init__(self, lease: Lease, outputs: Sequence[InferRequestedOutput], large: dict[int, int]) -> None:
        self.lease = lease
        self.outputs = list(outputs)
        self.by_name: dict[str, tuple[int, int]] = {}
        offset = 0
        for index, size in large.items():
            name = outputs[index].name()
            placed = self.outputs[index] = InferRequestedOutput(name)
            placed.set_parameters(outputs[index].parameters())
            placed.set_shared_memory(lease.block.name, size, offset)
            self.by_name[name] = offset, size
            offset += size

    def arrays(self, result: InferResult) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs as views of their places."""
        arrays = {}
        for name, (offset, size) in self.by_name.items():
            array = result._layout.placed_tensor(name, self.lease.buffer, offset, size)
            if array is None:
                continue
            # An output much smaller than its place should not keep the block.
            arrays[name] = array.copy() if array.nbytes * 16 < size else array
        return arrays


def _is_done(error: errors.ServerError) -> bool:
    """Return whether an error proves that the inference has ended: the server no longer uses its blocks."""
    status = str(error.status())
    ends = status in ("500", "501") or (status.startswith("4") and status not in GATEWAY)
    return ends and own_words(error) is not None
