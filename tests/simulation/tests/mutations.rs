//! Guarantees that are left out are noticed: the short form of what docs/reference/mutations.md tells of all. That
//! nobody leaves one out but here, `tests/tests/architecture.rs` sees to.

#![expect(clippy::print_stdout, reason = "which seed it was, and what noticed")]

mod child;

use child::run;
use raftstore::mutation::Mutation;
use simulation::report::Check;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// How many seeds are tried: what the product does moves on, and with it what a seed does.
const TRIES: u64 = 12;

/// For how long clients call and faults happen, in simulated seconds.
const SECONDS: u64 = 12;

/// Seeds, with the seconds of their runs, that are known to pass where nothing is left out: several tests ask that
/// of the same.
static WELL: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// One of the seeds from `first` on fails without the guarantee, by one of `checks`, and passes with it.
fn is_noticed(mutation: Mutation, first: u64, checks: &[Check]) {
    is_noticed_within(mutation, first, SECONDS, checks);
}

/// As [`is_noticed`], in runs of so many simulated seconds.
fn is_noticed_within(mutation: Mutation, first: u64, seconds: u64, checks: &[Check]) {
    let name = mutation.name();
    let noticed = (first..first + TRIES).find_map(|seed| {
        let violation = run(seed, seconds, &["--mutation", name]).violations.into_iter().next()?;
        Some((seed, violation))
    });
    let (seed, violation) =
        noticed.unwrap_or_else(|| panic!("{name}: {TRIES} seeds from {first}, nothing noticed"));
    println!("{name}, seed {seed}: {violation}");
    assert!(checks.contains(&violation.check), "{name}, seed {seed}: {violation}");
    let mut well = WELL.lock().unwrap_or_else(PoisonError::into_inner);
    if !well.contains(&(seed, seconds)) {
        let violations = run(seed, seconds, &[]).violations;
        assert!(violations.is_empty(), "seed {seed} without {name}: {violations:?}");
        well.insert((seed, seconds));
    }
}

/// A log that is never synced is noticed at the first loss of power.
#[test]
fn skipped_syncs_are_noticed() {
    is_noticed(Mutation::SkipSync, 1, &[Check::Start, Check::EvenReplicas, Check::Linearizability]);
}

/// A write that takes effect twice is noticed by the clients' history.
#[test]
fn writes_carried_out_twice_are_noticed() {
    is_noticed(Mutation::SkipSessionTable, 1, &[Check::Linearizability]);
}

/// Reads that no quorum has confirmed are noticed by the clients' history, or where a shard has moved meanwhile.
#[test]
fn stale_reads_are_noticed() {
    is_noticed(
        Mutation::ReadWithoutReadIndex,
        1,
        &[Check::Linearizability, Check::OneGroup, Check::FreshReads],
    );
}

/// A shard that arrives without its sessions is noticed by the first client that writes on.
#[test]
fn forgotten_sessions_are_noticed() {
    is_noticed(Mutation::ForgetSessionsInMove, 1, &[Check::Sessions]);
}

/// A shard that is served without the end of its copy is noticed by the clients' history.
#[test]
#[ignore = "most of these take minutes in a debug build: --include-ignored"]
fn lost_tails_are_noticed() {
    let checks = [Check::Linearizability, Check::EvenReplicas, Check::Sessions];
    is_noticed(Mutation::ActivateBeforeLastTail, 1, &checks);
}

/// Acknowledging while the disk still syncs is noticed where the power goes just then, or where the disk refuses what
/// nobody waits for.
#[test]
#[ignore = "most of these take minutes in a debug build: --include-ignored"]
fn early_acknowledgements_are_noticed() {
    is_noticed_within(
        Mutation::AcknowledgeBeforeSync,
        1,
        25,
        &[Check::Start, Check::Stop, Check::EvenReplicas, Check::Linearizability],
    );
}

/// A quorum that lacks one vote is noticed once a leader that committed so is replaced: what replicas hold differs, or
/// the one that has applied what was lost follows nobody any more.
#[test]
#[ignore = "most of these take minutes in a debug build: --include-ignored"]
fn missing_votes_are_noticed() {
    let checks = [
        Check::EvenReplicas,
        Check::FreshReads,
        Check::Linearizability,
        Check::Panic,
        Check::Stop,
        Check::Rest,
    ];
    is_noticed_within(Mutation::CommitOneVoteTooFew, 1, 25, &checks);
}

/// Reads that a shard's former group answers are noticed by the clients' history.
#[test]
#[ignore = "most of these take minutes in a debug build: --include-ignored"]
fn reads_after_the_freeze_are_noticed() {
    is_noticed_within(Mutation::ServeReadsAfterFreeze, 69, 40, &[Check::Linearizability]);
}

/// A machine that is restored without what changed behind its copy is noticed beside any other replica.
#[test]
#[ignore = "most of these take minutes in a debug build: --include-ignored"]
fn snapshots_without_tails_are_noticed() {
    is_noticed(Mutation::RestoreSnapshotWithoutTail, 22, &[Check::EvenReplicas, Check::Linearizability]);
}

/// A move whose end is judged by an outdated map is noticed where two groups serve the shard.
#[test]
fn ignored_epochs_are_noticed() {
    is_noticed(Mutation::IgnoreEpoch, 19, &[Check::OneGroup]);
}

/// Reads that an answer from before they began confirmed are noticed where another leader has applied more by then.
#[test]
#[ignore = "most of these take minutes in a debug build: --include-ignored"]
fn old_answers_are_noticed() {
    is_noticed_within(Mutation::BelieveOldAnswers, 20, 60, &[Check::FreshReads, Check::Linearizability]);
}

/// The reference names every mutation, as caught.
#[test]
fn every_mutation_is_caught_in_the_reference() {
    let page = include_str!("../../../docs/reference/mutations.md");
    for mutation in Mutation::ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{mutation}` | ")));
        let row = row.unwrap_or_else(|| panic!("{mutation} is missing: run the simulator with --page"));
        assert!(!row.contains("not caught"), "{row}");
    }
}
