//! The bytes that may be sent to an address that is not validated (RFC 9000, 8.1 and 9.3).

use std::net::SocketAddr;

/// For the current path of a listener.
#[derive(Default)]
pub struct Budget {
    remote: Option<SocketAddr>,
    is_validated: bool,
    /// PATH_RESPONSE frames when the path changed.
    responses: u64,
    pub received: u64,
    pub sent: u64,
    /// Size of the last datagram.
    pub last: u64,
}

impl Budget {
    pub fn left(&self) -> f64 {
        if self.is_validated {
            return f64::INFINITY;
        }
        (3 * self.received).saturating_sub(self.sent) as f64
    }

    /// Whether `look` has nothing to find out.
    pub fn is_settled(&self, remote: Option<SocketAddr>) -> bool {
        self.is_validated && self.remote == remote
    }

    /// `responses` counts the PATH_RESPONSE frames of the peer.
    pub fn look(&mut self, remote: SocketAddr, responses: u64, is_connected: bool) {
        match self.remote {
            None => self.remote = Some(remote),
            Some(known) if known != remote => {
                let received = self.last;
                *self = Self { remote: Some(remote), responses, received, ..Self::default() };
                return;
            }
            Some(_) => {}
        }
        // The first address is validated by the handshake.
        let is_first = self.responses == 0 && is_connected;
        self.is_validated |= is_first || responses > self.responses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_path_is_bounded_until_it_is_validated() {
        let mut budget = Budget { received: 1_200, last: 1_200, ..Budget::default() };
        budget.look(address(1), 0, false);
        budget.sent = 3_000;
        assert_eq!(budget.left(), 600.0);
        budget.look(address(1), 0, true);
        assert!(budget.left().is_infinite());
    }

    #[test]
    fn a_new_address_has_a_budget_of_its_own() {
        let mut budget = Budget::default();
        budget.look(address(1), 0, true);
        budget.last = 50;
        budget.look(address(2), 1, true);
        assert_eq!(budget.left(), 150.0);
        budget.look(address(2), 1, true);
        assert_eq!(budget.left(), 150.0);
        budget.look(address(2), 2, true);
        assert!(budget.left().is_infinite());
    }
}
