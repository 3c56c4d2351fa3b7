# Generated from awaited/management.py by tools/async_to_sync.py: edit that, then run `make generate`.
"""The methods that manage a server: one text for both clients, written in `awaited/management.py`.

That is its models, settings and shared memory. An endpoint is one line over
:mod:`tritonhttp._protocol.operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..._protocol import operations
from ..._protocol.operations import Operation
from ..._transport.policy import UNSET, Deadline, call_limit
from ...errors import InvalidCall
from ..advice import no_attribute_of_block
from .execution import Execution, Headers, QueryParams
from .side import guarded

if TYPE_CHECKING:
    from types import TracebackType

    from ... import types
    from ..._protocol.probes import ModelList
    from ..._regions.region import Region

__all__ = ["Management"]


class Management(Execution):
    """The part of a client's methods that manages a server."""

    # -- model repository --

    def models(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> ModelList:
        """Return the models of the repository, each version with its state, as a list that shows as a table.

        Returns
        -------
        list of ModelStatus
            By name and version. Models that were never loaded are in it, with an empty version and state.

        Raises
        ------
        ServerError
            Also by a server without Triton's extension for repositories.
        """
        from ..._protocol.probes import index

        return self._run(index(), headers, query_params, deadline)

    def get_model_repository_index(
        self,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        ready: bool = False,
        deadline: Deadline = UNSET,
    ) -> list[types.ModelIndexEntry]:
        """Return the models of the repository, or with `ready` the ready ones: name, version, state and reason."""
        found = self._run(operations.get_model_repository_index(ready), headers, query_params, deadline)
        self._note_names(found)
        return found

    def load_model(
        self,
        model_name: str,
        headers: Headers = None,
        query_params: QueryParams = None,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Load or reload a model.

        Parameters
        ----------
        model_name : str
            The model.
        headers, query_params, deadline
            See the class.
        config : str, optional
            A configuration as JSON, in place of the one in the repository.
        files : mapping of str to bytes, optional
            Files in place of the model's directory: paths with ``file:`` before them, for example
            ``"file:1/model.onnx"``, and their contents. Needs `config`. Triton silently keeps a loaded model's old
            files if the configuration is the same: change something in it, or unload the model first.
        """
        operation = operations.load_model(model_name, config, files)
        try:
            self._run(operation, headers, query_params, deadline)
        finally:
            self._distrust_models()

    def unload_model(
        self,
        model_name: str,
        headers: Headers = None,
        query_params: QueryParams = None,
        unload_dependents: bool = False,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Unload a model; with `unload_dependents` also the models that only it needed."""
        operation = operations.unload_model(model_name, unload_dependents)
        try:
            self._run(operation, headers, query_params, deadline)
        finally:
            self._distrust_models()

    # -- trace and log settings --

    def get_trace_settings(
        self,
        model_name: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.TraceSettings:
        """Return the trace settings of a model, or the global ones."""
        return self._run(operations.get_trace_settings(model_name), headers, query_params, deadline)

    def update_trace_settings(
        self,
        model_name: str | None = None,
        settings: Mapping[str, Any] = {},
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.TraceSettings:
        """Change trace settings of a model, or global ones; None clears a setting. Return all of them."""
        return self._run(
            operations.update_trace_settings(model_name, settings), headers, query_params, deadline
        )

    def get_log_settings(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.LogSettings:
        """Return the server's log settings."""
        return self._run(operations.get_log_settings(), headers, query_params, deadline)

    def update_log_settings(
        self,
        settings: Mapping[str, Any],
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.LogSettings:
        """Change log settings of the server; return all of them."""
        return self._run(operations.update_log_settings(settings), headers, query_params, deadline)

    # -- shared memory --

    def get_system_shared_memory_status(
        self,
        region_name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> list[types.SystemRegionStatus]:
        """Return the registered system shared memory regions, or the one of that name."""
        return self._run(
            operations.get_shared_memory_status("system", region_name), headers, query_params, deadline
        )

    def register_system_shared_memory(
        self,
        name: str,
        key: str,
        byte_size: int,
        offset: int = 0,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make a system shared memory region known to the server.

        Parameters
        ----------
        name : str
            The name for it in requests.
        key : str
            The key of the memory object that holds it.
        byte_size : int
            Its size in bytes.
        offset : int
            Where in the memory object it starts, in bytes. Triton adds any but 0 twice to the offsets of tensors,
            so it reads and writes elsewhere: register from the start, and give the tensors offsets.
        headers, query_params, deadline
            See the class.

        Raises
        ------
        ServerError
            Also when the server shares no memory: Triton 2.68 and later need ``--allow-client-shm=true``.
        """
        operation = operations.register_system_shared_memory(name, key, byte_size, offset)
        self._run(operation, headers, query_params, deadline)

    def unregister_system_shared_memory(
        self,
        name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make the server forget a system shared memory region, or all of them where no name is given."""
        self._run(operations.unregister_shared_memory("system", name), headers, query_params, deadline)

    def get_cuda_shared_memory_status(
        self,
        region_name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> list[types.CudaRegionStatus]:
        """Return the registered CUDA shared memory regions, or the one of that name."""
        return self._run(
            operations.get_shared_memory_status("cuda", region_name), headers, query_params, deadline
        )

    def register_cuda_shared_memory(
        self,
        name: str,
        raw_handle: bytes,
        device_id: int,
        byte_size: int,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make a CUDA shared memory region known to the server.

        Parameters
        ----------
        name : str
            The name for it in requests.
        raw_handle : bytes
            The serialized cudaIPC handle as base64.
        device_id : int
            The GPU on which the handle was made.
        byte_size : int
            Its size in bytes.
        headers, query_params, deadline
            See the class.

        Raises
        ------
        ServerError
            Also when the server shares no memory: Triton 2.68 and later need ``--allow-client-shm=true``.
        """
        operation = operations.register_cuda_shared_memory(name, raw_handle, device_id, byte_size)
        self._run(operation, headers, query_params, deadline)

    def unregister_cuda_shared_memory(
        self,
        name: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> None:
        """Make the server forget a CUDA shared memory region, or all of them where no name is given."""
        self._run(operations.unregister_shared_memory("cuda", name), headers, query_params, deadline)

    def shared_memory(
        self,
        byte_size: int | None = None,
        *,
        key: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        deadline: Deadline = UNSET,
    ) -> AbstractContextManager[Region]:
        """Make a shared memory region, known to the server for the length of a ``with`` block.

        Whatever ends the block, the server forgets the region and its memory is given back; arrays over it stay
        valid. A process that is killed leaves nothing of it behind, unless others may attach to it.

        Parameters
        ----------
        byte_size : int, optional
            Its size in bytes; None: attach to the one that has the key.
        key : str, optional
            A key for other processes to attach to it by. Without one nobody can, and the key that it needs for a
            moment is removed as soon as the server has the region.
        headers, query_params, deadline
            See the class; the deadline holds for each of the two requests.

        Returns
        -------
        context manager of Region

        Raises
        ------
        SharedMemoryException
            When the region cannot be made or found.
        ServerError
            When the server does not take it, for example because it runs on another machine, or because it is
            Triton 2.68 or later without ``--allow-client-shm=true``.
        """

        def run(flow: Generator[Operation[Any], Any, None]) -> None:
            self._drive(flow, headers, query_params, self._until(deadline))

        def make() -> Region:
            from ..._regions.region import Region

            call_limit(deadline, None)  # a spent one makes no region
            return Region(byte_size, key)

        return RegionBlock(make, run)


@guarded
class RegionBlock:
    """A shared memory region for the length of a block."""

    _region: Region | None = None

    def __init__(
        self,
        make: Callable[[], Region],
        run: Callable[[Generator[Operation[Any], Any, None]], None],
    ) -> None:
        self._make, self._run = make, run

    def __enter__(self) -> Region:
        if self._region is not None:
            raise InvalidCall("this block has a region: make another one with client.shared_memory(…)")
        self._region = region = self._make()
        try:
            self._run(region._open())
            return region
        except BaseException:
            self._run(region._close())
            raise

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._region is not None
        self._run(self._region._close())

    if not TYPE_CHECKING:
        __getattr__ = no_attribute_of_block
