"""Bulk data over a lossy bottleneck between hosts that pause: no sender stops while data waits."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest

from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.quic.engine import Batch
from tests.carriers.quic.engine.network import End, Network
from tests.support.engines import ENGINES

MIB = 1024 * 1024
_DELAY = 0.025
"""Seconds in one direction."""
_RATE = 12_500_000
"""Bytes per second."""
_QUEUE = 0.1
"""Seconds."""
_GRAIN = 0.0001
"""Seconds after which a host looks for datagrams."""
_PAUSES = (0.005, 0.02, 0.05, 0.15)
_LARGEST = 1472
"""UDP payload that the path carries."""

each_engine = pytest.mark.parametrize("engine", ENGINES)


class Bottleneck(Network):
    """A network with a rate and a queue, whose hosts pause."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._free = {True: 0.0, False: 0.0}
        """When the link is free, in the direction of the listener and in the other one."""
        self._chance = random.Random(options["seed"])
        super().__init__(*arguments, **options)

    def _send(self, end: End, batch: Batch) -> None:
        data, size, (target, _) = batch
        way = end is self.dialer if hasattr(self, "dialer") else True
        for at in range(0, len(data), size):
            datagram = data[at : at + size]
            end.datagrams += 1
            start = max(self._free[way], self.now)
            is_full = start - self.now > _QUEUE
            if size > _LARGEST or is_full or self._dice.random() < self.loss:
                continue
            self._free[way] = start + len(datagram) / _RATE
            self._count += 1
            arrival = self._free[way] + _DELAY
            sent = (datagram, len(datagram), NOT_ECT)
            heapq.heappush(self._flying, (arrival, self._count, end.address, target, sent))

    def _next(self) -> float:
        pause = self._chance.choice(_PAUSES) if self._chance.random() < 0.0003 else 0.0
        return super()._next() + _GRAIN + pause


@each_engine
@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_no_sender_stops_while_data_waits(engine: str, loss: float, seed: int) -> None:
    network = Bottleneck(engine, engine, seed=seed)
    network.establish()
    network.open()
    network.loss = loss
    here, there = network.dialer, network.listener
    here.write(0, bytes(2 * MIB))
    start = last = network.now
    sent, silence = here.datagrams, 0.0

    def has_arrived() -> bool:
        nonlocal sent, last, silence
        if here.datagrams != sent:
            silence = max(silence, network.now - last)
            sent, last = here.datagrams, network.now
        return there.connection.received() == here.written

    network.run(has_arrived, 10.0)
    assert silence < 0.5
    assert network.now - start < 3.0
