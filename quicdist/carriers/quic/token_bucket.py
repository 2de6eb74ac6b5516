"""How often something may happen."""

from __future__ import annotations


class TokenBucket:
    """So many events in a second, on the average, and as many at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = self._left = per_second
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more is allowed at `now` (seconds)."""
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
