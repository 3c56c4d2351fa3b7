"""How a socket is connected on an asyncio event loop: name resolution, attempts in parallel, a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import ProtocolError
from .address import Address, SocketAddress
from .failures import connect_failure, resolve_timeout
from .happy_eyeballs import Race
from .resolver import Outcome, found_addresses, leave, literal, look_up
from .route import Proxy, TunnelReader

__all__ = ["connect", "open_tunnel", "resolve", "timeout_at"]

if sys.version_info >= (3, 11):
    timeout_at = asyncio.timeout_at
else:

    class timeout_at:  # noqa: N801  stands for a function
        """End the block with TimeoutError at a time of the event loop's clock."""

        def __init__(self, when: float | None) -> None:
            self._when = when
            self._expired = False
            self._timer: asyncio.TimerHandle | None = None

        async def __aenter__(self) -> None:
            if self._when is not None:
                task = asyncio.current_task()
                self._timer = asyncio.get_running_loop().call_at(self._when, self._expire, task)

        def expired(self) -> bool:
            return self._expired

        def _expire(self, task: asyncio.Task[object] | None) -> None:
            self._expired = True
            if task is not None:
                task.cancel()

        async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
            if self._timer is not None:
                self._timer.cancel()
            if self._expired and kind is asyncio.CancelledError:
                raise TimeoutError


async def resolve(
    loop: asyncio.AbstractEventLoop, address: Address, deadline: float | None
) -> list[SocketAddress]:
    """Return the addresses of a server, in the order that the system prefers.

    Raises
    ------
    NameResolutionError
        If the name has no address.
    DeadlineExceeded
        If the answer takes too long.
    """
    known = literal(address)
    if known:
        return known
    outcome: asyncio.Future[Outcome] = loop.create_future()
    began = loop.time()

    def tell(answer: Outcome) -> None:
        if not outcome.done():
            outcome.set_result(answer)

    def done(answer: Outcome) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell, answer)

    look_up(address, done)
    try:
        async with timeout_at(deadline):
            return found_addresses(address, await outcome)
    except TimeoutError:
        raise resolve_timeout(address, loop.time() - began, deadline) from None
    finally:
        leave(address, done)


async def connect(
    loop: asyncio.AbstractEventLoop, addresses: Sequence[SocketAddress], deadline: float | None, peer: str
) -> socket.socket:
    """Return a socket that is connected to one of the addresses.

    Parameters
    ----------
    addresses : sequence of SocketAddress
        In the system's order.
    deadline : float or None
        When to give up, on the event loop's clock.
    peer : str
        What is connected to, for messages.

    Raises
    ------
    ConnectError
        Says how each address failed.
    """
    began = loop.time()
    try:
        if len(addresses) == 1:
            return await _connect_one(loop, *addresses[0], deadline)
        race = Race(addresses, began, deadline)
        winner = await _connect_first(loop, race)
        if winner is not None:
            return winner
        failures = race.failures
    except OSError as error:  # TimeoutError too
        failures = [(place, error) for place in addresses]
    raise connect_failure(peer, failures, loop.time() - began, deadline) from failures[0][1]


async def _connect_one(
    loop: asyncio.AbstractEventLoop, family: int, address: Any, deadline: float | None
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with timeout_at(deadline):
            await loop.sock_connect(sock, address)
    except BaseException:
        _close(loop, sock)
        raise
    return sock


async def _connect_first(loop: asyncio.AbstractEventLoop, race: Race) -> socket.socket | None:
    """Return the socket that connects first, or None if none does in time; close all others."""
    socks: dict[int, socket.socket] = {}
    attempts: dict[asyncio.Task[None], int] = {}
    try:
        try:
            winner = await _run_attempts(loop, race, socks, attempts)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                for attempt in attempts:
                    attempt.cancel()
    except GeneratorExit:  # the loop has stopped: nothing can be awaited
        raise
    except BaseException:
        await _ended(attempts)
        raise
    else:
        # The event loop watches a socket until its task has ended; the socket must stay open until then.
        await _ended(attempts)
        return None if winner is None else socks.pop(winner)
    finally:
        for sock in socks.values():
            _close(loop, sock)


def _close(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Close a socket that the loop may still watch, if its coroutine was closed while it connected."""
    with contextlib.suppress(Exception):  # the loop does not watch it, or has stopped
        loop.remove_writer(sock.fileno())
    sock.close()


async def _run_attempts(
    loop: asyncio.AbstractEventLoop,
    race: Race,
    socks: dict[int, socket.socket],
    attempts: dict[asyncio.Task[None], int],
) -> int | None:
    """Return the number of the attempt that connects first, or None if none does in time."""
    while True:
        while (number := race.start(loop.time())) is not None:
            family, address = race.addresses[number]
            try:
                sock = socks[number] = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a system without IPv6 may still resolve names to IPv6 addresses
                race.failed(number, error, loop.time())
                continue
            sock.setblocking(False)
            attempt = loop.create_task(loop.sock_connect(sock, address))
            # Without a look at its error, asyncio would log that it was never retrieved.
            attempt.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            attempts[attempt] = number
        now = loop.time()
        if race.is_over(now):
            return None
        done, _ = await asyncio.wait(attempts, timeout=race.pause(now), return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=attempts.__getitem__):
            number = attempts.pop(task)
            failure = OSError("the attempt was cancelled") if task.cancelled() else task.exception()
            if failure is None:
                return number
            if not isinstance(failure, OSError):
                raise failure
            socks.pop(number).close()
            race.failed(number, failure, loop.time())


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait until tasks have ended, even if the caller is cancelled again meanwhile."""
    again = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            again = error
    if again is not None:
        raise again


async def open_tunnel(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    proxy: Proxy,
    server: Address,
    deadline: float | None,
) -> None:
    """Ask the proxy to open a tunnel to the server."""
    began = loop.time()
    reader = TunnelReader()
    try:
        async with timeout_at(deadline):
            await loop.sock_sendall(sock, proxy.connect_request(server))
            while reader.response is None:
                reader.feed(await loop.sock_recv_into(sock, reader.get_buffer()))
    except (OSError, ProtocolError) as error:
        raise proxy.failure(server, error, loop.time() - began, deadline) from error
    proxy.check_tunnel(server, reader.response)
