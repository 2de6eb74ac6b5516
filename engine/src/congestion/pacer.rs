//! When datagrams may leave: at a rate, in small bursts. A late timer is made up for, within a bound
//! (draft-ietf-ccwg-bbr, 5.6.2, 5.6.3; RFC 9002, 7.7).

/// Seconds' worth of bytes that leave together: timers have no finer resolution.
const QUANTUM: f64 = 0.001;

/// Seconds' worth of bytes that a late timer may make up for at once.
const MAX_LATE: f64 = 0.008;

/// Datagrams that may leave at once at any rate (RFC 9002, 7.7).
const MIN_BURST: f64 = 10.0;

/// A token bucket.
#[derive(Debug)]
pub struct Pacer {
    pub datagram_size: f64,
    rate: f64,
    at: f64,
    tokens: f64,
    /// Nothing has left since `on_idle`.
    is_idle: bool,
}

impl Pacer {
    pub fn new(datagram_size: f64) -> Self {
        Self {
            datagram_size,
            rate: 0.0,
            at: f64::NEG_INFINITY,
            tokens: MIN_BURST * datagram_size,
            is_idle: true,
        }
    }

    /// 0 is not paced. The time until now counts at the old rate.
    pub fn set_rate(&mut self, rate: f64, now: f64) {
        self.refill(now);
        self.rate = rate;
    }

    /// Bytes that may leave now; infinite if not paced. The last datagram may exceed it.
    pub fn room(&mut self, now: f64) -> f64 {
        if self.rate == 0.0 {
            return f64::INFINITY;
        }
        self.refill(now);
        self.tokens
    }

    pub fn on_sent(&mut self, size: f64) {
        self.is_idle = false;
        if self.rate != 0.0 {
            self.tokens -= size;
        }
    }

    /// There is nothing to send: the time until there is something is not made up for.
    pub fn on_idle(&mut self) {
        self.is_idle = true;
    }

    /// When the next burst may leave.
    pub fn next_time(&mut self, now: f64) -> f64 {
        if self.room(now) > 0.0 {
            return now;
        }
        now + ((self.rate * QUANTUM).max(1.0) - self.tokens) / self.rate
    }

    fn refill(&mut self, now: f64) {
        let elapsed = now - self.at;
        if elapsed <= 0.0 {
            return;
        }
        self.at = now;
        if self.rate == 0.0 {
            return;
        }
        let burst = (self.rate * QUANTUM).max(MIN_BURST * self.datagram_size);
        let bound = if self.is_idle { burst } else { burst.max(self.rate * MAX_LATE) };
        self.tokens = (self.tokens + elapsed * self.rate).min(bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_although_timers_are_late() {
        let mut pacer = Pacer::new(1_200.0);
        pacer.set_rate(1_200_000.0, 0.0);
        let (mut now, mut sent) = (0.0, 0.0);
        while now < 1.0 {
            while pacer.room(now) > 0.0 {
                pacer.on_sent(1_200.0);
                sent += 1_200.0;
            }
            now = pacer.next_time(now) + 0.005;
        }
        assert!((1_190_000.0..1_230_000.0).contains(&sent), "{sent}");
    }
}
