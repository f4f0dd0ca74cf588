//! Groups that come and go, crash and are cut off while clerks use their keys: the public examination's rows of a
//! sharded key/value service, each a test of its name.
//!
//! Whole nodes in one process: simulated disks and peer network, real HTTP on loopback, real time with short
//! elections. A group of the examination is a group here; its servers are the nodes that hold the group's replicas.
//! There are nine nodes where a group is to be taken down alone: groups of three replicas fill them one after another,
//! so that the first three groups share no node. The controller is group 0; it begins with a replica on every node and
//! keeps three. To join is to add a group, to leave is to remove it; a group that comes back has another id.
//!
//! Every answer that a clerk got is recorded, and [`history::History::check`] holds all of them against each other at
//! the end of each test.
//!
//! Rows of the scorecard that take long run a few rounds by default; `FLOTILLA_FULL_ROUNDS=1` runs them all.
//! `FLOTILLA_SEED_OFFSET=n` adds n to every seed. A seed repeats the test's own choices, not the machine's.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]
#![expect(clippy::print_stdout, reason = "a failing run tells its seed and its figures")]

#[allow(dead_code, reason = "shared with the tests of a cluster, which use all of it")]
#[path = "../cluster/door.rs"]
mod door;
#[allow(dead_code, reason = "shared with the tests of a cluster, which use all of it")]
#[path = "../cluster/fleet.rs"]
mod fleet;

#[allow(dead_code, reason = "shared with the tests of a replicated group, which use all of it")]
mod rack;

mod churn;
mod clerk;
mod cluster;
mod controllers;
mod form;
mod history;
mod joining;
mod map;
mod plug;
mod progress;
mod recovery;
mod request;
mod serving;
mod storage;
mod unreliable;
mod wait;

use form::rounds;
use std::time::Duration;

/// The seconds that a row asks for, or `few` in the default run.
fn seconds(full: u64, few: u64) -> Duration {
    Duration::from_secs(rounds(full, few))
}
