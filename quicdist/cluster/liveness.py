"""Decides whether a peer is alive, from times that are passed in: no clock and no timer.

`Liveness` decides at each tick of a connection (`net_ticktime`, kernel(6)). `LoopWatch` detects
whether the local event loop was blocked: the silence of a peer counts only while the loop was
running.

Code that blocks the event loop, such as a long notebook cell or a synchronous request, stops
everything: no ticks are sent and nothing is read. After net_ticktime peers close their connections.
The log then names the cause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quicdist.errors import Cause

BEAT = 1.0
"""Seconds between two beats."""

_LATE = 1.0
"""Seconds by which a beat may be late on a busy machine before the loop counts as blocked."""

_RECENT = 10.0
"""Seconds after a blocked period during which it explains a lost connection."""


class LoopWatch:
    """Detects a blocked event loop from beats that are due each second.

    Times are event loop times in seconds.

    Any method may be called first after a blocked period, also before the beat itself.
    """

    def __init__(self, now: float) -> None:
        self._due = now + BEAT
        self._length = 0.0
        self._unreported = 0.0
        self.resumed_at = now
        """When the last blocked period ended, or the watch began. Silence counts from here."""

    def beat(self, now: float) -> float:
        """Notes a beat; the next one is due in BEAT seconds.

        Returns the length of the blocked period that has just ended, or 0.0.
        """
        self._look(now)
        length, self._unreported = self._unreported, 0.0
        self._due = now + BEAT
        return length

    def silence(self, last_received: float, now: float) -> float:
        """Returns for how long a peer was silent while the event loop was running."""
        self._look(now)
        return now - max(last_received, self.resumed_at)

    def blocked_for(self, now: float) -> float:
        """Returns the length of the last blocked period if it ended recently, else 0.0."""
        self._look(now)
        return self._length if now - self.resumed_at <= _RECENT else 0.0

    def _look(self, now: float) -> None:
        late = now - self._due
        if late <= _LATE:
            return
        self._length = self._unreported = late
        self.resumed_at = now
        # Later calls in the same iteration concern the same blocked period.
        self._due = now


_PROBES = 3
"""The number of unanswered probes after which a node counts as dead."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The observations of a connection at a tick. Times are event loop times in seconds."""

    last_received: float
    """When the carrier last received anything."""

    silence: float
    """For how long it received nothing while the event loop was running."""

    heard_at: float
    """When a packet of the peer's node was last handled."""

    frames_sent: int
    """The number of frames sent on this connection."""

    is_backlog_empty: bool
    """Whether the carrier has taken everything."""

    is_held_back: bool
    """Whether receivers of this node pause reading from the peer."""

    is_behind_answers: bool
    """Whether one of them is the backlog of answers that the peer does not read."""

    is_unread: bool
    """Whether received packets are queued."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The connection must be closed."""

    reason: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Tick:
    """The connection continues."""

    sends_tick: bool
    """Whether to send a tick, since nothing else was sent since the last one."""

    probes: bool
    """Whether to probe the peer's node, since only its transport has answered recently."""


class Liveness:
    """The ticks of one connection that is up."""

    def __init__(
        self, ticktime: float, now: float, *, needs_probe: bool, has_keepalive: bool
    ) -> None:
        """`ticktime` is net_ticktime in seconds.

        `needs_probe` is the trait of the dialect. `has_keepalive` means that the carrier receives
        packets even while frames are not read.
        """
        self._ticktime = ticktime
        self._needs_probe = needs_probe
        self._has_keepalive = has_keepalive
        self.due = math.inf
        """Event loop time of the next tick in seconds; infinite before the connection is up."""
        self._frames_sent = 0
        self._probed_at = 0.0
        self._probes = 0
        """The number of probes since the last packet of the node."""
        self._answers_moved = now

    def begin(self, now: float) -> None:
        """Starts when the connection is up."""
        self.due = now + self._ticktime / 4

    def sent(self, frames: int) -> None:
        """Sets the number of frames sent by the end of a tick, including a probe."""
        self._frames_sent = frames

    def tick(self, now: float, seen: Observed) -> Tick | Dead:
        """Decides at a tick, every quarter of net_ticktime as in OTP, and sets the next one."""
        ticktime = self._ticktime
        # A carrier without its own keepalive receives nothing while it is not read.
        is_blind = seen.is_held_back and not self._has_keepalive
        # After a blocked period the loop first reads, and decides at the next tick.
        was_blocked = now - self.due > ticktime / 8
        if seen.silence >= ticktime and not is_blind and not was_blocked:
            reason = f"net_tick_timeout: nothing received for {seen.silence:.0f} s"
            return Dead(reason, Cause.TICK_TIMEOUT)
        if seen.heard_at >= self._probed_at:
            self._probes = 0
        probes = False
        if self._needs_probe and not was_blocked and not (seen.is_held_back or seen.is_unread):
            if self._is_silent(now, seen):
                reason = "net_tick_timeout: the peer's transport responds, its node does not"
                return Dead(reason, Cause.TICK_TIMEOUT)
            probes = self._must_probe(now, seen)
        if self._is_stuck(now, seen):
            reason = f"the peer sent requests and read no answers for {ticktime:g} s"
            return Dead(reason, Cause.ANSWERS_UNREAD)
        sends_tick = not probes and seen.is_backlog_empty and seen.frames_sent == self._frames_sent
        pause = ticktime / 4
        if not is_blind:
            pause = min(pause, max(seen.last_received + ticktime - now, ticktime / 16))
        self.due = now + pause
        return Tick(sends_tick, probes)

    def _is_silent(self, now: float, seen: Observed) -> bool:
        """Returns whether the node has not answered several probes for 1.25 net_ticktime.

        This is the maximum in OTP. A node that has just started on a busy machine answers late.
        """
        silence = now - seen.heard_at
        return self._probes >= _PROBES and silence >= 1.25 * self._ticktime

    def _must_probe(self, now: float, seen: Observed) -> bool:
        if now - max(seen.heard_at, self._probed_at) < self._ticktime / 4:
            return False
        self._probes += 1
        self._probed_at = now
        return True

    def _is_stuck(self, now: float, seen: Observed) -> bool:
        """Returns whether unread answers pause the peer and none was sent for net_ticktime.

        The peer may wait for this node to read, a deadlock.
        """
        if not seen.is_behind_answers or seen.frames_sent != self._frames_sent:
            self._answers_moved = now
        return now - self._answers_moved >= self._ticktime
