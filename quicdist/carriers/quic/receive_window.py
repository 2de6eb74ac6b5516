"""Automatic tuning of the receive window, within a memory budget.

The receive window is the number of bytes that a peer may send beyond the consumed ones. A window
smaller than the bandwidth-delay product makes the sender wait in each round trip. The product is
estimated from the bytes that arrive in a round trip while they are consumed immediately. The window
is a multiple of that, because a sender in slow start doubles its rate in each round trip and
receives credit half a round trip later. Unconsumed data reduces the window again.

A sender cannot tell a slow reader from a slow path. It fills the buffer of the socket, where small
messages wait behind bulk data as in the queue of a router. While data waits there, the peer may
only send as far ahead as the reader processes in a round trip.

This module does no I/O and reads no clock. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import math

_ARRIVALS = 4
"""Window as a multiple of the bytes that arrive in a round trip."""
_MIN_INTERVAL = 0.005
"""Minimum time in seconds of a rate measurement, because data arrives in bursts."""
_MAX_WAIT = 0.005
"""Maximum time in seconds that data may wait in the buffer of the socket."""
_GRANT_STEP = 512 * 1024
"""Credit in bytes that justifies a datagram for any window size."""


class MemoryBudget:
    """Memory that the connections of a node share to enlarge their windows."""

    def __init__(self, size: int) -> None:
        self.left = size

    def reserve(self, size: int) -> int:
        """Reserves up to `size` bytes. Returns the number of reserved bytes."""
        got = max(min(size, self.left), 0)
        self.left -= got
        return got

    def release(self, size: int) -> None:
        """Releases bytes that `reserve` has returned."""
        self.left += size


class ReceiveWindow:
    """The receive window of one connection."""

    def __init__(self, first: int, largest: int, budget: MemoryBudget) -> None:
        self._first = first
        self._largest = max(largest, first)
        self._budget = budget
        self._reserved = 0
        self._received = 0
        self._at: float | None = None
        self._rate = 0.0
        """Bytes per second that are read, a moving average."""
        self.ahead: int | None = None
        """Maximum bytes beyond the highest received ones, while data waits in the socket."""

    @property
    def step(self) -> int:
        """Credit in bytes that justifies a datagram."""
        if self.ahead is not None:
            return min(self.ahead // 8, _GRANT_STEP)
        return min(self.size // 2, _GRANT_STEP)

    @property
    def size(self) -> int:
        """Maximum number of bytes that are in flight or unconsumed."""
        return self._first + self._reserved

    def raise_first(self, size: int) -> None:
        """Raises the initial size to the minimum that the dialect needs."""
        self._first = max(self._first, size)
        self._largest = max(self._largest, self._first)

    def received(
        self,
        total: int,
        unconsumed: int,
        now: float,
        round_trip: float | None,
        *,
        least: float = math.inf,
        unread: int = 0,
    ) -> None:
        """Reports the number of bytes received so far, and how many of them are not consumed.

        `round_trip` is the smoothed and `least` the minimum round trip, and `unread` the number of
        bytes that wait in the socket.
        """
        if unconsumed > self.size // 2:
            self._resize(max(self._first, self.size // 2))
            return
        if self._at is None or round_trip is None:
            self._received, self._at = total, now
            return
        elapsed = now - self._at
        if elapsed < max(min(round_trip, least) / 2, _MIN_INTERVAL):
            return
        rate = (total - self._received) / elapsed
        self._received, self._at = total, now
        self._rate += (rate - self._rate) / 4 if self._rate else rate
        if unread > self._rate * _MAX_WAIT:
            ahead = int(self._rate * (min(round_trip, least) + _MAX_WAIT))
            self.ahead = max(ahead, self._first)
        elif self.ahead is not None:
            self.ahead += self.ahead // 16
        if self.ahead is not None:
            if self.ahead < self.size:
                return
            self.ahead = None
        wanted = min(int(_ARRIVALS * rate * round_trip), self._largest)
        if wanted > self.size:
            self._resize(wanted)

    def _resize(self, size: int) -> None:
        wanted = size - self.size
        if wanted >= 0:
            self._reserved += self._budget.reserve(wanted)
        else:
            self._budget.release(-wanted)
            self._reserved += wanted

    def close(self) -> None:
        """Returns the reserved memory to the budget at the end of the connection."""
        self._resize(self._first)
