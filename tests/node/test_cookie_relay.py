"""Relay attack: a dialed node dials a third node and relays the cookie proof of its dialer.

The attacker has no cookie, but a name and a key. It terminates QUIC on both sides and makes the
victim that dialed it answer the challenge of the target node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from quicdist import NoConnection, Node, Quic, Trust
from quicdist.carriers.base import CloseReason, Connection, ConnectionHandler
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.trust import Credentials
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.dialects.macula_dist import MaculaDistDialect
from quicdist.protocol.flags import Flag
from quicdist.protocol.packet import Packet
from tests.node.conftest import COOKIE
from tests.node.test_trust import free_name, node, someone
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

STOCK = MaculaDistDialect.traits.alpn
BIT = Flag.CHANNEL_BINDING.value


class Side:
    """One end of the attacker, with a queue of packets."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lost = asyncio.Event()
        self._packets: asyncio.Queue[bytes] = asyncio.Queue()
        connection.handler = self

    async def next(self) -> bytes:
        return await asyncio.wait_for(self._packets.get(), PATIENCE)

    def packets_received(self, packets: Sequence[Packet]) -> int:
        for packet in packets:
            self._packets.put_nowait(bytes(packet.data))
        return 0

    def writable_again(self) -> None: ...

    def connection_lost(self, reason: CloseReason) -> None:
        self.lost.set()
        self._packets.put_nowait(b"")


class Attacker:
    """Relays between victim and target; with `strips`, removes the flag for channel binding."""

    def __init__(self, target: str, *, strips: bool) -> None:
        self.target = target
        self.strips = strips
        self.name = ""
        self.identity = someone()
        self.is_in = False
        self.done = asyncio.Event()
        self._endpoint: Endpoint
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[str]:
        settings = QuicSettings(Credentials(self.identity, Trust.nothing()))
        self._endpoint = await Endpoint.open("127.0.0.1", 0, settings=settings, accept=self._accept)
        self.name = f"{self._endpoint.local_address[1]}@127.0.0.1"
        try:
            yield self.name
        finally:
            for task in self._tasks:
                task.cancel()
            await self._endpoint.close()

    def _accept(self, connection: Connection) -> ConnectionHandler:
        victim = Side(connection)
        self._tasks.append(asyncio.create_task(self._relay(victim)))
        return victim

    async def _relay(self, victim: Side) -> None:
        try:
            await self._attack(victim)
        finally:
            self.done.set()

    async def _attack(self, victim: Side) -> None:
        asked = hs.parse_name(await victim.next())
        assert isinstance(asked, hs.Name)
        port, _, host = self.target.partition("@")
        target = Side(await self._endpoint.dial(host, int(port), timeout=PATIENCE))
        ours = replace(asked, name=self.name, flags=self._passed(asked.flags))
        target.connection.send_handshake(hs.build_name(ours))
        status = await target.next()
        if status != b"sok":
            return
        challenge = hs.parse_challenge(await target.next())
        relayed = replace(challenge, name=self.name, flags=self._passed(challenge.flags))
        victim.connection.send_handshake(b"sok")
        victim.connection.send_handshake(hs.build_challenge(relayed))
        target.connection.send_handshake(await victim.next())
        self.is_in = (await target.next())[:1] == b"a"

    def _passed(self, flags: int) -> int:
        return flags & ~BIT if self.strips else flags


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / "known_nodes"


async def attacked(victim: Node, attacker: Attacker) -> bool:
    """Whether the attacker is connected to the target after the victim has dialed it."""
    async with victim:
        with pytest.raises(NoConnection):
            await victim.connect(attacker.name)
    await asyncio.wait_for(attacker.done.wait(), PATIENCE)
    return attacker.is_in


async def test_who_relays_a_challenge_does_not_get_in(known: Path, tmp_path: Path) -> None:
    async with node(free_name(), someone(), Trust.first_use(known)) as target:
        attacker = Attacker(target.name, strips=False)
        async with attacker.standing():
            victim = node(free_name(), someone(), Trust.first_use(tmp_path / "victim"))
            assert not await attacked(victim, attacker)
        assert not target.nodes()


async def test_who_relays_as_a_stock_node_gets_in_where_binding_is_not_required(
    known: Path, tmp_path: Path
) -> None:
    """The attack works against peers without binding, so these tests are effective."""
    async with node(free_name(), someone(), Trust.first_use(known)) as target:
        attacker = Attacker(target.name, strips=True)
        async with attacker.standing():
            victim = node(free_name(), someone(), Trust.first_use(tmp_path / "victim"))
            assert await attacked(victim, attacker)


@pytest.mark.parametrize("who", ["target", "victim"])
async def test_where_binding_is_required_no_relay_gets_in(
    known: Path, tmp_path: Path, who: str
) -> None:
    """Either end stops it: the victim gives no proof, or the target accepts none."""
    trusts = {"target": Trust.first_use(known), "victim": Trust.first_use(tmp_path / "victim")}
    trusts[who] = trusts[who].requiring(binding=True)
    async with node(free_name(), someone(), trusts["target"]) as target:
        attacker = Attacker(target.name, strips=True)
        async with attacker.standing():
            victim = node(free_name(), someone(), trusts["victim"])
            async with victim:
                with pytest.raises(NoConnection):
                    await victim.connect(attacker.name)
                assert not attacker.is_in


async def test_a_node_that_has_bound_its_proof_always_must(known: Path, tmp_path: Path) -> None:
    name, key = free_name(), someone()
    async with (
        node("0@127.0.0.1", someone(), Trust.first_use(known)) as one,
        node(name, key, Trust.first_use(tmp_path / "theirs")),
    ):
        assert await one.ping(name)
    assert f"{name} {key.fingerprint} bound seen=" in known.read_text()
    async with node("0@127.0.0.1", someone(), Trust.first_use(known)) as one:
        # With the same name and key, and a dialect whose peers are stock nodes.
        stock = Node(
            name,
            cookie=COOKIE,
            identity=key,
            trust=Trust.first_use(tmp_path / "theirs"),
            carriers=[Quic(dial_alpns=[STOCK], listen_alpns=[STOCK])],
        )
        async with stock:
            with pytest.raises(NoConnection, match="does not bind its cookie digest") as caught:
                await one.connect(name)
            assert caught.value.is_refusal
            with pytest.raises(NoConnection, match="does not allow this"):
                await stock.connect(one.name)


async def test_two_nodes_that_require_binding_connect(tmp_path: Path) -> None:
    def strict(name: str) -> Trust:
        return Trust.first_use(tmp_path / name).requiring(binding=True)

    async with (
        node(free_name(), someone(), strict("1")) as one,
        node(free_name(), someone(), strict("2")) as two,
    ):
        assert await one.ping(two.name)
        one.disconnect(two.name)
        await until(lambda: not two.nodes())
        assert await two.ping(one.name)
