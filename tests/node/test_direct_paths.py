"""Nodes at a relay whose connections become direct, on loopback. tests/nat has real NATs."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from quicdist import Atom, Node, NodeDown, Quic, Tcp
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.relay.punching import LENGTH, PUNCH_KIND
from quicdist.errors import NodeError
from tests.support.relayed import HOST, relay, via
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path / "state"))


def path(node: Node, peer: Node) -> str:
    return node.peer(peer.name).path


async def until_direct(one: Node, other: Node) -> None:
    await until(lambda: path(one, other) == path(other, one) == "direct")


@pytest.mark.io
async def test_a_connection_moves_from_the_relay_to_a_direct_path(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c") as home,
        Node(f"0@{HOST}", cookie="c") as outside,
    ):
        assert await outside.ping(home.name)
        await until_direct(home, outside)
        before = home.relay
        async with home.mailbox("box") as box:
            await outside.send(("box", home.name), b"x" * 3_000_000)
            assert await box.receive() == b"x" * 3_000_000
        after = home.relay
        assert before is not None
        assert after is not None
        # Datagrams of before the change may arrive late.
        assert after.relayed_in - before.relayed_in < 10 < after.direct_in - before.direct_in
        assert outside.peer(home.name).traffic.migrations == 0


@pytest.mark.io
async def test_two_nodes_that_dial_each_other_at_once_at_the_relay(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c") as one,
        Node(via=via(at), cookie="c") as other,
    ):
        assert all(await asyncio.gather(one.ping(other.name), other.ping(one.name)))
        await until_direct(one, other)
        assert await one.ping(other.name)
        assert await other.ping(one.name)


@pytest.mark.io
async def test_the_direct_path_lives_without_the_relay(tmp_path: Path) -> None:
    async with relay(tmp_path) as at:
        home = Node(via=via(at), cookie="c")
        outside = Node(f"0@{HOST}", cookie="c")
        await home.start()
        await outside.start()
        assert await outside.ping(home.name)
        await until_direct(home, outside)
    try:
        assert await outside.ping(home.name)
        assert await home.ping(outside.name)
    finally:
        await outside.stop()
        await home.stop()


@pytest.mark.io
@pytest.mark.parametrize("hides", ["home", "outside"])
async def test_relay_only(tmp_path: Path, hides: str) -> None:
    modes = {"home": "auto", "outside": "auto", hides: "relay-only"}
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c", path=modes["home"]) as home,
        Node(f"0@{HOST}", cookie="c", path=modes["outside"]) as outside,
    ):
        assert await outside.ping(home.name)
        for _ in range(5):
            assert await outside.ping(home.name)
        assert path(home, outside) == path(outside, home) == "relayed"
        assert home.relay is not None
        assert home.relay.direct_in == 0


@pytest.mark.io
async def test_a_connection_without_a_relay_has_a_plain_path() -> None:
    async with Node(f"0@{HOST}", cookie="c") as one, Node(f"0@{HOST}", cookie="c") as other:
        assert await one.ping(other.name)
        assert path(one, other) == path(other, one) == "plain"


@pytest.mark.io
async def test_forged_pings_are_ignored_and_counted(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c") as home,
        Node(f"0@{HOST}", cookie="c") as outside,
    ):
        assert await outside.ping(home.name)
        await until_direct(home, outside)
        assert home.relay is not None
        assert home.relay.observed is not None
        # A ping that overtakes the answer to an offer is of a session that is not known yet.
        before = home.stats().refused.get("ping", 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(3):
                stranger.sendto(bytes([PUNCH_KIND]) + bytes(LENGTH - 1), home.relay.observed)
            await until(lambda: home.stats().refused.get("ping") == before + 3)
        assert path(home, outside) == "direct"


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(NodeError, match=r"invalid path 'short': expected one of auto, direct-only"):
        Node(f"0@{HOST}", cookie="c", path="short")
    with pytest.raises(NodeError, match=r"path= excludes carriers="):
        Node(f"0@{HOST}", cookie="c", path="auto", carriers=[Quic(), Tcp()])


@pytest.mark.io
async def test_a_malformed_offer_costs_only_its_connection(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c") as home,
        Node(f"0@{HOST}", cookie="c") as hostile,
        Node(f"0@{HOST}", cookie="c") as other,
    ):
        assert await hostile.ping(home.name)
        assert await other.ping(home.name)
        with home.events() as events:
            peer = hostile._running.connections.up[Atom(home.name)]
            connection = peer.connection
            assert isinstance(connection, QuicConnection)
            connection.send_offer(b"\xff" * 30)
            async for event in events:
                assert isinstance(event, NodeDown)
                assert event.node == hostile.name
                assert "offer of version 255" in event.reason
                break
        assert home.nodes() == [other.name]


@pytest.mark.io
async def test_a_dialer_with_another_address_becomes_direct_again(tmp_path: Path) -> None:
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c") as home,
        Node(f"0@{HOST}", cookie="c") as outside,
    ):
        assert await outside.ping(home.name)
        await until_direct(home, outside)
        peer = outside._running.connections.up[Atom(home.name)]
        connection = peer.connection
        assert isinstance(connection, QuicConnection)
        endpoint = connection._host
        assert isinstance(endpoint, Endpoint)
        before = endpoint.local_address
        endpoint.rebind(port=0)
        assert endpoint.local_address != before
        assert await home.ping(outside.name)
        assert await outside.ping(home.name)
        await until_direct(home, outside)
        assert outside._running.connections.up[Atom(home.name)] is peer
        assert home.peer(outside.name).traffic.migrations == 0
