//! The TLS session of one connection, as quinn-proto calls it.

use std::any::Any;
use std::io::Cursor;

use quinn_proto::crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{Connection as Quic, ConnectionId, Side, TransportError, TransportErrorCode};
use ring::aead;
use rustls::quic::{Connection, KeyChange, Secrets, Version};

use super::{Chain, Watch, ask, initial_suite};
use crate::sent::{SharedSent, Watching};

/// What both sides have agreed on.
#[derive(Clone, Debug, Default)]
pub struct Negotiated {
    pub alpn: String,
    /// IANA name of the cipher suite; empty until it is known.
    pub cipher: String,
    /// The peer's idle timeout in milliseconds (RFC 9000, 18.2); None or 0 for no timeout.
    pub idle_timeout: Option<u64>,
}

/// Returns what is known so far of a connection's session.
pub fn negotiated(connection: &Quic) -> Negotiated {
    let data = connection.crypto_session().handshake_data();
    data.and_then(|data| data.downcast::<Negotiated>().ok()).map(|data| *data).unwrap_or_default()
}

pub struct Session {
    tls: Connection,
    watch: Watch,
    next_secrets: Option<Secrets>,
    is_told: bool,
}

impl Session {
    pub fn new(tls: Connection, watch: Watch) -> Self {
        Self { tls, watch, next_secrets: None, is_told: false }
    }

    fn side(&self) -> Side {
        match self.tls {
            Connection::Client(_) => Side::Client,
            Connection::Server(_) => Side::Server,
        }
    }

    fn error(&self, error: &rustls::Error) -> TransportError {
        match self.tls.alert() {
            Some(alert) => closing(alert.into(), error.to_string()),
            None => TransportErrorCode::PROTOCOL_VIOLATION.into(),
        }
    }

    fn chain(&self) -> Chain {
        let chain = self.tls.peer_certificates().unwrap_or_default();
        chain.iter().map(|each| each.clone().into_owned()).collect()
    }
}

fn closing(alert: u8, reason: String) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert), frame: None, reason }
}

impl crypto::Session for Session {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        initial_keys(id, side, &self.watch.sent)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let suite = self.tls.negotiated_cipher_suite();
        let cipher = suite.and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let parameters = self.tls.quic_transport_parameters();
        Some(Box::new(Negotiated {
            alpn: String::from_utf8_lossy(self.tls.alpn_protocol().unwrap_or_default()).into(),
            cipher: cipher.replacen("TLS13_", "TLS_", 1),
            idle_timeout: parameters.and_then(|parameters| parameter(parameters, 0x01)),
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        Some(Box::new(self.chain()))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        Some(false)
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.tls.read_hs(buf).map_err(|error| self.error(&error))?;
        if self.tls.is_handshaking() || self.is_told {
            return Ok(false);
        }
        self.is_told = true;
        if let Some(judge) = self.watch.judge.take()
            && let Some(alert) = ask(&judge, &self.chain())
        {
            return Err(closing(alert, String::new()));
        }
        Ok(true)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(encoded) = self.tls.quic_transport_parameters() else { return Ok(None) };
        Ok(Some(TransportParameters::read(self.side(), &mut Cursor::new(encoded))?))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match self.tls.write_hs(buf)? {
            KeyChange::Handshake { keys } => {
                let mut keys = convert(keys);
                keys.packet.remote = watched(keys.packet.remote, &self.watch.sent, false);
                Some(keys)
            }
            KeyChange::OneRtt { keys, next } => {
                self.next_secrets = Some(next);
                let mut keys = convert(keys);
                keys.packet.local = watched(keys.packet.local, &self.watch.sent, true);
                keys.packet.remote = watched(keys.packet.remote, &self.watch.sent, true);
                Some(keys)
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next_secrets.as_mut()?.next_packet_keys();
        Some(KeyPair {
            local: watched(Box::new(keys.local), &self.watch.sent, true),
            remote: watched(Box::new(keys.remote), &self.watch.sent, true),
        })
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let exported = self.tls.export_keying_material(output, label, Some(context));
        exported.map(|_| ()).map_err(|_| ExportKeyingMaterialError)
    }
}

fn watched(key: Box<dyn PacketKey>, sent: &SharedSent, is_one_rtt: bool) -> Box<dyn PacketKey> {
    Box::new(Watching { key, sent: sent.clone(), is_one_rtt })
}

pub fn initial_keys(id: &ConnectionId, side: Side, sent: &SharedSent) -> Keys {
    let side = match side {
        Side::Client => rustls::Side::Client,
        Side::Server => rustls::Side::Server,
    };
    let mut keys = convert(initial_suite().keys(id, side, Version::V1));
    keys.packet.remote = watched(keys.packet.remote, sent, false);
    keys
}

fn convert(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(keys.local.header),
            remote: Box::new(keys.remote.header),
        },
        packet: KeyPair {
            local: Box::new(keys.local.packet),
            remote: Box::new(keys.remote.packet),
        },
    }
}

/// Checks the Retry Integrity Tag (RFC 9001, 5.8).
fn is_valid_retry(id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
    const KEY: [u8; 16] = [
        0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8,
        0x4e,
    ];
    const NONCE: [u8; 12] =
        [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];
    let Some((token, tag)) = payload.split_last_chunk::<16>() else { return false };
    let mut pseudo = vec![id.len() as u8];
    for part in [&id[..], header, token] {
        pseudo.extend_from_slice(part);
    }
    let Ok(key) = aead::UnboundKey::new(&aead::AES_128_GCM, &KEY) else { return false };
    let nonce = aead::Nonce::assume_unique_for_key(NONCE);
    let mut tag = *tag;
    let key = aead::LessSafeKey::new(key);
    key.open_in_place(nonce, aead::Aad::from(pseudo), &mut tag).is_ok()
}

/// An integer among encoded transport parameters (RFC 9000, 18).
fn parameter(mut encoded: &[u8], wanted: u64) -> Option<u64> {
    while !encoded.is_empty() {
        let id = varint(&mut encoded)?;
        let length = usize::try_from(varint(&mut encoded)?).ok()?;
        let mut value = encoded.get(..length)?;
        if id == wanted {
            return varint(&mut value);
        }
        encoded = &encoded[length..];
    }
    None
}

fn varint(encoded: &mut &[u8]) -> Option<u64> {
    let first = *encoded.first()?;
    let (bytes, rest) = encoded.split_at_checked(1 << (first >> 6))?;
    *encoded = rest;
    let start = u64::from(first & 0x3f);
    Some(bytes[1..].iter().fold(start, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_parameter_is_found() {
        let encoded = [0x04, 0x02, 0x41, 0x00, 0x01, 0x04, 0x80, 0x00, 0x75, 0x30];
        assert_eq!(parameter(&encoded, 0x01), Some(30_000));
        assert_eq!(parameter(&encoded, 0x03), None);
        assert_eq!(parameter(&encoded[..7], 0x01), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "ring is not Rust")]
    fn the_retry_packet_of_rfc_9001_is_valid() {
        // Appendix A.4.
        let id = ConnectionId::new(&[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08]);
        let header = [0xff, 0, 0, 0, 1, 0, 0x08, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5];
        let mut payload = b"token".to_vec();
        payload.extend([
            0x04, 0xa2, 0x65, 0xba, 0x2e, 0xff, 0x4d, 0x82, 0x90, 0x58, 0xfb, 0x3f, 0x0f, 0x24,
            0x96, 0xba,
        ]);
        assert!(is_valid_retry(&id, &header, &payload));
        payload[0] ^= 1;
        assert!(!is_valid_retry(&id, &header, &payload));
    }
}
