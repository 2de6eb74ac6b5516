"""Pacing of datagrams: a token bucket that compensates for late timers.

Timers of event loops have a resolution of a millisecond and are later on a busy machine. A pacer
that sends one datagram per timer would be limited by the number of timers. This pacer counts the
bytes that the elapsed time allows, up to a bound. The average rate is therefore independent of the
timers, and a burst never exceeds the bound (draft-ietf-ccwg-bbr, 5.6.2 and 5.6.3; RFC 9002, 7.7).
It does no I/O and reads no clock. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import math

QUANTUM = 0.001
"""Size of a burst in seconds at the rate, which is the resolution of timers."""

MAX_LATE = 0.008
"""Maximum burst after a late timer, in seconds at the rate."""

_MIN_BURST = 10
"""Size of a burst in datagrams that is allowed at any rate (RFC 9002, section 7.7)."""


class Pacer:
    """A token bucket."""

    __slots__ = ("_at", "_rate", "_tokens", "datagram_size", "is_idle")

    def __init__(self, datagram_size: int) -> None:
        self.datagram_size = datagram_size
        self._rate = 0.0
        self._at = -math.inf
        self.is_idle = True
        """Whether nothing was sent since `on_idle`."""
        self._tokens = float(_MIN_BURST * datagram_size)

    @property
    def rate(self) -> float:
        """The rate in bytes per second; 0 disables pacing."""
        return self._rate

    def set_rate(self, rate: float, now: float) -> None:
        """Sets the rate. The time before `now` counts at the previous rate.

        Raises ValueError if the rate is negative or not a number.
        """
        if not rate >= 0:
            raise ValueError(f"invalid pacing rate {rate}: expected bytes per second, 0 or more")
        self._refill(now)
        self._rate = rate

    def room(self, now: float) -> float:
        """Number of bytes that may be sent now. The last datagram may exceed the rest."""
        if not self._rate:
            return math.inf
        self._refill(now)
        return self._tokens

    def has_room(self, now: float) -> bool:
        """Whether a datagram may be sent now."""
        if not self._rate:
            return True
        if now > self._at:  # called for each datagram of a burst with the same time
            self._refill(now)
        return self._tokens > 0

    def on_sent(self, size: int) -> None:
        """Reports that `size` bytes were sent."""
        self.is_idle = False
        if self._rate:
            self._tokens -= size

    def on_idle(self) -> None:
        """Reports that there is no data to send. The idle time adds no bytes to later bursts."""
        self.is_idle = True

    def next_time(self, now: float) -> float:
        """Time when the next burst may be sent; `now` if it may be sent already."""
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
