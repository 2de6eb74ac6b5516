"""Gateways over real QUIC, with BEAM nodes simulated by sockets of the test."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from quicdist.carriers import tcp
from quicdist.carriers.base import CloseReason, Connection
from quicdist.carriers.epmd import EpmdAddress, NodeInfo, Registration, look_up, names
from quicdist.carriers.tcp import TcpConnection, TcpListener
from quicdist.errors import NodeError, NodeNameError
from quicdist.etf import Atom, Pid, encode_bare
from quicdist.gateway import (
    EmitError,
    Gateway,
    GatewayError,
    GatewaySettings,
    PeerRules,
    Policy,
    emit_module,
    erl_arguments,
)
from quicdist.gateway.gateway import _raise_file_limit
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from tests.carriers.owners import NAME
from tests.protocol import forms as ctl
from tests.support.erlang import ERL, Erlang
from tests.support.gatewayed import loopback_settings
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io


class Owner:
    """Records all calls; consumes at once."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.packets: list[Packet] = []
        self.lost: CloseReason | None = None
        self.changed = asyncio.Event()

    def packets_received(self, packets: Sequence[Packet]) -> int:
        self.packets += packets
        self.changed.set()
        return sum(len(packet.data) for packet in packets)

    def writable_again(self) -> None:
        self.changed.set()

    def connection_lost(self, reason: CloseReason) -> None:
        self.lost = reason
        self.changed.set()

    async def has(self, count: int) -> list[Packet]:
        while len(self.packets) < count:
            await self._change()
        return self.packets

    async def is_lost(self) -> CloseReason:
        while self.lost is None:
            await self._change()
        return self.lost

    async def _change(self) -> None:
        self.changed.clear()
        await asyncio.wait_for(self.changed.wait(), PATIENCE)


class Beam:
    """A simulated stock node: an EPMD registration and a port."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Owner] = asyncio.Queue()

    @classmethod
    async def start(cls, gateway: Gateway, name: str | None = None) -> Beam:
        """Registers the gateway's node or another node of this host."""
        beam = cls()
        beam.epmd = EpmdAddress("127.0.0.1", gateway.epmd_port)
        beam.listener = await TcpListener.open("127.0.0.1", 0, accept=beam._accept)
        node = NodeInfo(name or gateway.name, beam.listener.local_address[1])
        beam.registration = await Registration.open(node, beam.epmd)
        return beam

    epmd: EpmdAddress
    listener: TcpListener
    registration: Registration

    def _accept(self, connection: TcpConnection) -> Owner:
        owner = Owner(connection)
        self.accepted.put_nowait(owner)
        return owner

    async def dial(self, name: str) -> Owner:
        found = await look_up(name, self.epmd)
        assert found is not None
        connection = await tcp.dial("127.0.0.1", found.port, timeout=PATIENCE)
        owner = Owner(connection)
        connection.handler = owner
        return owner

    async def close(self) -> None:
        await self.registration.close()
        await self.listener.close()


@asynccontextmanager
async def gateway_and_beam(
    settings: GatewaySettings | None = None,
) -> AsyncIterator[tuple[Gateway, Beam]]:
    async with Gateway(settings or loopback_settings()) as gateway:
        beam = await Beam.start(gateway)
        try:
            yield gateway, beam
        finally:
            await beam.close()


async def prove(
    one: Beam, two: Beam, name: str, proof: bytes, *, own_name: bytes = NAME
) -> tuple[Owner, Owner]:
    """`one` dials `two`, which has the answer to its challenge: (dialer, listener)."""
    dialer = await one.dial(name)
    dialer.connection.send_handshake(own_name)
    listener = await asyncio.wait_for(two.accepted.get(), PATIENCE)
    await listener.has(1)
    listener.connection.send_handshake(b"sok")
    listener.connection.send_handshake(b"Nchallenge")
    await dialer.has(2)
    dialer.connection.send_handshake(proof)
    await listener.has(2)
    return dialer, listener


async def connect(
    one: Beam, two: Beam, name: str, *, own_name: bytes = NAME
) -> tuple[Owner, Owner]:
    """`one` dials `two`; a handshake's tags, then both have frames: (dialer, listener)."""
    dialer, listener = await prove(one, two, name, b"rreply", own_name=own_name)
    listener.connection.send_handshake(b"aack")
    listener.connection.handshake_done()
    await dialer.has(3)
    dialer.connection.handshake_done()
    return dialer, listener


async def test_packets_go_from_socket_to_socket_over_quic_and_a_close_does() -> None:
    async with gateway_and_beam() as (one, beam_one), gateway_and_beam() as (two, beam_two):
        dialer, listener = await connect(beam_one, beam_two, two.name)
        dialer.connection.send_frame((b"there",))
        dialer.connection.send_frame(())
        listener.connection.send_frame((b"back",))
        assert (await listener.has(4))[2:] == [FramePacket(b"there"), FramePacket(b"")]
        assert (await dialer.has(4))[3:] == [FramePacket(b"back")]
        assert one.connections == two.connections == 1
        dialer.connection.send_frame((b"last",))
        await dialer.connection.flush(PATIENCE)
        dialer.connection.close("enough")
        await listener.is_lost()
        assert listener.packets[-1] == FramePacket(b"last")
        await until(lambda: not (one.connections or two.connections))


async def test_another_node_of_the_host_is_reached_once_its_gateway_is_known() -> None:
    async with gateway_and_beam() as (one, beam_one), gateway_and_beam() as (two, beam_two):
        tool = await Beam.start(one, "tool@127.0.0.1")
        assert await look_up("tool@127.0.0.1", beam_two.epmd) is None
        own_name = hs.build_name(hs.Name(int(DEFAULT_FLAGS), 1, one.name))
        _, listener = await connect(beam_one, beam_two, two.name, own_name=own_name)
        listener.connection.send_frame((b"I believe you",))
        await until(lambda: look_up("tool@127.0.0.1", beam_two.epmd))
        reaching, reached = await connect(beam_two, tool, "tool@127.0.0.1")
        reaching.connection.send_frame((b"there",))
        assert (await reached.has(3))[2:] == [FramePacket(b"there")]
        # A connection to an absent node is closed.
        lost = await beam_two.dial("other@127.0.0.1")
        await lost.is_lost()
        await tool.close()


@pytest.mark.parametrize("calls", ["*:*", "*", "os:*"])
async def test_a_policy_that_opens_a_shell_is_warned_of(
    calls: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy((PeerRules(nodes=("*",), calls=("calc:add", calls)),))
    async with gateway_and_beam(replace(loopback_settings(), policy=policy)) as (one, _):
        (warning,) = shells(caplog)
        assert warning == (
            f"peers[1] of the policy: calls {calls!r} allows os:cmd, thus any code on the node"
        )
        one.use_policy(Policy((PeerRules(nodes=("*",), calls=("calc:*",)),)))
        assert len(shells(caplog)) == 1
        one.use_policy(policy)
        assert len(shells(caplog)) == 2


def shells(caplog: pytest.LogCaptureFixture) -> list[str]:
    named = [one for one in caplog.records if vars(one).get("event") == "policy_is_shell"]
    return [one.getMessage() for one in named]


async def test_a_peer_is_held_to_its_rate_across_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = replace(loopback_settings(), messages_per_second=20.0)
    async with gateway_and_beam() as (_, beam_one), gateway_and_beam(slow) as (two, beam_two):
        sent = [FramePacket(b"%d" % number) for number in range(30)]
        for count in (1, 2):
            dialer, listener = await connect(beam_one, beam_two, two.name)
            for packet in sent:
                dialer.connection.send_frame((packet.data,))
            assert (await listener.has(2 + len(sent)))[2:] == sent
            assert caplog.text.count("exceeds its rate limit and is paused") == count
            dialer.connection.close("enough")
            await listener.is_lost()
            await until(lambda: not two.connections)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"messages_per_second": 0}, "expected a finite number above 0"),
        ({"calls_per_second": 1.0}, "requires a policy"),
        ({"map_port": True}, "requires a relay"),
    ],
)
def test_rates_that_cannot_be_kept_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(NodeError, match=said):
        GatewaySettings("5555@127.0.0.1", **wrong)  # type: ignore[arg-type]


async def test_a_connection_asks_for_one_node() -> None:
    """Whoever wants to know which nodes there are needs a connection for each name."""
    async with gateway_and_beam() as (one, beam_one), gateway_and_beam() as (two, _beam_two):
        dialer = await beam_one.dial(two.name)
        dialer.connection.send_handshake(b"tnobody@127.0.0.1")
        dialer.connection.send_handshake(b"t" + two.name.encode())
        await dialer.is_lost()
        answers = [packet.data for packet in dialer.packets]
        assert b"tok" not in answers
        await until(lambda: not (one.connections or two.connections))


async def test_a_target_that_is_no_node_costs_its_connection() -> None:
    async with gateway_and_beam() as (one, beam_one), gateway_and_beam() as (two, beam_two):
        for target in (b"tnone", b"tnobody@127.0.0.1"):
            dialer = await beam_one.dial(two.name)
            dialer.connection.send_handshake(target)
            await dialer.is_lost()
        await connect(beam_one, beam_two, two.name)
        assert one.connections == two.connections == 1


async def test_nodes_keep_names_that_say_no_port() -> None:
    settings = [
        replace(loopback_settings(), name=name, listen=("127.0.0.1", free_port()))
        for name in ("app@one.test", "web@two.test")
    ]
    routes = {"*@two.test": settings[1].listen}
    one_settings = replace(settings[0], routes={k: v for k, v in routes.items() if v})
    async with (
        gateway_and_beam(one_settings) as (_, beam_one),
        gateway_and_beam(settings[1]) as (two, beam_two),
    ):
        dialer, listener = await connect(beam_one, beam_two, two.name)
        dialer.connection.send_frame((b"there",))
        listener.connection.send_frame((b"back",))
        assert (await listener.has(3))[2:] == [FramePacket(b"there")]
        assert (await dialer.has(4))[3:] == [FramePacket(b"back")]


async def test_what_carried_a_connection_is_gone_with_it() -> None:
    def left() -> list[str]:
        names = (type(one).__name__ for one in gc.get_objects())
        return sorted(name for name in names if name in ("QuicConnection", "TcpConnection"))

    async with gateway_and_beam() as (_, beam_one), gateway_and_beam() as (two, beam_two):
        gc.collect()
        gc.disable()  # the cycle collector runs too rarely for this test
        try:
            dialer, listener = await connect(beam_one, beam_two, two.name)
            dialer.connection.close("enough")
            await listener.is_lost()
            del dialer, listener
            await until(lambda: not left())
        finally:
            gc.enable()


async def test_a_status_that_refuses_arrives_before_the_close() -> None:
    async with gateway_and_beam() as (_, beam_one), gateway_and_beam() as (two, beam_two):
        dialer = await beam_one.dial(two.name)
        dialer.connection.send_handshake(NAME)
        listener = await asyncio.wait_for(beam_two.accepted.get(), PATIENCE)
        await listener.has(1)
        listener.connection.send_handshake(b"snot_allowed")
        await listener.connection.flush(PATIENCE)
        listener.connection.close("not allowed")
        await dialer.is_lost()
        assert dialer.packets == [HandshakePacket(b"snot_allowed")]


async def test_a_reader_that_stops_stops_the_writer_through_two_gateways() -> None:
    async with gateway_and_beam() as (_, beam_one), gateway_and_beam() as (two, beam_two):
        dialer, listener = await connect(beam_one, beam_two, two.name)
        eager, listener.connection.handler = listener, (hoarder := Hoarder())
        sent = 0
        while True:
            while dialer.connection.is_writable:
                dialer.connection.send_frame((sent.to_bytes(4, "big"), bytes(50_000)))
                sent += 1
            dialer.changed.clear()
            try:
                await asyncio.wait_for(dialer.changed.wait(), 2)
            except TimeoutError:
                break
        listener.connection.handler = eager
        listener.connection.consumed(eager.packets_received(hoarder.packets))
        got = (await eager.has(2 + sent))[2:]
        assert [int.from_bytes(p.data[:4], "big") for p in got] == list(range(sent))


class Hoarder:
    """Consumes nothing."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def packets_received(self, packets: Sequence[Packet]) -> int:
        self.packets += packets
        return 0

    def writable_again(self) -> None: ...

    def connection_lost(self, reason: CloseReason) -> None: ...


async def test_where_nodes_are() -> None:
    elsewhere = free_port()
    routes = {"alice@hostb": ("127.0.0.1", elsewhere)}
    settings = replace(loopback_settings(), routes=routes, max_remotes=2)
    async with Gateway(settings) as gateway:
        epmd = EpmdAddress("127.0.0.1", gateway.epmd_port)
        own_port = gateway.name.partition("@")[0]
        assert await look_up(gateway.name, epmd) is None
        assert gateway.beam_port is None
        beam = await Registration.open(NodeInfo(gateway.name, 1111), epmd)
        tool = await Registration.open(NodeInfo("tool-1@localhost", 2222), epmd)
        assert gateway.beam_port == 1111
        # Full names, and the short ones that OTP's client sends.
        for name, port in ((gateway.name, 1111), (own_port, 1111), ("tool-1@localhost", 2222)):
            found = await look_up(name, epmd)
            assert found is not None
            assert found.port == port
        assert await names(epmd) == [(gateway.name, 1111), ("tool-1@localhost", 2222)]
        ports = set()
        for name in ("5556@127.0.0.1", "5557@127.0.0.1", "alice@hostb", "5557@127.0.0.1"):
            found = await look_up(name, epmd)
            assert found is not None
            ports.add(found.port)
        assert len(ports) == 3
        for nowhere in ("bob@hostb", "70000@127.0.0.1", "x@127.0.0.1", "5555@999.1.1.1"):
            assert await look_up(nowhere, epmd) is None
        await beam.close()
        await tool.close()
        await until(lambda: gateway.beam_port is None)


async def test_too_many_connections_are_refused() -> None:
    few = replace(loopback_settings(), max_relays=1)
    async with gateway_and_beam(few) as (_, beam_one), gateway_and_beam() as (two, beam_two):
        dialer, _ = await connect(beam_one, beam_two, two.name)
        second = await beam_one.dial(two.name)
        await second.is_lost()
        assert dialer.lost is None
        dialer.connection.close("end of test")


async def test_a_beam_that_is_not_at_its_port(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway_and_beam() as (_, beam_one), gateway_and_beam() as (two, beam_two):
        await beam_two.listener.close()
        dialer = await beam_one.dial(two.name)
        dialer.connection.send_handshake(NAME)
        await dialer.is_lost()
        assert f"cannot connect to {two.name} at its port" in caplog.text


async def test_a_gateway_that_ends_tells_both_sides() -> None:
    async with gateway_and_beam() as (_, beam_one):
        async with gateway_and_beam() as (two, beam_two):
            dialer, listener = await connect(beam_one, beam_two, two.name)
        await listener.is_lost()
        await dialer.is_lost()


async def test_ports_that_cannot_be_had_are_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(GatewayError, match=rf"TCP port {port} .*: Address already in use"):
            await Gateway(replace(loopback_settings(), epmd_port=port)).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(GatewayError, match=rf"cannot bind UDP 127.0.0.1:{port}.*in use"):
            await Gateway(loopback_settings(f"{port}@127.0.0.1")).start()


def test_a_name_that_is_none() -> None:
    with pytest.raises(NodeNameError, match="contains no UDP port"):
        Gateway("rabbit@host")


def test_the_module_is_written_and_compiled_where_it_can_be(tmp_path: Path) -> None:
    emitted = emit_module(tmp_path / "new", erl=None)
    assert emitted.beam is None
    assert "-module(quicdist_epmd)." in emitted.source.read_text()
    assert erl_arguments(emitted.directory)[5] == str(tmp_path / "new")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(EmitError, match="cannot write"):
        emit_module(in_the_way)


@pytest.mark.erlang
def test_the_module_compiles_without_a_warning(tmp_path: Path) -> None:
    emitted = emit_module(tmp_path, erl=ERL)
    assert emitted.beam is not None
    assert emitted.beam.read_bytes()[:4] == b"FOR1"
    with Erlang() as erlang:
        assert emitted.otp == erlang.eval("erlang:system_info(otp_release).").decode()


def test_an_erl_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    fake = tmp_path / "erl"
    fake.write_text("#!/bin/sh\necho no compiler\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(EmitError, match=r"cannot compile .*no compiler"):
        emit_module(tmp_path / "new", erl=str(fake))


def test_as_many_files_as_its_settings_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    _raise_file_limit(500)
    assert not raised
    _raise_file_limit(3000)
    _raise_file_limit(6000)
    assert raised == [(3000, 4096), (4096, 4096)]


async def test_a_process_out_of_files_knows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Gateway(loopback_settings()) as gateway:
        epmd = EpmdAddress("127.0.0.1", gateway.epmd_port)
        name = f"{free_port()}@127.0.0.1"
        create = asyncio.get_running_loop().create_server

        async def no_files(*arguments: object, **settings: object) -> asyncio.Server:
            # asyncio's error when no socket can be created.
            server = await create(asyncio.Protocol, "127.0.0.1", 0)
            server.close()
            return server

        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "create_server", no_files)
            assert await look_up(name, epmd) is None
        assert await look_up(name, epmd) is not None


async def policed(one: Gateway, beam: Beam, two: Gateway, other: Beam) -> tuple[Owner, Owner]:
    """As `connect`, with messages that a policy can read."""
    flags = int(DEFAULT_FLAGS)
    dialer = await beam.dial(two.name)
    dialer.connection.send_handshake(hs.build_name(hs.Name(flags, 5, one.name)))
    listener = await asyncio.wait_for(other.accepted.get(), PATIENCE)
    await listener.has(1)
    listener.connection.send_handshake(b"sok")
    listener.connection.send_handshake(hs.build_challenge(hs.Challenge(flags, 1, 5, two.name)))
    await dialer.has(2)
    dialer.connection.send_handshake(hs.build_challenge_reply(hs.ChallengeReply(1, bytes(16))))
    await listener.has(2)
    listener.connection.send_handshake(hs.build_challenge_ack(hs.ChallengeAck(bytes(16))))
    await dialer.has(3)
    return dialer, listener


async def test_what_a_policy_cannot_read_costs_that_connection_alone() -> None:
    policy = Policy((PeerRules(nodes=("*",), names=("counter",)),))
    settings = replace(loopback_settings(), policy=policy)
    async with (
        gateway_and_beam() as (one, beam_one),
        gateway_and_beam() as (two, beam_two),
        gateway_and_beam(settings) as (three, beam_three),
    ):
        evil, its_end = await policed(one, beam_one, three, beam_three)
        good, good_end = await policed(two, beam_two, three, beam_three)
        evil.connection.send_frame((b"\x83D\x01no atom cache was agreed on",))
        await its_end.is_lost()
        await evil.is_lost()
        hello = ctl.RegSend(Pid(Atom(two.name), 1, 0, 5), Atom("counter"))
        frame = b"\x83D\0" + encode_bare(hello.to_tuple()) + encode_bare(1)
        good.connection.send_frame((frame,))
        assert (await good_end.has(3))[2:] == [FramePacket(frame)]
        unknown = replace(hello, to_name=Atom("kitchen"))
        refused = b"\x83D\0" + encode_bare(unknown.to_tuple()) + encode_bare(1)
        good.connection.send_frame((refused,))
        assert (await good_end.has(4))[3:] == [FramePacket(b"")]
        assert good.lost is None
