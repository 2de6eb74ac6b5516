//! BBR (draft-ietf-ccwg-bbr-05), as `quicdist.carriers.quic.congestion.bbr` has it. That module says
//! why it differs from the draft and what each constant means.

use std::collections::VecDeque;

use super::filters::{MaxFilter, MinFilter};
use super::rate_sample::{DeliveryRate, RateSample, SendState};
use super::{Ack, Chance, Controller, INITIAL_WINDOW, MIN_WINDOW};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt,
}

/// How a state uses the model (5.6.1).
struct Gains {
    pacing: f64,
    window: f64,
    longterm: f64,
    drain: f64,
}

const HEADROOM: f64 = 0.85;

impl State {
    const fn gains(self) -> Gains {
        let (pacing, window, longterm, drain) = match self {
            Self::Startup => (2.77, 2.0, f64::INFINITY, 0.0),
            Self::Drain => (0.5, 2.0, f64::INFINITY, 0.0),
            Self::Down => (0.9, 2.0, 1.0, 0.2),
            Self::Cruise => (1.0, 2.0, HEADROOM, 0.1),
            Self::Refill => (1.0, 2.0, 1.0, 0.0),
            Self::Up => (1.25, 2.25, 1.0, 0.0),
            Self::ProbeRtt => (1.0, 0.5, HEADROOM, 0.0),
        };
        Gains { pacing, window, longterm, drain }
    }
}

const PACING_MARGIN: f64 = 0.99;

const LOSS_THRESHOLD: f64 = 0.02;
const CHANCE: f64 = 3.0;
const HEAVY_LOSS: f64 = 0.1;
const MAX_BASE_LOSS: f64 = 0.08;
const BETA: f64 = 0.7;

const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
const FULL_QUEUED_ROUNDS: u32 = 2;

const QUEUE_TOLERATED: f64 = 0.1;
const STARTUP_QUEUE: f64 = 0.5;
const QUEUE_GAIN: f64 = 0.5;
const QUEUE_NOISE: f64 = 0.001;
const STANDING_QUEUE: f64 = 0.05;
const QUEUED_ROUNDS: usize = 3;
const QUEUE_SAMPLES: u32 = 4;

const MIN_RTT_WINDOW: f64 = 10.0;
const PROBE_RTT_INTERVAL: f64 = 5.0;
const PROBE_RTT_DURATION: f64 = 0.2;
const MIN_RTT_TOLERANCE: f64 = 0.05;

const PROBE_WAIT: (f64, f64) = (2.0, 3.0);
const FIRST_WAIT: f64 = 0.1;
const CONTESTED_WAIT: f64 = 0.6;
const PROBE_ROUNDS: f64 = 63.0;

const AVERAGED_ROUNDS: usize = 3;
const RECENT_ROUNDS: usize = 6;
const MIN_CYCLE: f64 = 0.5;
const YIELD_GAIN: f64 = 0.85;
const YIELD_SHARE: f64 = 0.6;
const MUCH_LOWER: f64 = 0.7;
const RETURN_ROUNDS: i64 = 3;
const CONTEST_ROUNDS: (i64, i64) = (8, 32);

const SHARED_ROUNDS: i64 = 128;

const UP_FIRST_GROWTH: f64 = 1.0 / 16.0;
const UP_MAX_ROUNDS: u32 = 6;
const UP_GROWTH: f64 = 1.1;
const UP_FREE: f64 = 1.2;
const UP_ROUNDS: u32 = 3;
const UP_SHARED_ROUNDS: u32 = 2;
const UP_QUEUE: f64 = 1.0 / 16.0;
const UP_SAMPLES: usize = 8;
const DOWN_ROUNDS: u32 = 4;

const HOST_DELAY: f64 = 0.003;
const SHORT_DATAGRAMS: f64 = 112.0;
const SHORT_WINDOW: f64 = 512.0 * 1024.0;
const MAX_EXTRA: f64 = 0.05;
const EXTRA_ROUNDS: usize = 10;

/// The bounds that losses have set (5.5.10).
#[derive(Clone, Copy, Debug)]
struct Bounds {
    longterm: f64,
    shortterm: f64,
    /// `bw_shortterm`.
    bandwidth: f64,
    is_full: bool,
}

/// What was measured before this sender drained its share of a queue.
#[derive(Clone, Copy, Debug)]
struct Yield {
    queue: f64,
    bandwidth: f64,
    /// `bw_shortterm` before.
    bound: f64,
}

pub struct Bbr {
    datagram_size: f64,
    state: State,
    chance: Chance,
    window: f64,
    rate: f64,
    delivery: DeliveryRate,
    bandwidths: MaxFilter<2>,
    min_rtt: MinFilter,
    probe_min_rtt: MinFilter,
    bounds: Bounds,

    round_end: f64,
    rounds: i64,
    is_round_start: bool,
    round_rtt: f64,
    round_rtts: u32,
    /// Bytes reported with ECN marks in this round.
    round_marked: f64,
    round_at: f64,
    round_delivered: f64,
    round_starts: VecDeque<(f64, f64)>,
    latest_rtts: VecDeque<f64>,
    queue: f64,
    queues: VecDeque<f64>,
    queue_before: f64,

    full_bandwidth: f64,
    full_rounds: u32,
    loses: bool,

    extra: MaxFilter<EXTRA_ROUNDS>,
    extra_since: f64,
    extra_delivered: f64,

    latest_bandwidth: f64,
    latest_delivered: f64,
    recent: MaxFilter<RECENT_ROUNDS>,
    /// The bounds before a reduction by losses, and the lost bytes that caused it.
    undo: Option<Bounds>,
    undo_lost: f64,
    has_lowered: bool,
    base_loss: f64,
    base_from: (f64, f64),

    state_rounds: u32,
    cycle_at: f64,
    cycle_rounds: i64,
    wait: f64,
    up_rounds: u32,
    yielded: Option<Yield>,
    contested_until: i64,
    yielded_at: i64,
    contest_rounds: i64,
    shared_until: i64,

    probe_rtt_end: Option<f64>,
    window_before: f64,
}

impl Bbr {
    pub fn new(datagram_size: f64, chance: Chance) -> Self {
        Self {
            datagram_size,
            state: State::Startup,
            chance,
            window: INITIAL_WINDOW * datagram_size,
            rate: 0.0,
            delivery: DeliveryRate::default(),
            bandwidths: MaxFilter::new(),
            min_rtt: MinFilter::new(MIN_RTT_WINDOW),
            probe_min_rtt: MinFilter::new(PROBE_RTT_INTERVAL),
            bounds: Bounds {
                longterm: f64::INFINITY,
                shortterm: f64::INFINITY,
                bandwidth: f64::INFINITY,
                is_full: false,
            },
            round_end: 0.0,
            rounds: 0,
            is_round_start: false,
            round_rtt: f64::INFINITY,
            round_rtts: 0,
            round_marked: 0.0,
            round_at: f64::NEG_INFINITY,
            round_delivered: 0.0,
            round_starts: VecDeque::with_capacity(AVERAGED_ROUNDS),
            latest_rtts: VecDeque::with_capacity(UP_SAMPLES),
            queue: 0.0,
            queues: VecDeque::from([0.0]),
            queue_before: 0.0,
            full_bandwidth: 0.0,
            full_rounds: 0,
            loses: false,
            extra: MaxFilter::new(),
            extra_since: 0.0,
            extra_delivered: 0.0,
            latest_bandwidth: 0.0,
            latest_delivered: 0.0,
            recent: MaxFilter::new(),
            undo: None,
            undo_lost: 0.0,
            has_lowered: false,
            base_loss: 0.0,
            base_from: (0.0, 0.0),
            state_rounds: 0,
            cycle_at: 0.0,
            cycle_rounds: 0,
            wait: 0.0,
            up_rounds: 0,
            yielded: None,
            contested_until: 0,
            yielded_at: -RETURN_ROUNDS,
            contest_rounds: CONTEST_ROUNDS.0,
            shared_until: 0,
            probe_rtt_end: None,
            window_before: 0.0,
        }
    }

    fn bandwidth(&self) -> f64 {
        self.bandwidths.value.min(self.bounds.bandwidth)
    }

    fn least_window(&self) -> f64 {
        MIN_WINDOW * self.datagram_size
    }

    // -- the model --

    /// 5.5.1.
    fn count_round(&mut self, sample: &RateSample) {
        self.is_round_start = sample.prior_delivered >= self.round_end;
        if !self.is_round_start {
            return;
        }
        self.round_end = self.delivery.delivered;
        self.rounds += 1;
        self.state_rounds += 1;
        if self.rounds % EXTRA_ROUNDS as i64 == 0 {
            self.extra.advance();
        }
    }

    /// Measures the rate of the round that has ended. Its largest rate sample is too high if a host
    /// was busy: acknowledgements come late and then together.
    fn take_round(&mut self, now: f64) {
        let delivered = self.delivery.delivered;
        let elapsed = now - self.round_at;
        if elapsed > 0.0 {
            self.recent.advance();
            self.recent.update((delivered - self.round_delivered) / elapsed);
        }
        self.round_at = now;
        self.round_delivered = delivered;
        push(&mut self.round_starts, AVERAGED_ROUNDS, (now, delivered));
    }

    /// 5.3.4.3, 5.5.7.
    fn take_rtt(&mut self, rtt: f64, now: f64) {
        self.round_rtt = self.round_rtt.min(rtt);
        self.round_rtts += 1;
        push(&mut self.latest_rtts, UP_SAMPLES, rtt);
        self.probe_min_rtt.confirm(rtt, now, MIN_RTT_TOLERANCE);
        self.min_rtt.confirm(rtt, now, MIN_RTT_TOLERANCE);
        let is_due = self.probe_min_rtt.is_expired(now);
        if is_due && self.bounds.is_full && self.state != State::ProbeRtt {
            self.begin_probe_rtt();
        }
        self.probe_min_rtt.update(rtt, now);
        if self.probe_min_rtt.value < self.min_rtt.value || self.min_rtt.is_expired(now) {
            self.min_rtt.value = self.probe_min_rtt.value;
            self.min_rtt.at = self.probe_min_rtt.at;
        }
    }

    /// 5.5.5.
    fn take_bandwidth(&mut self, sample: &RateSample, now: f64) {
        if sample.is_app_limited {
            self.round_starts.clear();
        }
        let mut rate = sample.rate;
        let has_average = self.round_starts.len() == AVERAGED_ROUNDS && !self.is_short();
        if self.bounds.is_full && has_average && !self.is_shared() {
            rate = rate.min(self.average(now));
        }
        let counts = !sample.is_app_limited || rate >= self.bandwidths.value;
        if rate != 0.0 && counts {
            self.bandwidths.update(rate);
        }
    }

    /// How much more than expected is acknowledged at once (5.5.9).
    fn take_aggregation(&mut self, ack: &Ack) {
        let mut expected = self.bandwidth() * (ack.now - self.extra_since);
        if self.extra_delivered <= expected {
            self.extra_since = ack.now;
            self.extra_delivered = 0.0;
            expected = 0.0;
        }
        self.extra_delivered += ack.acknowledged;
        let seconds = if self.is_short() {
            HOST_DELAY / 6.0
        } else {
            self.min_rtt.value.clamp(HOST_DELAY, MAX_EXTRA)
        };
        let bound = self.bandwidth() * seconds;
        self.extra.update((self.extra_delivered - expected).min(bound));
    }

    /// 5.5.10. ECN marks count as losses that chance does not explain.
    fn take_loss(&mut self, ack: &Ack, sample: &RateSample) {
        self.latest_bandwidth = self.latest_bandwidth.max(sample.rate);
        self.latest_delivered = self.latest_delivered.max(sample.delivered);
        self.round_marked += ack.ecn_ce;
        if ack.lost == 0.0 && self.round_marked == 0.0 {
            return;
        }
        let flight = sample.in_flight.max(self.datagram_size);
        let is_marked = self.round_marked > LOSS_THRESHOLD * flight;
        if !is_marked && !self.is_too_much(sample.lost, flight) {
            return;
        }
        match self.state {
            State::Startup => self.loses = true,
            State::Refill | State::Up => {
                self.note_undo(sample.lost, is_marked);
                if !sample.is_app_limited {
                    self.bounds.longterm = (flight - sample.lost).max(self.bdp(1.0) * BETA);
                }
                self.begin_down(ack.now);
            }
            State::ProbeRtt => {}
            _ if !self.is_round_start => {}
            _ if self.has_lowered && !is_marked && sample.lost < HEAVY_LOSS * flight => {}
            _ => {
                self.has_lowered = true;
                self.note_undo(sample.lost, is_marked);
                self.lower_shortterm();
                self.base_from = (self.delivery.delivered, self.delivery.lost);
            }
        }
    }

    /// Stores the bounds before a reduction by losses. One by marks is never spurious.
    fn note_undo(&mut self, lost: f64, is_marked: bool) {
        if is_marked {
            self.undo = None;
        } else if self.undo.is_none() {
            self.undo = Some(self.bounds);
        }
        self.undo_lost = lost;
    }

    fn is_too_much(&self, lost: f64, flight: f64) -> bool {
        if self.is_contested() {
            return false;
        }
        let tolerated = (LOSS_THRESHOLD + self.base_loss) * flight;
        lost > tolerated + CHANCE * (tolerated * self.datagram_size).sqrt()
    }

    /// Once a round, while nothing is tried (5.5.10.3).
    fn lower_shortterm(&mut self) {
        let bounds = &mut self.bounds;
        if bounds.shortterm.is_infinite() {
            bounds.shortterm = self.window;
            bounds.bandwidth = self.bandwidths.value;
        }
        bounds.shortterm = self.latest_delivered.max(BETA * bounds.shortterm);
        bounds.bandwidth = self.latest_bandwidth.max(BETA * bounds.bandwidth);
    }

    fn end_round(&mut self, sample: &RateSample) {
        let is_known = self.round_rtts >= QUEUE_SAMPLES && self.min_rtt.value.is_finite();
        self.queue = if is_known { (self.round_rtt - self.min_rtt.value).max(0.0) } else { 0.0 };
        push(&mut self.queues, QUEUED_ROUNDS, self.queue);
        self.round_rtt = f64::INFINITY;
        self.round_rtts = 0;
        self.round_marked = 0.0;
        if is_known && !self.has_queue() {
            self.contested_until = 0;
            self.contest_rounds = CONTEST_ROUNDS.0;
        }
        if !self.bounds.is_full {
            self.bounds.is_full = self.has_filled(sample);
            self.loses = false;
        }
    }

    /// Whether STARTUP has reached the path's bandwidth (5.3.1.2).
    fn has_filled(&mut self, sample: &RateSample) -> bool {
        if sample.is_app_limited || sample.rate == 0.0 {
            return false;
        }
        if sample.rate >= self.full_bandwidth * FULL_GROWTH {
            self.full_bandwidth = sample.rate;
            self.full_rounds = 0;
            return false;
        }
        self.full_rounds += 1;
        if self.loses {
            self.bounds.longterm = self.bdp(1.0).max(self.latest_delivered);
            return true;
        }
        let has_queue = self.queue > self.tolerated(STARTUP_QUEUE);
        self.full_rounds >= if has_queue { FULL_QUEUED_ROUNDS } else { FULL_ROUNDS }
    }

    /// Bytes in flight when the path is used to `gain` times what it carries (5.6.4.2).
    fn bdp(&self, gain: f64) -> f64 {
        if self.min_rtt.value.is_infinite() || self.bandwidths.value == 0.0 {
            return INITIAL_WINDOW * self.datagram_size;
        }
        gain * self.bandwidth() * self.min_rtt.value
    }

    fn has_queue(&self) -> bool {
        self.least_queue() > self.tolerated(QUEUE_TOLERATED)
    }

    fn least_queue(&self) -> f64 {
        self.queues.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Infinity if it is unknown.
    fn average(&self, now: f64) -> f64 {
        match self.round_starts.front() {
            Some(&(at, delivered)) if now > at => {
                (self.delivery.delivered - delivered) / (now - at)
            }
            _ => f64::INFINITY,
        }
    }

    fn is_short(&self) -> bool {
        self.min_rtt.value < HOST_DELAY
    }

    /// Seconds of waiting that are no queue.
    fn tolerated(&self, share: f64) -> f64 {
        if self.is_short() { f64::INFINITY } else { share * self.min_rtt.value + HOST_DELAY }
    }

    // -- the states --

    fn advance(&mut self, ack: &Ack) {
        match self.state {
            State::Startup if self.bounds.is_full => self.enter(State::Drain),
            State::Startup => {}
            State::Drain => {
                if self.is_drained(ack.in_flight) || self.state_rounds > DOWN_ROUNDS {
                    self.begin_down(ack.now);
                }
            }
            State::Down => self.in_down(ack),
            State::Cruise => self.in_cruise(ack),
            State::Refill => self.in_refill(),
            State::Up => self.in_up(ack),
            State::ProbeRtt => self.in_probe_rtt(ack),
        }
    }

    fn is_drained(&self, in_flight: f64) -> bool {
        in_flight <= self.bdp(1.0) + self.bandwidth() * HOST_DELAY
    }

    fn in_down(&mut self, ack: &Ack) {
        if self.is_time_to_probe(ack.now) {
            self.begin_refill();
            return;
        }
        let is_below = match self.yielded {
            // The queue that is left shows one round trip later.
            Some(_) => self.is_round_start && !self.has_queue(),
            None => {
                self.is_drained(ack.in_flight) && ack.in_flight <= HEADROOM * self.bounds.longterm
            }
        };
        if !is_below && self.state_rounds <= DOWN_ROUNDS {
            return;
        }
        if let Some(yielded) = self.yielded.take() {
            self.bounds.bandwidth = yielded.bound;
            self.end_yield(&yielded);
        }
        self.enter(State::Cruise);
    }

    fn in_cruise(&mut self, ack: &Ack) {
        if self.state_rounds <= 1 {
            self.base_from = (self.delivery.delivered, self.delivery.lost);
        }
        if self.is_time_to_probe(ack.now) {
            self.take_base_loss();
            self.begin_refill();
        } else if self.is_round_start && self.has_queue() && !self.is_contested() {
            if self.rounds - self.yielded_at <= RETURN_ROUNDS {
                self.contest();
                return;
            }
            self.begin_yield();
            self.enter(State::Down);
        }
    }

    fn follow_average(&mut self, now: f64) {
        let is_alone = !self.is_contested() && !self.is_shared();
        if self.state != State::Cruise || !is_alone || self.is_short() {
            return;
        }
        let stands = self.least_queue() > STANDING_QUEUE * self.min_rtt.value + QUEUE_NOISE;
        let average = self.average(now);
        if stands && average < self.bandwidths.value {
            self.bandwidths.replace(average);
        }
    }

    fn contest(&mut self) {
        self.contested_until = self.rounds + self.contest_rounds;
        self.shared_until = self.contested_until + SHARED_ROUNDS;
        self.contest_rounds = (2 * self.contest_rounds).min(CONTEST_ROUNDS.1);
        self.forget_shortterm();
    }

    fn begin_yield(&mut self) {
        let recent = if self.recent.value == 0.0 { f64::INFINITY } else { self.recent.value };
        let measured = recent.min(self.bandwidths.value);
        let bound = self.bounds.bandwidth;
        self.yielded = Some(Yield { queue: self.queue, bandwidth: measured, bound });
        self.bounds.bandwidth = (YIELD_GAIN * measured).min(bound);
    }

    fn take_base_loss(&mut self) {
        let delivered = self.delivery.delivered - self.base_from.0;
        let lost = self.delivery.lost - self.base_from.1;
        if delivered > 0.0 && lost >= 0.0 {
            self.base_loss = (lost / (delivered + lost)).min(MAX_BASE_LOSS);
        }
    }

    /// Whose queue it was shows in whether it went away.
    fn end_yield(&mut self, yielded: &Yield) {
        let before = self.bandwidths.value;
        let is_ours = self.queue <= YIELD_SHARE * yielded.queue;
        if !is_ours {
            self.contest();
            return;
        }
        if yielded.bandwidth < before {
            self.bandwidths.replace(yielded.bandwidth);
        }
        self.yielded_at = self.rounds;
        self.contest_rounds = CONTEST_ROUNDS.0;
        if yielded.bandwidth < MUCH_LOWER * before {
            self.wait *= FIRST_WAIT;
        }
    }

    fn is_contested(&self) -> bool {
        self.rounds < self.contested_until
    }

    /// Whether other senders caused a queue recently.
    fn is_shared(&self) -> bool {
        self.rounds < self.shared_until
    }

    fn in_refill(&mut self) {
        if self.is_round_start && self.state_rounds >= 1 {
            self.up_rounds = 0;
            self.full_bandwidth = self.bandwidths.value;
            self.full_rounds = 0;
            self.queue_before = self.queue;
            self.enter(State::Up);
        }
    }

    fn in_up(&mut self, ack: &Ack) {
        self.raise_longterm(ack);
        self.up_rounds += u32::from(self.is_round_start);
        let is_free = self.bandwidths.value >= self.full_bandwidth * UP_FREE;
        let before = if self.is_contested() { self.queue_before } else { 0.0 };
        let share = if self.is_shared() { QUEUE_TOLERATED } else { UP_QUEUE };
        if self.up_queue() > before + self.tolerated(share) && !is_free {
            self.begin_down(ack.now);
            return;
        }
        if !self.is_round_start {
            return;
        }
        let rounds = if self.is_shared() { UP_SHARED_ROUNDS } else { UP_ROUNDS };
        let is_bound = self.window >= self.bounds.longterm && self.up_rounds < UP_MAX_ROUNDS;
        if self.state_rounds < rounds || is_bound {
            return;
        }
        if self.bandwidths.value >= self.full_bandwidth * UP_GROWTH {
            self.full_bandwidth = self.bandwidths.value;
            self.state_rounds = 0;
        } else {
            self.begin_down(ack.now);
        }
    }

    /// Seconds of queueing that UP has caused so far.
    fn up_queue(&self) -> f64 {
        if self.is_shared() {
            return if self.is_round_start { self.queue } else { 0.0 };
        }
        if self.state_rounds == 0 || self.latest_rtts.len() < UP_SAMPLES {
            return 0.0;
        }
        let least = self.latest_rtts.iter().copied().fold(f64::INFINITY, f64::min);
        let queue = least - self.min_rtt.value;
        if self.is_round_start { queue.max(self.queue) } else { queue }
    }

    /// Beyond what was once too much, faster with each round (5.3.3.4).
    fn raise_longterm(&mut self, ack: &Ack) {
        if self.bounds.longterm.is_finite() {
            let share = (2f64.powi(self.up_rounds as i32) * UP_FIRST_GROWTH).min(1.0);
            self.bounds.longterm += share * ack.acknowledged;
        }
    }

    /// 5.3.4.3.
    fn in_probe_rtt(&mut self, ack: &Ack) {
        match self.probe_rtt_end {
            None => {
                if ack.in_flight <= self.probe_rtt_window() || self.state_rounds > 2 {
                    let duration = PROBE_RTT_DURATION.max(self.min_rtt.value);
                    self.probe_rtt_end = Some(ack.now + duration);
                }
            }
            Some(end) if ack.now >= end => {
                self.probe_min_rtt.at = ack.now;
                self.window = self.window.max(self.window_before);
                self.begin_down(ack.now);
            }
            Some(_) => {}
        }
    }

    fn probe_rtt_window(&self) -> f64 {
        self.bdp(State::ProbeRtt.gains().window).max(self.least_window())
    }

    /// 5.3.3.5.
    fn is_time_to_probe(&self, now: f64) -> bool {
        let rounds = PROBE_ROUNDS.min((self.bdp(1.0) / self.datagram_size).max(8.0));
        let waited = (self.rounds - self.cycle_rounds) as f64;
        let elapsed = now - self.cycle_at;
        let share = if self.is_contested() { CONTESTED_WAIT } else { 1.0 };
        elapsed >= self.wait * share || (waited >= rounds && elapsed >= MIN_CYCLE)
    }

    /// A cycle of bandwidth probing begins (5.3.3.6).
    fn begin_down(&mut self, now: f64) {
        if self.state == State::Up {
            self.bandwidths.advance();
        }
        self.cycle_at = now;
        self.cycle_rounds = self.rounds;
        let (least, most) = PROBE_WAIT;
        self.wait = least + (most - least) * (self.chance)();
        if self.state == State::Drain {
            self.wait *= FIRST_WAIT;
        }
        self.forget_shortterm();
        self.yielded = None;
        self.has_lowered = false;
        if self.state == State::Up && self.has_queue() && !self.is_contested() {
            self.begin_yield();
        }
        self.enter(State::Down);
    }

    fn begin_refill(&mut self) {
        self.forget_shortterm();
        self.round_end = self.delivery.delivered;
        self.undo = None;
        self.enter(State::Refill);
    }

    fn begin_probe_rtt(&mut self) {
        self.window_before = self.window;
        self.probe_rtt_end = None;
        self.enter(State::ProbeRtt);
    }

    fn forget_shortterm(&mut self) {
        self.bounds.shortterm = f64::INFINITY;
        self.bounds.bandwidth = f64::INFINITY;
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.state_rounds = 0;
    }

    // -- what follows --

    /// 5.6.2.
    fn set_rate(&mut self) {
        let minimum = self.min_rtt.value;
        if minimum.is_infinite() {
            return;
        }
        let mut gain = self.state.gains().pacing;
        if self.is_short() {
            gain = gain.max(State::Up.gains().pacing); // the window is what limits it
        } else if self.state.gains().drain > 0.0 && !self.is_contested() {
            let queue = (self.queue - QUEUE_NOISE).max(0.0);
            gain -= (QUEUE_GAIN * queue / minimum).min(self.state.gains().drain);
        }
        let rate = gain * self.bandwidth() * PACING_MARGIN;
        let least = INITIAL_WINDOW * self.datagram_size / minimum.max(0.001);
        self.rate = if self.bounds.is_full {
            rate.max(self.least_window() / minimum.max(0.001) / 4.0)
        } else {
            rate.max(self.rate).max(gain * least)
        };
    }

    /// 5.6.4.
    fn set_window(&mut self, ack: &Ack) {
        let gains = self.state.gains();
        let host = HOST_DELAY.min(self.min_rtt.value + HOST_DELAY / 6.0);
        let room = self.bdp(gains.window) + self.extra.value + self.bandwidth() * host;
        let least = if self.is_short() {
            (SHORT_DATAGRAMS * self.datagram_size).min(SHORT_WINDOW)
        } else {
            self.least_window()
        };
        let room = room.max(least);
        let mut window = self.window;
        let is_begun = self.delivery.delivered >= INITIAL_WINDOW * self.datagram_size;
        if self.bounds.is_full {
            window = (window + ack.acknowledged).min(room);
        } else if window < room || !is_begun {
            window += ack.acknowledged;
        }
        let mut bound = self.bounds.shortterm;
        if !self.is_contested() {
            bound = bound.min(gains.longterm * self.bounds.longterm);
        }
        if self.state == State::ProbeRtt {
            bound = bound.min(self.probe_rtt_window());
        }
        self.window = window.min(bound).max(self.least_window());
    }
}

/// Keeps the last `most` values.
fn push<T>(values: &mut VecDeque<T>, most: usize, value: T) {
    if values.len() == most {
        values.pop_front();
    }
    values.push_back(value);
}

impl Controller for Bbr {
    fn window(&self) -> f64 {
        self.window.floor().max(self.least_window())
    }

    fn pacing_rate(&self) -> f64 {
        self.rate
    }

    fn capacity(&self) -> f64 {
        let minimum = self.min_rtt.value;
        if minimum.is_infinite() { 0.0 } else { self.bandwidths.value * minimum }
    }

    fn set_datagram_size(&mut self, size: f64) {
        self.datagram_size = size;
    }

    fn on_sent(&mut self, now: f64, in_flight: f64, size: f64) -> SendState {
        if in_flight <= 0.0 && self.delivery.is_app_limited() {
            self.extra_since = now; // 5.4.1, restart from idle
            self.extra_delivered = 0.0;
        }
        self.delivery.on_sent(now, in_flight, size)
    }

    fn on_app_limited(&mut self, in_flight: f64) {
        let is_path_full = self.has_queue() && in_flight > self.bdp(1.0);
        if in_flight < self.window && !is_path_full {
            self.delivery.on_app_limited(in_flight);
        }
    }

    fn on_ack(&mut self, ack: &Ack) {
        self.delivery.lost += ack.lost;
        let minimum = self.min_rtt.value;
        let least = if minimum.is_infinite() { 0.0 } else { 0.99 * minimum };
        let newest = ack.newest.as_ref();
        let Some(sample) = self.delivery.on_acknowledged(ack.now, ack.acknowledged, newest, least)
        else {
            return;
        };
        self.count_round(&sample);
        if let Some(rtt) = ack.rtt {
            self.take_rtt(rtt, ack.now);
        }
        self.take_bandwidth(&sample, ack.now);
        self.take_aggregation(ack);
        self.take_loss(ack, &sample);
        if self.is_round_start {
            self.end_round(&sample);
        }
        self.advance(ack);
        if self.is_round_start {
            self.follow_average(ack.now);
            self.take_round(ack.now);
            self.latest_bandwidth = sample.rate;
            self.latest_delivered = sample.delivered;
        }
        self.set_rate();
        self.set_window(ack);
    }

    /// Restores the bounds after all losses that lowered them turned out to be spurious.
    fn on_spurious_loss(&mut self, _: f64, size: f64) {
        self.delivery.on_spurious_loss(size);
        self.undo_lost -= size;
        if self.undo_lost <= 0.0
            && let Some(bounds) = self.undo.take()
        {
            self.bounds = bounds;
        }
    }

    /// The window begins anew; the model is kept, it will be corrected (5.6.4.4).
    fn on_persistent_congestion(&mut self) {
        self.window = self.least_window();
    }
}
