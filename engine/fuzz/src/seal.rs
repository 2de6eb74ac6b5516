//! Packets with valid protection (RFC 9001) and any frames.

use ring::aead::quic::{AES_128, HeaderProtectionKey};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Okm, Prk};

/// The salt of Initial packets (RFC 9001, 5.2).
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
const NUMBER: usize = 2;
const TAG: usize = 16;
const SAMPLE: usize = 16;

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The keys of one direction, for TLS_AES_128_GCM_SHA256.
pub struct Keys {
    packet: LessSafeKey,
    iv: [u8; 12],
    header: HeaderProtectionKey,
}

impl Keys {
    pub fn new(secret: &[u8]) -> Self {
        let secret = Prk::new_less_safe(HKDF_SHA256, secret);
        let key: [u8; 16] = expand(&secret, "quic key");
        let header: [u8; 16] = expand(&secret, "quic hp");
        Self {
            packet: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap()),
            iv: expand(&secret, "quic iv"),
            header: HeaderProtectionKey::new(&AES_128, &header).unwrap(),
        }
    }

    /// The Initial keys of the client, or of the server.
    pub fn initial(original: &[u8], is_client: bool) -> Self {
        let start = ring::hkdf::Salt::new(HKDF_SHA256, &SALT).extract(original);
        let label = if is_client { "client in" } else { "server in" };
        let secret: [u8; 32] = expand(&start, label);
        Self::new(&secret)
    }

    /// Protects a packet. `header` ends with the packet number, of two bytes.
    fn seal(&self, mut header: Vec<u8>, number: u16, payload: &[u8]) -> Vec<u8> {
        let start = header.len();
        let mut nonce = self.iv;
        for (byte, other) in nonce[10..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= other;
        }
        let mut body = payload.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.packet.seal_in_place_append_tag(nonce, Aad::from(&header), &mut body).unwrap();
        header.extend(body);
        let at = start - NUMBER;
        let mask = self.header.new_mask(&header[at + 4..at + 4 + SAMPLE]).unwrap();
        header[0] ^= mask[0] & if header[0] & 0x80 == 0 { 0x1f } else { 0x0f };
        for (byte, other) in header[at..start].iter_mut().zip(&mask[1..]) {
            *byte ^= other;
        }
        header
    }

    pub fn short(&self, target: &[u8], number: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0x41];
        header.extend(target);
        header.extend(number.to_be_bytes());
        self.seal(header, number, payload)
    }

    /// A long header packet: type 0 is Initial, type 2 Handshake (RFC 9000, 17.2).
    pub fn long(
        &self,
        kind: u8,
        target: &[u8],
        source: &[u8],
        number: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut header = vec![0xc1 | kind << 4, 0, 0, 0, 1];
        for id in [target, source] {
            header.push(id.len() as u8);
            header.extend(id);
        }
        if kind == 0 {
            header.push(0); // no token
        }
        let length = (NUMBER + payload.len() + TAG) as u16;
        header.extend((0x4000 | length).to_be_bytes());
        header.extend(number.to_be_bytes());
        self.seal(header, number, payload)
    }
}

/// HKDF-Expand-Label (RFC 8446, 7.1).
fn expand<const N: usize>(secret: &Prk, label: &str) -> [u8; N] {
    let label = format!("tls13 {label}");
    let info = [&(N as u16).to_be_bytes()[..], &[label.len() as u8], label.as_bytes(), &[0]];
    let okm: Okm<'_, Length> = secret.expand(&info, Length(N)).unwrap();
    let mut output = [0; N];
    okm.fill(&mut output).unwrap();
    output
}

/// A Retry packet with a valid integrity tag (RFC 9001, 5.8).
pub fn retry(original: &[u8], target: &[u8], source: &[u8], token: &[u8]) -> Vec<u8> {
    const KEY: [u8; 16] = [
        0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8,
        0x4e,
    ];
    const NONCE: [u8; 12] =
        [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];
    let mut packet = vec![0xf0, 0, 0, 0, 1];
    for id in [target, source] {
        packet.push(id.len() as u8);
        packet.extend(id);
    }
    packet.extend(token);
    let mut pseudo = vec![original.len() as u8];
    pseudo.extend(original);
    pseudo.extend(&packet);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &KEY).unwrap());
    let nonce = Nonce::assume_unique_for_key(NONCE);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(pseudo), &mut []).unwrap();
    packet.extend(tag.as_ref());
    packet
}
