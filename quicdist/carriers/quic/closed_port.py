"""Whether the port of a peer is closed: its process has ended and nobody has said so.

The kernel of a host answers a datagram to a port that no socket is bound to with ICMP Port
Unreachable (RFC 1122, 4.1.3.1). Such a message can be forged, so it ends nothing by itself (RFC
9000, 21.5.5; RFC 8085, 5.2): it starts a check. The connection is given up when several probes
were sent, each a round trip or more after its predecessors, none was answered, and a later one was
refused as well. A peer that is only slow or stopped still has its socket: its kernel refuses
nothing. A peer behind a lossy path answers one of the probes.
"""

from __future__ import annotations

import enum

_PAUSE = 0.06
"""Seconds between two probes, at least."""

_PROBES = 12
"""Unanswered before the port is believed to be closed: 0.7 s on a fast path, 6 round trips on a
slow one."""

_REFUSED_AGAIN = 3
"""The probe from which on another refusal must have come."""

_MOST_PROBES = 24
"""After so many without another refusal the first one was forged, or about something else."""

_QUIET = 1.0
"""Seconds after an answer in which no refusal starts another check."""


class Verdict(enum.Enum):
    """What a connection has to do."""

    NOTHING = "nothing"
    PROBE = "probe"
    """Send something that the peer acknowledges."""
    CLOSED = "closed"
    """Nobody is there: give the connection up."""


class ClosedPort:
    """The check of one connection. Times are those of the event loop, in seconds."""

    def __init__(self) -> None:
        self.due: float | None = None
        """When `look` is wanted; None while nothing is suspected."""
        self._probes = 0
        self._is_refused_again = False
        self._quiet_until = 0.0

    def refused(self, now: float) -> None:
        """The peer's host says that nobody is at its port."""
        if self.due is not None:
            self._is_refused_again |= self._probes >= _REFUSED_AGAIN
        elif now >= self._quiet_until:
            self.due = now
            self._probes = 0
            self._is_refused_again = False

    def heard(self, now: float) -> None:
        """Something came from the peer."""
        if self.due is not None:
            self.due = None
            self._quiet_until = now + _QUIET

    def look(self, now: float, round_trip: float) -> Verdict:
        """The time is `due`. Raises nothing; called early or unasked it does nothing."""
        if self.due is None or now < self.due:
            return Verdict.NOTHING
        pause = max(_PAUSE, round_trip / 2)
        # After a standstill of our own event loop, the answer may be here and not yet read.
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
