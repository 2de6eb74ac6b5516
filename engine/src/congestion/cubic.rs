//! CUBIC (RFC 9438), with slow start ended by delay (RFC 9406).

use super::rate_sample::SendState;
use super::reno::Window;
use super::{Ack, Controller};

/// Datagrams per second cubed (RFC 9438, 5).
const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// Datagrams per round trip by which a Reno with this reduction grows (4.3).
const FRIENDLY: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// Of the window, at most, per round trip (4.2).
const MAX_GROWTH: f64 = 1.5;
const HYSTART_SAMPLES: u32 = 8;

/// Seconds by which the round trip grows where slow start ends (RFC 9406, 4.2).
const HYSTART_DELAY: (f64, f64) = (0.004, 0.016);

#[derive(Debug)]
pub struct Cubic {
    window: Window,
    /// W_max.
    largest: f64,
    before_largest: f64,
    epoch_at: Option<f64>,
    /// W_est.
    friendly: f64,
    /// K.
    delay: f64,
    round_end: f64,
    round_rtt: f64,
    last_round_rtt: f64,
    round_samples: u32,
}

impl Cubic {
    pub fn new(datagram_size: f64) -> Self {
        Self {
            window: Window::new(datagram_size),
            largest: 0.0,
            before_largest: 0.0,
            epoch_at: None,
            friendly: 0.0,
            delay: 0.0,
            round_end: 0.0,
            round_rtt: f64::INFINITY,
            last_round_rtt: f64::INFINITY,
            round_samples: 0,
        }
    }

    fn cut(&mut self) {
        self.before_largest = self.largest;
        let window = &mut self.window;
        // Fast convergence (4.7): a sender that has to give way leaves room for others.
        let gives_way = window.size < self.largest;
        self.largest = if gives_way { window.size * (1.0 + BETA) / 2.0 } else { window.size };
        window.size = (window.size * BETA).max(window.least());
        window.threshold = window.size;
        self.epoch_at = None;
    }

    fn grow(&mut self, ack: &Ack) {
        if self.window.size < self.window.threshold {
            self.window.size += ack.acknowledged;
            self.end_slow_start(ack);
            return;
        }
        let epoch_at = match self.epoch_at {
            Some(at) => at,
            None => self.begin_epoch(ack.now),
        };
        let datagram = self.window.datagram_size;
        let size = self.window.size;
        let share = ack.acknowledged / size;
        let growth = if self.friendly >= self.largest { 1.0 } else { FRIENDLY };
        self.friendly += growth * datagram * share;
        let at = ack.now - epoch_at + self.window.smoothed_rtt - self.delay;
        let target = self.largest + C * at.powi(3) * datagram;
        let target = target.max(size).min(MAX_GROWTH * size);
        self.window.size = (size + (target - size) * share).max(self.friendly);
    }

    fn begin_epoch(&mut self, now: f64) -> f64 {
        self.epoch_at = Some(now);
        self.friendly = self.window.size;
        self.largest = self.largest.max(self.window.size);
        let missing = (self.largest - self.window.size) / self.window.datagram_size;
        self.delay = (missing / C).powf(1.0 / 3.0);
        now
    }

    fn end_slow_start(&mut self, ack: &Ack) {
        let Some(newest) = ack.newest else { return };
        if newest.delivered >= self.round_end {
            self.round_end = self.window.delivery.delivered;
            self.last_round_rtt = std::mem::replace(&mut self.round_rtt, f64::INFINITY);
            self.round_samples = 0;
        }
        let Some(rtt) = ack.rtt else { return };
        self.round_rtt = self.round_rtt.min(rtt);
        self.round_samples += 1;
        let (least, most) = HYSTART_DELAY;
        let allowed = (self.last_round_rtt / 8.0).max(least).min(most);
        if self.round_samples >= HYSTART_SAMPLES
            && self.last_round_rtt < f64::INFINITY
            && self.round_rtt >= self.last_round_rtt + allowed
        {
            self.window.threshold = self.window.size;
        }
    }
}

impl Controller for Cubic {
    fn window(&self) -> f64 {
        self.window.bytes()
    }

    fn pacing_rate(&self) -> f64 {
        self.window.pacing_rate()
    }

    fn capacity(&self) -> f64 {
        self.window.size
    }

    fn set_datagram_size(&mut self, size: f64) {
        self.window.datagram_size = size;
    }

    fn on_sent(&mut self, now: f64, in_flight: f64, size: f64) -> SendState {
        self.window.delivery.on_sent(now, in_flight, size)
    }

    fn on_app_limited(&mut self, in_flight: f64) {
        self.window.on_app_limited(in_flight);
    }

    fn on_ack(&mut self, ack: &Ack) {
        let taken = self.window.take(ack);
        if taken.reduces {
            self.cut();
        }
        if taken.grows {
            self.grow(ack);
        }
    }

    fn on_spurious_loss(&mut self, _: f64, size: f64) {
        if self.window.on_spurious_loss(size) {
            self.largest = self.before_largest;
            self.epoch_at = None;
        }
    }

    fn on_persistent_congestion(&mut self) {
        self.window.on_persistent_congestion();
        self.epoch_at = None;
    }
}
