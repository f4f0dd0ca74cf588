//! The controller as it runs: a replicated machine on five nodes with simulated disks and network, in virtual time,
//! asked through the nodes' handles. The public examination's rows of a shard controller, each a test of its name.
//!
//! Nothing moves shards here: each test says itself that a move has ended, as its destination would.
//!
//! `FLOTILLA_SEED_OFFSET=n` adds n to every seed.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]
#![expect(clippy::print_stdout, reason = "a failing run tells its seed and its figures")]

mod admission;
mod cluster;
mod liveness;
mod rows;
