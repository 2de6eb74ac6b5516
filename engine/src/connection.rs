//! The Python class of a connection.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::address::{self, Path};
use crate::ending::Ending;
use crate::guard::guarded;
use crate::incoming::Arrival;
use crate::live::{Happened, Live, Progress};
use crate::part;
use crate::socket::Socket;

const DATA: u8 = 0;
const ENDED: u8 = 1;
const COMPLETED: u8 = 2;
const ISSUED: u8 = 3;
const RETIRED: u8 = 4;

/// A QUIC connection. After an internal error every call that can fail raises RuntimeError.
#[pyclass(module = "quicdist_engine")]
pub struct Connection {
    live: Option<Live>,
    failure: Option<String>,
}

impl Connection {
    pub fn new(live: Live) -> Self {
        Self { live: Some(live), failure: None }
    }

    /// Runs `work` on the connection. A panic ends the connection and is raised later, by a call
    /// that can fail. Returns `otherwise` if the connection has failed or was released.
    fn run<T>(&mut self, otherwise: T, work: impl FnOnce(&mut Live) -> T) -> T {
        let Some(live) = &mut self.live else { return otherwise };
        match guarded(|| work(live)) {
            Ok(value) => value,
            Err(text) => {
                self.failure = Some(text);
                // Its destructor may panic as well.
                let live = self.live.take();
                let _ = guarded(move || drop(live));
                otherwise
            }
        }
    }

    fn checked(&self) -> PyResult<()> {
        match &self.failure {
            Some(text) => Err(PyRuntimeError::new_err(text.clone())),
            None => Ok(()),
        }
    }
}

#[pymethods]
impl Connection {
    /// Sets the path of the datagrams that follow. Returns its index, as `path` and `transmit` do.
    #[pyo3(signature = (host, port, scope, local))]
    fn take_path(
        &mut self,
        host: &str,
        port: u16,
        scope: u32,
        local: Option<&[u8]>,
    ) -> PyResult<usize> {
        let remote = address::remote(host, port, scope).map_err(PyRuntimeError::new_err)?;
        let path = Path { remote, local: address::local(local) };
        Ok(self.run(0, |live| live.take_path(path)))
    }

    fn connect(&mut self, now: f64) -> PyResult<()> {
        self.run(Ok(()), |live| live.connect(now)).map_err(PyRuntimeError::new_err)?;
        self.checked()
    }

    fn receive(&mut self, data: &[u8], size: usize, now: f64, ecn: u8) -> PyResult<()> {
        self.run((), |live| live.receive(data, size, now, ecn));
        self.checked()
    }

    /// What happened since the last call: tuples of a kind, a stream and a value; the stream bytes
    /// that were read since the beginning; and whether the connection has ended.
    fn drain<'py>(&mut self, py: Python<'py>) -> PyResult<(Bound<'py, PyList>, u64, bool)> {
        let list = PyList::empty(py);
        let (happened, received, has_ended) = self.run((Vec::new(), 0, false), |live| {
            (live.drain(), live.received(), live.ending().is_some())
        });
        for event in happened {
            match event {
                Happened::Arrived(Arrival::Data(stream, parts)) => {
                    list.append((DATA, stream, joined(py, &parts)?))?;
                }
                Happened::Arrived(Arrival::Ended(stream, how)) => {
                    list.append((ENDED, stream, how))?;
                }
                Happened::Completed(alpn) => list.append((COMPLETED, 0, alpn))?,
                Happened::Issued(id) => list.append((ISSUED, 0, PyBytes::new(py, &id)))?,
                Happened::Retired(id) => list.append((RETIRED, 0, PyBytes::new(py, &id)))?,
            }
        }
        Ok((list, received, has_ended))
    }

    #[getter]
    fn ids<'py>(&mut self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let ids = self.run(Vec::new(), |live| live.ids().to_vec());
        ids.iter().map(|id| PyBytes::new(py, id)).collect()
    }

    #[getter]
    fn is_started(&mut self) -> bool {
        self.run(false, |live| live.is_started())
    }

    #[getter]
    fn is_confirmed(&mut self) -> bool {
        self.run(false, |live| live.is_confirmed())
    }

    /// (by the peer, idle, application close, error code, reason, too many frames); None while it is
    /// open.
    #[getter]
    fn closed(&mut self) -> Option<(bool, bool, bool, u64, String, bool)> {
        self.run(None, |live| live.ending().cloned()).map(|ending| {
            let is_application = ending.is_application;
            let Ending { by_peer, is_idle, code, reason, exceeds_frames, .. } = ending;
            (by_peer, is_idle, is_application, code, reason, exceeds_frames)
        })
    }

    #[getter]
    fn path(&mut self) -> usize {
        self.run(0, |live| live.path())
    }

    #[getter]
    fn allowance(&mut self) -> f64 {
        self.run(0.0, |live| live.allowance())
    }

    /// IANA name of the cipher suite.
    #[getter]
    fn cipher(&mut self) -> String {
        self.run(String::new(), |live| live.negotiated().cipher)
    }

    /// The peer's idle timeout in milliseconds; 0 for none.
    #[getter]
    fn peer_idle_timeout(&mut self) -> u64 {
        self.run(0, |live| live.negotiated().idle_timeout.unwrap_or(0))
    }

    fn export<'py>(&mut self, py: Python<'py>, label: &[u8], length: usize) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.run(Vec::new(), |live| live.export(label, length)))
    }

    fn write(&mut self, stream: u64, parts: &Bound<'_, PyAny>) -> PyResult<()> {
        let parts = part::all(parts)?;
        let written = self.run(Ok(()), |live| live.write(stream, parts));
        written.map_err(PyRuntimeError::new_err)?;
        self.checked()
    }

    fn prove(&mut self) {
        self.run((), Live::prove);
    }

    fn refuse(&mut self, stream: u64, error_code: u32) {
        self.run((), |live| live.refuse(stream, error_code));
    }

    fn send_whole(&mut self, whole: bool) {
        self.run((), |live| live.set_whole(whole));
    }

    /// Sends about `limit` datagrams through `socket`. Returns those that it did not take as tuples
    /// (datagrams, size of each, index of the path), and what is known after that
    /// (`quicdist.carriers.quic.engine.Progress`).
    #[pyo3(signature = (now, limit, socket=None))]
    fn transmit<'py>(
        &mut self,
        py: Python<'py>,
        now: f64,
        limit: usize,
        socket: Option<PyRef<'py, Socket>>,
    ) -> PyResult<(Bound<'py, PyList>, Progress)> {
        let list = PyList::empty(py);
        let mut socket = socket.as_deref();
        self.run(Ok(()), |live| {
            live.transmit(now, limit, |burst, data| {
                if socket.is_some_and(|socket| socket.send(burst.path, burst.size, data)) {
                    return Ok(());
                }
                socket = None; // the datagrams stay in order
                list.append((PyBytes::new(py, data), burst.size, burst.index))
            })
        })?;
        let progress = self.run(Progress::default(), Live::progress);
        self.checked()?;
        Ok((list, progress))
    }

    fn handle_timer(&mut self, now: f64) {
        self.run((), |live| live.handle_timer(now));
    }

    fn grant(&mut self, credit: u64) {
        self.run((), |live| live.grant(credit));
    }

    fn round_trip(&mut self) -> Option<f64> {
        self.run(None, |live| live.round_trip())
    }

    /// Bytes in flight that fill the path; 0 while unknown.
    fn capacity(&mut self) -> f64 {
        self.run(0.0, |live| live.capacity())
    }

    fn resume(&mut self, in_flight: f64, round_trip: f64) {
        self.run((), |live| live.resume(in_flight, round_trip));
    }

    fn datagrams_sent(&mut self) -> u64 {
        self.run(0, |live| live.datagrams_sent())
    }

    fn datagrams_lost(&mut self) -> u64 {
        self.run(0, |live| live.datagrams_lost())
    }

    fn ping(&mut self) {
        self.run((), Live::ping);
    }

    fn is_reset(&mut self, data: &[u8], now: f64) -> bool {
        self.run(false, |live| live.is_reset(data, now))
    }

    fn renew_id(&mut self) {
        self.run((), Live::renew_id);
    }

    fn migrate(&mut self, now: f64) {
        self.run((), |live| live.migrate(now));
    }

    fn close(&mut self, error_code: u32, reason: &[u8]) {
        self.run((), |live| live.close(error_code, reason));
    }

    fn release(&mut self) {
        self.run((), |_| ());
        let live = self.live.take();
        let _ = guarded(move || drop(live));
    }

    /// Panics inside, for tests.
    fn fail_for_test(&mut self) {
        self.run((), |_| panic!("a test asked for it"));
    }
}

fn joined<'py>(py: Python<'py>, parts: &[bytes::Bytes]) -> PyResult<Bound<'py, PyBytes>> {
    let size = parts.iter().map(bytes::Bytes::len).sum();
    PyBytes::new_with(py, size, |mut target| {
        for part in parts {
            let (head, rest) = target.split_at_mut(part.len());
            head.copy_from_slice(part);
            target = rest;
        }
        Ok(())
    })
}
