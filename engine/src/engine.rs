//! The Python class of an engine: the settings of one endpoint.

use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::clock::Clock;
use crate::connection::Connection;
use crate::control::Control;
use crate::ids::{self, ResetKey};
use crate::live::{Live, Start};
use crate::sent::{Bounds, Sent, SharedSent};
use crate::settings::Settings;
use crate::tls::{self, Watch};

#[pyclass(module = "quicdist_engine")]
pub struct Engine {
    settings: Arc<Settings>,
    tls: tls::Configs,
    server: Arc<rustls::ServerConfig>,
    reset_token_of: Arc<Py<PyAny>>,
    /// Returns the callable that writes the records of a connection.
    qlog: Option<Arc<Py<PyAny>>>,
    clock: Clock,
    bounds: Bounds,
}

fn invalid(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pymethods]
impl Engine {
    /// Raises ValueError for settings that are not supported.
    #[new]
    #[pyo3(signature = (*, now, chain, key, asks_certificate, alpns, cipher_suites, groups, key_log,
        qlog, reset_token_of, stream_window, max_streams, idle_timeout, max_datagram_size,
        max_tls_message, max_frames, bytes_per_frame, max_frames_unproved, congestion, max_in_flight))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        now: f64,
        chain: Vec<Vec<u8>>,
        key: Vec<u8>,
        asks_certificate: bool,
        alpns: Vec<String>,
        cipher_suites: Vec<u16>,
        groups: Vec<u16>,
        key_log: Option<Py<PyAny>>,
        qlog: Option<Py<PyAny>>,
        reset_token_of: Py<PyAny>,
        stream_window: u64,
        max_streams: u32,
        idle_timeout: f64,
        max_datagram_size: u16,
        max_tls_message: usize,
        max_frames: u64,
        bytes_per_frame: u64,
        max_frames_unproved: u64,
        congestion: String,
        max_in_flight: f64,
    ) -> PyResult<Self> {
        let tls = tls::Configs::new(tls::Settings {
            chain,
            key,
            asks_certificate,
            cipher_suites,
            groups,
            key_log,
        })
        .map_err(invalid)?;
        let engine = Self {
            server: tls.server(bytes_of(alpns)).map_err(invalid)?,
            tls,
            settings: Arc::new(Settings {
                stream_window,
                max_streams,
                idle_timeout,
                max_datagram_size,
                max_tls_message,
                congestion,
                max_in_flight,
            }),
            reset_token_of: Arc::new(reset_token_of),
            qlog: qlog.map(Arc::new),
            clock: Clock::new(now),
            bounds: Bounds { max_frames, bytes_per_frame, max_frames_unproved },
        };
        engine.control(SharedSent::default())?;
        Ok(engine)
    }

    /// A connection to `host`. `judge` is called with the peer's chain (DER) inside the TLS
    /// handshake; it returns None, or the TLS alert that ends the handshake.
    fn dialer(
        &self,
        host: String,
        alpns: Vec<String>,
        judge: Option<Py<PyAny>>,
        receive_window: u64,
    ) -> PyResult<Connection> {
        let sent = self.sent();
        let watch = Watch { judge: judge.map(Arc::new), sent: sent.clone() };
        let config = self.tls.client(bytes_of(alpns)).map_err(invalid)?;
        let original = ids::random().to_vec();
        let start = Start::Dialer { config: tls::ClientConfig { config, watch }, host, original };
        self.connection(start, receive_window, sent)
    }

    /// A connection for a first datagram. `original` is its original destination connection ID;
    /// `is_checked` tells whether that comes from a token that was checked.
    fn listener(
        &self,
        original: Vec<u8>,
        is_checked: bool,
        judge: Option<Py<PyAny>>,
        receive_window: u64,
    ) -> PyResult<Connection> {
        let sent = self.sent();
        let watch = Watch { judge: judge.map(Arc::new), sent: sent.clone() };
        let config = Arc::new(tls::ServerConfig { config: self.server.clone(), watch });
        let start = Start::Listener { config, original, is_checked };
        self.connection(start, receive_window, sent)
    }
}

impl Engine {
    fn sent(&self) -> SharedSent {
        Arc::new(Mutex::new(Sent::new(self.bounds)))
    }

    fn control(&self, sent: SharedSent) -> PyResult<Control> {
        let settings = &self.settings;
        let size = f64::from(settings.first_size());
        let max_in_flight = settings.max_in_flight;
        Control::new(&settings.congestion, size, max_in_flight, self.clock, sent)
            .ok_or_else(|| invalid(format!("unknown congestion control {}", settings.congestion)))
    }

    fn connection(
        &self,
        start: Start,
        receive_window: u64,
        sent: SharedSent,
    ) -> PyResult<Connection> {
        let control = Arc::new(Mutex::new(self.control(sent.clone())?));
        let settings = self.settings.clone();
        let key = ResetKey(self.reset_token_of.clone());
        let qlog = self.qlog.clone();
        let live = Live::new(settings, self.clock, start, key, receive_window, control, sent, qlog);
        Ok(Connection::new(live))
    }
}

fn bytes_of(alpns: Vec<String>) -> Vec<Vec<u8>> {
    alpns.into_iter().map(String::into_bytes).collect()
}
