"""Whether a peer is alive, judged by times that are given: no clock, no timer.

`Liveness` decides at each tick of a connection (`net_ticktime`, kernel(6)). `LoopWatch` sees
whether our own event loop was running: a peer's silence counts only while we listened.

Code that blocks the event loop (a long cell of a notebook, a synchronous request) stops everything
here: ticks are not sent, what came is not read. After a minute of it peers give their connections
up. Neither is the peer's fault, and the log says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from quicdist.errors import Cause

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


_PROBES = 3
"""Probes that a node must leave unanswered before it is taken for dead."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a connection shows at a tick. Times in seconds, of the event loop's clock."""

    last_received: float
    """When the carrier last received anything."""

    silence: float
    """For how long it received nothing while the event loop ran."""

    heard_at: float
    """When a packet of the peer's node was last dealt with."""

    frames_sent: int
    """Since the connection is up."""

    is_backlog_empty: bool
    """Whether the carrier has taken all that was to be sent."""

    is_held_back: bool
    """Whether receivers here keep us from reading what the peer sends."""

    is_behind_answers: bool
    """Whether one of them is the backlog of answers that the peer does not read."""

    is_unread: bool
    """Whether packets wait to be dealt with."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The connection is to end."""

    reason: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Tick:
    """The connection goes on."""

    sends_tick: bool
    """Nothing else was sent since the last one."""

    probes: bool
    """Ask the peer's node something: only its transport has answered for a while."""

    pause: float
    """Seconds until the next."""


class Liveness:
    """The ticks of one connection that is up."""

    def __init__(
        self, ticktime: float, now: float, *, needs_probe: bool, has_keepalive: bool
    ) -> None:
        """`ticktime` is net_ticktime, in seconds. `needs_probe` is that of the dialect's traits;
        `has_keepalive` says that the carrier receives even while its frames are not read."""
        self._ticktime = ticktime
        self._needs_probe = needs_probe
        self._has_keepalive = has_keepalive
        self._due = now
        self._frames_sent = 0
        self._probed_at = 0.0
        self._probes = 0
        """Probes since the node was last heard."""
        self._answers_moved = now

    def begin(self, now: float) -> float:
        """The connection is up. Seconds until the first tick."""
        self._due = now + self._ticktime / 4
        return self._ticktime / 4

    def sent(self, frames: int) -> None:
        """The frames sent by the end of a tick, a probe included."""
        self._frames_sent = frames

    def tick(self, now: float, seen: Observed) -> Tick | Dead:
        """Every quarter of net_ticktime, as OTP."""
        ticktime = self._ticktime
        # A carrier without signs of life of its own shows none while we do not read it.
        is_blind = seen.is_held_back and not self._has_keepalive
        # An event loop that stood still has not listened: it listens before it judges.
        stood_still = now - self._due > ticktime / 8
        if seen.silence >= ticktime and not is_blind and not stood_still:
            reason = f"net_tick_timeout: nothing heard for {seen.silence:.0f} s"
            return Dead(reason, Cause.TICK_TIMEOUT)
        if seen.heard_at >= self._probed_at:
            self._probes = 0
        probes = False
        if self._needs_probe and not stood_still and not (seen.is_held_back or seen.is_unread):
            if self._is_silent(now, seen):
                reason = "net_tick_timeout: the peer's transport answers, its node does not"
                return Dead(reason, Cause.TICK_TIMEOUT)
            probes = self._must_probe(now, seen)
        if self._is_stuck(now, seen):
            reason = f"it asked and read none of the answers for {ticktime:g} s"
            return Dead(reason, Cause.ANSWERS_UNREAD)
        sends_tick = not probes and seen.is_backlog_empty and seen.frames_sent == self._frames_sent
        pause = ticktime / 4
        if not is_blind:
            pause = min(pause, max(seen.last_received + ticktime - now, ticktime / 16))
        self._due = now + pause
        return Tick(sends_tick, probes, pause)

    def _is_silent(self, now: float, seen: Observed) -> bool:
        """Whether the node has left several probes unanswered, for as long as OTP waits at most:
        net_ticktime and a quarter. A node that has just started on a busy machine answers late."""
        silence = now - seen.heard_at
        return self._probes >= _PROBES and silence >= 1.25 * self._ticktime

    def _must_probe(self, now: float, seen: Observed) -> bool:
        if now - max(seen.heard_at, self._probed_at) < self._ticktime / 4:
            return False
        self._probes += 1
        self._probed_at = now
        return True

    def _is_stuck(self, now: float, seen: Observed) -> bool:
        """Whether answers hold the peer back and none has left for net_ticktime: it may be another
        that waits for us to read, and both would wait for ever."""
        if not seen.is_behind_answers or seen.frames_sent != self._frames_sent:
            self._answers_moved = now
        return now - self._answers_moved >= self._ticktime
