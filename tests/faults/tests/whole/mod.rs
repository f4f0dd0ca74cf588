//! One whole run of some kinds of faults, on a folder that is kept where something is wrong.

#![expect(clippy::print_stdout, reason = "what a run came to")]

use faults::{Kind, NetworkChoice, Options, Reads, Report, run};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The variable that repeats a run's schedule.
const VARIABLE: &str = "FLOTILLA_TEST_SEED";

fn seed() -> u64 {
    match std::env::var(VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE} must be a whole number, not {text}")),
        // A hasher's keys are the standard library's one source of randomness; a small number is easier to
        // say again.
        Err(_) => RandomState::new().hash_one("faults") % 1_000_000,
    }
}

/// Five clients work on three processes while faults of these `kinds` are inflicted, one about every `pace`;
/// nothing may be wrong.
pub async fn passes(kinds: &[Kind], length: Duration, pace: Duration) -> Report {
    let folder =
        tempfile::Builder::new().prefix("flotilla-faults-").tempdir().expect("a temporary directory");
    let options = Options {
        seed: seed(),
        length,
        clients: 5,
        nodes: 3,
        groups: 2,
        kinds: kinds.to_vec(),
        pace,
        reads: Reads::Linearizable,
        network: NetworkChoice::Auto,
        binary: tests::binary().to_owned(),
        folder: folder.path().to_owned(),
    };
    println!("{VARIABLE}={}", options.seed);
    let report = run(&options).await.expect("the harness works");
    println!("{report}");
    if !report.passed() {
        let kept = folder.keep();
        panic!("{VARIABLE}={}: history, logs and data are in {}", options.seed, kept.display());
    }
    assert!(report.operations() > 0, "nothing was asked");
    report
}
