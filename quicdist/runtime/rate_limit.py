"""A token bucket that returns how long to wait, and the wait: no clock and no timer."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

_MOST_NAMES: Final = 4096
"""The maximum number of names in a RateLimits."""


class RateLimit:
    """A limit of `per_second` events per second on average, with bursts of the same size.

    Times are in seconds.
    """

    __slots__ = ("_at", "_left", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = max(1.0, per_second)
        self._at = 0.0

    def take(self, now: float) -> float:
        """Counts an event at `now`.

        Returns the seconds until the next one is allowed, 0 for at once.
        """
        rate = self._per_second
        most = max(1.0, rate)
        # The debt of a peer that does not wait, such as one that reconnects, is at most one second.
        self._left = max(-most, min(most, self._left + (now - self._at) * rate) - 1)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) / rate


class RateLimits:
    """A rate limit for each name, which is kept after the end of its connections.

    At most `_MOST_NAMES` are kept. The least recently used one is removed first.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._limits: OrderedDict[str, RateLimit] = OrderedDict()

    def take(self, name: str, now: float) -> float:
        """Counts an event of this name. See `RateLimit.take`."""
        limit = self._limits.get(name)
        if limit is None:
            limit = self._limits[name] = RateLimit(self._per_second)
            if len(self._limits) > _MOST_NAMES:
                self._limits.popitem(last=False)
        self._limits.move_to_end(name)
        return limit.take(now)


class Pause:
    """The pause of a peer that has exceeded its rate. Times are event loop times in seconds."""

    def __init__(self) -> None:
        self.due = math.inf
        """When the pause ends; infinite without a pause."""

    def extend(self, seconds: float, now: float) -> None:
        """Begins a pause of `seconds`. One that has begun ends no earlier than before."""
        end = now + seconds
        self.due = end if math.isinf(self.due) else max(self.due, end)

    def look(self, now: float) -> bool:
        """Returns whether the pause is over, once."""
        if now < self.due:
            return False
        self.due = math.inf
        return True
