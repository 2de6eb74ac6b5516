"""Detection of a peer whose process has ended without closing the connection.

The kernel answers a datagram to a port without a socket with ICMP Port Unreachable (RFC 1122,
4.1.3.1). Such a message can be forged, so it does not end the connection (RFC 9000, 21.5.5; RFC
8085, 5.2) but starts a check. The check sends several probes, with at least a pause between them.
The connection is closed if no probe is answered and a later probe causes another ICMP message. A
slow or stopped peer still has its socket, so its kernel sends no ICMP message. A peer behind a
lossy path answers one of the probes.
"""

from __future__ import annotations

import enum

_PAUSE = 0.06
"""Minimum time in seconds between two probes."""

_PROBES = 12
"""Number of unanswered probes after which the port counts as closed: 0.7 s on a fast path, six
round trips on a slow one."""

_REFUSED_AGAIN = 3
"""The second ICMP message must come after this number of probes."""

_MOST_PROBES = 24
"""Number of probes without another ICMP message after which the check ends: the first message was
forged or unrelated."""

_QUIET = 1.0
"""Time in seconds after an answer in which ICMP messages start no new check."""


class Verdict(enum.Enum):
    """What the connection must do next."""

    NOTHING = "nothing"
    PROBE = "probe"
    """Send an ack-eliciting packet."""
    CLOSED = "closed"
    """The port is closed: close the connection."""


class ClosedPort:
    """The check of one connection. Times are event loop times in seconds."""

    def __init__(self) -> None:
        self.due: float | None = None
        """When to call `look`; None if no check is running."""
        self._probes = 0
        self._is_refused_again = False
        self._quiet_until = 0.0

    def refused(self, now: float) -> None:
        """Reports an ICMP Port Unreachable message from the peer's host."""
        if self.due is not None:
            self._is_refused_again |= self._probes >= _REFUSED_AGAIN
        elif now >= self._quiet_until:
            self.due = now
            self._probes = 0
            self._is_refused_again = False

    def heard(self, now: float) -> None:
        """Reports a datagram from the peer; ends the check."""
        if self.due is not None:
            self.due = None
            self._quiet_until = now + _QUIET

    def look(self, now: float, round_trip: float) -> Verdict:
        """Continues the check at the time `due`.

        `round_trip` is in seconds. Returns `Verdict.NOTHING` if called early or without a check.
        """
        if self.due is None or now < self.due:
            return Verdict.NOTHING
        pause = max(_PAUSE, round_trip / 2)
        # If this event loop was blocked, an answer may have arrived that is not read yet.
        is_late = self._probes > 0 and now - self.due > pause
        if self._probes >= _PROBES and self._is_refused_again and not is_late:
            self.due = None
            return Verdict.CLOSED
        if self._probes >= _MOST_PROBES:
            self.due = None
            return Verdict.NOTHING
        self._probes += not is_late
        self.due = now + pause
        return Verdict.PROBE
