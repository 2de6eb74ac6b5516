"""Nodes that a relay gives their address: `Node(via=...)`."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from quicdist import Node, NodeDown, Quic
from quicdist.carriers.relay.client import RelayAddress
from quicdist.carriers.trust import Trust
from quicdist.cluster.via import RelayDomain, parse_via
from quicdist.errors import Cause, NodeError, NodeNameError, StartError
from quicdist.gateway import Gateway, GatewaySettings
from quicdist.protocol.dialects import ALL_ALPNS
from tests.support.ports import free_port, free_ports
from tests.support.relayed import HOST, relay, via
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path / "state"))


@pytest.mark.io
async def test_any_node_dials_the_name_at_the_relay(tmp_path: Path) -> None:
    ports = free_ports(20)
    async with relay(tmp_path, ports=ports) as one:
        home = Node(via=via(one), cookie="c")
        async with home, Node(f"0@{HOST}", cookie="c") as outside:
            assert home.name.endswith(f"@{HOST}")
            assert int(home.name.partition("@")[0]) in ports
            assert await outside.ping(home.name)
            async with home.mailbox("box") as box:
                await outside.send(("box", home.name), b"x" * 300_000)
                assert await box.receive() == b"x" * 300_000
            status = home.relay
            assert status is not None
            assert (status.way, status.forged) == ("udp", 0)
            assert status.observed is not None
            assert status.relayed_in > 0
            assert outside.relay is None


@pytest.mark.io
@pytest.mark.parametrize("alpn", ALL_ALPNS)
async def test_every_carrier_dials_the_name_at_the_relay(tmp_path: Path, alpn: str) -> None:
    dialer = Quic(dial_alpns=(alpn,))
    async with (
        relay(tmp_path) as one,
        Node(via=via(one), cookie="c") as home,
        Node(f"0@{HOST}", carriers=[dialer], cookie="c") as outside,
    ):
        assert await outside.ping(home.name)
        assert outside.peer(home.name).alpn == alpn
        async with home.mailbox("box") as box:
            await outside.send(("box", home.name), b"x" * 300_000)
            assert await box.receive() == b"x" * 300_000


@pytest.mark.io
async def test_a_gateway_without_a_name_keeps_the_port_of_its_relay(tmp_path: Path) -> None:
    async with relay(tmp_path) as one:
        names = []
        for _ in range(2):
            settings = GatewaySettings(via=parse_via(via(one)), epmd_port=free_port())
            async with Gateway(settings) as gateway:
                names.append(gateway.name)
    assert names[0] == names[1]


@pytest.mark.io
async def test_two_nodes_of_one_relay_call_each_other(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as one,
        Node(via=via(one), cookie="c") as first,
        Node(via=via(one), cookie="c") as second,
    ):
        assert first.name != second.name
        assert await first.ping(second.name)
        assert await second.ping(first.name)


@pytest.mark.io
@pytest.mark.parametrize(("bound", "named"), [("::1", "::1"), ("::", "::1"), ("::", HOST)])
@pytest.mark.parametrize("blocked", [False, True])
async def test_a_relay_on_ipv6(tmp_path: Path, bound: str, named: str, blocked: bool) -> None:
    with socket.socket(socket.AF_INET6) as free, contextlib.ExitStack() as stack:
        try:
            free.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        tcp_port = free_port()
        async with relay(tmp_path, host=bound, tcp_port=tcp_port) as one:
            port = one.address[1]
            if blocked:
                silent = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
                silent.bind(("::", 0))
                port = silent.getsockname()[1]
            relays = f"{port}@{named}/{tcp_port}"
            async with (
                Node(via=relays, cookie="c") as first,
                Node(via=relays, cookie="c") as second,
            ):
                assert first.relay is not None
                assert first.relay.way == ("tcp" if blocked else "udp")
                assert await first.ping(second.name)
                async with second.mailbox("box") as box:
                    await first.send(("box", second.name), b"x" * 300_000)
                    assert await box.receive() == b"x" * 300_000


@pytest.mark.io
async def test_the_peer_of_a_relayed_connection_has_its_true_address(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as one,
        Node(via=via(one), cookie="c") as home,
        Node(f"0@{HOST}", cookie="c") as outside,
    ):
        assert await outside.ping(home.name)
        await until(lambda: home.stats().connections)
        (peer,) = home.stats().connections
        assert f"{peer.peer_address[1]}@{HOST}" == outside.name
        assert f"{peer.local_address[1]}@{peer.local_address[0]}" == home.name


@pytest.mark.io
async def test_the_name_survives_restarts_of_the_node(tmp_path: Path) -> None:
    async with relay(tmp_path) as one:
        node = Node(via=via(one), cookie="c")
        async with node:
            name = node.name
        async with node:
            assert node.name == name
        async with Node(via=via(one), cookie="c") as again:
            assert again.name == name
            async with Node(f"0@{HOST}", cookie="c") as outside:
                assert await outside.ping(name)


@pytest.mark.io
async def test_port_0_is_a_temporary_port_beside_a_node_with_the_same_key(tmp_path: Path) -> None:
    async with relay(tmp_path) as one:
        async with (
            Node(f"0@{HOST}", via=via(one), cookie="c") as first,
            Node(via=via(one), cookie="c") as node,
            Node(f"0@{HOST}", via=via(one), cookie="c") as second,
        ):
            name = node.name
            assert await first.ping(name)
            assert await second.ping(first.name)
            assert len({first.name, second.name, name}) == 3
        async with Node(via=via(one), cookie="c") as again:
            assert again.name == name


@pytest.mark.io
async def test_peers_store_no_key_for_a_temporary_port(tmp_path: Path) -> None:
    known = tmp_path / "known_nodes"
    async with (
        relay(tmp_path / "relay") as one,
        Node(f"0@{HOST}", trust=Trust.first_use(known), cookie="c") as peer,
        Node(f"0@{HOST}", via=via(one), cookie="c") as temporary,
        Node(via=via(one), cookie="c") as kept,
    ):
        assert await temporary.ping(peer.name)
        assert await kept.ping(peer.name)
        assert kept.name in known.read_text()
        assert temporary.name not in known.read_text()


@pytest.mark.io
async def test_a_port_can_be_asked_for(tmp_path: Path) -> None:
    ports = free_ports(20)
    name = f"{ports[7]}@{HOST}"
    async with (
        relay(tmp_path, ports=ports) as one,
        Node(name, via=via(one), cookie="c") as node,
    ):
        assert node.name == name


@pytest.mark.io
async def test_the_first_relay_that_answers_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quicdist.cluster.relays._TIMEOUT", 2.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        away = f"{silent.getsockname()[1]}@{HOST}/0"
        async with relay(tmp_path) as one, Node(via=[away, via(one)], cookie="c") as node:
            assert node.relay is not None
            assert node.relay.relay == f"{one.address[1]}@{HOST}"
        with pytest.raises(StartError) as raised:
            await Node(via=[away], cookie="c").start()
        assert raised.value.cause is Cause.NO_ANSWER
        assert away.partition("/")[0] in str(raised.value)


@pytest.mark.io
async def test_nodes_without_udp_reach_each_other_through_tls(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        tcp_port = free_port()
        blocked = f"{silent.getsockname()[1]}@{HOST}/{tcp_port}"
        async with (
            relay(tmp_path, tcp_port=tcp_port),
            Node(via=blocked, cookie="c") as first,
            Node(via=blocked, cookie="c") as second,
        ):
            assert first.relay is not None
            assert first.relay.way == "tcp"
            assert await first.ping(second.name)
            async with second.mailbox("box") as box:
                await first.send(("box", second.name), b"x" * 3_000_000)
                assert await box.receive() == b"x" * 3_000_000


@pytest.mark.io
async def test_a_stopped_node_takes_leave_of_its_peers(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as one,
        Node(f"0@{HOST}", cookie="c") as outside,
    ):
        home = Node(via=via(one), cookie="c")
        await home.start()
        assert await outside.ping(home.name)
        with outside.events() as events:
            await home.stop()
            down = await anext(aiter(events))
        assert isinstance(down, NodeDown)
        assert "the node has stopped" in down.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4433@203.0.113.10", RelayAddress("203.0.113.10", 4433, 443)),
        ("4433@relay.example.org/8443", RelayAddress("relay.example.org", 4433, 8443)),
        ("4433@2001:db8::1/0", RelayAddress("2001:db8::1", 4433, 0)),
        ("relays.example.org", RelayDomain("relays.example.org")),
    ],
)
def test_a_relay_is_an_address_or_a_domain(text: str, expected: RelayAddress | RelayDomain) -> None:
    assert parse_via(text) == (expected,)


@pytest.mark.parametrize(
    "text",
    ["", "0@203.0.113.10", "203.0.113.10", "4433@", "4433@h/x", "4433@h/70000", "h/443", "a b"],
)
def test_anything_else_is_no_relay(text: str) -> None:
    with pytest.raises(NodeNameError, match=r"invalid (relay|node name)"):
        parse_via(text)


def test_via_excludes_names_without_a_port_and_named_by() -> None:
    with pytest.raises(NodeNameError, match="port@relay"):
        Node("py@host", via="4433@203.0.113.10", cookie="c")
    with pytest.raises(NodeNameError, match="excludes"):
        Node(named_by="4433@203.0.113.10", via="4433@203.0.113.10", cookie="c")
    with pytest.raises(NodeNameError, match="no relay"):
        Node(via=[], cookie="c")


def test_a_name_with_a_port_has_the_host_of_a_relay() -> None:
    relays = ["4433@203.0.113.10", "4433@relay.example.org"]
    Node("20001@relay.example.org", via=relays, cookie="c")
    Node("20001@192.168.1.5", via="relays.example.org", cookie="c")  # not known yet
    with pytest.raises(NodeNameError, match=r"expected none, or port@203\.0\.113\.10"):
        Node("4433@192.168.1.5", via=relays, cookie="c")
    settings = GatewaySettings("4433@192.168.1.5", via=parse_via(relays))
    with pytest.raises(NodeNameError, match="expected none, or port@"):
        assert settings.node


async def test_a_port_is_mapped_only_for_a_node_at_a_relay() -> None:
    node = Node("0@127.0.0.1", carriers=[Quic(map_port=True)], cookie="c")
    with pytest.raises(NodeError, match="requires a relay"):
        await node.start()
