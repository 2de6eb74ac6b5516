"""Token buckets, which limit the rate of events."""

from __future__ import annotations

from collections import OrderedDict

MOST_KEYS = 4096
"""Number of keys that `TokenBuckets` keeps."""


class TokenBucket:
    """Allows `per_second` events a second on average, and bursts of the same number."""

    def __init__(self, per_second: float) -> None:
        self._per_second = self._left = per_second
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Takes a token at the time `now` (seconds); returns False if none is left."""
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class TokenBuckets:
    """One bucket for each key, such as an address.

    At most `MOST_KEYS` buckets are kept; the least recently used one is dropped.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, key: str, now: float) -> bool:
        """Takes a token of `key` at the time `now` (seconds); returns False if none is left."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._per_second)
            if len(self._buckets) > MOST_KEYS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket.take(now)
