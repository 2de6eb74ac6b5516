//! NewReno as in RFC 9002, 7, and what controllers that count losses have in common.

use super::rate_sample::{DeliveryRate, SendState};
use super::{Ack, Controller, INITIAL_WINDOW, MIN_WINDOW};

const LOSS_REDUCTION: f64 = 0.5;

/// Windows per round trip (RFC 9002, 7.7).
const SLOW_START_PACE: f64 = 2.0;
const PACE: f64 = 1.25;

/// Slow start, one reduction per round trip, and pacing by the window.
#[derive(Debug)]
pub struct Window {
    pub datagram_size: f64,
    pub size: f64,
    pub threshold: f64,
    pub delivery: DeliveryRate,
    pub smoothed_rtt: f64,
    recovery_at: f64,
    /// Size and threshold before the last reduction, if it can be reverted.
    before: Option<(f64, f64)>,
    lost_in_recovery: f64,
}

impl Window {
    pub fn new(datagram_size: f64) -> Self {
        Self {
            datagram_size,
            size: INITIAL_WINDOW * datagram_size,
            threshold: f64::INFINITY,
            delivery: DeliveryRate::default(),
            smoothed_rtt: 0.0,
            recovery_at: f64::NEG_INFINITY,
            before: None,
            lost_in_recovery: 0.0,
        }
    }

    pub fn least(&self) -> f64 {
        MIN_WINDOW * self.datagram_size
    }

    pub fn bytes(&self) -> f64 {
        self.size.floor().max(self.least())
    }

    pub fn pacing_rate(&self) -> f64 {
        if self.smoothed_rtt == 0.0 {
            return 0.0;
        }
        let pace = if self.size < self.threshold { SLOW_START_PACE } else { PACE };
        pace * self.bytes() / self.smoothed_rtt
    }

    pub fn on_app_limited(&mut self, in_flight: f64) {
        if in_flight < self.bytes() {
            self.delivery.on_app_limited(in_flight);
        }
    }

    /// Takes the measurements of an acknowledgement. Returns whether the window has to be reduced;
    /// the caller sets `size` and calls `reduced`.
    pub fn take(&mut self, ack: &Ack) -> Taken {
        if let Some(rtt) = ack.rtt {
            let old = if self.smoothed_rtt == 0.0 { rtt } else { self.smoothed_rtt };
            self.smoothed_rtt = old + (rtt - old) / 8.0;
        }
        self.delivery.lost += ack.lost;
        let newest = ack.newest.as_ref();
        let sample = self.delivery.on_acknowledged(ack.now, ack.acknowledged, newest, 0.0);
        let lost = if ack.lost > 0.0 {
            ack.newest_lost
        } else if ack.ecn_ce > 0.0 {
            ack.newest
        } else {
            None
        };
        let reduces = lost.is_some_and(|lost| lost.sent_at > self.recovery_at);
        if reduces {
            self.recovery_at = ack.now;
            self.before = Some((self.size, self.threshold));
            self.lost_in_recovery = ack.lost;
        } else if lost.is_some() {
            self.lost_in_recovery += ack.lost;
        }
        if ack.ecn_ce > 0.0 {
            self.before = None; // a mark is never spurious
        }
        let is_after = ack.newest.is_some_and(|newest| newest.sent_at > self.recovery_at);
        let grows = is_after && sample.is_some_and(|sample| !sample.is_app_limited);
        Taken { reduces, grows }
    }

    /// Reverts the last reduction if all losses that caused it were spurious (RFC 9438, 4.9). Returns
    /// whether it did.
    pub fn on_spurious_loss(&mut self, size: f64) -> bool {
        self.delivery.on_spurious_loss(size);
        self.lost_in_recovery -= size;
        if self.lost_in_recovery > 0.0 {
            return false;
        }
        let Some((size, threshold)) = self.before.take() else { return false };
        self.size = self.size.max(size);
        self.threshold = threshold;
        true
    }

    pub fn on_persistent_congestion(&mut self) {
        self.size = self.least();
        self.before = None;
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub reduces: bool,
    pub grows: bool,
}

#[derive(Debug)]
pub struct Reno {
    window: Window,
}

impl Reno {
    pub fn new(datagram_size: f64) -> Self {
        Self { window: Window::new(datagram_size) }
    }
}

impl Controller for Reno {
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
        let window = &mut self.window;
        if taken.reduces {
            window.size = (window.size * LOSS_REDUCTION).max(window.least());
            window.threshold = window.size;
        }
        if !taken.grows {
            return;
        }
        if window.size < window.threshold {
            window.size += ack.acknowledged;
        } else {
            window.size += window.datagram_size * ack.acknowledged / window.size;
        }
    }

    fn on_spurious_loss(&mut self, _: f64, size: f64) {
        self.window.on_spurious_loss(size);
    }

    fn on_persistent_congestion(&mut self) {
        self.window.on_persistent_congestion();
    }
}
