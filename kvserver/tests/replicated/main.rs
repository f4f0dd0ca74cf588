//! One group of five replicas, or seven, under every fault: the public examination's rows of the replicated
//! state machine and of the fault-tolerant key/value service, each a test of its name.
//!
//! The rows of the replicated state machine submit commands to the replicas themselves, which run the
//! key/value machine on simulated disks and a simulated network, in virtual time (see [`replicas`]). Those of
//! the service ask whole nodes through their front ends, over real HTTP and in real time, whose disks and
//! peer network are simulated (see [`cluster`]); a node of them has one replica of the only group of data,
//! and one of the controller's. How long a request takes is measured in virtual time too, for a machine that
//! is busy otherwise says nothing of it ([`speed`]).
//!
//! Every answer is recorded, and all of a test are held against each other at its end: a history that is not
//! linearizable, or of which that cannot be told, fails the test. A test that fails, by whatever, says its
//! seed and where it wrote its history.
//!
//! Rows of the scorecard that take long run a few rounds by default; `FLOTILLA_FULL_ROUNDS=1` runs them all.
//! `FLOTILLA_SEED_OFFSET=n` adds n to every seed. A seed repeats a test's own choices, and in virtual time
//! the machine's as well.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]
#![expect(clippy::print_stdout, reason = "a failing run tells its seed and its figures")]

#[allow(dead_code, reason = "shared with the tests of a sharded cluster, which use all of it")]
#[path = "../sharded/clerk.rs"]
mod clerk;
#[allow(dead_code, reason = "shared with the tests of a cluster, which use all of it")]
#[path = "../cluster/door.rs"]
mod door;
#[allow(dead_code, reason = "shared with the tests of a cluster, which use all of it")]
#[path = "../cluster/fleet.rs"]
mod fleet;
#[path = "../sharded/form.rs"]
mod form;
#[allow(dead_code, reason = "shared with the tests of the machine, which use all of it")]
#[path = "../machine_rig/mod.rs"]
mod machine_rig;
#[path = "../sharded/plug.rs"]
mod plug;
#[path = "../sharded/rack.rs"]
mod rack;
#[path = "../sharded/request.rs"]
mod request;
#[path = "../sharded/wait.rs"]
mod wait;

mod birth;
mod cluster;
mod connection;
mod faults;
mod history;
mod partitions;
mod persistence;
mod replicas;
mod serving;
mod snapshots;
mod speed;
mod state_machine;

use form::rounds;
use std::time::Duration;

/// The milliseconds that a row asks for, or `few` in the default run.
fn milliseconds(full: u64, few: u64) -> Duration {
    Duration::from_millis(rounds(full, few))
}
