"""Delays handshakes from addresses that have sent wrong cookies.

No address is blocked, since a legitimate node may share its address, or its IPv6 /48, with an
attacker. The delay is at most `MOST` seconds, well below the handshake timeout.
"""

from __future__ import annotations

from collections import OrderedDict

from quicdist.carriers.address_group import site_prefix

FREE = 3
"""Wrong cookies without a delay, for configuration errors."""

MOST = 2.0
"""The maximum delay in seconds."""

_FIRST = 0.125
_HALF_LIFE = 60.0
_MOST_ADDRESSES = 4096


class CookieThrottle:
    """The wrong cookies received by one node. `now` is a time in seconds from one clock."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, host: str, now: float) -> None:
        """Counts a wrong cookie from `host`."""
        site = site_prefix(host)
        self._failures[site] = (self._count(site, now) + 1, now)
        self._failures.move_to_end(site)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def delay(self, host: str, now: float) -> float:
        """Returns the delay in seconds before the next handshake from `host` gets a challenge."""
        over = self._count(site_prefix(host), now) - FREE
        return 0.0 if over < 0 else min(MOST, _FIRST * 2.0 ** min(over, 16.0))

    def _count(self, site: str, now: float) -> float:
        count, since = self._failures.get(site, (0.0, now))
        return float(count * 0.5 ** ((now - since) / _HALF_LIFE))
