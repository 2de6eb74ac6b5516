//! Reads the frames of a decrypted packet (RFC 9000, 19).

use bytes::Buf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// PADDING frames in a row.
    Padding,
    Ack {
        ranges: u64,
    },
    Stream {
        stream: u64,
        end: u64,
    },
    Close,
    /// Any other frame, by its type.
    Other(u64),
}

impl Frame {
    /// Whether it wants an acknowledgement (RFC 9000, 13.2).
    pub fn is_eliciting(&self) -> bool {
        !matches!(self, Self::Padding | Self::Ack { .. } | Self::Close)
    }

    /// The relative cost of processing it, including the response.
    pub fn weight(&self) -> u64 {
        match self {
            Self::Ack { ranges } => 4 + ranges / 4,
            Self::Stream { .. } | Self::Other(0x05 | 0x06) => 2,
            Self::Other(0x18 | 0x19) => 4,
            Self::Other(0x1a) => 8,
            Self::Padding | Self::Close | Self::Other(_) => 1,
        }
    }
}

/// Iterates over the frames of a packet, up to one that is truncated or unknown.
pub struct Frames<'a>(pub &'a [u8]);

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let frames = &mut self.0;
        let kind = varint(frames)?;
        Some(match kind {
            0x00 => {
                let zeros = frames.iter().take_while(|byte| **byte == 0).count();
                frames.advance(zeros);
                Frame::Padding
            }
            0x02 | 0x03 => read_ack(frames, kind == 0x03)?,
            0x08..=0x0f => read_stream(frames, kind)?,
            0x1c | 0x1d => {
                skip_varints(frames, if kind == 0x1c { 2 } else { 1 })?;
                skip_data(frames)?;
                Frame::Close
            }
            _ => {
                skip_other(frames, kind)?;
                Frame::Other(kind)
            }
        })
    }
}

fn skip_other(frames: &mut &[u8], kind: u64) -> Option<()> {
    match kind {
        0x01 | 0x1e | 0x1f => Some(()),
        0x04 => skip_varints(frames, 3),
        0x05 | 0x11 | 0x15 => skip_varints(frames, 2),
        0x06 => {
            skip_varints(frames, 1)?;
            skip_data(frames)
        }
        0x07 | 0x31 => skip_data(frames),
        0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => skip_varints(frames, 1),
        0x18 => {
            skip_varints(frames, 2)?;
            let length = usize::from(*frames.first()?);
            skip(frames, 1 + length + 16)
        }
        0x1a | 0x1b => skip(frames, 8),
        0xaf => skip_varints(frames, 4),
        _ => None,
    }
}

fn read_stream(frames: &mut &[u8], kind: u64) -> Option<Frame> {
    let stream = varint(frames)?;
    let offset = if kind & 0x04 != 0 { varint(frames)? } else { 0 };
    let length = if kind & 0x02 != 0 { varint(frames)? } else { frames.remaining() as u64 };
    skip(frames, usize::try_from(length).ok()?)?;
    Some(Frame::Stream { stream, end: offset + length })
}

fn read_ack(frames: &mut &[u8], has_ecn: bool) -> Option<Frame> {
    skip_varints(frames, 2)?;
    let ranges = varint(frames)?;
    skip_varints(frames, 1 + 2 * ranges)?;
    if has_ecn {
        skip_varints(frames, 3)?;
    }
    Some(Frame::Ack { ranges })
}

fn varint(frames: &mut &[u8]) -> Option<u64> {
    let first = *frames.first()?;
    let (bytes, rest) = frames.split_at_checked(1 << (first >> 6))?;
    *frames = rest;
    let start = u64::from(first & 0x3f);
    Some(bytes[1..].iter().fold(start, |value, byte| value << 8 | u64::from(*byte)))
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
    *frames = frames.split_at_checked(length)?.1;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other() {
        let mut packet = vec![0x02, 5, 0, 1, 0, 0, 2]; // ACK with two ranges
        packet.extend([0x10, 0x44, 0x00, 0x18, 1, 0, 8]); // MAX_DATA, NEW_CONNECTION_ID
        packet.extend([9; 24]);
        packet.extend([0, 0, 0, 0x0e, 4, 3, 2, 0xaa, 0xbb]); // stream 4: offset 3, length 2
        packet.extend([0x08, 0, 1, 2, 3]); // stream 0 to the end
        let frames: Vec<Frame> = Frames(&packet).collect();
        assert_eq!(
            frames,
            [
                Frame::Ack { ranges: 1 },
                Frame::Other(0x10),
                Frame::Other(0x18),
                Frame::Padding,
                Frame::Stream { stream: 4, end: 5 },
                Frame::Stream { stream: 0, end: 3 },
            ]
        );
    }

    #[test]
    fn a_truncated_or_unknown_frame_ends_the_packet() {
        for packet in [&[0x0e, 4][..], &[0x0a, 0, 60, 1], &[0x02, 1], &[0x40], &[0x3f, 0]] {
            assert_eq!(Frames(packet).count(), 0, "{packet:?}");
        }
    }
}
