//! Reads the frames of a decrypted packet (RFC 9000, 19).

use bytes::Buf;

/// An ACK frame (RFC 9000, 19.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    largest: u64,
    /// Ranges after the first one.
    pub others: u64,
    ranges: &'a [u8],
    /// The ECN-CE count; 0 without ECN counts.
    pub ce: u64,
}

impl Ack<'_> {
    /// The ranges of packet numbers in descending order, both ends included, up to an invalid one.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut fields = self.ranges;
        let mut next = Some(self.largest);
        std::iter::from_fn(move || {
            let last = next?;
            let first = last.checked_sub(varint(&mut fields)?)?;
            next = varint(&mut fields).and_then(|gap| first.checked_sub(gap.checked_add(2)?));
            Some((first, last))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// PADDING frames in a row.
    Padding,
    Ack(Ack<'a>),
    Stream {
        stream: u64,
        end: u64,
    },
    Close,
    /// Any other frame, by its type.
    Other(u64),
}

impl Frame<'_> {
    /// Whether it wants an acknowledgement (RFC 9000, 13.2).
    pub fn is_eliciting(&self) -> bool {
        !matches!(self, Self::Padding | Self::Ack(_) | Self::Close)
    }

    /// The relative cost of processing it, including the response.
    pub fn weight(&self) -> u64 {
        match self {
            Self::Ack(ack) => 4 + ack.others / 4,
            Self::Stream { .. } | Self::Other(0x05 | 0x06) => 2,
            Self::Other(0x18 | 0x19) => 4,
            Self::Other(0x1a) => 8,
            Self::Padding | Self::Close | Self::Other(_) => 1,
        }
    }
}

/// Iterates over the frames of a packet, up to one that is truncated or unknown.
pub struct Frames<'a>(pub &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
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

fn read_stream<'a>(frames: &mut &'a [u8], kind: u64) -> Option<Frame<'a>> {
    let stream = varint(frames)?;
    let offset = if kind & 0x04 != 0 { varint(frames)? } else { 0 };
    let length = if kind & 0x02 != 0 { varint(frames)? } else { frames.remaining() as u64 };
    skip(frames, usize::try_from(length).ok()?)?;
    Some(Frame::Stream { stream, end: offset + length })
}

fn read_ack<'a>(frames: &mut &'a [u8], has_ecn: bool) -> Option<Frame<'a>> {
    let largest = varint(frames)?;
    skip_varints(frames, 1)?;
    let others = varint(frames)?;
    let start = *frames;
    skip_varints(frames, 1 + 2 * others)?;
    let ranges = &start[..start.len() - frames.len()];
    let mut ce = 0;
    if has_ecn {
        skip_varints(frames, 2)?;
        ce = varint(frames)?;
    }
    Some(Frame::Ack(Ack { largest, others, ranges, ce }))
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
                Frame::Ack(Ack { largest: 5, others: 1, ranges: &[0, 0, 2], ce: 0 }),
                Frame::Other(0x10),
                Frame::Other(0x18),
                Frame::Padding,
                Frame::Stream { stream: 4, end: 5 },
                Frame::Stream { stream: 0, end: 3 },
            ]
        );
    }

    #[test]
    fn ranges_are_read_up_to_an_invalid_one() {
        let ranges = |packet: &[u8]| match Frames(packet).next() {
            Some(Frame::Ack(ack)) => (ack.ranges().collect::<Vec<_>>(), ack.ce),
            other => panic!("{other:?}"),
        };
        assert_eq!(ranges(&[0x02, 20, 0, 1, 3, 4, 2]), (vec![(17, 20), (9, 11)], 0));
        assert_eq!(ranges(&[0x03, 20, 0, 0, 20, 7, 8, 9]), (vec![(0, 20)], 9));
        assert_eq!(ranges(&[0x02, 20, 0, 2, 3, 4, 2, 8, 0]), (vec![(17, 20), (9, 11)], 0));
        assert_eq!(ranges(&[0x02, 20, 0, 0, 21]), (vec![], 0));
    }

    #[test]
    fn a_truncated_or_unknown_frame_ends_the_packet() {
        for packet in [&[0x0e, 4][..], &[0x0a, 0, 60, 1], &[0x02, 1], &[0x40], &[0x3f, 0]] {
            assert_eq!(Frames(packet).count(), 0, "{packet:?}");
        }
    }
}
