//! The bytes that may be sent to an address that is not validated (RFC 9000, 8.1 and 9.3).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// For the current path of a listener.
#[derive(Default)]
pub struct Budget {
    remote: Option<SocketAddr>,
    /// Whether `remote` is not the first address. The handshake validates that one only.
    has_moved: bool,
    is_validated: bool,
    /// The last address that was validated: quinn-proto returns to it if the next one is not.
    validated: Option<SocketAddr>,
    /// PATH_RESPONSE frames when the path changed.
    responses: u64,
    pub received: u64,
    sent: u64,
    /// Size of the last datagram.
    pub last: u64,
    /// Bytes that may be sent beyond the limit: quinn-proto sends a PATH_CHALLENGE frame in a datagram
    /// of 1200 bytes only, and a datagram of a dialer that has moved is often small.
    grace: u64,
    grace_at: Option<Instant>,
}

/// Bytes of a datagram with a PATH_CHALLENGE frame (RFC 9000, 8.2.1).
const CHALLENGE: u64 = 1_200;

/// Between two challenges that exceed the limit.
const GRACE_INTERVAL: Duration = Duration::from_secs(1);

impl Budget {
    pub fn left(&self) -> f64 {
        if self.is_validated {
            return f64::INFINITY;
        }
        (3 * self.received + self.grace).saturating_sub(self.sent) as f64
    }

    /// A datagram leaves.
    pub fn on_sent(&mut self, destination: SocketAddr, size: usize) {
        // quinn-proto also challenges the former address.
        if self.remote.is_none_or(|remote| remote == destination) {
            self.sent += size as u64;
        }
    }

    /// Whether `look` has nothing to find out.
    pub fn is_settled(&self, remote: Option<SocketAddr>) -> bool {
        self.is_validated && self.remote == remote
    }

    /// `responses` counts the PATH_RESPONSE frames of the peer. Returns whether the address is
    /// another one than before.
    pub fn look(
        &mut self,
        remote: SocketAddr,
        responses: u64,
        is_connected: bool,
        now: Instant,
    ) -> bool {
        match self.remote {
            None => self.remote = Some(remote),
            Some(known) if known != remote => {
                self.restart(remote, responses, now);
                return true;
            }
            Some(_) => {}
        }
        self.is_validated |= (is_connected && !self.has_moved) || responses > self.responses;
        if self.is_validated {
            self.validated = Some(remote);
        }
        false
    }
}

impl Budget {
    fn restart(&mut self, remote: SocketAddr, responses: u64, now: Instant) {
        let is_validated = self.validated == Some(remote);
        let is_due =
            self.grace_at.is_none_or(|at| now.saturating_duration_since(at) >= GRACE_INTERVAL);
        let is_graced = is_due && !is_validated;
        *self = Self {
            remote: Some(remote),
            has_moved: true,
            is_validated,
            validated: self.validated,
            responses,
            received: self.last,
            sent: 0,
            last: self.last,
            grace: if is_graced { CHALLENGE } else { 0 },
            grace_at: if is_graced { Some(now) } else { self.grace_at },
        };
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
        let now = Instant::now();
        budget.look(address(1), 0, false, now);
        budget.sent = 3_000;
        assert_eq!(budget.left(), 600.0);
        budget.look(address(1), 0, true, now);
        assert!(budget.left().is_infinite());
    }

    #[test]
    fn a_new_address_has_a_budget_of_its_own() {
        let mut budget = Budget::default();
        let now = Instant::now();
        budget.look(address(1), 0, true, now);
        budget.last = 50;
        assert!(budget.look(address(2), 0, true, now));
        assert_eq!(budget.left(), 1_350.0);
        assert!(!budget.look(address(2), 0, true, now));
        assert_eq!(budget.left(), 1_350.0, "the handshake was with another address");
        budget.look(address(2), 1, true, now);
        assert!(budget.left().is_infinite());
        assert!(budget.look(address(3), 1, true, now));
        assert_eq!(budget.left(), 150.0, "one challenge a second may exceed the limit");
        budget.on_sent(address(2), 100);
        assert_eq!(budget.left(), 150.0, "what goes elsewhere does not count");
        budget.look(address(3), 1, true, now);
        assert!(budget.look(address(2), 1, true, now));
        assert!(budget.left().is_infinite(), "it was validated before");
        let later = now + GRACE_INTERVAL;
        budget.look(address(3), 1, true, later);
        budget.look(address(2), 1, true, later + GRACE_INTERVAL);
        budget.look(address(4), 1, true, later + GRACE_INTERVAL);
        assert_eq!(budget.left(), 1_350.0, "the return needed no challenge");
    }
}
