//! The short form of a run: as the long one, with whatever faults the machine allows.

use faults::{Kind, NetworkChoice, Options, Reads, run};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The variable that repeats a run's schedule.
const VARIABLE: &str = "FLOTILLA_TEST_SEED";

/// How long faults are inflicted, one about every second.
const LENGTH: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_secs(1);

fn seed() -> u64 {
    match std::env::var(VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE} must be a whole number, not {text}")),
        // A hasher's keys are the standard library's one source of randomness; a small number is easier to
        // say again.
        Err(_) => RandomState::new().hash_one("faults") % 1_000_000,
    }
}

/// While five clients work on three processes that are killed, stopped, cut off and misled, and whose disks
/// fail, nobody sees what a correct store could not have shown, and nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread")]
async fn clients_see_a_correct_store_under_faults() {
    let folder =
        tempfile::Builder::new().prefix("flotilla-faults-").tempdir().expect("a temporary directory");
    let options = Options {
        seed: seed(),
        length: LENGTH,
        clients: 5,
        nodes: 3,
        groups: 2,
        kinds: Kind::ALL.to_vec(),
        pace: PACE,
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
    assert!(report.operations() > 0 && report.faults().0 > 0, "nothing happened");
}
