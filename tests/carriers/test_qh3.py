"""The engine qh3: the same connections, with itself and with aioquic at the other end."""

from __future__ import annotations

import asyncio
import builtins
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from quicdist import Identity, NoConnection, Node, Quic, Trust
from quicdist.carriers.base import CloseKind
from quicdist.carriers.quic.engine import load_engine
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.trust import Credentials
from quicdist.limits import CarrierLimits
from tests.carriers.owners import IDENTITY, node, settings
from tests.support.lossy import LossyProxy, Weather
from tests.support.waiting import settled

PAIRS = [("qh3", "qh3"), ("qh3", "aioquic"), ("aioquic", "qh3")]
ALPNS = ["quicdist/1", "erlang-dist", "macula-dist"]


def no_token(connection_id: bytes) -> bytes:
    return connection_id * 2


@pytest.mark.io
@pytest.mark.parametrize("alpn", ALPNS)
@pytest.mark.parametrize("ends", PAIRS, ids="-".join)
async def test_frames_both_ways_in_order(ends: tuple[str, str], alpn: str) -> None:
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(node(engine=engine)) for engine in ends]
        here, there = await a.connect(b, alpn=alpn)
        sent = [b"%d" % number + bytes(number % 700) for number in range(1500)]
        sent += [bytes([number]) * 300_000 for number in range(10)]
        for frame in sent:
            await here.send(frame)
            await there.send(frame)
        for owner in (here, there):
            await owner.until(lambda owner=owner: len(owner.frames) >= len(sent) or owner.lost)  # type: ignore[misc]  # bound now
            assert owner.frames == sent
            assert await owner.connection.flush(30)
        here.connection.close("enough")
        await there.until(lambda: there.lost)
        assert there.lost[0].kind is CloseKind.PEER
        assert "enough" in there.lost[0].text


@pytest.mark.io
@pytest.mark.parametrize("ends", PAIRS, ids="-".join)
async def test_who_does_not_consume_holds_back_who_sends(ends: tuple[str, str]) -> None:
    limits = CarrierLimits(receive_window=256 * 1024)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(engine=ends[0]))
        b = await stack.enter_async_context(node(engine=ends[1], limits=limits, hoard=True))
        here, there = await a.connect(b)
        frame, count = bytes(10_000), 400
        accepted = 0
        while here.connection.is_writable:
            here.connection.send_frame((frame,))
            accepted += 1
            await asyncio.sleep(0)
        await settled(lambda: there.frame_bytes)
        assert 0 < accepted < count
        assert there.frame_bytes <= 2 * limits.receive_window + 64 * 1024
        there.hoard = False
        there.connection.consumed(there.frame_bytes)
        for _ in range(count - accepted):
            await here.send(frame)
        await there.until(lambda: len(there.frames) >= count)
        assert there.frames == [frame] * count


@pytest.mark.io
@pytest.mark.parametrize("ends", PAIRS, ids="-".join)
async def test_what_is_acknowledged_has_arrived(ends: tuple[str, str]) -> None:
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(node(engine=engine, max_datagram_size=1200))
            for engine in ends
        ]
        weather = Weather(loss=0.05, reorder=0.1, duplicate=0.05, corrupt=0.02)
        target = ("127.0.0.1", b.port)
        proxy = await stack.enter_async_context(LossyProxy(target, weather, seed=5))
        here, there = await a.connect(b, port=proxy.address[1])
        for number in range(60):
            await here.send(bytes([number]) * 5000)
            if number % 20 == 19:
                assert await here.connection.flush(30)
                assert there.connection.statistics().bytes_received >= (number + 1) * 5004
        await there.until(lambda: len(there.frames) == 60)
        assert there.frames == [bytes([number]) * 5000 for number in range(60)]
        assert proxy.dropped


@pytest.mark.io
@pytest.mark.parametrize("listener", ["qh3", "aioquic"])
async def test_a_dialer_tries_small_datagrams_where_large_ones_vanish(listener: str) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(engine="qh3"))
        b = await stack.enter_async_context(node(engine=listener))
        target = ("127.0.0.1", b.port)
        proxy = await stack.enter_async_context(LossyProxy(target, Weather(largest=1472), seed=5))
        here, there = await a.connect(b, port=proxy.address[1])
        await here.send(b"x" * 100_000)
        await there.until(lambda: there.frames)
        assert there.frames == [b"x" * 100_000]


@pytest.mark.io
async def test_whoever_sends_in_a_connections_name_leaves_little_behind() -> None:
    async with node(engine="qh3") as a, node(engine="qh3") as b:
        here, there = await a.connect(b)
        (connection,) = b.endpoint.connections
        forged = b"\x41" + next(iter(b.endpoint._ids[connection])) + bytes(40)
        for _ in range(200):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(forged, ("127.0.0.1", b.port))
            await asyncio.sleep(0)
        await here.send(b"unmoved")
        await there.until(lambda: there.frames)
        engine: Any = connection._engine
        assert len(engine._paths) <= 16
        assert engine.path[0] == ("127.0.0.1", a.port)
        await there.send(b"nor the other")
        await here.until(lambda: here.frames)


@pytest.mark.io
@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
async def test_a_peer_that_closes_with_the_text_of_the_idle_timeout_has_closed(engine: str) -> None:
    async with node(engine=engine) as a, node(engine=engine) as b:
        here, there = await a.connect(b)
        there.connection.close("Idle timeout")
        await here.until(lambda: here.lost)
        assert here.lost[0].kind is CloseKind.PEER


@pytest.mark.io
@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
async def test_the_idle_timeout_is_known_as_such(engine: str) -> None:
    limits = CarrierLimits(idle_timeout=0.5)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(engine=engine, limits=limits))
        b = await stack.enter_async_context(node(engine=engine))
        target = ("127.0.0.1", b.port)
        proxy = await stack.enter_async_context(LossyProxy(target, Weather(), seed=1))
        here, _ = await a.connect(b, port=proxy.address[1])
        proxy.is_black_hole = True
        await here.until(lambda: here.lost)
        assert here.lost[0].kind is CloseKind.IDLE


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="qh3 does not support qlog"):
        load_engine(settings(engine="qh3", tracing=Tracing(qlog=tmp_path)), no_token)


def test_it_asks_nobody_for_a_certificate(tmp_path: Path) -> None:
    demanding = Credentials(IDENTITY, Trust.first_use(tmp_path / "known"))
    with pytest.raises(ValueError, match=r"qh3 cannot request .* uncertified=\['\*'\]"):
        load_engine(QuicSettings(demanding, engine="qh3"), no_token)
    content = Credentials(IDENTITY, Trust.first_use(tmp_path / "known", uncertified=["*"]))
    load_engine(QuicSettings(content, engine="qh3"), no_token)


@pytest.mark.io
@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
async def test_it_believes_whom_it_should(engine: str) -> None:
    other = Identity.ephemeral(["127.0.0.1"])
    carriers = [Quic(engine=engine)]
    server = Node(
        "0@127.0.0.1", cookie="c", identity=IDENTITY, trust=Trust.nothing(), carriers=carriers
    )
    async with server:
        for pin, is_right in ((IDENTITY, True), (other, False)):
            pins = Trust.pinned({server.name: pin.fingerprint}, uncertified=["*"])
            dialer = Node(
                "0@127.0.0.1", cookie="c", identity=other, trust=pins, carriers=[Quic(engine="qh3")]
            )
            async with dialer:
                if is_right:
                    await dialer.connect(server.name)
                else:
                    with pytest.raises(NoConnection, match="pin"):
                        await dialer.connect(server.name)


def test_without_it_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "quicdist.carriers.quic.engine.qh3", raising=False)
    real = builtins.__import__

    def failing(name: str, *rest: object) -> object:
        if name.startswith("qh3"):
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(ValueError, match=r"pip install 'quicdist\[fast\]'"):
        load_engine(settings(engine="qh3"), no_token)


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="'quiche': expected one of aioquic, aioquic-plain, qh3"):
        load_engine(settings(engine="quiche"), no_token)
