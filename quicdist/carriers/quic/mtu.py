"""How large a datagram the path to a peer carries: probed for, and never taken on trust.

Datagrams of growing sizes are tried with nothing of value in them; one that is acknowledged is what
is sent from then on. Where larger datagrams are lost again and again while nothing larger than the
first size arrives, the path has changed: back to what every path carries. After RFC 8899, without
its timers: the QUIC library says when a probe is lost. Pure: no clock, no socket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

BASE = 1200
"""UDP payload that every QUIC path carries (RFC 9000, 14)."""

_LADDER = (1350, 1452, 8900)
"""Sizes that are tried one after the other: tunnels, Ethernet with IPv6, jumbo frames."""

_LOOPBACK = 16_000
"""Larger ones would save little more; the interface itself carries 64 KiB."""

_PROBES = 3
"""Probes of one size that may be lost before it counts as too large."""

_SEARCH_AGAIN = 600.0
"""Seconds from the end of a search to the next: RFC 8899, 5.1.1, PMTU_RAISE_TIMER."""

_HOLES = 4
"""Times in a row that large datagrams were lost with none arriving between: a black hole."""

_AFTER_HOLE = (1.0, 60.0)
"""Seconds until a search after a black hole, the first time and, doubled each time, at most. It may
have been the dice: of datagrams of which a fifth is lost, four in a row are, every few MB."""


class PathMtu:
    """The search on one connection. Sizes in bytes, of UDP payload; times in seconds."""

    def __init__(self, host: str, largest: int) -> None:
        """`host` is the peer's address; no size above `largest` is tried."""
        self.size = min(BASE, largest)
        """What may be sent."""
        steps = (_LOOPBACK,) if is_loopback(host) else _LADDER
        self._steps: Sequence[int] = sorted({min(step, largest) for step in steps} - {self.size})
        self._next = 0
        self._lost = 0
        self._holes = 0
        self._under_way = 0
        self._not_before = 0.0
        self._pause, self._longest_pause = _AFTER_HOLE

    def probe(self, now: float) -> int | None:
        """The size of a probe that should be sent now, if any; it counts as sent."""
        if self._under_way or self._next >= len(self._steps) or now < self._not_before:
            return None
        self._under_way = self._steps[self._next]
        return self._under_way

    def probe_acknowledged(self, size: int) -> None:
        """It arrived."""
        if size != self._under_way:
            return  # of a search given up meanwhile
        self._under_way = 0
        self._lost = 0
        self._holes = 0
        self._next += 1
        self.size = size

    def probe_lost(self, size: int, now: float) -> None:
        """It did not arrive."""
        if size != self._under_way:
            return
        self._under_way = 0
        self._lost += 1
        if self._lost == _PROBES:
            self._lost = 0
            self._not_before = now + _SEARCH_AGAIN

    def arrived(self, size: int) -> None:
        """A datagram of this size was acknowledged."""
        if size > BASE:
            self._holes = 0

    def lost(self, size: int, now: float) -> bool:
        """Some were lost, the largest of this size; whether the path carries such no more."""
        if size <= BASE:
            return False
        self._holes += 1
        if self._holes < _HOLES:
            return False
        self.size = min(BASE, self.size)
        self._next = self._holes = self._lost = self._under_way = 0
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, self._longest_pause)
        return True


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine's loopback interface."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
