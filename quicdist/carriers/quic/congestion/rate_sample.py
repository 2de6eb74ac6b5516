"""Delivery-rate samples (draft-ietf-ccwg-bbr, section 4.1, "Delivery Rate Samples").

The rate at which data arrives is what was acknowledged between the departure of a packet and its
acknowledgement, divided by the longer of the time in which those packets were sent and the time in
which they were acknowledged: neither a burst of ours nor acknowledgements that come in bunches can
make it larger than it is. Pure: times are told. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class SendState:
    """The state of the connection when a packet left; packets that leave in one burst share it."""

    sent_at: float
    delivered: int
    delivered_at: float
    first_sent_at: float
    """When the first packet of the flight left with which this one is measured."""
    lost: int
    in_flight: int
    """Bytes in flight, those of the burst included (`tx_in_flight`)."""
    is_app_limited: bool


class RateSample(NamedTuple):
    """What the acknowledgement of a packet tells."""

    delivered: int
    """Bytes acknowledged since the packet left."""
    lost: int
    """Bytes lost since the packet left."""
    interval: float
    rate: float
    """Bytes a second; 0 where the interval is too short to tell."""
    prior_delivered: int
    in_flight: int
    is_app_limited: bool
    """The application had less to send than the path could carry: the rate is a lower bound."""


class DeliveryRate:
    """The counters of one connection."""

    def __init__(self) -> None:
        self.delivered = 0
        self.lost = 0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._app_limited_until = 0
        """While `delivered` is not above this, samples are application-limited; 0 is never."""

    @property
    def is_app_limited(self) -> bool:
        return self._app_limited_until > 0

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        """`size` bytes leave, with `in_flight` bytes in flight before them."""
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
        """There is nothing to send, though more could be in flight (section 4.1.2.4)."""
        self._app_limited_until = max(self.delivered + in_flight, 1)

    def on_lost(self, size: int) -> None:
        self.lost += size

    def on_spurious_loss(self, size: int) -> None:
        """What was counted as lost has arrived."""
        self.lost = max(self.lost - size, 0)

    def on_acknowledged(
        self, now: float, size: int, newest: SendState | None, min_interval: float
    ) -> RateSample | None:
        """`size` bytes were acknowledged, the packet of them that left last with state `newest`.

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
