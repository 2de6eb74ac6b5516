"""Two real endpoints on loopback."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from quicdist.carriers.base import CloseKind, Connection, DialError
from quicdist.carriers.quic import connection as quic_connection
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.engine import EngineError
from quicdist.carriers.quic.engine.aioquic import AioquicConnection
from quicdist.errors import Cause
from quicdist.limits import AdmissionLimits, CarrierLimits
from quicdist.protocol.dialects import ALL_ALPNS
from tests.carriers.owners import Node, Owner, node, settings
from tests.support.engines import native
from tests.support.lossy import LossyProxy, Weather
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, settled, until

pytestmark = pytest.mark.io

MIB = 1024 * 1024
SMALL = CarrierLimits(high_water=64 * 1024, low_water=16 * 1024, receive_window=64 * 1024)


async def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@asynccontextmanager
async def pair_in(
    weather: Weather,
    *,
    seed: int,
    alpn: str | None = None,
    limits: CarrierLimits | None = None,
) -> AsyncIterator[tuple[Owner, Owner, LossyProxy]]:
    """Yields both ends of a connection through a proxy, with small and thus many datagrams."""
    async with (
        node(limits=limits, max_datagram_size=1200) as a,
        node(max_datagram_size=1200) as b,
        LossyProxy(("127.0.0.1", b.port), weather, seed=seed) as proxy,
    ):
        here, there = await a.connect(b, port=proxy.address[1], alpn=alpn)
        yield here, there, proxy


# -- up and down --------------------------------------------------------------------------------


async def test_ours_prefer_our_own_dialect() -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        for owner in (here, there):
            assert owner.connection.traits.alpn == "quicdist/2"
        assert here.connection.peer_address == ("127.0.0.1", b.port)
        assert here.connection.local_address == ("127.0.0.1", a.port)
        assert there.connection.peer_address == ("127.0.0.1", a.port)
        assert there.connection.local_address == ("127.0.0.1", b.port)


@pytest.mark.parametrize("alpn", ALL_ALPNS)
async def test_thousands_of_frames_both_ways_in_order(alpn: str) -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b, alpn=alpn)
        sent = [b"%d" % i + bytes(i % 700) for i in range(3000)]

        async def send(owner: Owner) -> None:
            for i, frame in enumerate(sent):
                await owner.send(frame)
                if i % 100 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(send(here), send(there))
        for owner in (here, there):
            await owner.until(lambda owner=owner: len(owner.frames) >= len(sent))  # type: ignore[misc]  # bound now
            assert owner.frames == sent


@pytest.mark.parametrize("ending", ["dialer", "listener", "endpoint"])
async def test_a_close_is_seen_at_once_with_its_reason(ending: str) -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        if ending == "dialer":
            here.connection.close("had enough")
            seer, closer = there, here
        elif ending == "listener":
            there.connection.close("had enough")
            seer, closer = here, there
        else:
            await b.endpoint.close()
            seer, closer = here, there
        assert not closer.lost or ending == "endpoint"  # never called synchronously
        await seer.until(lambda: seer.lost)
        await closer.until(lambda: closer.lost)
        (seen,), (told,) = seer.lost, closer.lost
        assert seen.kind is CloseKind.PEER
        assert told.kind is CloseKind.LOCAL
        if ending != "endpoint":
            assert "had enough" in seen.text
            assert told.text == "had enough"
        # Calls on a dead connection have no effect.
        for owner in (here, there):
            owner.connection.close("again")
            owner.connection.send_frame((b"x",))
            owner.connection.ping()
            owner.connection.consumed(10**9)
            owner.connection.handshake_done()
            assert not await owner.connection.flush(1)
            owner.connection.statistics()
            assert owner.connection.peer_address[0] == "127.0.0.1"
        assert await settled(lambda: (len(here.lost), len(there.lost))) == (1, 1)


async def test_a_close_in_the_packets_callback_and_packets_before_a_close() -> None:
    """Frames received before the close are delivered before it."""
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        for i in range(50):
            here.connection.send_frame((b"%d" % i,))
        assert await here.connection.flush(PATIENCE)
        here.connection.close("done")
        await there.until(lambda: there.lost)
        assert there.frames == [b"%d" % i for i in range(50)]

        here, there = await a.connect(b)
        there.on_frame = lambda data: there.connection.close("from within")
        here.connection.send_frame((b"x",))
        await here.until(lambda: here.lost)
        await there.until(lambda: there.lost)
        assert "from within" in here.lost[0].text


async def test_an_owner_that_fails_costs_its_connection_alone() -> None:
    async with node() as a, node() as b:
        good, good_there = await a.connect(b)
        bad, bad_there = await a.connect(b)

        def fail(data: bytes) -> None:
            raise RuntimeError("a bug")

        bad_there.on_frame = fail
        bad.connection.send_frame((b"x",))
        await bad.until(lambda: bad.lost)
        await bad_there.until(lambda: bad_there.lost)
        assert bad_there.lost[0].kind is CloseKind.ERROR
        assert "a bug" in bad_there.lost[0].text
        assert "a bug" not in bad.lost[0].text
        good.connection.send_frame((b"still here",))
        await good_there.until(lambda: good_there.frames)


async def test_refusing_in_accept_closes() -> None:
    def refuse(connection: Connection) -> Owner:
        raise PermissionError("not you")

    endpoint = await Endpoint.open("127.0.0.1", 0, settings=settings(), accept=refuse)
    async with node() as a:
        owner = await a.dial(endpoint.local_address[1])
        await owner.until(lambda: owner.lost)
        assert owner.lost[0].kind is CloseKind.PEER
    await endpoint.close()


async def test_packets_wait_for_an_owner() -> None:
    async with node() as a, node(on_accept=lambda owner: None) as b:
        connection = await a.endpoint.dial("127.0.0.1", b.port)
        connection.send_handshake(b"N" + bytes(12) + b"\x00\x06a@test")
        await b.first()
        await asyncio.sleep(0.1)
        owner = Owner(connection)
        connection.handler = owner
        await owner.until(lambda: owner.is_up)
        connection.close("x")
        await owner.until(lambda: owner.lost)

        connection = await a.endpoint.dial("127.0.0.1", b.port)
        connection.close("before anyone cared")
        await asyncio.sleep(0.05)
        late = Owner(connection)
        connection.handler = late
        await late.until(lambda: late.lost)


async def test_a_killed_peer_is_seen_by_the_idle_timeout() -> None:
    limits = CarrierLimits(idle_timeout=2.0)
    async with pair_in(Weather(), seed=1, limits=limits) as (here, _, proxy):
        proxy.is_black_hole = True
        await here.until(lambda: here.lost)
        assert here.lost[0].kind is CloseKind.IDLE


async def test_a_close_that_is_lost_is_said_again() -> None:
    async with pair_in(Weather(), seed=1) as (here, there, proxy):
        proxy.is_black_hole = True
        here.connection.close("lost on the way")
        await until(lambda: proxy.dropped)
        proxy.is_black_hole = False
        await there.until(lambda: there.lost)
        assert there.lost[0].kind is CloseKind.PEER


async def test_a_peer_that_sends_on_is_told_of_the_close_again() -> None:
    async with pair_in(Weather(), seed=1) as (here, there, proxy):
        proxy.is_black_hole = True
        here.connection.close("lost on the way, twice")
        await until(lambda: proxy.dropped >= 2)
        proxy.is_black_hole = False
        there.connection.send_frame((b"still there?",))
        await there.until(lambda: there.lost)
        assert there.lost[0].kind is CloseKind.PEER


# -- dialing -----------------------------------------------------------------------------------


async def test_nobody_there() -> None:
    async with node() as a:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            with pytest.raises(DialError, match="no answer"):
                await a.endpoint.dial("127.0.0.1", silent.getsockname()[1], timeout=0.3)
        assert not a.endpoint.connections


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="IP_RECVERR is Linux's")
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::"])
async def test_a_port_where_nobody_listens_is_known_at_once(bound: str) -> None:
    if bound == "::" and not await has_ipv6():
        pytest.skip("no IPv6 here")
    port = free_port()
    async with node(bound) as a, node() as b:
        here, there = await a.connect(b)
        for _ in range(3):
            with pytest.raises(DialError, match="refused"):
                await a.endpoint.dial("127.0.0.1", port, timeout=PATIENCE)
            here.connection.send_frame((b"unmoved",))
        await there.until(lambda: len(there.frames) == 3)
        if bound == "::":
            with pytest.raises(DialError, match="refused"):
                await a.endpoint.dial("::1", port, timeout=PATIENCE)


@pytest.mark.parametrize("is_silent", [False, True])
async def test_every_address_of_a_name_gets_its_turn(
    monkeypatch: pytest.MonkeyPatch, is_silent: bool
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2" if sys.platform.startswith("linux") else "127.0.0.1", 0))
        address = other.getsockname()
        if not is_silent:
            other.close()
        async with node() as a, node() as b:

            async def resolve(host: str, port: int, timeout: float) -> list[object]:
                return [address, ("127.0.0.1", port)]

            monkeypatch.setattr(a.endpoint, "_resolve", resolve)
            connection = await a.endpoint.dial("node.example", b.port, timeout=4.0)
            assert connection.peer_address == ("127.0.0.1", b.port)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="IP_RECVERR is Linux's")
@pytest.mark.parametrize(
    ("silent_at", "cause"),
    [(None, Cause.PORT_CLOSED), (0, Cause.NO_ANSWER), (1, Cause.NO_ANSWER)],
)
async def test_a_port_is_closed_where_every_address_says_so(
    monkeypatch: pytest.MonkeyPatch, silent_at: int | None, cause: Cause
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.2", 0))
        addresses: list[object] = [("127.0.0.1", free_port()), ("127.0.0.3", free_port())]
        if silent_at is not None:
            addresses[silent_at] = silent.getsockname()
        async with node() as a:

            async def resolve(host: str, port: int, timeout: float) -> list[object]:
                return addresses

            monkeypatch.setattr(a.endpoint, "_resolve", resolve)
            timeout = PATIENCE if silent_at is None else 0.4
            with pytest.raises(DialError) as caught:
                await a.endpoint.dial("node.example", 1, timeout=timeout)
            assert caught.value.cause is cause


async def test_no_common_dialect() -> None:
    async with node() as a, node(alpns=["sample"]) as b:
        with pytest.raises(DialError, match=r"(?i)no (common ALPN|application protocol)"):
            await a.endpoint.dial("127.0.0.1", b.port, alpns=["quicdist/1"], timeout=PATIENCE)
        with pytest.raises(DialError):
            await a.endpoint.dial("no.such.host.invalid", 1, timeout=PATIENCE)


async def test_a_cancelled_dial_leaves_nothing() -> None:
    async with node() as a:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            task = asyncio.ensure_future(
                a.endpoint.dial("127.0.0.1", silent.getsockname()[1], timeout=PATIENCE)
            )
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not a.endpoint.connections


async def test_a_port_in_use() -> None:
    async with node() as a:
        with pytest.raises(OSError, match="in use"):
            await Endpoint.open(
                "127.0.0.1",
                a.port,
                settings=settings(),
                accept=lambda connection: Owner(connection),
            )


async def test_an_unknown_engine() -> None:
    with pytest.raises(ValueError, match="unknown QUIC engine 'quux'"):
        await Endpoint.open(
            "127.0.0.1",
            0,
            settings=settings(engine="quux"),
            accept=lambda connection: Owner(connection),
        )


async def test_a_closed_endpoint_dials_nobody_and_gives_its_port_back() -> None:
    async with node() as a, node() as b:
        await a.connect(b)
        port = a.port
        await a.endpoint.close()
        await a.endpoint.close()
        with pytest.raises(DialError):
            await a.endpoint.dial("127.0.0.1", b.port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))


async def test_many_connections_at_once() -> None:
    async with node() as hub:
        nodes: list[Node] = []
        opened = [node() for _ in range(4)]
        for each in opened:
            nodes.append(await each.__aenter__())
        try:
            owners = await asyncio.gather(*(n.dial(hub.port) for n in nodes for _ in range(10)))
            for owner in owners:
                await owner.until(lambda owner=owner: owner.is_up)  # type: ignore[misc]  # bound now
            assert len(hub.accepted) == len(hub.endpoint.connections) == 40
            for i, owner in enumerate(owners):
                owner.connection.send_frame((b"%d" % i,))
            for there in hub.accepted:
                await there.until(lambda there=there: there.frames)  # type: ignore[misc]  # bound now
            got = sorted(int(there.frames[0]) for there in hub.accepted)
            assert got == list(range(40))
        finally:
            for each in opened:
                await each.__aexit__(None, None, None)
        for there in hub.accepted:
            await there.until(lambda there=there: there.lost)  # type: ignore[misc]  # bound now
        assert not hub.endpoint.connections


async def test_both_dial_each_other_over_one_port_each() -> None:
    async with node() as a, node() as b:
        (a1, b1), (b2, a2) = await asyncio.gather(a.connect(b), b.connect(a))
        for sender, receiver in ((a1, b1), (b1, a1), (a2, b2), (b2, a2)):
            sender.connection.send_frame((b"hello",))
            await receiver.until(lambda receiver=receiver: receiver.frames == [b"hello"])  # type: ignore[misc]  # bound now
        assert a1.connection.peer_address == b2.connection.local_address


# -- addresses ----------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="127.0.0.2 is Linux's")
@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
async def test_replies_leave_from_the_address_that_was_dialed(bound: str) -> None:
    if bound == "::" and not await has_ipv6():
        pytest.skip("no IPv6 here")
    async with node() as a, node(bound) as b:
        here, there = await a.connect(b, host="127.0.0.2")
        assert here.connection.peer_address == ("127.0.0.2", b.port)
        assert there.connection.local_address == ("127.0.0.2", b.port)
        assert there.connection.peer_address == ("127.0.0.1", a.port)
        # A node on the wildcard address can also dial; the kernel chooses the source address.
        there, here = await b.connect(a)
        there.connection.send_frame((b"hello",))
        await here.until(lambda: here.frames)


async def test_ipv6() -> None:
    if not await has_ipv6():
        pytest.skip("no IPv6 here")
    async with node("::1") as a, node("::1") as b, node("::") as c:
        for other in (b, c):
            here, there = await a.connect(other, host="::1")
            assert here.connection.peer_address == ("::1", other.port)
            assert there.connection.local_address == ("::1", other.port)
        with pytest.raises(DialError):
            await a.endpoint.dial("127.0.0.1", b.port, timeout=1)
    async with node() as only_v4:
        with pytest.raises(DialError):
            await only_v4.endpoint.dial("::1", 1, timeout=1)


# -- flow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "limits"), [(64 * MIB, CarrierLimits()), (8 * MIB, SMALL)])
async def test_frames_far_larger_than_the_window(size: int, limits: CarrierLimits) -> None:
    async with node(limits=limits) as a, node(limits=limits) as b:
        here, there = await a.connect(b)
        body = os.urandom(1024) * (size // 1024)
        here.connection.send_frame((b"before",))
        here.connection.send_frame((memoryview(body)[: size // 2], body[size // 2 :]))
        here.connection.send_frame((b"after",))
        await there.until(lambda: len(there.frames) == 3)
        assert there.frames == [b"before", body, b"after"]
        assert await here.connection.flush(PATIENCE)


async def test_a_frame_above_the_limit_ends_the_connection() -> None:
    async with node() as a, node(limits=CarrierLimits(max_frame=1000)) as b:
        here, there = await a.connect(b)
        here.connection.send_frame((bytes(1000),))
        await there.until(lambda: there.frames)
        here.connection.send_frame((bytes(1001),))
        await there.until(lambda: there.lost)
        assert there.frames == [bytes(1000)]
        assert there.lost[0].kind is CloseKind.BROKEN
        assert "1001 bytes" in there.lost[0].text
        await here.until(lambda: here.lost)
        assert "1001 bytes" in here.lost[0].text


@pytest.mark.parametrize("alpn", ["quicdist/1", "sample", "macula-dist"])
async def test_a_reader_that_stops_stops_the_sender(alpn: str) -> None:
    """Buffers stay within window and watermark, and traffic resumes after the pause."""
    frame = bytes(16 * 1024)
    limits = CarrierLimits(high_water=256 * 1024, low_water=64 * 1024, receive_window=512 * 1024)
    async with node(limits=limits) as a, node(limits=limits, hoard=True) as b:
        here, there = await a.connect(b, alpn=alpn)
        sent = 0
        while True:
            while here.connection.is_writable:
                here.connection.send_frame((frame,))
                sent += 1
                assert sent < 1000
            await settled(lambda: there.frame_bytes)
            if not here.connection.is_writable:
                break
        accepted = sent * (len(frame) + 4)
        assert accepted <= limits.receive_window + limits.high_water + 2 * len(frame)
        assert there.frame_bytes <= limits.receive_window
        assert (
            here.connection.statistics().bytes_unacknowledged <= limits.high_water + len(frame) + 4
        )
        assert not await here.connection.flush(0.05)
        calls = here.writable_calls
        there.hoard = False
        there.connection.consumed(there.frame_bytes)
        await there.until(lambda: len(there.frames) == sent)
        await here.until(lambda: here.connection.is_writable)
        assert here.writable_calls == calls + 1
        assert await here.connection.flush(PATIENCE)


async def test_windows_grow_by_what_was_consumed_and_no_more() -> None:
    window, frame = 128 * 1024, 8 * 1024
    limits = CarrierLimits(receive_window=window, max_receive_window=window)
    async with node() as a, node(limits=limits, hoard=True) as b:
        here, there = await a.connect(b)
        for _ in range(100):
            here.connection.send_frame((bytes(frame),))
        total = 0
        for consumed in (0, 64 * 1024, 128 * 1024, 512 * 1024):
            # Consuming bytes that were not received adds no credit.
            total += min(consumed, there.frame_bytes - total)
            there.connection.consumed(consumed)
            # One frame may be incomplete, and the frame headers use credit, too.
            due = total + window - 2 * frame
            await there.until(lambda due=due: there.frame_bytes >= due)  # type: ignore[misc]  # bound now
        assert await settled(lambda: there.frame_bytes) <= total + window


async def test_memory_stays_bounded_while_nobody_reads() -> None:
    limits = CarrierLimits()
    async with node(limits=limits) as a, node(limits=limits, hoard=True) as b:
        here, there = await a.connect(b)
        there.on_frame = lambda data: None
        frame = bytes(64 * 1024)
        for _ in range(3):
            await asyncio.sleep(0.05)
            while here.connection.is_writable:
                here.connection.send_frame((frame,))
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(20):
                await asyncio.sleep(0.05)
                while here.connection.is_writable:
                    here.connection.send_frame((frame,))
            now, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert now < 4 * MIB
        assert not here.lost


async def test_what_is_in_flight_is_capped() -> None:
    async with node(max_in_flight=50_000, engine="aioquic") as a, node() as b:
        here, _ = await a.connect(b)
        assert isinstance(here.connection, QuicConnection)
        engine = here.connection._engine
        assert isinstance(engine, AioquicConnection)
        for _ in range(30):
            await here.send(bytes(64 * 1024))
            assert engine._quic._loss.bytes_in_flight <= 50_000
        assert await here.connection.flush(PATIENCE)
        assert engine._quic._loss.congestion_window == 50_000


async def test_a_tick_gets_through_while_bulk_flows() -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        for _ in range(40):
            await here.send(bytes(64 * 1024))
        here.connection.send_frame(())
        await there.until(lambda: b"" in there.frames)


async def test_small_messages_share_datagrams() -> None:
    async with pair_in(Weather(), seed=1) as (here, there, proxy):
        before = await settled(lambda: proxy.passed)
        for i in range(1000):
            here.connection.send_frame((b"%016d" % i,))
        await there.until(lambda: len(there.frames) == 1000)
        assert proxy.passed - before < 60  # 20 kB in datagrams of 1200 bytes, and ACKs


async def test_a_frame_after_a_pause_leaves_at_once_and_later_ones_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        connection = here.connection
        await asyncio.sleep(0.05)
        # The clock of uvloop can advance by the real pause between two calls.
        monkeypatch.setattr(quic_connection, "_QUIET", 60.0)
        before = connection.statistics().datagrams_sent
        assert connection.send_at_once(b"\x00\x00\x00\x051st..")
        assert connection.statistics().datagrams_sent == before + 1
        assert not connection.send_at_once(b"\x00\x00\x00\x05never")
        connection.send_frame((b"2nd..",))
        connection.send_frame((b"3rd..",))
        assert connection.statistics().datagrams_sent == before + 1
        await there.until(lambda: len(there.frames) == 3)
        assert there.frames == [b"1st..", b"2nd..", b"3rd.."]
        assert connection.statistics().datagrams_sent <= before + 3
        assert await connection.flush(PATIENCE)


async def test_an_engine_that_fails_at_a_frame_costs_its_connection_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with node() as a, node() as b:
        here, _ = await a.connect(b)
        other, _ = await a.connect(b)
        await asyncio.sleep(0.05)

        def fail(*_: object) -> None:
            monkeypatch.undo()
            raise ZeroDivisionError

        connection = here.connection
        assert isinstance(connection, QuicConnection)
        monkeypatch.setattr(connection._engine, "transmit", fail)
        connection.send_frame((b"x",))
        await here.until(lambda: here.lost)
        assert here.lost[0].cause is Cause.INTERNAL
        await other.send(b"y")
        await b.accepted[1].until(lambda: b.accepted[1].frames == [b"y"])


@pytest.mark.parametrize("engine", ["aioquic", "aioquic-plain", native()])
async def test_a_frame_that_left_at_once_and_was_lost_is_sent_again(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(engine=engine) as a, node(engine=engine) as b:
        here, there = await a.connect(b)
        await asyncio.sleep(0.05)
        lost: list[object] = []
        with monkeypatch.context() as cut:
            cut.setattr(a.endpoint._udp, "sender_to", lambda address: None)
            cut.setattr(a.endpoint._udp, "send_all", lost.extend)
            assert here.connection.send_at_once(b"\x00\x00\x00\x04only")
        assert len(lost) == 1
        await there.until(lambda: there.frames == [b"only"])  # nothing else happens
        assert await here.connection.flush(PATIENCE)


@pytest.mark.parametrize("how", ["closes", "stops the stream"])
async def test_an_answer_does_not_hide_the_end_that_came_with_its_question(how: str) -> None:
    async with node(engine="aioquic") as a, node(engine="aioquic") as b:
        here, there = await a.connect(b)
        there.on_frame = lambda frame: there.connection.send_frame((b"answer to " + frame,))
        await asyncio.sleep(0.05)
        connection = here.connection
        assert isinstance(connection, QuicConnection)
        connection.send_frame((b"question",))
        if how == "closes":
            connection.close("bye")
        else:
            engine = connection._engine
            assert isinstance(engine, AioquicConnection)
            engine._quic.stop_stream(0, 7)
            connection.transmit(asyncio.get_running_loop().time())
        await there.until(lambda: there.lost)
        assert there.frame_bytes == len(b"question")
        assert [one.cause for one in there.lost] == [Cause.PEER_CLOSED]


async def test_an_engine_that_refuses_an_answer_ends_the_connection_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        connection = there.connection
        assert isinstance(connection, QuicConnection)
        calls: list[str] = []

        def refuse(*_: object) -> None:
            raise EngineError("no")

        def answer(frame: bytes) -> None:
            monkeypatch.setattr(connection._engine, "write", refuse)
            for _ in range(3):
                connection.send_frame((frame,))
                assert not there.lost  # the handler is not called from inside
                calls.append("sent")

        there.on_frame = answer
        await asyncio.sleep(0.05)
        here.connection.send_frame((b"question",))
        await there.until(lambda: there.lost)
        await here.until(lambda: here.lost)
        await asyncio.sleep(0.01)
        assert calls == ["sent"] * 3
        assert [one.cause for one in there.lost] == [Cause.CARRIER]
        assert connection not in b.endpoint.connections
        assert connection not in b.endpoint._touched


async def test_the_time_of_a_connection_does_not_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with node() as a, node() as b:
        first, _ = await a.connect(b)
        second, _ = await a.connect(b)
        await asyncio.sleep(0.05)
        one, other = first.connection, second.connection
        assert isinstance(one, QuicConnection)
        assert isinstance(other, QuicConnection)
        times: list[float] = []
        transmit, forward = other._engine.transmit, one.transmit

        def transmitting(now: float, *arguments: Any) -> Any:
            times.append(now)
            return transmit(now, *arguments)

        def forwarding(now: float) -> None:
            forward(now)
            time.sleep(0.002)
            other.send_frame((b"forwarded",))

        monkeypatch.setattr(other._engine, "transmit", transmitting)
        monkeypatch.setattr(one, "transmit", forwarding)
        one.ping()
        other.ping()
        await until(lambda: len(times) >= 2)
        monkeypatch.undo()
        assert times == sorted(times)


async def test_statistics() -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        here.connection.send_frame((bytes(1000),))
        assert here.connection.statistics().bytes_unacknowledged >= 1004
        assert await here.connection.flush(PATIENCE)
        await there.until(lambda: there.frames)
        await until(
            lambda: (
                here.connection.statistics().bytes_sent
                == there.connection.statistics().bytes_received
            )
        )
        sent = here.connection.statistics()
        assert sent.bytes_unacknowledged == 0
        assert sent.round_trip is not None
        assert 0 < sent.round_trip < 5
        assert sent.datagrams_lost == 0


async def test_the_time_without_credit_is_counted() -> None:
    limits = CarrierLimits(receive_window=64 * 1024)
    async with node() as a, node(limits=limits, hoard=True) as b:
        here, there = await a.connect(b)
        assert here.connection.statistics().flow_blocked == 0
        for _ in range(20):
            here.connection.send_frame((bytes(16 * 1024),))
        await until(lambda: here.connection.statistics().flow_blocked > 0)
        there.hoard = False
        there.connection.consumed(there.frame_bytes)
        assert await here.connection.flush(PATIENCE)
        blocked = here.connection.statistics().flow_blocked
        here.connection.send_frame((bytes(1000),))
        await there.until(lambda: len(there.frames) == 21)
        assert here.connection.statistics().flow_blocked == blocked
        assert there.connection.statistics().flow_blocked == 0


# -- weather ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpn", ["quicdist/1", "sample", "erlang-dist"])
@pytest.mark.parametrize(
    "weather",
    [
        Weather(loss=0.05),
        Weather(loss=0.2, duplicate=0.1, reorder=0.2),
    ],
    ids=["5 % loss", "20 % loss, reordered, duplicated"],
)
async def test_bytes_exact_and_in_order_in_bad_weather(alpn: str, weather: Weather) -> None:
    async with pair_in(weather, seed=7, alpn=alpn) as (here, there, proxy):
        dice = random.Random(5)
        sent = [b"%d" % i + dice.randbytes(dice.choice((10, 500, 3000))) for i in range(120)]
        for frame in sent:
            await here.send(frame)
            await there.send(frame)
        for owner in (here, there):
            await owner.until(lambda owner=owner: len(owner.frames) >= len(sent) or owner.lost)  # type: ignore[misc]  # bound now
            assert owner.frames == sent
        assert proxy.dropped
        assert here.connection.statistics().datagrams_lost


# -- untrusted peers -------------------------------------------------------------------------------


def hostile_datagrams(count: int) -> list[bytes]:
    """Yields invalid datagrams that resemble QUIC packets."""
    dice = random.Random(11)
    shapes = (b"", b"\x40", b"\xc0", b"\xc0\x00\x00\x00\x01\x08", b"\xd0\x6b\x33\x43\xcf\x14")
    made = []
    for _ in range(count):
        head = dice.choice(shapes)
        made.append(head + dice.randbytes(dice.choice((0, 1, 20, 300, 1200, 1400))))
    made += [
        b"\xc0" + bytes(4) + bytes(1300),  # version negotiation itself
        b"\xff" * 1300,
        b"\xc0\x0a\x0a\x0a\x0a\xff" + bytes(1300),  # an id longer than allowed
        b"\xc0\x0a\x0a\x0a\x0a\x14" + bytes(10),
        b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x00\x00\x44\x00" + bytes(1300),
    ]
    return made


async def test_junk_costs_nothing() -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(("127.0.0.1", b.port))
            for i, data in enumerate(hostile_datagrams(3000)):
                stranger.send(data)
                if i % 100 == 0:
                    await asyncio.sleep(0)
        # Arrives on the same socket after the invalid datagrams.
        here.connection.send_frame((b"hello",))
        await there.until(lambda: there.frames)
        assert len(b.endpoint.connections) == 1
        await a.connect(b)


async def test_junk_for_a_known_connection_is_no_end_of_it() -> None:
    """Every datagram is followed by a copy with one bit changed."""
    async with pair_in(Weather(corrupt=1.0), seed=3) as (here, there, _):
        for i in range(300):
            await here.send(b"%d" % i)
        await there.until(lambda: len(there.frames) == 300)
        assert there.frames == [b"%d" % i for i in range(300)]


async def test_other_versions_are_told_ours() -> None:
    async with node() as b:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(("127.0.0.1", b.port))
            stranger.send(b"\xc0\x0a\x1a\x2a\x3a\x08destinat\x04srce" + bytes(1300))
            answer = await asyncio.wait_for(loop.sock_recv(stranger, 2000), PATIENCE)
            assert answer[0] & 0x80
            assert answer[1:5] == bytes(4)
            versions = [version.to_bytes(4, "big") for version in b.endpoint._engine.versions]
            assert answer[5:] == b"\x04srce\x08destinat" + b"".join(versions)
            # Too short for a QUIC packet, hence not answered.
            stranger.send(b"\xc0\x0a\x1a\x2a\x3a\x08destinat\x04srce" + bytes(300))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(stranger, 2000), 0.1)


async def test_bounds_on_connections() -> None:
    async with node() as a, node(admission=AdmissionLimits(max_connections=3)) as b:
        for _ in range(3):
            await a.connect(b)
        with pytest.raises(DialError, match="no answer"):
            await a.endpoint.dial("127.0.0.1", b.port, timeout=0.3)
    async with node() as a, node(admission=AdmissionLimits(max_half_open=2)) as b:
        connections = [await a.endpoint.dial("127.0.0.1", b.port) for _ in range(2)]
        with pytest.raises(DialError, match="no answer"):
            await a.endpoint.dial("127.0.0.1", b.port, timeout=0.3)
        connections[0].close("makes room")
        await asyncio.sleep(0.1)
        await a.connect(b)
