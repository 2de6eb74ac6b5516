//! Stream data that has arrived, and the credit of the peer (RFC 9000, 4.1).
//!
//! quinn-proto lets the peer send what was read. Here it may send what Python has consumed. So the
//! window of quinn-proto is almost closed, and `grant` raises the limit: enlarging the window does
//! that, and shrinking it again makes the next reads raise nothing, up to the same number of bytes.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use quinn_proto::{Connection, ReadError, VarInt};

use crate::outgoing::stream_id;

/// The window of quinn-proto. An empty one would announce a limit on each read.
const OPEN: u64 = 8;

/// What happened on a stream.
pub enum Arrival {
    Data(u64, Vec<Bytes>),
    Ended(u64, String),
}

pub struct Incoming {
    /// Bytes read in order, those of rejected streams included.
    received: u64,
    /// What `received` may become.
    limit: u64,
    /// Streams that the peer has opened.
    opened: u64,
    readable: VecDeque<u64>,
    /// Readable streams, while the limit is reached.
    held: Vec<u64>,
    refused: HashSet<u64>,
}

impl Incoming {
    /// `window` is the limit that the peer has learned from the transport parameters.
    pub fn new(window: u64) -> Self {
        Self {
            received: 0,
            limit: window,
            opened: 0,
            readable: VecDeque::new(),
            held: Vec::new(),
            refused: HashSet::new(),
        }
    }

    pub fn begin(connection: &mut Connection) {
        connection.set_receive_window(size(OPEN));
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn is_refused(&self, stream: u64) -> bool {
        self.refused.contains(&stream)
    }

    pub fn has_readable(&self) -> bool {
        !self.readable.is_empty()
    }

    /// The peer has opened its next stream.
    pub fn opened(&mut self, stream: u64) {
        self.opened += 1;
        self.readable(stream);
    }

    /// Whether the peer has opened one of its streams.
    pub fn has_opened(&self, stream: u64) -> bool {
        stream >> 2 < self.opened
    }

    pub fn readable(&mut self, stream: u64) {
        self.readable.push_back(stream);
    }

    /// Returns false if the stream was refused before.
    pub fn refuse(&mut self, stream: u64) -> bool {
        self.refused.insert(stream)
    }

    pub fn grant(&mut self, connection: &mut Connection, credit: u64) {
        let limit = self.received + credit;
        if limit <= self.limit {
            return;
        }
        let more = limit - self.limit;
        self.limit = limit;
        self.readable.extend(self.held.drain(..));
        connection.set_receive_window(size(more + OPEN));
        connection.set_receive_window(size(OPEN));
    }

    /// Reads what has arrived, within the limit.
    pub fn read(&mut self, connection: &mut Connection) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut seen = HashSet::new();
        while let Some(stream) = self.readable.pop_front() {
            if seen.insert(stream) {
                self.read_stream(connection, stream, &mut arrivals);
            }
        }
        arrivals
    }

    fn read_stream(
        &mut self,
        connection: &mut Connection,
        stream: u64,
        arrivals: &mut Vec<Arrival>,
    ) {
        let mut room = self.limit.saturating_sub(self.received) as usize;
        if room == 0 {
            self.held.push(stream);
            return;
        }
        let mut found = Vec::new();
        let mut ended = None;
        let mut receive = connection.recv_stream(stream_id(stream));
        let Ok(mut chunks) = receive.read(true) else { return };
        while ended.is_none() {
            match chunks.next(room) {
                Ok(Some(chunk)) => {
                    room -= chunk.bytes.len();
                    self.received += chunk.bytes.len() as u64;
                    found.push(chunk.bytes);
                }
                Ok(None) => ended = Some("finished".to_owned()),
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => ended = Some(format!("reset ({code})")),
            }
            if room == 0 && ended.is_none() {
                self.held.push(stream);
                break;
            }
        }
        let _ = chunks.finalize();
        if self.refused.contains(&stream) {
            return;
        }
        if !found.is_empty() {
            arrivals.push(Arrival::Data(stream, found));
        }
        if let Some(how) = ended {
            arrivals.push(Arrival::Ended(stream, how));
        }
    }
}

fn size(bytes: u64) -> VarInt {
    VarInt::from_u64(bytes).unwrap_or(VarInt::MAX)
}
