"""BBR: congestion control with a model of the path instead of losses (draft-ietf-ccwg-bbr-05).

The model consists of the delivery rate of the path (the maximum of delivery-rate samples) and its
minimum round-trip time. The number of bytes in flight follows their product, the bandwidth-delay
product (BDP). Section numbers below refer to the draft. Differences from the draft:

- A loss counts only if it exceeds LOSS_THRESHOLD and is larger than random loss explains. On a path
  that loses 1 % of the datagrams, a small flight exceeds 2 % in every other round trip.
- Loss that persists after this sender has slowed down is caused by the path or by other senders. It
  is tolerated in addition.
- Queueing also counts. If every datagram of a round trip was delayed by more than QUEUE_TOLERATED
  allows, there is a standing queue at the bottleneck. This sender then yields: it drains its own
  share of the queue and adopts the measured rate as the bandwidth. A queue that persists or returns
  immediately is caused by other senders, which would take the whole path from a sender that yields.
  Such a queue is contested. For some rounds, this sender then keeps the bandwidth and the window of
  two BDPs: it does not yield, and it ignores losses, but not ECN marks. BBRv1 does the same and
  fills a queue of one BDP, so losses occur at any rate of this sender.
- A shorter queue counts, too. DOWN and CRUISE lower the pacing rate in proportion to it, so the
  queue stays short although the bandwidth is a maximum of samples and therefore slightly too high.
  Latency matters as much as throughput here: small messages share the path with bulk data. If a
  queue stands in CRUISE nevertheless, the rate of the bottleneck varies, as that of a busy host
  does, and its maximum is much too high. The average rate then becomes the bandwidth.
- UP ends as soon as the round trips show a queue, instead of after a round with a larger flight.
- After STARTUP, a rate sample counts at most as the average rate of the last rounds. Samples that
  are too high because of aggregated acknowledgements would otherwise accumulate in the maximum.
- The last two rules apply only while no other sender causes a queue, the draining only while the
  queue is not contested. They would leave the path to senders that fill its queue, for example
  CUBIC and BBRv1.
- STARTUP continues while the rate grows, regardless of loss and queues: other senders may be the
  cause.
- The window includes HOST_DELAY seconds, the delay that event loops and timers add at both ends.

This module does no I/O and reads no clock. Sizes are in bytes, times in seconds, and rates in bytes
per second.
"""

from __future__ import annotations

import enum
import math
import random
from collections import deque
from dataclasses import dataclass

from quicdist.carriers.quic.congestion.controller import INITIAL_WINDOW, MIN_WINDOW, Ack
from quicdist.carriers.quic.congestion.filters import MaxFilter, MinFilter
from quicdist.carriers.quic.congestion.rate_sample import DeliveryRate, RateSample, SendState


class State(enum.Enum):
    """The states of BBR (5.3)."""

    STARTUP = "startup"
    """Doubles the rate in each round trip until the delivery rate stops growing (5.3.1)."""
    DRAIN = "drain"
    """Drains the queue that STARTUP created (5.3.2)."""
    PROBE_BW_DOWN = "probe_bw_down"
    """Sends below the delivery rate, which drains the queue (5.3.3.1)."""
    PROBE_BW_CRUISE = "probe_bw_cruise"
    """Sends at the delivery rate (5.3.3.2)."""
    PROBE_BW_REFILL = "probe_bw_refill"
    """Fills the path for one round trip before UP (5.3.3.3)."""
    PROBE_BW_UP = "probe_bw_up"
    """Sends above the delivery rate, to probe for more bandwidth (5.3.3.4)."""
    PROBE_RTT = "probe_rtt"
    """Sends little for a short time, to measure the round trip with an empty queue (5.3.4)."""


_STARTUP, _DRAIN, _PROBE_RTT = State.STARTUP, State.DRAIN, State.PROBE_RTT
_DOWN, _CRUISE = State.PROBE_BW_DOWN, State.PROBE_BW_CRUISE
_REFILL, _UP = State.PROBE_BW_REFILL, State.PROBE_BW_UP


@dataclass(frozen=True, slots=True)
class Gains:
    """The factors with which a state applies the model (5.6.1)."""

    pacing: float
    """Pacing rate as a multiple of the bandwidth."""
    window: float
    """Window as a multiple of the BDP."""
    longterm: float
    """Maximum bytes in flight as a multiple of `inflight_longterm`, which was too much before.
    Infinity means no bound."""
    drain: float = 0.0
    """Maximum reduction of `pacing` while there is a queue (see QUEUE_GAIN)."""


_HEADROOM = 0.85
"""Share of `inflight_longterm` to use. The rest is left to other senders (2.7, BBR.Headroom)."""

GAINS = {
    _STARTUP: Gains(pacing=2.77, window=2.0, longterm=math.inf),
    _DRAIN: Gains(pacing=0.5, window=2.0, longterm=math.inf),
    _DOWN: Gains(pacing=0.9, window=2.0, longterm=1.0, drain=0.2),
    _CRUISE: Gains(pacing=1.0, window=2.0, longterm=_HEADROOM, drain=0.1),
    _REFILL: Gains(pacing=1.0, window=2.0, longterm=1.0),
    _UP: Gains(pacing=1.25, window=2.25, longterm=1.0),
    _PROBE_RTT: Gains(pacing=1.0, window=0.5, longterm=_HEADROOM),
}

_UP_PACING = GAINS[_UP].pacing

TRANSITIONS = {
    _STARTUP: {_DRAIN},
    _DRAIN: {_DOWN, _PROBE_RTT},
    _DOWN: {_CRUISE, _REFILL, _PROBE_RTT},
    _CRUISE: {_REFILL, _DOWN, _PROBE_RTT},
    _REFILL: {_UP, _DOWN, _PROBE_RTT},
    _UP: {_DOWN, _PROBE_RTT},
    _PROBE_RTT: {_DOWN},
}
"""The allowed next states of each state (5.3)."""

_PACING_MARGIN = 0.99
"""Multiple of the bandwidth. A sender slightly slower than the path creates no queue (5.6.2)."""

LOSS_THRESHOLD = 0.02
"""Share of a flight whose loss is ignored (2.7, BBR.LossThresh)."""
_CHANCE = 3.0
"""Standard deviations above that share that random loss explains."""
_HEAVY_LOSS = 0.1
"""Share of a flight above which the rate is lowered in each round instead of once per probe. A
smaller loss that persists at a lower rate is not caused by this sender."""
_MAX_BASE_LOSS = 0.08
"""Maximum share of loss that is attributed to the path or to other senders."""
_BETA = 0.7
"""Factor of a reduction after excessive loss (2.7, BBR.Beta)."""

_FULL_GROWTH = 1.25
_FULL_ROUNDS, _FULL_QUEUED_ROUNDS = 3, 2
"""Rounds without such growth after which STARTUP has filled the path (5.3.1.2). The second value
applies if there is a queue."""

QUEUE_TOLERATED = 0.1
"""Tolerated queueing delay in minimum round trips, in addition to HOST_DELAY. If each datagram of a
round is delayed longer, there is a standing queue."""
_STARTUP_QUEUE = 0.5
"""The same in STARTUP."""
QUEUE_GAIN = 0.5
"""Share of a queue that DOWN and CRUISE drain in each round. The queue is seen a round later, so a
larger share would oscillate."""
_QUEUE_NOISE = 0.001
"""Seconds of delay that are not drained: those of delayed acknowledgements."""
_STANDING_QUEUE = 0.05
"""Queueing delay in minimum round trips, in addition to that, which shows that the bandwidth is too
high if it stands in CRUISE."""
_QUEUED_ROUNDS = 3
"""Consecutive rounds that must show a queue, because a busy host also causes a short delay."""
_QUEUE_SAMPLES = 4
"""Minimum number of round-trip samples in a round to detect a queue."""

_MIN_RTT_WINDOW = 10.0
_PROBE_RTT_INTERVAL = 5.0
_PROBE_RTT_DURATION = 0.2
"""Seconds (5.3.4.3)."""
_MIN_RTT_TOLERANCE = 0.05
"""A round trip within this share of the minimum confirms it, so that PROBE_RTT is not needed."""

_PROBE_WAIT = (2.0, 3.0)
"""Range of the random time in seconds between two bandwidth probes (5.3.3.5.3)."""
_FIRST_WAIT = 0.1
"""Share of that time after STARTUP, which may have ended early."""
_CONTESTED_WAIT = 0.6
"""Share of that time while a queue is contested: only probes lead to a larger share then."""
_PROBE_ROUNDS = 63
"""Maximum rounds between two bandwidth probes; fewer if fewer datagrams are in flight. Reno grows
by that amount in that time (5.3.3.5.1)."""

_AVERAGED_ROUNDS = 3
"""The bandwidth is at most the average rate of that many rounds, plus the current one. A single
sample is too high if acknowledgements come late and together."""
_RECENT_ROUNDS = 6
"""Rounds whose best one is the rate that this sender gets. The host may be busy in the others."""
_MIN_CYCLE = 0.5
"""Minimum seconds of a cycle, so that measurements are kept while the host is briefly busy."""
_YIELD_GAIN = 0.85
"""Multiple of the measured bandwidth, besides the gain of DOWN, while draining a queue."""
_YIELD_SHARE = 0.6
"""Maximum remaining share of a drained queue for which this sender was the cause."""
_MUCH_LOWER = 0.7
"""Share of the bandwidth below which the result of a yield is verified by an early probe."""
_RETURN_ROUNDS = 3
"""A queue that returns within this number of rounds is caused by other senders."""
_CONTEST_ROUNDS = (8, 32)
"""Rounds without yielding after a yield had no effect: the initial and the maximum number."""

_SHARED_ROUNDS = 128
"""Rounds after that for which the path counts as shared."""

_UP_FIRST_GROWTH = 1 / 16
"""Share of the acknowledged bytes by which UP raises the bound in its first round. The share
doubles in each further round."""
_UP_MAX_ROUNDS = 6
"""Maximum rounds of UP while the bound limits it."""
_UP_GROWTH = 1.1
_UP_FREE = 1.2
"""Growth of the bandwidth that shows that UP takes nothing from other senders."""
_UP_ROUNDS, _UP_SHARED_ROUNDS = 3, 2
"""Rounds of UP without a growth of _UP_GROWTH after which it ends. The second value applies on a
shared path, where single rate samples count."""
_UP_QUEUE = 1 / 16
"""Queueing delay that ends UP, as QUEUE_TOLERATED. UP sends more than the path delivers, so the
queue would become longer by a quarter of a round trip in each further round."""
_UP_SAMPLES = 8
"""Consecutive round-trip samples that must show that delay, because acknowledgements that come
together were delayed by different times."""
_DOWN_ROUNDS = 4
"""Maximum rounds of DOWN, because a queue of other senders does not disappear."""

HOST_DELAY = 0.003
"""Seconds that event loops, their timers and delayed acknowledgements add at both ends."""
SHORT_DATAGRAMS, _SHORT_WINDOW = 112, 512 * 1024
"""Window of a path with a shorter round trip than HOST_DELAY: datagrams, and at most this many
bytes."""
_MAX_EXTRA = 0.05
"""Maximum burst of acknowledged bytes, in seconds at the bandwidth: the time a host may be busy."""
_EXTRA_ROUNDS = 10
"""Rounds for which aggregation is stored (2.7, BBR.ExtraAckedFilterLen)."""


@dataclass(slots=True)
class _LossModel:
    """The bounds set by losses (5.5.10). A copy restores them if the losses were spurious."""

    longterm: float = math.inf
    shortterm: float = math.inf
    bandwidth: float = math.inf
    """`bw_shortterm`."""
    is_full: bool = False

    def copy(self) -> _LossModel:
        return _LossModel(self.longterm, self.shortterm, self.bandwidth, self.is_full)


@dataclass(frozen=True, slots=True)
class _Yield:
    """The measurements before this sender drained its share of a queue."""

    queue: float
    bandwidth: float
    bound: float
    """`bw_shortterm` before the yield."""


class Bbr:
    """BBR on one path (see controller.Controller)."""

    def __init__(self, datagram_size: int, *, chance: random.Random | None = None) -> None:
        """`chance` selects the times of the bandwidth probes."""
        self.datagram_size = datagram_size
        self.state = State.STARTUP
        self._gains = GAINS[self.state]
        self._advance = _STEPS[self.state]
        self._chance = chance or random.Random()
        self._window = float(INITIAL_WINDOW * datagram_size)
        self._rate = 0.0
        self._delivery = DeliveryRate()
        self._bandwidths = MaxFilter(2)
        self._min_rtt = MinFilter(_MIN_RTT_WINDOW)
        self._probe_min_rtt = MinFilter(_PROBE_RTT_INTERVAL)
        self._bounds = _LossModel()

        self._round_end = 0
        self._rounds = 0
        self._is_round_start = False
        self._round_rtt = math.inf
        self._round_rtts = 0
        self._round_at = -math.inf
        self._round_delivered = 0
        self._round_starts: deque[tuple[float, int]] = deque(maxlen=_AVERAGED_ROUNDS)
        """Time and delivered bytes at the start of the last rounds with enough data."""
        self._latest_rtts: deque[float] = deque(maxlen=_UP_SAMPLES)
        self._queue = 0.0
        """Queueing delay in seconds of the fastest datagram of the last round."""
        self._queues: deque[float] = deque([0.0], maxlen=_QUEUED_ROUNDS)
        """The same for the last rounds."""
        self._queue_before = 0.0
        """The same at the start of UP."""

        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._loses = False

        self._extra = MaxFilter(_EXTRA_ROUNDS)
        self._extra_since = 0.0
        self._extra_delivered = 0

        self._round_marked = 0
        """Bytes reported with ECN marks in this round."""
        self._latest_bandwidth = 0.0
        self._latest_delivered = 0
        self._recent = MaxFilter(_RECENT_ROUNDS)
        self._undo: _LossModel | None = None
        self._undo_lost = 0
        self._has_lowered = False
        self._base_loss = 0.0
        """Share lost while this sender did not probe, which it did not cause."""
        self._base_from = (0, 0)

        self._state_rounds = 0
        self._cycle_at = 0.0
        self._cycle_rounds = 0
        self._wait = 0.0
        self._up_rounds = 0
        self._yielded: _Yield | None = None
        self._contested_until = 0
        self._yielded_at = -_RETURN_ROUNDS
        self._contest_rounds = _CONTEST_ROUNDS[0]
        self._shared_until = 0

        self._probe_rtt_end: float | None = None
        self._window_before = 0.0

    # -- decisions --

    @property
    def window(self) -> int:
        return max(int(self._window), MIN_WINDOW * self.datagram_size)

    @property
    def pacing_rate(self) -> float:
        return self._rate

    @property
    def bandwidth(self) -> float:
        """The estimated bandwidth of the path that is available to this sender."""
        return min(self._bandwidths.value, self._bounds.bandwidth)

    @property
    def min_rtt(self) -> float:
        """The minimum round trip in seconds; infinite while unknown."""
        return self._min_rtt.value

    @property
    def capacity(self) -> float:
        minimum = self._min_rtt.value
        return 0.0 if minimum is math.inf else self._bandwidths.value * minimum

    # -- inputs --

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        if in_flight <= 0 and self._delivery.is_app_limited:
            self._extra_since, self._extra_delivered = now, 0  # 5.4.1, restart from idle
        return self._delivery.on_sent(now, in_flight, size)

    def on_app_limited(self, in_flight: int) -> None:
        # A sender that waits for credit while the path and a queue are full is limited by the path.
        is_path_full = self._has_queue and in_flight > self._bdp(1.0)
        if in_flight < self._window and not is_path_full:
            self._delivery.on_app_limited(in_flight)

    def on_ack(self, ack: Ack) -> None:
        self._delivery.on_lost(ack.lost)
        minimum = self._min_rtt.value
        least = 0.0 if minimum is math.inf else 0.99 * minimum
        sample = self._delivery.on_acknowledged(ack.now, ack.acknowledged, ack.newest, least)
        if sample is None:
            return
        self._count_round(sample)
        if ack.rtt is not None:
            self._take_rtt(ack.rtt, ack.now)
        self._take_bandwidth(sample, ack.now)
        self._take_aggregation(ack)
        self._take_loss(ack, sample)
        if self._is_round_start:
            self._end_round(sample)
        self._advance(self, ack)
        if self._is_round_start:
            self._follow_average(ack.now)
            self._take_round(ack.now)
            self._latest_bandwidth, self._latest_delivered = sample.rate, sample.delivered
        self._set_rate()
        self._set_window(ack)

    def on_spurious_loss(self, now: float, size: int) -> None:
        """Restores the bounds after all losses that lowered them turned out to be spurious."""
        self._delivery.on_spurious_loss(size)
        self._undo_lost -= size
        if self._undo is not None and self._undo_lost <= 0:
            self._bounds, self._undo = self._undo, None

    def on_persistent_congestion(self) -> None:
        """Resets the window. The model is kept, because later samples correct it (5.6.4.4)."""
        self._window = float(MIN_WINDOW * self.datagram_size)

    # -- the model --

    def _count_round(self, sample: RateSample) -> None:
        """Starts a new round if the sample belongs to it (5.5.1)."""
        self._is_round_start = sample.prior_delivered >= self._round_end
        if self._is_round_start:
            self._round_end = self._delivery.delivered
            self._rounds += 1
            self._state_rounds += 1
            if not self._rounds % _EXTRA_ROUNDS:
                self._extra.advance()

    def _take_round(self, now: float) -> None:
        """Measures the rate of the round that has ended.

        Its largest rate sample is too high if a host was busy: acknowledgements come late and then
        together.
        """
        delivered = self._delivery.delivered
        elapsed = now - self._round_at
        if elapsed > 0:
            self._recent.advance()
            self._recent.update((delivered - self._round_delivered) / elapsed)
        self._round_at, self._round_delivered = now, delivered
        self._round_starts.append((now, delivered))

    def _take_rtt(self, rtt: float, now: float) -> None:
        """Updates the minimum round trip and starts PROBE_RTT when it is due (5.3.4.3, 5.5.7)."""
        self._round_rtt = min(self._round_rtt, rtt)
        self._round_rtts += 1
        self._latest_rtts.append(rtt)
        probe, minimum = self._probe_min_rtt, self._min_rtt
        probe.confirm(rtt, now, _MIN_RTT_TOLERANCE)
        minimum.confirm(rtt, now, _MIN_RTT_TOLERANCE)
        is_due = probe.is_expired(now)
        if is_due and self._bounds.is_full and self.state is not _PROBE_RTT:
            self._begin_probe_rtt()
        probe.update(rtt, now)
        if probe.value < minimum.value or minimum.is_expired(now):
            minimum.value, minimum.at = probe.value, probe.at

    def _take_bandwidth(self, sample: RateSample, now: float) -> None:
        """Updates the maximum bandwidth (5.5.5)."""
        starts = self._round_starts
        if sample.is_app_limited:
            starts.clear()
        rate = sample.rate
        has_average = len(starts) == _AVERAGED_ROUNDS and not self._is_short
        if self._bounds.is_full and has_average and not self._is_shared:
            rate = min(rate, self._average(now))
        if rate and (not sample.is_app_limited or rate >= self._bandwidths.value):
            self._bandwidths.update(rate)

    def _average(self, now: float) -> float:
        """Returns the delivery rate of the last rounds; infinity if it is unknown."""
        if not self._round_starts:
            return math.inf
        at, delivered = self._round_starts[0]
        return (self._delivery.delivered - delivered) / (now - at) if now > at else math.inf

    def _take_aggregation(self, ack: Ack) -> None:
        """Measures the bytes acknowledged in one burst beyond the expected ones (5.5.9)."""
        expected = self.bandwidth * (ack.now - self._extra_since)
        if self._extra_delivered <= expected:
            self._extra_since, self._extra_delivered, expected = ack.now, 0, 0.0
        self._extra_delivered += ack.acknowledged
        seconds = HOST_DELAY / 6
        if not self._is_short:
            seconds = min(max(self._min_rtt.value, HOST_DELAY), _MAX_EXTRA)
        bound = self.bandwidth * seconds
        self._extra.update(min(self._extra_delivered - expected, bound))

    def _take_loss(self, ack: Ack, sample: RateSample) -> None:
        """Applies losses (5.5.10). ECN marks count as losses that are not random."""
        self._latest_bandwidth = max(self._latest_bandwidth, sample.rate)
        self._latest_delivered = max(self._latest_delivered, sample.delivered)
        self._round_marked += ack.ecn_ce
        if not ack.lost and not self._round_marked:
            return
        flight = max(sample.in_flight, self.datagram_size)
        is_marked = self._round_marked > LOSS_THRESHOLD * flight
        if not is_marked and not self._is_too_much(sample.lost, flight):
            return
        if self.state is _STARTUP:
            self._loses = True
        elif self.state in (_REFILL, _UP):
            self._note_undo(sample.lost, is_marked)
            if not sample.is_app_limited:
                self._bounds.longterm = max(float(flight - sample.lost), self._bdp(1.0) * _BETA)
            self._begin_down(ack.now)
        elif self._is_round_start and self.state is not _PROBE_RTT:
            if self._has_lowered and not is_marked and sample.lost < _HEAVY_LOSS * flight:
                return
            self._has_lowered = True
            self._note_undo(sample.lost, is_marked)
            self._lower_shortterm()
            self._base_from = (self._delivery.delivered, self._delivery.lost)

    def _is_too_much(self, lost: int, flight: int) -> bool:
        if self._is_contested:
            return False
        tolerated = (LOSS_THRESHOLD + self._base_loss) * flight
        return lost > tolerated + _CHANCE * math.sqrt(tolerated * self.datagram_size)

    def _note_undo(self, lost: int, is_marked: bool) -> None:
        """Stores the bounds before a reduction by losses. One by marks is never spurious."""
        if is_marked:
            self._undo = None
        elif self._undo is None:
            self._undo = self._bounds.copy()
        self._undo_lost = lost

    def _lower_shortterm(self) -> None:
        """Lowers the short-term bounds, once per round outside of probes (5.5.10.3)."""
        bounds = self._bounds
        if bounds.shortterm is math.inf:
            bounds.shortterm, bounds.bandwidth = self._window, self._bandwidths.value
        bounds.shortterm = max(float(self._latest_delivered), _BETA * bounds.shortterm)
        bounds.bandwidth = max(self._latest_bandwidth, _BETA * bounds.bandwidth)

    def _end_round(self, sample: RateSample) -> None:
        is_known = self._round_rtts >= _QUEUE_SAMPLES and self._min_rtt.value < math.inf
        self._queue = max(self._round_rtt - self._min_rtt.value, 0.0) if is_known else 0.0
        self._queues.append(self._queue)
        self._round_rtt, self._round_rtts, self._round_marked = math.inf, 0, 0
        if is_known and not self._has_queue:
            self._contested_until, self._contest_rounds = 0, _CONTEST_ROUNDS[0]
        if not self._bounds.is_full:
            self._bounds.is_full = self._has_filled(sample)
            self._loses = False

    def _has_filled(self, sample: RateSample) -> bool:
        """Whether STARTUP has reached the path's bandwidth (5.3.1.2)."""
        if sample.is_app_limited or not sample.rate:
            return False
        if sample.rate >= self._full_bandwidth * _FULL_GROWTH:
            self._full_bandwidth, self._full_rounds = sample.rate, 0
            return False
        self._full_rounds += 1
        if self._loses:
            self._bounds.longterm = max(self._bdp(1.0), float(self._latest_delivered))
            return True
        has_queue = self._queue > self._tolerated(_STARTUP_QUEUE)
        rounds = _FULL_QUEUED_ROUNDS if has_queue else _FULL_ROUNDS
        return self._full_rounds >= rounds

    def _bdp(self, gain: float) -> float:
        """Returns `gain` times the bandwidth-delay product in bytes (5.6.4.2)."""
        if self._min_rtt.value is math.inf or not self._bandwidths.value:
            return float(INITIAL_WINDOW * self.datagram_size)
        return gain * self.bandwidth * self._min_rtt.value

    @property
    def _has_queue(self) -> bool:
        return min(self._queues) > self._tolerated(QUEUE_TOLERATED)

    @property
    def _is_short(self) -> bool:
        """Whether the round trip of the path is shorter than the delay of the hosts."""
        return self._min_rtt.value < HOST_DELAY

    def _tolerated(self, share: float) -> float:
        """The delay in seconds that does not indicate a queue.

        It is infinite on a path that is shorter than the delay of the hosts, because a delay is
        then caused by busy processors.
        """
        if self._is_short:
            return math.inf
        return share * self._min_rtt.value + HOST_DELAY

    # -- the states --

    def _in_startup(self, ack: Ack) -> None:
        if self._bounds.is_full:
            self._enter(_DRAIN)

    def _in_drain(self, ack: Ack) -> None:
        if self._is_drained(ack.in_flight) or self._state_rounds > _DOWN_ROUNDS:
            self._begin_down(ack.now)

    def _is_drained(self, in_flight: int) -> bool:
        return in_flight <= self._bdp(1.0) + self.bandwidth * HOST_DELAY

    def _in_down(self, ack: Ack) -> None:
        if self._is_time_to_probe(ack.now):
            self._begin_refill()
            return
        is_below = self._is_drained(ack.in_flight) and (
            ack.in_flight <= _HEADROOM * self._bounds.longterm
        )
        yielded = self._yielded
        if yielded is not None:
            # The remaining queue is measured one round trip later.
            is_below = self._is_round_start and not self._has_queue
        if is_below or self._state_rounds > _DOWN_ROUNDS:
            if yielded is not None:
                self._bounds.bandwidth = yielded.bound
                self._end_yield(yielded)
            self._enter(_CRUISE)

    def _in_cruise(self, ack: Ack) -> None:
        if self._state_rounds <= 1:
            self._base_from = (self._delivery.delivered, self._delivery.lost)
        if self._is_time_to_probe(ack.now):
            self._take_base_loss()
            self._begin_refill()
        elif self._is_round_start and self._has_queue and not self._is_contested:
            if self._rounds - self._yielded_at <= _RETURN_ROUNDS:
                self._contest()
                return
            self._yield()
            self._enter(_DOWN)

    def _follow_average(self, now: float) -> None:
        """Adopts the average rate of the last rounds as the bandwidth if a queue stands."""
        if self.state is not _CRUISE or self._is_contested or self._is_shared or self._is_short:
            return
        stands = min(self._queues) > _STANDING_QUEUE * self._min_rtt.value + _QUEUE_NOISE
        average = self._average(now)
        if stands and average < self._bandwidths.value:
            self._bandwidths.replace(average)

    def _contest(self) -> None:
        """Disables yielding for some rounds, because it had no effect."""
        self._contested_until = self._rounds + self._contest_rounds
        self._shared_until = self._contested_until + _SHARED_ROUNDS
        self._contest_rounds = min(2 * self._contest_rounds, _CONTEST_ROUNDS[1])
        self._forget_shortterm()

    def _yield(self) -> None:
        """Starts to drain this sender's share of a queue.

        The rate is based on the measured share of the bottleneck. The earlier estimate was too
        high, given the traffic of other senders.
        """
        measured = min(self._recent.value or math.inf, self._bandwidths.value)
        self._yielded = _Yield(self._queue, measured, self._bounds.bandwidth)
        self._bounds.bandwidth = min(_YIELD_GAIN * measured, self._bounds.bandwidth)

    def _take_base_loss(self) -> None:
        delivered, lost = self._base_from
        delivered, lost = self._delivery.delivered - delivered, self._delivery.lost - lost
        if delivered > 0 and lost >= 0:
            self._base_loss = min(lost / (delivered + lost), _MAX_BASE_LOSS)

    def _end_yield(self, yielded: _Yield) -> None:
        """Evaluates a yield: if the queue has shrunk, this sender was its cause."""
        self._yielded = None
        before = self._bandwidths.value
        is_ours = self._queue <= _YIELD_SHARE * yielded.queue
        if not is_ours:
            self._contest()
            return
        if yielded.bandwidth < before:
            self._bandwidths.replace(yielded.bandwidth)
        self._yielded_at = self._rounds
        self._contest_rounds = _CONTEST_ROUNDS[0]
        if yielded.bandwidth < _MUCH_LOWER * before:
            self._wait *= _FIRST_WAIT  # UP detects whether a busy host was the cause

    @property
    def _is_contested(self) -> bool:
        """Whether a queue counts as caused by other senders."""
        return self._rounds < self._contested_until

    @property
    def _is_shared(self) -> bool:
        """Whether other senders caused a queue recently."""
        return self._rounds < self._shared_until

    def _in_refill(self, ack: Ack) -> None:
        if self._is_round_start and self._state_rounds >= 1:
            self._up_rounds = 0
            self._full_bandwidth, self._full_rounds = self._bandwidths.value, 0
            self._queue_before = self._queue
            self._enter(_UP)

    def _in_up(self, ack: Ack) -> None:
        self._raise_longterm(ack)
        self._up_rounds += self._is_round_start
        is_free = self._bandwidths.value >= self._full_bandwidth * _UP_FREE
        before = self._queue_before if self._is_contested else 0.0
        share = QUEUE_TOLERATED if self._is_shared else _UP_QUEUE
        if self._up_queue() > before + self._tolerated(share) and not is_free:
            self._begin_down(ack.now)
            return
        if not self._is_round_start:
            return
        is_bound = self._window >= self._bounds.longterm and self._up_rounds < _UP_MAX_ROUNDS
        rounds = _UP_SHARED_ROUNDS if self._is_shared else _UP_ROUNDS
        if self._state_rounds < rounds or is_bound:
            return
        if self._bandwidths.value >= self._full_bandwidth * _UP_GROWTH:
            self._full_bandwidth = self._bandwidths.value
            self._state_rounds = 0
        else:
            self._begin_down(ack.now)

    def _up_queue(self) -> float:
        """The queueing delay in seconds that UP has caused so far."""
        if self._is_shared:
            return self._queue if self._is_round_start else 0.0
        rtts = self._latest_rtts
        if not self._state_rounds or len(rtts) < _UP_SAMPLES:
            return 0.0
        queue = min(rtts) - self._min_rtt.value
        return max(queue, self._queue) if self._is_round_start else queue

    def _raise_longterm(self, ack: Ack) -> None:
        """Raises the long-term bound, by more in each round (5.3.3.4)."""
        bounds = self._bounds
        if bounds.longterm is math.inf:
            return
        share = min(2.0**self._up_rounds * _UP_FIRST_GROWTH, 1.0)
        bounds.longterm += share * ack.acknowledged

    def _in_probe_rtt(self, ack: Ack) -> None:
        """Ends PROBE_RTT after enough time with few bytes in flight (5.3.4.3)."""
        if self._probe_rtt_end is None:
            if ack.in_flight <= self._probe_rtt_window() or self._state_rounds > 2:
                self._probe_rtt_end = ack.now + max(_PROBE_RTT_DURATION, self._min_rtt.value)
        elif ack.now >= self._probe_rtt_end:
            self._probe_min_rtt.at = ack.now
            self._window = max(self._window, self._window_before)
            self._begin_down(ack.now)

    def _probe_rtt_window(self) -> float:
        window = self._bdp(GAINS[_PROBE_RTT].window)
        return max(window, MIN_WINDOW * self.datagram_size)

    def _is_time_to_probe(self, now: float) -> bool:
        """Whether the next bandwidth probe is due (5.3.3.5)."""
        rounds = min(_PROBE_ROUNDS, max(self._bdp(1.0) / self.datagram_size, 8))
        waited = self._rounds - self._cycle_rounds
        elapsed = now - self._cycle_at
        share = _CONTESTED_WAIT if self._is_contested else 1.0
        return elapsed >= self._wait * share or (waited >= rounds and elapsed >= _MIN_CYCLE)

    def _begin_down(self, now: float) -> None:
        """Starts a cycle of bandwidth probing (5.3.3.6)."""
        if self.state is _UP:
            self._bandwidths.advance()
        self._cycle_at, self._cycle_rounds = now, self._rounds
        self._wait = self._chance.uniform(*_PROBE_WAIT)
        if self.state is _DRAIN:
            self._wait *= _FIRST_WAIT
        self._forget_shortterm()
        self._yielded = None
        self._has_lowered = False
        if self.state is _UP and self._has_queue and not self._is_contested:
            self._yield()
        self._enter(_DOWN)

    def _begin_refill(self) -> None:
        self._forget_shortterm()
        self._round_end = self._delivery.delivered
        self._undo = None
        self._enter(_REFILL)

    def _begin_probe_rtt(self) -> None:
        self._window_before = self._window
        self._probe_rtt_end = None
        self._enter(_PROBE_RTT)

    def _forget_shortterm(self) -> None:
        self._bounds.shortterm = self._bounds.bandwidth = math.inf

    def _enter(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state
        self._gains = GAINS[state]
        self._advance = _STEPS[state]
        self._state_rounds = 0

    # -- rate and window --

    def _set_rate(self) -> None:
        """Sets the pacing rate (5.6.2)."""
        minimum = self._min_rtt.value
        if minimum is math.inf:
            return
        gain = self._gains.pacing
        is_short = minimum < HOST_DELAY
        if is_short:
            gain = max(gain, _UP_PACING)  # the window is the limit
        elif self._gains.drain and not self._is_contested:
            queue = max(self._queue - _QUEUE_NOISE, 0.0)
            gain -= min(QUEUE_GAIN * queue / minimum, self._gains.drain)
        rate = gain * self.bandwidth * _PACING_MARGIN
        least = INITIAL_WINDOW * self.datagram_size / max(minimum, 0.001)
        if self._bounds.is_full:
            self._rate = max(rate, MIN_WINDOW * self.datagram_size / max(minimum, 0.001) / 4)
        else:
            self._rate = max(rate, self._rate, gain * least)

    def _set_window(self, ack: Ack) -> None:
        """Sets the congestion window (5.6.4)."""
        gains = self._gains
        host = min(HOST_DELAY, self._min_rtt.value + HOST_DELAY / 6)
        room = self._bdp(gains.window) + self._extra.value + self.bandwidth * host
        least = MIN_WINDOW * self.datagram_size
        if self._is_short:
            least = min(SHORT_DATAGRAMS * self.datagram_size, _SHORT_WINDOW)
        room = max(room, float(least))
        window = self._window
        if self._bounds.is_full:
            window = min(window + ack.acknowledged, room)
        elif window < room or self._delivery.delivered < INITIAL_WINDOW * self.datagram_size:
            window += ack.acknowledged
        bound = self._bounds.shortterm
        if not self._is_contested:
            bound = min(bound, gains.longterm * self._bounds.longterm)
        if self.state is _PROBE_RTT:
            bound = min(bound, self._probe_rtt_window())
        self._window = max(min(window, bound), float(MIN_WINDOW * self.datagram_size))


_STEPS = {
    _STARTUP: Bbr._in_startup,
    _DRAIN: Bbr._in_drain,
    _DOWN: Bbr._in_down,
    _CRUISE: Bbr._in_cruise,
    _REFILL: Bbr._in_refill,
    _UP: Bbr._in_up,
    _PROBE_RTT: Bbr._in_probe_rtt,
}
