"""A UDP proxy that simulates a bad network, from a random seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from dataclasses import dataclass
from types import TracebackType

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Weather:
    """Properties of each direction: probabilities from 0 to 1, times in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of datagrams that are delayed by `delay`, so that later ones overtake them."""
    delay: float = 0.005
    corrupt: float = 0.0
    """Share of datagrams that are followed by a copy with one bit changed."""
    latency: float = 0.0
    """One-way latency; the round trip takes twice as long."""
    jitter: float = 0.0
    """Maximum additional latency, random per datagram, which causes reordering."""
    rate: float = 0.0
    """Bytes per second; 0 means no limit."""
    queue: float = 0.1
    """Maximum queueing time at that rate; datagrams that would wait longer are dropped."""
    largest: int = 65_535
    """Maximum datagram size in bytes; larger datagrams are dropped."""


class LossyProxy:
    """Relays datagrams between clients that send to `address` and `target`.

    Each client has a separate port towards the target, as behind a NAT.
    """

    def __init__(self, target: Address, weather: Weather, *, seed: int) -> None:
        self.weather = weather
        self.is_black_hole = False
        self.passed = 0
        self.dropped = 0
        self._target = target
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._front = self._open(None)
        self._backs: dict[Address, socket.socket] = {}
        self._outside = target[0]
        self._free: dict[bool, float] = {False: 0.0, True: 0.0}
        """Times when each direction can send the next datagram."""

    @property
    def address(self) -> Address:
        """The address for clients."""
        host, port = self._front.getsockname()[:2]
        return host, port

    async def __aenter__(self) -> LossyProxy:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sock in (self._front, *self._backs.values()):
            self._loop.remove_reader(sock)
            sock.close()

    def rebind(self, address: str | None = None) -> None:
        """Drops the NAT mappings: clients get new ports, and datagrams to the old ports are lost.

        With `address`, a local address, the new ports are on that address.
        """
        self._outside = address or self._outside
        for client, old in list(self._backs.items()):
            self._loop.remove_reader(old)
            old.close()
            self._backs[client] = self._open(client)

    def _open(self, client: Address | None) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((self._target[0] if client is None else self._outside, 0))
        self._loop.add_reader(sock, self._readable, sock, client)
        return sock

    def _readable(self, sock: socket.socket, client: Address | None) -> None:
        for _ in range(100):
            try:
                data, sender = sock.recvfrom(65535)
            except OSError:
                return
            if client is None:
                if sender not in self._backs:
                    self._backs[sender] = self._open(sender)
                self._treat(self._backs[sender], data, self._target)
            else:
                self._treat(self._front, data, client)

    def _treat(self, way_out: socket.socket, data: bytes, to: Address) -> None:
        dice = self._random
        is_lost = len(data) > self.weather.largest or dice.random() < self.weather.loss
        if self.is_black_hole or is_lost:
            self.dropped += 1
            return
        wait = self._wait(len(data), way_out is self._front)
        if wait is None:
            self.dropped += 1
            return
        self.passed += 1
        copies = [data]
        if dice.random() < self.weather.duplicate:
            copies.append(data)
        if dice.random() < self.weather.corrupt:
            broken = bytearray(data)
            broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
            copies.append(bytes(broken))
        for copy in copies:
            late = wait + self.weather.jitter * dice.random()
            if dice.random() < self.weather.reorder:
                late += self.weather.delay * (1 + dice.random())
            if late:
                self._loop.call_later(late, self._send, way_out, copy, to)
            else:
                self._send(way_out, copy, to)

    def _wait(self, size: int, is_back: bool) -> float | None:
        """Returns the delay of the next datagram in seconds; None if the queue is full."""
        weather = self.weather
        if not weather.rate:
            return weather.latency
        now = self._loop.time()
        begins = max(now, self._free[is_back])
        if begins - now > weather.queue:
            return None
        self._free[is_back] = begins + size / weather.rate
        return self._free[is_back] - now + weather.latency

    def _send(self, way_out: socket.socket, data: bytes, to: Address) -> None:
        with contextlib.suppress(OSError):
            way_out.sendto(data, to)
