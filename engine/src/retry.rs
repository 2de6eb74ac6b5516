//! Address validation tokens (RFC 9000, 8.1.2).
//!
//! Python sends the Retry packets and checks the tokens before there is a connection. quinn-proto
//! only has to learn the original destination connection ID. It gets a token of its own format.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey};

const RETRY: u8 = 0;

/// The address and the ID of a dialer whose token was checked; None if it had none.
#[derive(Clone, Debug)]
pub struct Checked {
    pub remote: SocketAddr,
    pub original: Vec<u8>,
}

/// Replaces the content of a token by what Python has checked.
#[derive(Clone, Default)]
pub struct TokenKey(pub Arc<Mutex<Option<Checked>>>);

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, _: &[u8]) -> Box<dyn AeadKey> {
        let checked = self.0.lock().unwrap();
        Box::new(Plain(checked.as_ref().map(encode)))
    }
}

struct Plain(Option<Vec<u8>>);

impl AeadKey for Plain {
    fn seal(&self, _: &mut Vec<u8>, _: &[u8]) -> Result<(), CryptoError> {
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], _: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let content = self.0.as_ref().ok_or(CryptoError)?;
        let target = data.get_mut(..content.len()).ok_or(CryptoError)?;
        target.copy_from_slice(content);
        Ok(target)
    }
}

fn encode(checked: &Checked) -> Vec<u8> {
    let mut content = vec![RETRY];
    match checked.remote.ip() {
        IpAddr::V4(ip) => {
            content.push(0);
            content.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            content.push(1);
            content.extend(ip.octets());
        }
    }
    content.extend(checked.remote.port().to_be_bytes());
    content.push(checked.original.len() as u8);
    content.extend(&checked.original);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    content.extend(now.as_secs().to_be_bytes());
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_python_did_not_check_is_not_opened() {
        let aead = TokenKey::default().aead_from_hkdf(&[]);
        assert!(aead.open(&mut [0; 64], &[]).is_err());
    }

    #[test]
    fn a_short_token_is_not_opened() {
        let remote = "[::1]:4433".parse().unwrap();
        let key = TokenKey(Arc::new(Mutex::new(Some(Checked { remote, original: vec![1; 20] }))));
        assert!(key.aead_from_hkdf(&[]).open(&mut [0; 40], &[]).is_err());
        assert_eq!(key.aead_from_hkdf(&[]).open(&mut [0; 64], &[]).unwrap().len(), 49);
    }
}
