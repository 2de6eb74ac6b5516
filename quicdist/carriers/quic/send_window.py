"""How many bytes a connection takes before they can leave: just enough for the path.

What was handed over to the QUIC library waits in turn, and a small message waits behind it. So no
more is handed over than leaves within some milliseconds: by then the event loop is back for more.
What is on its way is bounded by the congestion window and the peer's credit, and by `in_flight`.

On a path shorter than what hosts add, data in flight waits for a processor and not for the path.
There what is not acknowledged is bounded instead, and handed over in larger pieces.
Pure. Sizes in bytes, rates in bytes a second.
"""

from __future__ import annotations

from quicdist.carriers.quic.congestion.bbr import HOST_DELAY, SHORT_DATAGRAMS

_AHEAD = 0.003
_MIN_AHEAD = 0.0005
"""Seconds worth of bytes that wait for their turn to leave, at most and at least: half a round trip
between them, so that little waits on a short path."""
_LEAST = 32 * 1024
"""Bytes at any rate: a turn of the event loop costs as much for fewer."""
_MAX_BUSY = 4
"""Times HOST_DELAY. Busy hosts do not explain a longer round trip: the path has changed."""
_TURN = 0.001
"""Seconds that a turn of the event loop adds to a short path at least."""


class SendWindow:
    """Of one connection."""

    def __init__(self, high_water: int, in_flight: int) -> None:
        self._high_water = high_water
        self._in_flight = in_flight
        self.size = high_water
        """Bytes handed over and not sent, at most."""
        self._unacknowledged = in_flight
        """Bytes handed over and not acknowledged, at most."""
        self._is_short = False
        self._set_for = (0.0, 0.0)

    def set_rate(self, rate: float, round_trip: float, least: float, datagram: int) -> None:
        """The pacing rate, 0 if unknown; the smoothed and the minimum round trip, in seconds; the
        size of a datagram."""
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

    def is_full(self, queued: int, sent: int, acknowledged: int) -> bool:
        """Whether no more may be handed over; all counted from the connection's beginning."""
        return queued - sent >= self.size or queued - acknowledged >= self._unacknowledged

    def has_room(self, queued: int, sent: int, acknowledged: int, low_water: int) -> bool:
        """Whether so much has left that more is worth handing over."""
        unacknowledged = self._unacknowledged - self._unacknowledged // 4
        if self._is_short:
            return queued - acknowledged < min(low_water, unacknowledged)
        return (
            queued - sent < min(low_water, self.size - self.size // 4)
            and queued - acknowledged < unacknowledged
        )
