"""What a congestion controller is told and what it decides. Pure: times are told.

Sizes in bytes, times in seconds, rates in bytes a second.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from quicdist.carriers.quic.congestion.rate_sample import SendState

INITIAL_WINDOW = 10
"""Datagrams (RFC 9002, section 7.2)."""

MIN_WINDOW = 4
"""Datagrams (draft-ietf-ccwg-bbr, section 2.7, BBR.MinPipeCwnd)."""


class Algorithm(enum.Enum):
    """The congestion controllers that there are, by the name used in settings."""

    BBR = "bbr"
    CUBIC = "cubic"
    RENO = "reno"


class Ack(NamedTuple):
    """All that one acknowledgement told. Made after lost packets were looked for."""

    now: float
    acknowledged: int
    """Bytes newly acknowledged."""
    lost: int
    """Bytes newly declared lost."""
    in_flight: int
    """Bytes in flight after both."""
    newest: SendState | None
    """State with which the acknowledged packet left that left last."""
    newest_lost: SendState | None = None
    """State with which the lost packet left that left last."""
    rtt: float | None = None
    """The round trip measured, without the peer's delay."""
    ecn_ce: int = 0
    """Bytes newly reported as marked with Congestion Experienced (RFC 9000, section 13.4)."""


class Controller(Protocol):
    """Congestion control of one path."""

    datagram_size: int
    """What the path carries at most; may be set anew."""

    @property
    def window(self) -> int:
        """Bytes that may be in flight, at least MIN_WINDOW datagrams."""

    @property
    def pacing_rate(self) -> float:
        """Rate at which datagrams are to leave; 0 while nothing is known (unpaced)."""

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        """`size` bytes leave, with `in_flight` bytes in flight before them."""

    def on_app_limited(self, in_flight: int) -> None:
        """There is nothing to send, though more could be in flight."""

    def on_ack(self, ack: Ack) -> None:
        """One acknowledgement, or a loss timer (which acknowledges nothing)."""

    def on_spurious_loss(self, now: float, size: int) -> None:
        """`size` bytes that were declared lost were acknowledged after all."""

    def on_persistent_congestion(self) -> None:
        """All was lost over a long time (RFC 9002, section 7.6)."""
