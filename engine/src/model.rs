//! A congestion controller for tests: Python compares it with its own.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::congestion::rate_sample::SendState;
use crate::congestion::reno::Reno;
use crate::congestion::resume::CarefulResume;
use crate::congestion::{Ack, Controller, controller};

/// (sent at, delivered, delivered at, first sent at, lost, in flight, application-limited)
type State = (f64, f64, f64, f64, f64, f64, bool);

#[pyclass(module = "quicdist_engine")]
pub struct ControllerModel(Box<dyn Controller>);

#[pymethods]
impl ControllerModel {
    /// `chance` is the random number, from 0 to 1, that is always drawn.
    #[new]
    fn new(algorithm: &str, datagram_size: f64, chance: f64) -> PyResult<Self> {
        let model = controller(algorithm, datagram_size, Box::new(move || chance));
        model.map(Self).ok_or_else(|| PyValueError::new_err("unknown congestion control"))
    }

    fn resume(&mut self, in_flight: f64, round_trip: f64) {
        let known = std::mem::replace(&mut self.0, Box::new(Reno::new(1.0)));
        self.0 = Box::new(CarefulResume::new(known, in_flight, round_trip));
    }

    #[getter]
    fn capacity(&self) -> f64 {
        self.0.capacity()
    }

    #[getter]
    fn window(&self) -> f64 {
        self.0.window()
    }

    #[getter]
    fn pacing_rate(&self) -> f64 {
        self.0.pacing_rate()
    }

    fn set_datagram_size(&mut self, size: f64) {
        self.0.set_datagram_size(size);
    }

    fn on_sent(&mut self, now: f64, in_flight: f64, size: f64) -> State {
        let state = self.0.on_sent(now, in_flight, size);
        (
            state.sent_at,
            state.delivered,
            state.delivered_at,
            state.first_sent_at,
            state.lost,
            state.in_flight,
            state.is_app_limited,
        )
    }

    fn on_app_limited(&mut self, in_flight: f64) {
        self.0.on_app_limited(in_flight);
    }

    fn on_spurious_loss(&mut self, now: f64, size: f64) {
        self.0.on_spurious_loss(now, size);
    }

    fn on_persistent_congestion(&mut self) {
        self.0.on_persistent_congestion();
    }

    #[allow(clippy::too_many_arguments)]
    fn on_ack(
        &mut self,
        now: f64,
        acknowledged: f64,
        lost: f64,
        in_flight: f64,
        newest: Option<State>,
        newest_lost: Option<State>,
        rtt: Option<f64>,
        ecn_ce: f64,
    ) {
        self.0.on_ack(&Ack {
            now,
            acknowledged,
            lost,
            in_flight,
            newest: newest.map(decode),
            newest_lost: newest_lost.map(decode),
            rtt,
            ecn_ce,
        });
    }
}

fn decode(state: State) -> SendState {
    let (sent_at, delivered, delivered_at, first_sent_at, lost, in_flight, is_app_limited) = state;
    SendState { sent_at, delivered, delivered_at, first_sent_at, lost, in_flight, is_app_limited }
}
