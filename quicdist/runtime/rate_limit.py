"""A token bucket that returns how long to wait."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_MOST_NAMES: Final = 4096
"""Names of RateLimits."""


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
        # Who does not wait, as a peer that connects anew, owes a second's worth at most.
        self._left = max(-most, min(most, self._left + (now - self._at) * rate) - 1)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) / rate


class RateLimits:
    """One for each name, which outlasts its connections. At most `_MOST_NAMES` are kept: the one
    that was asked for longest ago is forgotten."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._limits: OrderedDict[str, RateLimit] = OrderedDict()

    def take(self, name: str, now: float) -> float:
        """As RateLimit.take, of this name."""
        limit = self._limits.get(name)
        if limit is None:
            limit = self._limits[name] = RateLimit(self._per_second)
            if len(self._limits) > _MOST_NAMES:
                self._limits.popitem(last=False)
        self._limits.move_to_end(name)
        return limit.take(now)
