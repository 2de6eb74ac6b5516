"""A model of the BBR of Linux kernels, version 1 (draft-cardwell-iccrg-bbr-congestion-control-00).

It has a window of two BDPs, a gain cycle of eight round trips, a bandwidth filter of ten rounds,
and takes no notice of loss beyond one round of packet conservation.
"""

from __future__ import annotations

import math
from collections import deque

from quicdist.carriers.quic.congestion.controller import INITIAL_WINDOW, MIN_WINDOW, Ack
from quicdist.carriers.quic.congestion.rate_sample import DeliveryRate, SendState

_HIGH_GAIN = 2.89
_CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_ROUNDS = 10
_PROBE_RTT_EVERY, _PROBE_RTT_TIME = 10.0, 0.2


class KernelBbr:
    """See controller.Controller."""

    capacity = 0.0

    def __init__(self, datagram_size: int) -> None:
        self.datagram_size = datagram_size
        self.window = INITIAL_WINDOW * datagram_size
        self.pacing_rate = 0.0
        self._delivery = DeliveryRate()
        self._samples: deque[tuple[int, float]] = deque()
        self._rounds = self._round_end = 0
        self._min_rtt, self._min_rtt_at = math.inf, 0.0
        self._full, self._full_rounds, self._is_full = 0.0, 0, False
        self._is_draining = False
        self._phase, self._phase_at = 2, 0.0
        self._probe_rtt_end = 0.0
        self._conserving = -1

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        return self._delivery.on_sent(now, in_flight, size)

    def on_app_limited(self, in_flight: int) -> None:
        self._delivery.on_app_limited(in_flight)

    def on_spurious_loss(self, now: float, size: int) -> None:
        pass

    def on_persistent_congestion(self) -> None:
        self.window = MIN_WINDOW * self.datagram_size

    def on_ack(self, ack: Ack) -> None:
        sample = self._delivery.on_acknowledged(ack.now, ack.acknowledged, ack.newest, 0.0)
        if sample is None:
            return
        is_round = sample.prior_delivered >= self._round_end
        if is_round:
            self._round_end = self._delivery.delivered
            self._rounds += 1
        samples = self._samples
        samples.append((self._rounds, sample.rate))
        while samples[0][0] < self._rounds - _ROUNDS:
            samples.popleft()
        bandwidth = max(rate for _, rate in samples)
        if ack.rtt is not None:
            if ack.rtt <= self._min_rtt:
                self._min_rtt, self._min_rtt_at = ack.rtt, ack.now
            elif ack.now > self._min_rtt_at + _PROBE_RTT_EVERY:
                self._min_rtt, self._min_rtt_at = ack.rtt, ack.now
                self._probe_rtt_end = ack.now + _PROBE_RTT_TIME
        if is_round and not self._is_full:
            self._look_full(bandwidth)
        bdp = bandwidth * self._min_rtt
        gain = self._gain(ack, bdp)
        self.pacing_rate = gain * bandwidth
        room = (2.0 if self._is_full else _HIGH_GAIN) * bdp
        window = (
            min(self.window + ack.acknowledged, room)
            if self._is_full
            else (self.window + ack.acknowledged)
        )
        if ack.lost and self._conserving < 0:
            self._conserving = self._round_end = self._delivery.delivered
        elif is_round and self._conserving >= 0:
            self._conserving = -1
            window = room
        if self._conserving >= 0:
            window = ack.in_flight + ack.acknowledged
        if ack.now < self._probe_rtt_end:
            window = MIN_WINDOW * self.datagram_size
        elif self._probe_rtt_end:
            self._probe_rtt_end = 0.0
            window = room
        self.window = max(int(window), MIN_WINDOW * self.datagram_size)

    def _look_full(self, bandwidth: float) -> None:
        if bandwidth >= 1.25 * self._full:
            self._full, self._full_rounds = bandwidth, 0
            return
        self._full_rounds += 1
        self._is_full = self._is_draining = self._full_rounds >= 3

    def _gain(self, ack: Ack, bdp: float) -> float:
        if not self._is_full:
            return _HIGH_GAIN
        if self._is_draining:
            self._is_draining = ack.in_flight > bdp
            return 1 / _HIGH_GAIN
        gain = _CYCLE[self._phase]
        is_over = ack.now - self._phase_at > self._min_rtt
        if gain > 1:
            is_over = is_over and (bool(ack.lost) or ack.in_flight >= gain * bdp)
        elif gain < 1:
            is_over = is_over or ack.in_flight <= bdp
        if is_over:
            self._phase, self._phase_at = (self._phase + 1) % len(_CYCLE), ack.now
        return _CYCLE[self._phase]
