"""A UDP proxy that treats datagrams as a bad network does, by the dice of a seed."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from types import TracebackType

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Weather:
    """Probabilities from 0 to 1, times in seconds. Both directions alike."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of datagrams that are late by `delay`, so that later ones overtake them."""
    delay: float = 0.005


class _Side(asyncio.DatagramProtocol):
    """One of the proxy's sockets."""

    def __init__(self, proxy: LossyProxy, client: Address | None) -> None:
        self.proxy = proxy
        self.client = client
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.proxy.datagram(self, data, addr)


class LossyProxy:
    """Stands before `target`: who sends to `address` reaches it, more or less.

    Each client has a port of its own towards the target, as behind a NAT.
    """

    def __init__(self, target: Address, weather: Weather, *, seed: int) -> None:
        self.weather = weather
        self.is_black_hole = False
        self.passed = 0
        self.dropped = 0
        self._target = target
        self._random = random.Random(seed)
        self._front: _Side | None = None
        self._backs: dict[Address, asyncio.Task[_Side]] = {}

    @property
    def address(self) -> Address:
        """Where clients send to."""
        assert self._front is not None
        assert self._front.transport is not None
        host, port = self._front.transport.get_extra_info("sockname")[:2]
        return host, port

    async def __aenter__(self) -> LossyProxy:
        self._front = await self._open(None, self._target[0])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._backs.values():
            side = await task
            if side.transport is not None:
                side.transport.close()
        assert self._front is not None
        assert self._front.transport is not None
        self._front.transport.close()
        await asyncio.sleep(0)

    async def _open(self, client: Address | None, host: str) -> _Side:
        loop = asyncio.get_running_loop()
        _, side = await loop.create_datagram_endpoint(
            lambda: _Side(self, client), local_addr=(host, 0)
        )
        return side

    def datagram(self, side: _Side, data: bytes, sender: Address) -> None:
        """One datagram arrived on one of our sockets."""
        dice = self._random
        if self.is_black_hole or dice.random() < self.weather.loss:
            self.dropped += 1
            return
        self.passed += 1
        for _ in range(2 if dice.random() < self.weather.duplicate else 1):
            if dice.random() < self.weather.reorder:
                late = self.weather.delay * (1 + dice.random())
                asyncio.get_running_loop().call_later(late, self._forward, side, data, sender)
            else:
                self._forward(side, data, sender)

    def _forward(self, side: _Side, data: bytes, sender: Address) -> None:
        front = self._front
        assert front is not None
        if side is not front:
            assert side.client is not None
            if front.transport is not None and not front.transport.is_closing():
                front.transport.sendto(data, side.client)
            return
        back = self._backs.get(sender)
        if back is None:
            back = asyncio.ensure_future(self._open(sender, self._target[0]))
            self._backs[sender] = back
        back.add_done_callback(lambda opened: self._send(opened.result(), data))

    def _send(self, side: _Side, data: bytes) -> None:
        if side.transport is not None and not side.transport.is_closing():
            side.transport.sendto(data, self._target)
