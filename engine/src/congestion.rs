//! Congestion control and pacing: the algorithms of `quicdist.carriers.quic.congestion`, with the
//! same decisions for the same events. tests/carriers/quic/engine/test_controllers.py compares them.
//!
//! Sizes are in bytes, times in seconds, rates in bytes per second. Counters are `f64`, as their
//! quotients are; they are exact up to 2^53.

pub mod bbr;
pub mod cubic;
pub mod filters;
pub mod pacer;
pub mod rate_sample;
pub mod reno;
pub mod resume;

use rate_sample::SendState;

/// Datagrams (RFC 9002, 7.2).
pub const INITIAL_WINDOW: f64 = 10.0;

/// Datagrams (draft-ietf-ccwg-bbr, 2.7, BBR.MinPipeCwnd).
pub const MIN_WINDOW: f64 = 4.0;

/// What one acknowledgement, or one loss timer, has brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ack {
    pub now: f64,
    pub acknowledged: f64,
    pub lost: f64,
    /// After both.
    pub in_flight: f64,
    /// Of the acknowledged packet that left last.
    pub newest: Option<SendState>,
    /// Of the lost packet that left last.
    pub newest_lost: Option<SendState>,
    /// The measured round trip, with the peer's delay.
    pub rtt: Option<f64>,
    /// Newly reported as marked with Congestion Experienced.
    pub ecn_ce: f64,
}

/// Congestion control of one path.
pub trait Controller: Send + Sync {
    fn window(&self) -> f64;

    /// 0 while nothing is known: not paced.
    fn pacing_rate(&self) -> f64;

    /// Bytes in flight that fill the path, as far as it is known; 0 if nothing is known.
    fn capacity(&self) -> f64;

    fn set_datagram_size(&mut self, size: f64);

    fn on_sent(&mut self, now: f64, in_flight: f64, size: f64) -> SendState;

    fn on_app_limited(&mut self, in_flight: f64);

    fn on_ack(&mut self, ack: &Ack);

    /// `size` bytes that were declared lost are acknowledged.
    fn on_spurious_loss(&mut self, now: f64, size: f64);

    fn on_persistent_congestion(&mut self);
}

/// Uniform random numbers from 0 to 1.
pub type Chance = Box<dyn FnMut() -> f64 + Send + Sync>;

/// The controller of that name; None for an unknown one.
pub fn controller(name: &str, datagram_size: f64, chance: Chance) -> Option<Box<dyn Controller>> {
    Some(match name {
        "bbr" => Box::new(bbr::Bbr::new(datagram_size, chance)),
        "cubic" => Box::new(cubic::Cubic::new(datagram_size)),
        "reno" => Box::new(reno::Reno::new(datagram_size)),
        _ => return None,
    })
}
