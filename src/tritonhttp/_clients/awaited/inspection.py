"""The methods that ask about servers and models: one text for both clients, written in `awaited/inspection.py`.

An endpoint is one line over :mod:`tritonhttp._protocol.operations`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from ..._protocol import operations
from ..._protocol.operations import Operation
from ..._transport.policy import UNSET, Deadline, Moment, call_limit
from ...errors import DeadlineExceeded, InferenceServerException
from ..base import PROBING
from .drive import drive
from .execution import Headers, QueryParams
from .management import Management

if TYPE_CHECKING:
    from ... import types
    from ..._protocol.probes import Health
    from ..._wire.prometheus import Metrics

__all__ = ["Inspection"]

T = TypeVar("T")


class Inspection(Management):
    """The part of a client's methods that asks a server about itself and its models."""

    if TYPE_CHECKING:  # each client defines it

        async def _look_up_now(self, until: Moment | None) -> None: ...

    # -- health and metadata --

    async def is_server_live(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        """Return whether the server is alive."""
        return await self._run(operations.is_server_live(), headers, query_params, deadline)

    async def is_server_ready(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> bool:
        """Return whether the server is ready to infer."""
        return await self._run(operations.is_server_ready(), headers, query_params, deadline)

    async def is_model_ready(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> bool:
        """Return whether a model is ready; without a version, one that the server chooses."""
        return await self._run(
            operations.is_model_ready(model_name, model_version), headers, query_params, deadline
        )

    async def wait_until_ready(
        self,
        timeout: float | None = 60.0,
        model: str | None = None,
        *,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
    ) -> None:
        """Wait until the server, or a model on it, is ready to infer, however often it has to be asked.

        A server that cannot be connected to, and one that answers with an error, is not ready yet. A model whose
        name is not in the server's repository is an error at once, if the server has an index of it.

        Parameters
        ----------
        timeout : float or None
            The most seconds to wait; None: for ever; 0 or less: it raises without asking.
        model : str, optional
            The model to wait for.
        model_version : str
            Its version; empty: one that the server chooses.
        headers, query_params
            See the class.

        Raises
        ------
        DeadlineExceeded
            When it is not ready in time; with the answer that came last, and the model's state and its reason.
        ServerError
            When the repository has no such model, with status 404 and the nearest names; with several servers,
            when none has it.
        """
        from ..._protocol import probes

        until = self._until(call_limit(timeout, None, "timeout"))
        clock = asyncio.get_running_loop().time

        def time_left() -> float:
            return math.inf if until is None else until - clock()

        flow = probes.until_ready(model, model_version, time_left)
        await self._probing(flow, headers, query_params, until)

    async def check(
        self,
        model: str | None = None,
        *,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        deadline: Deadline = UNSET,
    ) -> Health:
        """Find out whether the server, or a model on it, can be used, and if not, why; nothing of that is raised.

        It asks whether the server is live and ready, for its metadata, whether the model is ready, and where that
        is not so for the repository's index.

        Parameters
        ----------
        model : str, optional
            A model that must be ready. The server need not be then: another model may keep it from that.
        model_version : str
            The model's version; empty: one that the server chooses.
        headers, query_params, deadline
            See the class; the deadline is for all requests together.

        Returns
        -------
        Health
            True if all is well. Its `reason` says in one sentence what stands in the way.

        Raises
        ------
        InvalidRequest
            For arguments that cannot be used. No other error, whatever the server, the network or a plugin does.
        """
        from ..._protocol import probes

        clock = asyncio.get_running_loop().time
        version = operations.version_text(model_version)
        flow = probes.check(model, version, clock)
        # Refuse what cannot be sent.
        self._encoder.encode(operations.is_server_live(), headers, query_params)
        if model is not None:
            operations.is_model_ready(model, version)
        try:
            until = self._until(deadline)
        except DeadlineExceeded as error:
            return probes.unreachable(error, model, version)
        return await self._probing(flow, headers, query_params, until)

    async def _probing(
        self,
        flow: Generator[Operation[Any] | float, Any, T],
        headers: Headers,
        query_params: QueryParams,
        until: Moment | None,
    ) -> T:
        """Carry out a probe. Of several servers it gets all models, since any of them may have the one."""
        from ..._protocol import probes

        async def perform(step: Operation[Any]) -> Any:
            if step.path != probes.INDEX or not self._servers:
                return await self._carry_out(step, headers, query_params, until)
            found = probes.ModelList()
            for server in list(self._servers.values()):
                found += await server._carry_out(step, headers, query_params, until)
            return found

        return await drive(flow, perform)

    async def get_server_metadata(
        self, headers: Headers = None, query_params: QueryParams = None, *, deadline: Deadline = UNSET
    ) -> types.ServerMetadata:
        """Return the server's name, version and extensions."""
        return await self._run(operations.get_server_metadata(), headers, query_params, deadline)

    async def get_model_metadata(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.ModelMetadata:
        """Return a model's versions, platform, inputs and outputs."""
        return await self._run(
            operations.get_model_metadata(model_name, model_version), headers, query_params, deadline
        )

    async def get_model_config(
        self,
        model_name: str,
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.ModelConfig:
        """Return a model's configuration."""
        return await self._run(
            operations.get_model_config(model_name, model_version), headers, query_params, deadline
        )

    async def get_inference_statistics(
        self,
        model_name: str = "",
        model_version: str = "",
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        deadline: Deadline = UNSET,
    ) -> types.Statistics:
        """Return the statistics of a model, or of all models where no name is given."""
        operation = operations.get_inference_statistics(model_name, model_version)
        return await self._run(operation, headers, query_params, deadline)

    async def metrics(
        self,
        url: str | None = None,
        headers: Headers = None,
        query_params: QueryParams = None,
        *,
        port: int = 8002,
        deadline: Deadline = UNSET,
    ) -> Metrics:
        """Return the server's metrics, which Prometheus reads: on Triton from a port of their own.

        Parameters
        ----------
        url : str, optional
            Where they are, such as ``"http://monitoring:9000/metrics"``; without a path ``/metrics``, without a
            scheme the client's. None: ``/metrics`` on the server's host. The client's options, plugin and hooks
            apply there too, and it keeps its connections to each such address until it is closed.
        headers, query_params, deadline
            See the class.
        port : int
            The port on the server's host: 8002 is Triton's, 8082 MLServer's.

        Returns
        -------
        tritonhttp.metrics.Metrics
            The samples, and the text.

        Raises
        ------
        InvalidRequest
            With several servers and no `url`: each has its own; take :meth:`server` or :meth:`on_each`.
        ProtocolError
            If there is something other than metrics.
        """
        until = self._until(deadline)
        if url is None and self._resolve_every is not None:
            await self._look_up(self._resolve_every, until)
        place, path = self._of_metrics(url, port)
        found: Metrics = await place._run(operations.metrics(path), headers, query_params, until)
        return found

    # -- looks at the servers of a client, for its own sake --

    async def _look_up_again(self) -> None:
        try:
            await self._look_up_now(self._until(PROBING))
        except InferenceServerException as error:
            self._log.info("the server's addresses stay as they are: %s", error)

    async def _look_at(self, url: str) -> None:
        ready = False
        try:
            ready = await self.server(url).is_server_ready(deadline=PROBING)
        except InferenceServerException:
            pass
        finally:
            if self._dispatch is not None:
                self._dispatch.probed(url, asyncio.get_running_loop().time(), ready)
