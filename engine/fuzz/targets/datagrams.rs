//! Datagrams of anyone on the path: invented, changed, repeated, or in another order; packets whose
//! keys everyone knows; and stateless resets.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pyo3::types::PyBytes;
use quicdist_engine_fuzz::frames::{Frame, encode};
use quicdist_engine_fuzz::pair::{DIALER, LISTENER, Pair, Phase, reset_token, run};
use quicdist_engine_fuzz::seal::{Keys, retry};

#[derive(Debug, Arbitrary)]
enum Step {
    Raw {
        data: Vec<u8>,
        size: u16,
        ecn: u8,
    },
    /// A packet whose first bytes and connection ID are right.
    Headed {
        first: u8,
        data: Vec<u8>,
    },
    Initial {
        number: u16,
        is_own: bool,
        frames: Vec<Frame>,
    },
    Retry(Vec<u8>),
    Versions(Vec<u32>),
    Reset {
        id: u8,
        size: u8,
        is_asked: bool,
    },
    /// One datagram that waits is changed, cut or delivered twice; or all change their order.
    Change {
        which: u8,
        at: u16,
        byte: u8,
    },
    Cut {
        which: u8,
        size: u16,
    },
    Repeat {
        which: u8,
    },
    Reverse,
    Path(u16),
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
        for step in input.steps.iter().take(24) {
            apply(&mut pair, victim, step);
            let now = pair.now;
            pair.ends[victim].transmit(now);
        }
        pair.finish();
    });
});

fn apply(pair: &mut Pair<'_>, victim: usize, step: &Step) {
    let now = pair.now;
    let ids = pair.ends[victim].ids();
    let target = ids.first().cloned().unwrap_or_default();
    let source = pair.ends[1 - victim].ids().first().cloned().unwrap_or_default();
    match step {
        Step::Raw { data, size, ecn } => {
            pair.ends[victim].receive_marked(data, usize::from(*size), now, *ecn);
        }
        Step::Headed { first, data } => {
            let mut datagram = vec![*first];
            if first & 0x80 != 0 {
                datagram.extend([0, 0, 0, 1, target.len() as u8]);
            }
            datagram.extend(&target);
            datagram.extend(data);
            pair.ends[victim].receive(&datagram, datagram.len(), now);
        }
        Step::Initial { number, is_own, frames } => {
            let keys = Keys::initial(&pair.original, (victim == LISTENER) != *is_own);
            let payload = encode(frames);
            let target = if *is_own { &pair.original } else { &target };
            let data = keys.long(0, target, &source, *number, &payload);
            pair.ends[victim].receive(&data, data.len(), now);
        }
        Step::Retry(token) => {
            let data = retry(&pair.original, &target, &source, token);
            pair.ends[victim].receive(&data, data.len(), now);
        }
        Step::Versions(versions) => {
            let mut data = vec![0x80, 0, 0, 0, 0, target.len() as u8];
            data.extend(&target);
            data.push(pair.original.len() as u8);
            data.extend(&pair.original);
            data.extend(versions.iter().take(16).flat_map(|each| each.to_be_bytes()));
            pair.ends[victim].receive(&data, data.len(), now);
        }
        Step::Reset { id, size, is_asked } => {
            let theirs = pair.ends[1 - victim].ids();
            let id =
                theirs.get(usize::from(*id) % theirs.len().max(1)).cloned().unwrap_or_default();
            let mut data = vec![0x40; usize::from(*size)];
            data.extend(reset_token(&id));
            if *is_asked {
                let end = &pair.ends[victim];
                end.call("is_reset", (PyBytes::new(end.core.py(), &data), now));
            } else {
                pair.ends[victim].receive(&data, data.len(), now);
            }
        }
        Step::Change { which, at, byte } => {
            change(pair, victim, *which, |data| {
                let at = usize::from(*at) % data.len();
                data[at] ^= byte;
            });
        }
        Step::Cut { which, size } => {
            change(pair, victim, *which, |data| {
                data.truncate(usize::from(*size) % data.len() + 1);
            });
        }
        Step::Repeat { which } => {
            let waiting = pair.collect(1 - victim);
            if !waiting.is_empty() {
                let each = waiting[usize::from(*which) % waiting.len()].clone();
                waiting.push(each);
            }
            pair.deliver(victim);
        }
        Step::Reverse => {
            pair.collect(1 - victim).reverse();
            pair.deliver(victim);
        }
        Step::Path(port) => pair.ends[victim].take_path("203.0.113.7", *port),
        Step::Exchange => pair.exchange(),
        Step::Pass(millis) => pair.pass(f64::from(*millis) / 1000.0),
    }
}

/// Changes one of the datagrams that wait for the victim, and delivers all.
fn change(pair: &mut Pair<'_>, victim: usize, which: u8, how: impl FnOnce(&mut Vec<u8>)) {
    let waiting = pair.collect(1 - victim);
    if !waiting.is_empty() {
        let which = usize::from(which) % waiting.len();
        how(&mut waiting[which].0);
    }
    pair.deliver(victim);
}
