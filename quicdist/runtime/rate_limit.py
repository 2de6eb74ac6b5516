"""A token bucket that returns how long to wait."""

from __future__ import annotations


class RateLimit:
    """A limit of `per_second` events per second on average, with bursts of the same size. Times
    are in seconds."""

    __slots__ = ("_at", "_left", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = max(1.0, per_second)
        self._at = 0.0

    def take(self, now: float) -> float:
        """Counts an event at `now`. Returns the seconds until the next one is allowed, 0 for at
        once."""
        rate = self._per_second
        most = max(1.0, rate)
        self._left = min(most, self._left + (now - self._at) * rate) - 1
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) / rate
