"""The interface of congestion controllers.

A controller does no I/O and reads no clock. Sizes are in bytes, times in seconds, rates in bytes
per second.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from quicdist.carriers.quic.congestion.rate_sample import SendState

INITIAL_WINDOW = 10
"""Initial window in datagrams (RFC 9002, section 7.2)."""

MIN_WINDOW = 4
"""Minimum window in datagrams (draft-ietf-ccwg-bbr, section 2.7, BBR.MinPipeCwnd)."""


class Algorithm(enum.Enum):
    """The available congestion controllers, by the name used in settings."""

    BBR = "bbr"
    CUBIC = "cubic"
    RENO = "reno"


class Ack(NamedTuple):
    """The result of one acknowledgement, including the losses that it revealed."""

    now: float
    acknowledged: int
    """Bytes newly acknowledged."""
    lost: int
    """Bytes newly declared lost."""
    in_flight: int
    """Bytes in flight afterwards."""
    newest: SendState | None
    """Send state of the last sent packet among the acknowledged ones."""
    newest_lost: SendState | None = None
    """Send state of the last sent packet among the lost ones."""
    rtt: float | None = None
    """The measured round trip, without the delay of the peer."""
    ecn_ce: int = 0
    """Bytes newly reported as marked with Congestion Experienced (RFC 9000, section 13.4)."""


class Controller(Protocol):
    """Congestion control of one path."""

    datagram_size: int
    """Maximum datagram size of the path. It may be changed."""

    @property
    def window(self) -> int:
        """Maximum bytes in flight, at least MIN_WINDOW datagrams."""

    @property
    def pacing_rate(self) -> float:
        """The rate at which to send; 0 while it is unknown, which disables pacing."""

    @property
    def capacity(self) -> float:
        """Bytes in flight that fill the path, as far as it is known; 0 if nothing is known."""

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        """Reports that `size` bytes are sent, with `in_flight` bytes in flight before."""

    def on_app_limited(self, in_flight: int) -> None:
        """Reports that there is no data to send although the window has room."""

    def on_ack(self, ack: Ack) -> None:
        """Reports an acknowledgement, or an expired loss timer without acknowledged bytes."""

    def on_spurious_loss(self, now: float, size: int) -> None:
        """Reports that `size` bytes that were declared lost are acknowledged."""

    def on_persistent_congestion(self) -> None:
        """Reports persistent congestion (RFC 9002, section 7.6)."""
