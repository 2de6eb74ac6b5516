"""So many events in a second, on the average: a token bucket that tells how long to wait."""

from __future__ import annotations


class RateLimit:
    """As many as `per_second` at once, and so many in each second. Times are in seconds."""

    __slots__ = ("_at", "_left", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = max(1.0, per_second)
        self._at = 0.0

    def take(self, now: float) -> float:
        """Counts one more at `now`. Seconds until the next one is due; 0 is at once."""
        rate = self._per_second
        most = max(1.0, rate)
        self._left = min(most, self._left + (now - self._at) * rate) - 1
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) / rate
