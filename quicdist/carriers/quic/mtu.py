"""Path MTU discovery for QUIC (RFC 8899; RFC 9000, 14.3).

The search sends probes of growing size, which contain only padding. After a probe is acknowledged,
its size becomes the maximum datagram size. If datagrams above the base size are lost several times
in a row and none arrives, the path is a black hole for that size, and the base size is used again.
There are no RFC 8899 timers: the QUIC library reports lost probes. This module uses no clock and no
socket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

BASE = 1200
"""UDP payload in bytes that every QUIC path supports (RFC 9000, 14)."""

_LADDER = (1350, 1452, 8900)
"""Probe sizes in bytes, in this order: tunnels, Ethernet with IPv6, jumbo frames."""

_LOOPBACK = 16_000
"""Probe size in bytes on the loopback interface, which carries up to 64 KiB. Larger datagrams
would be hardly faster."""

_PROBES = 3
"""Number of lost probes after which a size counts as too large."""

_SEARCH_AGAIN = 600.0
"""Seconds between two searches (RFC 8899, 5.1.1: PMTU_RAISE_TIMER)."""

_HOLES = 4
"""Number of consecutive losses of large datagrams that indicate a black hole."""

_AFTER_HOLE = (1.0, 60.0)
"""Initial and maximum delay in seconds of the search after a black hole; the delay doubles each
time. Random loss can look like a black hole: at 20 % loss, four consecutive losses occur every few
MB."""


class PathMtu:
    """Path MTU discovery of one connection.

    Sizes are bytes of UDP payload, times are seconds.
    """

    def __init__(self, host: str, largest: int) -> None:
        """`host` is the peer's address, and `largest` the maximum size to probe."""
        self.size = min(BASE, largest)
        """The current maximum datagram size."""
        steps = (_LOOPBACK,) if is_loopback(host) else _LADDER
        self._steps: Sequence[int] = sorted({min(step, largest) for step in steps} - {self.size})
        self._next = 0
        self._lost = 0
        self._holes = 0
        self._under_way = 0
        self._not_before = 0.0
        self._pause, self._longest_pause = _AFTER_HOLE

    def is_due(self, now: float) -> bool:
        """Whether a probe is to be sent now."""
        return not self._under_way and self._next < len(self._steps) and now >= self._not_before

    def probe(self, now: float) -> int | None:
        """Returns the size of a probe to send now, or None. The probe counts as sent."""
        if not self.is_due(now):
            return None
        self._under_way = self._steps[self._next]
        return self._under_way

    def probe_acknowledged(self, size: int) -> None:
        """Reports that the peer acknowledged a probe of this size."""
        if size != self._under_way:
            return  # the probe belongs to a cancelled search
        self._under_way = 0
        self._lost = 0
        self._holes = 0
        self._next += 1
        self.size = size

    def probe_lost(self, size: int, now: float) -> None:
        """Reports that a probe of this size was lost."""
        if size != self._under_way:
            return
        self._under_way = 0
        self._lost += 1
        if self._lost == _PROBES:
            self._lost = 0
            self._not_before = now + _SEARCH_AGAIN

    def arrived(self, size: int) -> None:
        """Reports that a datagram of this size was acknowledged."""
        if size > BASE:
            self._holes = 0

    def lost(self, size: int, now: float) -> bool:
        """Reports lost datagrams, the largest of which had this size.

        Returns True if this indicates a black hole; `size` is then the base size again.
        """
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
    """Returns whether an IP address is a loopback address; IPv4-mapped ones count."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
