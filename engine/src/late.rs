//! Finds packets that quinn-proto has declared lost and that are acknowledged later, which shows
//! reordering (RFC 8985, 6.2, RACK). quinn-proto detects losses by packet numbers and forgets lost
//! packets, so the packet numbers are kept here. After reordering was seen, congestion control learns of
//! a loss only if the packet is still missing some time later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Lost packets that are kept, at most.
const MOST_LOST: usize = 4096;

/// Quarters of the minimum round trip that are tolerated, at most.
const MAX_TOLERANCE: u32 = 8;

#[derive(Clone, Copy, Debug)]
struct Packet {
    number: u64,
    /// 0 after it was acknowledged.
    size: f64,
    at: Instant,
    /// Whether congestion control knows of its loss.
    is_reported: bool,
}

/// The round trips of a path in seconds.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrips {
    pub latest: f64,
    pub smoothed: f64,
    pub least: f64,
}

/// Losses to report: bytes, and when the last one of them left.
pub type Lost = Option<(f64, Instant)>;

/// The 1-RTT packets of one path that are in flight or lost, in ascending order.
#[derive(Debug, Default)]
pub struct Late {
    in_flight: VecDeque<Packet>,
    lost: VecDeque<Packet>,
    /// Quarters of the minimum round trip; 0 before reordering was seen.
    tolerance: u32,
}

impl Late {
    pub fn on_sent(&mut self, number: u64, size: f64, at: Instant) {
        self.in_flight.push_back(Packet { number, size, at, is_reported: false });
    }

    /// Takes acknowledged ranges of packet numbers, both ends included. Returns the bytes of those
    /// that were reported as lost.
    pub fn on_acks(&mut self, ranges: &[(u64, u64)]) -> f64 {
        let mut reported = 0.0;
        for &range in ranges {
            acknowledge(&mut self.in_flight, range, |_| ());
            acknowledge(&mut self.lost, range, |packet| {
                self.tolerance = (self.tolerance + 1).min(MAX_TOLERANCE);
                reported += if packet.is_reported { packet.size } else { 0.0 };
            });
        }
        drop_acknowledged(&mut self.in_flight);
        drop_acknowledged(&mut self.lost);
        reported
    }

    /// Takes lost packets of `bytes` in all, the last of which left at `at`. They are the first ones
    /// in flight. Returns what is to be reported at once.
    pub fn on_lost(&mut self, at: Instant, bytes: f64) -> Lost {
        let is_reported = self.tolerance == 0;
        let mut left = bytes;
        while let Some(packet) = self.in_flight.front() {
            if packet.at > at || (packet.at == at && packet.size > 0.0 && left <= 0.0) {
                break;
            }
            left -= packet.size;
            if packet.size > 0.0 {
                self.lost.push_back(Packet { is_reported, ..*packet });
            }
            self.in_flight.pop_front();
        }
        let mut excess = None;
        while self.lost.len() > MOST_LOST {
            excess = add(excess, self.lost.pop_front());
        }
        if is_reported { Some((bytes, at)) } else { excess }
    }

    /// Returns losses that were not reported yet and are older than reordering explains.
    pub fn take_overdue(&mut self, now: Instant, trips: RoundTrips) -> Lost {
        if self.tolerance == 0 || self.lost.back().is_none_or(|packet| packet.is_reported) {
            return None;
        }
        let patience = self.patience(trips);
        let mut overdue = None;
        let start = self.lost.partition_point(|packet| packet.is_reported);
        for packet in self.lost.range_mut(start..) {
            if packet.at + patience > now {
                break;
            }
            overdue = add(overdue, Some(*packet));
            packet.is_reported = true;
        }
        overdue
    }

    /// How long after it was sent a packet is lost.
    fn patience(&self, trips: RoundTrips) -> Duration {
        let trip = trips.latest.max(trips.smoothed);
        let late = (f64::from(self.tolerance) * trips.least / 4.0).min(trips.smoothed);
        Duration::try_from_secs_f64(trip + late.max(trip / 8.0)).unwrap_or(Duration::MAX)
    }

    /// Nothing is in flight.
    pub fn on_empty(&mut self) {
        self.in_flight.clear();
    }
}

fn acknowledge(packets: &mut VecDeque<Packet>, range: (u64, u64), mut found: impl FnMut(&Packet)) {
    let start = packets.partition_point(|packet| packet.number < range.0);
    for packet in packets.range_mut(start..) {
        if packet.number > range.1 {
            break;
        }
        if packet.size > 0.0 {
            found(packet);
            packet.size = 0.0;
        }
    }
}

fn drop_acknowledged(packets: &mut VecDeque<Packet>) {
    while packets.front().is_some_and(|packet| packet.size == 0.0) {
        packets.pop_front();
    }
}

/// Adds a packet that was not reported to the losses to report.
fn add(lost: Lost, packet: Option<Packet>) -> Lost {
    match packet {
        Some(packet) if !packet.is_reported && packet.size > 0.0 => {
            Some((lost.map_or(0.0, |(bytes, _)| bytes) + packet.size, packet.at))
        }
        _ => lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIPS: RoundTrips = RoundTrips { latest: 0.02, smoothed: 0.02, least: 0.02 };

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Two bursts of four packets of 100 bytes.
    fn sent() -> (Late, Instant) {
        let at = Instant::now();
        let mut late = Late::default();
        for number in 0..8 {
            late.on_sent(number, 100.0, at + ms(number / 4));
        }
        (late, at)
    }

    #[test]
    fn a_packet_that_was_not_lost_is_not_late() {
        let (mut late, _) = sent();
        assert_eq!(late.on_acks(&[(0, 7)]), 0.0);
        assert!(late.in_flight.is_empty());
        assert_eq!(late.tolerance, 0);
    }

    #[test]
    fn a_late_packet_counts_once() {
        let (mut late, at) = sent();
        assert_eq!(late.on_acks(&[(2, 3), (6, 7)]), 0.0);
        assert_eq!(late.on_lost(at, 200.0), Some((200.0, at)));
        assert_eq!(late.on_acks(&[(1, 3)]), 100.0);
        assert_eq!(late.on_acks(&[(0, 3)]), 100.0);
        assert_eq!(late.on_acks(&[(0, 7)]), 0.0);
        assert_eq!(late.tolerance, 2);
    }

    #[test]
    fn the_rest_of_a_burst_is_still_in_flight() {
        let (mut late, at) = sent();
        late.on_lost(at, 200.0);
        assert_eq!(late.on_acks(&[(2, 7)]), 0.0);
        late.on_lost(at + ms(1), 100.0);
        assert_eq!(late.on_acks(&[(0, 7)]), 200.0);
    }

    #[test]
    fn after_reordering_a_loss_is_reported_when_it_is_overdue() {
        let (mut late, at) = sent();
        late.on_lost(at, 100.0);
        late.on_acks(&[(0, 7)]);
        late.on_sent(8, 100.0, at + ms(2));
        late.on_sent(9, 100.0, at + ms(3));
        late.on_sent(10, 100.0, at + ms(3));
        assert_eq!(late.on_lost(at + ms(3), 200.0), None);
        assert_eq!(late.take_overdue(at + ms(26), TRIPS), None);
        assert_eq!(late.take_overdue(at + ms(27), TRIPS), Some((100.0, at + ms(2))));
        assert_eq!(late.on_acks(&[(9, 9)]), 0.0);
        assert_eq!(late.on_acks(&[(8, 9)]), 100.0);
        assert_eq!(late.take_overdue(at + ms(100), TRIPS), None);
    }

    #[test]
    fn lost_packets_are_kept_up_to_a_limit_and_the_others_are_reported() {
        let at = Instant::now();
        let mut late = Late { tolerance: 1, ..Late::default() };
        for number in 0..10_000 {
            late.on_sent(number, 1.0, at);
        }
        assert_eq!(late.on_lost(at, 10_000.0), Some(((10_000 - MOST_LOST) as f64, at)));
        assert_eq!(late.on_acks(&[(0, 10_000)]), 0.0);
        assert!(late.lost.is_empty());
    }
}
