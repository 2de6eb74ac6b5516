"""Wrong cookies, by the address that they come from: the next try waits longer for its turn.

Nobody is locked out, as an honest node may share its address, or its IPv6 /48, with one that
guesses: what comes from there is answered later, at most by `MOST` seconds, well within the time
for a handshake.
"""

from __future__ import annotations

from collections import OrderedDict

from quicdist.carriers.address_group import site_of

FREE = 3
"""Wrong ones that cost nothing: somebody mistyped."""

MOST = 2.0
"""Seconds."""

_FIRST = 0.125
_HALF_LIFE = 60.0
_MOST_ADDRESSES = 4096


class CookieThrottle:
    """Those of one node. `now` is a time in seconds, of one clock throughout."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, host: str, now: float) -> None:
        """A wrong cookie came from there."""
        site = site_of(host)
        self._failures[site] = (self._count(site, now) + 1, now)
        self._failures.move_to_end(site)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def delay(self, host: str, now: float) -> float:
        """How long the next one from there waits until it is given a challenge."""
        over = self._count(site_of(host), now) - FREE
        return 0.0 if over < 0 else min(MOST, _FIRST * 2.0 ** min(over, 16.0))

    def _count(self, site: str, now: float) -> float:
        count, since = self._failures.get(site, (0.0, now))
        return float(count * 0.5 ** ((now - since) / _HALF_LIFE))
