"""Two nodes behind simulated NATs: when they find a direct path, and what faults do to it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quicdist.carriers.relay.candidates import MAX_CANDIDATES, Address
from quicdist.carriers.relay.paths import PathMode, Switched, Unreachable
from quicdist.carriers.relay.punching import Refusal
from quicdist.protocol.role import Role
from tests.carriers.relay.simulated import (
    ADDRESS,
    BLOCKED,
    FULL,
    KINDS,
    MASQ,
    NOFW,
    OPEN,
    SHIFT,
    SYMMETRIC,
    NatKind,
    Network,
    SimulatedNode,
    connect,
)

_RESTRICTED = (MASQ, SHIFT, NOFW)


def can_punch(a: NatKind | None, b: NatKind | None) -> bool:
    """The matrix of docs/nat.md, where both nodes start at the same time."""
    if BLOCKED in (a, b):
        return False
    if SYMMETRIC in (a, b):
        return not {a, b} & set(_RESTRICTED) and (a, b) != (SYMMETRIC, SYMMETRIC)
    return True


def name(kind: NatKind | None) -> str:
    return kind.name if kind else "open"


def are_direct(*nodes: SimulatedNode) -> bool:
    return all(node.paths.address is not None for node in nodes)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(KINDS, KINDS)), ids=name)
def test_the_punch_matrix(a: NatKind | None, b: NatKind | None) -> None:
    network = Network()
    dialer, listener = connect(network, network.host("a", a), network.host("b", b))
    network.run(6)
    assert are_direct(dialer) is are_direct(listener) is can_punch(a, b)


def test_a_double_nat_is_punched_like_a_single_one() -> None:
    network = Network()
    nodes = connect(network, network.host("a", MASQ, MASQ), network.host("b", MASQ, MASQ))
    network.run(1)
    assert are_direct(*nodes)


def test_equal_private_addresses_cause_no_ping_to_oneself() -> None:
    network = Network()
    nodes = connect(network, network.host("a", SYMMETRIC), network.host("b", SYMMETRIC))
    network.run(10)
    for node in nodes:
        assert node.host.inside not in node.pinged
        assert not node.paths.rejected[Refusal.OWN]


def test_two_nodes_of_one_network_use_their_private_addresses() -> None:
    network = Network()
    one, other = network.host("a", SYMMETRIC, lan="home"), network.host("b", SYMMETRIC, lan="home")
    other.inside = ("192.168.1.6", 4433)
    nodes = connect(network, one, other)
    network.run(1)
    assert [node.paths.address for node in nodes] == [other.inside, one.inside]


def test_both_directions_take_the_path_of_the_listener() -> None:
    network = Network()
    one, other = network.host("a", lan="home"), network.host("b", lan="home")
    dialer, listener = connect(network, one, other)
    network.run(1)
    assert listener.paths.address == one.inside
    # The dialer has found another address of the listener first.
    elsewhere = ("203.0.113.99", 4433)
    dialer.paths.address = elsewhere
    for _ in range(20):
        listener.send()
        network.run(0.1)
    assert dialer.paths.address == other.inside


def test_a_direct_path_that_dies_is_replaced_by_the_relay() -> None:
    network = Network()
    nodes = connect(network, network.host("a", MASQ), network.host("b", MASQ))
    network.run(1)
    assert are_direct(*nodes)
    network.is_cut = True
    for _ in range(30):
        network.run(0.1)
        for node in nodes:
            node.send()
    assert not any(node.paths.address for node in nodes)
    assert all(node.received[-1] > network.now - 0.5 for node in nodes)
    network.is_cut = False
    network.run(10)
    assert are_direct(*nodes)


def test_the_direct_path_lives_without_the_relay() -> None:
    network = Network()
    nodes = connect(network, network.host("a", MASQ), network.host("b", MASQ))
    network.run(1)
    nodes[0].relay.is_up = False
    for _ in range(100):
        network.run(1)
        for node in nodes:
            node.send()
    assert are_direct(*nodes)
    assert all(len(node.received) >= 99 for node in nodes)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", [MASQ, ADDRESS, SHIFT, SYMMETRIC], ids=name)
def test_a_nat_that_forgets_interrupts_the_path_for_less_than_three_seconds(
    side: int, kind: NatKind
) -> None:
    network = Network()
    nodes = connect(network, network.host("a", kind), network.host("b", OPEN))[:: 1 - 2 * side]
    network.run(5)
    assert are_direct(*nodes)
    for node in nodes:
        for nat in node.host.nats:
            nat.flush()
    flushed = network.now
    for _ in range(40):
        network.run(0.1)
        for node in nodes:
            node.send()
    for node in nodes:
        later = [at for at in node.received if at > flushed]
        assert later
        assert later[0] < flushed + 3
        assert later[-1] > network.now - 0.5


def test_an_idle_path_keeps_the_mappings_of_the_nats() -> None:
    network = Network()
    nodes = connect(network, network.host("a", MASQ), network.host("b", MASQ))
    network.run(1)
    network.run(600)
    assert are_direct(*nodes)
    assert [event for node in nodes for event in node.events] == [
        Switched(node.paths.address) for node in nodes
    ]


@pytest.mark.parametrize("role", Role)
def test_relay_only_discloses_no_address(role: Role) -> None:
    network = Network()
    modes = {
        Role.DIALER: (PathMode.RELAY_ONLY, PathMode.AUTO),
        Role.LISTENER: (PathMode.AUTO, PathMode.RELAY_ONLY),
    }[role]
    a, b = connect(network, network.host("a"), network.host("b"), modes=modes)
    network.run(60)
    assert not are_direct(a)
    assert not are_direct(b)
    hidden, other = (a, b) if role is Role.DIALER else (b, a)
    assert not other.offered
    assert not other.pinged | hidden.pinged


def test_direct_only_fails_where_no_direct_path_is_possible() -> None:
    network = Network()
    modes = (PathMode.AUTO, PathMode.DIRECT_ONLY)
    a, b = connect(network, network.host("a", SYMMETRIC), network.host("b", MASQ), modes=modes)
    network.run(60)
    assert b.events == [Unreachable()]
    assert a.events == []


def test_direct_only_succeeds_where_a_direct_path_exists() -> None:
    network = Network()
    modes = (PathMode.DIRECT_ONLY, PathMode.DIRECT_ONLY)
    a, b = connect(network, network.host("a", MASQ), network.host("b", MASQ), modes=modes)
    network.run(60)
    assert a.events == [Switched(a.paths.address)]
    assert b.events == [Switched(b.paths.address)]


# -- any order of faults -----------------------------------------------------------------------

_ACTIONS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.01, 40)),
    st.tuples(st.just("loss"), st.floats(0, 0.6)),
    st.tuples(st.just("delay"), st.floats(0, 0.5)),
    st.tuples(st.just("cut"), st.booleans()),
    st.tuples(st.just("relay"), st.booleans()),
    st.tuples(st.just("flush"), st.integers(0, 1)),
    st.tuples(st.just("renew"), st.integers(0, 1)),
    st.tuples(st.just("forge"), st.binary(max_size=40)),
    st.tuples(st.just("replay"), st.integers(0, 1)),
    st.tuples(st.just("send"), st.integers(0, 1)),
)

_STRANGER: Address = ("198.51.100.7", 666)


def act(
    network: Network, nodes: tuple[SimulatedNode, SimulatedNode], what: str, value: float | bytes
) -> None:
    """Performs one action of a scenario."""
    match what, value:
        case "pass", float():
            network.run(value)
        case "loss", float():
            network.loss = value
        case "delay", float():
            network.delay = value
        case "cut", bool():
            network.is_cut = value
        case "relay", bool():
            nodes[0].relay.is_up = value
        case "forge", bytes():
            for node in nodes:
                node.perform(node.paths.receive(value, _STRANGER, network.now))
        case _, int():
            _act_on(network, nodes[value], what)


def _act_on(network: Network, node: SimulatedNode, what: str) -> None:
    if what == "flush":
        for nat in node.host.nats:
            nat.flush()
    elif what == "renew":
        node.paths.renew(network.now)
        node.perform(())
    elif what == "send":
        node.send()
    elif node.paths._pinger is not None:
        # A datagram of the node itself, and one with a bit changed, from an address of nobody.
        ping = node.paths._ping(_STRANGER, network.now).data
        node.perform(node.paths.receive(ping, _STRANGER, network.now))
        broken = ping[:-1] + bytes([ping[-1] ^ 1])
        node.peer.perform(node.peer.paths.receive(broken, _STRANGER, network.now))


@settings(max_examples=200, deadline=None)
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    actions=st.lists(_ACTIONS, max_size=25),
    seed=st.integers(0, 1000),
)
@example(
    # The answer of a search comes after the listener has begun another one.
    kinds=(OPEN, OPEN),
    actions=[("pass", 1.0), ("cut", True), ("relay", False), ("send", 1), ("pass", 17.0)],
    seed=0,
)
def test_any_order_of_faults(
    kinds: tuple[NatKind | None, NatKind | None],
    actions: list[tuple[str, float | bytes]],
    seed: int,
) -> None:
    """Pings go only to candidates and to addresses that asked; the connection survives."""
    network = Network(seed=seed)
    nodes = connect(network, network.host("a", kinds[0]), network.host("b", kinds[1]))
    for what, value in actions:
        act(network, nodes, what, value)
    for node in nodes:
        assert node.pinged <= node.offered | node.asked, "a datagram to an address that did not ask"
        assert _STRANGER not in node.pinged
        assert node.host.inside not in node.pinged
        assert len(node.offered) <= MAX_CANDIDATES
    # One path is enough: the relay.
    nodes[0].relay.is_up = True
    network.loss = 0
    network.is_cut = True
    _both_hear(network, nodes)
    # Or the direct one, where there was one and the NATs still know it.
    network.is_cut = False
    network.delay = 0.02
    network.run(400)
    if not can_punch(*kinds):
        return
    assert are_direct(*nodes)
    nodes[0].relay.is_up = False
    _both_hear(network, nodes)


def _both_hear(network: Network, nodes: tuple[SimulatedNode, SimulatedNode]) -> None:
    for _ in range(40):
        for node in nodes:
            node.send()
        network.run(0.25)
    assert all(node.received and node.received[-1] > network.now - 2 for node in nodes)


def test_full_cone_meets_symmetric_by_the_address_of_its_ping() -> None:
    network = Network()
    a, b = connect(network, network.host("a", FULL), network.host("b", SYMMETRIC))
    network.run(1)
    assert a.paths.address is not None
    assert a.paths.address not in a.offered
    assert b.paths.address in b.offered
