//! qlog files, written by Python (draft-ietf-quic-qlog-main-schema).

use std::io::{self, Write};

use pyo3::prelude::*;
use quinn_proto::{QlogConfig, QlogStream};

/// Passes records on to a Python callable, except the first one: Python has written a header that
/// names the connection.
struct Records {
    write: Py<PyAny>,
    pending: Vec<u8>,
    has_header: bool,
}

impl Write for Records {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(data);
        if self.pending.ends_with(b"\n") {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let record = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        if record.is_empty() || !std::mem::replace(&mut self.has_header, true) {
            return Ok(());
        }
        Python::attach(|py| {
            if let Err(error) = self.write.call1(py, (record,)) {
                error.write_unraisable(py, None);
            }
        });
        Ok(())
    }
}

/// A stream of records that go to `write`.
pub fn stream(write: Py<PyAny>, now: std::time::Instant) -> Option<QlogStream> {
    let records = Records { write, pending: Vec::new(), has_header: false };
    let mut config = QlogConfig::default();
    config.writer(Box::new(records)).start_time(now);
    config.into_stream()
}
