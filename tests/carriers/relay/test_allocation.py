"""The ports of a relay, who may be sent to, and how much."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quicdist.carriers.relay.allocation import (
    ByteBucket,
    Clients,
    Owner,
    PortFileError,
    PortTable,
    Rates,
    load,
)
from quicdist.carriers.relay.frames import Refusal
from quicdist.limits import RelayLimits

PORTS = range(20000, 20006)
LIMITS = RelayLimits(ports_per_key=3, new_ports_per_address=1e6, clients_per_port=4)
DAY = 86_400.0

OWNERS = st.builds(
    Owner,
    st.sampled_from(["k1", "k2", "k3"]),
    st.integers(0, 4),
    st.sampled_from([b"", b"", b"one", b"two"]),
)


class PortTables(RuleBasedStateMachine):
    """Any order of allocations, releases and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.today = 1e9
        self.table = PortTable(PORTS, LIMITS, {})
        self.live: dict[Owner, int] = {}
        self.names: dict[Owner, int] = {}

    @rule(owner=OWNERS, wanted=st.sampled_from([0, 0, 0, *PORTS, 1]))
    def allocate(self, owner: Owner, wanted: int) -> None:
        self.today += 1
        answer = self.table.allocate(owner, wanted, "192.0.2.1", 0.0, self.today)
        if isinstance(answer, Refusal):
            assert owner not in self.names or wanted
            return
        assert wanted in (0, answer)
        if not wanted and owner in self.names:
            assert answer == self.names[owner], "the name of a node survives"
        assert answer not in [port for other, port in self.live.items() if other != owner]
        if owner.is_temporary:
            assert answer not in [port for other, port in self.names.items() if other != owner]
        self.live[owner] = answer
        self.names = {one: port for one, port in self.names.items() if port != answer}
        self.names[owner] = answer

    @rule(owner=OWNERS)
    def leave(self, owner: Owner) -> None:
        port = self.live.pop(owner, None)
        if port is not None:
            self.table.released(port, self.today)
        if port is not None and owner.is_temporary:
            self.table.closed(port)
            del self.names[owner]

    @rule(owner=OWNERS)
    def close(self, owner: Owner) -> None:
        """The port of a node that is away is closed after a while."""
        if owner not in self.live and owner in self.names:
            self.table.closed(self.names[owner])

    @rule()
    def restart(self) -> None:
        self.table = PortTable(PORTS, LIMITS, load(self.table.dump()))
        self.live.clear()
        self.names = {one: port for one, port in self.names.items() if not one.is_temporary}

    @invariant()
    def ports_are_those_of_one_owner_within_its_limit(self) -> None:
        for owner, port in self.names.items():
            assert self.table.port_of(owner) == port
        assert len(self.table) == len(self.names) <= len(PORTS)
        for key in ("k1", "k2", "k3"):
            assert sum(one.key == key for one in self.names) <= LIMITS.ports_per_key


TestPortTables = PortTables.TestCase
TestPortTables.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_port_of_another_key_is_taken() -> None:
    table = PortTable(PORTS, LIMITS, {})
    port = table.allocate(Owner("k1", 0), 0, "a", 0.0, 0.0)
    assert not isinstance(port, Refusal)
    assert table.allocate(Owner("k2", 0), port, "a", 0.0, 0.0) is Refusal.PORT_TAKEN


def test_a_port_that_nobody_used_for_long_is_given_to_another_node() -> None:
    limits = RelayLimits(keep_ports=30, new_ports_per_address=1e6)
    table = PortTable(range(20000, 20001), limits, {})
    assert table.allocate(Owner("k1", 0), 0, "a", 0.0, 0.0) == 20000
    table.released(20000, 0.0)
    other = Owner("k2", 0)
    assert table.allocate(other, 0, "a", 0.0, 29 * DAY) is Refusal.PORTS_FULL
    assert table.allocate(other, 0, "a", 0.0, 30 * DAY) == 20000
    assert table.port_of(Owner("k1", 0)) is None


def test_a_connected_node_keeps_its_port_for_ever() -> None:
    table = PortTable(range(20000, 20001), RelayLimits(), {})
    table.allocate(Owner("k1", 0), 0, "a", 0.0, 0.0)
    assert table.allocate(Owner("k2", 0), 0, "a", 0.0, 1000 * DAY) is Refusal.PORTS_FULL


def test_new_ports_of_one_address_are_limited_and_kept_ones_are_not() -> None:
    limits = RelayLimits(new_ports_per_address=2)
    table = PortTable(range(20000, 20100), limits, {})
    answers = [table.allocate(Owner(f"k{n}", 0), 0, "192.0.2.1", 0.0, 0.0) for n in range(3)]
    assert answers[2] is Refusal.RATE
    assert table.allocate(Owner("k0", 0), 0, "192.0.2.1", 0.0, 0.0) == answers[0]
    assert not isinstance(table.allocate(Owner("x", 0), 0, "192.0.2.2", 0.0, 0.0), Refusal)


def test_most_owners_get_the_same_port_again_without_the_file() -> None:
    first, second = (PortTable(range(20000, 30000), RelayLimits(), {}) for _ in range(2))
    for number in range(50):
        owner = Owner(f"key {number}", 0)
        first.allocate(owner, 0, str(number), 0.0, 0.0)
        second.allocate(owner, 0, str(number), 0.0, 0.0)
        assert first.port_of(owner) == second.port_of(owner)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_an_invalid_file_is_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(PortFileError):
        load(data)


HOSTS = [f"192.0.2.{number}" for number in range(6)]


class Moments(RuleBasedStateMachine):
    """Datagrams from clients at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = Clients(LIMITS)
        self.now = 0.0
        self.heard: dict[str, float] = {}

    @rule(host=st.sampled_from(HOSTS))
    def datagram(self, host: str) -> None:
        is_confirmed = host in self.confirmed()
        if self.clients.heard((host, 1), self.now) is not None:
            self.heard[host] = self.now
        else:
            assert len(self.confirmed()) == LIMITS.clients_per_port
            assert not is_confirmed

    @rule(host=st.sampled_from(HOSTS))
    def answer(self, host: str) -> None:
        self.clients.permitted((host, 1), self.now)

    def confirmed(self) -> set[str]:
        return {str(address[0]) for address in self.clients._confirmed}

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.clients.expire(self.now)

    @invariant()
    def only_those_who_sent_lately_are_sent_to(self) -> None:
        assert len(self.clients) <= LIMITS.clients_per_port
        for host in HOSTS:
            known = self.clients._confirmed.get((host, 1)) or self.clients._new.get((host, 1))
            if known is not None:
                assert known.heard == self.heard[host]


TestMoments = Moments.TestCase
TestMoments.settings = settings(max_examples=60, deadline=None)


def test_a_permission_lasts_as_long_as_the_address_sends() -> None:
    clients = Clients(LIMITS)
    address = ("192.0.2.1", 1)
    assert clients.permitted(address, 0.0) is None
    clients.heard(address, 0.0)
    assert clients.permitted(address, 59.9) is not None
    assert clients.permitted(address, 60.0) is None
    clients.heard(address, 60.0)
    assert clients.permitted(address, 119.0) is not None


def test_a_flood_of_forged_addresses_does_not_take_the_place_of_clients() -> None:
    clients = Clients(LIMITS)
    friend = ("192.0.2.1", 1)
    clients.heard(friend, 0.0)
    clients.permitted(friend, 0.0)
    clients.heard(friend, 0.1)
    for number in range(1000):
        clients.heard(("203.0.113.1", number), 0.2)
    assert clients.permitted(friend, 0.3) is not None
    newcomer = ("192.0.2.2", 1)
    assert clients.heard(newcomer, 0.3) is not None
    assert len(clients) == LIMITS.clients_per_port


@given(st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 5000)), max_size=60))
def test_a_bucket_gives_no_more_than_its_rate_and_burst(asked: list[tuple[float, int]]) -> None:
    bucket, now, taken = ByteBucket(10_000), 0.0, 0
    largest = 0
    for pause, size in asked:
        now += pause
        if bucket.has(size, now):
            bucket.take(size)
            taken += size
            largest = max(largest, size)
    assert taken <= 10_000 * (now + 0.25) + largest + 1


def test_a_bucket_that_is_full_gives_a_batch_of_any_size() -> None:
    bucket = ByteBucket(4000)
    assert bucket.has(60_000, 0.0)
    bucket.take(60_000)
    assert not bucket.has(1, 10.0)
    assert bucket.has(1, 20.0)


def test_each_rate_limits_and_what_is_refused_is_not_counted() -> None:
    limits = RelayLimits(
        bytes_per_second=4000, bytes_per_second_per_key=2000, bytes_per_second_per_client=1000
    )
    rates = Rates(limits)
    one, other = rates.of_key("k1"), rates.of_key("k2")
    clients = [ByteBucket(1000) for _ in range(6)]
    assert one.take(clients[0], 250, 0.0)
    assert not one.take(clients[0], 250, 0.0), "the client"
    assert one.take(clients[1], 250, 0.0)
    assert not one.take(clients[2], 250, 0.0), "the key"
    assert other.take(clients[2], 250, 0.0)
    assert other.take(clients[3], 250, 0.0)
    third = rates.of_key("k3")
    assert not third.take(clients[4], 250, 0.0), "all together"
    assert third.take(clients[4], 250, 0.25)


def test_ports_of_one_key_share_its_rate() -> None:
    rates = Rates(RelayLimits())
    first = rates.of_key("k")
    assert rates.of_key("k") is first
    assert rates.of_key("other") is not first
