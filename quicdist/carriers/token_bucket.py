"""How often something may happen."""

from __future__ import annotations

from collections import OrderedDict

MOST_KEYS = 4096
"""Keys of TokenBuckets."""


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


class TokenBuckets:
    """One for each key, such as an address. At most `MOST_KEYS` are kept: the one that was asked
    for longest ago is forgotten."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, key: str, now: float) -> bool:
        """Whether one more is allowed for this key at `now` (seconds)."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._per_second)
            if len(self._buckets) > MOST_KEYS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket.take(now)
