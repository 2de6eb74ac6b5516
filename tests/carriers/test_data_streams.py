"""`quicdist/2` on sockets: data streams under loss, and peers that misuse them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import pytest

from quicdist.carriers.base import CloseKind
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.limits import CarrierLimits
from quicdist.protocol.packet import FramePacket, Packet
from quicdist.protocol.streams import DATA_STREAMS, UNKNOWN_SENDER
from tests.carriers.owners import Owner, node
from tests.support.engines import ENGINES
from tests.support.lossy import LossyProxy, Weather

pytestmark = pytest.mark.io

ALPN = "quicdist/2"
COUNT = 600


def recorded(owner: Owner) -> list[FramePacket]:
    """Returns the list to which the packets of the owner will be added."""
    seen: list[FramePacket] = []
    receive = owner.packets_received

    def record(packets: Sequence[Packet]) -> int:
        seen.extend(packet for packet in packets if isinstance(packet, FramePacket))
        return receive(packets)

    owner.packets_received = record  # type: ignore[method-assign]
    return seen


async def send(owner: Owner) -> dict[int, list[bytes]]:
    """Sends frames on all streams. Returns them by stream."""
    sent = defaultdict(list)
    for number in range(COUNT):
        stream = number % (DATA_STREAMS + 1)
        size = 20_000 if number % 50 == 0 else number % 700
        frame = b"\x83" + number.to_bytes(4, "big") + bytes(size)
        await owner.until(lambda: owner.connection.is_writable)
        owner.connection.send_frame((frame,), stream)
        sent[stream].append(frame)
        if number % 20 == 0:
            await asyncio.sleep(0)
    return sent


@pytest.mark.parametrize("engine", [*ENGINES, "aioquic-plain"])
async def test_each_stream_is_in_order_and_the_first_one_with_all_others(engine: str) -> None:
    weather = Weather(loss=0.05, reorder=0.1, duplicate=0.02)
    async with (
        node(engine=engine, max_datagram_size=1200) as a,
        node(engine=engine, max_datagram_size=1200) as b,
        LossyProxy(("127.0.0.1", b.port), weather, seed=11) as proxy,
    ):
        here, there = await a.connect(b, port=proxy.address[1], alpn=ALPN)
        seen = [recorded(owner) for owner in (here, there)]
        to_there, to_here = await asyncio.gather(send(here), send(there))
        for owner, got, sent in zip((here, there), seen, (to_here, to_there), strict=True):
            await owner.until(lambda got=got: len(got) >= COUNT)  # type: ignore[misc]  # bound now
            for stream, frames in sent.items():
                assert [one.data for one in got if one.stream == stream] == frames
            for place, packet in enumerate(got):
                number = int.from_bytes(packet.data[1:5], "big")
                assert packet.stream != UNKNOWN_SENDER or place == number
        assert proxy.dropped > 0


@pytest.mark.parametrize("engine", ENGINES)
async def test_unread_data_of_all_streams_together_fits_one_window(engine: str) -> None:
    window = 256 * 1024
    limits = CarrierLimits(receive_window=window, max_receive_window=window)
    async with node(engine=engine) as a, node(engine=engine, limits=limits, hoard=True) as b:
        here, there = await a.connect(b, alpn=ALPN)
        frame = b"\x83" + bytes(10_000)
        rounds = 2 * window // len(frame) + 1
        for number in range(rounds):
            here.connection.send_frame((frame,), 1 + number % DATA_STREAMS)
            await asyncio.sleep(0)
        await there.until(lambda: there.frame_bytes > window // 2)
        assert there.frame_bytes <= window
        there.hoard = False
        there.connection.consumed(there.frame_bytes)
        await there.until(lambda: there.frame_bytes == rounds * len(frame))


async def test_a_dialer_that_sends_frames_before_its_proof_is_disconnected() -> None:
    async with node() as a, node() as b, node() as c:
        good, _ = await c.connect(b, alpn=ALPN)
        bad = await a.dial(b.port, alpn=ALPN)
        connection = bad.connection
        assert isinstance(connection, QuicConnection)
        connection._pending[4] = [b"\0\0\0\x01x"]
        a.endpoint.touch(connection)
        await bad.until(lambda: bad.lost)
        assert "before the end of the handshake" in bad.lost[0].text
        assert not good.lost


@pytest.mark.parametrize("engine", ENGINES)
async def test_incomplete_frames_on_many_streams_end_only_their_connection(engine: str) -> None:
    limits = CarrierLimits(max_frame=100_000)
    async with (
        node(engine=engine) as a,
        node(engine=engine, limits=limits) as b,
        node(engine=engine) as c,
    ):
        good, _ = await c.connect(b, alpn=ALPN)
        bad, there = await a.connect(b, alpn=ALPN)
        connection = bad.connection
        assert isinstance(connection, QuicConnection)
        for stream in range(4, 16, 4):
            connection._pending[stream] = [(50_000).to_bytes(4, "big")]
        connection._pending[4].append(b"x")
        connection._pending[8].append(b"x")
        connection._pending[12].append(b"x")
        a.endpoint.touch(connection)
        await there.until(lambda: there.lost)
        assert there.lost[0].kind is CloseKind.BROKEN
        assert "incomplete frames of all streams" in there.lost[0].text
        assert not good.lost


@pytest.mark.parametrize("engine", ENGINES)
async def test_streams_that_are_opened_and_not_used_do_no_harm(engine: str) -> None:
    """Each has part of a length."""
    async with node(engine=engine) as a, node(engine=engine) as b:
        here, there = await a.connect(b, alpn=ALPN)
        connection = here.connection
        assert isinstance(connection, QuicConnection)
        for number in range(1, DATA_STREAMS + 1):
            connection._pending[4 * number] = [b"\0\0\0"]
        a.endpoint.touch(connection)
        connection.send_frame((b"\x83x",))
        await there.until(lambda: there.frames == [b"\x83x"])
        for number in range(1, DATA_STREAMS + 1):
            connection._pending[4 * number] = [b"\2", b"\x83", b"y"]
        a.endpoint.touch(connection)
        await there.until(lambda: there.frames[1:] == [b"\x83y"] * DATA_STREAMS)
        assert not there.lost


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_data_stream_that_is_reset_within_a_frame_ends_the_connection(engine: str) -> None:
    async with node(engine=engine) as a, node(engine=engine) as b:
        here, there = await a.connect(b, alpn=ALPN)
        connection = here.connection
        assert isinstance(connection, QuicConnection)
        connection._pending[4] = [b"\0\0\0\2\x83x", b"\0\0\0\2\x83"]
        a.endpoint.touch(connection)
        await there.until(lambda: there.frames == [b"\x83x"])
        connection._engine.refuse(4, 1)
        a.endpoint.touch(connection)
        await there.until(lambda: there.lost)
        assert there.lost[0].kind is CloseKind.PEER
        assert there.frames == [b"\x83x"]


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_end_of_a_data_stream_ends_the_connection(engine: str) -> None:
    async with node(engine=engine) as a, node(engine=engine) as b:
        here, there = await a.connect(b, alpn=ALPN)
        here.connection.send_frame((b"\x83x",), 1)
        await there.until(lambda: there.frames == [b"\x83x"])
        connection = here.connection
        assert isinstance(connection, QuicConnection)
        connection._engine.refuse(4, 1)
        a.endpoint.touch(connection)
        await there.until(lambda: there.lost)
        assert there.lost[0].kind is CloseKind.PEER


async def test_an_older_peer_gets_one_stream() -> None:
    async with node() as a, node(alpns=["quicdist/1"]) as b:
        here, there = await a.connect(b)
        for owner in (here, there):
            assert owner.connection.traits.alpn == "quicdist/1"
            assert not owner.connection.traits.data_streams
