//! What the 1-RTT packets hold that leave and arrive: quinn-proto does not report how much stream data
//! has left, nor whether an acknowledgement is due. So packets are read before they are encrypted and
//! after they are decrypted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use quinn_proto::crypto::{CryptoError, PacketKey};

/// Where the data of each stream ends that has left at least once.
#[derive(Default)]
pub struct Sent {
    ends: HashMap<u64, u64>,
    total: u64,
    /// Whether a packet since `take_eliciting` wants an acknowledgement; None if there was none.
    eliciting: Option<bool>,
    owes_ack: bool,
}

pub type SharedSent = Arc<Mutex<Sent>>;

impl Sent {
    /// Bytes over all streams.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn of(&self, stream: u64) -> u64 {
        self.ends.get(&stream).copied().unwrap_or(0)
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

    /// Whether an ack-eliciting packet has arrived and none has left since.
    pub fn owes_ack(&self) -> bool {
        self.owes_ack
    }

    /// Reads the frames of a packet that has arrived.
    fn read_arrived(&mut self, frames: &[u8]) {
        self.owes_ack |= is_eliciting(frames);
    }

    /// Reads the frames of a packet that leaves (RFC 9000, 19).
    fn read(&mut self, mut frames: &[u8]) {
        self.owes_ack = false; // quinn-proto adds an ACK frame to every packet
        self.eliciting.get_or_insert(false);
        while frames.has_remaining() {
            if self.read_frame(&mut frames).is_none() {
                return;
            }
        }
    }

    fn read_frame(&mut self, frames: &mut &[u8]) -> Option<()> {
        let kind = varint(frames)?;
        if !matches!(kind, 0x00 | 0x02 | 0x03 | 0x1c | 0x1d) {
            self.eliciting = Some(true);
        }
        match kind {
            0x00 => {
                // Padding fills the rest of a packet or precedes frames.
                let zeros = frames.iter().take_while(|byte| **byte == 0).count();
                frames.advance(zeros);
            }
            0x01 | 0x1e | 0x1f => {}
            0x02 | 0x03 => read_ack(frames, kind == 0x03)?,
            0x04 => skip_varints(frames, 3)?,
            0x05 | 0x11 | 0x15 => skip_varints(frames, 2)?,
            0x06 => {
                skip_varints(frames, 1)?;
                skip_data(frames)?;
            }
            0x07 | 0x31 => skip_data(frames)?,
            0x08..=0x0f => self.read_stream(frames, kind)?,
            0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => skip_varints(frames, 1)?,
            0x18 => {
                skip_varints(frames, 2)?;
                let length = usize::from(*frames.first()?);
                skip(frames, 1 + length + 16)?;
            }
            0x1a | 0x1b => skip(frames, 8)?,
            0xaf => skip_varints(frames, 4)?,
            _ => return None,
        }
        Some(())
    }

    fn read_stream(&mut self, frames: &mut &[u8], kind: u64) -> Option<()> {
        let stream = varint(frames)?;
        let offset = if kind & 0x04 != 0 { varint(frames)? } else { 0 };
        let length = if kind & 0x02 != 0 { varint(frames)? } else { frames.remaining() as u64 };
        skip(frames, usize::try_from(length).ok()?)?;
        self.set(stream, offset + length);
        Some(())
    }
}

/// Whether a packet wants an acknowledgement: it has other frames than PADDING and leading ACKs.
fn is_eliciting(mut frames: &[u8]) -> bool {
    while let Some(kind) = frames.first() {
        match kind {
            0x00 => frames.advance(1),
            0x02 | 0x03 => {
                let has_ecn = *kind == 0x03;
                frames.advance(1);
                if read_ack(&mut frames, has_ecn).is_none() {
                    return true;
                }
            }
            _ => return true,
        }
    }
    false
}

fn read_ack(frames: &mut &[u8], has_ecn: bool) -> Option<()> {
    skip_varints(frames, 2)?;
    let ranges = varint(frames)?;
    skip_varints(frames, 1 + 2 * ranges)?;
    if has_ecn { skip_varints(frames, 3) } else { Some(()) }
}

fn varint(frames: &mut &[u8]) -> Option<u64> {
    let first = *frames.first()?;
    let length = 1 << (first >> 6);
    let bytes = frames.get(..length)?;
    let value = bytes[1..]
        .iter()
        .fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    frames.advance(length);
    Some(value)
}

fn skip_varints(frames: &mut &[u8], count: u64) -> Option<()> {
    for _ in 0..count {
        varint(frames)?;
    }
    Some(())
}

fn skip_data(frames: &mut &[u8]) -> Option<()> {
    let length = varint(frames)?;
    skip(frames, usize::try_from(length).ok()?)
}

fn skip(frames: &mut &[u8], length: usize) -> Option<()> {
    frames.get(..length)?;
    frames.advance(length);
    Some(())
}

/// A 1-RTT packet key that reads the packets.
pub struct Watching {
    pub key: Box<dyn PacketKey>,
    pub sent: SharedSent,
}

impl PacketKey for Watching {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.key.tag_len();
        self.sent.lock().unwrap().read(&buf[header_len..end]);
        self.key.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.key.decrypt(packet, header, payload)?;
        self.sent.lock().unwrap().read_arrived(payload);
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
    fn stream_frames_after_other_frames_are_found() {
        let mut sent = Sent::default();
        let mut frames = vec![0x02, 5, 0, 1, 0, 0, 2]; // ACK with two ranges
        frames.extend([0x10, 0x44, 0x00, 0x18, 1, 0, 8]); // MAX_DATA, NEW_CONNECTION_ID
        frames.extend([9; 24]);
        frames.extend([0x0e, 4, 3, 2, 0xaa, 0xbb]); // stream 4: offset 3, length 2
        frames.extend([0x08, 0, 1, 2, 3]); // stream 0 to the end
        sent.read(&frames);
        assert_eq!((sent.of(4), sent.of(0), sent.total()), (5, 3, 8));
    }

    #[test]
    fn an_ack_alone_wants_no_acknowledgement() {
        let ack = [0x02, 5, 0, 1, 0, 0, 2, 0, 0];
        assert!(!is_eliciting(&ack));
        assert!(is_eliciting(&[&ack[..], &[0x01]].concat()));
        let mut sent = Sent::default();
        sent.read_arrived(&ack);
        assert!(!sent.owes_ack());
        sent.read_arrived(&[0x01]);
        assert!(sent.owes_ack());
        sent.read(&ack);
        assert!(!sent.owes_ack());
    }

    #[test]
    fn a_retransmission_counts_once() {
        let mut sent = Sent::default();
        sent.read(&[0x08, 0, 1, 2, 3]);
        sent.read(&[0x08, 0, 1, 2, 3]);
        assert_eq!(sent.total(), 3);
    }

    #[test]
    fn a_truncated_or_unknown_frame_ends_the_packet() {
        for frames in [&[0x0e, 4][..], &[0x0a, 0, 60, 1], &[0x02, 1], &[0x40], &[0x3f, 0]] {
            let mut sent = Sent::default();
            sent.read(frames);
            assert_eq!(sent.total(), 0, "{frames:?}");
        }
    }
}
