"""How many bytes a connection takes before they can leave: just enough for the path.

What was handed over to the QUIC library waits in turn, and a small message waits behind it. So no
more is handed over than leaves within some milliseconds: by then the event loop is back for more.
What is on its way is bounded by the congestion window and the peer's credit, and by `in_flight`.
Pure. Sizes in bytes, rates in bytes a second.
"""

from __future__ import annotations

_AHEAD = 0.003
_MIN_AHEAD = 0.0005
"""Seconds worth of bytes that wait for their turn to leave, at most and at least: half a round trip
between them, so that little waits on a short path."""
_LEAST = 32 * 1024
"""Bytes at any rate: a turn of the event loop costs as much for fewer."""


class SendWindow:
    """Of one connection."""

    def __init__(self, high_water: int, in_flight: int) -> None:
        self._high_water = high_water
        self._in_flight = in_flight
        self.size = high_water
        """Bytes handed over and not sent, at most."""

    def set_rate(self, rate: float, round_trip: float) -> None:
        """The pacing rate; 0 is unknown. The round trip in seconds."""
        if rate:
            ahead = min(max(round_trip / 2, _MIN_AHEAD), _AHEAD)
            self.size = min(max(int(rate * ahead), _LEAST), self._high_water)

    def is_full(self, queued: int, sent: int, acknowledged: int) -> bool:
        """Whether no more may be handed over; all counted from the connection's beginning."""
        return queued - sent >= self.size or queued - acknowledged >= self._in_flight

    def has_room(self, queued: int, sent: int, acknowledged: int, low_water: int) -> bool:
        """Whether so much has left that more is worth handing over."""
        unsent = queued - sent
        return unsent < min(low_water, self.size - self.size // 4) and (
            queued - acknowledged < self._in_flight - self._in_flight // 4
        )
