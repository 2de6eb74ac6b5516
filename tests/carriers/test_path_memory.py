"""An endpoint remembers what a connection has measured, for the next one to the same address."""

from __future__ import annotations

import pytest

from quicdist.carriers.quic.congestion.resume import LEAST_DELIVERED
from quicdist.carriers.quic.connection import QuicConnection
from tests.carriers.owners import node
from tests.support.engines import ENGINES
from tests.support.lossy import LossyProxy, Weather
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io

LATENCY = 0.01
FRAME = bytes(64 * 1024)


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_next_connection_takes_the_measurement(engine: str) -> None:
    async with (
        node(engine=engine) as a,
        node() as b,
        LossyProxy(("127.0.0.1", b.port), Weather(latency=LATENCY), seed=1) as proxy,
    ):
        here, _ = await a.connect(b, port=proxy.address[1])
        for _ in range(LEAST_DELIVERED // len(FRAME) + 1):
            await here.send(FRAME)
        assert await here.connection.flush(PATIENCE)
        here.connection.close("measured enough")
        assert isinstance(here.connection, QuicConnection)
        capacity = a.endpoint.take_capacity(here.connection)
        assert capacity is not None
        # uvloop counts the milliseconds of a timer from the start of its iteration.
        assert capacity.round_trip >= 1.8 * LATENCY
        assert capacity.in_flight > 0
        a.endpoint.store_capacity(here.connection, capacity)
        await a.connect(b, port=proxy.address[1])
        assert a.endpoint.take_capacity(here.connection) is None


async def test_a_short_connection_is_no_measurement() -> None:
    async with (
        node() as a,
        node() as b,
        LossyProxy(("127.0.0.1", b.port), Weather(latency=LATENCY), seed=1) as proxy,
    ):
        here, _ = await a.connect(b, port=proxy.address[1])
        await here.send(FRAME)
        assert await here.connection.flush(PATIENCE)
        here.connection.close("short")
        assert isinstance(here.connection, QuicConnection)
        assert a.endpoint.take_capacity(here.connection) is None
