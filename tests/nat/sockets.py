"""Two nodes of the lab with the path choice of quicdist on real sockets, but without QUIC.

The offers, which a relayed connection would carry, are handed over after the delay of such a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from quicdist.carriers.relay.candidates import Address, own_candidates
from quicdist.carriers.relay.paths import Output, PeerPaths, SendOffer, Switched
from quicdist.carriers.relay.punching import Transmit
from quicdist.protocol.role import Role
from tests.nat.lab import Lab, Site
from tests.nat.probing import Probe

PORT = 4433


@dataclass(frozen=True)
class Punched:
    """What an attempt brought: the direct paths of both nodes, and when they were found."""

    addresses: tuple[Address | None, Address | None]
    seconds: float

    @property
    def is_direct(self) -> bool:
        return all(self.addresses)


class SocketNode:
    """One node: its socket in its namespace, and its path choice."""

    def __init__(self, sock: socket.socket, role: Role, delay: float) -> None:
        self.paths = PeerPaths(role)
        self.peer: SocketNode
        self.is_direct = asyncio.Event()
        self.direct_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._delay = delay
        self._timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._timer is not None:
            self._timer.cancel()

    def start(self) -> None:
        self._perform(self.paths.proved(self._loop.time()))

    def took_offer(self, data: bytes) -> None:
        now = self._loop.time()
        self._perform(self.paths.offer_received(data, now, 2 * self._delay))

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, source = self._socket.recvfrom(2048)
                now = self._loop.time()
                self._perform(self.paths.receive(data, source[:2], now))

    def _perform(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Transmit(data, address):
                    with contextlib.suppress(OSError):  # an ICMP error of an earlier ping
                        self._socket.sendto(data, address)
                case SendOffer(data):
                    self._loop.call_later(self._delay, self.peer.took_offer, data)
                case Switched(address):
                    self.direct_at = self._loop.time()
                    if address is not None:
                        self.is_direct.set()
        if self._timer is not None:
            self._timer.cancel()
        if self.paths.next_at < float("inf"):
            self._timer = self._loop.call_at(self.paths.next_at, self._tick)

    def _tick(self) -> None:
        now = max(self._loop.time(), self.paths.next_at)
        self._perform(self.paths.tick(now))


async def punch(
    lab: Lab, dialer: Site, listener: Site, *, patience: float, is_v6: bool = False
) -> Punched:
    """Has the first nodes of two sites, or both nodes of one, search a direct path."""
    ends = ((dialer, dialer.nodes[0]), (listener, listener.nodes[-1]))
    for site, _ in ends:
        site.flush()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(Probe(lab, is_v6=is_v6))
        nodes = []
        for (site, space), role in zip(ends, Role, strict=True):
            sock = stack.enter_context(space.udp("::" if is_v6 else "0.0.0.0", PORT))
            observed = probe.observed(sock)
            node = SocketNode(sock, role, 2 * lab.delay)
            stack.callback(node.close)
            host = site.inside_v6 if is_v6 else _inside(site, site.nodes.index(space))
            seen = [observed] if observed else []
            node.paths.own = own_candidates([host], PORT, observed=seen)
            nodes.append(node)
        a, b = nodes
        a.peer, b.peer = b, a
        begin = loop.time()
        b.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(a.is_direct.wait(), b.is_direct.wait())
        seconds = max(a.direct_at, b.direct_at) - begin
        return Punched((a.paths.address, b.paths.address), seconds)


def _inside(site: Site, number: int) -> str:
    return site.inside if number == 0 else f"192.168.1.{5 + number}"
