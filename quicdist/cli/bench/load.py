"""How much data a transfer of `quicdist bench` keeps on its way, and when it ends.

This module does no I/O and reads no clock. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

from collections import deque

LEAST_CHUNK = 16 * 1024
MOST_CHUNK = 256 * 1024
_CHUNK_TIME = 0.01
"""A call carries what the path carries in this time, so that slow paths answer often."""

LEAST_OPEN = 128 * 1024
MOST_OPEN = 24 * 1024 * 1024
_ROUND_TRIPS = 3
_HOST_DELAY = 0.02
"""Open calls cover this many round trips and the delay of both hosts."""

_RECENT = 0.5
"""Time over which the rate is measured that sizes the load."""
_START_UP_SHARE = 0.25
_START_UP_TRIPS = 15
"""The reported rate and loss leave out this fraction of a transfer and this number of round trips:
congestion control starts slowly, and it finds the rate of the path by sending more than that. It
doubles the rate in each round trip: 10 of them lead from 10 datagrams to 1 Gbit/s at 100 ms, and
3 without growth end it."""
_LEAST_STEADY = 1.25
"""Duration of a transfer, as a multiple of the start-up, that says something about the path."""


def shortest_steady(round_trip: float) -> float:
    """Returns the seconds that a transfer must last to show more than the start-up."""
    return _LEAST_STEADY * _START_UP_TRIPS * round_trip


class Load:
    """The state of one transfer. `moved` counts bytes since any point, such as the connection."""

    def __init__(
        self, seconds: float, most: int, moved: int, now: float, round_trip: float = 0.0
    ) -> None:
        """The transfer ends after `seconds`, or when `most` bytes were requested.

        `round_trip` is that of the idle path.
        """
        self._began = now
        self._least = shortest_steady(round_trip)
        self.start_up = _START_UP_TRIPS * round_trip
        """The seconds in which congestion control finds the rate of the path, at most."""
        self._ends = now + seconds
        self._most = most
        self._samples = [(now, moved)]
        self._recent = deque(self._samples)
        self._last_moved = now
        self.requested = 0
        self.open = 0

    @property
    def rate(self) -> float:
        """The rate of the last half second, in bytes per second."""
        (first, before), (last, after) = self._recent[0], self._recent[-1]
        return (after - before) / (last - first) if last > first else 0.0

    @property
    def moved(self) -> int:
        """Bytes that this transfer has moved."""
        return self._samples[-1][1] - self._samples[0][1]

    @property
    def elapsed(self) -> float:
        """Seconds from the begin to the last sample."""
        return self._samples[-1][0] - self._began

    def sample(self, moved: int, now: float) -> None:
        """Reports the number of bytes moved so far."""
        if moved > self._samples[-1][1]:
            self._last_moved = now
        self._samples.append((now, moved))
        self._recent.append((now, moved))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _RECENT:
            self._recent.popleft()

    @property
    def is_done(self) -> bool:
        """Whether all bytes were requested and their calls have ended."""
        return self.requested >= self._most and not self.open

    def is_over(self, now: float) -> bool:
        """Whether the transfer ends now."""
        return now >= self._ends or self.is_done

    def stalled_for(self, now: float) -> float:
        """Returns the seconds since bytes moved; 0 if no call is open."""
        return now - self._last_moved if self.open else 0.0

    def next_chunk(self, round_trip: float, now: float) -> int:
        """Returns the size of the next call, which has begun; 0 if none may begin now."""
        if now >= self._ends or self.requested >= self._most:
            return 0
        wanted = self.rate * (_ROUND_TRIPS * round_trip + _HOST_DELAY)
        if self.open >= min(max(wanted, LEAST_OPEN), MOST_OPEN):
            return 0
        chunk = int(min(max(self.rate * _CHUNK_TIME, LEAST_CHUNK), MOST_CHUNK))
        chunk = min(chunk, self._most - self.requested)
        self.requested += chunk
        self.open += chunk
        return chunk

    def ended(self, chunk: int) -> None:
        """A call of that size has ended."""
        self.open -= chunk

    def steady_rate(self) -> float:
        """Returns the rate after start-up, in bytes per second."""
        last, after = self._samples[-1]
        first, before = self._samples[self._steady_from()]
        if last <= first:
            first, before = self._samples[0]
        return (after - before) / (last - first) if last > first else 0.0

    def steady_since(self) -> float:
        """Returns when the start-up had ended."""
        return self._samples[self._steady_from()][0]

    def _steady_from(self) -> int:
        """Returns the index of the first sample after start-up."""
        skipped = _START_UP_SHARE * self.elapsed
        if self.elapsed >= self._least:
            skipped = max(skipped, self.start_up)
        begin = self._began + skipped
        return next(index for index, (at, _) in enumerate(self._samples) if at >= begin)
