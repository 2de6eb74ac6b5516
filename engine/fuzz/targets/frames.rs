//! Frames in packets with the keys of a peer, in each phase of a connection.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use quicdist_engine_fuzz::frames::{Frame, encode};
use quicdist_engine_fuzz::pair::{DIALER, LISTENER, Pair, Phase, run};
use quicdist_engine_fuzz::seal::Keys;

/// Above every number that the peer itself has used.
const FIRST_NUMBER: u16 = 100;

#[derive(Debug, Arbitrary)]
enum Level {
    Initial,
    Handshake,
    OneRtt,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Packet { level: Level, frames: Vec<Frame> },
    Write { stream: u8, size: u16 },
    Grant(u16),
    Exchange,
    Pass(u16),
}

#[derive(Debug, Arbitrary)]
struct Input {
    phase: Phase,
    is_dialer: bool,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    run(|py| {
        let mut pair = Pair::new(py, input.phase);
        let victim = if input.is_dialer { DIALER } else { LISTENER };
        for (number, step) in (FIRST_NUMBER..).zip(input.steps.iter().take(24)) {
            match step {
                Step::Packet { level, frames } => {
                    if let Some(data) = packet(&pair, victim, level, number, &encode(frames)) {
                        let now = pair.now;
                        pair.ends[victim].receive(&data, data.len(), now);
                        pair.ends[victim].transmit(now);
                    }
                }
                Step::Write { stream, size } => {
                    let data = vec![0u8; usize::from(*size)];
                    pair.ends[victim].call("write", (u64::from(*stream), [data]));
                }
                Step::Grant(credit) => pair.ends[victim].grant(u64::from(*credit)),
                Step::Exchange => pair.exchange(),
                Step::Pass(millis) => pair.pass(f64::from(*millis) / 1000.0),
            }
        }
        pair.finish();
    });
});

/// A packet of the other end; None while there are no keys.
fn packet(
    pair: &Pair<'_>,
    victim: usize,
    level: &Level,
    number: u16,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let is_client = victim == LISTENER;
    let sender = if is_client { "CLIENT" } else { "SERVER" };
    let target = pair.ends[victim].ids().first().cloned()?;
    let source = pair.ends[1 - victim].ids().first().cloned()?;
    match level {
        Level::Initial => {
            let keys = Keys::initial(&pair.original, is_client);
            let payload = [payload, &vec![0; 1150usize.saturating_sub(payload.len())]].concat();
            Some(keys.long(0, &target, &source, number, &payload))
        }
        Level::Handshake => {
            let secret = pair.secret(&format!("{sender}_HANDSHAKE_TRAFFIC_SECRET"))?;
            Some(Keys::new(&secret).long(2, &target, &source, number, payload))
        }
        Level::OneRtt => {
            let secret = pair.secret(&format!("{sender}_TRAFFIC_SECRET_0"))?;
            Some(Keys::new(&secret).short(&target, number, payload))
        }
    }
}
