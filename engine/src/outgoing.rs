//! Stream data on its way out. It is handed to quinn-proto when it can leave soon, so that what is
//! written later to another stream does not wait behind it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quinn_proto::{Connection, Dir, Side, StreamId, VarInt, WriteError};

use crate::part::Part;
use crate::sent::SharedSent;

/// Data is known to be acknowledged in pieces of at most this size.
const PIECE: usize = 16 * 1024;

/// As many later packets reveal a loss (RFC 9002, 6.1.1), which is quinn-proto's default.
const PACKET_THRESHOLD: u64 = 3;

/// Smaller parts are copied together.
const COPIED: usize = 4 * 1024;

pub fn stream_id(stream: u64) -> StreamId {
    VarInt::from_u64(stream).unwrap_or(VarInt::MAX).into()
}

/// Whether this is the ID of a bidirectional stream (RFC 9000, 2.1). There are no others here.
pub fn is_bidirectional(stream: u64) -> bool {
    stream & 0x02 == 0 && stream <= VarInt::MAX.into_inner()
}

/// Whether this end opens the stream.
pub fn is_local(connection: &Connection, stream: u64) -> bool {
    (stream & 1 == 0) == (connection.side() == Side::Client)
}

/// Counts its bytes when quinn-proto drops it: the peer has acknowledged them, or the stream was
/// reset.
struct Counted<T> {
    data: T,
    size: u64,
    acknowledged: Arc<AtomicU64>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        self.acknowledged.fetch_add(self.size, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub struct Outgoing {
    queues: BTreeMap<u64, VecDeque<Bytes>>,
    /// Bytes in `queues`.
    queued: u64,
    /// Bytes handed over, by stream and in all.
    handed: BTreeMap<u64, u64>,
    handed_total: u64,
    written: u64,
    acknowledged: Arc<AtomicU64>,
    sent: SharedSent,
    /// Local streams that are open.
    opened: u64,
    /// The last attempt to hand over data met the end of the peer's credit.
    met_limit: bool,
}

impl Outgoing {
    pub fn new(sent: SharedSent) -> Self {
        Self { sent, ..Self::default() }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Bytes that have left at least once.
    pub fn sent(&self) -> u64 {
        self.written - self.queued - self.unsent()
    }

    /// Bytes that quinn-proto has and has not sent.
    fn unsent(&self) -> u64 {
        self.handed_total.saturating_sub(self.sent.lock().unwrap().total())
    }

    pub fn prove(&mut self) {
        self.sent.lock().unwrap().prove();
    }

    /// Whether the peer has sent too many frames.
    pub fn has_too_many_frames(&self) -> bool {
        self.sent.lock().unwrap().has_too_many()
    }

    /// Whether the peer waits for an acknowledgement.
    pub fn owes_ack(&self) -> bool {
        self.sent.lock().unwrap().owes_ack()
    }

    /// Whether data waits for the peer's credit and for nothing else (RFC 9000, 4.1).
    pub fn is_blocked(&self) -> bool {
        self.met_limit && self.queued > 0 && self.unsent() == 0
    }

    /// Whether the application or the peer's credit is the limit, and not the path.
    pub fn waits(&self) -> bool {
        self.is_empty() || self.is_blocked()
    }

    /// The congestion window or the pacer lets nothing leave, so the credit is not the limit.
    pub fn hold(&mut self) {
        self.met_limit = false;
    }

    /// Whether the last data is in flight, and so many packets without data have left since that the
    /// acknowledgement of the next one reveals its loss (RFC 9002, 6.1.1).
    pub fn has_tail(&self) -> bool {
        self.sent.lock().unwrap().since_data() == PACKET_THRESHOLD - 1
            && self.is_empty()
            && self.acknowledged() < self.written
    }

    /// Whether nothing waits to be sent for the first time.
    pub fn is_empty(&self) -> bool {
        self.queued == 0 && self.unsent() == 0
    }

    /// Queues data. `whole` makes it one piece.
    pub fn write(&mut self, stream: u64, parts: Vec<Part>, whole: bool) {
        let mut small = Vec::new();
        for part in parts {
            if part.len() < COPIED || whole {
                small.extend_from_slice(part.as_ref());
                if small.len() >= PIECE && !whole {
                    self.push(stream, std::mem::take(&mut small));
                }
                continue;
            }
            self.push(stream, std::mem::take(&mut small));
            for piece in part.pieces(PIECE) {
                self.push(stream, piece);
            }
        }
        self.push(stream, small);
    }

    fn push<T: AsRef<[u8]> + Send + 'static>(&mut self, stream: u64, data: T) {
        let size = data.as_ref().len() as u64;
        if size == 0 {
            return;
        }
        self.written += size;
        self.queued += size;
        let counted = Counted { data, size, acknowledged: self.acknowledged.clone() };
        self.queues.entry(stream).or_default().push_back(Bytes::from_owner(counted));
    }

    /// Hands over about `room` bytes less what quinn-proto still has; with `whole`, one piece, so
    /// that it does not share a frame with another.
    pub fn feed(&mut self, connection: &mut Connection, room: usize, whole: bool) {
        let mut room = (room as u64).saturating_sub(self.unsent());
        if self.queued == 0 || room == 0 {
            return;
        }
        self.met_limit = false;
        if whole {
            if self.unsent() == 0 {
                let first = self.queues.keys().next().copied();
                first.map(|stream| self.feed_stream(connection, stream, 1));
            }
            return;
        }
        let streams: Vec<u64> = self.queues.keys().copied().collect();
        let share = room / streams.len() as u64 + 1;
        for stream in streams {
            room = room.saturating_sub(self.feed_stream(connection, stream, share));
        }
        if room > 0 && self.queues.len() == 1 {
            let stream = *self.queues.keys().next().unwrap_or(&0);
            self.feed_stream(connection, stream, room);
        }
    }

    /// Hands over pieces of a stream until they are `most` bytes. Returns how many bytes it took.
    fn feed_stream(&mut self, connection: &mut Connection, stream: u64, most: u64) -> u64 {
        if !self.open(connection, stream) {
            return 0;
        }
        let Some(queue) = self.queues.get_mut(&stream) else { return 0 };
        let mut taken = 0;
        let mut has_ended = false;
        while taken < most && !queue.is_empty() {
            let mut send = connection.send_stream(stream_id(stream));
            match send.write_chunks(&mut queue.make_contiguous()[..1]) {
                Ok(written) => {
                    taken += written.bytes as u64;
                    if written.chunks > 0 {
                        queue.pop_front();
                    }
                }
                Err(WriteError::Blocked) => {
                    self.met_limit = true;
                    break;
                }
                Err(_) => {
                    has_ended = true;
                    break;
                }
            }
        }
        if queue.is_empty() {
            self.queues.remove(&stream);
        }
        self.queued -= taken;
        self.handed_total += taken;
        *self.handed.entry(stream).or_default() += taken;
        if has_ended {
            self.drop_stream(stream);
        }
        taken
    }

    /// Opens local streams up to this one. Returns false while the peer allows no more.
    fn open(&mut self, connection: &mut Connection, stream: u64) -> bool {
        while is_local(connection, stream) && self.opened <= stream >> 2 {
            if connection.streams().open(Dir::Bi).is_none() {
                return false;
            }
            self.opened += 1;
        }
        true
    }

    /// Forgets what a stream that has ended will not send.
    pub fn drop_stream(&mut self, stream: u64) {
        let queue = self.queues.remove(&stream).unwrap_or_default();
        self.queued -= queue.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let handed = self.handed.get(&stream).copied().unwrap_or(0);
        self.sent.lock().unwrap().set(stream, handed);
    }
}
