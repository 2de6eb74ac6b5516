"""NewReno (RFC 9002, section 7), the baseline for comparisons."""

from __future__ import annotations

import math

from quicdist.carriers.quic.congestion.controller import INITIAL_WINDOW, MIN_WINDOW, Ack
from quicdist.carriers.quic.congestion.rate_sample import DeliveryRate, SendState

_LOSS_REDUCTION = 0.5
_SLOW_START_PACE, _PACE = 2.0, 1.25
"""Pacing rate in windows per round trip (RFC 9002, section 7.7)."""


class WindowController:
    """Base class of loss-based controllers.

    It implements slow start, one reduction per round trip, its reversal after spurious losses, and
    pacing by the window.
    """

    def __init__(self, datagram_size: int) -> None:
        self.datagram_size = datagram_size
        self._window = float(INITIAL_WINDOW * datagram_size)
        self._threshold = math.inf
        self._delivery = DeliveryRate()
        self._recovery_at = -math.inf
        self._smoothed_rtt = 0.0
        self._min_rtt = math.inf
        self._before: tuple[float, float] | None = None
        self._lost_in_recovery = 0

    @property
    def window(self) -> int:
        return max(int(self._window), MIN_WINDOW * self.datagram_size)

    @property
    def pacing_rate(self) -> float:
        if not self._smoothed_rtt:
            return 0.0
        pace = _SLOW_START_PACE if self._window < self._threshold else _PACE
        return pace * self.window / self._smoothed_rtt

    @property
    def capacity(self) -> float:
        return self._window

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        return self._delivery.on_sent(now, in_flight, size)

    def on_app_limited(self, in_flight: int) -> None:
        if in_flight < self.window:
            self._delivery.on_app_limited(in_flight)

    def on_ack(self, ack: Ack) -> None:
        if ack.rtt is not None:
            self._min_rtt = min(self._min_rtt, ack.rtt)
            old = self._smoothed_rtt or ack.rtt
            self._smoothed_rtt = old + (ack.rtt - old) / 8
        self._delivery.on_lost(ack.lost)
        sample = self._delivery.on_acknowledged(ack.now, ack.acknowledged, ack.newest, 0.0)
        lost = ack.newest_lost if ack.lost else (ack.newest if ack.ecn_ce else None)
        if lost is not None:
            self._reduce(ack.now, lost, ack.lost)
        if ack.ecn_ce:
            self._before = None  # a mark is never spurious
        is_after = ack.newest is not None and ack.newest.sent_at > self._recovery_at
        if sample is not None and is_after and not sample.is_app_limited:
            self._grow(ack)

    def _reduce(self, now: float, lost: SendState, size: int) -> None:
        """Reduces the window, once for all packets sent before (RFC 9002, section 7.3.2)."""
        if lost.sent_at <= self._recovery_at:
            self._lost_in_recovery += size
            return
        self._before = (self._window, self._threshold)
        self._lost_in_recovery = size
        self._recovery_at = now
        self._cut()
        self._threshold = self._window

    def _cut(self) -> None:
        self._window = max(self._window * _LOSS_REDUCTION, MIN_WINDOW * self.datagram_size)

    def _grow(self, ack: Ack) -> None:
        if self._window < self._threshold:
            self._window += ack.acknowledged
        else:
            self._window += self.datagram_size * ack.acknowledged / self._window

    def on_spurious_loss(self, now: float, size: int) -> None:
        """Reverts the last reduction if all losses that caused it were spurious (RFC 9438, 4.9)."""
        self._delivery.on_spurious_loss(size)
        self._lost_in_recovery -= size
        if self._before is None or self._lost_in_recovery > 0:
            return
        window, threshold = self._before
        self._window, self._threshold = max(window, self._window), threshold
        self._before = None
        self._restored()

    def _restored(self) -> None:
        """Called after the last reduction was reverted."""

    def on_persistent_congestion(self) -> None:
        self._window = MIN_WINDOW * self.datagram_size
        self._before = None


class Reno(WindowController):
    """NewReno (RFC 9002, section 7)."""
