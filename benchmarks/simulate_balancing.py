"""Round robin against least outstanding on a virtual clock, with the balancer and the retries of the library.

Run with the library installed: ``python benchmarks/simulate_balancing.py``. It prints a Markdown table, the
same one for the same ``--seed``. Every server works on one request at a time. The service time is exponential,
50 ms on average, and 0.5 s on the slow server. Calls arrive as a Poisson process, at a rate that gives the
living servers the chosen load; with ``--in-flight`` each client keeps so many under way instead, as a run over
a dataset does, and there is no load to choose. After a quarter of the run one server dies: it refuses
connections, or it accepts calls and never answers. A call without an answer times out after 2 s, although its
server continues to work on it. Every call may be repeated.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tritonhttp import ConnectRefused, DeadlineExceeded, Retry
from tritonhttp._calls.balance import Balancer, Ticket, server_failed
from tritonhttp._transport.policy import earliest

SERVICE, SLOWNESS = 0.05, 10
NETWORK_TIMEOUT, PROBE_TIMEOUT = 2.0, 1.0
#: Number of servers -> seconds of a run: about ten thousand calls each.
LENGTH = {3: 600.0, 100: 20.0}

Policy = Literal["round_robin", "least_outstanding"]
Fault = Literal["none", "refuses", "hangs"]
FAULTS: tuple[Fault, ...] = ("none", "refuses", "hangs")
POLICIES: tuple[Policy, ...] = ("round_robin", "least_outstanding")


@dataclass
class Server:
    """A server that works on its requests one after the other."""

    mean: float
    free_at: float = 0.0
    fault: str = "none"
    #: Requests that it received.
    calls: int = 0


@dataclass
class Call:
    """A call, which may take several tries."""

    begin: float
    tries: int = 0
    tried: set[int] = field(default_factory=set)
    #: Which client makes it.
    client: int = 0


class Simulation:
    """One run: servers, calls and probes as events on a heap.

    Parameters
    ----------
    count : int
        Number of servers. One is slow, and the last one dies if there is a fault.
    fault : str
        Behaviour of the dead server.
    load : float
        The share of time that the living servers are busy.
    policy : str
        The balancer's.
    retry : Retry
        When calls are tried again.
    seed : int
        Seed of the arrivals and service times.
    clients : int
        How many clients share the calls; none knows what the others have under way.
    in_flight : int
        How many calls each client keeps under way; 0: calls arrive by themselves.
    """

    def __init__(
        self,
        count: int,
        fault: Fault,
        load: float,
        policy: Policy,
        retry: Retry,
        seed: int,
        clients: int = 1,
        in_flight: int = 0,
    ) -> None:
        self.random = random.Random(seed)
        self.servers = [Server(SERVICE) for _ in range(count)]
        self.servers[0].mean *= SLOWNESS
        self.fault = fault
        alive = self.servers[:-1] if fault != "none" else self.servers
        self.capacity = sum(1 / server.mean for server in alive)
        self.rate, self.in_flight = load * self.capacity, in_flight
        self.length = LENGTH[count]
        self.balancers = [
            Balancer(range(count), policy=policy, first=self.random.randrange(count) if clients > 1 else 0)
            for _ in range(clients)
        ]
        self.retry = retry
        #: Seconds from each call's start to its answer or error.
        self.latencies: list[float] = []
        self.failures = 0
        self.retries = 0
        #: Calls that were over within the length of the run.
        self.within = 0
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._probe_at: dict[int, float] = {}

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Schedule an event; events that are due at the same time run in the order of their scheduling."""
        self._order += 1
        heapq.heappush(self._events, (time, self._order, action))

    def run(self) -> Simulation:
        """Run until every call is over."""
        if self.in_flight:
            for client in [*range(len(self.balancers))] * self.in_flight:
                self.try_call(Call(self.now, client=client))
        else:
            self.arrive()
        if self.fault != "none":
            self.at(self.length / 4, self.die)
        while self._events and self._events[0][0] < 2 * self.length:  # later: only probes of dead servers
            self.now, _, action = heapq.heappop(self._events)
            action()
        return self

    def arrive(self) -> None:
        """Begin a call, and schedule the next one."""
        following = self.now + self.random.expovariate(self.rate)
        if following < self.length:
            self.at(following, self.arrive)
        alone = len(self.balancers) == 1
        self.try_call(Call(self.now, client=0 if alone else self.random.randrange(len(self.balancers))))

    def die(self) -> None:
        """Let the last server die; it still completes what it has begun."""
        self.servers[-1].fault = self.fault

    def try_call(self, call: Call) -> None:
        """Give the call to a server, and schedule the outcome."""
        ticket = Ticket()
        chosen = self.balancers[call.client].pick(ticket, call.tried)
        server = self.servers[chosen]
        server.calls += 1
        call.tries += 1
        if server.fault == "refuses":
            result: int | Exception = ConnectRefused("refused")
            end = self.now
        else:
            answer = float("inf")
            if server.fault == "none":
                answer = max(self.now, server.free_at) + self.random.expovariate(1 / server.mean)
                server.free_at = answer
            in_time = answer <= self.now + NETWORK_TIMEOUT
            result = 200 if in_time else DeadlineExceeded("timed out")
            end = min(answer, self.now + NETWORK_TIMEOUT)
        self.at(end, lambda: self.finish(call, ticket, chosen, result))

    def finish(self, call: Call, ticket: Ticket, chosen: int, result: int | Exception) -> None:
        """End a try: the call is over, or is tried again."""
        self.balancers[call.client].done(ticket, self.now, server_failed(result))
        self.watch(call.client)
        if result == 200:
            self.end(call)
            return
        call.tried.add(chosen)
        delay = None
        if self.retry.applies(result, repeatable=True):
            delay = self.retry.delay(call.tries, self.random.random(), now=self.now)
        if delay is None:
            self.failures += 1
            self.end(call)
        else:
            self.retries += 1
            self.at(self.now + delay, lambda: self.try_call(call))

    def end(self, call: Call) -> None:
        """Count a call that is over; its client may begin the next one."""
        self.latencies.append(self.now - call.begin)
        if self.in_flight and self.now < self.length:
            self.within += 1
            self.try_call(Call(self.now, client=call.client))

    def watch(self, client: int) -> None:
        """Wake when a probe of a client's is due."""
        due = earliest(*(entry.probe_at() for entry in self.balancers[client]._ring))
        if due is not None and due != self._probe_at.get(client):
            self._probe_at[client] = due
            self.at(max(due, self.now), lambda: self.probe(client))

    def probe(self, client: int) -> None:
        """Probe the servers that are due."""
        for chosen in self.balancers[client].due(self.now):
            fault = self.servers[chosen].fault
            takes = PROBE_TIMEOUT if fault == "hangs" else 0.001
            ready = fault == "none"
            self.at(self.now + takes, lambda chosen=chosen, ready=ready: self.probed(client, chosen, ready))
        self.watch(client)

    def probed(self, client: int, chosen: int, ready: bool) -> None:
        """Tell the balancer what a probe found."""
        self.balancers[client].probed(chosen, self.now, ready)
        self.watch(client)

    def row(self) -> list[str]:
        """Return the results: p50, p99, the slow server's share, the share of capacity, retries, failures."""
        cuts = statistics.quantiles(self.latencies, n=100)
        tries = sum(server.calls for server in self.servers)
        calls = len(self.latencies)
        return [
            f"{cuts[49] * 1000:,.0f}",
            f"{cuts[98] * 1000:,.0f}",
            f"{self.servers[0].calls / tries:.1%}",
            f"{self.within / self.length / self.capacity:.0%}" if self.in_flight else "",
            f"{self.retries / calls:.2%}",
            f"{self.failures / calls:.2%}",
        ]


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.8])
    parser.add_argument("--retry-timeouts", action="store_true", help="try again after a timeout, too")
    parser.add_argument("--clients", type=int, default=1, help="share the calls between so many clients")
    parser.add_argument("--in-flight", type=int, default=0, help="calls that each client keeps under way")
    parser.add_argument("--servers", type=int, nargs="+", default=[*LENGTH], choices=[*LENGTH])
    options = parser.parse_args()
    loads = [1.0] if options.in_flight else options.load
    retry = Retry(on=[*Retry().on, "timeout"]) if options.retry_timeouts else Retry()
    head = [
        "servers",
        "the dead one",
        "load",
        "policy",
        "p50 ms",
        "p99 ms",
        "to the slow one",
        "of capacity",
        "retries",
    ]
    print(f"| {' | '.join([*head, 'failed calls'])} |")
    print("| ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in options.servers:
        for fault in FAULTS:
            for load in loads:
                for policy in POLICIES:
                    simulation = Simulation(
                        count, fault, load, policy, retry, options.seed, options.clients, options.in_flight
                    ).run()
                    cells = [
                        str(count),
                        fault,
                        "" if options.in_flight else f"{load:.0%}",
                        policy.replace("_", " "),
                        *simulation.row(),
                    ]
                    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
