//! How a connection ended.

use quinn_proto::ConnectionError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub by_peer: bool,
    pub is_idle: bool,
    /// An application close; otherwise a transport or TLS error (RFC 9000, 19.19).
    pub is_application: bool,
    pub code: u64,
    pub reason: String,
    /// The peer has exceeded the limit on frames.
    pub exceeds_frames: bool,
}

impl Ending {
    fn transport(by_peer: bool, code: u64, reason: String) -> Self {
        Self { by_peer, is_idle: false, is_application: false, code, reason, exceeds_frames: false }
    }
}

const PROTOCOL_VIOLATION: u64 = 0x0a;

impl Ending {
    pub fn violation(reason: &str) -> Self {
        Self::transport(false, PROTOCOL_VIOLATION, reason.into())
    }

    pub fn too_many_frames() -> Self {
        Self { exceeds_frames: true, ..Self::violation("too many frames") }
    }
}

impl From<ConnectionError> for Ending {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self {
                is_application: true,
                ..Self::transport(true, close.error_code.into_inner(), text(&close.reason))
            },
            ConnectionError::ConnectionClosed(close) => {
                Self::transport(true, close.error_code.into(), text(&close.reason))
            }
            ConnectionError::TransportError(error) => {
                Self::transport(false, error.code.into(), error.reason)
            }
            ConnectionError::Reset => Self::transport(true, 0, "stateless reset".into()),
            ConnectionError::TimedOut => {
                Self { is_idle: true, ..Self::transport(false, 0, "Idle timeout".into()) }
            }
            ConnectionError::LocallyClosed => {
                Self { is_application: true, ..Self::transport(false, 0, "closed".into()) }
            }
            ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
                Self::transport(false, 0, error.to_string())
            }
        }
    }
}

fn text(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason).into_owned()
}
