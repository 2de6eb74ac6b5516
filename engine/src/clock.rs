//! Python's monotonic seconds as `Instant`s.

use std::time::{Duration, Instant};

/// Converts the times of one Python clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    seconds: f64,
}

impl Clock {
    /// `seconds` is the current time of the Python clock.
    pub fn new(seconds: f64) -> Self {
        // Times before the start occur in tests; `Instant` may begin with the machine.
        Self { instant: Instant::now(), seconds }
    }

    pub fn instant(&self, seconds: f64) -> Instant {
        self.instant + Duration::from_secs_f64((seconds - self.seconds).max(0.0))
    }

    pub fn plain_seconds(&self, instant: Instant) -> f64 {
        self.seconds + instant.saturating_duration_since(self.instant).as_secs_f64()
    }

    /// Rounded up by at most two microseconds, so that a timer is not early.
    pub fn seconds(&self, instant: Instant) -> f64 {
        self.plain_seconds(instant) + 2e-6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_not_early() {
        let clock = Clock::new(1_000.25);
        for at in [1_000.25, 1_000.250_001, 1_234.567_89, 90_000.1] {
            let instant = clock.instant(at);
            let back = clock.instant(clock.seconds(instant));
            assert!(back >= instant, "{at}");
            assert!(clock.seconds(instant) - at < 5e-6, "{at}");
        }
    }
}
