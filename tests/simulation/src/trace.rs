//! What happened, in order: every event is hashed, and printed where somebody asks for it. Two runs are the
//! same run where their traces have one hash.

use crate::lock;
use std::fmt;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// See the module; clones are the same trace.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    started: Instant,
    prints: bool,
    hash: u64,
    events: u64,
    line: String,
}

impl Trace {
    /// An empty trace that begins now.
    pub fn new(prints: bool) -> Self {
        let state =
            State { started: Instant::now(), prints, hash: FNV_OFFSET, events: 0, line: String::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Notes an event.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let mut state = lock(&self.0);
        let State { started, prints, hash, events, line } = &mut *state;
        let passed = started.elapsed();
        line.clear();
        let written = write!(line, "{:>4}.{:09} {event}", passed.as_secs(), passed.subsec_nanos());
        written.expect("text can be written to a string");
        *hash = line.bytes().fold(*hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        *events += 1;
        if *prints {
            // Whoever read has gone: the run goes on, for its verdict.
            *prints = writeln!(std::io::stdout(), "{line}").is_ok();
        }
    }

    /// Nanoseconds since the trace began, by the simulated clock.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(lock(&self.0).started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The hash over all events so far, and their number.
    pub fn hash(&self) -> (u64, u64) {
        let state = lock(&self.0);
        (state.hash, state.events)
    }
}
