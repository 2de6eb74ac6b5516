//! Connection IDs and stateless reset tokens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quinn_proto::crypto::{CryptoError, HmacKey};
use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use ring::rand::{SecureRandom, SystemRandom};

pub const LENGTH: usize = 8;

pub type Id = [u8; LENGTH];

/// The IDs that one connection has issued, in this order.
pub type Issued = Arc<Mutex<Vec<Id>>>;

/// Generates random IDs and records each.
pub struct Generator {
    pub issued: Issued,
    /// The next ID, if it is known already.
    pub next: Option<Id>,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let id = self.next.take().unwrap_or_else(|| {
            let id = random();
            self.issued.lock().unwrap().push(id);
            id
        });
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

pub fn random() -> Id {
    let mut id = [0; LENGTH];
    SystemRandom::new().fill(&mut id).expect("the system has random numbers");
    id
}

/// Python's function for the stateless reset token of a connection ID (RFC 9000, 10.3.2).
pub struct ResetKey(pub Arc<Py<PyAny>>);

const TOKEN: usize = 16;

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let token = Python::attach(|py| {
            let token = self.0.call1(py, (PyBytes::new(py, data),))?;
            token.extract::<[u8; TOKEN]>(py)
        });
        signature_out.copy_from_slice(&token.expect("reset_token_of returns 16 bytes"));
    }

    fn signature_len(&self) -> usize {
        TOKEN
    }

    fn verify(&self, _: &[u8], _: &[u8]) -> Result<(), CryptoError> {
        Err(CryptoError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_id_is_the_given_one_and_the_others_are_recorded() {
        let issued = Issued::default();
        let mut generator = Generator { issued: issued.clone(), next: Some([7; LENGTH]) };
        assert_eq!(&*generator.generate_cid(), &[7; LENGTH]);
        let second = generator.generate_cid();
        assert_eq!(issued.lock().unwrap().as_slice(), &[*second.first_chunk().unwrap()]);
    }
}
