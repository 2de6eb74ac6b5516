"""When datagrams may leave: at a rate, in small bursts, with what a late timer missed made up for.

Event loops' timers have a resolution of a millisecond and come later than that on a busy machine.
A pacer that lets go one datagram per timer would send as many datagrams as there are timers. This
one counts in bytes what the time gone by allows, up to a bound, so that the rate holds on average
whatever the timers do, and a burst is never longer than the bound (draft-ietf-ccwg-bbr, sections
5.6.2 and 5.6.3; RFC 9002, section 7.7). Pure: times are told. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

import math

QUANTUM = 0.001
"""Seconds' worth of bytes that leave together: timers have no finer resolution."""

MAX_LATE = 0.008
"""Seconds' worth of bytes that a late timer may make up for at once."""

_MIN_BURST = 10
"""Datagrams that may leave at once at any rate (RFC 9002, section 7.7)."""


class Pacer:
    """A token bucket."""

    __slots__ = ("_at", "_rate", "_tokens", "datagram_size", "is_idle")

    def __init__(self, datagram_size: int) -> None:
        self.datagram_size = datagram_size
        self._rate = 0.0
        self._at = -math.inf
        self.is_idle = True
        """Nothing has left since `on_idle`."""
        self._tokens = float(_MIN_BURST * datagram_size)

    @property
    def rate(self) -> float:
        """Bytes a second; 0 means unpaced."""
        return self._rate

    def set_rate(self, rate: float, now: float) -> None:
        """A new rate from now on; the time gone by counts at the old one. Raises ValueError for one
        that is negative or not a number."""
        if not rate >= 0:
            raise ValueError(f"invalid pacing rate {rate}: expected bytes a second, 0 or more")
        self._refill(now)
        self._rate = rate

    def room(self, now: float) -> float:
        """Bytes that may leave now. The datagram that uses up the rest may be larger than it."""
        if not self._rate:
            return math.inf
        self._refill(now)
        return self._tokens

    def has_room(self, now: float) -> bool:
        """Whether a datagram may leave now."""
        if not self._rate:
            return True
        if now > self._at:  # asked for each datagram of a burst, at one time
            self._refill(now)
        return self._tokens > 0

    def on_sent(self, size: int) -> None:
        """`size` bytes left."""
        self.is_idle = False
        if self._rate:
            self._tokens -= size

    def on_idle(self) -> None:
        """Nothing waits: the time until something does is not made up for."""
        self.is_idle = True

    def next_time(self, now: float) -> float:
        """When the next quantum may leave; `now` if it may already."""
        if not self._rate:
            return now
        self._refill(now)
        wanted = max(self._rate * QUANTUM, 1.0)
        if self._tokens > 0:
            return now
        return now + (wanted - self._tokens) / self._rate

    def _refill(self, now: float) -> None:
        elapsed = now - self._at
        if elapsed <= 0:
            return
        self._at = now
        if not self._rate:
            return
        burst = max(self._rate * QUANTUM, _MIN_BURST * self.datagram_size)
        bound = burst if self.is_idle else max(self._rate * MAX_LATE, burst)
        self._tokens = min(self._tokens + elapsed * self._rate, bound)
