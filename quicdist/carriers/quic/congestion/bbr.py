"""BBR: congestion control by a model of the path, not by its losses (draft-ietf-ccwg-bbr-05).

The model is the rate at which the path delivers (the maximum of delivery-rate samples) and how long
it is (the minimum round trip); what is in flight follows their product, the bandwidth-delay product
(BDP). Section numbers below are those of the draft. Where this differs from it:

- Loss counts only where more than LOSS_THRESHOLD is lost and more than chance explains. A short
  flight on a path that loses one datagram in a hundred is above 2 % every other round trip.
- Loss that stays when this sender has slowed down is the path's own, or made by others: it is
  tolerated on top.
- A queue counts as well. If every datagram of a round trip waited longer than QUEUE_TOLERATED
  allows, a queue stands at the bottleneck; this sender then yields: it drains its own share of it
  and believes the rate that it measured. A queue that stays, or is back at once, is made by others,
  who would take all of the path from a sender that gave way: it is contested, and for some rounds
  this sender does not yield.
- STARTUP goes on while the rate grows, whatever is lost or queued: others may be the cause.
- The window has room for HOST_DELAY seconds that event loops and timers add at both ends.

Pure: times are told. Sizes in bytes, times in seconds, rates in bytes a second.
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
    """Section 5.3."""

    STARTUP = "startup"
    """Doubles the rate each round trip until it grows no more (5.3.1)."""
    DRAIN = "drain"
    """Empties the queue that STARTUP made (5.3.2)."""
    PROBE_BW_DOWN = "probe_bw_down"
    """Sends less than is delivered, which empties the queue (5.3.3.1)."""
    PROBE_BW_CRUISE = "probe_bw_cruise"
    """Sends what is delivered (5.3.3.2)."""
    PROBE_BW_REFILL = "probe_bw_refill"
    """Fills the path for one round trip, so that UP finds no slack in it (5.3.3.3)."""
    PROBE_BW_UP = "probe_bw_up"
    """Sends more than is delivered, to see whether the path has more to give (5.3.3.4)."""
    PROBE_RTT = "probe_rtt"
    """Sends little for a moment, to see the round trip of an empty queue (5.3.4)."""


_STARTUP, _DRAIN, _PROBE_RTT = State.STARTUP, State.DRAIN, State.PROBE_RTT
_DOWN, _CRUISE = State.PROBE_BW_DOWN, State.PROBE_BW_CRUISE
_REFILL, _UP = State.PROBE_BW_REFILL, State.PROBE_BW_UP


@dataclass(frozen=True, slots=True)
class Gains:
    """How a state uses the model (5.6.1)."""

    pacing: float
    """Of the bandwidth."""
    window: float
    """Of the BDP."""
    longterm: float
    """Of `inflight_longterm`, what was once too much: in flight at most. Infinite: no bound."""


_HEADROOM = 0.85
"""Of what was once too much: the rest is left to others (2.7, BBR.Headroom)."""

GAINS = {
    _STARTUP: Gains(pacing=2.77, window=2.0, longterm=math.inf),
    _DRAIN: Gains(pacing=0.5, window=2.0, longterm=math.inf),
    _DOWN: Gains(pacing=0.9, window=2.0, longterm=1.0),
    _CRUISE: Gains(pacing=1.0, window=2.0, longterm=_HEADROOM),
    _REFILL: Gains(pacing=1.0, window=2.0, longterm=1.0),
    _UP: Gains(pacing=1.25, window=2.25, longterm=1.0),
    _PROBE_RTT: Gains(pacing=1.0, window=0.5, longterm=_HEADROOM),
}

TRANSITIONS = {
    _STARTUP: {_DRAIN},
    _DRAIN: {_DOWN, _PROBE_RTT},
    _DOWN: {_CRUISE, _REFILL, _PROBE_RTT},
    _CRUISE: {_REFILL, _DOWN, _PROBE_RTT},
    _REFILL: {_UP, _DOWN, _PROBE_RTT},
    _UP: {_DOWN, _PROBE_RTT},
    _PROBE_RTT: {_DOWN},
}
"""States that may follow each (5.3)."""

_PACING_MARGIN = 0.99
"""Of the bandwidth: a sender a little slower than the path builds no queue (5.6.2)."""

LOSS_THRESHOLD = 0.02
"""Share of a flight that may be lost without meaning anything (2.7, BBR.LossThresh)."""
_CHANCE = 3.0
"""Standard deviations beyond that which chance explains."""
_HEAVY_LOSS = 0.1
"""Share of a flight beyond which the rate is lowered each round, and not once for each probe: less
that persists at a lower rate is not of this sender's doing."""
_MAX_BASE_LOSS = 0.08
"""Share that is put down to the path, or to others, at most."""
_BETA = 0.7
"""Reduction where too much is lost (2.7, BBR.Beta)."""

_FULL_GROWTH = 1.25
_FULL_ROUNDS, _FULL_QUEUED_ROUNDS = 3, 2
"""Rounds without such a growth after which STARTUP has filled the path (5.3.1.2), the second where
there is a queue."""

QUEUE_TOLERATED = 0.1
"""Minimum round trips that every datagram of a round may wait, besides HOST_DELAY: where they wait
longer, a queue stands."""
_STARTUP_QUEUE = 0.5
"""The same while STARTUP fills the path."""
_QUEUED_ROUNDS = 3
"""Rounds in each of which that is so: a moment in which a host was busy is no queue."""
_QUEUE_SAMPLES = 4
"""Round trips measured in a round, at least, to say so."""

_MIN_RTT_WINDOW = 10.0
_PROBE_RTT_INTERVAL = 5.0
_PROBE_RTT_DURATION = 0.2
"""Seconds (5.3.4.3)."""
_MIN_RTT_TOLERANCE = 0.05
"""A round trip so near to the minimum confirms it, and spares a PROBE_RTT."""

_PROBE_WAIT = (2.0, 3.0)
"""Seconds between two probes for bandwidth, by chance (5.3.3.5.3)."""
_FIRST_WAIT = 0.1
"""Share of that after STARTUP, which may have ended early."""
_PROBE_ROUNDS = 63
"""Rounds between them at most, or as many as there are datagrams in flight: Reno grows by as much
in that time (5.3.3.5.1)."""

_RECENT_ROUNDS = 6
"""Rounds of which the best one is what this sender gets: in others, the host may have been busy."""
_MIN_CYCLE = 0.5
"""Seconds: what was measured is to be remembered over a moment in which the host is busy."""
_YIELD_GAIN = 0.85
"""Of the measured bandwidth, besides the gain of DOWN, while this sender drains a queue."""
_YIELD_SHARE = 0.6
"""Of a queue: what is left of one that was this sender's, at most, once it is drained."""
_YIELD_MOST = 0.9
"""Of the bandwidth: what is believed at least after one yield."""
_MUCH_LOWER = 0.7
"""Share of the bandwidth below which a yield is doubted: bandwidth is probed for again soon."""
_RETURN_ROUNDS = 3
"""A queue that is back in so few rounds is made by others."""
_CONTEST_ROUNDS = (8, 32)
"""Rounds for which this sender does not yield after it was of no use, at first and at most."""

_UP_FIRST_GROWTH = 1 / 16
"""Of what is acknowledged: by how much UP raises the bound in its first round; twice as much in
each that follows."""
_UP_MAX_ROUNDS = 6
"""Rounds of UP at most while the bound is what holds it."""
_UP_GROWTH = 1.1
_UP_FREE = 1.2
"""By which the bandwidth grows if UP takes nothing from others: the queue is the host's."""
_UP_ROUNDS = 2
"""Rounds of UP without such a growth of the bandwidth after which it ends."""
_DOWN_ROUNDS = 4
"""Rounds of DOWN at most: a queue that is not ours does not go away."""

HOST_DELAY = 0.003
"""Seconds that event loops, their timers and delayed acknowledgements add at both ends."""
SHORT_DATAGRAMS, _SHORT_WINDOW = 112, 512 * 1024
"""Datagrams, bytes at most, that keep both ends of a path at work that is shorter than that."""
_MAX_EXTRA = 0.05
"""Seconds' worth of bytes that are acknowledged at once, at most: a host was busy for so long."""
_EXTRA_ROUNDS = 10
"""Rounds for which aggregation is remembered (2.7, BBR.ExtraAckedFilterLen)."""


@dataclass(slots=True)
class _LossModel:
    """What losses said (5.5.10), kept to be undone if they were spurious."""

    longterm: float = math.inf
    shortterm: float = math.inf
    bandwidth: float = math.inf
    """`bw_shortterm`."""
    is_full: bool = False

    def copy(self) -> _LossModel:
        return _LossModel(self.longterm, self.shortterm, self.bandwidth, self.is_full)


@dataclass(frozen=True, slots=True)
class _Yield:
    """What was measured before this sender drained its share of a queue."""

    queue: float
    bandwidth: float
    bound: float
    """`bw_shortterm` before."""


class Bbr:
    """BBR on one path (see controller.Controller)."""

    def __init__(self, datagram_size: int, *, chance: random.Random | None = None) -> None:
        """`chance` decides when to probe for bandwidth."""
        self.datagram_size = datagram_size
        self.state = State.STARTUP
        self._gains = GAINS[self.state]
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
        self._queue = 0.0
        """Seconds that the fastest datagram of the last round waited."""
        self._queues: deque[float] = deque([0.0], maxlen=_QUEUED_ROUNDS)
        """The same, of the last rounds."""
        self._queue_before = 0.0
        """The same, when UP began."""

        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._loses = False

        self._extra = MaxFilter(_EXTRA_ROUNDS)
        self._extra_since = 0.0
        self._extra_delivered = 0

        self._round_lost = 0
        self._latest_bandwidth = 0.0
        self._latest_delivered = 0
        self._recent = MaxFilter(_RECENT_ROUNDS)
        self._undo: _LossModel | None = None
        self._undo_lost = 0
        self._has_lowered = False
        self._base_loss = 0.0
        """Share that was lost while nothing was tried: it is not for this sender's doing."""
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

        self._probe_rtt_end: float | None = None
        self._window_before = 0.0

    # -- what it decides --

    @property
    def window(self) -> int:
        return max(int(self._window), MIN_WINDOW * self.datagram_size)

    @property
    def pacing_rate(self) -> float:
        return self._rate

    @property
    def bandwidth(self) -> float:
        """Believed to be the path's, as far as it is ours."""
        return min(self._bandwidths.value, self._bounds.bandwidth)

    @property
    def min_rtt(self) -> float:
        """Seconds; infinite while unknown."""
        return self._min_rtt.value

    # -- what it is told --

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        if in_flight <= 0 and self._delivery.is_app_limited:
            self._extra_since, self._extra_delivered = now, 0  # 5.4.1, restart from idle
        return self._delivery.on_sent(now, in_flight, size)

    def on_app_limited(self, in_flight: int) -> None:
        if in_flight < self._window:
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
        self._take_bandwidth(sample)
        self._take_aggregation(ack)
        self._take_loss(ack, sample)
        if self._is_round_start:
            self._end_round(sample)
        self._advance(ack)
        if self._is_round_start:
            self._recent.advance()
            self._recent.update(self._latest_bandwidth)
            self._latest_bandwidth, self._latest_delivered = sample.rate, sample.delivered
        self._set_rate()
        self._set_window(ack)

    def on_spurious_loss(self, now: float, size: int) -> None:
        """The bounds are as before once all that lowered them has arrived after all."""
        self._delivery.on_spurious_loss(size)
        self._undo_lost -= size
        if self._undo is not None and self._undo_lost <= 0:
            self._bounds, self._undo = self._undo, None

    def on_persistent_congestion(self) -> None:
        """The window begins anew; the model is kept, it will be corrected (5.6.4.4)."""
        self._window = float(MIN_WINDOW * self.datagram_size)

    # -- the model --

    def _count_round(self, sample: RateSample) -> None:
        """5.5.1."""
        self._is_round_start = sample.prior_delivered >= self._round_end
        if self._is_round_start:
            self._round_end = self._delivery.delivered
            self._rounds += 1
            self._state_rounds += 1
            if not self._rounds % _EXTRA_ROUNDS:
                self._extra.advance()

    def _take_rtt(self, rtt: float, now: float) -> None:
        """5.3.4.3, 5.5.7."""
        self._round_rtt = min(self._round_rtt, rtt)
        self._round_rtts += 1
        probe, minimum = self._probe_min_rtt, self._min_rtt
        probe.confirm(rtt, now, _MIN_RTT_TOLERANCE)
        minimum.confirm(rtt, now, _MIN_RTT_TOLERANCE)
        is_due = probe.is_expired(now)
        if is_due and self._bounds.is_full and self.state is not _PROBE_RTT:
            self._begin_probe_rtt()
        probe.update(rtt, now)
        if probe.value < minimum.value or minimum.is_expired(now):
            minimum.value, minimum.at = probe.value, probe.at

    def _take_bandwidth(self, sample: RateSample) -> None:
        """5.5.5."""
        if sample.rate and (not sample.is_app_limited or sample.rate >= self._bandwidths.value):
            self._bandwidths.update(sample.rate)

    def _take_aggregation(self, ack: Ack) -> None:
        """How much more than expected is acknowledged at once (5.5.9)."""
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
        """5.5.10. ECN marks count as losses that chance does not explain."""
        self._latest_bandwidth = max(self._latest_bandwidth, sample.rate)
        self._latest_delivered = max(self._latest_delivered, sample.delivered)
        self._round_lost += ack.lost + ack.ecn_ce
        if not ack.lost and not ack.ecn_ce:
            return
        flight = max(sample.in_flight, self.datagram_size)
        is_marked = ack.ecn_ce > LOSS_THRESHOLD * flight
        if not is_marked and not self._is_too_much(sample.lost, flight):
            return
        if self.state is _STARTUP:
            self._loses = True
        elif self.state in (_REFILL, _UP):
            self._note_undo(sample.lost)
            if not sample.is_app_limited:
                self._bounds.longterm = max(float(flight - sample.lost), self._bdp(1.0) * _BETA)
            self._begin_down(ack.now)
        elif self._is_round_start and self.state is not _PROBE_RTT:
            if self._has_lowered and sample.lost < _HEAVY_LOSS * flight:
                return
            self._has_lowered = True
            self._note_undo(sample.lost)
            self._lower_shortterm()
            self._base_from = (self._delivery.delivered, self._delivery.lost)

    def _is_too_much(self, lost: int, flight: int) -> bool:
        tolerated = (LOSS_THRESHOLD + self._base_loss) * flight
        return lost > tolerated + _CHANCE * math.sqrt(tolerated * self.datagram_size)

    def _note_undo(self, lost: int) -> None:
        if self._undo is None:
            self._undo = self._bounds.copy()
        self._undo_lost = lost

    def _lower_shortterm(self) -> None:
        """Once a round, while nothing is tried (5.5.10.3)."""
        bounds = self._bounds
        if bounds.shortterm is math.inf:
            bounds.shortterm, bounds.bandwidth = self._window, self._bandwidths.value
        bounds.shortterm = max(float(self._latest_delivered), _BETA * bounds.shortterm)
        bounds.bandwidth = max(self._latest_bandwidth, _BETA * bounds.bandwidth)

    def _end_round(self, sample: RateSample) -> None:
        is_known = self._round_rtts >= _QUEUE_SAMPLES and self._min_rtt.value < math.inf
        self._queue = max(self._round_rtt - self._min_rtt.value, 0.0) if is_known else 0.0
        self._queues.append(self._queue)
        self._round_rtt, self._round_rtts, self._round_lost = math.inf, 0, 0
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
        """Bytes in flight when the path is used to `gain` times what it carries (5.6.4.2)."""
        if self._min_rtt.value is math.inf or not self._bandwidths.value:
            return float(INITIAL_WINDOW * self.datagram_size)
        return gain * self.bandwidth * self._min_rtt.value

    @property
    def _has_queue(self) -> bool:
        return min(self._queues) > self._tolerated(QUEUE_TOLERATED)

    @property
    def _is_short(self) -> bool:
        """Whether the path is shorter than what hosts add."""
        return self._min_rtt.value < HOST_DELAY

    def _tolerated(self, share: float) -> float:
        """Seconds of waiting that are no queue. On a path shorter than what hosts add, waiting says
        nothing of it: it is the processors that are busy."""
        if self._is_short:
            return math.inf
        return share * self._min_rtt.value + HOST_DELAY

    # -- the states --

    def _advance(self, ack: Ack) -> None:
        _STEPS[self.state](self, ack)

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
            # The queue that is left shows one round trip later.
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

    def _contest(self) -> None:
        """To give way is of no use for some rounds."""
        self._contested_until = self._rounds + self._contest_rounds
        self._contest_rounds = min(2 * self._contest_rounds, _CONTEST_ROUNDS[1])

    def _yield(self) -> None:
        """Drains this sender's share of a queue, at what it gets of the bottleneck and not at what
        it believed to get: together with others that was too much."""
        measured = min(self._recent.value or math.inf, self._bandwidths.value)
        self._yielded = _Yield(self._queue, measured, self._bounds.bandwidth)
        self._bounds.bandwidth = min(_YIELD_GAIN * measured, self._bounds.bandwidth)

    def _take_base_loss(self) -> None:
        delivered, lost = self._base_from
        delivered, lost = self._delivery.delivered - delivered, self._delivery.lost - lost
        if delivered > 0 and lost >= 0:
            self._base_loss = min(lost / (delivered + lost), _MAX_BASE_LOSS)

    def _end_yield(self, yielded: _Yield) -> None:
        """Whose queue it was shows in whether it went away."""
        self._yielded = None
        before = self._bandwidths.value
        is_ours = self._queue <= _YIELD_SHARE * yielded.queue
        if yielded.bandwidth < before:
            least = 0.0 if is_ours else _YIELD_MOST * before
            self._bandwidths.replace(max(yielded.bandwidth, least))
        if not is_ours:
            self._contest()
            return
        self._yielded_at = self._rounds
        self._contest_rounds = _CONTEST_ROUNDS[0]
        if yielded.bandwidth < _MUCH_LOWER * before:
            self._wait *= _FIRST_WAIT  # if it was no queue but a busy host, UP shows it

    @property
    def _is_contested(self) -> bool:
        """Whether a queue is believed to be made by others."""
        return self._rounds < self._contested_until

    def _in_refill(self, ack: Ack) -> None:
        if self._is_round_start and self._state_rounds >= 1:
            self._up_rounds = 0
            self._full_bandwidth, self._full_rounds = self._bandwidths.value, 0
            self._queue_before = self._queue
            self._enter(_UP)

    def _in_up(self, ack: Ack) -> None:
        self._raise_longterm(ack)
        if not self._is_round_start:
            return
        self._up_rounds += 1
        before = self._queue_before if self._is_contested else 0.0
        is_free = self._bandwidths.value >= self._full_bandwidth * _UP_FREE
        if self._queue > before + self._tolerated(QUEUE_TOLERATED) and not is_free:
            self._begin_down(ack.now)
            return
        is_bound = self._window >= self._bounds.longterm and self._up_rounds < _UP_MAX_ROUNDS
        if self._state_rounds < _UP_ROUNDS or is_bound:
            return
        if self._bandwidths.value >= self._full_bandwidth * _UP_GROWTH:
            self._full_bandwidth = self._bandwidths.value
            self._state_rounds = 0
        else:
            self._begin_down(ack.now)

    def _raise_longterm(self, ack: Ack) -> None:
        """Beyond what was once too much, faster with each round (5.3.3.4)."""
        bounds = self._bounds
        if bounds.longterm is math.inf:
            return
        share = min(2.0**self._up_rounds * _UP_FIRST_GROWTH, 1.0)
        bounds.longterm += share * ack.acknowledged

    def _in_probe_rtt(self, ack: Ack) -> None:
        """5.3.4.3."""
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
        """5.3.3.5."""
        rounds = min(_PROBE_ROUNDS, max(self._bdp(1.0) / self.datagram_size, 8))
        waited = self._rounds - self._cycle_rounds
        elapsed = now - self._cycle_at
        return elapsed >= self._wait or (waited >= rounds and elapsed >= _MIN_CYCLE)

    def _begin_down(self, now: float) -> None:
        """A cycle of bandwidth probing begins (5.3.3.6)."""
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
        self._state_rounds = 0

    # -- what follows --

    def _set_rate(self) -> None:
        """5.6.2."""
        minimum = self._min_rtt.value
        if minimum is math.inf:
            return
        gain = self._gains.pacing
        is_short = minimum < HOST_DELAY
        if is_short:
            gain = max(gain, GAINS[_UP].pacing)  # the window is what limits it
        rate = gain * self.bandwidth * _PACING_MARGIN
        least = INITIAL_WINDOW * self.datagram_size / max(minimum, 0.001)
        if self._bounds.is_full:
            self._rate = max(rate, MIN_WINDOW * self.datagram_size / max(minimum, 0.001) / 4)
        else:
            self._rate = max(rate, self._rate, gain * least)

    def _set_window(self, ack: Ack) -> None:
        """5.6.4."""
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
        share = 1.0 if self._is_contested else gains.longterm
        bound = min(self._bounds.shortterm, share * self._bounds.longterm)
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
