//! Frames that are valid, or nearly.

use arbitrary::Arbitrary;

#[derive(Clone, Debug, Arbitrary)]
pub enum Number {
    Small(u8),
    Medium(u16),
    /// So many below the largest integer.
    Large(u8),
}

#[derive(Clone, Debug, Arbitrary)]
pub enum Frame {
    Fields { kind: u8, numbers: Vec<Number>, data: Vec<u8> },
    Raw(Vec<u8>),
}

/// Types of RFC 9000, 19, DATAGRAM (RFC 9221), the ACK frequency extension, and one unknown type.
const OTHERS: [u64; 5] = [0x30, 0x31, 0xaf, 0x1f, 0x1234];
const MOST: usize = 1100;

/// The bytes of the frames, cut to what fits a datagram.
pub fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut payload = Vec::new();
    for frame in frames {
        match frame {
            Frame::Raw(data) => payload.extend_from_slice(data),
            Frame::Fields { kind, numbers, data } => {
                let kind = usize::from(*kind) % (0x20 + OTHERS.len());
                push(
                    &mut payload,
                    OTHERS.get(kind.wrapping_sub(0x20)).copied().unwrap_or(kind as u64),
                );
                for number in numbers.iter().take(8) {
                    push(&mut payload, number.value());
                }
                payload.extend_from_slice(data);
            }
        }
    }
    payload.truncate(MOST);
    payload.resize(payload.len().max(4), 0);
    payload
}

impl Number {
    pub fn value(&self) -> u64 {
        match self {
            Self::Small(value) => u64::from(*value),
            Self::Medium(value) => u64::from(*value),
            Self::Large(below) => (1 << 62) - 1 - u64::from(*below),
        }
    }
}

/// Adds a variable-length integer (RFC 9000, 16).
fn push(target: &mut Vec<u8>, value: u64) {
    match value {
        0..0x40 => target.push(value as u8),
        0x40..0x4000 => target.extend((value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => target.extend((value as u32 | 0x8000_0000).to_be_bytes()),
        _ => target.extend((value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}
