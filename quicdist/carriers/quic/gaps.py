"""The gaps between the steps of a dialect: no clock and no timer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from quicdist.protocol.dialects.base import Gap, Step, Write


class Gaps:
    """Holds the steps of a connection that follow a gap. Times are event loop times in seconds."""

    def __init__(self) -> None:
        self.is_waiting = False
        """Whether a gap has begun and has not ended: further steps must be held."""
        self.due: float | None = None
        """When the gap ends; None as long as data before it is not acknowledged."""
        self._gap = Gap(0.0, ends_on_receive=False)
        self._steps: deque[Step] = deque()
        self._bytes = 0

    def begin(self, gap: Gap) -> None:
        """Begins a gap; none may be open."""
        self._gap = gap
        self.is_waiting = True
        self.due = None

    def hold(self, step: Step) -> None:
        """Holds a step until the gap has ended."""
        self._steps.append(step)
        if isinstance(step, Write):
            self._bytes += step.size

    def acknowledged(self, unacknowledged: int, now: float, round_trip: float) -> None:
        """Starts the time of the gap once the peer has all data before it.

        `unacknowledged` includes the held bytes. Lost data would be sent again together with the
        held data. The acknowledgement took half a round trip (seconds) to arrive, and the next
        data takes as long. The round trip is an estimate and may be too long, so half of the gap
        is always kept.
        """
        if self.is_waiting and self.due is None and unacknowledged <= self._bytes:
            seconds = self._gap.seconds
            self.due = now + max(seconds - round_trip, seconds / 2)

    def packet_received(self) -> bool:
        """Returns whether a packet from the peer has ended the gap."""
        return self.is_waiting and self._gap.ends_on_receive and self._end()

    def look(self, now: float) -> bool:
        """Returns whether the time of the gap is over, which ends it."""
        return self.due is not None and now >= self.due and self._end()

    def release(self) -> Iterator[Step]:
        """Yields the held steps up to the next gap, which begins."""
        while self._steps:
            step = self._steps.popleft()
            if isinstance(step, Gap):
                self.begin(step)
                return
            if isinstance(step, Write):
                self._bytes -= step.size
            yield step

    def clear(self) -> None:
        """Drops everything, at the end of the connection."""
        self._end()
        self._steps.clear()
        self._bytes = 0

    def _end(self) -> bool:
        self.is_waiting = False
        self.due = None
        return True
