//! Careful Resume, as `quicdist.carriers.quic.congestion.resume` has it. That module says what it
//! does and what each constant means.

use super::rate_sample::SendState;
use super::{Ack, Controller};

const SHARE: f64 = 0.5;
const RTT_RANGE: (f64, f64) = (0.5, 2.0);
const PATIENCE: f64 = 10.0;
const ROUND_TRIPS: f64 = 3.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reconnaissance,
    Unvalidated,
    Normal,
}

/// A controller that starts with an earlier capacity.
pub struct CarefulResume {
    controller: Box<dyn Controller>,
    phase: Phase,
    /// Bytes in flight and seconds that an earlier connection has measured.
    in_flight: f64,
    earlier_round_trip: f64,
    window: f64,
    rate: f64,
    round_trip: f64,
    ends: f64,
    is_used: bool,
    to_confirm: f64,
}

impl CarefulResume {
    pub fn new(controller: Box<dyn Controller>, in_flight: f64, round_trip: f64) -> Self {
        Self {
            controller,
            phase: Phase::Reconnaissance,
            in_flight,
            earlier_round_trip: round_trip,
            window: 0.0,
            rate: 0.0,
            round_trip: 0.0,
            ends: f64::INFINITY,
            is_used: false,
            to_confirm: 0.0,
        }
    }

    fn look_at_path(&mut self, ack: &Ack) {
        if ack.lost > 0.0 || ack.ecn_ce > 0.0 {
            self.end();
        } else if let Some(rtt) = ack.rtt {
            let (least, most) = RTT_RANGE;
            if (least * self.earlier_round_trip..=most * self.earlier_round_trip).contains(&rtt) {
                self.begin(rtt, ack.now);
            } else {
                self.end();
            }
        }
    }

    fn begin(&mut self, round_trip: f64, now: f64) {
        self.phase = Phase::Unvalidated;
        self.window = SHARE * self.in_flight;
        self.to_confirm = self.window;
        self.rate = self.window / round_trip;
        self.round_trip = round_trip;
        self.ends = now + PATIENCE;
    }

    fn end(&mut self) {
        self.phase = Phase::Normal;
        self.window = 0.0;
        self.rate = 0.0;
    }
}

impl Controller for CarefulResume {
    fn window(&self) -> f64 {
        self.controller.window().max(self.window.floor())
    }

    fn pacing_rate(&self) -> f64 {
        self.controller.pacing_rate().max(self.rate)
    }

    fn capacity(&self) -> f64 {
        self.controller.capacity()
    }

    fn set_datagram_size(&mut self, size: f64) {
        self.controller.set_datagram_size(size);
    }

    fn on_sent(&mut self, now: f64, in_flight: f64, size: f64) -> SendState {
        let is_ready = self.phase == Phase::Unvalidated && !self.is_used;
        if is_ready && in_flight + size > self.controller.window() {
            self.is_used = true;
            self.ends = now + ROUND_TRIPS * self.round_trip;
        }
        self.controller.on_sent(now, in_flight, size)
    }

    fn on_app_limited(&mut self, in_flight: f64) {
        self.controller.on_app_limited(in_flight);
    }

    fn on_ack(&mut self, ack: &Ack) {
        self.controller.on_ack(ack);
        match self.phase {
            Phase::Reconnaissance => self.look_at_path(ack),
            Phase::Unvalidated => {
                if self.is_used {
                    self.to_confirm -= ack.acknowledged;
                }
                let is_lost = ack.lost > 0.0 || ack.ecn_ce > 0.0;
                if is_lost || self.to_confirm <= 0.0 || ack.now >= self.ends {
                    self.end();
                }
            }
            Phase::Normal => {}
        }
    }

    fn on_spurious_loss(&mut self, now: f64, size: f64) {
        self.controller.on_spurious_loss(now, size);
    }

    fn on_persistent_congestion(&mut self) {
        self.end();
        self.controller.on_persistent_congestion();
    }
}
