"""The send window: the maximum number of bytes that are queued in the QUIC library.

The QUIC library sends its queue in order, so a small message waits for all queued data. Therefore
the queue holds only the data of a few milliseconds, until the event loop adds more. Bytes in flight
are limited by the congestion window, the credit of the peer and `in_flight`.

On a path whose round trip is shorter than the delay of the hosts, data waits for a processor and
not for the path. There the unacknowledged bytes are limited instead, and data is queued in larger
pieces.

This module does no I/O. Sizes are in bytes, times in seconds, and rates in bytes per second.
"""

from __future__ import annotations

from quicdist.carriers.quic.congestion.bbr import HOST_DELAY, SHORT_DATAGRAMS

_AHEAD = 0.003
_MIN_AHEAD = 0.0005
"""Maximum and minimum of the queued data, in seconds at the sending rate. Between them it is half a
round trip, so that the queue is small on a short path."""
_LEAST = 32 * 1024
"""Minimum in bytes at any rate, because an event loop iteration costs as much for fewer."""
_MAX_BUSY = 4
"""Maximum round trip on a short path as a multiple of HOST_DELAY. Busy hosts do not explain a
longer one, so the path has changed."""
_TURN = 0.001
"""Minimum delay in seconds that an event loop iteration adds on a short path."""


class SendWindow:
    """The send window of one connection."""

    def __init__(self, high_water: int, in_flight: int) -> None:
        self._high_water = high_water
        self._in_flight = in_flight
        self.size = high_water
        """Maximum bytes that are queued and not sent."""
        self.least = min(_LEAST, high_water, in_flight)
        """Bytes that may be queued and not acknowledged on any path."""
        self._unacknowledged = in_flight
        """Maximum bytes that are queued and not acknowledged."""
        self._is_short = False
        self._set_for = (0.0, 0.0)

    def set_rate(self, rate: float, round_trip: float, least: float, datagram: int) -> None:
        """Sets the size by the state of the path.

        `rate` is the pacing rate or 0 if unknown, `round_trip` the smoothed and `least` the minimum
        round trip, and `datagram` the size of a datagram.
        """
        if not rate or (rate, round_trip) == self._set_for:
            return
        self._set_for = (rate, round_trip)
        self._is_short = least < HOST_DELAY and round_trip < _MAX_BUSY * HOST_DELAY
        if self._is_short:
            wanted = max(SHORT_DATAGRAMS * datagram, int(rate * (least + _TURN)))
            self._unacknowledged = min(wanted, self._high_water)
            self.size = self._high_water
        else:
            ahead = min(max(round_trip / 2, _MIN_AHEAD), _AHEAD)
            self._unacknowledged = self._in_flight
            self.size = min(max(int(rate * ahead), _LEAST), self._high_water)

    def full_at(self, sent: int, acknowledged: int) -> int:
        """The number of queued bytes from which on no more may be queued.

        All numbers count from the connection's start.
        """
        return min(sent + self.size, acknowledged + self._unacknowledged)

    def has_room(self, queued: int, sent: int, acknowledged: int, low_water: int) -> bool:
        """Whether enough data was sent to queue more."""
        unacknowledged = self._unacknowledged - self._unacknowledged // 4
        if self._is_short:
            return queued - acknowledged < min(low_water, unacknowledged)
        return (
            queued - sent < min(low_water, self.size - self.size // 4)
            and queued - acknowledged < unacknowledged
        )
