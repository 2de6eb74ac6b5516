"""Path MTU discovery, also after a change of the path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from aioquic.quic import connection as aioquic_connection
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.engine.aioquic import AioquicConnection
from quicdist.carriers.quic.mtu import BASE, PathMtu
from tests.carriers.owners import Owner, node
from tests.support.lossy import LossyProxy, Weather

FAR, NEAR = "192.0.2.1", "127.0.0.1"

needs_probes = pytest.mark.skipif(
    not hasattr(aioquic_connection.QuicConnection, "_flush_builder"),
    reason="this aioquic is too old for datagrams of our own making: no path is probed",
)


def search(mtu: PathMtu, passes: Callable[[int], bool], now: float = 0.0) -> list[int]:
    """Returns the probe sizes until the search ends."""
    tried: list[int] = []
    while (size := mtu.probe(now)) is not None:
        tried.append(size)
        if passes(size):
            mtu.probe_acknowledged(size)
        else:
            mtu.probe_lost(size, now)
    return tried


def test_it_climbs_as_far_as_the_path_carries() -> None:
    mtu = PathMtu(FAR, 16_000)
    assert mtu.size == BASE
    assert search(mtu, lambda size: size <= 1472) == [1350, 1452, 8900, 8900, 8900]
    assert mtu.size == 1452
    assert search(mtu, lambda size: True, now=599.0) == []
    assert search(mtu, lambda size: True, now=600.0) == [8900]
    assert mtu.size == 8900


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"])
def test_on_loopback_it_leaps(host: str) -> None:
    mtu = PathMtu(host, 16_000)
    assert search(mtu, lambda size: True) == [16_000]
    assert mtu.size == 16_000


@given(st.integers(1200, 20_000), st.sampled_from([FAR, NEAR, "fe80::1%eth0"]))
def test_nothing_larger_than_allowed_is_tried(largest: int, host: str) -> None:
    mtu = PathMtu(host, largest)
    assert all(size <= largest for size in search(mtu, lambda size: True))
    assert BASE <= mtu.size <= largest


def test_one_probe_at_a_time() -> None:
    mtu = PathMtu(FAR, 16_000)
    assert mtu.probe(0.0) == 1350
    assert mtu.probe(0.0) is None


def test_a_black_hole_is_left_and_not_entered_again_at_once() -> None:
    mtu = PathMtu(FAR, 16_000)
    search(mtu, lambda size: True)
    verdicts = [mtu.lost(8900, 10.0) for _ in range(4)]
    assert verdicts == [False, False, False, True]
    assert mtu.size == BASE
    assert mtu.probe(10.9) is None
    assert mtu.probe(11.0) == 1350


def test_after_each_black_hole_it_waits_twice_as_long() -> None:
    mtu = PathMtu(NEAR, 16_000)
    search(mtu, lambda size: True)
    now, pauses = 0.0, []
    for _ in range(8):
        assert [mtu.lost(16_000, now) for _ in range(4)][-1]
        began = now
        while mtu.probe(now) is None:
            now += 0.5
        pauses.append(now - began)
        mtu.probe_acknowledged(16_000)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_losses_between_arrivals_are_no_black_hole() -> None:
    mtu = PathMtu(FAR, 16_000)
    search(mtu, lambda size: True)
    for _ in range(100):
        assert not mtu.lost(8900, 10.0)
        assert not mtu.lost(BASE, 10.0)
        mtu.arrived(8900)


# -- on sockets ---------------------------------------------------------------------------------


def size_of(owner: Owner) -> int:
    """Returns the datagram size that this end sends."""
    carrier = owner.connection
    assert isinstance(carrier, QuicConnection)
    engine = carrier._engine
    assert isinstance(engine, AioquicConnection)
    assert engine._mtu is not None
    return engine._mtu.size


async def pass_on(here: Owner, there: Owner, count: int = 40) -> None:
    """Checks that frames of many datagrams arrive."""
    frames = [bytes([number]) * 50_000 for number in range(count)]
    for frame in frames:
        await here.send(frame)
    await there.until(lambda: len(there.frames) >= count)
    assert there.frames == frames
    there.frames.clear()


@pytest.mark.io
@needs_probes
@pytest.mark.parametrize("engine", ["aioquic", "aioquic-plain"])
async def test_large_where_the_path_is_wide_and_small_when_it_has_narrowed(engine: str) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(engine=engine))
        b = await stack.enter_async_context(node(engine=engine))
        wide = Weather(loss=0.01)
        proxy = await stack.enter_async_context(LossyProxy(("127.0.0.1", b.port), wide, seed=3))
        here, there = await a.connect(b, port=proxy.address[1])
        while size_of(here) == BASE:
            await pass_on(here, there)
        assert size_of(here) == 16_000
        proxy.weather = dataclasses.replace(wide, largest=1300)
        await pass_on(here, there)
        assert size_of(here) == BASE


@pytest.mark.io
@needs_probes
async def test_a_narrow_path_costs_nothing_but_the_probes() -> None:
    async with AsyncExitStack() as stack:
        # The native engine searches by halves and finds larger sizes with more probes.
        a = await stack.enter_async_context(node(engine="aioquic"))
        b = await stack.enter_async_context(node(engine="aioquic"))
        narrow = Weather(largest=1300)
        proxy = await stack.enter_async_context(LossyProxy(("127.0.0.1", b.port), narrow, seed=3))
        here, there = await a.connect(b, port=proxy.address[1])
        await pass_on(here, there)
        assert size_of(here) == BASE
        assert proxy.dropped <= 6
