//! Calls in any order, with any arguments.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pyo3::types::{PyAnyMethods, PyBytes};
use quicdist_engine_fuzz::pair::{DIALER, End, LISTENER, Pair, Phase, run};

#[derive(Debug, Arbitrary)]
enum Stream {
    Likely(u8),
    Any(u64),
}

impl Stream {
    fn number(&self) -> u64 {
        match self {
            Self::Likely(number) => u64::from(*number),
            Self::Any(number) => *number,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Call {
    Write { stream: Stream, sizes: Vec<u16> },
    Refuse { stream: Stream, code: u32 },
    SendWhole(bool),
    Grant(u32),
    Ping,
    Prove,
    RenewId,
    Migrate,
    Resume { in_flight: f64, round_trip: f64 },
    Close { code: u32, reason: Vec<u8> },
    IsReset(Vec<u8>),
    Receive { data: Vec<u8>, size: u16, ecn: u8 },
    TakePath(u16),
    Export { label: Vec<u8>, length: u16 },
    Connect,
    Release,
    Transmit(u16),
    HandleTimer,
    Exchange,
    Pass(u16),
}

#[derive(Debug, Arbitrary)]
struct Input {
    phase: Phase,
    calls: Vec<(bool, Call)>,
}

fuzz_target!(|input: Input| {
    run(|py| {
        let mut pair = Pair::new(py, input.phase);
        for (is_dialer, call) in input.calls.iter().take(40) {
            match call {
                Call::Exchange => pair.exchange(),
                Call::Pass(millis) => pair.pass(f64::from(*millis) / 1000.0),
                _ => {
                    let now = pair.now;
                    let end = if *is_dialer { DIALER } else { LISTENER };
                    perform(&mut pair.ends[end], call, now);
                    look(&pair.ends[end]);
                }
            }
        }
        pair.finish();
    });
});

fn perform(end: &mut End<'_>, call: &Call, now: f64) {
    let py = end.core.py();
    match call {
        Call::Write { stream, sizes } => {
            let parts: Vec<_> = sizes
                .iter()
                .take(4)
                .map(|size| PyBytes::new(py, &vec![7; usize::from(*size)]))
                .collect();
            end.call("write", (stream.number(), parts));
        }
        Call::Refuse { stream, code } => end.call("refuse", (stream.number(), *code)),
        Call::SendWhole(is_whole) => end.call("send_whole", (*is_whole,)),
        Call::Grant(credit) => end.grant(u64::from(*credit)),
        Call::Ping => end.call("ping", ()),
        Call::Prove => end.call("prove", ()),
        Call::RenewId => end.call("renew_id", ()),
        Call::Migrate => end.call("migrate", (now,)),
        Call::Resume { in_flight, round_trip } => end.call("resume", (*in_flight, *round_trip)),
        Call::Close { code, reason } => end.call("close", (*code, PyBytes::new(py, reason))),
        Call::IsReset(data) => end.call("is_reset", (PyBytes::new(py, data), now)),
        Call::Receive { data, size, ecn } => {
            end.receive_marked(data, usize::from(*size), now, *ecn);
        }
        Call::TakePath(port) => end.take_path("203.0.113.7", *port),
        Call::Export { label, length } => {
            end.call("export", (PyBytes::new(py, label), usize::from(*length)));
        }
        Call::Connect => end.call("connect", (now,)),
        Call::Release => end.call("release", ()),
        Call::Transmit(limit) => end.call("transmit", (now, usize::from(*limit))),
        Call::HandleTimer => end.call("handle_timer", (now,)),
        Call::Exchange | Call::Pass(_) => {}
    }
}

/// Calls everything that only tells.
fn look(end: &End<'_>) {
    for name in ["round_trip", "capacity", "datagrams_sent", "datagrams_lost"] {
        end.core.call_method0(name).unwrap();
    }
    for name in ["closed", "path", "allowance", "cipher", "peer_idle_timeout", "is_confirmed"] {
        end.core.getattr(name).unwrap();
    }
}
