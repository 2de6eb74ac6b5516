"""Each step of the doctor, against a peer that fails in that step."""

from __future__ import annotations

import asyncio
import datetime
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from quicdist import Identity, Node, Table, Tcp, Trust
from quicdist.carriers.base import CloseReason, Connection
from quicdist.carriers.epmd import EpmdServer, NodeTable
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.trust import Credentials
from quicdist.carriers.trust.authority import make_authority
from quicdist.carriers.trust.identity import pem
from quicdist.cluster.lookup import Epmd
from quicdist.doctor import Settings, Step, Stopped, Trouble, examine
from quicdist.errors import StartError
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.handshake import Connected, LocalNode, PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Status
from quicdist.protocol.packet import Packet
from quicdist.protocol.role import Role
from quicdist.protocol.session import Event, Session
from tests.carriers.owners import IDENTITY
from tests.support.ports import free_port

pytestmark = pytest.mark.io

COOKIE = "doctor"
ALL: list[Step] = [step for step in Step if step not in (Step.RELAY, Step.DIRECT)]


def settings(**changes: Any) -> Settings:
    return Settings(
        **{
            "cookie": COOKIE,
            "identity": IDENTITY,
            "trust": Trust.nothing(),
            "timeout": 30.0,
            **changes,
        }
    )


def a_node(**changes: Any) -> Node:
    chosen = {"cookie": COOKIE, "identity": IDENTITY, "trust": Trust.nothing(), **changes}
    return Node("0@127.0.0.1", **chosen)


async def steps(node: str, chosen: Settings | None = None) -> list[Step]:
    """Returns the steps of an examination without failures."""
    return [finding.step async for finding in examine(node, chosen or settings())]


async def stops(node: str, step: Step, trouble: Trouble, chosen: Settings | None = None) -> Stopped:
    """Checks how an examination ends, and that all earlier steps succeeded."""
    passed = []

    async def go() -> None:
        async for finding in examine(node, chosen or settings()):
            passed.append(finding.step)

    with pytest.raises(Stopped) as raised:
        await go()
    assert (raised.value.step, raised.value.trouble) == (step, trouble), str(raised.value)
    assert passed == ALL[: len(passed)]
    assert set(ALL[: ALL.index(step)]) - set(passed) <= {Step.PORT}
    assert raised.value.advice
    assert "\n" not in f"{raised.value}{raised.value.advice}"
    return raised.value


@asynccontextmanager
async def udp(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[str]:
    """A UDP port with scripted answers; yields the name of a node at that port."""

    class Port(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: Any) -> None:
            reply = answer(data)
            if reply is not None:
                self.transport.sendto(reply, addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Port, local_addr=("127.0.0.1", 0))
    try:
        yield f"{transport.get_extra_info('sockname')[1]}@127.0.0.1"
    finally:
        transport.close()


class Deaf:
    """The owner of a connection that completes a configurable part of the handshake."""

    def __init__(self, connection: Connection, name: str | None) -> None:
        self._connection = connection
        self._session: Session | None = None
        if name is not None:
            local = LocalNode(name, 7, DEFAULT_FLAGS, COOKIE)
            self._session = Session(local, Role.LISTENER, challenge=1)

    def packets_received(self, packets: Sequence[Packet]) -> int:
        for packet in packets:
            if self._session is not None and not self._session.connected:
                self._deal_with(self._session.receive(packet))
        return 0

    def _deal_with(self, events: Sequence[Event]) -> None:
        assert self._session is not None
        for event in events:
            if isinstance(event, SendHandshake):
                self._connection.send_handshake(event.data)
            elif isinstance(event, PeerNamed):
                self._deal_with(self._session.decide(Status.OK))
            elif isinstance(event, Connected):
                self._connection.handshake_done()

    def writable_again(self) -> None:
        pass

    def connection_lost(self, reason: CloseReason) -> None:
        pass


@asynccontextmanager
async def deaf(*, greets: bool) -> AsyncIterator[str]:
    """A node that goes silent, before or after its handshake."""
    made: list[str] = []

    def accept(connection: Connection) -> Deaf:
        return Deaf(connection, made[0] if greets else None)

    quic = QuicSettings(Credentials(IDENTITY, Trust.nothing()))
    endpoint = await Endpoint.open("127.0.0.1", 0, settings=quic, accept=accept)
    made.append(f"{endpoint.local_address[1]}@127.0.0.1")
    try:
        yield made[0]
    finally:
        await endpoint.close()


async def test_a_node_that_is_well_passes_every_step() -> None:
    async with a_node() as node:
        assert await steps(node.name) == ALL
        assert node.stats().ended.keys() <= {"lost"}


async def test_a_node_on_tcp_passes_those_that_it_has() -> None:
    server = await EpmdServer.open("127.0.0.1", 0, NodeTable())
    port = server.local_address[1]
    lookups = (Epmd(port),)
    try:
        node = Node("well@127.0.0.1", cookie=COOKIE, carriers=[Tcp(epmd_port=port)])
        async with node:
            found = [one async for one in examine(node.name, settings(lookups=lookups))]
            passed = [one.step for one in found]
            assert passed == [Step.NAME, Step.PORT, Step.HANDSHAKE, Step.COOKIE, Step.TICK]
            assert re.search(r"accepts [1-9]\d*@127\.0\.0\.1;", found[2].text)
            other = settings(lookups=lookups, cookie="other")
            with pytest.raises(Stopped) as raised:
                await steps(node.name, other)
            assert raised.value.step is Step.COOKIE
        await stops(node.name, Step.NAME, Trouble.UNREACHABLE, settings(lookups=lookups))
    finally:
        await server.close()


async def test_a_name_that_is_none() -> None:
    await stops("nobody", Step.NAME, Trouble.NAME)


async def test_epmd_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        lookups = (Epmd(unused.getsockname()[1]),)
        stopped = await stops(
            "a@127.0.0.1", Step.NAME, Trouble.UNREACHABLE, settings(lookups=lookups)
        )
    assert "no EPMD answers" in str(stopped)


async def test_nobody_is_there() -> None:
    await stops(f"{free_port()}@127.0.0.1", Step.PORT, Trouble.UNREACHABLE)


async def test_a_port_that_swallows() -> None:
    async with udp(lambda data: None) as node:
        stopped = await stops(node, Step.PORT, Trouble.UNREACHABLE, settings(timeout=1.0))
    assert "does not answer" in str(stopped)


async def test_a_port_with_something_else() -> None:
    async with udp(lambda data: b"hello") as node:
        stopped = await stops(node, Step.PORT, Trouble.UNREACHABLE)
    assert "not QUIC" in str(stopped)


async def test_a_port_that_answers_and_makes_no_connection() -> None:
    def versions(data: bytes) -> bytes | None:
        is_question = data[1:5] == b"\x1a\x2a\x3a\x4a"
        return b"\x80" + bytes(4) + data[5:23] + b"\x00\x00\x00\x01" if is_question else None

    async with udp(versions) as node:
        await stops(node, Step.TLS, Trouble.UNREACHABLE, settings(timeout=1.0))


async def test_another_protocol_over_quic() -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.certificate, configuration.private_key = IDENTITY.certificate, IDENTITY.key
    server = await serve(
        "127.0.0.1", 0, configuration=configuration, create_protocol=QuicConnectionProtocol
    )
    try:
        assert server._transport is not None
        port = server._transport.get_extra_info("sockname")[1]
        await stops(f"{port}@127.0.0.1", Step.TLS, Trouble.REFUSED)
    finally:
        server.close()


async def test_a_certificate_out_of_its_time() -> None:
    then = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    name = x509.Name([])
    expired = (
        x509.CertificateBuilder(name, name, IDENTITY.key.public_key(), 1)
        .not_valid_before(then)
        .not_valid_after(then + datetime.timedelta(days=1))
        .sign(IDENTITY.key, hashes.SHA256())
    )
    async with a_node(identity=Identity(IDENTITY.key, expired)) as node:
        stopped = await stops(node.name, Step.CERTIFICATE, Trouble.REFUSED)
    assert "2001-01-02" in str(stopped)


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Any) -> None:
    (tmp_path / "ca.pem").write_bytes(pem([make_authority("ours", 30).certificate]))
    chosen = settings(trust=Trust.authority(tmp_path / "ca.pem"))
    async with a_node() as node:
        await stops(node.name, Step.CERTIFICATE, Trouble.REFUSED, chosen)


async def test_a_node_that_does_not_believe_us() -> None:
    pins = Trust.pinned({"*": "sha256:" + 64 * "0"})
    async with a_node(trust=pins) as node:
        with pytest.raises(Stopped) as raised:
            await steps(node.name)
    assert (raised.value.step, raised.value.trouble) == (Step.CERTIFICATE, Trouble.REFUSED)


async def test_who_examines_shows_the_key_that_nodes_here_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path))
    ours = Identity.kept(["127.0.0.1"])
    async with a_node(trust=Trust.pinned({"*@127.0.0.1": ours.fingerprint})) as node:
        assert await steps(node.name, settings(identity=None)) == ALL


async def test_who_examines_leaves_no_key_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would block the next node with this name."""
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path))
    known = tmp_path / "known"
    async with a_node(trust=Trust.first_use(known)) as node:
        assert await steps(node.name, settings(identity=None)) == ALL
        assert not known.exists()


async def test_a_port_of_ours_that_is_taken() -> None:
    async with a_node() as node:
        with pytest.raises(StartError, match="in this node's name: Address already in use"):
            await steps(node.name, settings(name=node.name))


async def test_another_cookie() -> None:
    async with a_node() as node:
        await stops(node.name, Step.COOKIE, Trouble.REFUSED, settings(cookie="other"))


async def test_a_carrier_without_a_node_behind_it() -> None:
    async with deaf(greets=False) as node:
        stopped = await stops(node, Step.HANDSHAKE, Trouble.UNREACHABLE, settings(timeout=5.0))
    assert "gateway" in stopped.advice
    assert "TCP" not in stopped.advice


async def test_a_port_of_tcp_without_a_node_behind_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        places = Table({"a@127.0.0.1": f"tcp:127.0.0.1:{silent.getsockname()[1]}"})
        with pytest.raises(Stopped, match="does not answer") as raised:
            await steps("a@127.0.0.1", settings(lookups=(places,), timeout=1.0))
    assert raised.value.trouble is Trouble.UNREACHABLE
    assert "inet_tls" in raised.value.advice
    assert "gateway" not in raised.value.advice


async def test_another_node_than_the_name_says() -> None:
    async with a_node() as node:
        port = node.name.partition("@")[0]
        await stops(f"{port}@localhost", Step.HANDSHAKE, Trouble.REFUSED)


async def test_a_node_that_never_ticks() -> None:
    async with deaf(greets=True) as node:
        await stops(node, Step.TICK, Trouble.SILENT, settings(tick=1.0))
