//! Two ends of a connection on a network without loss, whose datagrams a target may change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyDict};
use quicdist_engine::quicdist_engine;

pub const DIALER: usize = 0;
pub const LISTENER: usize = 1;

const ADDRESSES: [(&str, u16); 2] = [("192.0.2.1", 1000), ("198.51.100.1", 2000)];
const ALPN: &str = "quicdist/2";
const WINDOW: u64 = 1 << 16;
/// The ECN codepoint that the engines send with.
const ECT0: u8 = 2;
const BURST: usize = 64;
/// What one call of `transmit` may return beyond its limit: the datagrams of one burst.
const SEGMENTS: usize = 64;

/// A debug assertion of quinn-proto that a listener breaks when its peer moves: the probe timeout of
/// the former path is still set, and the new path has nothing in flight. Release builds go on. Here
/// the connection ends.
const NOT_SO: &str = "!self.peer_completed_address_validation()";

type Secrets = Arc<Mutex<HashMap<String, Vec<u8>>>>;
type Datagram = (Vec<u8>, usize);

struct Library {
    engine: Py<PyAny>,
    secrets: Secrets,
}

/// Loads the engine once. A panic ends the process from then on, so that the fuzzer sees it.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        pyo3::append_to_inittab!(quicdist_engine);
        Python::initialize();
        let library = Python::attach(|py| {
            let secrets = Secrets::default();
            let engine = new_engine(py, secrets.clone()).expect("the settings are valid");
            Library { engine: engine.unbind(), secrets }
        });
        std::panic::set_hook(Box::new(|info| {
            if info.to_string().contains(NOT_SO) {
                return;
            }
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
            std::process::abort();
        }));
        library
    })
}

fn new_engine(py: Python<'_>, secrets: Secrets) -> PyResult<Bound<'_, PyAny>> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let chain = certificate.self_signed(&key).unwrap().der().to_vec();
    let note = PyCFunction::new_closure(py, None, None, move |args, _| -> PyResult<()> {
        let line: String = args.get_item(0)?.extract()?;
        let words: Vec<&str> = line.split_whitespace().collect();
        secrets.lock().unwrap().insert(words[0].to_owned(), from_hex(words[2]));
        Ok(())
    })?;
    let token = PyCFunction::new_closure(py, None, None, |args, _| -> PyResult<Py<PyAny>> {
        let id: Vec<u8> = args.get_item(0)?.extract()?;
        Ok(PyBytes::new(args.py(), &reset_token(&id)).into_any().unbind())
    })?;
    let settings = PyDict::new(py);
    settings.set_item("now", 0.0)?;
    settings.set_item("chain", vec![PyBytes::new(py, &chain)])?;
    settings.set_item("key", PyBytes::new(py, key.serialized_der()))?;
    settings.set_item("asks_certificate", true)?;
    settings.set_item("alpns", vec![ALPN])?;
    settings.set_item("cipher_suites", vec![0x1301])?; // the only one that `seal` has
    settings.set_item("groups", vec![29])?;
    settings.set_item("key_log", note)?;
    settings.set_item("qlog", py.None())?;
    settings.set_item("reset_token_of", token)?;
    settings.set_item("stream_window", 1 << 20)?;
    settings.set_item("max_streams", 18)?;
    settings.set_item("idle_timeout", 30.0)?;
    settings.set_item("max_datagram_size", 1452)?;
    settings.set_item("max_tls_message", 16 * 1024)?;
    settings.set_item("max_frames", 64)?;
    settings.set_item("bytes_per_frame", 8)?;
    settings.set_item("max_frames_unproved", 4096)?;
    settings.set_item("congestion", "bbr")?;
    settings.set_item("max_in_flight", 1e7)?;
    let library = py.import("quicdist_engine")?;
    library.getattr("Engine")?.call((), Some(&settings))
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// The stateless reset token of a connection ID of either end.
pub fn reset_token(id: &[u8]) -> [u8; 16] {
    std::array::from_fn(|at| id.get(at % 8).copied().unwrap_or_default() ^ 0x5a)
}

pub struct End<'py> {
    pub core: Bound<'py, PyAny>,
    is_listener: bool,
    /// What `received` may become.
    limit: u64,
    received: u64,
    bytes_in: usize,
    bytes_out: usize,
    paths: usize,
}

impl<'py> End<'py> {
    fn new(core: Bound<'py, PyAny>, is_listener: bool) -> Self {
        Self { core, is_listener, limit: WINDOW, received: 0, bytes_in: 0, bytes_out: 0, paths: 0 }
    }

    pub fn take_path(&mut self, host: &str, port: u16) {
        self.paths += 1;
        let none: Option<&[u8]> = None;
        self.call("take_path", (host, port, 0, none));
    }

    fn get<T: for<'a> FromPyObject<'a, 'py>>(&self, name: &str) -> T {
        self.core.getattr(name).unwrap().extract().map_err(|_| name).unwrap()
    }

    pub fn ids(&self) -> Vec<Vec<u8>> {
        self.get("ids")
    }

    /// Performs a call. It may raise RuntimeError, as after an invalid argument, and nothing else.
    pub fn call(&self, name: &str, arguments: impl PyCallArgs<'py>) {
        if let Err(error) = self.core.call_method1(name, arguments) {
            assert!(error.is_instance_of::<PyRuntimeError>(self.core.py()), "{name}: {error}");
        }
    }

    pub fn grant(&mut self, credit: u64) {
        self.call("grant", (credit,));
        self.limit = self.limit.max(self.received + credit);
    }

    pub fn receive(&mut self, data: &[u8], size: usize, now: f64) {
        self.receive_marked(data, size, now, ECT0);
    }

    pub fn receive_marked(&mut self, data: &[u8], size: usize, now: f64, ecn: u8) {
        self.bytes_in += data.len();
        self.call("receive", (PyBytes::new(self.core.py(), data), size, now, ecn));
    }

    /// Takes what has arrived. Returns how many bytes that are in all.
    pub fn drain(&mut self) -> u64 {
        if let Ok(answer) = self.core.call_method0("drain") {
            self.received = answer.get_item(1).unwrap().extract().unwrap();
        }
        assert!(self.received <= self.limit, "{} bytes of {}", self.received, self.limit);
        self.received
    }

    /// Takes what the end has to send, and checks the limits.
    pub fn transmit(&mut self, now: f64) -> Vec<Datagram> {
        let Ok(answer) = self.core.call_method1("transmit", (now, BURST)) else {
            return Vec::new();
        };
        let batches: Vec<(Vec<u8>, usize, usize)> = answer.get_item(0).unwrap().extract().unwrap();
        let count: usize = batches.iter().map(|(data, size, _)| data.len().div_ceil(*size)).sum();
        assert!(count <= BURST + SEGMENTS, "{count} datagrams in one call");
        self.bytes_out += batches.iter().map(|(data, _, _)| data.len()).sum::<usize>();
        let allowance: f64 = self.get("allowance");
        if self.is_listener && allowance.is_finite() && self.paths == 1 {
            assert!(
                self.bytes_out <= 3 * self.bytes_in,
                "{} for {}",
                self.bytes_out,
                self.bytes_in
            );
        }
        self.drain();
        let progress = answer.get_item(1).unwrap();
        let rate: f64 = progress.get_item(2).unwrap().extract().unwrap();
        let timer: Option<f64> = progress.get_item(6).unwrap().extract().unwrap();
        assert!(rate >= 0.0);
        assert!(timer.is_none_or(f64::is_finite));
        batches.into_iter().map(|(data, size, _)| (data, size)).collect()
    }
}

/// How far a connection is before the input is applied.
#[derive(Clone, Copy, Debug, arbitrary::Arbitrary)]
pub enum Phase {
    /// The dialer's first flight has not arrived.
    Opened,
    /// It has arrived, and the listener's first flight has not.
    Answered,
    /// TLS is complete, and the cookie is not proved.
    Complete,
    Proved,
}

pub struct Pair<'py> {
    pub ends: [End<'py>; 2],
    pub now: f64,
    /// The destination connection ID of the dialer's first packet.
    pub original: Vec<u8>,
    waiting: [Vec<Datagram>; 2],
}

impl<'py> Pair<'py> {
    pub fn new(py: Python<'py>, phase: Phase) -> Self {
        let engine = library().engine.bind(py);
        library().secrets.lock().unwrap().clear();
        let judge =
            PyCFunction::new_closure(py, None, None, |_, _| -> Option<u8> { None }).unwrap();
        let alpns = vec![ALPN];
        let core = engine.call_method1("dialer", ("localhost", alpns, &judge, WINDOW)).unwrap();
        let mut dialer = End::new(core, false);
        dialer.take_path(ADDRESSES[LISTENER].0, ADDRESSES[LISTENER].1);
        dialer.core.call_method1("connect", (1.0,)).unwrap();
        let first = dialer.transmit(1.0);
        let length = usize::from(first[0].0[5]);
        let original = first[0].0[6..6 + length].to_vec();
        let id = PyBytes::new(py, &original);
        let core = engine.call_method1("listener", (id, false, &judge, WINDOW)).unwrap();
        let mut listener = End::new(core, true);
        listener.take_path(ADDRESSES[DIALER].0, ADDRESSES[DIALER].1);
        let waiting = [Vec::new(), first];
        let mut pair = Self { ends: [dialer, listener], now: 1.0, original, waiting };
        pair.advance(phase);
        pair
    }

    fn advance(&mut self, phase: Phase) {
        match phase {
            Phase::Opened => {}
            Phase::Answered => self.deliver(LISTENER),
            Phase::Complete | Phase::Proved => {
                for _ in 0..4 {
                    self.exchange();
                }
                for end in &self.ends {
                    assert!(end.get::<bool>("is_confirmed"));
                }
            }
        }
        if matches!(phase, Phase::Proved) {
            for end in &self.ends {
                end.call("prove", ());
            }
        }
    }

    /// Takes what an end has to send. It waits to be delivered.
    pub fn collect(&mut self, from: usize) -> &mut Vec<Datagram> {
        let sent = self.ends[from].transmit(self.now);
        let waiting = &mut self.waiting[1 - from];
        waiting.extend(sent);
        waiting
    }

    pub fn deliver(&mut self, to: usize) {
        for (data, size) in std::mem::take(&mut self.waiting[to]) {
            self.ends[to].receive(&data, size, self.now);
        }
    }

    /// Datagrams pass in both directions.
    pub fn exchange(&mut self) {
        self.now += 0.001;
        for from in [DIALER, LISTENER] {
            self.collect(from);
            self.deliver(1 - from);
        }
    }

    pub fn pass(&mut self, seconds: f64) {
        self.now += seconds;
        for end in &self.ends {
            end.call("handle_timer", (self.now,));
        }
    }

    /// A TLS secret of the connection, by its label in the NSS Key Log format.
    pub fn secret(&self, label: &str) -> Option<Vec<u8>> {
        library().secrets.lock().unwrap().get(label).cloned()
    }

    /// Lets both ends finish.
    pub fn finish(mut self) {
        for _ in 0..2 {
            self.exchange();
            self.pass(0.2);
        }
        for end in &mut self.ends {
            end.call("close", (0u32, PyBytes::new(end.core.py(), b"")));
            end.transmit(self.now);
            end.call("release", ());
        }
    }
}

/// Runs a target in the interpreter.
pub fn run(target: impl FnOnce(Python<'_>)) {
    library();
    Python::attach(target);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Keys;

    #[test]
    fn sealed_packets_are_accepted() {
        run(|py| {
            let mut pair = Pair::new(py, Phase::Proved);
            let keys = Keys::new(&pair.secret("CLIENT_TRAFFIC_SECRET_0").unwrap());
            let data = keys.short(&pair.ends[LISTENER].ids()[0], 100, &[0x08, 0, 1, 2, 3]);
            let now = pair.now;
            pair.ends[LISTENER].receive(&data, data.len(), now);
            pair.ends[LISTENER].transmit(now);
            assert_eq!(pair.ends[LISTENER].drain(), 3);

            let mut pair = Pair::new(py, Phase::Answered);
            let keys = Keys::initial(&pair.original, true);
            let ids = [pair.ends[LISTENER].ids(), pair.ends[DIALER].ids()];
            let data = keys.long(0, &ids[0][0], &ids[1][0], 100, &[0x1e; 1150]);
            pair.ends[LISTENER].receive(&data, data.len(), now);
            let closed: Option<(bool, bool, bool, u64, String, bool)> =
                pair.ends[LISTENER].get("closed");
            assert!(closed.is_some());
        });
    }
}
