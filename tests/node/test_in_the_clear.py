"""A name is bound to the key and the carrier with which it was trusted.

A peer over plain TCP cannot use it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quicdist import (
    EpmdUse,
    Identity,
    NoConnection,
    Node,
    NodeError,
    NodeLimits,
    Quic,
    StartError,
    Table,
    Tcp,
    Tls,
    Trust,
)
from quicdist.carriers import epmd, tcp
from quicdist.carriers.base import CloseReason
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.handshake_messages import Name
from quicdist.protocol.packet import Packet
from tests.node.conftest import COOKIE
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io

PATIENT = NodeLimits(connect_timeout=20.0)


@pytest.fixture(autouse=True)
def own_epmd_port(monkeypatch: pytest.MonkeyPatch) -> int:
    port = free_port()
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    return port


class Claimant:
    """Dials over plain TCP with a given name and the right cookie."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def packets_received(self, packets: list[Packet]) -> int:
        for packet in packets:
            self.answers.put_nowait(bytes(packet.data))
        return 0

    def writable_again(self) -> None: ...

    def connection_lost(self, reason: CloseReason) -> None:
        self.answers.put_nowait(b"")

    async def claim(self, port: int, name: str) -> bytes:
        """Returns the answer to that name."""
        connection = await tcp.dial("127.0.0.1", port, timeout=PATIENCE)
        connection.handler = self  # type: ignore[assignment]
        connection.send_handshake(hs.build_name(Name(int(DEFAULT_FLAGS), 77, name)))
        try:
            return await asyncio.wait_for(self.answers.get(), PATIENCE)
        finally:
            connection.close("done")


def listening(trust: Trust, port: int) -> Node:
    """Returns a node that is reached over TCP and dials over QUIC."""
    return Node(
        "one@127.0.0.1",
        cookie=COOKIE,
        trust=trust,
        identity=Identity.ephemeral(["127.0.0.1"]),
        carriers=[Quic(), Tcp(port, epmd=EpmdUse.NONE)],
        limits=PATIENT,
    )


def quic_peer(tmp_path: Path) -> Node:
    return Node(
        f"{free_port()}@127.0.0.1",
        cookie=COOKIE,
        identity=Identity.ephemeral(["127.0.0.1"]),
        trust=Trust.first_use(tmp_path / "theirs", uncertified=["*"]),
    )


async def test_a_name_whose_key_is_known_is_not_taken_in_the_clear(tmp_path: Path) -> None:
    port = free_port()
    trust = Trust.first_use(tmp_path / "known")
    async with listening(trust, port) as one, quic_peer(tmp_path) as peer:
        await one.connect(peer.name)
        assert await Claimant().claim(port, peer.name) == b"snot_allowed"
        assert one.peer(peer.name).carrier == "quicdist"
        # The same holds after a disconnect and after a restart.
    async with listening(trust, port):
        assert await Claimant().claim(port, peer.name) == b"snot_allowed"
        assert await Claimant().claim(port, "nobody@127.0.0.1") == b"sok"


async def test_a_live_connection_in_tls_is_not_replaced_in_the_clear(tmp_path: Path) -> None:
    """The rule also holds without a file of known keys."""
    port = free_port()
    async with listening(Trust.nothing(), port) as one, quic_peer(tmp_path) as peer:
        await one.connect(peer.name)
        assert await Claimant().claim(port, peer.name) == b"snot_allowed"
        assert one.peer(peer.name).carrier == "quicdist"


async def test_who_is_listed_as_uncertified_may_come_in_the_clear(tmp_path: Path) -> None:
    port = free_port()
    trust = Trust.first_use(tmp_path / "known", uncertified=["*@127.0.0.1"])
    async with listening(trust, port) as one:
        async with quic_peer(tmp_path) as peer:
            await one.connect(peer.name)
        assert await Claimant().claim(port, peer.name) == b"sok"


async def test_a_node_whose_key_is_known_is_not_dialed_in_the_clear(tmp_path: Path) -> None:
    """Any process that answers as EPMD can give the address of the node."""
    known = tmp_path / "known"
    async with (
        quic_peer(tmp_path) as peer,
        listening(Trust.first_use(known), free_port()) as one,
    ):
        await one.connect(peer.name)
    liar = free_port()
    async with (
        Node("liar@127.0.0.1", cookie=COOKIE, carriers=[Tcp(liar, epmd=EpmdUse.NONE)]),
        Node(
            "0@127.0.0.1",
            cookie=COOKIE,
            trust=Trust.first_use(known),
            carriers=[Quic(), Tcp()],
            lookups=[Table({peer.name: f"tcp:127.0.0.1:{liar}"})],
            limits=PATIENT,
        ) as two,
    ):
        with pytest.raises(NoConnection, match="without TLS presents none") as caught:
            await two.connect(peer.name)
        assert caught.value.is_refusal


# -- requirement of TLS ---------------------------------------------------------------------------


def test_plain_tcp_is_no_carrier_of_who_requires_tls(tmp_path: Path) -> None:
    trust = Trust.first_use(tmp_path / "known").requiring(tls=True)
    with pytest.raises(NodeError, match="require_tls=True"):
        Node("one@127.0.0.1", cookie=COOKIE, trust=trust, carriers=[Quic(), Tcp()])


async def test_who_requires_tls_dials_nobody_in_the_clear(tmp_path: Path) -> None:
    port = free_port()
    trust = Trust.first_use(tmp_path / "known").requiring(tls=True)
    async with (
        Node("plain@127.0.0.1", cookie=COOKIE, carriers=[Tcp(port, epmd=EpmdUse.NONE)]),
        Node(
            "0@127.0.0.1",
            cookie=COOKIE,
            trust=trust,
            lookups=[Table({"plain@127.0.0.1": f"tcp:127.0.0.1:{port}"})],
            limits=NodeLimits(connect_timeout=1.0),
        ) as one,
    ):
        with pytest.raises(NoConnection):
            await one.connect("plain@127.0.0.1")


async def test_who_requires_tls_embeds_no_epmd(tmp_path: Path, own_epmd_port: int) -> None:
    trust = Trust.first_use(tmp_path / "known", uncertified=["*"]).requiring(tls=True)
    with pytest.raises(StartError, match="no EPMD answers"):
        await Node("one@127.0.0.1", cookie=COOKIE, trust=trust, carriers=[Tls()]).start()
    with pytest.raises(ConnectionRefusedError):
        await epmd.names(epmd.EpmdAddress(port=own_epmd_port))
