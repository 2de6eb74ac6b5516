"""Connections over TCP sockets between two quicdist carriers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from quicdist.carriers.base import CloseKind, CloseReason, Connection, DialError
from quicdist.carriers.tcp import TcpConnection, TcpListener, dial
from quicdist.errors import Cause
from quicdist.limits import CarrierLimits
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io


class Recorder:
    """An owner that records all calls; consumes at once unless `hoard` is set."""

    def __init__(self, connection: Connection, *, hoard: bool = False) -> None:
        self.connection = connection
        self.packets: list[Packet] = []
        self.hoard = hoard
        self.lost: list[CloseReason] = []
        self.changed = asyncio.Event()

    def packets_received(self, packets: Sequence[Packet]) -> int:
        self.packets += packets
        self.changed.set()
        return 0 if self.hoard else sum(len(p.data) for p in packets)

    def writable_again(self) -> None:
        assert self.connection.is_writable
        self.changed.set()

    def connection_lost(self, reason: CloseReason) -> None:
        self.lost.append(reason)
        self.changed.set()

    async def until(self, condition: object) -> None:
        assert callable(condition)
        while not condition():
            await asyncio.wait_for(self.changed.wait(), PATIENCE)
            self.changed.clear()


@asynccontextmanager
async def pair(
    limits: CarrierLimits | None = None, *, hoard: bool = False
) -> AsyncIterator[tuple[Recorder, Recorder]]:
    """Yields a connected dialer and listener."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    def accept(connection: TcpConnection) -> Recorder:
        recorder = Recorder(connection, hoard=hoard)
        accepted.set_result(recorder)
        return recorder

    listener = await TcpListener.open("127.0.0.1", 0, accept=accept, limits=limits)
    host, port = listener.local_address
    connection = await dial(host, port, timeout=PATIENCE, limits=limits)
    dialer = Recorder(connection)
    connection.handler = dialer
    other = await asyncio.wait_for(accepted, PATIENCE)
    try:
        yield dialer, other
    finally:
        dialer.connection.close("end of test")
        other.connection.close("end of test")
        await dialer.until(lambda: dialer.lost)
        await other.until(lambda: other.lost)
        await listener.close()


async def test_handshake_then_frames_both_ways() -> None:
    async with pair() as (dialer, listener):
        assert dialer.connection.role is Role.DIALER
        assert listener.connection.role is Role.LISTENER
        assert dialer.connection.peer_address == listener.connection.local_address
        dialer.connection.send_handshake(b"Nname")
        await listener.until(lambda: len(listener.packets) == 1)
        listener.connection.send_handshake(b"aX")
        listener.connection.handshake_done()
        listener.connection.send_frame((b"p", b"q"))
        listener.connection.send_frame(())
        await dialer.until(lambda: len(dialer.packets) == 3)
        dialer.connection.handshake_done()
        dialer.connection.send_handshake(b"rX")
        dialer.connection.send_frame((b"f",))
        await listener.until(lambda: len(listener.packets) == 3)
        assert listener.packets == [
            HandshakePacket(b"Nname"),
            HandshakePacket(b"rX"),
            FramePacket(b"f"),
        ]
        assert dialer.packets == [HandshakePacket(b"aX"), FramePacket(b"pq"), FramePacket(b"")]
        assert await dialer.connection.flush(PATIENCE)
        assert dialer.connection.statistics().bytes_unacknowledged == 0
        assert dialer.connection.statistics().bytes_sent == 2 + 5 + 2 + 2 + 4 + 1


async def test_a_reader_that_stops_stops_the_writer_and_nothing_is_lost() -> None:
    limits = CarrierLimits(high_water=65536, low_water=16384, receive_window=65536)
    async with pair(limits, hoard=True) as (dialer, listener):
        dialer.connection.send_handshake(b"rX")
        dialer.connection.handshake_done()
        frame = bytes(10_000)
        sent = 0
        # Until the kernel's and the connection's buffers are full and `writable` stays unset.
        while True:
            while dialer.connection.is_writable:
                dialer.connection.send_frame((sent.to_bytes(4, "big"), frame))
                sent += 1
            try:
                await asyncio.wait_for(dialer.until(lambda: dialer.connection.is_writable), 1)
            except TimeoutError:
                break
        held = sum(len(p.data) for p in listener.packets)
        assert held < 65536 + 256 * 1024
        assert not await dialer.connection.flush(0.05)
        listener.hoard = False
        listener.connection.consumed(held)
        await listener.until(lambda: len(listener.packets) == sent + 1)
        order = [int.from_bytes(p.data[:4], "big") for p in listener.packets[1:]]
        assert order == list(range(sent))
        await dialer.until(lambda: dialer.connection.is_writable)
        assert await dialer.connection.flush(PATIENCE)


async def test_a_frame_larger_than_the_window_arrives() -> None:
    limits = CarrierLimits(receive_window=65536)
    async with pair(limits) as (dialer, listener):
        dialer.connection.send_handshake(b"rX")
        dialer.connection.handshake_done()
        dialer.connection.send_frame((bytes(8_000_000),))
        await listener.until(lambda: len(listener.packets) == 2)
        assert len(listener.packets[1].data) == 8_000_000


async def test_large_and_small_parts_arrive_in_order() -> None:
    async with pair() as (dialer, listener):
        dialer.connection.send_handshake(b"rX")
        dialer.connection.handshake_done()
        large = bytes(range(256)) * 4096
        parts = (b"a", b"b", memoryview(large)[1:], b"c", large, large, b"d")
        for _ in range(2):
            dialer.connection.send_frame(parts)
        await listener.until(lambda: len(listener.packets) == 3)
        assert listener.packets[1:] == [FramePacket(b"".join(parts))] * 2
        await dialer.connection.flush(PATIENCE)
        sent = dialer.connection.statistics().bytes_sent
        assert sent == 4 + 2 * (4 + sum(map(len, parts)))


async def test_what_a_connection_reads_into_is_no_memory_of_its_own() -> None:
    async with pair() as (dialer, listener):
        one, other = dialer.connection, listener.connection
        assert isinstance(one, TcpConnection)
        assert isinstance(other, TcpConnection)
        assert one.get_buffer(-1) is other.get_buffer(-1)


async def test_a_close_is_seen_at_once_by_both() -> None:
    async with pair() as (dialer, listener):
        dialer.connection.send_handshake(b"last words")
        dialer.connection.close("enough")
        await listener.until(lambda: listener.lost)
        await dialer.until(lambda: dialer.lost)
        assert dialer.lost == [CloseReason(CloseKind.LOCAL, "enough", Cause.DISCONNECTED)]
        assert listener.lost[0].kind is CloseKind.PEER
        assert listener.packets == [HandshakePacket(b"last words")]
        dialer.connection.send_frame((b"into the void",))
        assert not await dialer.connection.flush(1)


async def test_bytes_that_no_node_sends_end_the_connection_with_a_reason() -> None:
    async with pair() as (dialer, listener):
        dialer.connection.send_handshake(bytes(5000))
        await listener.until(lambda: listener.lost)
        assert listener.lost[0].kind is CloseKind.BROKEN
        assert "handshake message of 5000 bytes" in listener.lost[0].text


async def test_an_owner_that_raises_costs_its_connection() -> None:
    async with pair() as (dialer, listener):

        def broken(packets: Sequence[Packet]) -> int:
            raise ValueError("not what I wanted")

        listener.packets_received = broken  # type: ignore[method-assign]
        dialer.connection.send_handshake(b"hello")
        await listener.until(lambda: listener.lost)
        text = "ValueError: not what I wanted"
        assert listener.lost == [CloseReason(CloseKind.ERROR, text, Cause.INTERNAL)]


async def test_a_listener_may_refuse() -> None:
    def refuse(connection: TcpConnection) -> Recorder:
        raise PermissionError("no room")

    listener = await TcpListener.open("127.0.0.1", 0, accept=refuse)
    connection = await dial(*listener.local_address, timeout=PATIENCE)
    recorder = Recorder(connection)
    connection.handler = recorder
    await recorder.until(lambda: recorder.lost)
    assert recorder.lost[0].kind is CloseKind.PEER
    await listener.close()


async def test_nothing_is_read_before_there_is_an_owner() -> None:
    accepted: list[Recorder] = []

    def accept(connection: TcpConnection) -> Recorder:
        connection.send_handshake(b"early")
        accepted.append(Recorder(connection))
        return accepted[0]

    listener = await TcpListener.open("127.0.0.1", 0, accept=accept)
    connection = await dial(*listener.local_address, timeout=PATIENCE)
    await asyncio.sleep(0.05)
    recorder = Recorder(connection)
    connection.handler = recorder
    await recorder.until(lambda: recorder.packets)
    assert recorder.packets == [HandshakePacket(b"early")]
    connection.close("end of test")
    await accepted[0].until(lambda: accepted[0].lost)
    await listener.close()


async def test_dialing_where_nobody_listens() -> None:
    listener = await TcpListener.open("127.0.0.1", 0, accept=Recorder)
    host, port = listener.local_address
    await listener.close()
    for name in (host, "localhost"):  # a name may have several addresses
        with pytest.raises(DialError, match=f"{name}:{port}: connection refused") as caught:
            await dial(name, port, timeout=PATIENCE)
        assert caught.value.cause is Cause.PORT_CLOSED
