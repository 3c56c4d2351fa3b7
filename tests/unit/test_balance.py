"""Which server gets a request, and which are left alone: decided without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tritonhttp import InvalidRequest, errors
from tritonhttp._calls import balance
from tritonhttp._calls.balance import NOT_STARTED, SERVER_LOST, Ticket, server_failed
from tritonhttp._transport.policy import earliest

POLICIES: Any = ["round_robin", "least_outstanding"]


class Balancer(balance.Balancer[Any]):
    """The balancer, and the tickets of the requests under way by their servers."""

    def __init__(
        self,
        servers: Any,
        set_aside: float = 1.0,
        max_set_aside: float = 30.0,
        max_sequences: int = 65536,
        **options: Any,
    ) -> None:
        self.tickets: dict[Any, list[Ticket]] = {}
        self.set_aside, self.max_set_aside, self.max_sequences = set_aside, max_set_aside, max_sequences
        super().__init__(servers, **options)

    @property
    def servers(self) -> tuple[Any, ...]:
        return tuple(entry.server for entry in self._ring)

    def outstanding(self, server: Any) -> int:
        entry = self._known.get(server)
        return len(entry.tickets) if entry else 0

    def next_due(self) -> float | None:
        return earliest(*(entry.probe_at() for entry in self._ring))

    def keep(self, ticket: Ticket, found: Any) -> Any:
        if ticket._entry is not None:
            self.tickets.setdefault(found, []).append(ticket)
        return found

    def picked(self, exclude: Any = ()) -> Any:
        ticket = Ticket()
        return self.keep(ticket, self.pick(ticket, exclude))

    def picked_for(self, key: Any, **options: Any) -> Any:
        ticket = Ticket()
        return self.keep(ticket, self.pick_for(ticket, key, **options))

    def back(self, server: Any, now: float, failed: bool | None, **options: Any) -> None:
        self.done(self.tickets[server].pop(0), now, failed, **options)


either = pytest.mark.parametrize("policy", POLICIES)


def picks(balancer: Balancer, count: int, **options: Any) -> str:
    return "".join(balancer.picked(**options) for _ in range(count))


def fail(balancer: Balancer, server: str, now: float) -> None:
    """Let a request to this one fail."""
    others = set(balancer.servers) - {server}
    assert balancer.picked(exclude=others) == server
    balancer.back(server, now, failed=True)


# -- picking


@either
def test_equals_take_turns(policy: Any) -> None:
    balancer = Balancer("abc", policy=policy)
    assert picks(balancer, 7) == "abcabca"
    assert [balancer.outstanding(server) for server in "abc"] == [3, 2, 2]


@either
def test_clients_need_not_begin_with_the_same_server(policy: Any) -> None:
    assert picks(Balancer("abc", policy=policy, first=5), 4) == "cabc"


def test_round_robin_counts_nothing() -> None:
    balancer = Balancer("abc", policy="round_robin")
    served = ""
    for _ in range(6):
        server = balancer.picked()
        served += server
        if server != "b":
            balancer.back(server, 0.0, failed=False)
    assert served == "abcabc"


def test_least_outstanding_prefers_the_server_that_answered() -> None:
    balancer = Balancer("abc", policy="least_outstanding")
    assert picks(balancer, 6) == "abcabc"
    balancer.back("b", 0.0, failed=False)
    assert picks(balancer, 1) == "b"
    for server in "cac":
        balancer.back(server, 0.0, failed=False)
    assert picks(balancer, 3) == "cac", "c has 0 under way, then a and c have 1: a's turn"


@either
def test_a_tried_server_is_avoided_while_there_is_another(policy: Any) -> None:
    balancer = Balancer("abc", policy=policy)
    assert picks(balancer, 3, exclude={"a", "c"}) == "bbb"
    assert picks(balancer, 1, exclude={"a", "b", "c"}) == "c"


@either
def test_a_tried_server_is_preferred_to_one_set_aside(policy: Any) -> None:
    balancer = Balancer("ab", policy=policy)
    fail(balancer, "a", 0.0)
    assert picks(balancer, 2, exclude={"b"}) == "bb"


@pytest.mark.parametrize("servers", [[], ()])
def test_no_server_is_an_error(servers: Any) -> None:
    with pytest.raises(InvalidRequest, match="needs at least one server; got none"):
        Balancer(servers)
    balancer = Balancer("a")
    with pytest.raises(InvalidRequest, match="needs at least one server; got none"):
        balancer.update(servers)
    assert balancer.picked() == "a"


def test_another_policy_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="one of least_outstanding, round_robin; got 'random'"):
        Balancer("a", policy="random")  # type: ignore[arg-type]


def test_a_ticket_that_is_handed_back_twice_changes_nothing_more() -> None:
    balancer = Balancer("ab", set_aside=1.0)
    first, second, unused = Ticket(), Ticket(), Ticket()
    assert balancer.pick(first, exclude="b") == balancer.pick(second, exclude="b") == "a"
    balancer.done(unused, 0.0, failed=True)
    assert balancer.outstanding("a") == 2
    balancer.done(first, 0.0, failed=None)
    balancer.done(first, 0.0, failed=True)
    assert (balancer.outstanding("a"), balancer.in_rotation("a")) == (1, True)
    balancer.done(second, 0.0, failed=True)
    assert (balancer.outstanding("a"), balancer.in_rotation("a")) == (0, False)


def test_a_ticket_that_is_dropped_counts_no_more() -> None:
    balancer = Balancer("ab")
    ticket = Ticket()
    assert balancer.pick(ticket) == "a"
    other = Ticket()
    assert balancer.pick_for(other, 7, start=True) == "b"
    ticket = other  # the first one is gone
    del other
    assert [balancer.outstanding(server) for server in "ab"] == [0, 1]
    del ticket
    assert [balancer.outstanding(server) for server in "ab"] == [0, 0]


# -- failures


@pytest.mark.parametrize(
    "result",
    [502, 503, 504, errors.ServerError("no", "503"), errors.ConnectRefused("no"), errors.ConnectionLost("gone"),
     errors.DeadlineExceeded("timed out")],
)  # fmt: skip
def test_outcomes_that_set_a_server_aside(result: Any) -> None:
    assert server_failed(result)


@pytest.mark.parametrize(
    "result",
    [200, 400, 404, 429, 500, errors.ServerError("no", "400"), errors.InvalidRequest("no"), KeyError()],
)
def test_outcomes_that_do_not_set_a_server_aside(result: Any) -> None:
    assert not server_failed(result)


@either
def test_a_server_that_fails_gets_nothing_until_a_probe_finds_it_ready(policy: Any) -> None:
    balancer = Balancer("abc", policy=policy, set_aside=1.0)
    fail(balancer, "b", 10.0)
    assert not balancer.in_rotation("b")
    assert picks(balancer, 4) == "caca"
    assert balancer.due(10.9) == []
    assert balancer.next_due() == 11.0
    assert balancer.due(11.0) == ["b"]
    assert picks(balancer, 2) == "ca", "due is not ready"
    balancer.probed("b", 11.1, ready=True)
    assert balancer.in_rotation("b")
    assert balancer.next_due() is None
    assert "b" in picks(balancer, 3)


def test_only_one_asker_probes() -> None:
    balancer = Balancer("ab", set_aside=1.0, max_set_aside=30.0)
    fail(balancer, "a", 0.0)
    assert balancer.due(1.0) == ["a"]
    assert balancer.due(1.0) == []
    assert balancer.due(30.9) == []
    assert balancer.next_due() == 31.0
    assert balancer.due(31.0) == ["a"], "the first asker never came back"


def test_a_probe_that_fails_doubles_the_time_up_to_a_limit() -> None:
    balancer = Balancer("ab", set_aside=1.0, max_set_aside=6.0)
    now = 0.0
    fail(balancer, "a", now)
    waits = []
    for _ in range(5):
        due = balancer.next_due()
        assert due is not None
        waits.append(due - now)
        now = due
        assert balancer.due(now) == ["a"]
        balancer.probed("a", now, ready=False)
    assert waits == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_a_server_that_is_ready_and_fails_all_the_same_stays_away_longer() -> None:
    balancer = Balancer("ab", set_aside=1.0)
    for failure, wait in enumerate([1.0, 2.0, 4.0]):
        now = 100.0 * failure
        fail(balancer, "a", now)
        assert balancer.next_due() == now + wait
        balancer.due(now + wait)
        balancer.probed("a", now + wait, ready=True)
    assert balancer.picked(exclude="b") == "a"
    balancer.back("a", 350.0, failed=False)
    fail(balancer, "a", 400.0)
    assert balancer.next_due() == 401.0, "a success makes up for what was before"


def test_a_burst_of_failures_counts_once() -> None:
    balancer = Balancer("ab", set_aside=1.0)
    picks(balancer, 5, exclude="b")
    for now in (0.0, 0.1, 0.9):
        balancer.back("a", now, failed=True)
    assert balancer.next_due() == 1.0
    assert balancer.due(1.0) == ["a"]
    balancer.back("a", 1.5, failed=True)
    balancer.probed("a", 2.0, ready=False)
    assert balancer.next_due() == 4.0, "nor does it count beside a probe under way"


def test_a_success_makes_a_server_due_but_does_not_bring_it_back() -> None:
    balancer = Balancer("ab", set_aside=5.0)
    picks(balancer, 3, exclude="b")
    balancer.back("a", 0.0, failed=True)
    balancer.back("a", 1.0, failed=None)
    assert balancer.next_due() == 5.0, "a call that was cancelled says nothing"
    balancer.back("a", 2.0, failed=False)
    assert balancer.next_due() == 2.0
    assert not balancer.in_rotation("a")


def test_a_cancelled_call_does_not_make_up_for_failures() -> None:
    balancer = Balancer("ab", set_aside=1.0)
    fail(balancer, "a", 0.0)
    balancer.probed("a", 1.0, ready=True)
    assert balancer.picked(exclude="b") == "a"
    balancer.back("a", 2.0, failed=None)
    fail(balancer, "a", 3.0)
    assert balancer.next_due() == 5.0


def test_a_server_of_which_calls_hear_nothing_is_set_aside() -> None:
    balancer = Balancer("a", set_aside=1.0)
    outcomes: list[tuple[bool | None, bool]] = [
        (None, True),
        (None, True),
        (False, False),  # an answer: it does not hang
        (None, True),
        (None, False),  # a call that was cancelled says nothing
        (None, True),
    ]
    for failed, silent in outcomes:
        balancer.back(balancer.picked(), 0.0, failed, silent=silent)
    assert balancer.in_rotation("a")
    assert balancer.picked_for("sequence", start=True) == "a"
    balancer.back("a", 0.0, None, silent=True)
    assert not balancer.in_rotation("a")
    assert balancer.picked_for("sequence", start=False) == "a"  # it may well have its state
    balancer.back("a", 0.5, None, silent=True)
    balancer.probed("a", 1.0, ready=True)
    for _ in range(2):
        balancer.back(balancer.picked(), 2.0, None, silent=True)
    assert not balancer.in_rotation("a")
    assert balancer.next_due() == 4.0


@either
def test_where_all_are_set_aside_the_one_due_soonest_is_tried(policy: Any) -> None:
    balancer = Balancer("abc", policy=policy, set_aside=10.0)
    for server, now in (("b", 0.0), ("c", 1.0), ("a", 2.0)):
        fail(balancer, server, now)
    assert balancer.picked() == "b"
    assert balancer.picked() == "c", "one request under way there, and none here"
    assert balancer.picked(exclude={"a", "b"}) == "c"
    assert balancer.picked(exclude={"a", "b", "c"}) == "a"
    for server in "bcc":
        balancer.back(server, 3.0, failed=True)
    assert balancer.next_due() == 10.0


def test_a_try_that_fails_when_due_moves_on_to_the_next() -> None:
    balancer = Balancer("ab", set_aside=1.0)
    fail(balancer, "a", 0.0)
    fail(balancer, "b", 0.5)
    assert balancer.picked() == "a"
    balancer.back("a", 1.0, failed=True)
    assert balancer.picked() == "b"


# -- other servers


def test_servers_that_stay_keep_their_state_and_their_turn() -> None:
    balancer = Balancer("abcd", policy="round_robin")
    assert picks(balancer, 2) == "ab"
    fail(balancer, "d", 0.0)
    assert picks(balancer, 2) == "ab"
    balancer.update("edcb")
    assert balancer.servers == ("b", "c", "d", "e")
    assert [balancer.outstanding(server) for server in "abcde"] == [2, 2, 0, 0, 0]
    assert [balancer.in_rotation(server) for server in "abcde"] == [False, True, True, False, True]
    assert picks(balancer, 4) == "cebc"


@given(st.lists(st.sampled_from("abcdef"), min_size=1), st.integers(0, 9), st.permutations("abcd"))
def test_the_same_servers_in_another_order_change_nothing(
    twice: list[str], taken: int, order: list[str]
) -> None:
    one, other = Balancer("abcd", policy="round_robin"), Balancer("abcd", policy="round_robin")
    picks(one, taken), picks(other, taken)
    other.update(order + [name for name in twice if name in "abcd"])
    assert picks(one, 8) == picks(other, 8)


def test_a_server_that_goes_is_handed_back_and_may_return() -> None:
    balancer = Balancer("ab")
    picks(balancer, 4)
    balancer.update("b")
    assert picks(balancer, 2) == "bb"
    assert balancer.outstanding("a") == 2
    balancer.back("a", 0.0, failed=True)
    balancer.update("ba")
    assert balancer.outstanding("a") == 1
    assert not balancer.in_rotation("a"), "it failed meanwhile"
    balancer.back("a", 0.0, failed=False)
    assert balancer.outstanding("a") == 0


def test_a_server_that_is_gone_is_forgotten() -> None:
    balancer = Balancer("ab")
    fail(balancer, "a", 0.0)
    assert balancer.picked() == "b"
    balancer.update("c")
    balancer.back("b", 0.0, failed=True)
    balancer.update("abc")
    assert all(balancer.in_rotation(server) for server in "abc")
    assert balancer.next_due() is None


def test_a_probe_of_a_server_that_is_gone_is_nothing() -> None:
    balancer = Balancer("ab")
    fail(balancer, "a", 0.0)
    assert balancer.due(1.0) == ["a"]
    balancer.update("b")
    balancer.probed("a", 1.0, ready=True)
    assert balancer.due(99.0) == []
    assert balancer.servers == ("b",)


def test_a_probe_of_a_server_in_rotation_is_nothing() -> None:
    balancer = Balancer("ab")
    balancer.probed("a", 0.0, ready=False)
    assert balancer.in_rotation("a")


# -- sequences


@either
def test_a_sequence_stays_with_its_server(policy: Any) -> None:
    balancer = Balancer("abc", policy=policy)
    balancer.picked()
    assert balancer.picked_for(7, start=True) == "b"
    assert picks(balancer, 2) == "ca"
    assert [balancer.picked_for(7, start=False) for _ in range(3)] == ["b"] * 3
    assert balancer.outstanding("b") == 4
    assert balancer.sticky(7) == "b"


def test_a_sequence_that_ended_is_forgotten() -> None:
    balancer = Balancer("abc")
    balancer.picked_for(7, start=True)
    balancer.end(7)
    balancer.end(7)
    assert balancer.sticky(7) is None
    assert balancer.picked_for(7, start=False) is NOT_STARTED


def test_a_sequence_that_nobody_started_has_no_server() -> None:
    balancer = Balancer("abc")
    assert balancer.picked_for(7, start=False) is NOT_STARTED
    assert [balancer.outstanding(server) for server in "abc"] == [0, 0, 0]


def test_a_sequence_is_lost_with_its_server_and_never_moved() -> None:
    balancer = Balancer("abc", set_aside=1.0)
    assert balancer.picked_for(7, start=True) == "a"
    balancer.back("a", 0.0, failed=False)
    fail(balancer, "a", 1.0)
    assert balancer.picked_for(7, start=False) is SERVER_LOST
    balancer.due(2.0)
    balancer.probed("a", 2.0, ready=True)
    assert balancer.picked_for(7, start=False) is SERVER_LOST, "it may have been restarted, and know nothing"
    assert balancer.sticky(7) == "a"
    assert balancer.outstanding("a") == 0
    assert balancer.picked_for(7, start=True) == "b"
    assert balancer.picked_for(7, start=False) == "b"


def test_a_sequence_is_lost_with_a_server_that_was_set_aside_already() -> None:
    balancer = Balancer("a", set_aside=10.0)
    fail(balancer, "a", 0.0)
    assert balancer.picked_for(7, start=True) == "a", "there is no other"
    assert balancer.picked_for(7, start=False) == "a"
    balancer.back("a", 1.0, failed=True)
    assert balancer.picked_for(7, start=False) is SERVER_LOST


def test_a_sequence_is_lost_with_a_server_that_is_removed() -> None:
    balancer = Balancer("ab")
    assert balancer.picked_for(7, start=True) == "a"
    assert balancer.picked_for(8, start=True) == "b"
    balancer.back("b", 0.0, failed=False)
    balancer.update("c")
    balancer.update("abc")
    assert balancer.picked_for(7, start=False) is SERVER_LOST
    assert balancer.picked_for(8, start=False) is SERVER_LOST


def test_a_sequence_that_starts_anew_stays_where_it_was() -> None:
    balancer = Balancer("abc")
    assert balancer.picked_for(7, start=True) == "a"
    assert balancer.picked_for(7, start=True) == "a"


def test_a_start_that_failed_goes_elsewhere() -> None:
    balancer = Balancer("abc")
    assert balancer.picked_for(7, start=True) == "a"
    balancer.back("a", 0.0, failed=True)
    assert balancer.picked_for(7, start=True, exclude={"a", "b"}) == "c"


def test_beyond_the_limit_the_sequence_idle_longest_is_forgotten() -> None:
    balancer = Balancer("abc", max_sequences=2)
    balancer.picked_for(1, start=True)
    balancer.picked_for(2, start=True)
    balancer.picked_for(1, start=False)
    balancer.picked_for(3, start=True)
    assert balancer.picked_for(2, start=False) is NOT_STARTED
    assert balancer.picked_for(1, start=False) == "a"
    assert balancer.picked_for(3, start=False) == "c"


# -- random courses


@given(
    servers=st.integers(1, 12),
    policy=st.sampled_from(POLICIES),
    slow=st.sets(st.integers(0, 11), max_size=3),
    calls=st.integers(50, 200),
)
def test_servers_that_never_answer_take_no_turn_from_the_others(
    servers: int, policy: Any, slow: set[int], calls: int
) -> None:
    balancer = Balancer(range(servers), policy=policy)
    counts = dict.fromkeys(range(servers), 0)
    for _ in range(calls):
        server = balancer.picked()
        counts[server] += 1
        if server not in slow:
            balancer.back(server, 0.0, failed=False)
    quick = [count for server, count in counts.items() if server not in slow]
    if policy == "round_robin" or not quick:
        level = list(counts.values())
    else:
        level = quick
        assert sum(quick) >= calls - (servers - len(quick)), "a server that never answers is asked once"
    assert max(level) - min(level) <= 1


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 8))
def test_least_outstanding_keeps_equal_servers_level(events: list[bool], servers: int) -> None:
    # Answers come in the order of the requests, so that no server is slower than another.
    balancer = Balancer(range(servers), policy="least_outstanding")
    line: list[int] = []
    for ask in events:
        if ask:
            line.append(balancer.picked())
        elif line:
            balancer.back(line.pop(0), 0.0, failed=False)
        counts = [balancer.outstanding(server) for server in range(servers)]
        assert max(counts) - min(counts) <= 1


class Fleet(RuleBasedStateMachine):
    """The balancer beside a naive record of what was picked, failed and probed."""

    policy: Any

    def __init__(self) -> None:
        super().__init__()
        self.balancer: Balancer = Balancer("abcd", policy=self.policy, set_aside=1.0, max_set_aside=8.0)
        self.now = 0.0
        self.servers = set("abcd")
        self.under_way: list[str] = []
        self.aside: set[str] = set()
        self.probing: dict[str, float] = {}
        self.homes: dict[int, str | None] = {}

    def check(self, server: str, exclude: set[str]) -> None:
        assert server in self.servers
        rotation = self.servers - self.aside
        if rotation:
            assert server in rotation, "a failed server gets no traffic until it was probed"
            assert server not in exclude or rotation <= exclude
        else:
            assert server not in exclude or self.servers <= exclude
        if self.policy == "least_outstanding" and rotation:
            equals = (rotation - exclude) or rotation
            assert self.under_way.count(server) == min(self.under_way.count(each) for each in equals)
        self.under_way.append(server)

    @rule(exclude=st.sets(st.sampled_from("abcd"), max_size=2))
    def pick(self, exclude: set[str]) -> None:
        self.check(self.balancer.picked(exclude), exclude)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 20), failed=st.sampled_from([True, False, None]))
    def done(self, which: int, failed: bool | None) -> None:
        server = self.under_way.pop(which % len(self.under_way))
        self.balancer.back(server, self.now, failed)
        if failed:
            self.aside.add(server)
            self.lose(server)
        self.forget()

    def lose(self, server: str) -> None:
        self.homes = {key: None if home == server else home for key, home in self.homes.items()}

    def forget(self) -> None:
        self.aside &= self.servers | set(self.under_way)

    @rule(seconds=st.sampled_from([0.1, 1.0, 9.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        for server in self.balancer.due(self.now):
            assert server in self.aside & self.servers
            assert self.probing.get(server, -9.0) + 8.0 <= self.now, "somebody else probes it"
            self.probing[server] = self.now
        assert self.balancer.due(self.now) == []

    @precondition(lambda self: self.probing)
    @rule(ready=st.booleans())
    def probed(self, ready: bool) -> None:
        server, _ = self.probing.popitem()
        self.balancer.probed(server, self.now, ready)
        if ready:
            self.aside.discard(server)

    @rule(servers=st.sets(st.sampled_from("abcdef"), min_size=1))
    def update(self, servers: set[str]) -> None:
        self.balancer.update(sorted(servers))
        for server in self.servers - servers:
            self.lose(server)
            if server not in self.under_way:
                self.probing.pop(server, None)
        self.servers = servers
        self.forget()

    @rule(key=st.integers(1, 3), start=st.booleans())
    def sequence(self, key: int, start: bool) -> None:
        server = self.balancer.picked_for(key, start=start)
        home = self.homes.get(key)
        if home is not None:
            assert server == home, "a sequence is never moved"
            self.under_way.append(home)
        elif start:
            assert isinstance(server, str)
            self.check(server, set())
            self.homes[key] = server
        else:
            assert server is (SERVER_LOST if key in self.homes else NOT_STARTED)

    @rule(key=st.integers(1, 3))
    def end(self, key: int) -> None:
        self.balancer.end(key)
        self.homes.pop(key, None)

    @invariant()
    def the_books_agree(self) -> None:
        for server in "abcdef":
            assert self.balancer.outstanding(server) == self.under_way.count(server)
            assert self.balancer.in_rotation(server) == (server in self.servers - self.aside)
        due = self.balancer.next_due()
        assert (due is None) == (not self.aside & self.servers)
        assert due is None or due <= self.now + 8.0, "nobody is forgotten"


class RoundRobin(Fleet):
    policy = "round_robin"


class LeastOutstanding(Fleet):
    policy = "least_outstanding"


TestRoundRobin = RoundRobin.TestCase
TestLeastOutstanding = LeastOutstanding.TestCase
TestRoundRobin.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLeastOutstanding.settings = TestRoundRobin.settings
