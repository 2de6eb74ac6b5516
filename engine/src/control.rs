//! Congestion control and pacing behind quinn-proto's interface.
//!
//! quinn-proto compares what is in flight with the window. It paces by the window, not by a rate, so
//! the rate is kept here: while no datagram may leave, the window is closed, which still lets
//! acknowledgements and loss probes pass.
//!
//! quinn-proto's own pace is the window in a smoothed round trip, as that of CUBIC and Reno. For BBR
//! it is much too slow after pauses of a host, which raise that average. The window is then open,
//! for which quinn-proto does not pace, and `Room` limits the datagrams.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller as QuinnController, ControllerFactory};

use crate::clock::Clock;
use crate::congestion::pacer::Pacer;
use crate::congestion::rate_sample::SendState;
use crate::congestion::reno::Reno;
use crate::congestion::resume::CarefulResume;
use crate::congestion::{Ack, Chance, Controller, controller};
use crate::late::{Late, Lost, RoundTrips};
use crate::sent::SharedSent;

/// Bursts whose state is kept, at most.
const MOST_STATES: usize = 8192;

/// The window while the pacer lets nothing leave. Not 0, which quinn-proto does not expect.
const CLOSED: u64 = 1;

/// The algorithm whose pace does not depend on the smoothed round trip.
const BBR: &str = "bbr";

pub type Shared = Arc<Mutex<Control>>;

/// What quinn-proto is told of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Window,
    Closed,
    Open,
}

/// What may leave now.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub datagrams: usize,
    /// Nothing, because of the pacer.
    pub is_paced: bool,
}

/// Congestion control of one connection.
pub struct Control {
    algorithm: String,
    clock: Clock,
    controller: Box<dyn Controller>,
    pacer: Pacer,
    max_in_flight: f64,
    in_flight: f64,
    gate: Gate,
    sent: SharedSent,
    /// By the time at which quinn-proto was asked for a burst, which is different for each.
    states: BTreeMap<Instant, SendState>,
    newest_acked: Option<Instant>,
    acknowledged: f64,
    lost: f64,
    /// Packets reported with CE.
    marked: f64,
    late: Late,
    datagram_size: f64,
    newest: Option<(Instant, SendState)>,
    newest_lost: Option<(Instant, SendState)>,
    rtt: Option<f64>,
    latest_rtt: f64,
    smoothed_rtt: f64,
    min_rtt: f64,
}

impl Control {
    /// None for an unknown algorithm.
    pub fn new(
        algorithm: &str,
        datagram_size: f64,
        max_in_flight: f64,
        clock: Clock,
        sent: SharedSent,
    ) -> Option<Self> {
        Some(Self {
            controller: controller(algorithm, datagram_size, chance())?,
            algorithm: algorithm.to_owned(),
            clock,
            pacer: Pacer::new(datagram_size),
            max_in_flight,
            in_flight: 0.0,
            gate: Gate::Window,
            sent,
            states: BTreeMap::new(),
            newest_acked: None,
            acknowledged: 0.0,
            lost: 0.0,
            marked: 0.0,
            late: Late::default(),
            datagram_size,
            newest: None,
            newest_lost: None,
            rtt: None,
            latest_rtt: 0.0,
            smoothed_rtt: 0.0,
            min_rtt: f64::INFINITY,
        })
    }

    /// Begins anew on another path.
    fn restart(&mut self, datagram_size: f64) {
        let known = (self.algorithm.clone(), self.max_in_flight, self.clock, self.sent.clone());
        let (algorithm, max_in_flight, clock, sent) = known;
        if let Some(control) = Self::new(&algorithm, datagram_size, max_in_flight, clock, sent) {
            *self = control;
        }
    }

    fn set_datagram_size(&mut self, size: f64) {
        self.controller.set_datagram_size(size);
        self.pacer.datagram_size = size;
        self.datagram_size = size;
    }

    fn window(&self) -> u64 {
        match self.gate {
            Gate::Window => self.allowed_window() as u64,
            Gate::Closed => CLOSED,
            Gate::Open => u64::MAX,
        }
    }

    fn allowed_window(&self) -> f64 {
        self.controller.window().min(self.max_in_flight)
    }

    /// Bytes per second; 0 while unknown.
    pub fn pacing_rate(&self) -> f64 {
        self.controller.pacing_rate()
    }

    pub fn capacity(&self) -> f64 {
        self.controller.capacity()
    }

    /// Starts with what an earlier connection has measured on the path.
    pub fn resume(&mut self, in_flight: f64, round_trip: f64) {
        let known = std::mem::replace(&mut self.controller, Box::new(Reno::new(1.0)));
        self.controller = Box::new(CarefulResume::new(known, in_flight, round_trip));
    }

    /// Seconds; infinite while unknown.
    pub fn min_rtt(&self) -> f64 {
        self.min_rtt
    }

    /// Datagrams of `size` bytes that may leave now.
    pub fn room(&mut self, now: Instant, size: usize) -> Room {
        self.sent.lock().unwrap().forget_departed();
        let size = size as f64;
        let paced = self.pacer.room(self.time(now));
        let window = self.allowed_window() - self.in_flight - 1.0;
        let datagrams = (paced / size).ceil().min((window / size).floor()).max(0.0) as usize;
        self.gate = match datagrams {
            0 if paced <= 0.0 => Gate::Closed,
            0 => Gate::Window,
            _ if self.algorithm == BBR => Gate::Open,
            _ => Gate::Window,
        };
        Room { is_paced: paced <= 0.0, datagrams }
    }

    /// Opens the window, whatever is in flight, until the next `room`.
    pub fn open(&mut self) {
        self.gate = Gate::Open;
    }

    /// When more may leave.
    pub fn next_time(&mut self, now: Instant) -> f64 {
        let now = self.time(now);
        self.pacer.next_time(now)
    }

    /// There is nothing to send.
    pub fn on_idle(&mut self) {
        self.controller.on_app_limited(self.in_flight);
        self.pacer.on_idle();
    }

    /// Tells the controller what the last datagram or timer brought.
    pub fn settle(&mut self, now: Instant) {
        self.take_acks(now);
        self.take_overdue(now);
        if self.acknowledged == 0.0 && self.lost == 0.0 && self.marked == 0.0 {
            return;
        }
        let now = self.time(now);
        let marked = std::mem::take(&mut self.marked) * self.datagram_size;
        self.controller.on_ack(&Ack {
            now,
            ecn_ce: marked.min(self.acknowledged),
            acknowledged: std::mem::take(&mut self.acknowledged),
            lost: std::mem::take(&mut self.lost),
            in_flight: self.in_flight,
            newest: self.newest.take().map(|(_, state)| state),
            newest_lost: self.newest_lost.take().map(|(_, state)| state),
            rtt: self.rtt.take(),
        });
        self.pacer.set_rate(self.controller.pacing_rate(), now);
    }

    /// Looks for late packets among those that the last ACK frames acknowledge.
    fn take_acks(&mut self, now: Instant) {
        let ranges = self.sent.lock().unwrap().take_acks();
        if ranges.is_empty() {
            return;
        }
        let late = self.late.on_acks(&ranges);
        if late > 0.0 {
            self.controller.on_spurious_loss(self.time(now), late);
        }
    }

    fn take_overdue(&mut self, now: Instant) {
        let trips = RoundTrips {
            latest: self.latest_rtt,
            smoothed: self.smoothed_rtt,
            least: self.min_rtt,
        };
        let overdue = self.late.take_overdue(now, trips);
        self.report(overdue);
    }

    fn report(&mut self, lost: Lost) {
        let Some((bytes, sent)) = lost else { return };
        self.lost += bytes;
        if let Some(state) = self.states.get(&sent) {
            self.newest_lost = Some((sent, *state));
        }
    }

    fn time(&self, now: Instant) -> f64 {
        self.clock.plain_seconds(now)
    }

    fn on_sent(&mut self, now: Instant, bytes: u64) {
        let (eliciting, departed) = {
            let mut sent = self.sent.lock().unwrap();
            (sent.take_eliciting(), sent.take_departed())
        };
        if eliciting == Some(false) {
            return; // acknowledgements are neither in flight nor paced (RFC 9002, 7.7)
        }
        for (number, size) in departed {
            self.late.on_sent(number, size as f64, now);
        }
        let size = bytes as f64;
        self.pacer.on_sent(size);
        let state = self.controller.on_sent(self.time(now), self.in_flight, size);
        self.in_flight += size;
        self.states.insert(now, state);
        if self.states.len() > MOST_STATES {
            self.states.pop_first();
        }
    }

    fn on_packet_acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.acknowledged += bytes as f64;
        if self.newest.is_none_or(|(at, _)| sent > at)
            && let Some(state) = self.states.get(&sent)
        {
            self.newest = Some((sent, *state));
        }
        if self.newest_acked.is_none_or(|newest| sent > newest) {
            self.newest_acked = Some(sent);
            let rtt = now.saturating_duration_since(sent).as_secs_f64();
            self.rtt = Some(rtt);
            self.latest_rtt = rtt;
            let old = if self.smoothed_rtt == 0.0 { rtt } else { self.smoothed_rtt };
            self.smoothed_rtt = old + (rtt - old) / 8.0;
            self.min_rtt = self.min_rtt.min(rtt);
        }
    }

    fn on_acks_ended(&mut self, now: Instant, in_flight: u64) {
        self.take_acks(now);
        self.in_flight = in_flight as f64;
        if in_flight == 0 {
            self.states.clear();
            self.late.on_empty();
        }
    }

    fn on_lost(&mut self, sent: Instant, is_persistent: bool, bytes: u64) {
        if bytes == 0 {
            self.marked += self.sent.lock().unwrap().take_marks().max(1) as f64;
            return;
        }
        self.in_flight = (self.in_flight - bytes as f64).max(0.0);
        let lost = self.late.on_lost(sent, bytes as f64);
        self.report(lost);
        if is_persistent {
            self.controller.on_persistent_congestion();
        }
    }
}

fn chance() -> Chance {
    Box::new(|| {
        let number = u64::from_be_bytes(crate::ids::random());
        (number >> 11) as f64 / (1u64 << 53) as f64
    })
}

/// Gives every path of a connection the same `Control`.
pub struct Factory(pub Shared);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, _: Instant, current_mtu: u16) -> Box<dyn QuinnController> {
        self.0.lock().unwrap().restart(f64::from(current_mtu));
        Box::new(Handle(self.0.clone()))
    }
}

struct Handle(Shared);

impl QuinnController for Handle {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.0.lock().unwrap().on_sent(now, bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.0.lock().unwrap().on_packet_acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        self.0.lock().unwrap().on_acks_ended(now, in_flight);
    }

    fn on_congestion_event(
        &mut self,
        _: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.0.lock().unwrap().on_lost(sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.lock().unwrap().set_datagram_size(f64::from(new_mtu));
    }

    fn window(&self) -> u64 {
        self.0.lock().unwrap().window()
    }

    fn clone_box(&self) -> Box<dyn QuinnController> {
        Box::new(Self(self.0.clone()))
    }

    fn initial_window(&self) -> u64 {
        self.0.lock().unwrap().controller.window() as u64
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
