"""The routes by which a gateway finds nodes."""

from __future__ import annotations

import pytest

from quicdist.cluster.names import Address
from quicdist.errors import NodeNameError
from quicdist.gateway.routes import Routes, Way, target_of
from quicdist.protocol.packet import FramePacket, HandshakePacket

AT_SEVEN = Address("10.0.0.7", 5555)
AT_EIGHT = Address("10.0.0.8", 5555)


def test_a_name_with_a_port_says_where_it_is() -> None:
    assert Routes({}).ways("5555@10.0.0.7") == [Way(AT_SEVEN, "5555@10.0.0.7", asks=False)]


def test_a_route_comes_before_what_the_name_says() -> None:
    routes = Routes({"5555@10.0.0.7": ("10.0.0.8", 5555), "app@b": ("10.0.0.8", 5555)})
    assert routes.ways("5555@10.0.0.7") == [Way(AT_EIGHT, "5555@10.0.0.7", asks=False)]
    assert routes.ways("app@b") == [Way(AT_EIGHT, "app@b", asks=False)]


@pytest.mark.parametrize("name", ["app@b", "app", "@b", "app@"])
def test_without_any_way_the_name_is_an_error(name: str) -> None:
    routes = Routes({})
    routes.learn("5555@10.0.0.7", ("10.0.0.7", 5555))
    with pytest.raises(NodeNameError):
        routes.ways(name)


def test_other_nodes_of_a_host_are_behind_the_gateways_of_its_connected_nodes() -> None:
    routes = Routes({})
    routes.learn("5555@10.0.0.7", ("10.0.0.7", 40000))
    routes.learn("6666@10.0.0.7", ("10.0.0.7", 40001))
    routes.learn("5555@10.0.0.8", ("10.0.0.8", 5555))
    assert routes.ways("tool-1@10.0.0.7") == [
        Way(Address("10.0.0.7", 6666), "6666@10.0.0.7", asks=True),
        Way(AT_SEVEN, "5555@10.0.0.7", asks=True),
    ]


def test_a_node_whose_name_says_no_port_is_where_it_was_met() -> None:
    routes = Routes({})
    routes.learn("app@b", ("10.0.0.8", 5555))
    assert routes.ways("app@b") == [Way(AT_EIGHT, "app@b", asks=True)]
    assert routes.ways("tool@b") == [Way(AT_EIGHT, "app@b", asks=True)]


def test_a_route_for_all_nodes_of_a_host() -> None:
    routes = Routes({"*@b": ("10.0.0.8", 5555)})
    assert routes.ways("app@b") == [Way(AT_EIGHT, "app@b", asks=True)]
    with pytest.raises(NodeNameError):
        routes.ways("app@bb")


def test_the_port_that_all_gateways_have_is_the_last_way() -> None:
    routes = Routes({}, default_port=5555)
    assert routes.ways("app@b") == [Way(Address("b", 5555), "app@b", asks=True)]
    routes.learn("app@b", ("10.0.0.8", 5555))
    assert [way.address for way in routes.ways("app@b")] == [AT_EIGHT, Address("b", 5555)]


def test_few_gateways_of_a_host_are_asked_and_few_peers_remembered() -> None:
    routes = Routes({})
    for number in range(1, 3000):
        routes.learn(f"{number}@b", ("10.0.0.8", number))
    assert len(routes.ways("app@b")) == 8
    assert routes.ways("app@b")[0].address == Address("b", 2999)
    routes.learn("1@c", ("10.0.0.9", 1))
    for number in range(1, 1025):
        routes.learn(f"{number}@b", ("10.0.0.8", number))
    with pytest.raises(NodeNameError):
        routes.ways("app@c")


def test_the_first_message_may_say_which_node_is_wanted() -> None:
    assert target_of(HandshakePacket(b"tapp@b")) == "app@b"
    assert target_of(HandshakePacket("tøre@b".encode())) == "øre@b"
    assert target_of(HandshakePacket(b"Nname")) is None
    assert target_of(FramePacket(b"tapp@b")) is None


@pytest.mark.parametrize("message", [b"t", b"tapp", b"t@b", b"t\xff@b", b"tapp@b@c"])
def test_a_target_that_is_no_node_is_an_error(message: bytes) -> None:
    with pytest.raises(NodeNameError):
        target_of(HandshakePacket(message))
