//! What the packets hold that leave and arrive: quinn-proto does not report how much stream data has
//! left, nor whether an acknowledgement is due, and does not limit the number of frames. So packets are
//! read before they are encrypted and after they are decrypted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use quinn_proto::crypto::{CryptoError, PacketKey};

use crate::frames::{Frame, Frames};

/// Limits on the frames of a peer (see `quicdist.limits.ConnectionBounds`).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_frames: u64,
    pub bytes_per_frame: u64,
    pub max_frames_unproved: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_frames: 64, bytes_per_frame: 8, max_frames_unproved: u64::MAX }
    }
}

/// What is known of the packets of one connection.
#[derive(Default)]
pub struct Sent {
    /// Where the data of each stream ends that has left at least once.
    ends: HashMap<u64, u64>,
    total: u64,
    /// Whether a packet since `take_eliciting` wants an acknowledgement; None if there was none.
    eliciting: Option<bool>,
    owes_ack: bool,
    /// Packets that have left since the last one with stream data.
    since_data: u64,
    /// Numbers and sizes of the 1-RTT packets since `take_departed` that want an acknowledgement.
    departed: Vec<(u64, usize)>,
    /// Ranges in the ACK frames of 1-RTT packets since `take_acks`, both ends included.
    acks: Vec<(u64, u64)>,
    /// The largest count of CE marks in them, and that at the last `take_marks`.
    marks: u64,
    marks_taken: u64,
    bounds: Bounds,
    is_proved: bool,
    /// Weight of the frames that have arrived.
    weight: u64,
    has_too_many: bool,
}

pub type SharedSent = Arc<Mutex<Sent>>;

impl Sent {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Bytes over all streams.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Counts all data of a stream up to `end` as sent: what was not sent never will be.
    pub fn set(&mut self, stream: u64, end: u64) {
        let known = self.ends.entry(stream).or_default();
        if end > *known {
            self.total += end - *known;
            *known = end;
        }
    }

    /// Whether the 1-RTT packets since the last call want an acknowledgement; None if there were
    /// none.
    pub fn take_eliciting(&mut self) -> Option<bool> {
        self.eliciting.take()
    }

    /// Drops what is known of a path MTU probe, which is not reported to congestion control.
    pub fn forget_departed(&mut self) {
        self.eliciting = None;
        self.departed.clear();
    }

    pub fn take_departed(&mut self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.departed)
    }

    pub fn take_acks(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.acks)
    }

    /// The number of packets that the peer has reported with CE since the last call.
    pub fn take_marks(&mut self) -> u64 {
        let marks = self.marks - self.marks_taken;
        self.marks_taken = self.marks;
        marks
    }

    /// Whether an ack-eliciting packet has arrived and none has left since.
    pub fn owes_ack(&self) -> bool {
        self.owes_ack
    }

    /// Packets that have left since the last one with stream data.
    pub fn since_data(&self) -> u64 {
        self.since_data
    }

    /// The peer has proved the cookie: the limit for all packets together ends.
    pub fn prove(&mut self) {
        self.is_proved = true;
    }

    /// Whether a packet had too many frames. It was not processed.
    pub fn has_too_many(&self) -> bool {
        self.has_too_many
    }

    /// `size` is that of the whole packet `number`.
    fn read_departing(&mut self, packet: &[u8], number: u64, size: usize) {
        self.owes_ack = false; // quinn-proto adds an ACK frame to every packet
        let mut is_eliciting = false;
        self.since_data += 1;
        for frame in Frames(packet) {
            is_eliciting |= frame.is_eliciting();
            if let Frame::Stream { stream, end } = frame {
                self.set(stream, end);
                self.since_data = 0;
            }
        }
        self.eliciting = Some(self.eliciting.unwrap_or(false) || is_eliciting);
        if is_eliciting {
            self.departed.push((number, size));
        }
    }

    /// Returns how many bytes are left without the PADDING frames at the end.
    fn read_arrived(&mut self, packet: &[u8], is_one_rtt: bool) -> Result<usize, CryptoError> {
        let mut most = self.bounds.max_frames;
        if self.is_proved {
            most += packet.len() as u64 / self.bounds.bytes_per_frame.max(1);
        } else {
            most = most.min(self.bounds.max_frames_unproved.saturating_sub(self.weight));
        }
        let mut weight = 0;
        let (mut at, mut end) = (0, packet.len());
        let mut frames = Frames(packet);
        while let Some(frame) = frames.next() {
            if frame == Frame::Padding && frames.0.is_empty() {
                end = at.max(1); // a packet without frames is an error
            }
            at = packet.len() - frames.0.len();
            weight += frame.weight();
            self.owes_ack |= is_one_rtt && frame.is_eliciting();
            if let Frame::Ack(ack) = frame
                && is_one_rtt
            {
                self.acks.extend(ack.ranges());
                self.marks = self.marks.max(ack.ce);
            }
            if weight > most {
                self.has_too_many = true;
                return Err(CryptoError);
            }
        }
        self.weight = self.weight.saturating_add(weight);
        Ok(end)
    }
}

/// A packet key that reads the packets.
pub struct Watching {
    pub key: Box<dyn PacketKey>,
    pub sent: SharedSent,
    pub is_one_rtt: bool,
}

impl PacketKey for Watching {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.key.tag_len();
        self.sent.lock().unwrap().read_departing(&buf[header_len..end], packet, buf.len());
        self.key.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.key.decrypt(packet, header, payload)?;
        // quinn-proto takes each byte of padding as a frame: 16 KB of an MTU probe take 90 us.
        let end = self.sent.lock().unwrap().read_arrived(payload, self.is_one_rtt)?;
        payload.truncate(end);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.key.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key.integrity_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retransmission_counts_once() {
        let mut sent = Sent::default();
        sent.read_departing(&[0x08, 0, 1, 2, 3], 7, 30);
        sent.read_departing(&[0x08, 0, 1, 2, 3], 8, 30);
        assert_eq!((sent.total(), sent.take_eliciting()), (3, Some(true)));
        assert_eq!(sent.take_eliciting(), None);
        assert_eq!(sent.take_departed(), [(7, 30), (8, 30)]);
    }

    #[test]
    fn an_ack_alone_wants_no_acknowledgement() {
        let ack = [0x02, 5, 0, 1, 0, 0, 2, 0, 0];
        let mut sent = Sent::default();
        sent.read_arrived(&ack, true).unwrap();
        assert!(!sent.owes_ack());
        sent.read_arrived(&[&ack[..], &[0x01]].concat(), true).unwrap();
        assert!(sent.owes_ack());
        sent.read_departing(&ack, 9, 30);
        assert_eq!(sent.take_departed(), []);
        assert_eq!(sent.take_acks(), [(5, 5), (1, 3), (5, 5), (1, 3)]);
        assert!(!sent.owes_ack());
        assert_eq!(sent.take_eliciting(), Some(false));
    }

    #[test]
    fn packets_without_data_are_counted_from_the_last_one_with_data() {
        let mut sent = Sent::default();
        let cases: [(&[u8], u64); 4] = [(&[0x08, 0, 1], 0), (&[1], 1), (&[1], 2), (&[0x08, 4], 0)];
        for (packet, count) in cases {
            sent.read_departing(packet, 7, 30);
            assert_eq!(sent.since_data(), count);
        }
    }

    #[test]
    fn padding_at_the_end_is_not_read_again() {
        let cases: [(&[u8], usize); 6] = [
            (&[1, 0, 0, 0], 1),
            (&[0, 0, 1], 3),
            (&[0, 0, 0], 1),
            (&[0, 0, 1, 0], 3),
            (&[0x08, 0, 1, 0, 0], 5), // data to the end
            (&[1, 0, 0, 0x02], 4),    // truncated
        ];
        for (packet, left) in cases {
            assert_eq!(Sent::default().read_arrived(packet, true).unwrap(), left, "{packet:?}");
        }
    }

    #[test]
    fn marks_count_once_and_never_backwards() {
        let mut sent = Sent::default();
        for (ce, new) in [(3, 3), (3, 0), (1, 0), (4, 1)] {
            sent.read_arrived(&[0x03, 5, 0, 0, 0, 1, 0, ce], true).unwrap();
            assert_eq!(sent.take_marks(), new);
        }
    }

    #[test]
    fn frames_are_limited_for_each_packet_and_before_the_proof_in_all() {
        let bounds = Bounds { max_frames: 4, bytes_per_frame: 8, max_frames_unproved: 6 };
        let mut sent = Sent::new(bounds);
        sent.read_arrived(&[1; 4], true).unwrap();
        assert!(sent.read_arrived(&[1; 3], true).is_err());
        assert!(sent.has_too_many());
        let mut sent = Sent::new(bounds);
        sent.prove();
        for _ in 0..10 {
            sent.read_arrived(&[1; 4], true).unwrap();
        }
        assert!(sent.read_arrived(&[1; 5], true).is_err());
    }
}
