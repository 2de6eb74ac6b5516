"""How much a peer may send ahead of what was consumed: enough for the path, within a memory budget.

A window smaller than the bandwidth-delay product makes its sender wait in each round trip. The
product shows in how much arrives in a round trip, as long as it is consumed as it comes; the window
is then a few times that, since a sender that starts doubles its rate in each and learns of credit
half a round trip late. What is not consumed makes the window smaller again.
Pure: times are told. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

_ARRIVALS = 4
"""Times what arrives in a round trip."""
_MIN_INTERVAL = 0.005
"""Seconds over which a rate is measured at least: data comes in bursts."""


class MemoryBudget:
    """Bytes that the windows of all connections of a node may have together beyond their first."""

    def __init__(self, size: int) -> None:
        self.left = size

    def reserve(self, size: int) -> int:
        """Takes up to `size` bytes; how many it got."""
        got = max(min(size, self.left), 0)
        self.left -= got
        return got

    def release(self, size: int) -> None:
        """Gives back what `reserve` gave."""
        self.left += size


class ReceiveWindow:
    """Of one connection."""

    def __init__(self, first: int, largest: int, budget: MemoryBudget) -> None:
        self._first = first
        self._largest = max(largest, first)
        self._budget = budget
        self._reserved = 0
        self._received = 0
        self._at: float | None = None

    @property
    def size(self) -> int:
        """Bytes that may be on their way or unconsumed."""
        return self._first + self._reserved

    def raise_first(self, size: int) -> None:
        """The dialect needs at least this size."""
        self._first = max(self._first, size)
        self._largest = max(self._largest, self._first)

    def received(self, total: int, unconsumed: int, now: float, round_trip: float | None) -> None:
        """`total` bytes have come by now, of which `unconsumed` wait here."""
        if unconsumed > self.size // 2:
            self._resize(max(self._first, self.size // 2))
            return
        if self._at is None or round_trip is None:
            self._received, self._at = total, now
            return
        elapsed = now - self._at
        if elapsed < max(round_trip / 2, _MIN_INTERVAL):
            return
        rate = (total - self._received) / elapsed
        self._received, self._at = total, now
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
        """The connection is over: its memory is for others."""
        self._resize(self._first)
