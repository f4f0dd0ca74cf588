//! The program itself: whether a run is repeated by its seed, and whether it would notice.

use simulation::report::Report;
use simulation::sweep::child;
use std::path::Path;

/// Runs a seed for so many simulated seconds in a process of its own.
fn run(seed: u64, seconds: u64, more: &[&str]) -> Report {
    let seconds = seconds.to_string();
    let output = child(Path::new(env!("CARGO_BIN_EXE_simulation")), seed)
        .args(["--seed", &seed.to_string(), "--seconds", &seconds, "--json"])
        .args(more)
        .output()
        .expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("seed {seed}: {error}: {said}"))
}

/// Two runs of one seed are the same to the last event, faults and all, and runs of two seeds are not; and
/// what happens in them is what may.
#[test]
fn a_seed_repeats_its_run() {
    let mut hashes = Vec::new();
    for seed in 1..=5 {
        let (first, second) = (run(seed, 6, &[]), run(seed, 6, &[]));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.violations.is_empty(), "seed {seed}: {:?}", first.violations);
        assert!(first.answered > 0, "seed {seed}: {first:?}");
        hashes.push(first.trace_hash);
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
}

/// Disks that report a sync and forget it lose what was acknowledged once all nodes crash, and the run says
/// so.
#[test]
fn lost_writes_are_noticed() {
    let seen = (1..=20).any(|seed| !run(seed, 10, &["--lying-disks"]).violations.is_empty());
    assert!(seen, "20 seeds on disks that forget, and nothing was noticed");
}
