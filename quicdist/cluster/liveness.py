"""Whether our own event loop was running: a peer's silence counts only while we listened.

Code that blocks the event loop (a long cell of a notebook, a synchronous request) stops everything
here: ticks are not sent, what came is not read. After a minute of it peers give their connections
up. Neither is the peer's fault, and the log says so.
"""

from __future__ import annotations

BEAT = 1.0
"""Seconds between two beats."""

_LATE = 1.0
"""Seconds by which a beat may be late on a busy machine before the loop is said to stand still."""

_RECENT = 10.0
"""Seconds for which a standstill explains what was found after it."""


class LoopWatch:
    """Beats that are due each second show whether the loop runs. Times are the loop's, in seconds.

    Whatever runs first after a standstill may ask, also before the beat itself.
    """

    def __init__(self, now: float) -> None:
        self._due = now + BEAT
        self._length = 0.0
        self._unreported = 0.0
        self.resumed_at = now
        """When the last standstill ended, or the watch began: silence counts from here."""

    def beat(self, now: float) -> float:
        """The loop runs, and the next beat is due in BEAT seconds. Seconds of the standstill that
        is just over; 0.0 where there was none."""
        self._look(now)
        length, self._unreported = self._unreported, 0.0
        self._due = now + BEAT
        return length

    def silence(self, last_received: float, now: float) -> float:
        """For how long a peer was silent while we listened."""
        self._look(now)
        return now - max(last_received, self.resumed_at)

    def stood_still(self, now: float) -> float:
        """Seconds of the last standstill, if it has ended not long ago, else 0.0."""
        self._look(now)
        return self._length if now - self.resumed_at <= _RECENT else 0.0

    def _look(self, now: float) -> None:
        late = now - self._due
        if late <= _LATE:
            return
        self._length = self._unreported = late
        self.resumed_at = now
        # What asks next, within the same turn, asks about the same standstill.
        self._due = now
