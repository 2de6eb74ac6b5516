"""Delivery-rate samples (draft-ietf-ccwg-bbr, section 4.1, "Delivery Rate Samples").

The delivery rate is the number of bytes acknowledged between the sending of a packet and its
acknowledgement, divided by the time in which they were sent or the time in which they were
acknowledged, whichever is longer. Therefore neither bursts of this sender nor bursts of
acknowledgements can increase it. This module does no I/O and reads no clock. Sizes are in bytes,
times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class SendState:
    """The state of the connection when a packet was sent. The packets of one burst share it."""

    sent_at: float
    delivered: int
    delivered_at: float
    first_sent_at: float
    """Time when the first packet of the measured flight was sent."""
    lost: int
    in_flight: int
    """Bytes in flight, including the burst (`tx_in_flight`)."""
    is_app_limited: bool


class RateSample(NamedTuple):
    """The measurement that the acknowledgement of a packet provides."""

    delivered: int
    """Bytes acknowledged since the packet was sent."""
    lost: int
    """Bytes lost since the packet was sent."""
    interval: float
    rate: float
    """Bytes per second; 0 if the interval is too short for a measurement."""
    prior_delivered: int
    in_flight: int
    is_app_limited: bool
    """Whether the application had too little data to fill the path, so that the rate is a lower
    bound."""


class DeliveryRate:
    """The counters of one connection."""

    def __init__(self) -> None:
        self.delivered = 0
        self.lost = 0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._app_limited_until = 0
        """Samples are application-limited until `delivered` exceeds this. 0 means never."""

    @property
    def is_app_limited(self) -> bool:
        return self._app_limited_until > 0

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        """Reports that `size` bytes are sent, with `in_flight` bytes in flight before."""
        if in_flight <= 0:
            self._first_sent_at = self._delivered_at = now
        return SendState(
            now,
            self.delivered,
            self._delivered_at,
            self._first_sent_at,
            self.lost,
            in_flight + size,
            self._app_limited_until > 0,
        )

    def on_app_limited(self, in_flight: int) -> None:
        """Reports that there is no data to send although the window has room (section 4.1.2.4)."""
        self._app_limited_until = max(self.delivered + in_flight, 1)

    def on_lost(self, size: int) -> None:
        self.lost += size

    def on_spurious_loss(self, size: int) -> None:
        """Reports that bytes that were declared lost have arrived."""
        self.lost = max(self.lost - size, 0)

    def on_acknowledged(
        self, now: float, size: int, newest: SendState | None, min_interval: float
    ) -> RateSample | None:
        """Reports `size` acknowledged bytes; `newest` is the state of the last sent packet of them.

        The rate is 0 if the interval is shorter than `min_interval` (the minimum round trip).
        """
        self.delivered += size
        if self._app_limited_until and self.delivered > self._app_limited_until:
            self._app_limited_until = 0
        if newest is None:
            return None
        self._delivered_at = now
        send_elapsed = newest.sent_at - newest.first_sent_at
        ack_elapsed = now - newest.delivered_at
        if newest.sent_at > self._first_sent_at:
            self._first_sent_at = newest.sent_at
        interval = max(send_elapsed, ack_elapsed)
        delivered = self.delivered - newest.delivered
        is_valid = interval > 0 and interval >= min_interval
        return RateSample(
            delivered=delivered,
            lost=self.lost - newest.lost,
            interval=interval,
            rate=delivered / interval if is_valid else 0.0,
            prior_delivered=newest.delivered,
            in_flight=newest.in_flight,
            is_app_limited=newest.is_app_limited,
        )
