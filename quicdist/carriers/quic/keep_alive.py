"""Decides when a connection sends a PING, from times that are passed in.

A NAT forgets a mapping after some time without packets, often 30 s (RFC 4787, 4.3, asks for 2
minutes). Packets from outside are then dropped until the inside sends. So the dialer, which may be
behind a NAT, sends a PING in time.

A path can also be lost at once, for example when a NAT restarts. A sender whose data is not
acknowledged sends PINGs at a steady pace. The probe timeout of QUIC doubles (RFC 9002, 6.2.1), so
after a long outage it may come as late as the outage was long. PINGs decide nothing: a slow peer
and a lossy path only cause more of them.
"""

from __future__ import annotations

import math

PROBE_PAUSE = 0.75
"""Minimum time in seconds between two PINGs for unacknowledged data."""

_ROUND_TRIPS = 4
"""The minimum, in round trips."""


class KeepAlive:
    """The PINGs of one connection. Times are event loop times in seconds."""

    def __init__(self, now: float) -> None:
        self._last_ping = now
        self.due = now
        """When to call `look` again."""

    def look(
        self, now: float, last_received: float, *, longest: float, awaits: bool, round_trip: float
    ) -> bool:
        """Returns whether to send a PING, and sets `due`.

        `longest` is the silence in seconds after which an idle connection sends one. `awaits`
        states whether sent data is not acknowledged.
        """
        pause = _probe_pause(round_trip)
        interval = min(longest, pause) if awaits else longest
        quiet_since = max(last_received, self._last_ping)
        # Not `now - quiet_since >= interval`: that may be false, by rounding, at the time `due`.
        is_due = now >= quiet_since + interval
        if is_due:
            self._last_ping = quiet_since = now
        self.due = quiet_since + interval
        return is_due

    def sent(self, now: float, round_trip: float) -> bool:
        """Reports unacknowledged data; returns whether `due` has become earlier."""
        at = now + _probe_pause(round_trip)
        if self.due <= at:
            return False
        self.due = at
        return True


def longest_silence(
    *, idle_timeout: float, probe_silence: float, keep_alive: float, is_dialer: bool
) -> float:
    """Returns the silence in seconds after which an idle connection sends a PING.

    Three PINGs fit into the idle timeout of QUIC (RFC 9000, 10.1.2). `probe_silence` is the time
    after which a peer is probed for its end, `keep_alive` that for the mapping of a NAT in front of
    a dialer; 0 disables each.
    """
    mapping = keep_alive if is_dialer and keep_alive > 0 else math.inf
    return min(idle_timeout / 3, probe_silence or math.inf, mapping)


def _probe_pause(round_trip: float) -> float:
    return max(PROBE_PAUSE, _ROUND_TRIPS * round_trip)
