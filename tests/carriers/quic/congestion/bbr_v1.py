"""A model of the BBR of Linux kernels, version 1 (draft-cardwell-iccrg-bbr-congestion-control-00).

It keeps two BDPs and a few bursts in flight and probes for bandwidth every eight round trips. It
remembers the largest rate sample of ten rounds. It reacts to loss only by packet conservation for
one round.
"""

from __future__ import annotations

import math
import random
from collections import deque

from quicdist.carriers.quic.congestion.controller import INITIAL_WINDOW, MIN_WINDOW, Ack
from quicdist.carriers.quic.congestion.rate_sample import DeliveryRate, SendState

_HIGH_GAIN = 2.885
_CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_ROUNDS = 10
_PACING_MARGIN = 0.99
_PROBE_RTT_INTERVAL, _PROBE_RTT_DURATION = 10.0, 0.2
"""Seconds."""
_BURST = 1 / 1024
"""Size of a burst in seconds at the pacing rate (TCP small queues)."""
_MIN_BURST, _MAX_BURST = 2, 44
"""The bounds of that size in datagrams."""
_BURSTS = 3
"""Number of bursts that the window holds in addition to its BDPs."""
_EXTRA_ROUNDS, _MAX_EXTRA = 5, 0.1
"""Rounds of each of two windows for which aggregation is stored, and its maximum in seconds."""


class KernelBbr:
    """See controller.Controller."""

    capacity = 0.0

    def __init__(self, datagram_size: int, *, chance: random.Random | None = None) -> None:
        """`chance` selects the phases of the gain cycle."""
        self.datagram_size = datagram_size
        self.window = INITIAL_WINDOW * datagram_size
        self.pacing_rate = 0.0
        self._chance = chance or random.Random(1)
        self._delivery = DeliveryRate()
        self._samples: deque[tuple[int, float]] = deque()
        """Rounds and rates in descending order of both, as a sliding maximum."""
        self._rounds = self._round_end = 0
        self._min_rtt, self._min_rtt_at = math.inf, 0.0
        self._full, self._full_rounds, self._is_full = 0.0, 0, False
        self._is_draining = False
        self._phase, self._phase_at = 2, 0.0
        self._is_probing_rtt = False
        self._probe_rtt_end = math.inf
        self._has_probed_round = False
        self._window_before = 0
        self._recovery_end: int | None = None
        """Delivered bytes that end loss recovery: those that were in flight at its start."""
        self._conserves = False
        self._extra = [0.0, 0.0]
        self._extra_rounds = 0
        self._extra_since, self._extra_delivered = 0.0, 0

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
            self._conserves = False
        self._take_bandwidth(sample.rate, sample.is_app_limited)
        self._take_aggregation(ack, is_round)
        if is_round and not self._is_full and not sample.is_app_limited:
            self._look_full()
        self._advance(ack)
        self._take_rtt(ack, is_round)
        self._set_rate()
        self._set_window(ack)

    @property
    def _bandwidth(self) -> float:
        return self._samples[0][1] if self._samples else 0.0

    def _take_bandwidth(self, rate: float, is_app_limited: bool) -> None:
        samples = self._samples
        if is_app_limited and rate < self._bandwidth:
            return
        while samples and samples[-1][1] <= rate:
            samples.pop()
        samples.append((self._rounds, rate))
        while samples[0][0] < self._rounds - _ROUNDS:
            samples.popleft()

    def _take_aggregation(self, ack: Ack, is_round: bool) -> None:
        if is_round:
            self._extra_rounds += 1
            if self._extra_rounds >= _EXTRA_ROUNDS:
                self._extra_rounds = 0
                self._extra = [0.0, self._extra[0]]
        expected = self._bandwidth * (ack.now - self._extra_since)
        if self._extra_delivered <= expected:
            self._extra_since, self._extra_delivered, expected = ack.now, 0, 0.0
        self._extra_delivered += ack.acknowledged
        extra = min(self._extra_delivered - expected, float(self.window))
        self._extra[0] = max(self._extra[0], extra)

    def _look_full(self) -> None:
        if self._bandwidth >= 1.25 * self._full:
            self._full, self._full_rounds = self._bandwidth, 0
            return
        self._full_rounds += 1
        self._is_full = self._is_draining = self._full_rounds >= 3

    def _advance(self, ack: Ack) -> None:
        """Goes to the next phase of the gain cycle when it is time."""
        if not self._is_full or self._is_probing_rtt:
            return
        if self._is_draining:
            if ack.in_flight <= self._flight(1.0):
                self._is_draining = False
                self._begin_cycle(ack.now)
            return
        before = ack.in_flight + ack.acknowledged + ack.lost
        gain = _CYCLE[self._phase]
        is_over = ack.now - self._phase_at > self._min_rtt
        if gain > 1:
            is_over = is_over and (bool(ack.lost) or before >= self._flight(gain))
        elif gain < 1:
            is_over = is_over or before <= self._flight(1.0)
        if is_over:
            self._phase, self._phase_at = (self._phase + 1) % len(_CYCLE), ack.now

    def _begin_cycle(self, now: float) -> None:
        """Starts in any phase but the one below the bandwidth."""
        self._phase = self._chance.choice([0, *range(2, len(_CYCLE))])
        self._phase_at = now

    def _take_rtt(self, ack: Ack, is_round: bool) -> None:
        is_expired = ack.now > self._min_rtt_at + _PROBE_RTT_INTERVAL
        if ack.rtt is not None and (ack.rtt < self._min_rtt or is_expired):
            self._min_rtt, self._min_rtt_at = ack.rtt, ack.now
        if is_expired and not self._is_probing_rtt:
            self._is_probing_rtt, self._probe_rtt_end = True, math.inf
            self._window_before = self.window
        if not self._is_probing_rtt:
            return
        self._delivery.on_app_limited(ack.in_flight)
        if self._probe_rtt_end == math.inf:
            if ack.in_flight <= MIN_WINDOW * self.datagram_size:
                self._probe_rtt_end = ack.now + _PROBE_RTT_DURATION
                self._has_probed_round = False
                self._round_end = self._delivery.delivered
            return
        self._has_probed_round = self._has_probed_round or is_round
        if self._has_probed_round and ack.now > self._probe_rtt_end:
            self._min_rtt_at = ack.now
            self.window = max(self.window, self._window_before)
            self._is_probing_rtt = False
            self._begin_cycle(ack.now)

    @property
    def _gain(self) -> float:
        if self._is_probing_rtt:
            return 1.0
        if not self._is_full:
            return _HIGH_GAIN
        return 1 / _HIGH_GAIN if self._is_draining else _CYCLE[self._phase]

    def _set_rate(self) -> None:
        rate = self._gain * self._bandwidth * _PACING_MARGIN
        if self._is_full or rate > self.pacing_rate:
            self.pacing_rate = rate

    def _flight(self, gain: float) -> float:
        """Returns the bytes in flight of that many BDPs, and of bursts."""
        if self._min_rtt == math.inf:
            return float(INITIAL_WINDOW * self.datagram_size)
        burst = int(self.pacing_rate * _BURST / self.datagram_size)
        datagrams = _BURSTS * min(max(burst, _MIN_BURST), _MAX_BURST)
        if self._is_full and not self._is_draining and not self._phase:
            datagrams += 2
        return gain * self._bandwidth * self._min_rtt + datagrams * self.datagram_size

    def _set_window(self, ack: Ack) -> None:
        window = float(self.window)
        least = MIN_WINDOW * self.datagram_size
        window = max(window - ack.lost, self.datagram_size)
        delivered = self._delivery.delivered
        if self._recovery_end is not None and delivered >= self._recovery_end:
            self._recovery_end, self._conserves = None, False
            window = max(window, float(self._window_before))
        if ack.lost and self._recovery_end is None:
            if not self._is_probing_rtt:
                self._window_before = self.window
            self._recovery_end = delivered + ack.in_flight + ack.lost
            self._round_end, self._conserves = delivered, True
            window = float(ack.in_flight + ack.acknowledged)
        if self._conserves:
            window = max(window, float(ack.in_flight + ack.acknowledged))
        else:
            room = self._flight(2.0 if self._is_full else _HIGH_GAIN)
            if self._is_full:
                room += min(max(self._extra), self._bandwidth * _MAX_EXTRA)
                window = min(window + ack.acknowledged, room)
            elif window < room or delivered < INITIAL_WINDOW * self.datagram_size:
                window += ack.acknowledged
        if self._is_probing_rtt:
            window = min(window, float(least))
        self.window = max(int(window), least)
