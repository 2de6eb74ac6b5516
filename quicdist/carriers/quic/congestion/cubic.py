"""CUBIC (RFC 9438), for comparison and for networks that require a loss-based sender."""

from __future__ import annotations

import math

from quicdist.carriers.quic.congestion.controller import MIN_WINDOW, Ack
from quicdist.carriers.quic.congestion.reno import WindowController

_C = 0.4
"""The constant C in datagrams per second cubed (RFC 9438, section 5)."""
_BETA = 0.7
_FRIENDLY = 3 * (1 - _BETA) / (1 + _BETA)
"""Growth in datagrams per round trip of Reno with this reduction (section 4.3)."""
_MAX_GROWTH = 1.5
"""Maximum target of one round trip as a multiple of the window (section 4.2)."""
_HYSTART_SAMPLES = 8
_HYSTART_DELAY = (0.004, 0.016)
"""Growth of the round trip in seconds that ends slow start (RFC 9406, section 4.2)."""


class Cubic(WindowController):
    """CUBIC (RFC 9438) with HyStart++, which ends slow start by delay (RFC 9406)."""

    def __init__(self, datagram_size: int) -> None:
        super().__init__(datagram_size)
        self._largest = 0.0  # W_max
        self._epoch_at: float | None = None
        self._epoch_window = 0.0
        self._friendly = 0.0  # W_est
        self._delay = 0.0  # K
        self._before_largest = 0.0
        self._round_end = 0
        self._round_rtt = self._last_round_rtt = math.inf
        self._round_samples = 0

    def _cut(self) -> None:
        self._before_largest = self._largest
        window = self._window
        # Fast convergence (section 4.7) leaves bandwidth to new flows.
        gives_way = window < self._largest
        self._largest = window * (1 + _BETA) / 2 if gives_way else window
        self._window = max(window * _BETA, MIN_WINDOW * self.datagram_size)
        self._epoch_at = None

    def _restored(self) -> None:
        self._largest = self._before_largest
        self._epoch_at = None

    def on_persistent_congestion(self) -> None:
        super().on_persistent_congestion()
        self._epoch_at = None

    def _grow(self, ack: Ack) -> None:
        if self._window < self._threshold:
            self._window += ack.acknowledged
            self._end_slow_start(ack)
            return
        size = self.datagram_size
        if self._epoch_at is None:
            self._begin_epoch(ack.now)
        assert self._epoch_at is not None
        elapsed = ack.now - self._epoch_at
        share = ack.acknowledged / self._window
        self._friendly += (1.0 if self._friendly >= self._largest else _FRIENDLY) * size * share
        at = elapsed + self._smoothed_rtt - self._delay
        target = self._largest + _C * at**3 * size
        target = min(max(target, self._window), _MAX_GROWTH * self._window)
        self._window = max(self._window + (target - self._window) * share, self._friendly)

    def _begin_epoch(self, now: float) -> None:
        self._epoch_at = now
        self._epoch_window = self._friendly = self._window
        self._largest = max(self._largest, self._window)
        missing = (self._largest - self._window) / self.datagram_size
        self._delay = (missing / _C) ** (1 / 3)

    def _end_slow_start(self, ack: Ack) -> None:
        assert ack.newest is not None
        if ack.newest.delivered >= self._round_end:
            self._round_end = self._delivery.delivered
            self._last_round_rtt, self._round_rtt = self._round_rtt, math.inf
            self._round_samples = 0
        if ack.rtt is None:
            return
        self._round_rtt = min(self._round_rtt, ack.rtt)
        self._round_samples += 1
        least, most = _HYSTART_DELAY
        allowed = min(max(self._last_round_rtt / 8, least), most)
        if (
            self._round_samples >= _HYSTART_SAMPLES
            and self._last_round_rtt < math.inf
            and self._round_rtt >= self._last_round_rtt + allowed
        ):
            self._threshold = self._window
