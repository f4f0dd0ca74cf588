//! Whole Raft groups on the simulated disk and network, in virtual time.
//!
//! Each test runs its nodes on one thread under tokio's paused clock: a minute of elections and crashes takes a
//! fraction of a second and repeats with its seed. Every replica runs a [`journal::Journal`], which reports to one
//! [`truth::Truth`] a group whenever it applies or loads a command: two replicas that hold different commands at
//! the same ordinal fail the test, whichever test it is. What clients were told is kept there too, and
//! [`cluster::Cluster::check`] holds it against what was applied.
//!
//! Rows of the scorecard that take long run a few rounds by default; `FLOTILLA_FULL_ROUNDS=1` runs them all.
//! `FLOTILLA_SEED_OFFSET=n` adds n to every seed: other runs of the same tests.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]

mod agreement;
mod cluster;
mod crash_points;
mod determinism;
mod disk_faults;
mod dropping;
mod elections;
mod flow_control;
mod formation;
mod giving_way;
mod hazards;
mod incarnations;
mod journal;
mod laggards;
mod many_groups;
mod membership;
mod panics;
mod persistence;
mod power;
mod shrinking;
mod snapshots;
mod stopping;
mod truth;

/// The rounds that a row asks for, or `few` in the default run.
fn rounds(full: u64, few: u64) -> u64 {
    if std::env::var_os("FLOTILLA_FULL_ROUNDS").is_some() { full } else { few }
}

/// The seed that a test asks for, moved by the environment's offset.
fn seed_of(seed: u64) -> u64 {
    let offset = std::env::var("FLOTILLA_SEED_OFFSET").map(|offset| offset.parse::<u64>());
    offset.map_or(seed, |offset| seed + 1_000 * offset.expect("FLOTILLA_SEED_OFFSET is a number"))
}
