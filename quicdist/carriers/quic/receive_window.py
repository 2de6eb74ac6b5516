"""Automatic tuning of the receive window, within a memory budget.

The receive window is the number of bytes that a peer may send beyond the consumed ones. A window
smaller than the bandwidth-delay product makes the sender wait in each round trip. The product is
estimated twice in each round trip from the bytes that arrive while they are consumed immediately.
The window is a multiple of that, because a sender in slow start doubles its rate in each round trip
and receives credit half a round trip later. So the window never is the limit of a slow start for
longer than a round trip. Unconsumed data reduces the window again.

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
_LEAST_WAIT = 128 * 1024
"""Bytes that may wait there at any rate: the data of one event loop iteration is no queue."""
_SHARE = 4
"""Part of the window that justifies a datagram with credit. A sender that uses its whole credit
waits for this part."""
_GRANT_STEP = 512 * 1024
"""Credit in bytes that justifies a datagram for any window size."""
_CAUTIOUS = 4
"""Measurements without waiting data after which `ahead` grows faster."""


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
        self.size = first
        """Maximum number of bytes that are in flight or unconsumed."""
        self._consumed = 0
        self._at: float | None = None
        self._due = -math.inf
        self._rate = 0.0
        """Bytes per second that the reader can read, a moving average. Only the measurements while
        data waits in the socket lower it, because in the others the reader waited."""
        self._waits = False
        """Whether data waited in the socket at the last measurement."""
        self._clear = 0
        """Measurements since data has waited in the socket."""
        self.ahead: int | None = None
        """Maximum bytes beyond the highest received ones, while data waits in the socket."""

    @property
    def step(self) -> int:
        """Credit in bytes that justifies a datagram."""
        if self.ahead is not None:
            return max(min(self.ahead // 8, _GRANT_STEP), 1)
        return max(min(self.size // _SHARE, _GRANT_STEP), 1)

    def raise_first(self, size: int) -> None:
        """Raises the initial size to the minimum that the dialect needs."""
        more = max(size - self._first, 0)
        self._first += more
        self.size += more
        self._largest = max(self._largest, self._first)

    def is_due(self, now: float) -> bool:
        """Whether a measurement is due: the caller must call `received`, and only then."""
        return now >= self._due

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
        shortest = _MIN_INTERVAL if round_trip is None else min(round_trip, least)
        interval = max(shortest / 2, _MIN_INTERVAL)
        consumed = total - unconsumed
        before, since = self._consumed, self._at
        self._consumed, self._at, self._due = consumed, now, now + interval
        if unconsumed > self.size // 2:
            self._resize(max(self._first, self.size // 2))
        elif since is not None and round_trip is not None and now > since:
            rate = (consumed - before) / (now - since)
            self._look_at_socket(unread, rate, shortest)
            if self.ahead is None:
                wanted = min(int(_ARRIVALS * rate * round_trip), self._largest)
                if wanted > self.size:
                    self._resize(wanted)

    def _look_at_socket(self, unread: int, rate: float, least: float) -> None:
        """Limits `ahead` while data waits in the socket, and raises it again afterwards.

        The first limit needs two measurements, because a burst is no queue. Without waiting data
        the limit grows slowly at first, and fast if it was none of the reader.
        """
        waits = unread > max(_LEAST_WAIT, max(rate, self._rate) * _MAX_WAIT)
        if rate > self._rate:
            self._rate += (rate - self._rate) / 2
        elif waits:
            self._rate += (rate - self._rate) / 4
        if waits and (self._waits or self.ahead is not None):
            self.ahead = max(int(self._rate * (least + _MAX_WAIT)), self._first)
        self._waits = waits
        self._clear = 0 if waits else self._clear + 1
        if self.ahead is None or waits:
            return
        self.ahead += self.ahead >> max(4 - self._clear // _CAUTIOUS, 0)
        if self.ahead >= self.size:
            self.ahead = None

    def _resize(self, size: int) -> None:
        wanted = size - self.size
        if wanted >= 0:
            self.size += self._budget.reserve(wanted)
        else:
            self._budget.release(-wanted)
            self.size = size

    def close(self) -> None:
        """Returns the reserved memory to the budget at the end of the connection."""
        self._resize(self._first)
