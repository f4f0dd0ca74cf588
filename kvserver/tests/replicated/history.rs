//! What clients asked and were told: judged at the end of a test, and written where a person finds it where
//! the test fails.

use crate::request::{Seen, What};
use checker::{Limits, Recorder, Ticket, Verdict, check, jsonl};
use futures_util::FutureExt;
use std::collections::BTreeSet;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// A request under way. One that is dropped may take effect at any later time, or never.
pub(crate) struct Asked {
    what: What,
    ticket: Ticket,
}

/// See the module.
pub(crate) struct History {
    seed: u64,
    recorder: Recorder,
    answers: AtomicU64,
}

impl History {
    /// Of the test with this seed, which no other test has.
    pub(crate) fn new(seed: u64) -> Self {
        let born = Instant::now();
        let recorder = Recorder::with_clock(move || born.elapsed().as_nanos() as u64);
        Self { seed, recorder, answers: AtomicU64::new(0) }
    }

    /// Where everything is taken down.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Notes a request before it is sent.
    pub(crate) fn invoke(&self, clerk: u64, key: &str, what: What) -> Asked {
        let ticket = self.recorder.invoke(clerk, what.operation(key));
        Asked { what, ticket }
    }

    /// Notes its answer.
    pub(crate) fn complete(&self, asked: Asked, seen: Seen) {
        asked.ticket.ok(seen.answer(&asked.what));
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were answered.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// The keys that were asked for.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        let history = self.recorder.history();
        let keys = history.calls().into_iter().filter_map(|call| call.operation.key());
        keys.map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
    }

    /// Holds all answers against each other.
    pub(crate) fn check(&self) {
        let history = self.recorder.history();
        match check(&history, &Limits::default()) {
            Verdict::Linearizable => println!("{} operations are linearizable", history.calls().len()),
            Verdict::NotLinearizable(failure) => {
                panic!("key {} is not linearizable", failure.key.escape_ascii())
            }
            Verdict::Unknown(exceeded) => panic!("not known to be linearizable: {exceeded}"),
        }
    }

    /// Lets a test run, and writes its history where it panics.
    pub(crate) async fn kept(&self, test: impl Future<Output = ()>) {
        let Err(panic) = AssertUnwindSafe(test).catch_unwind().await else { return };
        let file = self.write();
        println!("seed {}: the history is in {}", self.seed, file.display());
        println!("to see it: cargo run -p checker -- --html history.html {}", file.display());
        std::panic::resume_unwind(panic)
    }

    fn write(&self) -> PathBuf {
        let name = format!("replicated-seed-{}.jsonl", self.seed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        jsonl::write(File::create(&path).unwrap(), &self.recorder.history()).unwrap();
        path
    }
}

/// The check is not blind, and what a failing test writes is what it saw: a stale read fails, and stands in
/// the file.
#[tokio::test]
async fn a_stale_read_is_found_and_kept() {
    let history = History::new(0);
    let append = |value: &str| What::Append(value.to_owned());
    for (version, value) in [(1, "a"), (2, "b")] {
        let asked = history.invoke(1, "k", append(value));
        history.complete(asked, Seen { version, value: None });
    }
    history.check();
    let asked = history.invoke(1, "k", What::Get);
    history.complete(asked, Seen { version: 1, value: Some("a".to_owned()) });
    let failed = AssertUnwindSafe(history.kept(async { history.check() })).catch_unwind().await;
    assert!(failed.is_err());
    let file = File::open(history.write()).unwrap();
    assert_eq!(jsonl::read(std::io::BufReader::new(file)).unwrap(), history.recorder.history());
}
