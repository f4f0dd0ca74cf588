//! The program itself: whether a run is repeated by its seed, and whether it would notice.

mod child;

use child::run;

/// Two runs of one seed are the same to the last event, faults and all, though one of them logs, and runs of two
/// seeds are not; and what happens in them is what may.
#[test]
fn a_seed_repeats_its_run() {
    const LOGS: &str = "warn,raftstore=debug,kvserver=debug,shardctrler=debug";
    let mut hashes = Vec::new();
    for seed in 1..=5 {
        let (first, second) = (run(seed, 6, &[]), run(seed, 6, &["--log", LOGS]));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.violations.is_empty(), "seed {seed}: {:?}", first.violations);
        assert!(first.answered > 0, "seed {seed}: {first:?}");
        hashes.push(first.trace_hash);
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
}

/// A newcomer joins and one of the nodes is drained and removed, in one run the newcomer and in another one
/// of those that founded the cluster, and nothing happens that must not. Which seeds do that moves on with the product:
/// several are tried, from one that was known to.
#[test]
fn nodes_come_and_go() {
    for (first, removed) in [(1, "newcomer removed"), (4, "founder removed")] {
        let has_happened = |seed: &u64| {
            let report = run(*seed, 40, &[]);
            assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
            ["joined", removed].iter().all(|what| report.faults.get(*what) == Some(&1))
        };
        assert!((first..first + 8).any(|seed| has_happened(&seed)), "{removed}: in no seed from {first} on");
    }
}

/// Disks that report a sync and forget it lose what was acknowledged once all nodes crash, and the run says
/// so.
#[test]
fn lost_writes_are_noticed() {
    let seen = (1..=20).any(|seed| !run(seed, 10, &["--lying-disks"]).violations.is_empty());
    assert!(seen, "20 seeds on disks that forget, and nothing was noticed");
}
