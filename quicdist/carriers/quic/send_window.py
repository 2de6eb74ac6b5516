"""How many bytes may be on their way to a peer: what the path holds, and no long queue.

What is handed over waits in turn for the QUIC library, the kernels and the peer, and a small
message waits behind it. How long the path is shows in the least time from when a byte was handed
over until it was acknowledged; more than that holds at a good pace only makes a queue longer. What
is handed over costs time by the datagram, so it is counted in those.
Pure: no clock, times are told. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

import math

_PACE = 42_000
"""Datagrams a second. Below what a machine can do, so that a least time that was only ever seen
with a full window makes no larger window."""

_FEWEST = 112
"""Datagrams that keep both ends at work: some bursts of them."""

_MEMORY = 30.0
"""A path may become longer: times are forgotten when they are this old, or twice that."""


class SendWindow:
    """Of one connection."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = most
        """Bytes handed over and not acknowledged, at most."""
        self._mark: int | None = None
        self._marked_at = 0.0
        self._least = self._least_before = math.inf
        self._forget_at = 0.0

    def sent(self, queued: int, now: float) -> None:
        """Some were handed over, `queued` so far."""
        if self._mark is None:
            self._mark, self._marked_at = queued, now

    def acknowledged(self, acknowledged: int, datagram: int, now: float) -> None:
        """So many are, by now; a `datagram` is so large."""
        if self._mark is None or acknowledged < self._mark:
            return
        self._mark = None
        if now >= self._forget_at:
            self._least, self._least_before = math.inf, self._least
            self._forget_at = now + _MEMORY
        self._least = min(self._least, now - self._marked_at)
        datagrams = max(_PACE * min(self._least, self._least_before), _FEWEST)
        self.size = min(int(datagrams * datagram), self._most)
