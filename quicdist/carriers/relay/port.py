"""A port of a relay: forwards between its clients and its node."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from quicdist.carriers.quic.engine import Batch, SocketAddress
from quicdist.carriers.quic.udp import UdpSocket
from quicdist.carriers.relay.allocation import Client, Clients, Owner, Rates
from quicdist.carriers.relay.batches import without_heads
from quicdist.carriers.relay.controls import Control
from quicdist.carriers.relay.fast_path import (
    BUDGET,
    BULK,
    BUSY,
    BUSY_BATCHES,
    LIFE,
    SMALL_BUDGET,
    FastPath,
)
from quicdist.carriers.relay.frames import FIRST_QUIC_BYTE
from quicdist.carriers.relay.statistics import Drop, RelayCounters
from quicdist.limits import RelayLimits

BATCHES = 16
"""Batches read from a socket in one event loop iteration: up to 64 datagrams each."""


class PortOwner(Protocol):
    """What a port wants of its relay."""

    limits: RelayLimits
    counters: RelayCounters
    rates: Rates
    fast: FastPath

    @property
    def main(self) -> UdpSocket:
        """The main socket."""

    def now(self) -> float:
        """The time of the event loop."""

    def open_port(self, number: int) -> Port | None:
        """Returns the open port with this number."""

    def port_at(self, to: SocketAddress, alias: str) -> Port | None:
        """Returns the open port at an address of this relay."""


class Port:
    """A port with its socket: forwards between its clients and its node."""

    def __init__(self, relay: PortOwner, number: int, owner: Owner, udp: UdpSocket) -> None:
        self.number = number
        self.owner = owner
        self.udp = udp
        self.alias = ""
        """The address of the relay as the node dialed it."""
        self.controls: list[Control] = []
        """The control connections of its node, the one in use first."""
        self.routed: SocketAddress | None = None
        """The address from which data frames of its node are accepted."""
        self.clients = Clients(relay.limits)
        self._siblings = Clients(relay.limits)
        """Other ports of this relay, by their addresses as the two nodes see them."""
        self.lingering: asyncio.TimerHandle | None = None
        self._relay = relay
        self._rate = relay.rates.of_key(owner.key)
        udp.ignore_errors()
        udp.watch(asyncio.get_running_loop(), self._on_ready)
        relay.fast.watch(udp, self._taken, frames=False)

    def _on_ready(self) -> None:
        if self.udp.has_queue:
            self.udp.send_queue()
        batches = self._relay.fast.receive(self.udp, BATCHES, frames=False)
        now = self._relay.now()
        for batch in batches:
            self.arrived(batch, now)

    def _taken(self, batch: Batch) -> None:
        self.arrived(batch, self._relay.now())

    def arrived(self, batch: Batch, now: float) -> None:
        """Forwards datagrams of one client to the node."""
        data, size, path = batch
        count = -(-len(data) // size) if size else 1
        if not size or min(data[::size]) < FIRST_QUIC_BYTE:
            if count == 1:
                self._drop(Drop.NOT_QUIC, 1)
            else:
                for at in range(0, len(data), size):
                    one = data[at : at + size]
                    self.arrived((one, len(one), path), now)
            return
        client = self.clients.heard(path[0], now)
        if client is None:
            self._drop(Drop.CLIENTS_FULL, count)
        elif self._forward(client, data, size, now):
            budget = self._budget(client, len(data), now)
            to = self.controls[0].data_address
            if budget and to is not None:
                relay = self._relay
                relay.fast.put(self.udp, path[0], b"", relay.main, to, client.head, budget)

    def arrived_from_port(self, source: SocketAddress, data: bytes, now: float) -> None:
        """Forwards a datagram of another port of this relay to the node."""
        client = self._siblings.heard(source, now)
        if client is None:
            self._drop(Drop.CLIENTS_FULL, 1)
        else:
            self._forward(client, data, len(data), now)

    def leaves(self, to: SocketAddress, data: bytes, size: int, head: int, now: float) -> None:
        """Forwards data frames of the node, all for one address.

        They have this size, the last may be shorter, and heads of `head` bytes. The address must be
        that of a client, or of another port of this relay. What a node says of other ports gives it
        no permission to send anything outside.
        """
        count = -(-len(data) // size)
        length = len(data) - count * head
        other = self._relay.port_at(to, self.alias)
        if other is None and self._siblings.permitted(to, now):
            other = self._relay.open_port(to[1])
        if other is not None:
            client = self._siblings.heard(to, now)
        else:
            client = self.clients.permitted(to, now)
        if client is None:
            self._drop(Drop.NOT_PERMITTED, count)
        elif not self._rate.take(client.bucket, length, now):
            self._drop(Drop.RATE, count)
        else:
            counters = self._relay.counters
            counters.datagrams_out += count
            counters.bytes_out += length
            parts = without_heads(data, size, head)
            if other is None:
                self.udp.send_segments(parts, (to, None))
                budget = self._budget(client, length, now)
                if budget and self.routed is not None:
                    main, fast = self._relay.main, self._relay.fast
                    life = min(LIFE, self.clients.left(client, now))
                    fast.put(main, self.routed, data[:head], self.udp, to, b"", budget, life)
                return
            # The other node sees the address of this port, as it would from outside.
            source = cast(SocketAddress, (to[0], self.number, *to[2:]))
            for part in parts:
                other.arrived_from_port(source, part, now)

    def expire(self, now: float) -> None:
        """Drops the permissions that have ended."""
        self.clients.expire(now)
        self._siblings.expire(now)

    def keep_open(self) -> None:
        """Reports that the port has a control connection again, if it had none."""
        if self.lingering is not None:
            self.lingering.cancel()
            self.lingering = None

    def close(self) -> None:
        """Closes the socket."""
        self.keep_open()
        self._relay.fast.unwatch(self.udp)
        self.udp.close()

    def _budget(self, client: Client, size: int, now: float) -> int:
        """Returns the bytes that a flow of the client may forward; 0 if it gets none.

        They count as forwarded, whether they are used or not. A flow of small datagrams, such as
        acknowledgements, gets few. Near a rate limit there are fewer than usual.
        """
        client.count(size, now, within=LIFE)
        is_bulk = size > BULK or client.volume > BUSY
        is_busy = client.volume > BUSY or client.batches > BUSY_BATCHES
        if not is_busy and now - client.granted > 2 * LIFE:
            return 0
        for budget in (BUDGET, BUDGET // 8) if is_bulk else (SMALL_BUDGET,):
            if self._rate.take(client.bucket, budget, now):
                client.granted = now
                client.counted = 0.0
                return budget
        return 0

    def _forward(self, client: Client, data: bytes, size: int, now: float) -> bool:
        count = -(-len(data) // size)
        if not self.controls:
            self._drop(Drop.NODE_AWAY, count)
        elif not self._rate.take(client.bucket, len(data), now):
            self._drop(Drop.RATE, count)
        else:
            counters = self._relay.counters
            counters.datagrams_in += count
            counters.bytes_in += len(data)
            self.controls[0].forward(client.head, data, size)
            return True
        return False

    def _drop(self, why: Drop, count: int) -> None:
        self._relay.counters.dropped[why] += count
